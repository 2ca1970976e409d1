"""Tactics of one chess position, each a small question to a python-chess board (Karvonen et al. 2024, appendix).

"The mover" is the side whose turn it is. Where the original implementation differs from what its name says, a second
function `paper_...` repeats it exactly; docs/boards.md shows both on boards.
"""

from collections.abc import Iterable, Sequence

import chess
from chess import BISHOP, KING, KNIGHT, PAWN, QUEEN, ROOK, Bitboard, Board, Color, Move, Square

FORK_TARGETS = {
    PAWN: (KNIGHT, BISHOP, ROOK, QUEEN, KING),
    KNIGHT: (ROOK, QUEEN, KING),
    BISHOP: (ROOK, QUEEN, KING),
    ROOK: (QUEEN, KING),
}
"""what each kind of piece forks: pieces that it gains by capturing, and the king"""


def _pieces(board: Board, kinds: Iterable[chess.PieceType], side: Color) -> Bitboard:
    mask = chess.BB_EMPTY
    for kind in kinds:
        mask |= board.pieces_mask(kind, side)
    return mask


def queen_lines(board: Board, square: Square) -> tuple[Bitboard, Bitboard]:
    """What is seen from a square along ranks and files, and along diagonals, up to the first piece in each direction."""
    occupied = board.occupied
    straight = (
        chess.BB_RANK_ATTACKS[square][chess.BB_RANK_MASKS[square] & occupied]
        | chess.BB_FILE_ATTACKS[square][chess.BB_FILE_MASKS[square] & occupied]
    )
    return straight, chess.BB_DIAG_ATTACKS[square][chess.BB_DIAG_MASKS[square] & occupied]


def attacked_by(board: Board, side: Color) -> Bitboard:
    """Squares that a piece of `side` attacks, protected pieces of its own included, pinned attackers too."""
    attacked = chess.BB_EMPTY
    for square in chess.scan_forward(board.occupied_co[side]):
        attacked |= board.attacks_mask(square)
    return attacked


def has_pin(board: Board) -> bool:
    """Some piece, of either side, is absolutely pinned: it stands between its king and an enemy line piece."""
    for side in chess.COLORS:
        king = board.king(side)
        if king is None:
            continue
        straight, diagonal = queen_lines(board, king)  # only the first piece on a line can be pinned
        for square in chess.scan_forward((straight | diagonal) & board.occupied_co[side]):
            if board.is_pinned(side, square):
                return True
    return False


def _forks(board: Board, kind: chess.PieceType) -> bool:
    targets = _pieces(board, FORK_TARGETS[kind], not board.turn)
    return any(
        (board.attacks_mask(square) & targets).bit_count() >= 2 and not board.is_pinned(board.turn, square)
        for square in chess.scan_forward(board.pieces_mask(kind, board.turn))
    )


def has_fork(board: Board) -> bool:
    """One unpinned pawn, knight, bishop or rook of the mover attacks two or more enemy pieces worth more than itself.

    Targets: of a pawn N B R Q K, of a knight or bishop R Q K, of a rook Q K.
    """
    return any(_forks(board, kind) for kind in FORK_TARGETS)


def has_knight_fork(board: Board) -> bool:
    """One unpinned knight of the mover attacks two or more of the enemy's rooks, queens and king."""
    return _forks(board, KNIGHT)


def _unpinned_attacks(board: Board, kind: chess.PieceType) -> list[Bitboard]:
    return [
        board.attacks_mask(square)
        for square in chess.scan_forward(board.pieces_mask(kind, board.turn))
        if not board.is_pinned(board.turn, square)
    ]


def paper_has_fork(board: Board) -> bool:
    """As the original: hits on one type of target, summed over all unpinned attackers of one kind, are two or more.

    Misses a queen and rook forked together; counts two knights that attack one rook.
    """
    for kind, targets in FORK_TARGETS.items():
        enemies = [board.pieces_mask(target, not board.turn) for target in targets]
        attacks = _unpinned_attacks(board, kind)
        if any(sum((a & enemy).bit_count() for a in attacks) >= 2 for enemy in enemies):
            return True
    return False


def paper_has_knight_fork(board: Board) -> bool:
    """As the original: hits on rooks, queens and king, summed over all unpinned knights, are two or more."""
    targets = _pieces(board, FORK_TARGETS[KNIGHT], not board.turn)
    return sum((attacks & targets).bit_count() for attacks in _unpinned_attacks(board, KNIGHT)) >= 2


def has_ambiguous_move(board: Board, legal: Iterable[Move]) -> bool:
    """Some legal move needs a file or rank letter in SAN: two like pieces (no pawns) can go to the same square."""
    return _two_of_a_kind(board, (move for move in legal if not chess.BB_SQUARES[move.from_square] & board.pawns))


def paper_has_ambiguous_move(board: Board, legal: Iterable[Move]) -> bool:
    """As the original: pawns too, whose captures SAN always writes with their file."""
    return _two_of_a_kind(board, legal)


def _two_of_a_kind(board: Board, moves: Iterable[Move]) -> bool:
    first: dict[tuple[chess.PieceType | None, Square], Square] = {}
    return any(
        first.setdefault((board.piece_type_at(m.from_square), m.to_square), m.from_square) != m.from_square
        for m in moves
    )


def checking_moves(board: Board, legal: Iterable[Move]) -> list[Move]:
    """The moves among `legal` that give check.

    `gives_check` makes each move; only those that can give check at all are tried: to a square from which the piece
    sees the king, or from a line that ends at the king (a discovered check), or castling, promotion and en passant.
    """
    king = board.king(not board.turn)
    if king is None:
        return []
    straight, diagonal = queen_lines(board, king)
    direct = {
        PAWN: chess.BB_PAWN_ATTACKS[not board.turn][king],
        KNIGHT: chess.BB_KNIGHT_ATTACKS[king],
        BISHOP: diagonal,
        ROOK: straight,
        QUEEN: straight | diagonal,
        KING: chess.BB_EMPTY,
    }
    on_line, squares = straight | diagonal, chess.BB_SQUARES
    found = []
    for move in legal:
        kind = board.piece_type_at(move.from_square)
        assert kind is not None
        special = move.promotion or (kind == KING and board.is_castling(move)) or board.is_en_passant(move)
        if (special or squares[move.from_square] & on_line or squares[move.to_square] & direct[kind]) and (
            board.gives_check(move)
        ):
            found.append(move)
    return found


def has_mate_in_one(board: Board, checks: Sequence[Move]) -> bool:
    """One of these checking moves of the mover mates."""
    for move in checks:
        board.push(move)
        mated = not any(board.generate_legal_moves())
        board.pop()
        if mated:
            return True
    return False


def has_mate_threat(board: Board) -> bool:
    """The opponent would mate in one if the mover passed. False in check, where nobody can pass."""
    if board.is_check():
        return False
    board.push(Move.null())
    threatened = has_mate_in_one(board, checking_moves(board, board.generate_legal_moves()))
    board.pop()
    return threatened


def has_connected_rooks(board: Board) -> bool:
    """Two rooks of the mover stand on one rank or file with nothing between them."""
    rooks = board.pieces_mask(ROOK, board.turn)
    return any(board.attacks_mask(square) & rooks for square in chess.scan_forward(rooks))


def can_claim_draw(board: Board, earlier: Sequence[Bitboard]) -> bool:
    """The mover can claim a draw by fifty moves or threefold repetition, now or with the next move.

    `earlier` are the occupied squares after every ply so far, this one last: python-chess replays the game to answer,
    so it is asked only if some occupation since the last capture or pawn move has come twice.
    """
    clock = board.halfmove_clock
    recent = earlier[-clock - 1 :]
    repeated = clock >= 7 and len(set(recent)) < len(recent)  # a third time takes eight quiet plies
    return (repeated or clock >= 99) and board.can_claim_draw()
