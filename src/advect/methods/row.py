"""What a row of the table says."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from advect.methods.option import Option
from advect.methods.recipe import Recipe

NONE = "–"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table.

    Attributes:
        name: What users write.
        title: The field's name for it.
        map: The kind of map.
        couples: The coupling in words; a dash where the row has none.
        path: The path in symbols; a dash where the row has none.
        objective: The objective in words.
        equation: What is minimised.
        paper: Where it comes from.
        cost: What it costs.
        avoid: When not to use it.
        recipe: How the row becomes a flow, an objective and a coupling.
        options: Settings of its own.
    """

    name: str
    title: str
    map: str
    couples: str = NONE
    path: str = NONE
    objective: str
    equation: str
    paper: str
    cost: str
    avoid: str
    recipe: Recipe
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The row in one sentence; a dash stands for what it does not have."""
        between = "" if self.path == NONE else f": {self.path}, coupling {self.couples}"
        return f"{self.title}{between}, trained by {self.objective}."

    @property
    def gist(self) -> str:
        """What tells the row from the others: its path where it has one, else its map."""
        return self.map if self.path == NONE else self.path

    @property
    def any_source(self) -> bool:
        """Whether the source may be something other than a standard normal."""
        return self.recipe.any_source
