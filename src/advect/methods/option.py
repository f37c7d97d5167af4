"""A setting that a method accepts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Option:
    """A setting that a method accepts.

    Attributes:
        default: Its value when nothing is said; its type is the type that is accepted.
        meaning: One sentence.
        minimum: Smallest allowed value of a number.
        exclusive: Whether the minimum itself is refused.
        choices: The words allowed, where the value is one of a few words.
        earlier: What a run means that was written before there was the option, where that is not the default.
    """

    default: Any
    meaning: str
    minimum: float = 0.0
    exclusive: bool = False
    choices: tuple[str, ...] = ()
    earlier: Any = None
