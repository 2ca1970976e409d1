"""Nobody but the rater's own page gets anything, and the rater nothing that is sealed."""

import json

import pytest

from kibitz.pages.judging import Judging
from tests.pages.run_for_tests import PROPERTY, ROLES, SEALED, make_run, raw, scored, scorer, serving

VERDICT = json.dumps({"item": "2", "verdict": "keep", "seconds": 1.0, "before": None})
OTHER = "the other task"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run whose outcome is there although nothing is frozen, and another one beside it."""
    folder = tmp_path_factory.mktemp("runs")
    run, other = make_run(folder / "run"), make_run(folder / "other", name=OTHER)
    scorer(run)()
    scorer(other)()
    return run, other


@pytest.fixture(scope="module")
def keys(runs):
    with serving(Judging(runs[0], "ann")) as keys:
        yield keys


def test_what_is_allowed(keys):
    """Else the refusals below would say nothing."""
    for path in ("/", "/static/judge.mjs", "/api/state", "/api/cards/2"):
        assert raw(keys, path)[0] == 200
    assert raw(keys, "/api/undo", "POST")[0] == 409  # nothing to take back, but it was heard


@pytest.mark.parametrize("path", ["/", "/static/judge.mjs", "/api/state", "/api/cards/2", "/nowhere"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Cookie": ""},
        {"Cookie": "kibitz=x; a=b"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_strangers(keys, path, headers):
    status, text = raw(keys, path, **headers)
    assert status == (400 if headers.get("Host") == "" else 403)  # without a Host it is no request at all
    assert len(text) < 200 and keys.token not in text and keys.writing not in text


def test_tokens(keys):
    for wrong in ("x", keys.writing, keys.token[:-1], f"{keys.token}x", "é"):
        assert raw(keys, "/", Cookie=f"{keys.cookie}={wrong}".encode().decode("latin-1"))[0] == 403
        assert raw(keys, f"/?token={wrong.encode().hex()}")[0] == 403
    assert raw(keys, f"/?token={keys.token}", Cookie="")[0] == 303
    assert raw(keys, f"//evil.example/?token={keys.token}", Cookie="")[0] == 303


@pytest.mark.parametrize("path", ["/api/verdict", "/api/undo", "/api/freeze", "/api/score"])
def test_changes_need_the_key_of_the_page(keys, runs, path):
    before = (runs[0] / "judgements.jsonl").read_bytes() if (runs[0] / "judgements.jsonl").exists() else b""
    for given in ({"X_Kibitz_Key": ""}, {"X_Kibitz_Key": keys.token}, {"Host": "evil.example"}, {"Cookie": ""}):
        assert raw(keys, path, "POST", VERDICT, **given)[0] == 403
    for method in ("PUT", "DELETE", "OPTIONS", "GET"):
        assert raw(keys, path, method)[0] in (404, 405)
    assert raw(keys, f"{path}?token={keys.token}", "POST", VERDICT)[0] == 403
    after = (runs[0] / "judgements.jsonl").read_bytes() if (runs[0] / "judgements.jsonl").exists() else b""
    assert after == before


@pytest.mark.parametrize(
    "path",
    [
        *(f"/{name}" for name in ("task.json", "queue.json", "outcome.json", "judgements.jsonl", "cards/2.json")),
        *(f"/static/{name}" for name in ("../guard.py", "%2e%2e/guard.py", "..%2fguard.py", "..%5cguard.py")),
        *(f"/api/cards/{name}" for name in ("../../queue", "..%2fqueue", "%2e%2e%2fqueue", "..%2F..%2Fother%2F2")),
        *(f"/api/cards/{name}" for name in ("%2e%2e/outcome", "2.json", "2%00", "..", "%2e%2e", "/etc/passwd", "7")),
        "/api/../outcome.json",
        "//outcome.json",
        "/static/",
        "/docs",
        "/openapi.json",
        "/redoc",
        "/pages/circuit.html",
    ],
)  # fmt: skip
def test_other_files(keys, path):
    status, text = raw(keys, path)
    assert status in (404, 405), text
    assert not any(word in text for word in (SEALED, OTHER, PROPERTY, *ROLES, "import "))


def test_the_outcome_is_sealed_before_the_freeze_although_it_is_there(keys):
    for path in ("/api/outcome", "/api/outcome/", "/api/state"):
        _, text = raw(keys, path)
        assert SEALED not in text and "precision" not in text
    assert raw(keys, "/api/outcome") == (403, '{"error":"the outcome is sealed until the judgements are frozen"}')
    assert raw(keys, "/api/score", "POST")[0] == 409  # this server was given nothing to score with


def test_after_the_freeze(tmp_path):
    run = make_run(tmp_path)
    with serving(Judging(run, "ann", score=scorer(run))) as keys:
        assert raw(keys, "/api/score", "POST")[0] == 403
        assert not (run / "outcome.json").exists()
        assert raw(keys, "/api/freeze", "POST", '{"unjudged": 5}')[0] == 409
        assert raw(keys, "/api/freeze", "POST", '{"unjudged": 6}')[0] == 200
        assert json.loads(raw(keys, "/api/outcome")[1])["outcome"] is None
        scorer(run)()
        assert json.loads(raw(keys, "/api/outcome")[1])["outcome"] == scored(run)
        status, text = raw(keys, "/api/verdict", "POST", VERDICT)
        assert status == 409 and "frozen" in text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "not understood"),
        ('{"item": "2", "verdict": "maybe", "seconds": 1, "before": null}', "verdict"),
        ('{"item": "2", "verdict": "keep", "seconds": -1, "before": null}', "seconds"),
        ('{"item": "2", "verdict": "keep", "seconds": NaN, "before": null}', "seconds"),
        ('{"item": "2", "verdict": "keep", "seconds": 1, "before": null, "confidence": 2}', "confidence"),
        ('{"item": "2", "verdict": "keep", "seconds": 1, "before": null, "role": "candidate"}', "role"),
        ('{"item": "9", "verdict": "keep", "seconds": 1, "before": null}', "no item"),
        ('{"item": "2", "verdict": "keep", "seconds": 1, "before": "trim"}', "in the meantime"),
        (json.dumps({"reason": "x" * 70_000}), "too long"),
    ],
)
def test_bad_verdicts(keys, body, message):
    status, text = raw(keys, "/api/verdict", "POST", body)
    assert status in (404, 409, 413, 422) and message in text


def test_headers_of_every_answer(keys):
    from urllib.request import Request, urlopen

    for path in ("/", "/api/state"):
        asked = Request(f"http://127.0.0.1:{keys.port}{path}", headers={"Cookie": f"{keys.cookie}={keys.token}"})
        with urlopen(asked) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
