"""What both pages share: files of the front end by name, errors as one sentence, and a server on 127.0.0.1."""

import os
import socket
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from html import escape
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response

from kibitz.pages.guard import Guard, Keys

_KINDS = {"css": "text/css", "mjs": "text/javascript", "svg": "image/svg+xml"}


class PageError(ValueError):
    """A page that cannot be served as asked."""


class SealedError(PageError):
    """What nobody may see before the freeze."""


class UnknownError(PageError):
    """A name that is not among those that are served."""


_STATUS: dict[type[Exception], int] = {SealedError: 403, UnknownError: 404, ValueError: 409}


def new_app(keys: Keys, page: str, title: str) -> FastAPI:
    """An application behind the guard: at / a page that static/`page`.mjs fills, and its files at /static/NAME."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, keys=keys)
    folder = resources.files("kibitz").joinpath("pages", "static")
    files = {
        file.name: (file.read_bytes(), _KINDS[file.name.rsplit(".", 1)[1]])
        for file in folder.iterdir()
        if file.name.rsplit(".", 1)[-1] in _KINDS
    }
    html = folder.joinpath("page.html").read_text("utf-8")
    for mark, text in (("@@KEY@@", keys.writing), ("@@PAGE@@", page), ("@@TITLE@@", title)):
        html = html.replace(mark, escape(text))

    @app.get("/")
    def index() -> HTMLResponse:
        return HTMLResponse(html)

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in files:
            raise UnknownError(f"no file is called {name!r}")
        content, kind = files[name]
        return Response(content, media_type=f"{kind}; charset=utf-8")

    for error, status in _STATUS.items():
        app.add_exception_handler(error, _sentence(status))
    app.add_exception_handler(RequestValidationError, _misformed)
    return app


def _sentence(status: int) -> Callable[[Request, Exception], Response]:
    def handle(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status)

    return handle


def _misformed(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    said = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
    return JSONResponse({"error": f"not understood: {said}"}, 422)


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; port 0 takes a free one. PageError if it is taken."""
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(("127.0.0.1", port))
    except OSError as error:
        taken.close()
        raise PageError(f"port {port} cannot be had ({error.strerror}): choose another, or 0 for a free one") from None
    return taken


@contextmanager
def redirect_file(address: str) -> Iterator[Path]:
    """A page that leads to the address, readable for this user alone, until the block ends.

    What a browser is started with stands in the list of processes, which every user of the machine can read: the file's
    name may stand there, a token may not.
    """
    target = escape(address)
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
        f'<title>Kibitz</title><meta http-equiv="refresh" content="0; url={target}"></head>'
        f'<body><a href="{target}">Open the page</a></body></html>\n'
    )
    with TemporaryDirectory(prefix="kibitz-") as folder:
        path = Path(folder) / "open.html"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            stream.write(html)
        yield path


@contextmanager
def _shown(address: str) -> Iterator[None]:
    """Open the address in the browser, once the server has begun."""
    with redirect_file(address) as path:
        opening = Timer(0.5, webbrowser.open, [path.as_uri()])
        opening.start()
        try:
            yield
        finally:
            opening.cancel()


def serve(make: Callable[[Keys], FastAPI], port: int, *, show: bool) -> None:
    """Serve until Ctrl-C, then return; the address is printed, and opened in the browser if `show`."""
    with listen(port) as taken:
        keys = Keys(taken.getsockname()[1])
        config = uvicorn.Config(make(keys), log_level="warning", access_log=False, server_header=False)
        print(f"Open {keys.address}\nCtrl-C ends.", file=sys.stderr, flush=True)
        with _shown(keys.address) if show else nullcontext(), suppress(KeyboardInterrupt):  # uvicorn raises it again
            uvicorn.Server(config).run(sockets=[taken])
