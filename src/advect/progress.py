"""Records of a running training: a line of life, and the rows that one of several processes holds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Window:
    """Some rows of a tensor that is held in parts.

    Attributes:
        first: The first of them.
        rows: How many; 0 where there are fewer rows than parts.
        whole: Rows of the whole tensor.
    """

    first: int
    rows: int
    whole: int


@dataclass(frozen=True)
class Progress:
    """One line of life from a running training, sent to a `Sink`.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        loss: Mean training loss since the last line.
        rate: Steps per second.
        seconds_left: Estimated time left.
        shares: Where the time went: phase name to fraction.
        rows_per_second: Rows trained on, by all processes together.
        processes: The shares of each of several processes.
        skipped: Steps that were not taken so far, as their gradients did not fit float16.
        product_share: What the products of the steps since the last line are of the device's best, see `training.work`;
            NaN where it was not measured.
        memory: Bytes that the process takes, of the card's memory where it trains on one; NaN where nothing tells.
    """

    step: int
    steps: int
    loss: float
    rate: float
    seconds_left: float
    shares: Mapping[str, float] = field(default_factory=dict)
    rows_per_second: float = math.nan
    processes: tuple[Mapping[str, float], ...] = ()
    skipped: int = 0
    product_share: float = math.nan
    memory: float = math.nan
