"""What a comparison passes on from its many trainings: each note once, no preflight of every single one."""

from advect.progress import Progress
from advect.workflows.listen import Listener
from advect.workflows.preflight import Preflight


class Hearing:
    """A listener between the trainings and the face."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._said: set[str] = set()

    def turn(self, name: str) -> None:
        """The next training begins."""
        self.listener.note(name)
        self._said = {text for text in self._said if not text.startswith("Continuing")}

    def note(self, text: str) -> None:
        """A sentence, unless it was said already: remarks about the rows are the same for every training."""
        if text not in self._said:
            self._said.add(text)
            self.listener.note(text)

    def preflight(self, preflight: Preflight) -> None:
        """Nothing: the comparison has a preflight of its own."""

    def progress(self, progress: Progress) -> None:
        """A line of life."""
        self.listener.progress(progress)

    def phase(self, name: str) -> None:
        """A phase; reading the same rows again is not worth a line."""
        if name != "reading":
            self.listener.phase(name)
