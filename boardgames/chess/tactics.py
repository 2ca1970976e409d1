"""Tactics of one chess position, each a small question to a python-chess board (Karvonen et al. 2024, appendix).

"The mover" is the side whose turn it is. Where the original implementation differs from what its name says, a second
function `paper_...` repeats it exactly; docs/boards.md shows both on boards.
"""

from collections.abc import Iterable, Mapping, Sequence

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
    """What is seen from a square along ranks and files, and along diagonals, as far as the first piece."""
    occupied = board.occupied
    straight = (
        chess.BB_RANK_ATTACKS[square][chess.BB_RANK_MASKS[square] & occupied]
        | chess.BB_FILE_ATTACKS[square][chess.BB_FILE_MASKS[square] & occupied]
    )
    return straight, chess.BB_DIAG_ATTACKS[square][chess.BB_DIAG_MASKS[square] & occupied]


Attacks = Mapping[Square, Bitboard]
"""what each piece of a board attacks: protected pieces of its own side included, and by pinned pieces too"""


def attacks_of(board: Board) -> Attacks:
    """The attacks of every piece."""
    return {square: board.attacks_mask(square) for square in chess.scan_forward(board.occupied)}


def attacked_by(board: Board, attacks: Attacks, side: Color) -> Bitboard:
    """Squares that a piece of `side` attacks."""
    attacked = chess.BB_EMPTY
    for square in chess.scan_forward(board.occupied_co[side]):
        attacked |= attacks[square]
    return attacked


def pseudo_legal(board: Board, attacks: Attacks) -> Bitboard:
    """Squares that a move of the mover goes to, also if it leaves the king in check."""
    own, enemies, free = board.occupied_co[board.turn], board.occupied_co[not board.turn], ~board.occupied
    destinations, pawns = chess.BB_EMPTY, board.pawns & own
    for square in chess.scan_forward(own & ~pawns):
        destinations |= attacks[square] & ~own
    captures = enemies if board.ep_square is None else enemies | chess.BB_SQUARES[board.ep_square]
    for square in chess.scan_forward(pawns):
        destinations |= attacks[square] & captures
    push, third = (chess.shift_up, chess.BB_RANK_3) if board.turn else (chess.shift_down, chess.BB_RANK_6)
    pushed = push(pawns) & free
    destinations |= pushed | push(pushed & third) & free
    for move in board.generate_castling_moves():
        destinations |= chess.BB_SQUARES[move.to_square]
    return destinations


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


def _forks(board: Board, attacks: Attacks, kind: chess.PieceType) -> bool:
    targets = _pieces(board, FORK_TARGETS[kind], not board.turn)
    return any(
        (attacks[square] & targets).bit_count() >= 2 and not board.is_pinned(board.turn, square)
        for square in chess.scan_forward(board.pieces_mask(kind, board.turn))
    )


def has_fork(board: Board, attacks: Attacks) -> bool:
    """One unpinned pawn, knight, bishop or rook of the mover attacks two or more enemy pieces worth more than itself.

    Targets: of a pawn N B R Q K, of a knight or bishop R Q K, of a rook Q K.
    """
    return any(_forks(board, attacks, kind) for kind in FORK_TARGETS)


def has_knight_fork(board: Board, attacks: Attacks) -> bool:
    """One unpinned knight of the mover attacks two or more of the enemy's rooks, queens and king."""
    return _forks(board, attacks, KNIGHT)


def _hits(board: Board, attacks: Attacks, kind: chess.PieceType, targets: Bitboard) -> int:
    """Targets attacked by unpinned pieces of one kind, a target of two attackers counted twice."""
    return sum(
        (attacks[square] & targets).bit_count()
        for square in chess.scan_forward(board.pieces_mask(kind, board.turn))
        if attacks[square] & targets and not board.is_pinned(board.turn, square)
    )


def paper_has_fork(board: Board, attacks: Attacks) -> bool:
    """As the original: hits on one type of target, summed over all unpinned attackers of one kind, are two or more.

    Misses a queen and rook forked together; counts two knights that attack one rook.
    """
    return any(
        _hits(board, attacks, kind, board.pieces_mask(target, not board.turn)) >= 2
        for kind, targets in FORK_TARGETS.items()
        for target in targets
    )


def paper_has_knight_fork(board: Board, attacks: Attacks) -> bool:
    """As the original: hits on rooks, queens and king, summed over all unpinned knights, are two or more."""
    return _hits(board, attacks, KNIGHT, _pieces(board, FORK_TARGETS[KNIGHT], not board.turn)) >= 2


def two_of_a_kind(board: Board, legal: Iterable[Move], kinds: Bitboard) -> bool:
    """Two pieces of one kind, both in the mask `kinds`, have a legal move to the same square."""
    first: dict[tuple[chess.PieceType | None, Square], Square] = {}
    return any(
        first.setdefault((board.piece_type_at(m.from_square), m.to_square), m.from_square) != m.from_square
        for m in legal
        if chess.BB_SQUARES[m.from_square] & kinds
    )


def has_ambiguous_move(board: Board, legal: Iterable[Move]) -> bool:
    """Some legal move needs a file or rank letter in SAN: two like pieces, no pawns, can go to the same square."""
    return two_of_a_kind(board, legal, ~board.pawns & ~board.kings)


def paper_has_ambiguous_move(board: Board, legal: Iterable[Move]) -> bool:
    """As the original: pawns too, whose captures SAN always writes with their file."""
    return two_of_a_kind(board, legal, ~board.kings)


def _discoverers(board: Board, king: Square) -> Bitboard:
    """Pieces of the mover that alone stand between a line piece of the mover and the enemy king."""
    own, lines = board.occupied_co[board.turn], chess.BB_EMPTY
    straight = chess.BB_RANK_ATTACKS[king][0] | chess.BB_FILE_ATTACKS[king][0]
    snipers = straight & (board.rooks | board.queens) | chess.BB_DIAG_ATTACKS[king][0] & (board.bishops | board.queens)
    for square in chess.scan_forward(snipers & own):
        between = chess.between(king, square) & board.occupied
        if between & own and not between & (between - 1):
            lines |= between
    return lines


def checking_moves(board: Board, attacks: Attacks) -> list[Move]:
    """The legal moves of the mover that give check.

    A move to a square from which the piece sees the king checks; python-chess, which makes a move to see whether it
    checks, is asked only where more happens: discovered checks, promotion, castling, en passant.
    """
    king, own = board.king(not board.turn), board.occupied_co[board.turn]
    if king is None:
        return []
    straight, diagonal = queen_lines(board, king)
    pawn_squares = chess.BB_PAWN_ATTACKS[not board.turn][king]
    sees = {
        KNIGHT: chess.BB_KNIGHT_ATTACKS[king],
        BISHOP: diagonal,
        ROOK: straight,
        QUEEN: straight | diagonal,
    }
    special = _discoverers(board, king) | board.pawns & own & (chess.BB_RANK_7 if board.turn else chess.BB_RANK_2)
    if board.castling_rights:
        special |= board.kings & own
    if board.ep_square is not None:
        special |= board.pawns & own
    found = [move for move in board.generate_legal_moves(special) if board.gives_check(move)] if special else []

    one_back = pawn_squares >> 8 if board.turn else pawn_squares << 8
    two_back = one_back >> 8 if board.turn else one_back << 8
    pawns = chess.scan_forward(board.pieces_mask(PAWN, board.turn) & ~special)
    direct = {PAWN: (pawn_squares, [s for s in pawns if attacks[s] & pawn_squares or (one_back | two_back) >> s & 1])}
    for kind, target in sees.items():
        pieces = chess.scan_forward(board.pieces_mask(kind, board.turn) & ~special)
        direct[kind] = target, [s for s in pieces if attacks[s] & target]
    for target, origins in direct.values():
        if origins:
            mask = sum(chess.BB_SQUARES[s] for s in origins)
            found += board.generate_legal_moves(mask, target)
    return found


def has_mate_in_one(board: Board, checks: Iterable[Move]) -> bool:
    """One of these checking moves of the mover mates."""
    for move in checks:
        board.push(move)
        mated = not any(board.generate_legal_moves())
        board.pop()
        if mated:
            return True
    return False


def has_mate_threat(board: Board, attacks: Attacks) -> bool:
    """The opponent would mate in one if the mover passed. False in check, where nobody can pass."""
    if board.is_check():
        return False
    board.push(Move.null())
    threatened = has_mate_in_one(board, checking_moves(board, attacks))
    board.pop()
    return threatened


def has_connected_rooks(board: Board, attacks: Attacks) -> bool:
    """Two rooks of the mover stand on one rank or file with nothing between them."""
    rooks = board.pieces_mask(ROOK, board.turn)
    return any(attacks[square] & rooks for square in chess.scan_forward(rooks))


def can_claim_draw(board: Board, earlier: Sequence[Bitboard]) -> bool:
    """The mover can claim a draw by fifty moves or threefold repetition, now or with the next move.

    `earlier` are the occupied squares after every ply so far, this one last: python-chess replays the game to answer,
    so it is asked only if some occupation since the last capture or pawn move has come twice.
    """
    clock = board.halfmove_clock
    recent = earlier[-clock - 1 :]
    repeated = clock >= 7 and len(set(recent)) < len(recent)  # a third time takes eight quiet plies
    return (repeated or clock >= 99) and board.can_claim_draw()
