"""``advect verify``."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from advect.cli.codes import CHECK_FAILED, DONE
from advect.cli.console import say, show, show_json, show_pairs, show_table
from advect.cli.options import Json, Seed, flag, pairs, whole
from advect.errors import ConfigError

if TYPE_CHECKING:
    from advect.evaluation.verification import Verification


def verify(
    name: Annotated[
        str | None, Parameter(help="A row of `advect methods`, or a folder that `advect train` made.")
    ] = None,
    /,
    *,
    every: Annotated[bool, Parameter(name="--all"), flag("Every method that has a path.")] = False,
    settings: Annotated[
        tuple[str, ...],
        Parameter(name="--set", help="NAME=VALUE of the method; may be repeated.", negative="", show_default=False),
    ] = (),
    rows: Annotated[int, Parameter(help="Pairs behind every average.", converter=whole(64))] = 4096,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Does a path obey the laws that training on it presumes? Exit code 1 where one is broken.

    A path of your own is verified from Python: advect.verify(path).
    """
    from advect.workflows.verify import methods_with_a_path
    from advect.workflows.verify import verify as run_verify

    if every == (name is not None):
        raise ConfigError(
            "name one method or run folder, or say --all", where="advect verify", remedy="Such as: advect verify fm."
        )
    if every and settings:
        raise ConfigError("settings belong to one method", where="--set", remedy="Name the method in place of --all.")
    names = methods_with_a_path() if name is None else (name,)
    found = [run_verify(one, _options(one, settings), rows=rows, seed=seed) for one in names]
    passed = all(verification.passed for verification in found)
    if json:
        plain = [verification.plain() for verification in found]
        show_json(plain[0] if name is not None else {"passed": passed, "verifications": plain})
    elif name is not None:
        _show(found[0])
    else:
        _show_all(found)
    return DONE if passed else CHECK_FAILED


def _options(name: str, settings: tuple[str, ...]) -> dict:
    """The method's options among ``NAME=VALUE`` texts."""
    from advect.methods import METHODS
    from advect.workflows.request import read_settings

    if not settings or name not in METHODS:
        return pairs(settings)
    read = read_settings(name, pairs(settings))
    others = [*read.training, *read.settings]
    if others:
        raise ConfigError(
            f"{others[0]} is no setting of the path of {name}", where="--set", remedy=f"See: advect explain {name}."
        )
    return dict(read.options)


def _show(found: "Verification") -> None:
    """One line per law, then where, by how much and what to do for those that are broken."""
    show_table(
        ["", "law", "found", "size (allowed)"],
        [[check.status, check.law, check.message, check.size] for check in found.checks],
    )
    for check in found.failures:
        show()
        show(f"{check.law}: {check.message}")
        facts = {"where": check.place, "by": check.size, "measured as": check.reason, "likely fix": check.fix or ""}
        show_pairs([(name, text) for name, text in facts.items() if text])
    broken = len(found.failures)
    verdict = "every law holds" if not broken else f"{broken} {'law is' if broken == 1 else 'laws are'} broken"
    say(f"{found.name}: {verdict} ({found.rows} pairs, seed {found.seed}).")


def _show_all(found: list["Verification"]) -> None:
    """One line per path, and the broken laws of each."""
    lines = []
    for one in found:
        held = sum(check.status in ("pass", "note") for check in one.checks)
        skipped = sum(check.status == "skipped" for check in one.checks)
        broken = "; ".join(f"{check.law}: {check.message}" for check in one.failures)
        lines.append([one.name, "pass" if one.passed else "fail", f"{held} hold, {skipped} not asked", broken])
    show_table(["path", "", "laws", "broken"], lines)
