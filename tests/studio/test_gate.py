"""What is let through and what is not, request by request, without a server."""

import asyncio

import pytest

from advect.studio.gate import MOST_BYTES, Gate

TOKEN = "Kq7_secret-token"
HOST = b"127.0.0.1:8000"


async def inner(scope, receive, send):
    """Echoes the path and the body that it sees."""
    body = b""
    if scope["method"] == "POST":
        message = await receive()
        assert not message["more_body"]
        body = message["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-security-policy", b"own")]})
    await send({"type": "http.response.body", "body": scope["path"].encode() + b"|" + body})


def ask(path, method="GET", headers=(), body=(b"",), host=HOST):
    """Status, headers and body of an answer; ``body`` comes in these pieces."""
    pieces, sent = list(body), []

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    hosts = [] if host is None else [(b"host", host)]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": [*hosts, *headers]}
    asyncio.run(Gate(inner, TOKEN)(scope, receive, send))
    start, *rest = sent
    return start["status"], dict(start["headers"]), b"".join(m["body"] for m in rest), pieces


def posted(**more):
    headers = {b"origin": b"http://" + HOST, b"content-type": b"application/json"} | more.pop("headers", {})
    pairs = [(name, value) for name, value in headers.items() if value is not None]
    return ask(f"/{TOKEN}/draw", "POST", pairs, **more)


def test_the_link_opens():
    status, headers, body, _ = ask(f"/{TOKEN}/")
    assert (status, body) == (200, b"/|")
    assert headers[b"content-security-policy"] == b"own"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"referrer-policy"] == b"no-referrer"
    assert headers[b"x-frame-options"] == b"DENY"
    assert ask(f"/{TOKEN}/state")[2] == b"/state|"
    assert ask(f"/{TOKEN}/state", host=b"localhost:9000")[0] == 200  # a tunnel may have another port


@pytest.mark.parametrize(
    "path",
    ["/", "", "//", f"/{TOKEN}", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", f"/{TOKEN.lower()}/", "/state", f"//{TOKEN}/",
     f"/x/{TOKEN}/", "/%4b/", f"/{TOKEN}/ä"],
)  # fmt: skip
def test_without_the_token_nothing_is_told(path):
    status, _, body, _ = ask(path)
    assert status == 403
    assert TOKEN.encode() not in body


@pytest.mark.parametrize(
    "host",
    [None, b"", b"evil.example", b"evil.example:8000", b"127.0.0.1.evil.example", b"localhost.evil.example:8000",
     b"127.0.0.2", b"0.0.0.0:8000", b"[::1]:8000", b"127.0.0.1:8000@evil.example", b"127.0.0.1:evil", b"127.0.0.1:"],
)  # fmt: skip
def test_foreign_hosts_are_refused(host):
    assert ask(f"/{TOKEN}/", host=host)[0] == 403
    assert posted(host=host, headers={b"origin": b"http://" + (host or b"")})[0] == 403


def test_two_hosts_are_refused():
    assert ask(f"/{TOKEN}/", headers=[(b"Host", b"evil.example")])[0] == 403


def test_posts_from_this_page():
    status, _, body, _ = posted(body=(b'{"rows"', b": 5}"))
    assert (status, body) == (200, b'/draw|{"rows": 5}')
    assert posted(headers={b"content-type": b"application/json; charset=utf-8"})[0] == 200


@pytest.mark.parametrize(
    "origin", [None, b"null", b"http://evil.example", b"https://" + HOST, b"http://localhost:8000", b"http://127.0.0.1"]
)
def test_posts_from_elsewhere(origin):
    assert posted(headers={b"origin": origin})[0] == 403


@pytest.mark.parametrize("kind", [None, b"text/plain", b"application/x-www-form-urlencoded", b"application/jsonp"])
def test_posts_that_a_form_could_make(kind):
    assert posted(headers={b"content-type": kind})[0] == 415


def test_bodies_are_bounded():
    """What is too large is refused after the piece that made it so; the rest is never read."""
    assert posted(body=(b"x" * MOST_BYTES,))[0] == 200
    status, headers, _, unread = posted(body=(b"x" * MOST_BYTES, b"x", b"never", b"read"))
    assert (status, headers[b"connection"], unread) == (413, b"close", [b"never", b"read"])


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get"])
def test_other_methods(method):
    assert ask(f"/{TOKEN}/draw", method)[0] == 405


def test_a_refusal_loads_nothing():
    headers = ask("/")[1]
    assert headers[b"content-security-policy"] == b"default-src 'none'; frame-ancestors 'none'"


def test_sockets_are_not_answered():
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Gate(inner, TOKEN)({"type": "websocket", "path": f"/{TOKEN}/", "headers": []}, None, send))
    assert sent == []
