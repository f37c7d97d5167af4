"""How a workflow speaks to a face: it reports, it never prints."""

from typing import Protocol, runtime_checkable

from advect.progress import Progress
from advect.workflows.preflight import Preflight


@runtime_checkable
class Listener(Protocol):
    """Anything that wants to know how a workflow goes on."""

    def note(self, text: str) -> None:
        """A sentence worth showing."""
        ...

    def preflight(self, preflight: Preflight) -> None:
        """What a training that is about to start will do."""
        ...

    def progress(self, progress: Progress) -> None:
        """A line of life from training."""
        ...

    def phase(self, name: str) -> None:
        """A new phase begins, such as ``evaluating``."""
        ...


class Silence:
    """A listener that does not listen."""

    def note(self, text: str) -> None:
        """Nothing."""

    def preflight(self, preflight: Preflight) -> None:
        """Nothing."""

    def progress(self, progress: Progress) -> None:
        """Nothing."""

    def phase(self, name: str) -> None:
        """Nothing."""
