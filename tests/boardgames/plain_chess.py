"""Chess properties asked of python-chess one square and one move at a time: literal, slow, independent of boardgames.

`true_columns(board)` gives the names of the columns that are true of a board with its move stack.
"""

import re
from collections import Counter

import chess

KINDS = {chess.PAWN: "pawn", chess.KNIGHT: "knight", chess.BISHOP: "bishop", chess.ROOK: "rook", chess.QUEEN: "queen"}
KINDS |= {chess.KING: "king"}
VALUES = {"pawn": 1, "knight": 3, "bishop": 3, "rook": 5, "queen": 9, "king": 0}
PREY = {"pawn": "NBRQK", "knight": "RQK", "bishop": "RQK", "rook": "QK"}


def squares(board, colour=None, kind=None):
    for square in chess.SQUARES:
        piece = board.piece_at(square)
        if piece and colour in (None, piece.color) and kind in (None, KINDS[piece.piece_type]):
            yield square


def after(board, move):
    copy = board.copy()
    copy.push(move)
    return copy


def hits(board, attacker):
    """Symbols (upper case) and squares of enemy pieces that an unpinned piece attacks."""
    side = board.color_at(attacker)
    if board.is_pinned(side, attacker):
        return []
    prey = PREY[KINDS[board.piece_type_at(attacker)]]
    found = []
    for square in squares(board, not side):
        symbol = board.piece_at(square).symbol().upper()
        if symbol in prey and attacker in board.attackers(side, square):
            found.append(symbol)
    return found


def forks(board, kinds):
    return any(len(hits(board, s)) >= 2 for kind in kinds for s in squares(board, board.turn, kind))


def paper_forks(board):
    for kind in PREY:
        together = Counter(symbol for s in squares(board, board.turn, kind) for symbol in hits(board, s))
        if any(count >= 2 for count in together.values()):
            return True
    return False


def needs_letter(board):
    """Some move's SAN has a file or rank before its square, which pawns do not count for."""
    return any(re.match(r"[NBRQ][a-h1-8]+x?[a-h][1-8]", board.san(move)) for move in board.legal_moves)


def paper_ambiguous(board):
    ways = {(board.piece_at(m.from_square).symbol(), m.from_square, m.to_square) for m in board.legal_moves}
    return max(Counter((symbol, to) for symbol, _, to in ways).values(), default=0) >= 2


def mates(board):
    return any(after(board, move).is_checkmate() for move in board.legal_moves)


def mate_threat(board):
    if board.is_check():
        return False
    return mates(after(board, chess.Move.null()))


def connected_rooks(board):
    rooks = list(squares(board, board.turn, "rook"))
    for a in rooks:
        for b in rooks:
            same = chess.square_file(a) == chess.square_file(b) or chess.square_rank(a) == chess.square_rank(b)
            if a < b and same and not any(board.piece_at(s) for s in chess.SquareSet.between(a, b)):
                return True
    return False


def light_and_dark(board):
    shades = {(chess.square_file(s) + chess.square_rank(s)) % 2 for s in squares(board, board.turn, "bishop")}
    return len(shades) == 2


def highest_queen_capturable(board):
    queens = list(squares(board, not board.turn, "queen"))
    return any(move.to_square == max(queens) for move in board.legal_moves) if queens else False


def pins(board):
    return any(board.is_pinned(board.color_at(s), s) for s in squares(board) if board.piece_type_at(s) != chess.KING)


def true_columns(board: chess.Board, paper: bool = False, plies_back: int = 25) -> set[str]:
    mover, names = board.turn, (("white", "black") if paper else ("my", "your"))
    first = chess.WHITE if paper else mover
    true = set()

    def on(name, chosen):
        true.update(f"{name} {chess.square_name(s)}" for s in chosen)

    past = board.copy()
    for _ in range(min(plies_back, len(board.move_stack))):
        past.pop()
    start = chess.Board()
    for s in chess.SQUARES:
        piece = board.piece_at(s)
        if not piece:
            true.add(f"empty {chess.square_name(s)}")
            continue
        name = f"{names[piece.color != first]} {KINDS[piece.piece_type]}"
        on(name, [s])
        colour = ("white", "black") if paper else ("mine", "yours")
        on(colour[piece.color != first], [s])
        if start.piece_at(s) != piece:
            on(f"{name} off start", [s])
    if len(board.move_stack) >= plies_back:
        for s in squares(past):
            piece = past.piece_at(s)
            on(f"{names[piece.color != first]} {KINDS[piece.piece_type]} earlier", [s])
    attacker = chess.BLACK if paper else not mover
    on("threatened", [s for s in chess.SQUARES if board.is_attacked_by(attacker, s)])
    if not paper or mover == chess.WHITE:
        on("legal", {m.to_square for m in board.legal_moves})
    on("pseudo-legal", {m.to_square for m in board.pseudo_legal_moves})
    if board.move_stack:
        on("last move", [board.move_stack[-1].to_square])
    if len(board.move_stack) > 1:
        on("last own move", [board.move_stack[-2].to_square])

    own = [KINDS[board.piece_type_at(s)] for s in squares(board, mover)]
    worth = sum(VALUES[kind] for kind in own)
    queens = [m for m in board.legal_moves if board.piece_type_at(m.to_square) == chess.QUEEN]
    facts = {
        "check": board.is_check(),
        "can check next": any(after(board, m).is_check() for m in board.legal_moves),
        "has queen": "queen" in own,
        "bishop pair": own.count("bishop") >= 2 if paper else light_and_dark(board),
        "can capture queen": highest_queen_capturable(board) if paper else bool(queens),
        "castling rights": board.has_castling_rights(mover),
        "kingside castling rights": board.has_kingside_castling_rights(mover),
        "queenside castling rights": board.has_queenside_castling_rights(mover),
        "fork": paper_forks(board) if paper else forks(board, PREY),
        "knight fork": sum(len(hits(board, s)) for s in squares(board, mover, "knight")) >= 2
        if paper
        else forks(board, ["knight"]),
        "pin": pins(board),
        "legal en passant": any(board.is_en_passant(m) for m in board.legal_moves),
        "ambiguous move": paper_ambiguous(board) if paper else needs_letter(board),
        "mate threat": mates(board) if paper else mate_threat(board),
        "connected rooks": connected_rooks(board),
        "can claim draw": board.can_claim_draw(),
        "stalemate": board.is_stalemate(),
        "white moves": mover == chess.WHITE,
        f"piece count {len(own) - 1}": True,
        f"material {worth}" if worth <= 39 else "material more than 39": worth <= 39 or not paper,
    }
    return true | {name for name, holds in facts.items() if holds}
