"""Check the readers and writers of saes.formats against the packages themselves, and print a table.

    python scripts/check_formats.py                  # makes .venv-peers with the packages first; minutes
    python scripts/check_formats.py --venv FOLDER    # another place, or an environment made before

For every format and architecture: Kibitz writes and the package loads; the package saves and Kibitz reads; and Kibitz
reads its own file back. `features` and `reconstruction` are the largest absolute differences, divided by the largest
value. Exit status 1 if any is above 1e-6, or if something that has to be refused is not.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEERS = ["dictionary-learning==0.1.0", "sae-lens==6.54.12", "eai-sparsify==1.3.3", "circuit-tracer==0.5.0"]
PEERS += ["transformer-lens==3.9.0", "nnsight==0.8.1"]
# what those import on the way to their dictionaries
IMPORTED = (
    "einops simple-parsing datasets wandb<0.22 natsort schedulefree accelerate pandas requests pydantic zstandard"
)
IMPORTED += " better-abc cloudpickle greenlet"
TOLERANCE = 1e-6
D, F, K, ROWS = 16, 64, 6, 256


def make_environment(folder: Path) -> None:
    """The packages at the versions above beside Kibitz; without their own pins, which contradict each other and ours.

    A folder that is there already is taken as it is, unless this was interrupted while making it.
    """
    unfinished = folder / ".unfinished"
    if folder.exists() and not unfinished.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    print(f"installing {', '.join(PEERS)} into {folder}", flush=True)
    python = str(folder / "bin" / "python")
    pinned = ["-c", str(ROOT / "constraints.txt")]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [*install, *pinned, "hatchling"],
        [*install, *pinned, "--no-build-isolation", "--editable", str(ROOT)],
        [*install, "--no-deps", *PEERS],
        [*install, *pinned, *IMPORTED.split()],
    ):
        subprocess.run(command, check=True)
    unfinished.unlink()


# --------------------------------------------------------------------------------------------------------------------
# Everything below runs inside that environment.


class Table:
    """Rows as they are measured."""

    def __init__(self) -> None:
        self.failed = 0
        print(f"{'format':20s} {'dictionary':36s} {'direction':18s} {'features':>9s} {'reconstr.':>9s}")

    def compare(self, tool: str, name: str, direction: str, ours: Any, theirs: Any) -> None:
        errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True)]
        bad = not max(errors) <= TOLERANCE or not bool((theirs[0] != 0).any())
        self.failed += bad
        print(f"{tool:20s} {name:36s} {direction:18s} {errors[0]:9.1e} {errors[1]:9.1e}{'  MISMATCH' if bad else ''}")

    def refuse(self, tool: str, name: str, direction: str, call: Callable[[], Any]) -> None:
        """A call that has to end in a refusal."""
        from saes.formats import NotExpressible

        try:
            call()
        except NotExpressible as error:
            reason = " ".join(str(error).split(": ", 1)[1].split())
            print(f"{tool:20s} {name:36s} {direction:18s} refused: {reason}")
            return
        self.failed += 1
        print(f"{tool:20s} {name:36s} {direction:18s} MISMATCH: not refused")


def our_dictionaries() -> dict[str, Any]:
    """Every architecture with random parameters: input bias or not, unit and other decoder rows, transcoders."""
    import torch

    from saes.architectures import ARCHITECTURES, CrosscoderConfig, CrosscoderDictionary, transcoder
    from saes.sites import Site

    resid = Site("resid_3", "transformer.h.3")
    mid, mlp = Site("resid_mid_3", "transformer.h.3.ln_2", "in"), Site("mlp_3", "transformer.h.3.mlp")
    special = {"topk": {"k": K}, "batch_topk": {"k": K}, "matryoshka": {"k": K, "group_fractions": (0.25, 0.25, 0.5)}}
    found: dict[str, Any] = {}
    for name, kind in ARCHITECTURES.items():
        if name == "crosscoder":
            config = CrosscoderConfig(D, F, widths=(D // 2, D // 2))
            found[name] = CrosscoderDictionary(config, [resid, mlp])
            continue
        options = special.get(name, {})
        for label, center in ((name, True), (f"{name}, no input bias", False)):
            found[label] = kind(kind.config_type(D, F, center=center, **options), [resid])
        found[f"{name}, free norms"] = kind(kind.config_type(D, F, unit_norm=False, **options), [resid])
        sizes = {"width_in": D, "width": D, "features": F, **options}
        found[f"{name} transcoder"] = transcoder(kind, mid, mlp, **sizes)
        found[f"{name} skip transcoder"] = transcoder(kind, mid, mlp, skip=True, **sizes)
    wide = {"width_in": D, "width": D + 8, "features": F}
    found["relu transcoder to width 24"] = transcoder(ARCHITECTURES["relu"], mid, mlp, skip=True, **wide)
    for seed, (name, dictionary) in enumerate(found.items()):
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, p in dictionary.named_parameters():
                noise = torch.randn(p.shape, generator=random)
                p.copy_(p + 0.1 * noise if key.startswith("W_") else 0.3 * noise)
            rows = 1 / dictionary.W_dec.norm(dim=1, keepdim=True)
            dictionary.W_dec *= rows * (0.5 + torch.rand(F, 1, generator=random)) if "free" in name else rows
            dictionary.W_enc.copy_(dictionary.W_enc / dictionary.W_enc.norm(dim=1, keepdim=True))
            if "threshold" in dict(dictionary.named_buffers()):
                dictionary.threshold.fill_(0.7)
        dictionary.eval().requires_grad_(False)
    batch = ARCHITECTURES["batch_topk"]
    unset = batch(batch.config_type(D, F, k=K), [resid]).eval().requires_grad_(False)
    found["batch_topk, threshold never measured"] = unset
    return found


# what each package can hold; everything else has to be refused
EXPRESSIBLE: dict[str, Callable[[str], bool]] = {
    "dictionary_learning": lambda name: "transcoder" not in name and name != "crosscoder",
    "saelens": lambda name: name != "crosscoder" and not (name.startswith("topk") and "transcoder" in name),
    "sparsify": lambda name: name.startswith("topk"),
    "circuit_tracer": lambda name: "transcoder" in name and not name.startswith("topk") and "24" not in name,
}


def load_theirs(tool: str, folder: Path, x: Any) -> tuple[Any, Any]:
    """Features and reconstruction by the package itself."""
    import torch

    if tool == "dictionary_learning":
        from dictionary_learning.dictionary import AutoEncoder  # type: ignore[import-not-found]
        from dictionary_learning.utils import load_dictionary  # type: ignore[import-not-found]

        ae, _ = load_dictionary(str(folder), "cpu")
        if isinstance(ae, AutoEncoder):  # from_pretrained rescales what is not unit; as saved, then
            again = AutoEncoder.from_pretrained(str(folder / "ae.pt"), normalize_decoder=False)
            if not torch.equal(again.decoder.weight, ae.decoder.weight):
                ae = again
        features = ae.encode(x)
        return features, ae.decode(features)
    if tool == "saelens":
        from sae_lens import SAE  # type: ignore[import-not-found]

        sae = SAE.load_from_disk(folder, device="cpu")
        if hasattr(sae.cfg, "d_out"):
            out, features = sae.forward_with_activations(x)
            return features, out
        features = sae.encode(x)
        return features.to_dense() if features.is_sparse else features, sae(x)
    if tool == "sparsify":
        from sparsify import SparseCoder  # type: ignore[import-not-found]

        coder = SparseCoder.load_from_disk(str(folder), device="cpu")
        acts, index, _ = coder.encode(x)
        features = torch.zeros(len(x), coder.num_latents).scatter_(1, index, acts)
        return features, coder(x, y=torch.zeros_like(x) if coder.cfg.transcode else None).sae_out
    from circuit_tracer.transcoder.single_layer_transcoder import (  # type: ignore[import-not-found]
        load_relu_transcoder,
    )

    (path,) = folder.glob("layer_*.safetensors")
    coder = load_relu_transcoder(str(path), 3, torch.device("cpu"), lazy_encoder=False, lazy_decoder=False)
    features = coder.encode(x)
    return features, coder.decode(features, x)


def outputs(dictionary: Any, x: Any) -> tuple[Any, Any]:
    return dictionary.encode(x), dictionary.reconstruct(x)


def check_written(table: Table, scratch: Path, x: Any) -> None:
    """Kibitz writes; the package loads, and Kibitz loads again."""
    from saes.formats import FORMATS, load_any, write_format

    for tool in FORMATS:
        for name, dictionary in our_dictionaries().items():
            folder = scratch / tool / name.replace(" ", "_")
            if not EXPRESSIBLE[tool](name):
                table.refuse(tool, name, "ours -> theirs", lambda t=tool, d=dictionary, f=folder: write_format(t, d, f))
                continue
            write_format(tool, dictionary, folder, model_name="othello-gpt", context_size=59)
            table.compare(tool, name, "ours -> theirs", outputs(dictionary, x), load_theirs(tool, folder, x))
            again = load_any(folder)
            table.compare(tool, name, "ours -> ours", outputs(dictionary, x), outputs(again, x))
            if (again.reads, again.writes) != (dictionary.reads, dictionary.writes):
                table.failed += 1
                print(f"{tool}: {name}: sites {again.reads} -> {again.writes}: MISMATCH")


def fill(module: Any, seed: int, unit: bool) -> Any:
    """Random parameters for a package's dictionary, whatever they are called."""
    import torch

    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(torch.randn(p.shape, generator=random) * (0.3 if p.dim() < 2 else 1 / D**0.5))
            if "threshold" in name:
                p.abs_()
            if p.dim() == 2 and ("dec" in name and unit):
                p /= p.norm(dim=0 if "decoder" in name else 1, keepdim=True)
    return module


def their_dictionaries(scratch: Path) -> Iterator[tuple[str, str, Path, bool]]:
    """Folders saved by the packages: tool, name, folder, and whether Kibitz has to refuse it."""
    yield from _by_dictionary_learning(scratch)
    yield from _by_saelens(scratch)
    yield from _by_sparsify(scratch)
    yield from _by_circuit_tracer(scratch)


def _by_dictionary_learning(scratch: Path) -> Iterator[tuple[str, str, Path, bool]]:
    import json

    import torch
    from dictionary_learning import dictionary as dl  # type: ignore[import-not-found]
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer  # type: ignore[import-not-found]
    from dictionary_learning.trainers.gated_anneal import GatedAnnealTrainer  # type: ignore[import-not-found]
    from dictionary_learning.trainers.gdm import GatedSAETrainer  # type: ignore[import-not-found]
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer  # type: ignore[import-not-found]
    from dictionary_learning.trainers.matryoshka_batch_top_k import (  # type: ignore[import-not-found]
        MatryoshkaBatchTopKTrainer,
    )
    from dictionary_learning.trainers.p_anneal import PAnnealTrainer  # type: ignore[import-not-found]
    from dictionary_learning.trainers.standard import (  # type: ignore[import-not-found]
        StandardTrainer,
        StandardTrainerAprilUpdate,
    )
    from dictionary_learning.trainers.top_k import TopKTrainer  # type: ignore[import-not-found]

    new = {"dict_class": dl.AutoEncoderNew}
    kinds: dict[str, tuple[Any, dict[str, Any], bool]] = {
        "StandardTrainer": (StandardTrainer, {}, True),
        "PAnnealTrainer": (PAnnealTrainer, {"anneal_start": 3000, "p_end": 0.2, "sparsity_function": "Lp^p"}, True),
        "StandardTrainerAprilUpdate": (StandardTrainerAprilUpdate, {}, False),
        "April, AutoEncoderNew": (StandardTrainerAprilUpdate, new, False),
        "GatedSAETrainer": (GatedSAETrainer, {}, True),
        "GatedAnnealTrainer": (GatedAnnealTrainer, {}, True),
        "TopKTrainer": (TopKTrainer, {"k": K}, True),
        "BatchTopKTrainer": (BatchTopKTrainer, {"k": K}, True),
        "MatryoshkaBatchTopKTrainer": (
            MatryoshkaBatchTopKTrainer,
            {"k": K, "group_fractions": [0.25, 0.25, 0.5]},
            True,
        ),
        "JumpReluTrainer": (JumpReluTrainer, {}, True),
    }
    common = {"steps": 10_000, "activation_dim": D, "dict_size": F, "layer": 3, "lm_name": "m", "device": "cpu"}
    for seed, (name, (kind, options, unit)) in enumerate(kinds.items()):
        trainer = kind(**common, **options)
        fill(trainer.ae, seed, unit)
        if "TopK" in name:
            trainer.ae.threshold = torch.tensor(0.5)
        folder = scratch / "their_dl" / str(seed)
        folder.mkdir(parents=True)
        config = dict(trainer.config)
        if options is new:  # that trainer names AutoEncoder whichever class it trains, which the package cannot load
            config["dict_class"] = "AutoEncoderNew"
        (folder / "config.json").write_text(json.dumps({"trainer": config}, indent=4))
        torch.save({key: t.cpu() for key, t in trainer.ae.state_dict().items()}, folder / "ae.pt")
        yield "dictionary_learning", name, folder, False


def _by_saelens(scratch: Path) -> Iterator[tuple[str, str, Path, bool]]:
    import sae_lens as sl  # type: ignore[import-not-found]

    kinds: dict[str, tuple[Any, Any, dict[str, Any], bool]] = {
        "standard": (sl.StandardSAE, sl.StandardSAEConfig, {}, False),
        "standard, no input bias": (sl.StandardSAE, sl.StandardSAEConfig, {"apply_b_dec_to_input": False}, False),
        "standard, layer_norm": (sl.StandardSAE, sl.StandardSAEConfig, {"normalize_activations": "layer_norm"}, True),
        "gated": (sl.GatedSAE, sl.GatedSAEConfig, {}, False),
        "topk": (sl.TopKSAE, sl.TopKSAEConfig, {"k": K}, False),
        "topk, rescaled": (sl.TopKSAE, sl.TopKSAEConfig, {"k": K, "rescale_acts_by_decoder_norm": True}, False),
        "abstopk": (sl.AbsTopKSAE, sl.AbsTopKSAEConfig, {"k": K}, True),
        "jumprelu": (sl.JumpReLUSAE, sl.JumpReLUSAEConfig, {}, False),
        "transcoder": (sl.Transcoder, sl.TranscoderConfig, {}, False),
        "transcoder to width 24": (sl.Transcoder, sl.TranscoderConfig, {"d_out": D + 8}, False),
        "skip_transcoder": (sl.SkipTranscoder, sl.SkipTranscoderConfig, {}, False),
        "jumprelu_transcoder": (sl.JumpReLUTranscoder, sl.JumpReLUTranscoderConfig, {}, False),
        "jumprelu_skip_transcoder": (sl.JumpReLUSkipTranscoder, sl.JumpReLUSkipTranscoderConfig, {}, False),
    }
    for seed, (name, (kind, config, options, refused)) in enumerate(kinds.items()):
        if "transcoder" in name:
            options = {"d_out": D, "apply_b_dec_to_input": False, **options}
        folder = scratch / "their_sl" / str(seed)
        fill(kind(config(d_in=D, d_sae=F, **options)), seed, False).save_model(folder)
        yield "saelens", name, folder, refused
    trained: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "trained standard": (sl.StandardTrainingSAE, sl.StandardTrainingSAEConfig, {}),
        "trained gated": (sl.GatedTrainingSAE, sl.GatedTrainingSAEConfig, {}),
        "trained topk": (sl.TopKTrainingSAE, sl.TopKTrainingSAEConfig, {"k": K}),
        "trained jumprelu": (sl.JumpReLUTrainingSAE, sl.JumpReLUTrainingSAEConfig, {}),
        "trained batchtopk": (sl.BatchTopKTrainingSAE, sl.BatchTopKTrainingSAEConfig, {"k": K}),
        "trained matryoshka_batchtopk": (
            sl.MatryoshkaBatchTopKTrainingSAE,
            sl.MatryoshkaBatchTopKTrainingSAEConfig,
            {"k": K, "matryoshka_widths": [16, 32, F]},
        ),
    }
    for seed, (name, (kind, config, options)) in enumerate(trained.items()):
        norm = {"normalize_activations": "expected_average_only_in"}
        sae = fill(kind(config(d_in=D, d_sae=F, **norm, **options)), 50 + seed, False)
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.5)
        sae.fold_activation_norm_scaling_factor(0.37)
        folder = scratch / "their_sl" / f"trained_{seed}"
        sae.save_inference_model(folder)
        yield "saelens", name, folder, False


def _by_sparsify(scratch: Path) -> Iterator[tuple[str, str, Path, bool]]:
    from sparsify import SparseCoder, SparseCoderConfig  # type: ignore[import-not-found]

    kinds: dict[str, dict[str, Any]] = {
        "topk": {},
        "topk, free norms": {"normalize_decoder": False},
        "topk skip": {"skip_connection": True},
        "topk transcoder": {"transcode": True},
        "topk skip transcoder": {"transcode": True, "skip_connection": True},
        "groupmax": {"activation": "groupmax", "k": 8},
    }
    for seed, (name, options) in enumerate(kinds.items()):
        coder = SparseCoder(D, SparseCoderConfig(**{"num_latents": F, "k": K, **options}))
        folder = scratch / "their_sparsify" / f"{seed}" / "layers.3"
        fill(coder, seed, name == "topk").save_to_disk(folder)
        yield "sparsify", name, folder, name == "groupmax"


def _by_circuit_tracer(scratch: Path) -> Iterator[tuple[str, str, Path, bool]]:
    import torch
    from circuit_tracer.transcoder.activation_functions import JumpReLU  # type: ignore[import-not-found]
    from circuit_tracer.transcoder.cross_layer_transcoder import (  # type: ignore[import-not-found]
        CrossLayerTranscoder,
    )
    from circuit_tracer.transcoder.single_layer_transcoder import (  # type: ignore[import-not-found]
        SingleLayerTranscoder,
        TranscoderSet,
    )

    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    where = {"device": torch.device("cpu"), "dtype": torch.float32}
    for seed, (jump, skip) in enumerate(((False, False), (False, True), (True, False), (True, True))):
        activation = JumpReLU(torch.zeros(F), 0.1) if jump else torch.nn.functional.relu
        coder = SingleLayerTranscoder(D, F, activation, 0, skip_connection=skip, **where)
        folder = scratch / "their_ct" / str(seed)
        with torch.no_grad():
            TranscoderSet({0: fill(coder, seed, False)}, **hooks).to_safetensors(str(folder))
        name = ("jumprelu " if jump else "relu ") + ("skip " if skip else "") + "transcoder"
        yield "circuit_tracer", name, folder, False
    clt = CrossLayerTranscoder(2, F, D, activation_function="relu", lazy_decoder=False, **where, **hooks)
    folder = scratch / "their_ct" / "clt"
    with torch.no_grad():
        clt.to_safetensors(str(folder))
    yield "circuit_tracer", "cross-layer transcoder", folder, True


def check_read(table: Table, scratch: Path, x: Any) -> None:
    """The package saves; Kibitz reads, and writes again for the package."""
    from saes.formats import load_any, write_format
    from saes.sites import Site

    for tool, name, folder, refused in their_dictionaries(scratch):
        if refused:
            table.refuse(tool, name, "theirs -> ours", lambda f=folder: load_any(f))
            continue
        ours, theirs = load_any(folder), load_theirs(tool, folder, x)
        table.compare(tool, name, "theirs -> ours", outputs(ours, x), theirs)
        if tool == "circuit_tracer":
            assert ours.writes == (Site("mlp_0", "blocks.0.hook_mlp_out"),)
        again = scratch / "again" / tool / name.replace(" ", "_")
        write_format(tool, ours, again)
        table.compare(tool, name, "theirs -> theirs", load_theirs(tool, again, x), theirs)


def check_set(table: Table, scratch: Path, x: Any) -> None:
    """A whole set of layers, through config.yaml."""
    import torch

    with contextlib.suppress(ImportError, AttributeError):
        import huggingface_hub.constants

        if not hasattr(huggingface_hub.constants, "HF_HUB_ENABLE_HF_TRANSFER"):  # which circuit-tracer still asks for
            huggingface_hub.constants.HF_HUB_ENABLE_HF_TRANSFER = False  # type: ignore[attr-defined]
    from circuit_tracer.utils.caching import load_transcoders_from_cache  # type: ignore[import-not-found]

    from saes.architectures import ReLUDictionary, transcoder
    from saes.formats import circuit_tracer
    from saes.sites import Site

    layers = [
        transcoder(
            ReLUDictionary,
            Site(f"resid_mid_{i}", f"transformer.h.{i}.ln_2", "in"),
            Site(f"mlp_{i}", f"transformer.h.{i}.mlp"),
            width_in=D,
            width=D,
            features=F,
            skip=True,
            seed=i,
        ).requires_grad_(False)
        for i in range(3)
    ]
    for layer in layers:
        layer.W_skip.copy_(torch.randn(D, D) / 4)
    circuit_tracer.write(layers, scratch / "set")
    loaded = load_transcoders_from_cache("set", cache_dir=scratch, device=torch.device("cpu"))
    theirs = loaded[0] if isinstance(loaded, tuple) else loaded
    several = torch.stack([x, x.flip(0), -x])
    features = theirs.encode(several)
    ours = [torch.stack([outputs(d, v)[n] for d, v in zip(layers, several, strict=True)]) for n in (0, 1)]
    found = (features.to_dense() if features.is_sparse else features, theirs.decode(features, several))
    table.compare("circuit_tracer", "a set of three layers", "ours -> theirs", ours, found)


def check_othello(table: Table, scratch: Path) -> None:
    """The two real SAELens dictionaries (version 3.4) of an OthelloGPT, where the reference data are at hand."""
    import torch

    from saes.formats import read_format

    data = ROOT.parent / "shared" / "data" / "othello_saes"
    if not data.is_dir():
        print("(no reference data beside the clone: the real OthelloGPT dictionaries were not loaded)")
        return
    for weights in sorted(data.glob("*_sae_*.safetensors")):
        folder = scratch / weights.stem
        folder.mkdir()
        shutil.copy(weights, folder / "sae_weights.safetensors")
        shutil.copy(weights.with_suffix(".cfg.json"), folder / "cfg.json")
        ours = read_format("saelens", folder)
        x = torch.randn(ROWS, ours.width_in, generator=torch.Generator().manual_seed(0))
        table.compare("saelens", weights.stem, "theirs -> ours", outputs(ours, x), load_theirs("saelens", folder, x))


def check() -> int:
    """Number of mismatches."""
    import torch

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    table = Table()
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        scratch = Path(name)
        x = torch.randn(ROWS, D, generator=torch.Generator().manual_seed(99)) * 1.5 + 0.2
        for part in (check_written, check_read, check_set):
            part(table, scratch, x)
        check_othello(table, scratch)
    print("every output equal within 1e-6" if not table.failed else f"{table.failed} mismatches")
    return table.failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-peers", help="environment of the packages")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        sys.exit(1 if check() else 0)
    venv = options.venv.absolute()
    make_environment(venv)
    quiet = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    command = [str(venv / "bin" / "python"), __file__, "--inside"]
    sys.exit(subprocess.run(command, env={**os.environ, **quiet}).returncode)


if __name__ == "__main__":
    main()
