"""How a row of the table becomes objects: one recipe per way to build and train a map.

`Matching` regresses the velocity of an ODE along a path, `DiscreteLikelihood` fits discrete bijections and
`ContinuousLikelihood` an ODE by maximum likelihood. A row holds a recipe filled with its own parts; nothing asks for
its name.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from advect.flows import Flow
from advect.methods.blueprint import Blueprint, Parts
from advect.methods.option import Options
from advect.transforms.bijection import Likelihood
from advect.typing import Base, Coupling, Objective


@runtime_checkable
class Recipe(Protocol):
    """What every recipe offers.

    Attributes:
        has_tractable_density: Whether training goes through the flow's own density, so that it can also be fitted to
            an unnormalised log-density without rows.
        likelihood: What a model of this row knows of its log-density: its value, a lower bound, or nothing.
        has_ode: Whether the map is an ODE, with a time and solvers.
        pictures_only: Whether rows must be pictures.
        any_source: Whether the source may be something other than a standard normal.
        training: Defaults of the loop that differ from `TrainingConfig`'s.
        settings: Defaults of the model that differ from `Blueprint`'s.
    """

    @property
    def has_tractable_density(self) -> bool:
        """See above."""
        ...

    @property
    def likelihood(self) -> Likelihood:
        """See above."""
        ...

    @property
    def has_ode(self) -> bool:
        """See above."""
        ...

    @property
    def pictures_only(self) -> bool:
        """See above."""
        ...

    @property
    def any_source(self) -> bool:
        """See above."""
        ...

    @property
    def training(self) -> Mapping[str, Any]:
        """See above."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """See above."""
        ...

    def ends(self, options: Options) -> tuple[str, ...]:
        """What stands at the two ends and what may take the source's place: paragraphs for the row's page."""
        ...

    def resolve_network(self, name: str, *, event_shape: tuple[int, ...], num_rows: int | None = None) -> str:
        """The name of the network with its sizes; ``auto`` is the recipe's choice."""
        ...

    def refusal(self, blueprint: Blueprint, parts: Parts, source: Base | None) -> str | None:
        """Why this source or these parts cannot be used, or None."""
        ...

    def objective(self, blueprint: Blueprint, parts: Parts) -> Objective:
        """The loss per row."""
        ...

    def coupling(self, blueprint: Blueprint, parts: Parts) -> Coupling | None:
        """How source and data rows are paired; None where the objective needs no source rows."""
        ...

    def flow(
        self, blueprint: Blueprint, *, seed: int, source: Base | None, latent: Tensor | None, parts: Parts
    ) -> Flow:
        """The flow in latent coordinates, fitted to ``latent`` where it starts at a Gaussian fit."""
        ...
