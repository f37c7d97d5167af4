"""Decoding processes for the fuzzer, forked from a small process, each for a few files.

advect starts a process anew for every file, which takes a second of imports. The fuzzer's workers hold torch, and to
fork them takes fifty milliseconds and more. So a third process imports the decoders alone and forks a child, which
sets the library's own limits, answers as `advect.decoding.child` does, and ends after `FILES` files. One that crashes
or takes too long is gone with its file; what a file broke without a crash may show at one of the next, and is counted
there.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, BinaryIO, NoReturn

from advect.decoding.child import DECODERS, serve

SECONDS = 4.0
"""A decoding process is ended after this long, where the library itself waits a minute."""
FILES = 20
"""Files that one child reads."""
LARGEST_REQUEST = 1 << 17


class Nursery:
    """Takes the place of `guard.run_child`.

    Args:
        kinds: The decoders that are imported before the first fork.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, "-m", "benchmarks.reliability.nursery", str(theirs.fileno()), *kinds]
        self._process = subprocess.Popen(words, pass_fds=[theirs.fileno()])
        theirs.close()
        self.forget()

    def forget(self) -> None:
        """Begin anew with `mebibytes`, the most that a child took beyond what it was born with, and `ending`."""
        self.mebibytes, self.ending = 0.0, ""

    def run_child(self, asked: bytes, answer: BinaryIO, trace: BinaryIO, seconds: float) -> int:
        """As `guard.run_child`, with `SECONDS` in place of its patience.

        Raises:
            subprocess.TimeoutExpired: The child took longer.
            RuntimeError: The small process itself has ended, or the request is longer than it reads.
        """
        if len(asked) >= LARGEST_REQUEST:
            raise RuntimeError(f"a request of {len(asked)} bytes")
        socket.send_fds(self._ours, [asked], [answer.fileno(), trace.fileno()])
        said = json.loads(self._ours.recv(1 << 12) or b"null")
        if said is None:
            raise RuntimeError("the process that forks decoding processes has ended")
        self.mebibytes = max(self.mebibytes, said["mebibytes"])
        if said["code"] is None:
            self.ending = "hangs"
            raise subprocess.TimeoutExpired("decoding", SECONDS)
        self.ending = f"exit code {said['code']}" if said["code"] else self.ending
        return said["code"]

    def close(self) -> None:
        """End the small process."""
        self._ours.close()
        self._process.wait()


def _keep(channel: socket.socket, kinds: Sequence[str]) -> None:
    """The life of the small process: requests go to a child, until nobody asks any more."""
    for kind in kinds:
        import_module(DECODERS[kind]).load()
    child: _Child | None = None
    while True:
        asked, files, _, _ = socket.recv_fds(channel, LARGEST_REQUEST, 2)
        if not asked:
            break
        child = child or _Child()
        said = child.said(asked, files)
        channel.send(json.dumps(said).encode())
        for file in files:
            os.close(file)
        if said["code"] != 0 or child.left == 0:
            child = child.end()
    if child:
        child.end()


class _Child:
    """The small process's end of one decoding process."""

    def __init__(self) -> None:
        self.left = FILES
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if not self.pid:
            self._ours.close()
            _decode(theirs)
        theirs.close()

    def said(self, asked: bytes, files: Sequence[int]) -> dict[str, Any]:
        """What became of a request: the exit code (0 of one that goes on, None of one that hung) and what it took."""
        self.left -= 1
        socket.send_fds(self._ours, [asked], files)
        heard, _, _ = select.select([self._ours], [], [], SECONDS)
        told = self._ours.recv(64) if heard else b""
        if told:
            return {"code": 0, "mebibytes": float(told)}
        if not heard:
            os.kill(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        self.pid = 0
        code = (os.waitstatus_to_exitcode(status) or 1) if heard else None
        return {"code": code, "mebibytes": max(usage.ru_maxrss - _status("VmRSS"), 0) / 1024}

    def end(self) -> None:
        """Nobody asks it any more."""
        self._ours.close()
        if self.pid:
            os.waitpid(self.pid, 0)


def _decode(channel: socket.socket) -> NoReturn:
    """The life of a decoding process; says of each file what MiB reading it took."""
    try:
        while True:
            asked, (answer, trace), _, _ = _received(channel)
            with open("/proc/self/clear_refs", "w") as stream:
                stream.write("5")
            held = _status("VmRSS")
            os.dup2(trace, 2)
            os.close(trace)
            with os.fdopen(answer, "wb") as stream:
                serve(asked, stream)
            channel.send(str((_status("VmHWM") - held) / 1024).encode())
    except EOFError:
        os._exit(0)
    finally:
        os._exit(1)


def _received(channel: socket.socket) -> tuple[bytes, list[int], int, Any]:
    """A request with its two files.

    Raises:
        EOFError: There are no more.
    """
    found = socket.recv_fds(channel, LARGEST_REQUEST, 2)
    if not found[0]:
        raise EOFError
    return found


def _status(key: str) -> int:
    """KiB of this process."""
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith(key))


if __name__ == "__main__":
    _keep(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
