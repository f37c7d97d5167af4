"""Where a training stands, in the words and numbers of the page."""

from collections.abc import Sequence
from typing import Any

from advect.report.numerals import grouped, number
from advect.run import Standing

MOST_POINTS = 400  # of a curve


def following(standing: Standing) -> dict[str, Any]:
    """The record for the page's script."""
    train = _curve(standing, "train_loss")
    held_out = _curve(standing, "validation_loss")
    return {
        "state": standing.state,
        "model": standing.model,
        "report": standing.report,
        "share": standing.step / standing.steps if standing.steps else None,
        "words": words(standing),
        "ago": ""
        if standing.age is None or standing.state == "finished"
        else f"Last sign of life {span(standing.age)} ago.",
        "tiles": _tiles(standing, train, held_out),
        "train": train,
        "validation": held_out,
        "steps": standing.steps,
    }


def words(standing: Standing) -> str:
    """One sentence about it."""
    if standing.state == "finished":
        return "The training is finished."
    if standing.state != "started":
        return "There is no run in this folder at the moment."
    if standing.step == standing.steps:
        return "The last step is done; solvers are being measured."
    if standing.age is None:
        return "The training has begun; nothing is reported yet."
    if standing.silent:
        return "The training may have stopped. The same command continues it."
    return "In training."


def _tiles(standing: Standing, train: list, held_out: list) -> list[tuple[str, str]]:
    steps = "" if standing.steps is None else f" of {grouped(standing.steps)}"
    tiles = [("step", f"{grouped(standing.step)}{steps}")]
    if train:
        tiles.append(("training loss", number(train[-1][1], 4)))
    if held_out:
        tiles.append(("validation loss", number(held_out[-1][1], 4)))
    if standing.rate is not None:
        tiles.append(("steps per second", number(standing.rate)))
    if standing.seconds is not None:
        tiles.append(("training time", span(standing.seconds)))
    if standing.seconds_left is not None and not standing.silent and standing.step != standing.steps:
        tiles.append(("time left", f"about {span(standing.seconds_left)}"))
    return tiles


def span(seconds: float) -> str:
    """A span of time in words.

    >>> span(0.2), span(75), span(7500)
    ('1 s', '1 min 15 s', '2 h 5 min')
    """
    seconds = max(round(seconds), 1)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _curve(standing: Standing, name: str) -> list[tuple[int, float]]:
    """(step, value) of the lines that have one, evenly thinned with the last one kept."""
    points = [(line["step"], float(line[name])) for line in standing.history if isinstance(line.get(name), int | float)]
    return _thinned(points)


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    every = -(-len(points) // MOST_POINTS) if points else 1
    return list(points[::-1][::every][::-1])
