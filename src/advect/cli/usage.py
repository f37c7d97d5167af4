"""Usage errors in the words of this command: the parser knows what is wrong, this module says it."""

from collections.abc import Sequence

from cyclopts import CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from advect.errors import AdvectError, ConfigError, nearest

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "Path": "a path"}


def refusal(error: CycloptsError, verbs: Sequence[str]) -> AdvectError:
    """A usage error as one of ours: what is wrong, where, and what to do.

    Args:
        error: As the parser raised it.
        verbs: Names of the verbs, to suggest from.
    """
    if isinstance(error.__cause__, AdvectError):
        return error.__cause__
    verb = " ".join(error.command_chain or ())
    command = f"advect {verb}".rstrip()
    see = f"See `{command} --help`."
    known = [v for v in verbs if not v.startswith("-")]
    match error:
        case UnknownCommandError(unused_tokens=[token, *_]) if token.startswith("-"):
            guess = nearest(token, ["--help", "--version"])
            return ConfigError(
                f"There is no option {token}", remedy=f"{_meant(guess)}Give a verb first: {_list(known)}."
            )
        case UnknownCommandError(unused_tokens=[token, *_]):
            return ConfigError(
                f"There is no verb {token!r}", remedy=f"{_meant(nearest(token, known))}Known: {_list(known)}."
            )
        case UnknownOptionError():
            token = (error.token.keyword or error.token.value).partition("=")[0]
            names = [name for argument in error.argument_collection for name in argument.names if name.startswith("-")]
            return ConfigError(f"`{command}` has no option {token}", remedy=f"{_meant(nearest(token, names))}{see}")
        case MissingArgumentError(argument=argument) if argument is not None:
            keyword = getattr(error, "keyword", None)  # cyclopts 4 does not tell
            if keyword or not argument.field_info.is_positional:
                return ConfigError(f"{keyword or argument.name} needs a value", remedy=see)
            name = argument.name.lstrip("-").upper()
            return ConfigError(f"`{command}` needs {name}: {_help(argument)}", remedy=see)
        case RepeatArgumentError(token=token):
            return ConfigError(f"{token.keyword} is given twice", remedy="Give it once.")
        case UnusedCliTokensError(unused_tokens=[token, *_]):
            return ConfigError(
                f"`{command}` does not know what to do with {token!r}: there is one argument too many", remedy=see
            )
        case CoercionError(token=token) if token is not None:
            kind = _KINDS.get(getattr(error.target_type, "__name__", ""), "a value of the right kind")
            return ConfigError(f"{token.value!r} is not {kind}", where=token.keyword, remedy=see)
    return ConfigError(" ".join(str(error).split()), remedy=see)


def _meant(guess: str | None) -> str:
    return f"Did you mean {guess}? " if guess else ""


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _help(argument: object) -> str:
    text = getattr(getattr(argument, "parameter", None), "help", None) or "an argument"
    return text[0].lower() + text[1:].rstrip(".")
