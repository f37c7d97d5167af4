"""A port on the loopback address, a link with a token, and a server that stops when it is told to."""

import logging
import os
import secrets
import socket
import sys
import threading
import time
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advect.errors import ConfigError, missing_extra
from advect.run import RunFolder

ADDRESS = "127.0.0.1"
_TOKEN_BYTES = 24
_GRACE_SECONDS = 2  # for answers that are under way when the server stops


@dataclass(frozen=True)
class Studio:
    """A studio whose port is taken and which does not answer yet.

    Attributes:
        folder: The run.
        link: Where a browser finds it; whoever has the link may ask.
        port: Of the loopback address.
    """

    folder: RunFolder
    link: str
    port: int
    _socket: socket.socket
    _server: Any

    def serve(self, *, show: bool = False) -> None:
        """Answer until SIGINT or SIGTERM comes, or `stop` is called.

        Args:
            show: Open the link in the browser of this machine once the server answers.
        """
        if show and has_screen():
            threading.Thread(target=self._show, daemon=True).start()
        try:
            self._server.run(sockets=[self._socket])
        except KeyboardInterrupt:  # which the server passes on when it has stopped
            pass
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Ask the server to stop, from another thread."""
        self._server.should_exit = True

    def _show(self) -> None:
        while not self._server.started and not self._server.should_exit:
            time.sleep(0.02)
        webbrowser.open(self.link)


def open_studio(run: Path | str, *, port: int = 0) -> Studio:
    """Take a port and make the link.

    Args:
        run: The folder of a run, finished or in training.
        port: Of the loopback address; 0 for any that is free.

    Raises:
        RunFolderError: The folder holds no run.
        ConfigError: The port is taken, or is no port.
        MissingExtraError: The web server is not installed.
    """
    folder = RunFolder(run)
    folder.require_run()
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise missing_extra(str(error.name).partition(".")[0], "web", "the studio") from None
    from advect.studio.app import make_app

    token = secrets.token_urlsafe(_TOKEN_BYTES)
    bound = _bound(port)
    taken = int(bound.getsockname()[1])
    config = uvicorn.Config(
        make_app(folder, token),
        log_config=None,
        log_level=logging.CRITICAL,
        access_log=False,  # which would write the token down
        server_header=False,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        limit_concurrency=64,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return Studio(folder, f"http://{ADDRESS}:{taken}/{token}/", taken, bound, uvicorn.Server(config))


def has_screen() -> bool:
    """Whether a browser could be shown here: on Linux there must be a display, or a text browser would take over."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _bound(port: int) -> socket.socket:
    """A socket bound to the port, on the loopback address and nowhere else.

    Raises:
        ConfigError: The port is taken, may not be had, or is no port.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"{port} is no port", where="--port", remedy="Give one from 1024 to 65535, or 0 for any.")
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # elsewhere this would let two servers share a port
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((ADDRESS, port))
        made.listen(128)
    except OSError as error:
        made.close()
        raise ConfigError(
            f"port {port} of this machine cannot be used ({error.strerror or error})",
            where="--port",
            remedy="Another server may have it: name another port, or leave --port out to take any that is free.",
        ) from error
    return made
