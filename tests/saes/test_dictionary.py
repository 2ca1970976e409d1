"""The contracts of a dictionary: affine decoding, exact folding of the scale, honest derivatives, stacking."""

import pytest
import torch

from saes.architectures import (
    ARCHITECTURES,
    BatchTopKConfig,
    CrosscoderConfig,
    CrosscoderDictionary,
    GatedConfig,
    GatedDictionary,
    JumpReLUConfig,
    MatryoshkaConfig,
    ReLUConfig,
    ReLUDictionary,
    TopKConfig,
    TopKDictionary,
    stack,
    transcoder,
    unstack,
)
from saes.dictionary import Dictionary, IdentityDictionary
from saes.objective import Batch
from saes.preactivations import DensePreActivations
from saes.sites import Site, SiteError
from saes.sparse_step import ActivePreActivations
from saes.trainer import TrainConfig, Trainer
from tests.saes.dictionaries_for_tests import (
    OTHER,
    SITE,
    VARIANTS,
    WIDTHS,
    fresh,
    objective_for,
    random_dictionary,
    rows,
)

ALL = pytest.mark.parametrize("name", [*VARIANTS, "identity"])
TRAINED = pytest.mark.parametrize("name", VARIANTS)
COMPETING = pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka"])


def width_in(dictionary: Dictionary) -> int:
    return getattr(dictionary, "width_in", dictionary.width)


@ALL
def test_decoding_is_affine(name):
    dictionary = random_dictionary(name)
    f, g = rows(5, dictionary.features, seed=2), rows(5, dictionary.features, seed=3)
    for a in (-1.5, 0.3, 2.0):
        mixed = dictionary.decode(a * f + (1 - a) * g)
        torch.testing.assert_close(mixed, a * dictionary.decode(f) + (1 - a) * dictionary.decode(g))
    linear = dictionary.decode(f) - dictionary.decode(torch.zeros_like(f))
    torch.testing.assert_close(linear, f @ dictionary.W_dec)
    torch.testing.assert_close(dictionary.decode(torch.zeros_like(f))[0], dictionary.b_dec)


@ALL
def test_slopes_and_encoder_rows_are_the_derivatives_of_encode(name):
    dictionary = random_dictionary(name)
    x = rows(width_in(dictionary))
    jacobian = torch.autograd.functional.jacobian(dictionary.encode, x)
    slope = dictionary.activation_slope(dictionary.pre_activation(x))
    assert slope.count_nonzero() > 0 and (name == "identity" or slope.count_nonzero() < dictionary.features)
    index = torch.arange(dictionary.features)
    torch.testing.assert_close(jacobian, slope[:, None] * dictionary.encoder_rows(index))
    torch.testing.assert_close(dictionary.encoder_rows(index[[4, 1]]), dictionary.encoder_rows(index)[[4, 1]])


def plain_features(d, pre):
    """One row's features, one by one, from W_enc (x - b_dec) + b_enc (Gated: without b_enc)."""
    features = []
    for i, value in enumerate(pre.tolist()):
        if d.architecture == "gated":
            on = value + float(d.b_gate[i]) > 0
            value = max(0.0, float(d.r_mag[i].exp()) * value + float(d.b_mag[i]))
        elif d.architecture == "topk":
            on = sum(other > value for other in pre.tolist()) < d.config.k
        elif d.architecture in ("batch_topk", "matryoshka"):
            on = value > float(d.threshold)
        else:
            on = d.architecture != "jumprelu" or value > float(d.threshold[i])
        features.append(max(0.0, value) if on else 0.0)
    return torch.tensor(features, dtype=torch.float64)


@TRAINED
def test_every_architecture_is_the_equation_of_its_docstring(name):
    d = random_dictionary(name)
    x = rows(2, 3, d.width_in)
    centred = x - d.b_dec if d.config.center else x
    pre = torch.einsum("fd,btd->btf", d.W_enc, centred)
    pre = pre if name.startswith("gated") else pre + d.b_enc
    torch.testing.assert_close(d.pre_activation(x), pre)
    f = torch.stack([plain_features(d, row) for row in pre.flatten(0, 1)]).view(2, 3, d.features)
    assert 0 < f.count_nonzero() < f.numel()
    torch.testing.assert_close(d.encode(x), f)
    decoded = torch.einsum("btf,fd->btd", f, d.W_dec) + d.b_dec
    torch.testing.assert_close(d.decode(d.encode(x)), decoded)
    torch.testing.assert_close(d.reconstruct(x), decoded + x @ d.W_skip if d.config.skip else decoded)


@TRAINED
@pytest.mark.parametrize("scale", [0.37, 1.0, 12.5])
def test_folding_the_scale_is_exact(name, scale):
    d, folded = random_dictionary(name), random_dictionary(name)
    scale_in = scale_out = torch.tensor(scale, dtype=torch.float64)
    if d.reads != d.writes:
        scale_out = 3.3 * scale_in
    if name == "crosscoder":
        scale_in = scale_out = torch.tensor([scale, 2.1], dtype=torch.float64).repeat_interleave(torch.tensor(WIDTHS))
    x = 3 * rows(50, d.width_in)
    folded.fold_scale(scale_in, scale_out)
    f = d.encode(x / scale_in)
    assert 0 < f.count_nonzero() < f.numel()
    # a crosscoder's features belong to no site, and stay in units of normalised activations
    in_units = f if name == "crosscoder" else scale_in * f
    torch.testing.assert_close(folded.encode(x), in_units, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        folded.encode_chosen(x, torch.tensor([4, 1])), in_units[..., [4, 1]], rtol=1e-11, atol=1e-11
    )
    torch.testing.assert_close(folded.reconstruct(x), scale_out * d.reconstruct(x / scale_in), rtol=1e-11, atol=1e-11)


@COMPETING
def test_folding_leaves_a_threshold_that_was_never_measured(name):
    d = fresh(name)
    d.fold_scale(torch.tensor(5.0), torch.tensor(5.0))
    assert float(d.threshold) == -1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_new_dictionary_has_unit_rows_and_follows_its_seed(name):
    d = fresh(name, features=40, seed=4)
    torch.testing.assert_close(d.W_dec.norm(dim=1), torch.ones(40))
    assert torch.equal(d.W_dec, fresh(name, features=40, seed=4).W_dec)
    assert not torch.equal(d.W_dec, fresh(name, features=40, seed=5).W_dec)
    assert (d.features, d.width, d.width_in, d.members) == (40, 12, 12, None)
    assert d.config.unit_norm == (name != "crosscoder")
    torch.testing.assert_close(d.W_enc / d.W_enc.norm(dim=1, keepdim=True), d.W_dec, msg="tied at the start")
    if name != "crosscoder":
        assert d.site == SITE


def test_the_identity_dictionary_loses_nothing():
    d = IdentityDictionary(SITE, 6)
    x = rows(4, 6).float()
    assert torch.equal(d.decode(d.encode(x)), x)
    torch.testing.assert_close(x @ d.W_dec + d.b_dec, d.decode(x))
    assert (d.features, d.width, d.site) == (6, 6, SITE)
    assert not list(d.parameters())


def test_another_width_is_refused_by_name():
    d = random_dictionary("relu")
    d.check_width(12)
    with pytest.raises(SiteError, match=r"resid_0.*\b13\b.*\b12\b"):
        d.check_width(13)
    between = random_dictionary("relu transcoder")
    between.check_width(9)
    with pytest.raises(SiteError, match=r"resid_0.*\b12\b.*\b9\b"):
        between.check_width(12)


def test_a_dictionary_between_sites_has_no_single_site():
    for reads, writes in (([SITE], [OTHER]), ([SITE, OTHER], [SITE, OTHER])):
        with pytest.raises(SiteError):
            _ = Dictionary(reads, writes).site


@pytest.mark.parametrize(("width", "features"), [(0, 4), (4, 0), (-1, 4)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_empty_shapes_are_refused(name, width, features):
    with pytest.raises(ValueError, match="at least 1"):
        ARCHITECTURES[name].config_type(width=width, features=features)


@TRAINED
def test_chosen_features_are_those_of_the_whole(name):
    dictionary = random_dictionary(name)
    x, index = rows(5, 3, dictionary.width_in), torch.tensor([3, 19, 0])
    torch.testing.assert_close(dictionary.encode_chosen(x, index), dictionary.encode(x)[..., index])


# ---- options of a config ----


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TopKConfig(12, 20, k=0), "k is 0: choose between 1 and the number of features, 20"),
        (lambda: BatchTopKConfig(12, 20, k=21), "k is 21"),
        (lambda: TopKConfig(12, 20), "k is 32"),
        (lambda: JumpReLUConfig(12, 20, bandwidth=0.0), "bandwidth is 0"),
        (lambda: MatryoshkaConfig(12, 20, k=4, group_fractions=(0.5, 0.4)), "do not add up to 1"),
        (lambda: MatryoshkaConfig(12, 20, k=4, group_fractions=(1.5, -0.5)), "do not add up to 1"),
        (lambda: MatryoshkaConfig(12, 20, k=4, group_fractions=(0.5, 0.5), group_weights=(1.0,)), "1 group_weights"),
        (lambda: MatryoshkaConfig(12, 20, k=4), "20 features cannot be split"),
        (lambda: CrosscoderConfig(12, 20, widths=(5, 6)), r"\(5, 6\) of the sites do not add up to width 12"),
        (lambda: CrosscoderConfig(12, 20), "do not add up to width 12"),
        (lambda: ReLUConfig(12, 20, skip=True), "center=False"),
        (lambda: ReLUConfig(12, 20, width_in=9), "center=False"),
        (lambda: ReLUConfig(12, 20, width_in=0, center=False), "at least 1"),
        (lambda: ReLUDictionary(ReLUConfig(12, 20), [SITE], [OTHER]), "center=False"),
        (lambda: CrosscoderDictionary(CrosscoderConfig(12, 20, widths=(5, 7)), [SITE]), "1 sites for 2 widths"),
    ],
)  # fmt: skip
def test_faulty_configs_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_transcoder_reads_one_site_and_writes_another():
    d = transcoder(GatedDictionary, SITE, OTHER, width_in=9, width=12, features=20, skip=True, seed=3, unit_norm=False)
    assert isinstance(d, GatedDictionary) and (d.reads, d.writes) == ((SITE,), (OTHER,))
    assert d.config == GatedConfig(12, 20, width_in=9, center=False, skip=True, unit_norm=False)
    assert d.W_enc.shape == (20, 9) and d.W_dec.shape == (20, 12) and d.W_skip.shape == (9, 12)
    x = rows(4, 9).float()
    torch.testing.assert_close(d.reconstruct(x), d.decode(d.encode(x)), msg="the skip term starts at zero")
    assert not hasattr(fresh("gated transcoder"), "W_skip")


def test_a_crosscoder_stands_at_several_sites():
    d = random_dictionary("crosscoder")
    assert d.reads == d.writes == (SITE, OTHER)
    y = d.reconstruct(rows(3, 12))
    parts = d.split(y)
    assert list(parts) == [SITE, OTHER] and [p.shape[-1] for p in parts.values()] == [5, 7]
    assert torch.equal(torch.cat(list(parts.values()), -1), y)
    norms = d.W_dec[:, :5].norm(dim=1) + d.W_dec[:, 5:].norm(dim=1)
    torch.testing.assert_close(d.decoder_norms(), norms)
    x = torch.cat([10 * rows(6, 5), 0.1 * rows(6, 7)], 1)
    sizes = [float(part.square().sum(1).mean().sqrt()) for part in (x[:, :5], x[:, 5:])]
    expected = torch.tensor([sizes[0]] * 5 + [sizes[1]] * 7, dtype=torch.float64)
    torch.testing.assert_close(d.scale_of(x, "unit"), expected)
    assert torch.equal(d.scale_of(x, "none"), torch.ones(12, dtype=torch.float64))


# ---- stacks ----


@TRAINED
def test_a_stack_comes_apart_as_it_was_put_together(name):
    members = [random_dictionary(name, seed=seed) for seed in range(3)]
    whole = stack(members)
    assert whole.members == 3 and whole.W_enc.shape == (3, *members[0].W_enc.shape)
    for again in (unstack(whole), unstack(stack(unstack(whole)))):
        assert len(again) == 3
        for before, after in zip(members, again, strict=True):
            assert type(after) is type(before) and after.members is None
            assert (after.config, after.reads, after.writes) == (before.config, before.reads, before.writes)
            assert after.state_dict().keys() == before.state_dict().keys()
            for key, tensor in before.state_dict().items():
                assert torch.equal(after.state_dict()[key], tensor), key
                assert after.state_dict()[key].data_ptr() != tensor.data_ptr()
            x = rows(4, before.width_in)
            assert torch.equal(after.encode(x), before.encode(x))
    with torch.no_grad():
        for tensor in whole.state_dict().values():
            tensor.zero_()
    assert all(members[n].W_enc.any() for n in range(3)), "a stack holds copies"
    assert unstack(members[0]) == [members[0]]


@TRAINED
def test_parameters_that_learn_still_do_in_a_stack_and_out_of_it(name):
    d = fresh(name)
    d.b_dec.requires_grad_(False)
    learn = {key: p.requires_grad for key, p in d.named_parameters()}
    for module in (stack([d]), unstack(stack([d]))[0]):
        assert {key: p.requires_grad for key, p in module.named_parameters()} == learn


@TRAINED
@pytest.mark.parametrize("way", [DensePreActivations, ActivePreActivations])
def test_members_of_a_stack_encode_as_they_would_alone(name, way):
    members = [random_dictionary(name, seed=seed) for seed in range(3)]
    for d in members:
        d.constrain()
    x = rows(6, members[0].width_in)
    together = stack(unstack(stack(members)))
    pre = way(together, x)
    torch.testing.assert_close(pre.values, torch.stack([d.pre_activation(x) for d in members]))
    found = together.training_pass(pre)
    for n, d in enumerate(members):
        alone = stack([d])
        for part, single in zip(found, alone.training_pass(way(alone, x)), strict=True):
            if part is not None:
                torch.testing.assert_close(part.dense()[n], single.dense()[0], rtol=1e-12, atol=1e-12)
        if not name.startswith(("batch_topk", "matryoshka")):  # whose rows compete in training only
            torch.testing.assert_close(found.features.dense()[n], d.encode(x))


@COMPETING
def test_members_of_a_stack_may_differ_in_k(name):
    members = [fresh(name, k=k, seed=k) for k in (2, 7, 4)]
    together = stack(members)
    x = rows(30, 12).float()
    assert [d.config.k for d in unstack(together)] == [2, 7, 4]
    for way in (DensePreActivations, ActivePreActivations):
        l0 = together.training_pass(way(together, x)).features.l0()
        assert l0.tolist() == [2, 7, 4], way


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: fresh("relu"), lambda: fresh("topk")),
        (lambda: fresh("relu"), lambda: fresh("relu", features=21)),
        (lambda: fresh("relu"), lambda: fresh("relu", width=11)),
        (lambda: fresh("relu"), lambda: ReLUDictionary(ReLUConfig(12, 20), [OTHER])),
        (
            lambda: fresh("relu transcoder"),
            lambda: transcoder(ReLUDictionary, SITE, Site("z", "z"), width_in=9, width=12, features=20),
        ),
        (lambda: fresh("relu"), lambda: fresh("relu", unit_norm=False)),
        (lambda: fresh("relu"), lambda: fresh("relu", center=False)),
        (lambda: fresh("jumprelu"), lambda: fresh("jumprelu", bandwidth=0.2)),
        (lambda: fresh("topk"), lambda: fresh("topk", threshold_decay=0.9)),
        (lambda: fresh("matryoshka"), lambda: fresh("matryoshka", group_fractions=(0.5, 0.5))),
        (lambda: fresh("crosscoder"), lambda: fresh("crosscoder", widths=(7, 5))),
    ],
)  # fmt: skip
def test_unequal_dictionaries_are_not_stacked(one, other):
    with pytest.raises(ValueError, match="can be stacked"):
        stack([one(), other()])


# ---- the threshold that competing features have outside of training ----


@pytest.mark.parametrize("name", ["batch_topk", "matryoshka", "batch_topk transcoder", "matryoshka skip"])
@pytest.mark.parametrize("steps", [1, 5])
def test_inference_is_sparse_from_the_first_step_on(name, steps):
    """dictionary_learning measures the threshold from step 1000 on, and is silently dense after a shorter run."""
    d = fresh(name, features=40, k=2)
    trainer = Trainer(d, objective_for(name), TrainConfig(steps=steps, warmup=0.0, decay=0.0))
    x = rows(64, d.width_in).float()
    batch = Batch(x, x if d.reads == d.writes else rows(64, 12, seed=2).float())
    trainer.initialise(batch)
    assert float(trainer.stack.threshold) == -1
    for _ in range(steps):
        trainer.step(batch)
    assert float(trainer.stack.threshold) > 0
    (finished,) = trainer.finish()
    l0 = float((finished.encode(x) != 0).sum(1).float().mean())
    assert 0.5 < l0 < 4, "near k, far below the 20 that are positive"


@COMPETING
def test_the_threshold_is_a_moving_average_of_the_smallest_that_was_kept(name):
    d = stack([random_dictionary(name, seed=seed) for seed in (0, 1)])
    decay, expected = d.config.threshold_decay, None
    d.threshold.fill_(-1)
    for step in range(4):
        kept = d.training_pass(DensePreActivations(d, rows(6, 12, seed=step))).features
        positive = [[[v for v in row if v > 0] for row in member] for member in kept.dense().tolist()]
        smallest = [[min(row) for row in member if row] for member in positive]
        now = torch.tensor([sum(m) / len(m) if name == "topk" else min(m) for m in smallest], dtype=torch.float64)
        expected = now if expected is None else decay * expected + (1 - decay) * now
        d.observe(kept, step)
        torch.testing.assert_close(d.threshold, expected)


@COMPETING
def test_the_threshold_can_start_later_and_a_silent_batch_is_no_error(name):
    d = stack([fresh(name, threshold_start=2)])
    d.b_enc.data.fill_(-1e6)
    for step, expected in ((0, -1), (1, -1), (2, 0)):
        d.observe(d.training_pass(DensePreActivations(d, rows(6, 12).float())).features, step)
        assert float(d.threshold) == expected


def test_top_k_keeps_fewer_where_fewer_are_positive():
    d = TopKDictionary(TopKConfig(12, 20, k=4), [SITE])
    d.b_enc.data.fill_(-1e6)
    d.b_enc.data[3] = 1e6
    assert d.encode(rows(5, 12).float()).count_nonzero(dim=1).tolist() == [1] * 5
