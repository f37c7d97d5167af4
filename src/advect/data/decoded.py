"""Pictures that are decoded when they are asked for, as rows: for folders and tar files too large for memory.

Every request goes to a decoding process of its own (`decoding`), which reads many pictures at once. What a picture
turns out to be may only be known then, long after a training began: a picture that cannot be decoded is left out,
counted and named, and the next usable one stands in for it, whoever asks and in whatever order. So a run does not end
by one file, and goes on as an undisturbed one would.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advect.data.extent import Extent
from advect.data.shards import Member
from advect.decoding import decoded
from advect.errors import DataError

AT_ONCE, VALUES_AT_ONCE = 1024, 1 << 24
MOST_WORKERS = 4
_TELLING = 16  # pictures asked for together, from which most of them failing says that something else is wrong


class PictureRows:
    """Pictures of one size by their places; see `stored.Rows`.

    Args:
        files: Paths, or members of tar files.
        sizes: Their bytes.
        how: What the decoding process is told: size, channels, limits.
        shape: ``(channels, height, width)``.
        origin: The folder, for messages.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        files: Sequence[str | Member],
        sizes: np.ndarray,
        how: Mapping[str, Any],
        shape: tuple[int, int, int],
        origin: Path,
    ) -> None:
        self._files, self._sizes, self._how, self._origin = files, sizes, dict(how), origin
        self.shape: tuple[int, ...] = (len(files), *shape)
        width = int(np.prod(shape))
        self.at_once = max(1, min(AT_ONCE, VALUES_AT_ONCE // width))
        self.workers = max(1, min(MOST_WORKERS, (os.cpu_count() or 2) - 1))
        full = np.full(width, 255.0)
        self.extent: Extent | None = Extent(0 * full, full, np.ones(width, bool), ((),) * width)
        self._broken: dict[int, str] = {}

    def take(self, index: np.ndarray) -> np.ndarray:
        """The pictures of these places, or those that stand in for them.

        Raises:
            DataError: Most of those asked for cannot be decoded: the folder has gone, or changed.
        """
        found: dict[int, np.ndarray] = {}
        while True:
            wanted = [self._usable(int(place)) for place in index]
            missing = sorted(set(wanted) - found.keys())
            if not missing:
                return (
                    np.stack([found[place] for place in wanted]) if wanted else np.empty((0, *self.shape[1:]), np.uint8)
                )
            for start in range(0, len(missing), self.at_once):
                asked = missing[start : start + self.at_once]
                here = self._decoded(asked)
                if len(asked) >= _TELLING and 2 * len(here) < len(asked):
                    raise DataError(
                        f"{len(asked) - len(here)} of {len(asked)} pictures can no longer be read",
                        where=str(self._origin),
                        remedy="Is the folder still there, and unchanged? Then start the same command again.",
                    )
                found |= here

    def notes(self) -> list[str]:
        """Pictures that were left out, by reason."""
        reasons: dict[str, list[int]] = {}
        for place, reason in sorted(self._broken.items()):
            reasons.setdefault(reason, []).append(place)
        return [
            f"{len(places)} picture{'s' * (len(places) > 1)} left out while training ({reason}), such as "
            f"{name_of(self._files[places[0]])}; the next one stood in"
            for reason, places in reasons.items()
        ]

    def fingerprint(self) -> str | None:
        """Over names and sizes: reading every byte of every picture would take as long as a training."""
        digest = hashlib.sha256()
        for file, size in zip(self._files, self._sizes.tolist(), strict=True):
            name = (
                os.path.relpath(file, self._origin) if isinstance(file, str) else f"{Path(file.tar).name}:{file.name}"
            )
            digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogatepass"))
        return f"{digest.hexdigest()} {self.shape}"

    def _usable(self, place: int) -> int:
        """This place, or the first one after it that is not known to be unusable."""
        for step in range(len(self._files)):
            if (place + step) % len(self._files) not in self._broken:
                return (place + step) % len(self._files)
        raise DataError("none of its pictures can be decoded", where=str(self._origin))

    def _decoded(self, places: list[int]) -> dict[int, np.ndarray]:
        """What can be decoded of these places; the others are noted."""
        while places:
            files = [self._files[place] for place in places]
            try:
                answer = decoded(
                    "pictures", self._origin, num_bytes=int(self._sizes[places].sum()), files=files, **self._how
                )
            except DataError as error:  # the process ended over one of them
                names = [name_of(file) for file in files]
                if error.where not in names:
                    raise
                self._broken[places.pop(names.index(error.where))] = "its decoder failed"
                continue
            for reason, left_out in dict(answer.meaning.get("left_out") or {}).items():
                self._broken |= {places[i]: str(reason) for i in left_out}
            kept, pixels = answer.meaning.get("kept"), answer.array(answer.meaning.get("pixels"))
            pixels = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, -1, 1)
            honest = isinstance(kept, list) and all(isinstance(k, int) and 0 <= k < len(places) for k in kept)
            if not honest or pixels.shape != (len(kept), *self.shape[1:]) or pixels.dtype != np.uint8:
                raise DataError("its pictures cannot be told apart", where=str(self._origin))
            return {places[k]: np.ascontiguousarray(picture) for k, picture in zip(kept, pixels, strict=True)}
        return {}


def name_of(file: str | Member) -> str:
    """A picture in words."""
    return file if isinstance(file, str) else f"{file.tar}:{file.name}"
