"""What a row of the table says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from advect.typing import Coupling, Path

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Option:
    """A setting that a method accepts.

    Attributes:
        default: Its value when nothing is said; its type is the type that is accepted.
        meaning: One sentence.
        minimum: Smallest allowed value of a number.
        exclusive: Whether the minimum itself is refused.
    """

    default: Any
    meaning: str
    minimum: float = 0.0
    exclusive: bool = False


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: What users write.
        title: The field's name for it.
        map: The kind of map.
        couples: The coupling in words.
        path: The path in symbols.
        objective: The objective in words.
        equation: What is minimised.
        paper: Where it comes from.
        cost: What it costs.
        avoid: When not to use it.
        make_path: Builds the conditional path from the options.
        make_coupling: Builds the coupling from the options.
        make_baseline: Builds the Gaussian velocity an untrained model starts from, fitted to latent rows, or in the
            form into which weights are loaded when there are none.
        options: Settings of its own.
        any_source: Whether the source may be something other than a standard normal.
    """

    name: str
    title: str
    map: str
    couples: str
    path: str
    objective: str
    equation: str
    paper: str
    cost: str
    avoid: str
    make_path: Callable[[Options], Path]
    make_coupling: Callable[[Options], Coupling]
    make_baseline: Callable[[Options, tuple[int, ...], Tensor | None], nn.Module]
    options: Mapping[str, Option] = field(default_factory=dict)
    any_source: bool = True
