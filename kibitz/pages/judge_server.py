"""The judging page over HTTP; what it does is in kibitz/pages/judging.py."""

from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from kibitz.pages.guard import Keys
from kibitz.pages.judging import Judging
from kibitz.pages.serving import new_app
from shift.judge import Opinion
from shift.verdicts import Verdict

_DAY = 86400.0


class Said(BaseModel):
    """A verdict as the page sends it."""

    model_config = ConfigDict(extra="forbid")
    item: Annotated[str, Field(max_length=64)]
    verdict: Verdict
    reason: Annotated[str, Field(max_length=4000)] = ""
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    seconds: Annotated[float, Field(ge=0, le=_DAY)]
    before: Verdict | None


class Confirmed(BaseModel):
    """How many cards the person was told are not judged when he confirmed the freeze."""

    model_config = ConfigDict(extra="forbid")
    unjudged: Annotated[int, Field(ge=0)]


def judge_app(judging: Judging, keys: Keys) -> FastAPI:
    """Endpoints run in threads: each reads the file, and a verdict is on disk before it is answered."""
    app = new_app(keys, "judge", "Judging")

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        return judging.state()

    @app.get("/api/cards/{item}")
    def card(item: str) -> Any:
        return judging.card(item)

    @app.get("/api/outcome")
    def outcome() -> dict[str, Any]:
        return judging.outcome()

    @app.post("/api/verdict")
    def verdict(said: Said) -> dict[str, Any]:
        judging.judge(said.item, Opinion(said.verdict, said.reason, said.confidence), said.seconds, said.before)
        return judging.state()

    @app.post("/api/undo")
    def undo() -> dict[str, Any]:
        undone = judging.undo()
        return {**judging.state(), "undone": undone}

    @app.post("/api/freeze")
    def freeze(confirmed: Confirmed) -> dict[str, Any]:
        judging.freeze(confirmed.unjudged)
        return judging.state()

    @app.post("/api/score")
    def score() -> dict[str, Any]:
        judging.start_scoring()
        return judging.state()

    return app
