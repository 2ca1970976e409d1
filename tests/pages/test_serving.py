"""The command that serves a page: what the browser is opened with, and how Ctrl-C ends it."""

import os
import signal
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from kibitz.cli import main
from kibitz.pages.serving import redirect_file
from tests.pages.run_for_tests import make_run


@pytest.fixture
def opened(monkeypatch) -> list[dict]:
    """What a browser that is opened gets to see; then Ctrl-C."""
    seen: list[dict] = []

    def look(address: str) -> None:
        try:
            path = Path(unquote(urlsplit(address).path))
            html = path.read_text()
            seen.append({"address": address, "path": path, "mode": stat.S_IMODE(path.stat().st_mode), "html": html})
            target = html.split("url=")[1].split('"')[0]
            with build_opener(HTTPCookieProcessor()).open(target) as answer:
                seen.append({"answer": answer.status})
        except OSError as refused:
            seen.append({"answer": getattr(refused, "code", 0)})
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("webbrowser.open", look)
    return seen


def test_a_session_of_judging(opened, tmp_path, capsys):
    """The token is in a file of this user alone, which is gone afterwards; Ctrl-C is the way to end, and no failure."""
    main(["shift", "judge", str(make_run(tmp_path)), "--rater", "ann"])
    said = capsys.readouterr()
    assert said.out == "6 cards are not judged yet.\n" and "interrupted" not in said.err
    address = said.err.split("Open ")[1].splitlines()[0]
    token = address.split("token=")[1]
    page, reached = opened
    assert page["address"].startswith("file:///") and token not in page["address"]
    assert page["mode"] == 0o600 and address in page["html"]
    assert reached["answer"] == 200
    assert not page["path"].exists() and not page["path"].parent.exists()


def test_nothing_in_the_redirect_file_is_markup():
    with redirect_file('http://127.0.0.1:1/?token="><script>') as path:
        assert "<script>" not in path.read_text()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
