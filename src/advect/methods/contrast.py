"""The recipes of what is no flow and stands beside flows for comparison: latent variables and adversarial training.

Both sample as flows do and go through the one loop: an autoencoder is a map that draws, whose "log-determinant" makes
the likelihood a bound; a generative adversarial network is a map of one direction with an objective of two sides.
"""

from collections.abc import Callable
from dataclasses import dataclass

from advect.methods.blueprint import Blueprint, Parts
from advect.methods.discrete import DiscreteLikelihood
from advect.methods.likelihood import SOURCE
from advect.methods.option import Options
from advect.objectives import MaximumLikelihood
from advect.typing import Objective


@dataclass(frozen=True, kw_only=True)
class Contrast(DiscreteLikelihood):
    """See `methods.recipe.Recipe`.

    Attributes:
        words: What the two sides are and what is known of the likelihood, for the row's page.
        make_objective: Builds the loss from the options.
    """

    words: str
    make_objective: Callable[[Options], Objective] = lambda options: MaximumLikelihood()

    has_tractable_density = False

    def ends(self, options: Options) -> tuple[str, ...]:
        """What the two sides are."""
        return (self.words, SOURCE)

    def objective(self, blueprint: Blueprint, parts: Parts) -> Objective:
        """The row's loss."""
        return self.make_objective(blueprint.options)
