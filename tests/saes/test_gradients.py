"""Loss and gradient of every objective against slow float64 references, written from the papers' formulas.

A reference knows none of our classes: it takes the weights of one dictionary and the rows, forms the loss term by
term, and lets torch differentiate it; where a paper prescribes a straight-through gradient, it is written out by hand.
"""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from saes.architectures import AffineDictionary, stack
from saes.dead_features import AuxK, DeadPreActivation
from saes.objective import Batch, SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.penalties import L0, L0Config, Lp, LpConfig
from tests.saes.dictionaries_for_tests import WIDTHS, fresh, rows

ROWS, WIDTH, FEATURES = 14, 12, 20
STEP = 59
WARMUP = 100
WARM = 0.6  # (STEP + 1) / WARMUP
COEFFICIENT = 0.3
DEAD = [2, 9, 15]
ALIVE = [f for f in range(FEATURES) if f not in DEAD]
DEAD_AFTER = 100

Weights = dict[str, Tensor]
Reference = Callable[[Weights, Tensor, Tensor], Tensor]
STEPS = pytest.mark.parametrize("step", ["dense", "active"])


def random_weights(name: str, dead: bool = False, **options: object) -> AffineDictionary:
    """One dictionary with no parameter at a special value; with `dead`, of DEAD little remains."""
    dictionary = fresh(name, width=WIDTH, features=FEATURES, **options).double()
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, parameter in dictionary.named_parameters():
            noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
            parameter.copy_(noise * (0.3 if key.startswith(("b_", "r_")) else 0.5))
            if key == "threshold":
                parameter.copy_(0.05 + 0.1 * noise.abs())
            if dead and key in ("W_enc", "b_enc"):
                parameter[DEAD] *= 0.01
    return dictionary


def ours(d: AffineDictionary, objective: SparseReconstruction, batch: Batch) -> tuple[float, Weights]:
    whole = stack([d]).requires_grad_(True)
    loss = objective(whole, batch, STEP)
    loss.total.sum().backward()
    return float(loss.total.detach()), {
        k: torch.zeros_like(p) if p.grad is None else p.grad[0] for k, p in whole.named_parameters()
    }


def differentiated(d: AffineDictionary, batch: Batch, reference: Reference) -> tuple[float, Weights]:
    w = {k: p.detach().clone().requires_grad_() for k, p in d.named_parameters()}
    loss = reference(w, batch.inputs, batch.targets)
    loss.backward()
    return float(loss.detach()), {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in w.items()}


def assert_equal(found: tuple[float, Weights], expected: tuple[float, Weights], silent: tuple[str, ...] = ()) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-10)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (float(gradient.norm()) == 0) == (name in silent), f"{name}: the reference proves nothing"
        assert float((found[1][name] - gradient).norm()) <= 1e-10 * float(gradient.norm()), name


def an_sae(seed: int = 1) -> Batch:
    x = rows(ROWS, WIDTH, seed=seed)
    return Batch(x, x)


# ---- plain forms ----


def pre_of(w: Weights, x: Tensor) -> Tensor:
    return (x - w["b_dec"]) @ w["W_enc"].T + w["b_enc"]


def error(w: Weights, f: Tensor, y: Tensor) -> Tensor:
    return sum(((w["b_dec"] + f[b] @ w["W_dec"] - y[b]) ** 2).sum() for b in range(len(y))) / len(y)


def curve(f: Tensor, p: float, bound: float) -> Tensor:
    """f^p, below the bound its tangent there, the whole shifted to pass through 0."""
    if f <= bound:
        return p * bound ** (p - 1) * f
    return f**p - (bound**p - p * bound**p if bound else 0)


def lp(f: Tensor, p: float, bound: float, function: str = "Lp^p") -> Tensor:
    total = torch.zeros(())
    for row in f:
        of_row = sum((curve(value, p, bound) for value in row if value > 0), torch.zeros(()))
        if of_row > 0:
            total = total + (of_row if function == "Lp^p" else of_row ** (1 / p))
    return total / len(f)


def annealed(p_now: float, bound: float, function: str = "Lp^p") -> PAnneal:
    """In the middle of its schedule: three of five changes done, a coefficient that was rescaled."""
    penalty = PAnneal(
        PAnnealConfig(
            p_end=1 - (1 - p_now) * 5 / 3, start=10, end=200, updates=5, warmup=WARMUP, bound=bound, function=function
        )
    )
    coefficient = torch.tensor([COEFFICIENT], dtype=torch.float64)
    penalty.load_state_dict({"coefficient": coefficient, "changes_done": 3, "queue": []})
    assert penalty.p == pytest.approx(p_now)
    return penalty


def l1() -> Lp:
    return Lp(LpConfig(COEFFICIENT, warmup=WARMUP))


# ---- ReLU ----

POWERS = {
    "L1": (l1, 1.0, 0.0, "Lp^p"),
    "Lp^p bounded": (lambda: annealed(0.52, 0.1), 0.52, 0.1, "Lp^p"),
    "Lp^p unbounded": (lambda: annealed(0.52, 0.0), 0.52, 0.0, "Lp^p"),
    "Lp bounded": (lambda: annealed(0.64, 0.1, "Lp"), 0.64, 0.1, "Lp"),
    "Lp unbounded": (lambda: annealed(0.64, 0.0, "Lp"), 0.64, 0.0, "Lp"),
    "fixed p": (lambda: Lp(LpConfig(COEFFICIENT, p=0.5, warmup=WARMUP, bound=0.2)), 0.5, 0.2, "Lp^p"),
}


@STEPS
@pytest.mark.parametrize("power", POWERS)
def test_relu(power, step):
    penalty, p, bound, function = POWERS[power]
    d, batch = random_weights("relu"), an_sae()

    def reference(w: Weights, x: Tensor, y: Tensor) -> Tensor:
        f = pre_of(w, x).relu()
        assert not bound or ((f > 0) & (f < bound)).sum() > 3, "nothing lies below the bound"
        return error(w, f, y) + COEFFICIENT * WARM * lp(f, p, bound, function)

    found = ours(d, SparseReconstruction(penalty(), step=step), batch)
    assert_equal(found, differentiated(d, batch, reference))


@STEPS
@pytest.mark.parametrize("power", ["L1", "Lp^p bounded"])
def test_april_update_weighs_the_penalty_by_decoder_norms(power, step):
    penalty, p, bound, _ = POWERS[power]
    d, batch = random_weights("relu", unit_norm=False), an_sae()

    def reference(w: Weights, x: Tensor, y: Tensor) -> Tensor:
        f = pre_of(w, x).relu()
        norms = torch.stack([row.square().sum().sqrt() for row in w["W_dec"]])
        return error(w, f, y) + COEFFICIENT * WARM * lp(f * norms, p, bound)

    found = ours(d, SparseReconstruction(penalty(), weigh_by_decoder=True, step=step), batch)
    assert_equal(found, differentiated(d, batch, reference))


# ---- Gated ----


@STEPS
@pytest.mark.parametrize("power", ["L1", "Lp^p bounded", "Lp unbounded"])
def test_gated(power, step):
    penalty, p, bound, function = POWERS[power]
    d, batch = random_weights("gated"), an_sae()

    def reference(w: Weights, x: Tensor, y: Tensor) -> Tensor:
        s = (x - w["b_dec"]) @ w["W_enc"].T
        gate = (s + w["b_gate"]).relu()
        f = (w["r_mag"].exp() * s + w["b_mag"]).relu() * (s + w["b_gate"] > 0)
        frozen = {k: w[k].detach() for k in ("W_dec", "b_dec")}
        return error(w, f, y) + error(frozen, gate, y) + COEFFICIENT * WARM * lp(gate, p, bound, function)

    objective = SparseReconstruction(penalty(), step=step)
    assert_equal(ours(d, objective, batch), differentiated(d, batch, reference))


@STEPS
def test_the_gated_auxiliary_loss_reaches_b_dec_through_the_encoder_alone(step):
    d, batch = random_weights("gated"), an_sae()
    whole = stack([d]).requires_grad_(True)
    SparseReconstruction(l1(), step=step)(whole, batch, STEP).terms["gate_error"].sum().backward()
    assert whole.W_dec.grad is None or not whole.W_dec.grad.any()
    w = {k: p.detach() for k, p in d.named_parameters()}
    x = batch.inputs
    gate = ((x - w["b_dec"]) @ w["W_enc"].T + w["b_gate"]).relu()
    at_gate = 2 / ROWS * (gate @ w["W_dec"] + w["b_dec"] - x) @ w["W_dec"].T * (gate > 0)
    expected = -(at_gate @ w["W_enc"]).sum(0)
    torch.testing.assert_close(whole.b_dec.grad[0], expected, rtol=1e-10, atol=1e-12)


# ---- TopK, BatchTopK, Matryoshka, and AuxK beside them ----

K = 4


def winners(pre: Tensor, name: str) -> Tensor:
    """1 for the k largest of each row (topk), or the k B largest of the batch; only positive ones win."""
    mask = torch.zeros_like(pre)
    pre = pre.detach()
    everything = [(float(pre[b, f]), b, f) for b in range(len(pre)) for f in range(pre.shape[1]) if pre[b, f] > 0]
    groups = [[e for e in everything if e[1] == b] for b in range(len(pre))] if name == "topk" else [everything]
    for group in groups:
        for _, b, f in sorted(group, reverse=True)[: K if name == "topk" else K * len(pre)]:
            mask[b, f] = 1
    return mask


def auxiliary(w: Weights, pre: Tensor, residual: Tensor, k: int, normalise: bool) -> Tensor:
    """mean_b ||residual - what the k most active dead features decode to||^2; the residual is a constant."""
    residual, total = residual.detach(), torch.zeros(())
    for b in range(len(pre)):
        chosen = sorted((f for f in DEAD if pre[b, f] > 0), key=lambda f: -float(pre[b, f].detach()))[:k]
        decoded = sum((pre[b, f] * w["W_dec"][f] for f in chosen), torch.zeros(()))
        total = total + ((residual[b] - decoded) ** 2).sum()
    variance = ((residual - residual.mean(0)) ** 2).sum() if normalise else len(pre)
    return total / variance


def with_dead(objective: SparseReconstruction) -> SparseReconstruction:
    """As after a while in which DEAD have not fired."""
    objective.idle = torch.zeros(1, FEATURES, dtype=torch.int64)
    objective.idle[0, DEAD] = DEAD_AFTER
    return objective


@STEPS
@pytest.mark.parametrize("auxk", [None, False, True], ids=["alone", "AuxK", "AuxK normalised"])
@pytest.mark.parametrize("name", ["topk", "batch_topk"])
def test_top_k(name, auxk, step):
    d, batch, aux_k = random_weights(name, dead=True), an_sae(), 1

    def reference(w: Weights, x: Tensor, y: Tensor) -> Tensor:
        pre = pre_of(w, x)
        f = pre * winners(pre, name)
        assert not f[:, DEAD].any()
        positive = (pre[:, DEAD] > 0).sum(1)
        assert int(positive.max()) > aux_k and int(positive.min()) < aux_k, "k does not choose"
        residual = y - f @ w["W_dec"] - w["b_dec"]
        aux = 0 if auxk is None else 0.2 * auxiliary(w, pre, residual, aux_k, auxk)
        return error(w, f, y) + aux

    parts = [] if auxk is None else [AuxK(0.2, DEAD_AFTER, k=aux_k, normalise=auxk)]
    objective = with_dead(SparseReconstruction(None, parts, step=step))
    assert_equal(ours(d, objective, batch), differentiated(d, batch, reference))


@STEPS
def test_auxk_alone_moves_dead_features_and_the_input_bias(step):
    d, batch = random_weights("topk", dead=True), an_sae()
    objective = with_dead(SparseReconstruction(None, [AuxK(0.2, DEAD_AFTER)], step=step))
    whole = stack([d]).requires_grad_(True)
    objective(whole, batch, STEP).terms["auxk"].sum().backward()
    for name in ("W_enc", "b_enc", "W_dec"):  # the decoder is not detached, the residual is
        gradient = getattr(whole, name).grad[0]
        assert gradient[DEAD].abs().min() > 0, name
        assert not gradient[ALIVE].any(), name
    expected = -(whole.b_enc.grad[0] @ d.W_enc)  # through x - b_dec; the residual, which holds b_dec, is a constant
    torch.testing.assert_close(whole.b_dec.grad[0], expected.detach(), rtol=1e-10, atol=1e-14)


@STEPS
@pytest.mark.parametrize("weights", [(), (0.7, 0.1, 0.4)])
@pytest.mark.parametrize("auxk", [False, True])
def test_matryoshka(auxk, weights, step):
    d, batch = random_weights("matryoshka", dead=True, group_weights=weights), an_sae()
    ends = [4, 10, 20]
    shares = weights or (1 / 3, 1 / 3, 1 / 3)

    def reference(w: Weights, x: Tensor, y: Tensor) -> Tensor:
        pre = pre_of(w, x)
        f = pre * winners(pre, "batch_topk")
        total = torch.zeros(())
        for end, share in zip(ends, shares, strict=True):
            total = total + share * error({"W_dec": w["W_dec"][:end], "b_dec": w["b_dec"]}, f[:, :end], y)
        residual = y - f @ w["W_dec"] - w["b_dec"]
        return total + (0.2 * auxiliary(w, pre, residual, WIDTH // 2, False) if auxk else 0)

    objective = with_dead(SparseReconstruction(None, [AuxK(0.2, DEAD_AFTER)] if auxk else [], step=step))
    assert_equal(ours(d, objective, batch), differentiated(d, batch, reference))


# ---- JumpReLU: equations 11 and 12 of the paper, summed by hand ----

JUMP_PENALTIES = {
    "L0": lambda: L0(L0Config(COEFFICIENT, warmup=WARMUP)),
    "L0 target": lambda: L0(L0Config(COEFFICIENT, target=3.0, warmup=WARMUP)),
    "L1": l1,
}


def by_hand(w: Weights, x: Tensor, penalty: str, width: float) -> tuple[float, Weights]:
    pre, threshold, n = pre_of(w, x), w["threshold"], len(x)
    f = torch.where(pre > threshold, pre, 0.0)
    residual = f @ w["W_dec"] + w["b_dec"] - x
    c, l0 = COEFFICIENT * WARM, float((pre > threshold).sum()) / n
    value = {"L0": c * l0, "L0 target": c * (l0 / 3 - 1) ** 2, "L1": c * float(f.sum()) / n}[penalty]
    at_step = {"L0": c / n, "L0 target": c * 2 * (l0 / 3 - 1) / 3 / n, "L1": 0.0}[penalty]
    at_f = 2 / n * residual @ w["W_dec"].T + (c / n if penalty == "L1" else 0)
    at_pre = torch.where(pre > threshold, at_f, 0.0)
    at_threshold = torch.zeros_like(threshold)
    sides = set()
    for b in range(n):
        for i in range(len(threshold)):
            if abs(pre[b, i] - threshold[i]) < width / 2:  # the rectangle kernel is 1 / width there
                at_threshold[i] += -threshold[i] / width * at_f[b, i] - 1 / width * at_step
                sides.add(bool(pre[b, i] > threshold[i]))
    assert sides == {False, True}, "the kernel has to see both sides"
    gradients = {
        "W_enc": at_pre.T @ (x - w["b_dec"]),
        "b_enc": at_pre.sum(0),
        "W_dec": f.T @ residual * 2 / n,
        "b_dec": 2 / n * residual.sum(0) - (at_pre @ w["W_enc"]).sum(0),
        "threshold": at_threshold,
    }
    return float(residual.square().sum()) / n + value, gradients


@STEPS
@pytest.mark.parametrize("penalty", JUMP_PENALTIES)
def test_jumprelu(penalty, step):
    d, batch = random_weights("jumprelu"), an_sae()
    w = {k: p.detach() for k, p in d.named_parameters()}
    assert float(w["threshold"].min()) < d.config.bandwidth / 2, "a window that reaches below 0"
    expected = by_hand(w, batch.inputs, penalty, d.config.bandwidth)
    assert_equal(ours(d, SparseReconstruction(JUMP_PENALTIES[penalty](), step=step), batch), expected)


# ---- several tensors ----


@STEPS
@pytest.mark.parametrize("name", ["relu transcoder", "relu skip", "gated skip", "topk skip", "matryoshka skip"])
def test_transcoders(name, step):
    d, batch = random_weights(name), Batch(rows(ROWS, 9, seed=5), rows(ROWS, WIDTH, seed=6))
    architecture, _, kind = name.partition(" ")

    def reference(w: Weights, x: Tensor, y: Tensor) -> Tensor:
        linear = x @ w["W_skip"] if kind == "skip" else torch.zeros(())
        s = x @ w["W_enc"].T
        if architecture == "gated":
            gate = (s + w["b_gate"]).relu()
            f = (w["r_mag"].exp() * s + w["b_mag"]).relu() * (gate > 0)
            frozen = {k: w[k].detach() for k in ("W_dec", "b_dec")}
            aux = error(frozen, gate, y - linear.detach())
            return error(w, f, y - linear) + aux + COEFFICIENT * WARM * lp(gate, 1, 0)
        pre = s + w["b_enc"]
        if architecture == "relu":
            return error(w, pre.relu(), y - linear) + COEFFICIENT * WARM * lp(pre.relu(), 1, 0)
        f = pre * winners(pre, architecture)
        ends = [4, 10, 20] if architecture == "matryoshka" else [20]
        prefixes = [error({**w, "W_dec": w["W_dec"][:end]}, f[:, :end], y - linear) for end in ends]
        return sum(prefixes, torch.zeros(())) / len(ends)

    penalty = l1() if architecture in ("relu", "gated") else None
    assert_equal(ours(d, SparseReconstruction(penalty, step=step), batch), differentiated(d, batch, reference))


@STEPS
def test_crosscoder(step):
    d, batch = random_weights("crosscoder"), an_sae()
    parts = [slice(a, b) for a, b in pairwise([0, WIDTHS[0], sum(WIDTHS)])]

    def reference(w: Weights, x: Tensor, y: Tensor) -> Tensor:
        pre = sum(((x[:, s] - w["b_dec"][s]) @ w["W_enc"][:, s].T for s in parts), w["b_enc"])
        f = pre.relu()
        total = torch.zeros(())
        for s in parts:  # a site's own decoder rows have norms of their own
            total = total + error({"W_dec": w["W_dec"][:, s], "b_dec": w["b_dec"][s]}, f, y[:, s])
            norms = w["W_dec"][:, s].square().sum(1).sqrt()
            total = total + COEFFICIENT * WARM * (f * norms).sum() / len(x)
        return total

    found = ours(d, SparseReconstruction(l1(), weigh_by_decoder=True, step=step), batch)
    assert_equal(found, differentiated(d, batch, reference))


# ---- dead features of architectures without AuxK ----


@STEPS
@pytest.mark.parametrize("name", ["relu", "jumprelu"])
def test_dead_pre_activation(name, step):
    d, batch = random_weights(name, dead=True), an_sae()
    with torch.no_grad():
        d.b_enc[DEAD] = -3.0 if name == "relu" else 0.0
        if name == "jumprelu":
            d.threshold[DEAD] = torch.tensor([0.8, 1.2, 2.0], dtype=torch.float64)
    w = {k: p.detach().clone().requires_grad_() for k, p in d.named_parameters()}
    total = torch.zeros(())
    for b in range(ROWS):
        for f in DEAD:
            threshold = w["threshold"][f].detach() if name == "jumprelu" else 0.0
            pre = (batch.inputs[b] - w["b_dec"]) @ w["W_enc"][f] + w["b_enc"][f]
            total = total + 0.7 / ROWS * (threshold - pre).relu() * w["W_dec"][f].detach().norm()
    total.backward()
    objective = with_dead(SparseReconstruction(None, [DeadPreActivation(0.7, DEAD_AFTER)], step=step))
    whole = stack([d]).requires_grad_(True)
    loss = objective(whole, batch, STEP)
    assert float(loss.terms["dead_pre_activation"].detach()) == pytest.approx(float(total.detach()), rel=1e-10)
    loss.terms["dead_pre_activation"].sum().backward()
    for key, parameter in whole.named_parameters():
        if key in ("W_dec", "threshold"):
            assert parameter.grad is None or not parameter.grad.any(), key
        else:
            torch.testing.assert_close(parameter.grad[0], w[key].grad, rtol=1e-10, atol=1e-13)
