"""The plane benchmark: its densities are exact, its KL is zero for the truth, its table and pictures are true."""

import importlib.util
import json
import math
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.integrate import quad

from advect.data.toys import TOYS
from advect.errors import ConfigError
from advect.flows import Flow, StandardNormal
from advect.transforms import Standardise
from benchmarks import density_2d
from benchmarks.density_2d import GRID, TASKS, WINDOW, divergence, grid_of, log_density, names, plan, spiral_log_density
from benchmarks.density_2d_table import draw_densities, draw_layers, write_figures, write_table
from benchmarks.packed import pack


@pytest.mark.parametrize("task", TASKS)
def test_densities_integrate_to_one_and_are_those_of_the_draws(task):
    half, cells = 9.0 if task == "8gaussians" else 5.0, 120
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 * half - half
    value = log_density(task, torch.cartesian_prod(axis, axis))
    area = (2 * half / cells) ** 2
    # cells of 0.08 against a noise of 0.1 at least; the edges of the checkerboard lie between cells
    assert float(value.exp().sum() * area) == pytest.approx(1.0, abs=1e-3)
    mean = float(torch.xlogy(value.exp(), value.exp()).sum() * area)  # E log p by the grid
    drawn = log_density(task, TOYS[task].sample(4000, torch.Generator().manual_seed(0)))
    assert float(drawn.mean()) == pytest.approx(mean, abs=4 * float(drawn.std()) / math.sqrt(4000) + 2e-3)


@pytest.mark.parametrize("point", [(3.9, 0.2), (0.0, 0.0), (-4.0, 0.1), (1.0, -2.0), (4.4, 0.3)])
def test_the_spiral_agrees_with_adaptive_quadrature(point):
    def integrand(s):
        centre = 4 * s * math.cos(3 * math.pi * s), 4 * s * math.sin(3 * math.pi * s)
        square = math.dist(point, centre) ** 2
        return 2 * s * math.exp(-square / (2 * 0.1**2)) / (2 * math.pi * 0.1**2)

    places = [i / 40 for i in range(1, 40)]
    expected, _ = quad(integrand, 0, 1, points=places, limit=500, epsabs=0, epsrel=1e-12)
    found = spiral_log_density(torch.tensor([point], dtype=torch.float64))
    assert float(found) == pytest.approx(math.log(expected), abs=1e-8)


def test_the_divergence_of_the_truth_is_zero_and_of_half_the_truth_log_two():
    test = TOYS["rings"].sample(500, torch.Generator().manual_seed(1))
    truth = log_density("rings", test)
    assert divergence("rings", test, pack(truth.numpy(), 1e-3))["kl"] == pytest.approx(0.0, abs=1e-4)
    half = divergence("rings", test, pack(truth.numpy() - math.log(2), 1e-3))
    assert half["kl"] == pytest.approx(math.log(2), abs=1e-4)
    assert half["kl_error"] < 1e-4
    assert half["entropy"] == pytest.approx(-float(truth.mean()))
    holes = truth.numpy().copy()
    holes[:100] = np.nan
    assert divergence("rings", test, pack(holes, 1e-3))["kl"] == pytest.approx(0.0, abs=1e-4)


def test_the_grid_runs_from_below_left_row_by_row():
    grid = grid_of("rings").reshape(GRID, GRID, 2)
    assert grid[0, 0].tolist() == pytest.approx([-3.96, -3.96])
    assert float(grid[0, 1, 0]) > float(grid[0, 0, 0])
    assert float(grid[0, 1, 1]) == float(grid[0, 0, 1])
    assert float(grid[1, 0, 1]) > float(grid[0, 0, 1])


def test_the_plan_holds_every_method_once():
    cells = plan(TASKS, names(), (0, 1), 60.0)
    assert len({cell.name for cell in cells}) == len(cells) == 8 * len(names())
    assert "i-cfm" in names()
    assert not {"glow", "gan"} & set(names())
    assert cells[0].command.endswith("--seconds 60")


def test_a_short_cell_runs_through(monkeypatch):
    monkeypatch.setattr(density_2d, "GRID", 12)
    (cell,) = plan(["8gaussians"], ["i-cfm"], [0], 0.01)
    small = {"train_rows": 600, "validation_rows": 512, "test_rows": 50}
    figures = density_2d.run_cell(dict(cell.settings) | small)
    json.dumps(figures, allow_nan=False)
    assert figures["failed"] == 0
    # hardly trained: the Gaussian fit, whose KL from eight unit normals at radius 5 is about log(2π e 13.5) − 4.67
    assert 0.1 < figures["kl"] < 2.0
    assert figures["grid"]["shape"] == [12, 12]


@pytest.mark.skipif(importlib.util.find_spec("advect.flows.stages") is None, reason="advect.flows.stages is not there")
def test_points_go_from_the_source_through_every_layer():
    from advect.transforms import Compose

    layer = Standardise(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0]))
    scale = Standardise(torch.tensor([10.0, 0.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    states = density_2d.through_layers(Flow(StandardNormal((2,)), Compose(layer, layer)), scale, seed=0)
    assert states.shape == (3, density_2d.POINTS, 2)
    np.testing.assert_allclose(states[0].mean(0), [10, 0], atol=0.2)  # the source in the units of the data
    np.testing.assert_allclose(states[2] - [10, 0], 2 * (2 * (states[0] - [10, 0]) + [1, 0]) + [1, 0], atol=1e-4)


# Table and figures


def record(task, method, kl=0.1, seed=0, seconds=60.0, failed=0, **figures):
    usual = {"kl": kl, "kl_error": 0.01, "failed": failed, "entropy": 2.0, "parameters": 10, "training_seconds": 60.0}
    usual |= {"training_cpu_seconds": 50.0, "steps": 100, "ended": "finished"}
    usual["grid"] = pack(np.full((GRID, GRID), -4.0), 0.05)
    return {
        "cell": f"{task}-{method}-{seed}",
        "seed": seed,
        "settings": {"task": task, "method": method, "seed": seed, "seconds": seconds, "clock": "wall"},
        "figures": usual | figures,
        "machine": {"processor": "a processor", "cores": 2, "threads": 1},
        "versions": {"advect": "0"},
    }


def table(folder, records):
    path = folder / "table.md"
    write_table(path, records, tasks=TASKS, methods=("nsf", "cnf"), seeds=(0,), seconds=60.0)
    return path.read_text()


def row_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(f"| {start} |"))


def test_a_whole_table_and_a_partial_one(tmp_path):
    whole = [record(task, method) for task in TASKS for method in ("nsf", "cnf")]
    text = table(tmp_path, whole)
    assert "Complete: 8 of 8 cells" in text
    assert row_of(text, "nsf").count("0.100 ± 0.010") == 4
    text = table(tmp_path, whole[:3])
    assert "**Partial**: 3 of 8 cells" in text
    assert row_of(text, "nsf").startswith("| nsf | 0–1 of 1 | 0.100 ± 0.010 | 0.100 ± 0.010 | – | – |")


def test_failed_rows_other_times_and_seeds_show(tmp_path):
    text = table(tmp_path, [record("rings", "nsf", failed=3), record("rings", "cnf", seconds=5.0)])
    assert "(0.100 ± 0.010)" in row_of(text, "nsf")
    assert "0.100 ± 0.010 [5 s]" in row_of(text, "cnf")
    text = table(tmp_path, [record("rings", "nsf", 0.1), record("rings", "nsf", 0.3, seed=1)])
    assert "0.200 ± 0.007" in row_of(text, "nsf")
    with pytest.raises(ConfigError, match="differ"):
        table(tmp_path, [record("rings", "nsf"), record("rings", "nsf", seed=1, seconds=5.0)])


def test_pictures_are_small_and_show_what_they_should(tmp_path):
    truth = log_density("rings", grid_of("rings")).reshape(GRID, GRID).numpy()
    content = draw_densities(truth, {f"m{i}": truth for i in range(11)})
    assert len(content) < 150_000
    picture = Image.open(BytesIO(content))
    assert picture.format == "PNG"
    states = np.cumsum(np.random.default_rng(0).standard_normal((12, 800, 2)), 0)
    content = draw_layers(dict.fromkeys(TASKS[:2], states), WINDOW)
    assert len(content) < 150_000
    assert Image.open(BytesIO(content)).width > 500


def test_figures_come_from_the_records_alone(tmp_path):
    stages = pack(np.random.default_rng(0).standard_normal((3, 50, 2)), 0.01)
    written = write_figures(
        tmp_path,
        [record("rings", "nsf", stages=stages), record("rings", "cnf")],
        {"rings": np.full((GRID, GRID), -3.0), "spiral": np.full((GRID, GRID), -3.0)},
        WINDOW,
        ("cnf", "nsf"),
    )
    assert [path.name for path in written] == ["rings.png", "layers-nsf.png"]
    assert all(path.stat().st_size > 1000 for path in written)
