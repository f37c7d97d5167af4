"""Our flows as density estimators of `sbi`: ``NPE(prior, density_estimator=density_estimator("nsf"))``.

Written against sbi 0.27, its contract `ConditionalDensityEstimator`. What is called what there (trap P12):

- the *input* is the thing whose density is learned, the *condition* what it is given: parameters given an observation
  in NPE, an observation given parameters in NLE;
- shapes are ``(sample, batch, *input)`` for inputs and ``(batch, *condition)`` for conditions; log-densities come as
  ``(sample, batch)``, losses as ``(batch,)``, draws as ``(*sample_shape, batch, *input)``;
- densities are in nats and in the units of the input: standardisation is inside, as in sbi's own estimators;
- times, where sbi has some, run from data at t = 0 to noise at t = 1, against ours. None is ever handed over: an ODE
  of ours is asked for densities and draws only;
- draws and initial weights follow torch's global generator, as everything in sbi does: `torch.manual_seed` decides.

The prior plays no part here. A flow has density on all of space, so some of it leaks out of a bounded prior; what
happens then is up to sbi's posterior: `DirectPosterior.sample` draws again until all draws lie inside, its `log_prob`
is −∞ outside and divided by the share of draws inside, unless ``norm_posterior=False``. A row whose inverse or ODE
failed is NaN, counts as outside, and is drawn again.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from advect.errors import ConfigError, MissingExtraError, ShapeError, unknown_name
from advect.flows import Flow
from advect.methods import build, full_flow, get_method, resolve_blueprint, resolve_options
from advect.records import Batch
from advect.transforms import Standardise
from advect.typing import Objective

Z_SCORES = ("independent", "structured", "none")
"""Each number by its own mean and deviation; all by one; not at all."""


def density_estimator(
    method: str = "nsf",
    *,
    embedding_net: nn.Module | None = None,
    z_score_input: str = "independent",
    z_score_condition: str = "independent",
    network: str = "auto",
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Callable[[Tensor, Tensor], nn.Module]:
    """What sbi's `NPE` and `NLE` take as ``density_estimator``: it builds the flow when it sees the simulations.

    Args:
        method: Any row of `advect methods` that is trained by its likelihood, such as ``nsf``, ``maf`` or ``cnf``.
        embedding_net: From standardised conditions ``(batch, *condition)`` to ``(batch, …)``, trained along; whatever
            it returns is flattened. Without one the conditions themselves are.
        z_score_input: ``independent``, ``structured`` (one mean and deviation for all numbers) or ``none``.
        z_score_condition: Likewise, before the embedding.
        network: Sizes of the networks in the flow, such as ``mlp-2x64``; ``auto`` goes by the simulations.
        seed: Of the initial weights; by default drawn from torch's global generator.
        settings: Settings of the model, as of `advect.fit`, such as ``{"likelihood_tolerance": 1e-4}``.
        options: Those of the method: ``layers=8``, ``bins=16``.

    Returns:
        ``build(input, condition) -> estimator``, an instance of sbi's `ConditionalDensityEstimator` with
        ``log_prob``, ``loss``, ``sample``, ``sample_and_log_prob`` and ``inverse_transform``.

    Raises:
        UnknownNameError: There is no such method, option or kind of z-scoring.
        ConfigError: An option out of range, or a method that is not trained by its likelihood.
        MissingExtraError: On building, if sbi is not installed.
    """
    row = get_method(method)
    if not row.recipe.has_tractable_density:
        raise ConfigError(
            f"{method} learns a velocity, and sbi trains this estimator by its likelihood",
            where="method",
            remedy="Use nsf, maf or cnf, or fit it with advect.fit(parameters, condition=observations).",
        )
    resolve_options(row, options)  # a misspelt option is told now, not when sbi builds
    for name in (z_score_input, z_score_condition):
        if name not in Z_SCORES:
            raise unknown_name("z-scoring", name, Z_SCORES)

    def make(input: Tensor, condition: Tensor) -> nn.Module:
        density = _density_class()
        seen = Seen(condition, z_score_condition, embedding_net)
        scale = z_score(input, z_score_input)
        blueprint = resolve_blueprint(
            method,
            options,
            event_shape=tuple(input.shape[1:]),
            condition_features=seen.features,
            network=network,
            num_rows=len(input),
            settings=settings,
        )
        built = build(
            blueprint,
            seed=_generator().initial_seed() if seed is None else seed,
            latent=scale.encode(input, log_det=False).value,
        )
        return density(full_flow(built.core, scale), seen, built.objective, input.shape[1:], condition.shape[1:])

    return make


class Seen(nn.Module):
    """What the flow sees of conditions ``(batch, *condition)``: standardised, embedded, flattened to vectors.

    Args:
        conditions: Those of the simulations.
        kind: How they are standardised, one of `Z_SCORES`.
        embedding: See `density_estimator`.
    """

    def __init__(self, conditions: Tensor, kind: str, embedding: nn.Module | None) -> None:
        super().__init__()
        self.scale, self.embedding = z_score(conditions, kind), embedding or nn.Identity()
        training = self.embedding.training
        with torch.no_grad():
            self.embedding.eval()  # looking at two rows must not count as training on them
            self.features = self(conditions[:2]).shape[1]
        self.embedding.train(training)

    def forward(self, condition: Tensor) -> Tensor:
        """``(batch, features)``."""
        return self.embedding(self.scale.encode(condition, log_det=False).value).flatten(1)


class Contract:
    """sbi's contract, over a flow. Mixed into sbi's own class when that is first needed.

    Attributes:
        net: The flow, in the units of the input.
        seen: From conditions to what the flow takes.
        objective: The loss that the method is trained by.
        input_shape: Shape of one input.
        condition_shape: Shape of one condition.
    """

    net: Flow
    seen: Seen
    objective: Objective
    input_shape: torch.Size
    condition_shape: torch.Size

    @property
    def embedding_net(self) -> nn.Module:
        """From raw conditions to the vectors that the flow is given."""
        return self.seen

    def log_prob(self, input: Tensor, condition: Tensor) -> Tensor:
        """Log-density ``(sample, batch)`` in nats.

        Args:
            input: ``(sample, batch, *input)`` or ``(batch, *input)``.
            condition: ``(batch, *condition)`` or ``(sample, batch, *condition)``; sizes of one are repeated.

        Raises:
            ShapeError: Anything else.
        """
        rows, given, leading = self._align(input, condition)
        return self.net.log_prob(rows, given, generator=_generator()).reshape(leading)

    def loss(self, input: Tensor, condition: Tensor) -> Tensor:
        """Loss ``(batch,)`` of inputs ``(batch, *input)``: −log p, with the penalties of the method in training."""
        leading_of(input, self.input_shape, 1, "input")
        leading_of(condition, self.condition_shape, 1, "condition")
        rows, given, _ = self._align(input, condition)
        return self.objective(self.net, Batch(rows, condition=given), generator=_generator())

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int], condition: Tensor) -> Tensor:
        """Draws ``(*sample_shape, batch, *input)``, so many for each of the conditions ``(batch, *condition)``."""
        given, leading = self._repeat(sample_shape, condition)
        drawn = self.net.sample(len(given), given, generator=_generator())
        return drawn.reshape(*leading, *self.input_shape)

    def sample_and_log_prob(self, sample_shape: Sequence[int], condition: Tensor) -> tuple[Tensor, Tensor]:
        """Draws as of `sample`, with gradients, and their log-densities ``(*sample_shape, batch)``, in one pass."""
        given, leading = self._repeat(sample_shape, condition)
        drawn, log_prob = self.net.sample_and_log_prob(len(given), given, generator=_generator())
        return drawn.reshape(*leading, *self.input_shape), log_prob.reshape(leading)

    def inverse_transform(self, input: Tensor, condition: Tensor) -> Tensor:
        """The source ``(sample, batch, *input)`` of inputs: standard normal where the model is right."""
        rows, given, leading = self._align(input, condition)
        source = self.net.encode(rows, given, generator=_generator()).value
        return source.reshape(*leading, *self.input_shape)

    def _align(self, input: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """Inputs and embedded conditions row by row, and ``(sample, batch)``."""
        sizes = leading_of(input, self.input_shape, 2, "input")
        given = leading_of(condition, self.condition_shape, 2, "condition")
        try:
            leading = torch.broadcast_shapes((1, *sizes)[-2:], given)
        except RuntimeError:
            raise ShapeError(
                f"The input has the leading sizes {tuple(sizes)}, the condition {tuple(given)}",
                where="density estimator",
                remedy="Give as many conditions as inputs, or one.",
            ) from None
        # Each condition is embedded once, however many inputs it has.
        seen = self.seen(condition.reshape(-1, *self.condition_shape)).reshape(*given, -1)
        rows = input.expand(*leading, *self.input_shape).reshape(-1, *self.input_shape)
        return rows, seen.expand(*leading, -1).reshape(-1, seen.shape[-1]), leading

    def _repeat(self, sample_shape: Sequence[int], condition: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Embedded conditions once for each draw, and ``(*sample_shape, batch)``."""
        leading_of(condition, self.condition_shape, 1, "condition")
        leading = (*sample_shape, len(condition))
        seen = self.seen(condition)
        return seen.expand(*leading, -1).reshape(-1, seen.shape[1]), leading


def _generator() -> torch.Generator:
    """A generator of our own that follows torch's global one, the only one that sbi's users can seed."""
    return torch.Generator().manual_seed(int(torch.randint(2**31, ())))


def leading_of(tensor: Tensor, shape: torch.Size, most: int, what: str) -> torch.Size:
    """The sizes before those of one event; raises `ShapeError` unless there are between one and ``most``."""
    count = tensor.ndim - len(shape)
    if tensor.shape[max(count, 0) :] != shape or not 1 <= count <= most:
        words = ["(sample, batch", "(batch"][2 - most :]
        expected = " or ".join(", ".join([word, *map(str, shape)]) + ")" for word in words)
        raise ShapeError(f"The {what} has shape {tuple(tensor.shape)}, expected {expected}", where="density estimator")
    return tensor.shape[:count]


def z_score(rows: Tensor, kind: str) -> Standardise:
    """The map that standardises such rows ``(rows, *event)``, by those of them that are finite."""
    shape = tuple(rows.shape[1:])
    kept = rows[rows.reshape(len(rows), -1).isfinite().all(1)].double()
    shift, scale = torch.zeros(()).double(), torch.ones(()).double()
    if kind == "independent":
        shift, scale = kept.mean(0), kept.std(0)
    elif kind == "structured":
        shift, scale = kept.mean(), kept.std()
    # Constant numbers keep their scale; what is left of their deviation is rounding.
    constant = ~(scale > 16 * torch.finfo(rows.dtype).eps * shift.abs())
    scale = torch.where(constant, 1.0, scale)
    return Standardise(shift.nan_to_num().to(rows.dtype), scale.to(rows.dtype), shape)


@lru_cache
def _density_class() -> type:
    """`FlowDensity`: our methods, sbi's class."""
    try:
        base: Any = import_module("sbi.neural_nets.estimators.base").ConditionalDensityEstimator
    except ImportError as error:
        raise MissingExtraError(
            "This needs the package 'sbi', which is not installed", remedy="Install it with: pip install sbi"
        ) from error

    class FlowDensity(Contract, base):
        """A flow of advect as a density estimator of sbi."""

        def __init__(
            self, net: Flow, seen: Seen, objective: Objective, input_shape: torch.Size, condition_shape: torch.Size
        ) -> None:
            base.__init__(self, net, input_shape, condition_shape)
            self.seen, self.objective = seen, objective

    FlowDensity.__qualname__ = "FlowDensity"  # by which a pickle finds it, through `__getattr__`
    return FlowDensity


def __getattr__(name: str) -> Any:
    """`FlowDensity` by name, for those who load what sbi has saved."""
    if name == "FlowDensity":
        return _density_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
