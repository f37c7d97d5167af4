"""A run guided by a weaker run of the same rows."""

import torch

from advect.errors import ConfigError
from advect.flows import Autoguided, Flow
from advect.run import Artefact

WHERE = "--guide-with"
_REMEDY = "Train the weaker run on the same rows with the same --seed (or --split-seed), --method and --condition."


def autoguided(strong: Artefact, weak: Artefact, weight: float, interval: tuple[float, float]) -> Flow:
    """The strong run's flow with the field of `flows.Autoguided`.

    Both fields must live in the same coordinates, so the two runs need the same columns, the same scaling of them and
    the same schedule; the network, its training and the options that leave the path alone may differ.

    Raises:
        ConfigError: They differ in one of these, or one of them has no ODE.
    """
    if strong.flow.ode is None or weak.flow.ode is None:
        raise ConfigError("one of the two runs is made of discrete layers: it has no field", where=WHERE)
    if strong.schema.names != weak.schema.names or strong.codec.event_shape != weak.codec.event_shape:
        raise ConfigError(
            f"the two runs have different columns: {_listed(strong)} and {_listed(weak)}", where=WHERE, remedy=_REMEDY
        )
    if strong.condition != weak.condition:
        raise ConfigError("the two runs have different conditions", where=WHERE, remedy=_REMEDY)
    if not _same_coordinates(strong, weak):
        raise ConfigError(
            "the two runs scale their columns differently: they were fitted to different rows",
            where=WHERE,
            remedy=_REMEDY,
        )
    field = Autoguided(strong.flow.ode.field, weak.flow.ode.field, weight, interval=interval)
    return strong.flow.with_options(field=field)


def _same_coordinates(strong: Artefact, weak: Artefact) -> bool:
    if strong.codec.coordinates != weak.codec.coordinates:
        return False
    mine, other = (list(a.flow.split_at_ode(WHERE)[0].state_dict().values()) for a in (strong, weak))
    return len(mine) == len(other) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(mine, other, strict=True)
    )


def _listed(artefact: Artefact) -> str:
    names = artefact.schema.names
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
