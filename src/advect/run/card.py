"""`config.toml`: every setting of a run with its meaning, written for people and read back by `tomllib`.

A setting that nobody gave is marked ``default`` in its comment, one that was worked out from the data ``derived``, so
that the file explains how the run came to be.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

import tomli_w

from advect.errors import RunFolderError
from advect.run.folder import CONFIG, RunFolder


@dataclass(frozen=True)
class Setting:
    """One line of the configuration.

    Attributes:
        value: What TOML can hold: text, number, truth value, or a list of them.
        meaning: One short sentence.
        origin: ``given``, ``default`` or ``derived``.
    """

    value: object
    meaning: str = ""
    origin: str = "default"


Sections = Mapping[str, Mapping[str, Setting]]


def render(sections: Sections, *, head: str) -> str:
    """The text of a configuration; the section named ``""`` stands at the top without a heading."""
    lines = [f"# {line}" for line in head.splitlines()]
    for section, settings in sections.items():
        lines += ["", f"[{section}]"] if section else [""]
        for name, setting in settings.items():
            if setting.value is None:
                lines.append(f"# {name}: not set. {setting.meaning}")
                continue
            entry = f"{_toml_key(name)} = {_toml(_plain(setting.value))}"
            remark = "; ".join(part for part in (setting.origin, setting.meaning) if part)
            lines.append(f"{entry}  # {remark}".replace("\r", " "))
    return "\n".join(lines) + "\n"


def values(sections: Sections) -> dict:
    """The settings without their comments, as `read_config` returns them."""
    return tomllib.loads(render(sections, head=""))


def render_values(config: Mapping) -> str:
    """A configuration without comments, for a model that is saved from Python."""
    return tomli_w.dumps(dict(config))


def read_config(folder: RunFolder) -> dict:
    """The settings of a run.

    Raises:
        RunFolderError: The file is missing or damaged.
    """
    folder.require_run()
    try:
        return tomllib.loads(folder.read_text(CONFIG))
    except (ValueError, RecursionError) as error:  # a number of many thousand digits, a list within lists without end
        raise RunFolderError(
            f"{CONFIG} is damaged ({error})", where=str(folder.path), remedy="Restore it, or train anew with --restart."
        ) from error


_SHOWN = 48
"""Characters of a value that are worth showing; a digest is longer."""


def differences(old: Mapping, new: Mapping, prefix: str = "") -> list[str]:
    """Settings that differ, one line each: ``training.steps: 500 → 1000``.

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}})
    ['a.b: 1 → 2']
    """
    lines = []
    for name in [*old, *(n for n in new if n not in old)]:
        left, right = old.get(name), new.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differences(left, right, f"{prefix}{name}.")
        elif left != right:
            lines.append(f"{prefix}{name}: {_shown(left)} → {_shown(right)}")
    return lines


def _shown(value: object) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else f"{value[:12]}…")
    return "not set" if value is None else str(value)


def _toml(value: object) -> str:
    """A value on one line; `tomli_w` would spread a list over several."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return tomli_w.dumps({"x": value}).strip().removeprefix("x = ")


def _toml_key(name: str) -> str:
    return tomli_w.dumps({name: 0}).strip().removesuffix(" = 0")


def _plain(value: object) -> object:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value
