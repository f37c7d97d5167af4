"""What the couplings that look at one batch at a time share: nothing has to be prepared."""

from typing import TypeVar

from torch import Generator, Tensor

Own = TypeVar("Own", bound="InBatch")


class InBatch:
    """A coupling whose plan depends on the rows of the batch alone."""

    def prepare(
        self: Own,
        source: Tensor | None,
        data: Tensor,
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Own:
        """Nothing depends on the whole sets: returns itself."""
        return self
