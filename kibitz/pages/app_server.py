"""The features of a run, and the pages that it has written, over HTTP; kibitz/pages/catalogue.py has what is shown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from kibitz.pages.catalogue import Catalogue
from kibitz.pages.guard import PICTURE_POLICY, Keys
from kibitz.pages.serving import UnknownError, new_app


def pages_below(run: Path) -> dict[str, Path]:
    """Pages that commands wrote into a run, such as circuit.html, by their place in it; none that leads out of it."""
    inside = run.resolve()
    found = {path.relative_to(run).as_posix(): path.resolve() for path in sorted(run.rglob("*.html"))}
    return {
        name: path
        for name, path in found.items()
        if path.is_relative_to(inside) and not any(part.startswith(".") for part in Path(name).parts)
    }


def catalogue_app(catalogue: Catalogue, pages: Mapping[str, Path], keys: Keys, title: str = "") -> FastAPI:
    """Endpoints run in threads. `pages` are the only files that are served beside the front end's own."""
    app = new_app(keys, "app", "Features")

    @app.get("/api/overview")
    def overview() -> dict[str, Any]:
        notes = list(catalogue.notes)
        return {"title": title, "dictionaries": catalogue.overview(), "pages": list(pages), "notes": notes}

    @app.get("/api/dictionaries/{key}")
    def features(key: str) -> dict[str, Any]:
        return {"features": catalogue.features(key)}

    @app.get("/api/dictionaries/{key}/{feature}")
    def card(key: str, feature: int) -> dict[str, Any]:
        return catalogue.card(key, feature)

    @app.get("/pages/{name:path}")
    def page(name: str) -> HTMLResponse:
        if name not in pages:
            raise UnknownError(f"the run has no page {name!r}")
        text = pages[name].read_text("utf-8")
        return HTMLResponse(text, headers={"content-security-policy": PICTURE_POLICY})

    return app
