"""Decoding processes for the fuzzer: each file has one of its own, forked from a small process.

advect starts a process anew for every file, which takes a second of imports. The fuzzer's workers hold torch, and to
fork them takes fifty milliseconds and more. So a third process imports the decoders alone, and forks for every request:
the child sets the library's own limits, answers as `advect.decoding.child` does, and ends. What a file breaks is gone
with it.
"""

import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, BinaryIO

from advect.decoding.child import DECODERS, serve

SECONDS = 4.0
"""A decoding process is ended after this long, where the library itself waits a minute."""
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
    """The life of the small process: a child for each request, until nobody asks any more."""
    for kind in kinds:
        import_module(DECODERS[kind]).load()
    while True:
        asked, files, _, _ = socket.recv_fds(channel, LARGEST_REQUEST, 2)
        if not asked:
            return
        channel.send(json.dumps(_child(asked, *files)).encode())
        for file in files:
            os.close(file)


def _child(asked: bytes, answer: int, trace: int) -> dict[str, Any]:
    """Fork, wait, and say how the child ended: its exit code (None where it hung) and what it took."""
    born = mmap.mmap(-1, 8)  # shared: what the child holds before it reads anything
    child = os.fork()
    if not child:
        try:
            born[:] = _resident_kibibytes().to_bytes(8, "little")
            os.dup2(trace, 2)
            with os.fdopen(answer, "wb") as stream:
                serve(asked, stream)
            os._exit(0)
        finally:
            os._exit(1)
    handle = os.pidfd_open(child)
    ended, _, _ = select.select([handle], [], [], SECONDS)
    if not ended:
        os.kill(child, signal.SIGKILL)
    os.close(handle)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status) if ended else None
    return {"code": code, "mebibytes": max(usage.ru_maxrss - int.from_bytes(born, "little"), 0) / 1024}


def _resident_kibibytes() -> int:
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("VmRSS"))


if __name__ == "__main__":
    _keep(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
