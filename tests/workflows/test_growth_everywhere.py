"""Growth in every figure: from a source to data, in densities, in what is measured on the way, under conditions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import advect
from advect.data import beside, read_table, split_rows, take_rows
from advect.training import generator_for
from advect.workflows.comparison.ground import find_ground, yardstick
from advect.workflows.comparison.measure import _point
from advect.workflows.comparison.request import CompareRequest
from advect.workflows.density_map import density_on
from advect.workflows.evaluate import evaluate_rows, figures
from advect.workflows.fit import next_commands
from advect.workflows.generate import SolverChoice, generate
from advect.workflows.grown import grown
from advect.workflows.growth import MASS
from advect.workflows.held_out import flat_latent
from advect.workflows.plots import samples_and_real
from advect.workflows.prepare import prepare
from advect.workflows.probes import SampleDistance, probes_of
from advect.workflows.request import TrainRequest
from advect.workflows.score import score
from advect.workflows.snapshot_scores import snapshot_facts
from advect.workflows.snapshots import timeline_of
from advect.workflows.transport import transport
from advect.workflows.velocity import velocities

BEFORE, AFTER = 0.6, 0.2  # shares of the first of two kinds
GROWS = {
    "method": "ot-cfm", "plan": "unbalanced", "relaxation": 0.1, "steps": 2, "batch_size": 64, "network": "mlp-1x8",
    "baseline": False,
}  # fmt: skip


def two_kinds(share: float, count: int = 300, seed: int = 0) -> np.ndarray:
    """Rows of two kinds six apart, in a random order."""
    random = np.random.default_rng(seed)
    first = round(share * count)
    kind = np.repeat([0.0, 6.0], [first, count - first])
    rows = np.stack([random.normal(0.0, 1.0, count), kind + random.normal(0, 0.3, count)], 1)
    return rows[random.permutation(count)]


@torch.no_grad()
def still(flow) -> None:
    """No velocity: rows stay where they are, and mass is all that changes."""
    for parameter in flow.ode.field.parameters():
        parameter.zero_()


@pytest.fixture(scope="module")
def populations():
    """From one population to another, of which one kind grows."""
    artefact = advect.fit(two_kinds(AFTER), source=two_kinds(BEFORE, seed=1), **GROWS).artefact
    still(artefact.flow)
    return artefact


def first_kind(table) -> np.ndarray:
    return np.asarray(table.columns[1], dtype=np.float64) < 3


def test_rows_of_a_source_carry_their_mass(populations):
    """M averages over a kind to the ratio of its shares: 1/3 and 2; of the data 240 rows of 300 train."""
    moved = transport(populations, read_table(two_kinds(BEFORE, seed=1)), to="target").table
    mass, first = moved.sides[MASS], first_kind(moved)
    # The share among 240 rows of 300 has a binomial error of 0.2 × 0.4 × √(1/5 × 1/0.2)/√300: a tenth at most.
    assert mass[first].mean() == pytest.approx(AFTER / BEFORE, rel=0.1)
    assert mass[~first].mean() == pytest.approx((1 - AFTER) / (1 - BEFORE), rel=0.05)
    back = transport(populations, moved, to="source").table
    # Rows that lie beyond those of the data are put back on their border, which changes what they came from.
    assert np.isclose(back.sides[MASS] * mass, 1.0).mean() > 0.9


def test_samples_stand_for_the_law_by_their_mass(populations):
    drawn = generate(populations, 600, seed=1)
    assert any("relative_mass" in note for note in drawn.notes)
    assert first_kind(drawn.table).mean() == pytest.approx(BEFORE, abs=0.08)
    taken = grown(populations, 600, seed=1).table
    # 600 draws of shares that 240 rows taught: 0.02 and 0.03.
    assert first_kind(taken).mean() == pytest.approx(AFTER, abs=0.1)
    shown, _ = samples_and_real(populations, 600, False)
    assert first_kind(shown).mean() == pytest.approx(AFTER, abs=0.1)


def test_figures_of_two_populations_count_by_mass(populations):
    table = read_table(two_kinds(AFTER, 600, seed=3))
    split = split_rows(table.num_rows, seed=0, validation=0.0, test=0.5)
    one, other = (evaluate_rows(a, table, split, max_rows=200) for a in (populations, replace(populations, growth=())))
    energy = [next(m["value"] for m in found["metrics"] if "energy" in m["name"]) for found in (one, other)]
    # Counted alike 0.4 of the mass stands six away: an energy distance of the order of 0.4² × 6 in units of the spread.
    assert energy[0] < energy[1] / 5


def test_few_rows_that_carry_most_of_the_mass_are_told():
    told = dict(figures({"samples_by_mass": True, "samples_kept": 7, "samples_wanted": 20}))["growth"]
    assert "7 stand for 20" in told
    told = dict(figures({"samples_by_mass": True, "samples_kept": 15, "samples_wanted": 20}))["growth"]
    assert told == "samples count by the mass that they carry"


def test_what_is_worth_trying_between_two_populations(tmp_path):
    """No score: a source that is a data set has no density."""
    prepared = prepare(TrainRequest("moons", source="8gaussians"))
    assert next_commands(tmp_path, prepared)[1:] == (
        f"advect transport {tmp_path} 8gaussians --to target --out moved.npz",
        f"advect transport {tmp_path} moons --to source --out back.npz",
    )


def test_a_comparison_counts_by_mass(populations, tmp_path):
    """The curve of a comparison: sliced W2 of samples to held-out rows, for which 0.4 of the mass would be amiss."""
    request = CompareRequest(two_kinds(AFTER, 600, seed=4), ("ot-cfm",), tmp_path, steps=5, seeds=1)
    ground = find_ground(request)
    stick = yardstick(ground, populations)
    one, other = (_point(a, stick, SolverChoice("heun", 4)) for a in (populations, replace(populations, growth=())))
    assert one.error < other.error / 2


def test_a_density_with_growth_is_that_of_the_data():
    """The law N(0, 1) by its mass is the data's: two clouds, whose log-likelihood is known."""
    random = np.random.default_rng(0)

    def rows(count):
        return (np.where(random.random(count) < 0.25, -2.0, 1.0) + 0.5 * random.standard_normal(count))[:, None]

    artefact = advect.fit(rows(640), **GROWS | {"relaxation": 0.02}).artefact
    still(artefact.flow)
    grid = np.linspace(-8, 8, 401)
    both = [np.exp(density_on(a, [grid]).log_density) for a in (artefact, replace(artefact, growth=()))]
    # Z is a mean of 4096 draws of M, whose spread is about 1: 0.02.
    assert np.trapezoid(both[0], grid) == pytest.approx(1.0, abs=0.06)
    assert np.trapezoid(both[1], grid) == pytest.approx(1.0, abs=0.01)
    # Rows take the same way as the grid, to the tolerance of the solver.
    assert np.allclose(score(artefact, read_table(grid[::20, None])).estimate.value.exp().numpy(), both[0][::20])
    fresh = rows(400)
    truth = np.logaddexp(
        np.log(0.25) - (fresh + 2) ** 2 / 0.5, np.log(0.75) - (fresh - 1) ** 2 / 0.5
    ).mean() - 0.5 * np.log(2 * np.pi * 0.25)
    means = [score(a, read_table(fresh)).estimate.value.mean().item() for a in (artefact, replace(artefact, growth=()))]
    assert truth - means[0] < (truth - means[1]) / 2


def test_what_is_measured_on_the_way_counts_by_mass():
    early, late = two_kinds(BEFORE, 400), two_kinds(AFTER, 400, seed=1)
    table = beside(read_table(np.concatenate([early, late])), {"time": np.repeat([0.0, 1.0], 400)}, ("float64",))
    options, settings = {"plan": "unbalanced", "relaxation": 0.1}, {"baseline": False}
    prepared = prepare(TrainRequest(table, time_key="time", validation=0.2, options=options, settings=settings))
    still(prepared.built.core)
    probe = next(p for p in probes_of(prepared) if isinstance(p, SampleDistance))
    assert len(probe.growth) == 1
    by_mass = probe(probe.rows)["energy_distance"]
    probe.growth = ()
    # As far as real rows are apart; alike 0.4 of the mass is amiss.
    assert by_mass < probe.floor.value + 3 * probe.floor.spread
    assert probe(probe.rows)["energy_distance"] > probe.floor.value + 5 * probe.floor.spread


def test_growth_is_told_label_by_label(tmp_path):
    """Under a the first kind falls from a half to a fifth, under b it rises to four fifths."""
    after = {"a": 0.2, "b": 0.8}
    parts = [(two_kinds(0.5, seed=k), label, 0) for k, label in enumerate(after)]
    parts += [(two_kinds(share, seed=5 + k), label, 2) for k, (label, share) in enumerate(after.items())]
    lines = [f"{x},{y},{label},{day}" for rows, label, day in parts for x, y in rows.tolist()]
    path = tmp_path / "cells.csv"
    path.write_text("\n".join(["x,y,drug,day", *lines]) + "\n")
    model = advect.fit(str(path), time_key="day", condition="drug", **GROWS)
    artefact, table = advect.load(model.save(tmp_path / "saved")).artefact, read_table(str(path))
    assert len(artefact.growth) == len(model.artefact.growth) == 1
    still(artefact.flow)
    day, drug = (np.asarray(table.columns[table.names.index(name)]) for name in ("day", "drug"))
    rate = velocities(artefact, table).growth
    for label, share in after.items():
        here = (day == 0) & (drug == label)
        # The split leaves 240 rows of each: binomial errors of 0.04 before, of 0.1 (a) and 0.03 (b) after.
        assert np.exp(2 * rate[here & first_kind(table)]).mean() == pytest.approx(share / 0.5, rel=0.25)
    given = take_rows(table, np.flatnonzero(day == 2))
    taken = grown(artefact, given.num_rows, condition=given, seed=3).table
    own = np.asarray(taken.columns[taken.names.index("drug")])
    for label, share in after.items():
        assert (own == label).mean() == pytest.approx(0.5, abs=0.1)
        assert first_kind(taken)[own == label].mean() == pytest.approx(share, abs=0.12)
    facts = snapshot_facts(
        artefact, timeline_of(artefact), table, split_rows(table.num_rows, seed=0, validation=0, test=0.5)
    )
    # In standard deviations, of which the kinds are two apart: alike, 0.3 of the mass would be amiss.
    assert facts[-1]["model"] < 0.3


def test_latent_rows_with_their_mass_go_back(populations):
    """Latent rows that carry a mass have a column more, which is no latent one."""
    rows = two_kinds(AFTER, 120)
    path = advect.fit(rows, **GROWS).artefact
    table = read_table(rows[:20])
    codes = transport(path, table, to="source").table
    assert MASS in codes.sides or MASS in codes.names
    again = transport(path, codes, to="target").table
    # Solvers of tolerance 1e-5 in standard deviations of about 3.
    assert np.allclose(
        flat_latent(path, again, generator_for(0)), flat_latent(path, table, generator_for(0)), atol=1e-2
    )
