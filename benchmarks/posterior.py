"""Posteriors of simulators: conditional flows with default settings beside sbi's neural posterior estimation.

Four tasks of the simulation-based inference benchmark (`posterior_tasks`) with 1,000 and 10,000 simulations. A model of
the parameters given the observation is fitted to the simulations; 10,000 draws for an observation are compared with
the reference posterior by the classifier two-sample test of that benchmark (Lueckmann et al. 2021, 2101.04653):

    C2ST   five-fold accuracy of two hidden layers of 10·d ReLU units at telling 10,000 draws from 10,000 reference
           draws, both scaled by mean and deviation of the reference; 0.5 is perfect, 1 is worst

advect's models are `advect.fit(parameters, condition=observations, method=...)` and nothing more. Draws outside the
prior's support are drawn again for every contender, as sbi does. Run ``python -m benchmarks.posterior``; what is
finished is not run again.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

import advect
from advect.errors import AdvectError, missing_extra
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.density_data import read_arrays
from benchmarks.density_train import versions
from benchmarks.posterior_table import write_table
from benchmarks.posterior_tasks import TASKS, Task, glm_covariance

OURS = ("nsf", "ot-cfm")
OPTIONAL = ("i-cfm", "nsf-ar", "maf")
PEERS = {"sbi-npe": "maf", "sbi-npe-nsf": "nsf"}  # sbi's default estimator first
METHODS = (*OURS, *PEERS)
SIMULATIONS = (1_000, 10_000)
SEEDS = (0,)
OBSERVATIONS = 5  # that there are references of
DRAWS = 10_000
FOLDS = 5
COMMAND = "python -m benchmarks.posterior"
RESULTS = ROOT / "benchmarks" / "results" / "posterior"
REFERENCE = "sbibm_reference"

MOST_ROUNDS = 100  # of drawing again outside the support
SIMULATION_STREAM = 2101


def settings_of(
    task: str, simulations: int, method: str, seed: int, observations: int, c2st_samples: int
) -> dict[str, Any]:
    """Everything that decides a cell's figures."""
    return {
        "task": task,
        "simulations": simulations,
        "method": method,
        "seed": seed,
        "observations": observations,
        "c2st_samples": c2st_samples,
        "classifier": "scikit-learn MLPClassifier, 2 × 10·d ReLU, Adam, max_iter 10,000, 5 folds",
        "fit": f"sbi NPE({PEERS[method]}), defaults" if method in PEERS else "advect.fit, defaults",
    }


def plan(
    tasks: Sequence[str],
    simulations: Sequence[int],
    methods: Sequence[str],
    seeds: Sequence[int],
    observations: int = OBSERVATIONS,
    c2st_samples: int = DRAWS,
) -> list[Cell]:
    """The cells of a run: task by task and budget by budget, so that the contenders of a comparison come together."""
    extra = f" --observations {observations}" if observations != OBSERVATIONS else ""
    extra += f" --c2st-samples {c2st_samples}" if c2st_samples != DRAWS else ""
    return [
        Cell(
            name=f"{task}-{budget}-{method}-{seed}",
            work="benchmarks.posterior:run_cell",
            settings=settings_of(task, budget, method, seed, observations, c2st_samples),
            command=f"{COMMAND} --tasks {task} --simulations {budget} --methods {method} --seeds {seed}{extra}",
        )
        for seed in seeds
        for budget in simulations
        for task in tasks
        for method in methods
    ]


Sampler = Callable[[np.ndarray, int, int], np.ndarray]
"""``sampler(observation, rows, seed) -> (rows, parameters)``, not yet restricted to the prior's support."""


def simulate(task: Task, simulations: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Parameters from the prior with their observations; the same for every contender."""
    generator = np.random.default_rng([SIMULATION_STREAM, simulations, seed])
    theta = task.prior(simulations, generator)
    return theta, task.simulate(theta, generator)


def fit_ours(method: str, theta: np.ndarray, x: np.ndarray, seed: int) -> tuple[Sampler, dict[str, Any]]:
    """`advect.fit` with default settings.

    Observations are scaled before: a whole-valued count would be taken for a label, with a level for every value.
    """
    mean, deviation = x.mean(0), x.std(0)
    model = advect.fit(theta, method=method, condition=(x - mean) / deviation, seed=seed)

    def sample(observation: np.ndarray, rows: int, draw_seed: int) -> np.ndarray:
        condition = np.tile((observation - mean) / deviation, (rows, 1))
        return np.asarray(model.sample(rows, condition, seed=draw_seed), dtype=np.float64)

    outcome = model.config.get("outcome", {})
    about = {"network": model.config["model"]["network"], "steps": int(outcome.get("step", 0))}
    return sample, about | {"best_step": int(outcome.get("best_step", 0)), "parameters": _size(model.flow)}


def fit_sbi(method: str, theta: np.ndarray, x: np.ndarray, seed: int, task: Task) -> tuple[Sampler, dict[str, Any]]:
    """sbi's `NPE` with default settings.

    Raises:
        MissingExtraError: sbi is not installed.
    """
    try:
        from sbi.inference import NPE
        from sbi.utils import BoxUniform
    except ImportError as error:
        raise missing_extra("sbi", "bench", "this peer") from error
    torch.manual_seed(seed)  # this process does nothing else; sbi draws from the global generators
    np.random.seed(seed)  # noqa: NPY002
    if task.bound is None:
        covariance = torch.from_numpy(glm_covariance()).float()
        prior: Any = torch.distributions.MultivariateNormal(torch.zeros(task.parameters), covariance)
    else:
        edge = torch.full((task.parameters,), task.bound)
        prior = BoxUniform(-edge, edge)
    inference = NPE(prior, density_estimator=PEERS[method], show_progress_bars=False)
    inference.append_simulations(torch.from_numpy(theta).float(), torch.from_numpy(x).float())
    with redirect_stdout(StringIO()):  # it says when it has converged
        estimator = inference.train()
    posterior = inference.build_posterior(estimator)

    def sample(observation: np.ndarray, rows: int, draw_seed: int) -> np.ndarray:
        torch.manual_seed(draw_seed)
        given = torch.from_numpy(observation).float()[None]
        return posterior.sample((rows,), x=given, show_progress_bars=False).double().numpy()

    epochs = inference.summary["epochs_trained"][-1]
    return sample, {"epochs": int(epochs), "parameters": _size(estimator)}


def _size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def draw_inside(
    sampler: Sampler, task: Task, observation: np.ndarray, rows: int, seed: int
) -> tuple[np.ndarray, float]:
    """Draws in the support of the prior, and the share of all draws that lay in it.

    Raises:
        AdvectError: Hardly any draw lies in the support.
    """
    kept: list[np.ndarray] = []
    drawn = inside = 0
    for number in range(MOST_ROUNDS):
        batch = sampler(observation, rows, 1000 * seed + number)
        good = batch[task.inside(batch)]
        kept.append(good)
        drawn, inside = drawn + len(batch), inside + len(good)
        if inside >= rows:
            return np.concatenate(kept)[:rows], inside / drawn
    raise AdvectError(f"{inside} of {drawn} draws lie in the support of the prior", where="draw_inside")


def c2st(samples: np.ndarray, reference: np.ndarray, seed: int = 1) -> float:
    """The classifier two-sample test of the benchmark.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.model_selection import KFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise missing_extra("scikit-learn", "sklearn", "C2ST") from error
    mean, deviation = reference.mean(0), reference.std(0, ddof=1)
    rows = np.concatenate([(samples - mean) / deviation, (reference - mean) / deviation])
    label = np.concatenate([np.zeros(len(samples)), np.ones(len(reference))])
    width = 10 * samples.shape[1]
    classifier = MLPClassifier((width, width), activation="relu", solver="adam", max_iter=10_000, random_state=seed)
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    return float(cross_val_score(classifier, rows, label, cv=folds, scoring="accuracy").mean())


def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: simulate, fit, draw for every observation, compare."""
    torch.set_num_threads(1)
    task, method, seed = TASKS[settings["task"]], settings["method"], settings["seed"]
    arrays = read_arrays(f"{REFERENCE}/{settings['task']}.npz")
    theta, x = simulate(task, settings["simulations"], seed)
    started, cpu = time.monotonic(), time.process_time()
    if method in PEERS:
        sampler, about = fit_sbi(method, theta, x, seed, task)
    else:
        sampler, about = fit_ours(method, theta, x, seed)
    figures = about | {
        "training_seconds": time.monotonic() - started,
        "training_cpu_seconds": time.process_time() - cpu,
    }
    scores, shares, sampling = [], [], 0.0
    for number in range(1, settings["observations"] + 1):
        begun = time.monotonic()
        observation = arrays[f"observation_{number}"][0]
        samples, share = draw_inside(sampler, task, observation, settings["c2st_samples"], number)
        sampling += time.monotonic() - begun
        reference = arrays[f"posterior_{number}"][: settings["c2st_samples"]].astype(np.float64)
        scores.append(c2st(samples, reference))
        shares.append(share)
    return figures | {
        "c2st": scores,
        "inside_share": shares,
        "sampling_seconds": sampling,
        "peer_versions": versions(["scikit-learn", "sbi"] if method in PEERS else ["scikit-learn"]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=tuple(TASKS))
    parser.add_argument("--simulations", nargs="+", type=int, choices=SIMULATIONS, default=SIMULATIONS)
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, *OPTIONAL), default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="of simulations and training; default: 0")
    parser.add_argument("--observations", type=int, default=OBSERVATIONS, help="the first so many of five")
    parser.add_argument("--c2st-samples", type=int, default=DRAWS, help="fewer are a quick look, and not judged")
    given = parser.parse_args(arguments)

    def tabulate(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
        write_table(
            path,
            records,
            published={name: task.published for name, task in TASKS.items()},
            ours=(*OURS, *OPTIONAL),
            methods=METHODS,
            seeds=SEEDS,
            observations=OBSERVATIONS,
            samples=DRAWS,
        )

    cells = plan(given.tasks, given.simulations, given.methods, given.seeds, given.observations, given.c2st_samples)
    return answer(given, cells, tabulate)


if __name__ == "__main__":
    sys.exit(main())
