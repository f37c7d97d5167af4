"""C1 to C3: ten thousand samples at equal error.

The error of a sampler is the root mean square distance, per coordinate, of its ends from those of a float64 copy of the
same field solved at 1e-9 from the same starts. Every contender gets the cheapest of its settings whose error is at most
the target; a contender that does not reach it is left out, and the notes say so. Fitted weights come from other rows
than those that are searched and timed. advect's products have the precision that the row allows, by torch's setting for
them (`torch.set_float32_matmul_precision`): the default unless it says otherwise.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from advect.flows import Flow, VelocityField
from advect.solvers import SOLVERS, Adaptive, fit_multistep, make_solver
from benchmarks.speed.fields import Counted, starts, trained_flow
from benchmarks.speed.harness import Contender, Goal, growth, task
from benchmarks.speed.rows import Row

ROWS_DRAWN, ROWS_SEARCHED, ROWS_FITTED = 10_000, 500, 512
STEPS = (2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128)
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
OURS = ("adams3", "adams3-straight", "adams3-noise", "dpm++2m", "midpoint", "rk4", "dopri5", "tsit5")

Run = Callable[[Any, Tensor], Tensor]
"""From a field and the starts to the ends."""
Settings = Iterator[tuple[str, Run]]
"""The settings of one contender, cheap ones first, each with its words."""


def torchdiffeq_fixed(method: str) -> Settings:
    """Fixed steps."""
    from torchdiffeq import odeint

    for steps in STEPS:

        def run(field: Any, x: Tensor, steps: int = steps) -> Tensor:
            return odeint(field, x, torch.linspace(0, 1, steps + 1), method=method)[-1]

        yield f"{method}, {steps} steps", run


def flow_matching_dopri5() -> Settings:
    """Its solver, which calls torchdiffeq."""
    from flow_matching.solver import ODESolver

    for tolerance in TOLERANCES:

        def run(field: Any, x: Tensor, tolerance: float = tolerance) -> Tensor:
            solver = ODESolver(velocity_model=lambda x, t: field(t, x))
            return solver.sample(x, step_size=None, method="dopri5", atol=tolerance, rtol=tolerance)

        yield f"dopri5 at {tolerance:g}", run


def torchdyn_adaptive(method: str) -> Settings:
    """Its `odeint`."""
    from torchdyn.numerics import odeint

    for tolerance in TOLERANCES:

        def run(field: Any, x: Tensor, tolerance: float = tolerance) -> Tensor:
            span = torch.tensor([0.0, 1.0])
            return odeint(
                lambda t, x, args=None: field(t.reshape(()), x), x, span, method, atol=tolerance, rtol=tolerance
            )[1][-1]

        yield f"{method} at {tolerance:g}", run


def torchode_tsit5() -> Settings:
    """Each row at its own pace, as advect's adaptive solvers."""
    import torchode

    for tolerance in TOLERANCES:

        def run(field: Any, x: Tensor, tolerance: float = tolerance) -> Tensor:
            term = torchode.ODETerm(lambda t, y: field(t, y))
            method = torchode.Tsit5(term=term)
            control = torchode.IntegralController(atol=tolerance, rtol=tolerance, term=term)
            ends = torch.tensor([[0.0, 1.0]]).expand(len(x), 2)
            problem = torchode.InitialValueProblem(y0=x, t_start=ends[:, 0], t_end=ends[:, 1])
            return torchode.AutoDiffAdjoint(method, control).solve(problem).ys[:, -1]

        yield f"tsit5 at {tolerance:g}", run


def zuko_dopri5() -> Settings:
    """Its adaptive solver."""
    from zuko.utils import odeint

    for tolerance in TOLERANCES:

        def run(field: Any, x: Tensor, tolerance: float = tolerance) -> Tensor:
            return odeint(lambda t, x: field(t, x), x, 0.0, 1.0, atol=tolerance, rtol=tolerance)

        yield f"dopri5 at {tolerance:g}", run


PEERS: dict[str, Callable[[], Settings]] = {
    "torchdiffeq euler": lambda: torchdiffeq_fixed("euler"),
    "torchdiffeq midpoint": lambda: torchdiffeq_fixed("midpoint"),
    "torchdiffeq rk4": lambda: torchdiffeq_fixed("rk4"),
    "flow_matching": flow_matching_dopri5,
    "torchdyn": lambda: torchdyn_adaptive("tsit5"),
    "torchode": torchode_tsit5,
    "zuko": zuko_dopri5,
}


def quick(field: Any, precision: str) -> Any:
    """The field's form for solvers; its products keep the precision that is allowed now."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        return field.for_inference()
    finally:
        torch.set_float32_matmul_precision(before)


def _in(precision: str) -> str:
    return "" if precision == "highest" else f', "{precision}" products'


def our_settings(flow: Flow, name: str, precision: str) -> Settings:
    """One of advect's solvers through `Flow.decode`, in the chunks it makes."""
    entry, schedule = SOLVERS[name], flow.ode.field.schedule  # type: ignore[union-attr]
    settings = TOLERANCES if entry.adaptive else STEPS
    for setting in settings:
        given = {"tolerance": setting} if entry.adaptive else {"steps": setting}
        solver = make_solver(name, schedule=schedule, **given)

        def run(field: Any, x: Tensor, solver: Any = solver) -> Tensor:
            return flow.with_options(solver=solver, field=quick(field, precision)).decode(x).value

        yield f"{name}, {f'at {setting:g}' if entry.adaptive else f'{setting} steps'}{_in(precision)}", run


def fitted_settings(flow: Flow, precision: str) -> Settings:
    """Multistep weights fitted to the field, on rows of their own; the fit is made once and is not timed."""
    plain = flow.ode.field  # type: ignore[union-attr]
    assert isinstance(plain, VelocityField)
    rows = torch.randn((ROWS_FITTED, *flow.event_shape), generator=torch.Generator().manual_seed(3))
    for steps in range(2, 15):
        solver = fit_multistep(quick(plain, precision), rows, steps, exact=plain)

        def run(field: Any, x: Tensor, solver: Any = solver) -> Tensor:
            return flow.with_options(solver=solver, field=quick(field, precision)).decode(x).value

        yield f"weights fitted to the field, {steps} steps{_in(precision)}", run


def cheapest(settings: Settings, field: Counted, start: Tensor, exact: Tensor, target: float) -> Any:
    """The first setting whose error is at most the target: words, run, error and calls of the field; None if none."""
    for words, run in settings:
        field.calls = 0
        error = float((run(field, start) - exact).double().square().mean().sqrt())
        if error <= target:
            return words, run, error, field.calls
    return None


def contenders_at(
    flow: Flow, target: float, rows: int, peers: Sequence[str], ours: Mapping[str, Sequence[str]]
) -> tuple[list[Contender], list[str]]:
    """Everyone at the cheapest setting that reaches the target, and who does not; ``ours`` says which precisions
    advect's contenders may choose from."""
    plain = flow.ode.field  # type: ignore[union-attr]
    field, start = Counted(plain), starts(flow.event_shape[0], rows)
    field.schedule, field.has_score = plain.schedule, plain.has_score  # type: ignore[assignment]
    some = start[:ROWS_SEARCHED]
    fine = Adaptive("dopri5", rtol=1e-9, atol=1e-9)
    exact = fine(copy.deepcopy(plain).double(), some.double()).state.float()
    chunks = -(-ROWS_SEARCHED // flow.chunk_rows)
    result, missing = [], []
    for contender, precisions in ours.items():
        settings = [our_settings(flow, name, precision) for precision, name in product(precisions, OURS)]
        settings += [fitted_settings(flow, precision) for precision in precisions]
        found = [cheapest(some_settings, field, some, exact, target) for some_settings in settings]
        # What an evaluation costs depends on the numbers it is made in, so the clock decides.
        reached = [one for one in found if one]
        seconds = {words: min(_time(run, field, start) for _ in range(2)) for words, run, _, _ in reached}
        words, run, error, calls = min(reached, key=lambda one: seconds[one[0]])
        told = f"{words}, {calls // chunks} evaluations"
        result.append(_contender(contender, run, plain, start, told, error))
    for name in peers:
        best = cheapest(PEERS[name](), field, some, exact, target)
        if best is None:
            missing.append(name)
            continue
        words, run, error, calls = best
        result.append(_contender(name, run, plain, start, f"{words}, {calls} evaluations", error))
    return result, missing


def _time(run: Run, field: Counted, start: Tensor) -> float:
    """Processor seconds of one run."""
    before = time.process_time()
    run(field, start)
    return time.process_time() - before


def _contender(name: str, run: Run, field: Any, start: Tensor, words: str, error: float) -> Contender:
    return Contender(name, lambda: run(field, start), words, error)


def _rows(settings: Mapping[str, Any]) -> int:
    return 4000 if settings["quick"] else ROWS_DRAWN


def _steps(settings: Mapping[str, Any]) -> int:
    return 500 if settings["quick"] else 2000


@torch.no_grad()
def samples(
    settings: Mapping[str, Any],
    features: int,
    target: float,
    marks: tuple[float, float],
    *others: tuple[str, float, float],
    ours: Mapping[str, Sequence[str]] = MappingProxyType({"advect": ("highest",)}),
) -> dict[str, Any]:
    """One block: everyone at one error; ``others`` are goals against one peer, all for each of ``ours``."""
    torch.set_num_threads(settings["threads"])
    with torch.enable_grad():
        flow = trained_flow(features, _steps(settings))
    rows = _rows(settings)
    fast = [name for name in PEERS if name not in ("torchode", "zuko")] if settings["quick"] else list(PEERS)
    contenders, missing = contenders_at(flow, target, rows, fast, ours)
    peers = tuple(c.name for c in contenders[len(ours) :])
    goals = []
    for name in ours:
        label = "against the best peer" if len(ours) == 1 else f"{name} against the best peer"
        goals.append(Goal(name, peers, *marks, label=label))
        goals += [Goal(name, (peer,), must, stretch) for peer, must, stretch in others if peer in peers]
    return task(
        f"{rows} samples in {features} coordinates at {target:g}"
        + (f"; not reached by {', '.join(missing)}" if missing else ""),
        contenders,
        goals,
        rounds=3 if settings["quick"] else 5,
        clock=settings["clock"],
        unit="rms",
    )


def c1(settings: Mapping[str, Any]) -> dict[str, Any]:
    """43 coordinates, at 1e-3."""
    ours = {"advect": ("highest",), 'advect, "high" products': ("high",)}
    figures: dict[str, Any] = {
        "tasks": [samples(settings, 43, 1e-3, (2.2, 4.0), ("flow_matching", 3.5, 6.0), ours=ours)]
    }
    if not settings["quick"]:
        flow = trained_flow(43, _steps(settings))

        def make(steps: int) -> list[Contender]:
            solver, x = make_solver("adams3", steps=steps - 1), starts(43, 4000)
            ours = flow.with_options(solver=solver)
            field = flow.ode.field  # type: ignore[union-attr]
            from torchdiffeq import odeint

            times = torch.linspace(0, 1, steps + 1)
            return [
                Contender("advect adams3", lambda: ours.decode(x)),
                Contender("torchdiffeq euler", lambda: odeint(field, x, times, method="euler")),
            ]

        with torch.no_grad():
            figures["growth"] = [growth("evaluations (4000 samples)", (8, 16, 32), make, clock=settings["clock"])]
    return figures


def c2(settings: Mapping[str, Any]) -> dict[str, Any]:
    """43 coordinates, at 1e-2."""
    return {"tasks": [samples(settings, 43, 1e-2, (2.4, 5.0), ours={"advect": ("highest", "medium")})]}


def c3(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The plane, at three errors."""
    marks = {1e-2: (1.5, 2.5), 1e-3: (1.2, 2.0), 1e-4: (1.0, 1.5)}
    return {"tasks": [samples(settings, 2, target, pair) for target, pair in marks.items()]}


ROWS = (
    Row("C1", "samples in 43 coordinates at an error of 1e-3", f"{__name__}:c1"),
    Row("C2", "samples in 43 coordinates at an error of 1e-2", f"{__name__}:c2"),
    Row("C3", "samples in the plane at errors of 1e-2, 1e-3 and 1e-4", f"{__name__}:c3"),
)
