"""Ctrl-C and SIGTERM: while the loop runs they ask it to stop after its step; at all other times they stop at once.

Everything a run writes is written whole or not at all, so stopping at once loses nothing but time. Only the loop has
a state that is worth the wait. Asking twice does not wait either.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Remembers that the user asked to stop.

    Attributes:
        asked: Whether a signal has come.
        patient: Whether the loop is running and will look at `asked` by itself.
    """

    def __init__(self) -> None:
        self.asked = self.patient = False

    def __call__(self) -> bool:
        """Whether to stop, for the loop."""
        return self.asked

    def phase(self, name: str) -> None:
        """A phase of the training begins; a request that came too late for the loop is followed now."""
        self.patient = name == "training"
        if self.asked and not self.patient:
            raise KeyboardInterrupt

    def signal(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.asked or not self.patient:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yield the request that SIGINT and SIGTERM fill in; the handlers from before are put back afterwards."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
