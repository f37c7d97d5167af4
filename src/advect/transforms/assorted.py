"""Different monotone functions for different coordinates, as one: splines on the line beside splines on the circle."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from advect.errors import ConfigError
from advect.transforms.monotone import Monotone, Moved


class Assorted(Monotone):
    """Each column of ``(…, columns)`` through the function of its group.

    Every column gets as many parameters as the greediest function needs; the others leave theirs unused.

    Args:
        groups: Pairs of column indices and a function. Together they name each column 0 … columns − 1 once.

    Raises:
        ConfigError: If they do not.
    """

    def __init__(self, groups: Sequence[tuple[Sequence[int], Monotone]]) -> None:
        super().__init__()
        order = [column for columns, _ in groups for column in columns]
        if not order or sorted(order) != list(range(len(order))):
            raise ConfigError(
                f"The groups hold the columns {order}", where="Assorted", remedy="Name each of 0, 1, 2, … exactly once."
            )
        self.functions = nn.ModuleList(function for _, function in groups)
        self.num_parameters = max(function.num_parameters for _, function in groups)
        for index, (columns, _) in enumerate(groups):
            self.register_buffer(f"columns_{index}", torch.tensor(list(columns)), persistent=False)
        self.register_buffer("back", torch.tensor(order).argsort(), persistent=False)

    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        """y and log ∂y/∂x; see `Monotone`."""
        return self._each("forward", x, parameters)

    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        """x and log ∂x/∂y; see `Monotone`."""
        return self._each("inverse", y, parameters)

    def _each(self, verb: str, x: Tensor, parameters: Tensor) -> Moved:
        parts: list[Moved] = []
        for index, function in enumerate(self.functions):
            columns = self.get_buffer(f"columns_{index}")
            given = parameters.index_select(-2, columns)[..., : function.num_parameters]
            parts.append(getattr(function, verb)(x.index_select(-1, columns), given))
        back = self.get_buffer("back")
        value, slope = (
            torch.cat([getattr(part, name) for part in parts], -1).index_select(-1, back)
            for name in ("value", "log_slope")
        )
        if all(part.converged is None for part in parts):
            return Moved(value, slope)
        known = [torch.ones_like(p.value, dtype=torch.bool) if p.converged is None else p.converged for p in parts]
        return Moved(value, slope, torch.cat(known, -1).index_select(-1, back))
