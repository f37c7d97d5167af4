"""What the page of a run shows of the model in the plane: its field, its density, and what is left out and why."""

import copy

import numpy as np
import pytest
import torch

import advect.workflows.page_field as page_field_room
from advect.data import read_table
from advect.records import Table
from advect.report.field import PlaneField, packed_field, trace, velocity
from advect.report.moving import affordable_pictures, moving
from advect.report.packing import NOWHERE, quantised
from advect.run import RunFolder
from advect.solvers import Adaptive
from advect.workflows.again import report_run
from advect.workflows.density_map import density_around
from advect.workflows.motion import FRAMES, visible
from advect.workflows.open import open_run
from advect.workflows.shown_motion import MOST_COLUMNS, shown_motion
from tests.workflows.tiny import mixed, moons, run


def shown(data, **how):
    table = data if isinstance(data, Table) else read_table(data)
    artefact = run(data, **how).artefact
    return artefact, shown_motion(artefact, table, seed=0)


@pytest.mark.parametrize(
    "method", ["i-cfm", "ot-cfm", "sb-cfm", "sf2m", "fm", "ddpm", "vp", "subvp", "cosine", "ve", "edm"]
)
def test_the_tables_are_the_field_of_every_regressed_method(method):
    """Pointwise in float64, and along whole paths against an adaptive solve at 1e-8."""
    artefact, motion = shown(moons(200), method=method, steps=15)
    assert isinstance(motion.field, PlaneField), motion.why_stored
    flow = copy.deepcopy(visible(artefact.flow)).double()
    before, ode, _ = flow.split_at_ode("test")
    z = torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        for place in (1, motion.field.steps, 2 * motion.field.steps - 1):
            t = float(motion.field.tables.times[place])
            true = ode.field(t, z).numpy()
            ours = velocity(motion.field, place, z.numpy())
            np.testing.assert_allclose(ours, true, atol=1e-5 * (1 + np.abs(true).max()))
        first, last = ode.interval
        end = Adaptive(rtol=1e-8, atol=1e-8)(ode.field, z, first, last).state
        # A third of what the page promises, in standard deviations.
        np.testing.assert_allclose(trace(motion.field, z.numpy(), 0, motion.field.steps)[-1], end.numpy(), atol=3e-4)
        x = before.decode(end, log_det=False).value.numpy()
    np.testing.assert_allclose(motion.field.outer.to_data(end.numpy()), x, atol=1e-5)
    np.testing.assert_allclose(motion.field.outer.from_data(x), end.numpy(), atol=1e-5)


def test_a_field_is_only_written_where_it_can_be_evaluated(monkeypatch):
    reasons = {
        "in the plane only": shown(np.random.default_rng(0).normal(size=(100, 3)))[1],
        "no velocity": shown(moons(100), method="nice", network="mlp-1x8")[1],
        "a kind that this page does not know": shown(moons(100), method="ot-flow", network="mlp-2x8", steps=3)[1],
    }
    monkeypatch.setattr(page_field_room, "MOST_WEIGHTS", 100)
    reasons["weights, too many"] = shown(moons(100))[1]
    for words, motion in reasons.items():
        assert motion.field is None
        assert words in motion.why_stored
        assert words in moving(motion).hint


def test_a_field_that_differs_is_not_written(monkeypatch):
    """The check is a check: tables that are a little off are found out."""
    artefact, motion = shown(moons(200))
    tables = page_field_room._tables

    def wrong(*given):
        made = tables(*given)
        made.drift[:] += 1e-3
        return made

    monkeypatch.setattr(page_field_room, "_tables", wrong)
    found = page_field_room.page_field(artefact.flow, motion.states, np.zeros(2))
    assert found == "it is not of a form that this page knows"


def test_conditional_models_keep_stored_paths(tmp_path):
    rows = np.column_stack([moons(150), np.arange(150) % 2])
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",", header="x,y,label", comments="")
    _, motion = shown(str(tmp_path / "rows.csv"), condition=("label",))
    assert motion.names == ("x", "y")
    assert motion.why_stored == "the model is conditional"


def test_what_is_no_flow_does_not_move():
    assert shown(moons(100), method="vae", network="mlp-1x8")[1] is None
    assert shown(moons(100)[:, :1])[1] is None  # nor does one column


def test_discrete_flows_move_layer_by_layer():
    _, motion = shown(moons(100), method="realnvp", network="mlp-1x8")
    assert motion.layered
    assert len(motion.states) == len(motion.captions) <= FRAMES
    assert motion.captions[0].startswith("layer 0 of ")
    assert "Between two layers" in moving(motion).lead


def test_tables_show_their_numbers_in_their_own_units():
    """Words, truth values and gaps stay out; a far column is not shifted."""
    _, motion = shown(mixed(200))
    assert motion.names == ("price", "rooms")
    assert motion.real[:, 1].min() >= 0.5  # rooms from 1 to 8, each in the middle of its cell
    assert motion.real[:, 1].max() <= 8.5
    words = np.array([["a", "b"], ["b", "a"], ["a", "a"]] * 40, dtype=object)
    table = Table(("u", "v"), tuple(words.T), "csv", (2,), ("str", "str"), origin="words")
    assert shown(table)[1].names == ("u (place of the category)", "v (place of the category)")
    wide = np.random.default_rng(0).normal(size=(120, 20))
    wide[:, 17] = 5e6 + wide[:, 2] + 0.3 * wide[:, 17]
    artefact, motion = shown(wide)
    assert len(motion.names) == MOST_COLUMNS
    pair = [motion.names[i] for i in motion.pair]
    assert pair == [artefact.schema.columns[2].name, artefact.schema.columns[17].name]
    assert np.abs(motion.states[-1][:, motion.pair[1]] - 5e6).max() < 20
    assert np.abs(motion.real[:, motion.pair[1]] - 5e6).max() < 20


def test_pictures_move_and_stay_light():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 6, 6)).astype(np.uint8)
    _, motion = shown(pixels, steps=3)
    assert motion.image
    assert motion.states.shape[1] == 16
    assert len(moving(motion).script) < 70_000
    assert affordable_pictures(3 * 32 * 32, 21) == 13
    assert affordable_pictures(3 * 256 * 256, 21) == 2


def test_coordinates_as_integers():
    """The frame is the middle third; a step is a twenty-thousandth of it; what is not finite is the last integer."""
    low, high = np.array([-1.0, 0.0]), np.array([1.0, 1e9])
    values = np.array([[-1.0, 0.0], [1.0, 1e9], [np.nan, np.inf], [99.0, -1e12]])
    found = quantised(values, low, high)
    assert found[2].tolist() == [NOWHERE, NOWHERE]
    assert found[3].tolist() == [NOWHERE - 1, 0]
    back = low - (high - low) + 3 * (high - low) * found[:2] / (NOWHERE - 1)
    assert (np.abs(back - values[:2]) <= 1.5 * (high - low) / (NOWHERE - 1)).all()


def test_the_density_on_the_grid_is_that_of_the_model():
    """Against the careful solver, and integrating to the mass that lies in the frame."""
    rows = moons(300) + np.array([0.0, 1e5])
    artefact = run(rows, method="i-cfm").artefact
    found = density_around(artefact, read_table(rows))
    low, high = (np.array([axis[end] for axis in found.axes]) for end in (0, -1))
    step = np.prod((high - low) / (np.array([len(axis) for axis in found.axes]) - 1))
    # Samples outside the frame, which is wider than the rows by 12 %, and the sum for the integral: percents.
    drawn = artefact.flow.sample(4000, generator=torch.Generator().manual_seed(0)).detach().numpy()
    shift = np.array([code.offset for code in artefact.codec.codes])
    inside = ((drawn + shift > low) & (drawn + shift < high)).all(1).mean()
    assert np.exp(found.log_density).sum() * step == pytest.approx(inside, abs=0.03)
    grid = np.stack(np.meshgrid(*found.axes), -1).reshape(-1, 2)[::97]
    with torch.no_grad():
        careful = artefact.flow.log_prob(torch.as_tensor(grid - shift)).numpy()
    near = careful > careful.max() - 10
    np.testing.assert_allclose(found.log_density.reshape(-1)[::97][near], careful[near], atol=0.05)


def test_densities_that_are_not_known_are_not_drawn():
    rows = moons(100)
    for method in ("vae", "gan"):
        assert density_around(run(rows, method=method, network="mlp-1x8").artefact, read_table(rows)) is None
    whole = np.random.default_rng(0).integers(0, 5, (100, 2))
    assert density_around(run(whole).artefact, read_table(whole)) is None
    three = np.random.default_rng(0).normal(size=(100, 3))
    assert density_around(run(three).artefact, read_table(three)) is None


def test_the_page_of_a_run_in_the_plane_has_all_of_it(tmp_path):
    np.savetxt(tmp_path / "rows.csv", moons(200), delimiter=",", header="x,y", comments="")
    run(str(tmp_path / "rows.csv"), out=tmp_path / "run")
    page = report_run(tmp_path / "run")["report"].read_text(encoding="utf-8")
    for section in ("samples", "motion", "density", "scores", "training", "data", "again"):
        assert f'<section id="{section}">' in page
    assert "What is left to learn" in page
    spans = open_run(RunFolder(tmp_path / "run")).evaluation["regression"]["spans"]
    assert len(spans) == 16
    assert len(page.encode()) < 1_000_000


def test_the_heaviest_field_is_under_a_megabyte_and_a_half():
    artefact, motion = shown(moons(200))
    assert isinstance(motion.field, PlaneField)
    each = len(packed_field(motion.field)["weights"]) / sum(w.size + b.size for w, b in motion.field.network.layers)
    # The weights at their most, and tables of 321 rows of 41 numbers in float64.
    assert each * page_field_room.MOST_WEIGHTS + 321 * 41 * 8 * 4 / 3 < 1.5e6
    assert artefact.flow.ode is not None
