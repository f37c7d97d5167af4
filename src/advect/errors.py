"""The errors a user may meet: what is wrong, where, and what to do about it.

Every refusal in the library is an `AdvectError`. Its message is built from three parts so that no caller has to
remember to name the place or the remedy. Subclasses also derive from the fitting built-in exception, so that code
which knows nothing of advect (``except ValueError``) still works.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from unicodedata import category


class AdvectError(Exception):
    """Something the user can mend.

    Args:
        what: What is wrong, with the value seen.
        where: The place: file, row, column, argument, time.
        remedy: What to do next; a sentence in the imperative.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The three parts as one paragraph."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        head = head if head.endswith((".", "?", "!")) else head + "."
        return visible(f"{head} {self.remedy}" if self.remedy else head)

    def __str__(self) -> str:
        return self.message


class DataError(AdvectError, ValueError):
    """Data that cannot be read or used as asked."""


class ConfigError(AdvectError, ValueError):
    """A setting outside its allowed values, or settings that contradict one another."""


class ShapeError(AdvectError, ValueError):
    """A tensor or table of the wrong shape, with the expected and the given one."""


class UnknownNameError(AdvectError, ValueError):
    """A name that nothing answers to; the nearest known one is offered."""


class RunFolderError(AdvectError, OSError):
    """A run folder that is missing, damaged, locked or not writable."""

    def __str__(self) -> str:  # OSError formats its own arguments otherwise
        return self.message


class SolverError(AdvectError, ArithmeticError):
    """An integration that failed, with the row, the time and the reason."""


class TrainingError(AdvectError, RuntimeError):
    """Training that cannot go on: a non-finite loss, a diverged run."""


class UnsupportedError(AdvectError, NotImplementedError):
    """A question the model cannot answer, such as the density of a flow whose source has none."""


class MissingExtraError(AdvectError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


def visible(text: str) -> str:
    """The text with every character that would steer a terminal, or turn the direction of writing, written out.

    Names and values in messages come from files that anybody may have made.

    >>> visible("column 'a\x1b[2J'")
    "column 'a\\\\x1b[2J'"
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    return character not in "\n\t" and category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Return the option most like ``name``, or None when nothing is close.

    >>> nearest("ot-cmf", ["i-cfm", "ot-cfm"])
    'ot-cfm'
    """
    found = get_close_matches(name.lower(), {o.lower(): o for o in options}, n=1, cutoff=0.5)
    return {o.lower(): o for o in options}[found[0]] if found else None


def unknown_name(kind: str, name: str, options: Iterable[str], *, where: str | None = None) -> UnknownNameError:
    """Build the error for an unknown ``kind`` of thing called ``name``, offering the nearest option.

    >>> print(unknown_name("method", "ot-cmf", ["i-cfm", "ot-cfm"]))
    There is no method 'ot-cmf'. Did you mean 'ot-cfm'? Known: i-cfm, ot-cfm.
    """
    options = list(options)
    guess = nearest(name, options)
    hint = f"Did you mean {guess!r}? " if guess else ""
    return UnknownNameError(f"There is no {kind} {name!r}", where=where, remedy=f"{hint}Known: {', '.join(options)}.")


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """Build the error for an optional package that is not installed."""
    return MissingExtraError(
        f"{purpose} needs the package {package!r}, which is not installed",
        remedy=f"Install it with: pip install 'advect[{extra}]'",
    )
