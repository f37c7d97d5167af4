"""D1 and D2: the divergence of a field, and log-densities at equal error."""

import copy
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advect.flows import Flow
from advect.solvers import Adams3Quadrature, Adaptive, make_solver
from advect.typing import Solver
from benchmarks.speed.fields import starts, trained_flow
from benchmarks.speed.harness import Contender, Goal, growth, task
from benchmarks.speed.rows import Row
from benchmarks.speed.training import points

ROWS_SCORED, ROWS_SEARCHED = 512, 64


def torchdyn_trace() -> Callable[[Tensor, Tensor], Tensor]:
    """torchdyn's own function, read from its file: its package asks for more at import than this needs."""
    home = importlib.util.find_spec("torchdyn")
    assert home is not None
    assert home.submodule_search_locations is not None
    path = Path(home.submodule_search_locations[0]) / "models" / "cnf.py"
    spec = importlib.util.spec_from_file_location("torchdyn_cnf", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.autograd_trace


def lean_trace(field: Any, t: float, x: Tensor) -> Tensor:
    """One backward pass per coordinate on one graph, and no graph of those passes."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        total, sums = torch.zeros(len(x)), field(t, x).sum(0)
        for i in range(x.shape[1]):
            (row,) = torch.autograd.grad(sums[i], x, retain_graph=i + 1 < x.shape[1])
            total += row[:, i]
        return total


def divergences(features: int, steps: int) -> list[Contender]:
    """Velocity and divergence of one trained field at one time."""
    field, x = trained_flow(features, steps).ode.field, starts(features, ROWS_SCORED)  # type: ignore[union-attr]
    trace = torchdyn_trace()

    def theirs() -> Tensor:
        with torch.enable_grad():
            point = x.clone().requires_grad_()
            return trace(field(0.5, point), point)

    def ours() -> Tensor:
        with torch.no_grad():
            return field.velocity_and_divergence(0.5, x)[1]

    def ours_rounded() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return field.velocity_and_divergence(0.5, x)[1]

    expected = lean_trace(copy.deepcopy(field).double(), 0.5, x.double())
    runs: dict[str, tuple[Callable[[], Tensor], str]] = {
        "advect": (ours, "tangents through the layers"),
        "advect bfloat16": (ours_rounded, "the same under bfloat16 autocast"),
        "torchdyn": (theirs, "autograd_trace"),
        "lean loop": (lambda: lean_trace(field, 0.5, x), "backward passes, no graph of theirs"),
    }
    return [
        Contender(name, run, setting, float((run() - expected).abs().mean() / expected.abs().mean()))
        for name, (run, setting) in runs.items()
    ]


def d1(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Exact divergence at 43 and 63 coordinates."""
    torch.set_num_threads(settings["threads"])
    blocks = []
    for features in (43, 63):
        blocks.append(
            task(
                f"velocity and exact divergence, {ROWS_SCORED} rows, {features} coordinates",
                divergences(features, 100),
                [
                    Goal("advect", ("torchdyn",), 2.3, 3.5),
                    Goal("advect", ("lean loop",), 1.1, 1.7),
                    Goal("advect bfloat16", ("torchdyn",), 5.0, 8.0),
                    Goal("advect bfloat16", ("lean loop",), 2.4, 3.9),
                ],
                rounds=3 if settings["quick"] else 7,
                clock=settings["clock"],
                unit="mean, relative",
            )
        )
    figures: dict[str, Any] = {"tasks": blocks}
    if not settings["quick"]:
        figures["growth"] = [
            growth(
                f"coordinates ({ROWS_SCORED} rows)",
                (2, 6, 43, 63),
                lambda d: divergences(d, 10),
                clock=settings["clock"],
            )
        ]
    return figures


def flow_matching_settings(features: int) -> Iterator[tuple[str, Callable[[Flow, Tensor], Tensor]]]:
    """flow_matching's likelihood with an exact divergence, cheap settings first."""
    from flow_matching.solver import ODESolver

    def log_p0(z: Tensor) -> Tensor:
        return -0.5 * (z.square().sum(1) + features * math.log(2 * math.pi))

    def scorer(**how: Any) -> Callable[[Flow, Tensor], Tensor]:
        def run(flow: Flow, x: Tensor) -> Tensor:
            field = flow.ode.field  # type: ignore[union-attr]
            solver = ODESolver(velocity_model=lambda x, t: field(t, x))
            return solver.compute_likelihood(x, log_p0, exact_divergence=True, **how)[1].detach()

        return run

    fixed = [("midpoint", 2, n) for n in (4, 8, 16, 32, 64)] + [("rk4", 4, n) for n in (2, 3, 4, 6, 8, 12, 16, 24)]
    for method, stages, steps in sorted(fixed, key=lambda one: one[1] * one[2]):
        yield f"{method}, {steps} steps, {steps * stages} evaluations", scorer(method=method, step_size=1 / steps)
    for tolerance in (1e-3, 1e-4, 1e-5):
        yield f"dopri5 at {tolerance:g}", scorer(method="dopri5", step_size=None, atol=tolerance, rtol=tolerance)


def our_settings(features: int) -> Iterator[tuple[str, Callable[[Flow, Tensor], Tensor]]]:
    """advect's score: cheap settings first, by velocities plus coordinates times traces; the adaptive default last."""
    found: list[tuple[int, str, Solver]] = []
    for steps in (4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64):
        found.append(((features + 1) * steps, f"adams3, {steps} steps", make_solver("adams3", steps=steps)))
        for between in (2, 3, 4):
            nodes = Adams3Quadrature(steps, between=between)
            words = f"adams3, {steps} steps, trace at {nodes.num_nodes} Gauss nodes"
            found.append((steps + (features + 1) * nodes.num_nodes, words, nodes))
    for steps in (2, 3, 4, 6, 8, 12, 16):
        found.append(((features + 1) * 4 * steps, f"rk4, {steps} steps", make_solver("rk4", steps=steps)))
    for _, words, solver in sorted(found, key=lambda one: one[0]):

        def run(flow: Flow, x: Tensor, solver: Any = solver) -> Tensor:
            ode = flow.ode
            assert ode is not None
            solution = ode.with_options(likelihood_solver=solver, coarse=True).integrate(
                x, direction="encode", log_det=True
            )
            assert solution.log_abs_det is not None
            return flow.base.log_prob(solution.state) + solution.log_abs_det

        yield words, run
    for tolerance in (1e-3, 1e-4, 1e-5):
        fine = Adaptive("dopri5", rtol=tolerance, atol=tolerance)
        yield (
            f"dopri5 at {tolerance:g}",
            lambda flow, x, fine=fine: flow.with_options(likelihood_solver=fine).log_prob(x),
        )


def scored(settings: Mapping[str, Any], features: int, target: float) -> dict[str, Any]:
    """Log-densities at one mean error, in nats."""
    with torch.enable_grad():
        flow = trained_flow(features, 500 if settings["quick"] else 2000)
    rows = 128 if settings["quick"] else ROWS_SCORED
    x = points(features)[:rows]
    fine = copy.deepcopy(flow).double().with_options(likelihood_solver=Adaptive("dopri5", rtol=1e-8, atol=1e-8))
    exact = fine.log_prob(x[:ROWS_SEARCHED].double())
    contenders = []
    for name, candidates in (("advect", our_settings(features)), ("flow_matching", flow_matching_settings(features))):
        for words, run in candidates:
            error = float((run(flow, x[:ROWS_SEARCHED]) - exact).abs().mean())
            if error <= target:
                contenders.append(Contender(name, lambda run=run: run(flow, x), words, error))
                break
    return task(
        f"log-density of {rows} rows, {features} coordinates, mean error {target:g} nats",
        contenders,
        [Goal("advect", ("flow_matching",), 4.0, 8.0)],
        rounds=3 if settings["quick"] else 5,
        clock=settings["clock"],
        unit="nats",
    )


@torch.no_grad()
def d2(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Log-densities at 1e-2 nats in 43 coordinates and 1e-3 nats in two."""
    torch.set_num_threads(settings["threads"])
    return {"tasks": [scored(settings, 43, 1e-2), scored(settings, 2, 1e-3)]}


ROWS = (
    Row("D1", "the exact divergence of a field", f"{__name__}:d1"),
    Row("D2", "log-densities of a continuous flow at equal error", f"{__name__}:d2"),
)
