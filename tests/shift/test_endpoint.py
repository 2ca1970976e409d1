"""The endpoint judge against a server on this machine that plays recorded answers."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from boardgames.matching import Match
from shift.cards import Card, Showing
from shift.endpoint import AnswerError, EndpointConfig, EndpointError, EndpointJudge, parse_answer
from shift.judge import JudgeError
from tests.shift.judging_for_tests import candidate

GOOD = {"verdict": "trim", "confidence": 0.8, "reason": "It follows f5."}
CARD = Card(
    (candidate(7, -0.5),),
    (Showing(2.5, "a board", {"f5": "mine"}),),
    match=Match("mine f5", "f5", 0.9, 0.9, 0.9, 0, 0.1),
)


class Recorded(HTTPServer):
    """Answers with the next of `replies`: (status, text) or (status, text, headers)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[tuple] = []
        self.asked: list[tuple[str, dict, dict]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Recorded)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append((self.path, dict(self.headers), body))
        status, text, *headers = server.replies.pop(0)
        self.send_response(status)
        for name, value in headers[0].items() if headers else ():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Recorded]:
    monkeypatch.setenv("no_proxy", "*")
    found = Recorded()
    thread = Thread(target=found.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def completion(content: object) -> tuple[int, str]:
    text = content if isinstance(content, str) else json.dumps(content)
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def judge(server: Recorded, waited: list[float] | None = None, **given) -> EndpointJudge:
    config = EndpointConfig(endpoint=server.url, model="m", **given)
    return EndpointJudge(config, "the owner of c3", (waited if waited is not None else []).append)


def test_a_card_goes_out_blind_and_a_verdict_comes_back(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret-1")
    server.replies = [completion(GOOD)]
    opinion = judge(server, key_variable="SOME_KEY")(CARD)
    assert (opinion.verdict, opinion.confidence, opinion.reason) == ("trim", 0.8, "It follows f5.")
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret-1"
    sent = json.dumps(body)
    assert body["model"] == "m" and "a board" in sent and "owner of c3" in sent
    assert "f5" not in sent and "mine" not in sent  # the matched property is hidden
    assert "Effect of its removal" in sent


def test_a_blind_run_hides_effects_too(server):
    server.replies = [completion(GOOD)]
    EndpointJudge(EndpointConfig(endpoint=server.url, model="m"), "the owner of c3", blind=True)(CARD)
    sent = json.dumps(server.asked[0][2])
    assert "a board" in sent and "Effect" not in sent  # an effect of 0 would give the controls away


def test_without_a_key_none_is_sent(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-2")
    server.replies = [completion(GOOD)]
    judge(server)(CARD)
    assert "Authorization" not in server.asked[0][1] and "secret-2" not in str(server.asked)


MALFORMED = [
    completion("I would trim it."),
    completion("```json\n" + json.dumps(GOOD) + "\n```"),
    completion({**GOOD, "verdict": "remove"}),
    completion({**GOOD, "confidence": "high"}),
    completion({**GOOD, "confidence": True}),
    completion({**GOOD, "confidence": 80}),
    completion({"verdict": "trim"}),
    completion({**GOOD, "note": "and more"}),
    completion({**GOOD, "reason": " "}),
    completion({**GOOD, "verdict": ["trim"]}),
    completion('{"verdict": "trim", "confidence": NaN, "reason": "x"}'),
    completion("[" * 100_000),
    (200, "<html>"),
    (200, '{"choices": []}'),
    (200, '{"choices": [{"message": {"content": null}}]}'),
]


def test_malformed_answers_are_asked_again_and_then_unsure(server):
    server.replies = [*MALFORMED, completion(GOOD)]
    opinion = judge(server, tries=len(MALFORMED) + 1)(CARD)
    assert opinion.verdict == "trim" and len(server.asked) == len(MALFORMED) + 1
    for reply in MALFORMED:
        server.replies = [reply]
        opinion = judge(server, tries=1)(CARD)
        assert (opinion.verdict, opinion.confidence) == ("unsure", 0.0) and "no verdict in 1 answers" in opinion.reason


def test_passing_failures_are_tried_again_with_growing_waits(server):
    waited: list[float] = []
    server.replies = [(429, "slow down"), (503, ""), completion(GOOD)]
    assert judge(server, waited)(CARD).verdict == "trim"
    assert waited == [1.0, 2.0]
    server.replies = [(500, "")] * 4
    with pytest.raises(EndpointError, match="status 500, 4 times"):
        judge(server)(CARD)


def test_a_refusal_is_final_and_tells_no_key(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret-3")
    server.replies = [(401, "your key secret-3 is wrong")]
    with pytest.raises(EndpointError, match="status 401; check") as error:
        judge(server, key_variable="SOME_KEY")(CARD)
    assert "secret-3" not in str(error.value) and len(server.asked) == 1


def test_a_redirect_is_refused(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret-4")
    for status in (302, 307, 308):
        server.replies = [(status, "", {"Location": f"{server.url}/elsewhere"})]
        with pytest.raises(EndpointError, match=f"status {status}"):
            judge(server, key_variable="SOME_KEY")(CARD)
    assert len(server.asked) == 3


def test_nobody_there():
    closed = Recorded()
    closed.server_close()
    with pytest.raises(EndpointError, match="no answer .*2 times"):
        judge(closed, tries=2)(CARD)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give --endpoint URL and --model NAME"),
        ({"endpoint": "https://host/v1"}, "--model"),
        ({"endpoint": "file:///etc/passwd", "model": "m"}, "plain URL"),
        ({"endpoint": "https://user:word@host/v1", "model": "m"}, "plain URL"),
        ({"endpoint": "http://host/v1", "model": "m", "key_variable": "K"}, "https only"),
        ({"endpoint": "https://host/v1", "model": "m", "tries": 0}, "at least 1"),
    ],
)
def test_it_never_runs_by_accident(given, message):
    with pytest.raises(JudgeError, match=message):
        EndpointConfig(**given)


def test_a_variable_that_is_not_set(monkeypatch, server):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(JudgeError, match="SOME_KEY holds no key"):
        judge(server, key_variable="SOME_KEY")(CARD)


def test_answers_of_any_verdict():
    for verdict in ("keep", "trim", "unsure", "mixed"):
        assert parse_answer(json.dumps({**GOOD, "verdict": verdict})).verdict == verdict
    with pytest.raises(AnswerError, match="no JSON"):
        parse_answer("")
