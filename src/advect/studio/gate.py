"""What stands before every answer: who may ask, how, and how much.

A server on the loopback address can be reached by every page in the browser and by every user of the machine. So

- the link holds a random token, compared in constant time; without it nothing is told, not even that a page exists;
- the ``Host`` must be a loopback name: a foreign name that was made to point here (DNS rebinding) is refused;
- reading is GET; whatever costs or could change something is POST of JSON, from this very origin, of bounded size;
- every answer forbids to be stored, framed, sniffed or told about in a ``Referer``, which would carry the token.
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost")
MOST_BYTES = 16_384  # of a request's body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_NO_PAGE = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class Gate:
    """Lets through what is allowed, with the token taken off the path.

    Args:
        app: What answers then; it sees paths from ``/`` and bodies of at most `MOST_BYTES`.
        token: The secret of the link.
    """

    def __init__(self, app: App, token: str) -> None:
        self.app, self.token = app, token.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the module."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no sockets here
            return
        send = _with_headers(send)
        path = self._inner_path(scope)
        refused = self._refused(scope, path)
        if refused is None and scope["method"] == "POST":
            body = await _body(receive)
            refused = (413, "This request is too large.") if body is None else None
            receive = _again(body or b"", receive)
        if refused is not None or path is None:
            assert refused is not None
            await _answer(send, *refused)
            return
        await self.app({**scope, "path": path, "raw_path": path.encode("ascii"), "root_path": ""}, receive, send)

    def _inner_path(self, scope: Scope) -> str | None:
        """The path behind the token, or None where it does not begin with it."""
        path = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogateescape")
        _, token, rest = [*path.split(b"/", 2), b"", b""][:3]
        if not hmac.compare_digest(token, self.token):
            return None
        inner = b"/" + rest
        return inner.decode("ascii") if inner.isascii() and path.count(b"/") >= 2 else None

    def _refused(self, scope: Scope, path: str | None) -> tuple[int, str] | None:
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or _host_name(hosts[0]) not in LOOPBACK:
            return 403, "This server answers to 127.0.0.1 and localhost only."
        if path is None:
            return 403, "This link is not the one that advect studio printed."
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "Only GET and POST are understood here."
        if scope["method"] != "POST":
            return None
        origins = [value for name, value in headers if name == b"origin"]
        if origins != [b"http://" + hosts[0]]:
            return 403, "This request comes from another page."
        kinds = [value.partition(b";")[0].strip().lower() for name, value in headers if name == b"content-type"]
        return None if kinds == [b"application/json"] else (415, "Requests are JSON here.")


def _host_name(host: bytes) -> str:
    """The name without the port; empty for what is no name with a port."""
    name, colon, port = host.decode("latin-1").strip().lower().partition(":")
    return "" if colon and not port.isdecimal() else name


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None where it is too large: the rest is then never read."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return None
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """The body that was read, once more, and then whatever comes."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def once_more() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return once_more


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            named = {name.lower() for name, _ in headers}
            headers += [pair for pair in (*_HEADERS, _NO_PAGE) if pair[0] not in named]
            message = {**message, "headers": headers}
        await send(message)

    return sending


async def _answer(send: Send, status: int, text: str) -> None:
    body = (text + "\n").encode("utf-8")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode("ascii"))]
    # What was not read of a body would be taken for the next request.
    headers += [(b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
