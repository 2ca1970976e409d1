"""`kibitz score` end to end: a tiny model, a text, labels of its words, many kinds of dictionaries."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kibitz.cli import main
from saes.architectures import ReLUConfig, ReLUDictionary, TopKConfig, TopKDictionary, transcoder
from saes.checkpoint import save_dictionary
from saes.families import find_site
from tests.saes.corpora_for_tests import ids, texts, word_tokenizer
from tests.saes.models_for_tests import tiny

COUNT = 300
LM = ["--model", "lm", "--corpus", "t.jsonl", "--context", "16", "--tokens", "900"]
SOME = ["--resampled", "20", "--batch-rows", "7"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a model whose embedding says which token it reads, texts, labels, dictionaries."""
    model = tiny("llama")
    embedding = model.get_input_embeddings().weight
    embedding.zero_()[torch.arange(97), torch.arange(97) % 16] = 1.0
    model.save_pretrained(tmp_path / "lm")
    word_tokenizer().save_pretrained(tmp_path / "lm")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(COUNT)))
    words = [(n, i, token) for n, text in enumerate(texts(COUNT)) for i, token in enumerate(ids(text))]
    document, place, token = np.array(words).T
    labels = {"residue: 3": token % 16 == 3, "residue: 7": token % 16 == 7, "small": token < 30}
    np.savez(tmp_path / "labels.npz", document=document, token=place, **labels)
    np.savez(tmp_path / "far.npz", document=document + 10**6, token=place, **labels)
    np.savez(tmp_path / "grey.npz", document=document, token=place, x=token / 2)
    embed = find_site(model, "embed")
    knows = ReLUDictionary(ReLUConfig(16, 16), [embed]).requires_grad_(False)
    for name, weights in knows.named_parameters():
        weights.copy_(torch.eye(16) if name.startswith("W") else 0)
    save_dictionary(knows, tmp_path / "run" / "knows")
    a, b = find_site(model, "resid_mid_1"), find_site(model, "mlp_1")
    save_dictionary(TopKDictionary(TopKConfig(16, 20, k=4), [b]), tmp_path / "run" / "other")
    save_dictionary(transcoder(ReLUDictionary, a, b, width_in=16, width=16, features=8), tmp_path / "run" / "across")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_planted_concept_is_found_whatever_the_layout_and_stands_beside_floors(folder, capsys):
    main(["score", "run", *LM, *SOME, "--labels", "labels.npz", "--out", "out"])
    printed = capsys.readouterr()
    found = json.loads((folder / "out" / "scores.json").read_text())
    sets = {each["name"]: each for each in found["sets"]}
    assert list(sets)[:3] == ["across", "knows", "other"] and sets["across"]["site"] == "resid_mid_1"
    for site in ("embed", "resid_mid_1", "mlp_1"):
        beside = [name for name in sets if name.endswith(f" at {site}")]
        assert [name.split(",")[0].removesuffix(f" at {site}") for name in beside] == [
            *("frozen random dictionary", "principal components", "neurons", "linear probe")
        ]
    knows = sets["knows"]["groups"]
    assert knows["residue"]["coverage"] == {"score": 1, "low": 1, "high": 1}
    assert [(b["property"], b["feature"]) for b in knows["residue"]["best"]] == [("residue: 3", 3), ("residue: 7", 7)]
    assert sets["linear probe at embed"]["groups"]["residue"]["coverage"]["score"] > 0.99
    assert sets["knows"]["faithfulness"]["loss_recovered"] == pytest.approx(1, abs=1e-5)
    small = knows["concepts"]  # no single residue says it
    assert 0 < small["floors"]["always_on"] < 1 and small["coverage"]["score"] < 0.5
    assert small["floors"]["always_on"] == pytest.approx(small["best"][0]["always_on"])
    table = (folder / "out" / "table.md").read_text()
    assert table.strip() in printed.out and "1.000 [1.000, 1.000] by 3" in table
    samples = load_file(folder / "out" / "resamples.safetensors")
    assert samples["knows/residue/coverage"].tolist() == [1.0] * 20
    for options in (["--rows", "document"], ["--bos", "none", "--concepts", "residue: 3"], ["--drop-bos"]):
        main(["score", "run/knows", *LM, *SOME, "--labels", "labels.npz", "--no-baselines", "--json", *options])
        again = json.loads(capsys.readouterr().out)
        assert again["sets"][0]["groups"]["residue"]["coverage"]["score"] == 1 and len(again["sets"]) == 1


WRONG = [
    (["--labels", "labels.npz"], "no dictionary is given"),
    (["run"], "no labels are given"),
    (["run", "--labels", "none.npz"], "none.npz: no such file"),
    (["run", "--labels", "grey.npz"], "column 'x' is float64, not boolean"),
    (["run", "--labels", "far.npz"], "is a token of the corpus as read (documents up to"),
    (["run", "--labels", "labels.npz", "--concepts", "big"], "has no column 'big'"),
    (["run", "--labels", "labels.npz", "--tokens", "5"], "at least 2 are needed"),
    (["run", "--labels", "labels.npz", "--selection-share", "1"], "selection_share is 1"),
    (["run", "--labels", "labels.npz", "--site", "embed"], "--site is for one dictionary"),
    (["run", "--labels", "labels.npz", "--out", "lm"], "lm: is not empty"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[said for _, said in WRONG])
def test_mistakes_end_in_one_sentence(folder, capsys, arguments, said):
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as leaving:
        main(["score", *LM, *arguments])
    complaint = capsys.readouterr().err
    assert leaving.value.code in (1, 2) and said in complaint and "Traceback" not in complaint
    assert complaint.splitlines()[-1].startswith("kibitz: ")
    assert [path for path in sorted(folder.rglob("*")) if "runs" not in path.parts] == before


def test_games_are_for_another_command(folder, capsys):
    with pytest.raises(SystemExit):
        main(["score", "run", "--labels", "labels.npz"])
    assert "give --corpus; `kibitz board` scores boards of games" in capsys.readouterr().err
