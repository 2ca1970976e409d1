"""The judging page in a real browser; skipped where no chromium is on the path."""

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from kibitz.pages.app_server import catalogue_app
from kibitz.pages.catalogue import Catalogue
from kibitz.pages.judging import Judging
from kibitz.pages.serving import redirect_file
from shift.judge import Opinion
from shift.judgements import Frozen, JudgementLog
from shift.run_folder import judgements_path, read_outcome
from tests.pages.run_for_tests import BESIDE, ITEMS, PROPERTY, ROLES, SEALED, make_run, scorer, serving, serving_app

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium is installed: the pages are not tried in a browser"
)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, timeout=60_000)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser) -> Iterator:
    """A fresh profile; every complaint of the browser about the page fails the test, such as one of its policy."""
    context = browser.new_context()
    context.set_default_timeout(20_000)
    page, complaints = context.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.complaints = complaints
    yield page
    context.close()
    assert not [c for c in complaints if "the server responded with a status of" not in c]


def on_card(page, number: int) -> None:
    """Wait until a card is on the screen; the name of an item is its number here."""
    page.wait_for_function("n => document.body.dataset.item === n", arg=str(number))


def judged(page) -> list[str]:
    return page.eval_on_selector_all(".progress button", "all => all.map(b => b.className)")


def test_a_session(page, tmp_path):
    """Five features by key, a reload in the middle, one undo, the freeze, and the outcome."""
    run = make_run(tmp_path)
    with serving(Judging(run, "ann", score=scorer(run))) as keys:
        page.goto(keys.address)
        on_card(page, 1)
        assert keys.token not in page.url  # out of the history
        assert PROPERTY in page.inner_text("main") and "resid_1/4" in page.inner_text("main")
        page.keyboard.press("4")  # confidence
        page.keyboard.press("r")
        page.keyboard.type("keeps tum")  # letters of keys, in the field
        page.keyboard.press("Escape")
        page.keyboard.press("k")
        on_card(page, 2)
        page.keyboard.press("t")
        on_card(page, 3)
        page.wait_for_timeout(600)
        page.reload()
        on_card(page, 3)
        assert judged(page) == ["keep", "trim", "open", "open", "open", "open"]
        assert page.evaluate("Object.values(sessionStorage).some(d => JSON.parse(d).seconds >= 0.25)")
        page.keyboard.press("u")
        on_card(page, 4)
        page.keyboard.press("z")
        on_card(page, 3)
        assert judged(page)[2] == "open"
        page.keyboard.press("j")
        on_card(page, 4)
        page.keyboard.press("ArrowLeft")
        on_card(page, 3)
        for number, key in ((3, "k"), (4, "m"), (5, "t")):
            on_card(page, number)
            page.keyboard.press(key)
        on_card(page, 6)
        assert judged(page) == ["keep", "trim", "keep", "mixed", "trim", "open"]
        page.keyboard.press("f")
        page.wait_for_selector("#confirm")
        assert "1 of 6 cards are not judged: 6" in page.inner_text("dialog")
        page.click("#confirm")
        page.wait_for_selector("#score")
        page.keyboard.press("k")  # nothing more can be said
        page.click("#score")
        page.wait_for_selector(".row .name")
        shown = page.inner_text("main")
    frozen = Frozen.read(judgements_path(run))
    said = {(j.item, j.site, j.feature): j for j in frozen.judgements}
    members = [(item.name, c.site.name, c.feature) for item in ITEMS[:5] for c in item.group]
    assert list(said) == members
    assert [j.verdict for j in said.values()] == ["keep", "keep", "trim", "keep", "mixed", "trim"]
    first = said["1", "resid_0", 3]
    assert first.reason == "keeps tum" and first.confidence == 0.8 and 0 < (first.seconds or 0) < 60
    assert [j.role for j in said.values()] == [
        "candidate",
        "candidate",
        "candidate",
        "control",
        "candidate",
        "candidate",
    ]
    kinds = [json.loads(line)["kind"] for line in judgements_path(run).read_text().splitlines()]
    assert kinds == ["task", *["judgement"] * 4, "undo", *["judgement"] * 3, "freeze"]
    for row in read_outcome(run)["rows"]:
        assert row["name"] in shown and f"{100 * row['worst_group']:.1f} %" in shown
    assert "62.5 %" in shown and "87.5 %" in shown  # precision and recall
    assert "2.221 → 2.867" in shown and "0.9884 → 0.7634" in shown  # side effects
    assert frozen.sha256[:12] in shown
    assert "You as a judge" in shown and "against the concept oracle" in shown
    assert "What each part does" in shown and "only this, or all but this" in shown


def test_the_file_that_a_browser_is_opened_with(page, tmp_path):
    """It leads to the page, though a file is another site: the token is in its address."""
    run = make_run(tmp_path)
    with serving(Judging(run, "ann")) as keys, redirect_file(keys.address) as path:
        page.goto(path.as_uri())
        on_card(page, 1)
        assert page.url == f"http://127.0.0.1:{keys.port}/"


def test_a_key_that_is_held_down(page, tmp_path):
    """One undo, however long; and moving on goes on."""
    run = make_run(tmp_path)
    with serving(Judging(run, "ann")) as keys:
        page.goto(keys.address)
        for number in (1, 2, 3):
            on_card(page, number)
            page.keyboard.press("k")
        on_card(page, 4)
        page.keyboard.down("z")
        on_card(page, 3)
        page.wait_for_function("() => document.querySelectorAll('.progress .keep').length === 2")
        for _ in range(3):
            page.keyboard.down("z")  # the browser's repeats
            page.wait_for_timeout(150)
        page.keyboard.up("z")
        assert judged(page)[:3] == ["keep", "keep", "open"]
        page.keyboard.down("j")
        on_card(page, 4)
        page.keyboard.down("j")
        on_card(page, 5)
        page.keyboard.up("j")
    assert len(JudgementLog(judgements_path(run), "a task").standing()) == 3  # card 1 is of two features


def test_drafts(page, tmp_path):
    """A confidence that was taken away stays away, and an undo gives back what was written with the verdict."""
    run = make_run(tmp_path)
    pressed = "() => [...document.querySelectorAll('.confidence [aria-pressed=true]')].map(b => b.textContent)"
    with serving(Judging(run, "ann")) as keys:
        page.goto(keys.address)
        on_card(page, 1)
        page.keyboard.press("4")
        page.keyboard.press("r")
        page.keyboard.type("because")
        page.keyboard.press("Escape")
        page.wait_for_timeout(600)
        page.keyboard.press("k")
        on_card(page, 2)
        spent = JudgementLog(judgements_path(run), "a task").standing()[0].seconds or 0.0
        assert spent >= 0.5
        page.keyboard.press("ArrowLeft")
        on_card(page, 1)
        assert page.evaluate(pressed) == ["4"]
        page.keyboard.press("0")
        page.keyboard.press("j")
        on_card(page, 2)
        page.keyboard.press("ArrowLeft")
        on_card(page, 1)
        assert page.evaluate(pressed) == []
        page.keyboard.press("j")
        on_card(page, 2)
        page.keyboard.press("u")
        on_card(page, 3)
        page.keyboard.press("z")
        on_card(page, 2)
        page.keyboard.press("z")
        on_card(page, 1)
        assert page.input_value("#reason") == "because" and page.evaluate(pressed) == []
        page.keyboard.press("3")
        page.keyboard.press("t")
        on_card(page, 2)
        page.keyboard.press("z")
        on_card(page, 1)
        assert page.input_value("#reason") == "because" and page.evaluate(pressed) == ["3"]
        page.keyboard.press("m")
        on_card(page, 2)
    said = JudgementLog(judgements_path(run), "a task").standing()[0]
    assert (said.verdict, said.reason, said.confidence) == ("mixed", "because", 0.6)
    assert (said.seconds or 0.0) > spent


def test_the_numbers_of_another_judge_are_named(page, tmp_path):
    """Ben judged, and the reference knows two others only."""
    run = make_run(tmp_path)
    with serving(Judging(run, "ben", score=scorer(run))) as keys:
        Judging(run, "ben").freeze(6)
        scorer(run)()
        page.goto(keys.address)
        page.wait_for_selector("#judge")
        said = page.inner_text("#judge")
    assert "abe as a judge" in said and "12.5 %" in said and "62.5 %" not in said
    assert "You as a judge" not in page.inner_text("main")


class Listing(Catalogue):
    """Four features, of which nothing is known but how often they fire."""

    def __init__(self) -> None:
        self.notes = ("a circuit: was found with other dictionaries",)

    def overview(self) -> list[dict[str, Any]]:
        return [{"key": "0", "name": "one", "site": "mlp_in_0", "features": 4}]

    def features(self, key: str) -> list[dict[str, Any]]:
        known = {"property": None, "f1": None, "effect": None, "tokens": []}
        return [{"feature": i, "density": density, **known} for i, density in enumerate((0.5, 0.0, 1e-7, 0.0))]


def test_only_what_never_fires_is_said_to(page):
    with serving_app(lambda keys: catalogue_app(Listing(), {}, keys)) as keys:
        page.goto(keys.address)
        page.wait_for_selector(".feature")
        said = page.eval_on_selector_all(
            ".feature", "all => all.map(a => a.children[0].textContent + ' ' + a.children[1].textContent)"
        )
        assert sorted(said) == ["0 –", "1 never fires", "2 –", "3 never fires"]
        assert "was found with other dictionaries" in page.inner_text(".list")


def test_blind(page, tmp_path):
    """Neither properties nor roles nor what is sealed are in anything that the browser gets."""
    run = make_run(tmp_path)
    scorer(run)()
    received: list[str] = []
    page.on("response", lambda answer: received.append(answer.url + "\n" + answer.text()))
    with serving(Judging(run, "ann", blind=True)) as keys:
        context = page.context
        context.add_cookies([{"name": keys.cookie, "value": keys.token, "url": f"http://127.0.0.1:{keys.port}"}])
        page.goto(f"http://127.0.0.1:{keys.port}/")
        for number in range(1, 7):
            on_card(page, number)
            page.keyboard.press("k" if number % 2 else "j")
        page.wait_for_function("() => [...document.querySelectorAll('.progress .keep')].length === 3")
        page.keyboard.press("z")
        page.wait_for_function("() => [...document.querySelectorAll('.progress .keep')].length === 2")
        content = page.content()
    ours = [text for text in received if "/static/" not in text.split("\n")[0]]
    assert len({text.split("\n")[0] for text in ours if "/api/cards/" in text.split("\n")[0]}) == 6
    assert any("/static/judge.mjs" in text.split("\n")[0] for text in received)
    for text in [content, *received]:
        assert not any(word in text for word in (PROPERTY, BESIDE, SEALED))
    for text in [content, *ours]:
        assert not re.search("|".join((*ROLES, '"role"', '"effect"')), text)


def test_others_write_meanwhile(page, tmp_path):
    run = make_run(tmp_path)
    with serving(Judging(run, "ann")) as keys:
        page.goto(keys.address)
        on_card(page, 1)
        Judging(run, "ann").judge("1", Opinion("trim", ""), 1.0, None)
        page.keyboard.press("k")
        page.wait_for_selector("#status.bad")
        assert "was judged 'trim' elsewhere" in page.inner_text("#status")
        assert judged(page)[0] == "trim"
        page.keyboard.press("k")  # now that it was seen
        on_card(page, 2)
        JudgementLog(judgements_path(run), "a task").freeze()
        page.keyboard.press("t")
        page.wait_for_selector(".outcome")
        assert "frozen in the meantime" in page.inner_text("#status")
        assert "kibitz shift score" in page.inner_text("main")
    assert [j.verdict for j in Frozen.read(judgements_path(run)).judgements] == ["keep", "keep"]


@pytest.mark.parametrize("size", [(1366, 768), (390, 844), (320, 640)])
def test_nothing_sticks_out(page, tmp_path, size):
    run = make_run(tmp_path)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    wide = "() => document.documentElement.scrollWidth"
    with serving(Judging(run, "ann", score=scorer(run))) as keys:
        page.goto(keys.address)
        on_card(page, 1)
        assert page.evaluate(wide) <= size[0]
        judging = Judging(run, "ann")
        judging.freeze(6)
        scorer(run)()
        page.reload()
        page.wait_for_selector(".row .name")
        assert page.evaluate(wide) <= size[0]
