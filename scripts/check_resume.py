"""Kill a training run with SIGKILL at random moments, resume it, and compare its weights bit by bit.

    python scripts/check_resume.py [--kills 20] [--architecture p_annealing] [--text] [--seed 0]

By default the shipped OthelloGPT plays games; with --text a tiny language model reads a text, harvested ahead of time
in a thread. One run is left alone; others are killed over and over, also in the middle of writing a checkpoint, and
started again with the same command until they reach the end. Exit status 1 if a single bit of a weight, or of the last
checkpoint's state, differs.
"""

import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from saes.files import read_state, read_tensors, write_json

ARGUMENTS = (
    *("--sites", "resid_1", "mlp_1", "--batch-size", "256", "--expansion", "2", "--learning-rate", "0.003"),
    *("--refill-rows", "64", "--held-out-tokens", "500", "--device", "cpu"),
)
READS = ("--context", "32", "--prefetch", "True")
WORDS = 90


@dataclass(frozen=True)
class Settings:
    kills: int = 20
    architecture: str = "p_annealing"
    text: bool = False
    """a tiny language model and a text in place of OthelloGPT and games"""
    steps: int = 400
    save_every: int = 20
    """so short that many kills fall into a checkpoint"""
    seed: int = 0


def command(s: Settings, out: Path) -> list[str]:
    sizes = {"topk": "--ks", "batch_topk": "--ks", "matryoshka": "--ks", "jumprelu": "--target-l0s"}
    sparsity = (sizes[s.architecture], "8", "16") if s.architecture in sizes else ("--coefficients", "0.02", "0.05")
    run = "import sys; from kibitz.cli import main; main(sys.argv[1:])"
    return [
        *(sys.executable, "-c", run, "train", "--architecture", s.architecture, *sparsity, *ARGUMENTS),
        *(("--model", str(out.parent / "lm"), "--corpus", str(out.parent / "text.txt"), *READS) if s.text else ()),
        *("--steps", str(s.steps), "--save-every", str(s.save_every), "--log-every", "50", "--out", str(out)),
    ]


def make_text(folder: Path) -> None:
    """A language model of two layers, its tokenizer of whole words, and a text that a run comes to the end of."""
    words = {word: i for i, word in enumerate(["<unk>", "<bos>", *(f"w{i}" for i in range(WORDS))])}
    whole_words = {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}
    tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": whole_words}
    write_json(folder / "words.json", tokenizer)
    special = {"unk_token": "<unk>", "bos_token": "<bos>"}
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "words.json"), **special).save_pretrained(folder / "lm")
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **shape)).save_pretrained(folder / "lm")
    draw = random.Random(0)
    lines = (" ".join(f"w{draw.randrange(WORDS)}" for _ in range(draw.randrange(40))) for _ in range(1500))
    (folder / "text.txt").write_text("\n".join(lines))


def undisturbed(s: Settings, out: Path) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    subprocess.run(command(s, out), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def disturbed(s: Settings, out: Path, seconds: float, kills: int, moments: random.Random) -> tuple[int, int]:
    """One run to its end, killed up to `kills` times: kills, and how many of them fell into the writing of a file."""
    hits = torn = 0
    while hits < kills:
        process = subprocess.Popen(command(s, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if hits % 2:  # every other kill waits for a checkpoint in the making
            _until_writing(process, out, limit=seconds * moments.uniform(0.2, 1.0))
        else:
            _wait(process, seconds * moments.uniform(0.1, 0.9))
        if process.poll() is not None:
            break  # it has reached the end
        process.kill()
        process.wait()
        hits += 1
        torn += any(out.rglob("*.part"))
    done = subprocess.run(command(s, out), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"check_resume: the run did not go on after {hits} kills: {done.stderr.strip().splitlines()[-1]}")
    return hits, torn


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)


def _until_writing(process: subprocess.Popen[bytes], out: Path, limit: float) -> None:
    """Return while a temporary file stands in the checkpoints' folder, or after the limit."""
    _wait(process, limit / 2)
    end = time.monotonic() + limit / 2
    while time.monotonic() < end and process.poll() is None:
        if any((out / "checkpoints").glob("*.part")):
            return
        time.sleep(0.0005)


def differences(one: Path, other: Path) -> list[str]:
    """Names of what differs in any bit: dictionaries, and the last checkpoint with optimiser, penalty and counters."""
    found = []
    files = sorted(path.relative_to(one) for path in one.glob("dictionaries/**/*.safetensors"))
    if not files:
        return ["the undisturbed run has no dictionaries"]
    for file in files:
        ours, theirs = read_tensors(one / file), read_tensors(other / file)
        found += [f"{file}: {name}" for name in ours if not torch.equal(ours[name], theirs[name])]
    last = sorted((one / "checkpoints").glob("step-*.pt"))[-1].name
    return found + _unequal(read_state(one / "checkpoints" / last), read_state(other / "checkpoints" / last), last)


def _unequal(a: Any, b: Any, name: str) -> list[str]:
    if isinstance(a, dict):
        keys = a.keys() | b.keys()
        return [line for key in keys for line in _unequal(a.get(key), b.get(key), f"{name} / {key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{name}: {len(a)} and {len(b)} entries"]
        return [line for i, (x, y) in enumerate(zip(a, b, strict=True)) for line in _unequal(x, y, f"{name} / {i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    return [] if same else [name]


def main(s: Settings) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="check_resume-"))
    try:
        if s.text:
            make_text(scratch)
        seconds = undisturbed(s, scratch / "undisturbed")
        print(f"{s.architecture}: {s.steps} steps undisturbed in {seconds:.0f} s", flush=True)
        moments, kills, torn, found = random.Random(s.seed), 0, 0, []
        while kills < s.kills and not found:
            out = scratch / "disturbed"
            hits, inside = disturbed(s, out, seconds, s.kills - kills, moments)
            found = differences(scratch / "undisturbed", out)
            kills, torn = kills + hits, torn + inside
            seconds = seconds if hits else seconds / 2  # the machine has become faster than it was
            print(f"{hits} kills, {inside} of them in the middle of a write; {len(found)} differences", flush=True)
            shutil.rmtree(out)
        print(f"in all {kills} kills, {torn} in the middle of a write; {len(found)} differences")
        for line in found:
            print(f"  {line}")
        sys.exit(1 if found else 0)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main(tyro.cli(Settings))
