"""What is answered: the page, where a training stands, the report, rows, and what the network says."""

import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from advect.errors import AdvectError
from advect.report.page import policy
from advect.run import REPORT, RunFolder, standing_of
from advect.studio.bench import Bench
from advect.studio.following import following
from advect.studio.gate import Gate
from advect.studio.page import render_page, studio_policy
from advect.studio.views import views_of
from advect.studio.wish import Wish
from advect.studio.worker import Abandoned, Busy, Worker

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MOST_REPORT_BYTES = 64_000_000


class Answers:
    """The answers about one run; the model is opened when it is first there, and again when it has changed.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.worker = folder, Worker()
        self._bench: Bench | None = None
        self._opened = ""

    async def page(self, request: "Request") -> "Response":
        """The page, as far as the run has come."""
        from starlette.responses import HTMLResponse

        version, bench, trouble = "", None, ""
        try:
            version = standing_of(self.folder).model
            bench = await self._ask(request, lambda _: self._open()) if version else None
        except AdvectError as error:
            trouble = error.message
        text = render_page(self.folder, bench, version, trouble)
        return HTMLResponse(text, headers={"content-security-policy": studio_policy()})

    async def state(self, request: "Request") -> "Response":
        """Where the training stands."""
        return _json(following(standing_of(self.folder)))

    async def report(self, request: "Request") -> "Response":
        """The page that lies in the run's folder, under the policy of this version's pages, whatever it says."""
        from starlette.responses import HTMLResponse, PlainTextResponse

        path = self.folder.file(REPORT)
        if not path.is_file() or path.is_symlink() or path.stat().st_size > MOST_REPORT_BYTES:
            return PlainTextResponse("This run has no report yet.\n", 404)
        headers = {"content-security-policy": f"{policy()}; frame-ancestors 'none'"}
        return HTMLResponse(path.read_bytes(), headers=headers)

    async def draw(self, request: "Request") -> "Response":
        """New rows."""
        return await self._work(request, Bench.draw)

    async def views(self, request: "Request") -> "Response":
        """What the network says on the way."""
        return await self._work(request, views_of)

    async def _work(self, request: "Request", answer: Callable[[Bench, Wish], dict[str, Any]]) -> "Response":
        body = await request.body()

        def job(look: Callable[[], None]) -> dict[str, Any]:
            bench = self._open()
            wish = bench.wish(body)
            unwatch = bench.watch(look)
            try:
                return answer(bench, wish)
            finally:
                unwatch()

        return _json(await self._ask(request, job))

    async def _ask(self, request: "Request", job: Callable[[Callable[[], None]], Any]) -> Any:
        return await self.worker.run(job, request.is_disconnected)

    def _open(self) -> Bench:
        """The run as it is now; in the worker's thread."""
        version = standing_of(self.folder).model
        if self._bench is None or version != self._opened:
            self._bench, self._opened = Bench(self.folder), version
        return self._bench


def make_app(folder: RunFolder, token: str) -> Gate:
    """The application behind its gate; needs starlette."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    answers = Answers(folder)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        answers.worker.stop()

    routes = [
        Route("/", answers.page, methods=["GET"]),
        Route("/state", answers.state, methods=["GET"]),
        Route("/report", answers.report, methods=["GET"]),
        Route("/draw", answers.draw, methods=["POST"]),
        Route("/views", answers.views, methods=["POST"]),
    ]
    handlers = {AdvectError: _refused, Busy: _busy, Abandoned: _abandoned, Exception: _fault}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Gate(app, token)


def _json(value: dict[str, Any], status: int = 200) -> "Response":
    from starlette.responses import Response

    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False)
    return Response(text, status, media_type="application/json")


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def _refused(_: "Request", error: Exception) -> "Response":
    assert isinstance(error, AdvectError)
    return _json({"error": error.message}, 422)


async def _busy(_: "Request", error: Exception) -> "Response":
    return _json(
        {"error": "Too much is being computed already. Wait for it, or close other pages of this studio."}, 503
    )


async def _abandoned(_: "Request", error: Exception) -> "Response":
    return _json({"error": "The studio is closing."}, 503)


async def _fault(_: "Request", error: Exception) -> "Response":
    words = f"Something went wrong inside advect that should not have ({type(error).__name__}: {error})."
    return _json({"error": words}, 500)
