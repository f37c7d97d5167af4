"""`advect studio` as a process of its own, and the requests that a browser would make."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE = 120.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """A running studio.

    Args:
        run: The folder.
        scratch: Where standard output and standard error go.
        options: More words of the command.
    """

    def __init__(self, run: Path, scratch: Path, *options: str) -> None:
        self.log, self.out = scratch / "studio.err", scratch / "studio.out"
        with self.log.open("w") as log, self.out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "advect", "studio", str(run), "--no-open", *options],
                stdout=out,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.link = self._link()
        self.origin, _, rest = self.link.removeprefix("http://").partition("/")
        self.origin = f"http://{self.origin}"
        self.token = rest.rstrip("/")

    def _link(self) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = [word for word in self.log.read_text().split() if word.startswith("http://") and word[-1] == "/"]
            if found:
                return found[0]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        self.process.kill()
        raise AssertionError("the studio never told its link")

    def get(self, path: str = "", **headers: str) -> Answer:
        return self._ask(urllib.request.Request(self.link + path, headers=headers))

    def post(self, path: str, wish: Any, **headers: str) -> Answer:
        body = wish if isinstance(wish, bytes) else json.dumps(wish).encode()
        given = {"Origin": self.origin, "Content-Type": "application/json"} | headers
        return self._ask(urllib.request.Request(self.link + path, body, given, method="POST"))

    def at(self, address: str) -> Answer:
        """Another address of the same server."""
        return self._ask(urllib.request.Request(self.origin + address))

    @staticmethod
    def _ask(request: urllib.request.Request) -> Answer:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=PATIENCE) as response:
                return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)
