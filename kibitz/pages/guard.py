"""Who may ask, and what answers may do: everything but a request of the person who started the server is refused.

The server listens on 127.0.0.1 alone. Still any page in the person's browser can send requests there, also under a name
of its own that it lets point to 127.0.0.1 (DNS rebinding); so the Host has to be ours, a secret has to come with each
request, and requests that change something need a second one in a header, which other pages cannot send.
"""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PICTURE_POLICY = (
    "sandbox allow-scripts allow-popups; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; frame-ancestors 'none'"
)
"""for pages that others wrote, with scripts inside: in a sandbox they have no origin, so they can ask us for nothing"""
_LARGEST = 1 << 16  # bytes of a request
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Keys:
    """The secrets of one run of the server, and where it listens."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """in the address that is printed; a cookie keeps it"""
    writing: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """in the page itself; requests that change something carry it in X-Kibitz-Key"""

    @property
    def cookie(self) -> str:
        """Its name: cookies know no ports, and two servers must not overwrite each other's."""
        return f"kibitz_{self.port}"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def hosts(self) -> tuple[str, ...]:
        return f"127.0.0.1:{self.port}", f"localhost:{self.port}"


class Guard:
    """ASGI middleware in front of everything."""

    def __init__(self, app: App, keys: Keys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["type"] != "http":
            raise ValueError(f"a {scope['type']} request: pages are read over http")
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if refusal := self._refusal(scope["method"], headers, asked):
            await _answer(send, 403, [], f"{refusal}\n".encode())
        elif asked:  # out of the address bar, and out of the history
            cookie = f"{self._keys.cookie}={self._keys.token}; HttpOnly; SameSite=Lax; Path=/"
            await _answer(send, 303, [("set-cookie", cookie), ("location", "/")], b"")
        elif int(headers.get("content-length") or 0) > _LARGEST or "transfer-encoding" in headers:
            await _answer(send, 413, [], b"the request is too long\n")
        else:
            await self._app(scope, receive, _with_headers(send))

    def _refusal(self, method: str, headers: dict[str, str], asked: str) -> str:
        """Why a request is refused; "" if it is not."""
        if headers.get("host", "") not in self._keys.hosts:
            return "this server answers to its own address only"
        origin = headers.get("origin")
        if origin is not None and origin not in [f"http://{host}" for host in self._keys.hosts]:
            return "this server answers to its own pages only"
        given = asked or _cookie(headers.get("cookie", ""), self._keys.cookie)
        if not _same(given, self._keys.token):
            return "open the address that `kibitz` printed: it has a token that is new with every start"
        if asked and method != "GET":
            return "a token in the address is for opening the page"
        if method not in ("GET", "HEAD") and not _same(headers.get("x-kibitz-key", ""), self._keys.writing):
            return "requests that change something come from the page itself"
        return ""


def _same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode(), secret.encode())


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _plain(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers]


async def _answer(send: Any, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    send = _with_headers(send)
    kind = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
    await send({"type": "http.response.start", "status": status, "headers": _plain([*kind, *headers])})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Any) -> Any:
    """Our headers on every answer; a policy that the answer has already stays."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            has = {name.decode("latin-1").lower() for name, _ in message["headers"]}
            more = {"content-security-policy": POLICY, **_HEADERS}
            added = _plain([(name, value) for name, value in more.items() if name not in has])
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return sending
