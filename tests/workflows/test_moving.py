"""Drawing, transporting and opening again: the model that comes back is the model that was trained."""

import numpy as np
import pytest
import torch

from advect.data import read_table, take_rows
from advect.errors import AdvectError, ConfigError, RunFolderError, UnknownNameError
from advect.methods import Parts
from advect.paths import AffinePath, GaussianPath, Linear
from advect.records import Pairs, Status, Table
from advect.workflows.generate import SolverChoice, generate
from advect.workflows.open import open_run
from advect.workflows.score import score
from advect.workflows.transport import transport
from tests.workflows.tiny import mixed, moons, run


def columns(table: Table) -> list[list]:
    """All values, with gaps as None."""
    return [[None if v is None or v != v else v for v in c.tolist()] for c in table.columns]


def matrix(table: Table) -> np.ndarray:
    return np.stack(table.columns, 1)


@pytest.fixture(scope="module")
def on_moons():
    return run(moons(), steps=150).artefact


@pytest.fixture(scope="module")
def on_mixed():
    return run(mixed()).artefact


def classes(rows: int = 600) -> Table:
    """Two clouds, six standard deviations apart, with their labels."""
    random = np.random.default_rng(2)
    label = np.array(random.choice(["left", "right"], rows, p=[0.25, 0.75]), dtype=object)
    x = np.where(label == "right", 3.0, -3.0) + random.standard_normal(rows)
    y = np.where(label == "right", 1.0, -1.0) + 0.5 * random.standard_normal(rows)
    return Table(("x", "y", "label"), (x, y, label), "csv", (3,), ("float64", "float64", "str"))


@pytest.fixture(scope="module")
def on_classes():
    return run(classes(), method="ot-cfm", condition=("label",), steps=400, batch_size=64, network="residual-2x32",
               settings={"condition_dropout": 0.2}, training={"learning_rate": 5e-3}).artefact  # fmt: skip


# Drawing


def test_samples_are_rows_of_the_same_kind(on_mixed):
    table = generate(on_mixed, 400).table
    original = mixed()
    assert (table.names, table.dtypes, table.container) == (original.names, original.dtypes, "csv")
    price, rooms, place, sold = table.columns
    assert price.min() >= original.columns[0].min()
    assert set(rooms[~np.isnan(rooms)]) <= set(range(1, 9))
    assert set(place) == {"sea", "hill", "town", None}
    assert sold.dtype == bool
    # Gaps come back about as often as they occurred: 20 % and 10 % of 300 rows, drawn 400 times.
    assert 0.08 < np.isnan(rooms).mean() < 0.35
    assert 0.02 < np.mean([p is None for p in place]) < 0.25


def test_draws_follow_the_seed(on_mixed):
    assert columns(generate(on_mixed, 50, seed=4).table) == columns(generate(on_mixed, 50, seed=4).table)
    assert columns(generate(on_mixed, 50, seed=4).table) != columns(generate(on_mixed, 50, seed=5).table)


def test_more_rows_than_fit_at_once(on_moons, monkeypatch):
    whole = generate(on_moons, 100)
    monkeypatch.setattr("advect.workflows.generate.ROWS_AT_ONCE", 33)
    parts = generate(on_moons, 100)
    assert matrix(parts.table).shape == (100, 2)
    # The generator's stream is the same, so are the rows, up to the rounding of differently shaped products.
    assert parts.nfe == whole.nfe
    assert np.isfinite(matrix(parts.table)).all()


@pytest.mark.parametrize("count", [0, -3])
def test_counts_below_one_are_refused(on_moons, count):
    with pytest.raises(ConfigError, match="at least 1"):
        generate(on_moons, count)


def test_solver_choices(on_moons):
    """Trap S7: one way to state steps; what contradicts itself is refused."""
    exact = matrix(generate(on_moons, 40, choice=SolverChoice(tolerance=1e-6)).table)
    errors = {}
    for steps in (4, 16, 64):
        drawn = generate(on_moons, 40, choice=SolverChoice("heun", steps=steps))
        assert drawn.nfe == 2 * steps
        errors[steps] = np.abs(matrix(drawn.table) - exact).max()
    assert errors[64] < errors[16] < errors[4]
    assert generate(on_moons, 5, choice=SolverChoice(steps=7)).nfe < generate(on_moons, 5).nfe
    with pytest.raises(UnknownNameError, match="heun"):
        generate(on_moons, 5, choice=SolverChoice("huen", steps=4))
    for wrong in (
        SolverChoice("heun", steps=4, tolerance=1e-3),
        SolverChoice("dopri5", steps=4),
        SolverChoice("heun", steps=0),
        SolverChoice("heun", steps=-2),
        SolverChoice(tolerance=0.0),
        SolverChoice(tolerance=-1e-3),
    ):
        with pytest.raises(AdvectError):
            generate(on_moons, 5, choice=wrong)


def test_failed_rows_are_marked(on_moons):
    """Trap M9: rows the solver failed on have no value and are counted."""
    weight = next(p for name, p in on_moons.flow.named_parameters() if p.ndim == 2)
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(torch.nan)
        drawn = generate(on_moons, 6)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert drawn.failed == 6
    assert np.isnan(matrix(drawn.table)).all()
    assert generate(on_moons, 6).failed == 0


# Conditions


def share_of_right(table: Table) -> float:
    return float(np.mean(table.columns[0] > 0))


def test_samples_of_a_class_are_of_that_class(on_classes):
    left, right = (generate(on_classes, 500, condition=c) for c in ("left", "label=right"))
    for drawn, centre, name in ((left, [-3, -1], "left"), (right, [3, 1], "right")):
        assert set(drawn.table.columns[2]) == {name}
        # Bias of a short training of 480 rows: a third of a standard deviation.
        assert matrix_xy(drawn.table).mean(0) == pytest.approx(centre, abs=0.35)
        assert matrix_xy(drawn.table).std(0) == pytest.approx([1, 0.5], rel=0.35)


def matrix_xy(table: Table) -> np.ndarray:
    return np.stack(table.columns[:2], 1)


def test_without_a_condition_classes_come_as_often_as_in_training(on_classes):
    table = generate(on_classes, 1000).table
    labels = table.columns[2]
    truth = np.mean(classes().columns[2] == "right")
    # Two binomials: 480 rows seen, 1000 drawn.
    assert np.mean(labels == "right") == pytest.approx(truth, abs=5 * np.sqrt(0.19 / 480 + 0.19 / 1000))
    agree = (table.columns[0] > 0) == (labels == "right")
    assert np.mean(agree) > 0.97


def test_each_row_may_have_its_own_condition(on_classes):
    labels = np.array(["left", "right"] * 50, dtype=object)
    table = generate(on_classes, 100, condition=Table(("label",), (labels,), "csv", (1,), ("str",))).table
    assert table.columns[2].tolist() == labels.tolist()
    assert np.mean((table.columns[0] > 0) == (labels == "right")) > 0.95
    listed = generate(on_classes, 100, condition={"label": labels.tolist()}).table
    assert columns(listed) == columns(table)


def test_wrong_conditions_are_refused(on_classes, on_moons):
    for given, message in (("middle", "left"), ("lable=left", "label"), ({"lable": "left"}, "label")):
        with pytest.raises(UnknownNameError, match=message):
            generate(on_classes, 5, condition=given)
    two = np.array(["left", "right"], dtype=object)
    with pytest.raises(ConfigError, match="2 conditions were given for 5 rows"):
        generate(on_classes, 5, condition=Table(("label",), (two,), "csv", (1,), ("str",)))
    with pytest.raises(ConfigError, match="this model has none"):
        generate(on_moons, 5, condition="left")
    without = Table(("x", "y"), classes().columns[:2], "csv", (2,), ("float64",) * 2)
    with pytest.raises(AdvectError, match="label"):
        score(on_classes, without)


def test_guidance_changes_samples(on_classes, on_moons):
    plain, none, strong = (
        matrix_xy(generate(on_classes, 300, condition="left", choice=SolverChoice(guidance=w)).table)
        for w in (0, 0.0, 3.0)
    )
    assert np.array_equal(plain, none)
    # Guidance pushes a class away from the whole, which lies to its right.
    assert strong[:, 0].mean() < plain[:, 0].mean() - 0.2
    with pytest.raises(ConfigError, match="guidance needs a conditional model"):
        generate(on_moons, 5, choice=SolverChoice(guidance=1.0))


def test_guidance_doubles_the_evaluations(on_classes):
    plain, guided = (generate(on_classes, 5, condition="left", choice=SolverChoice(guidance=w)).nfe for w in (0, 1.5))
    assert guided == 2 * plain


def test_scores_know_their_condition(on_classes):
    table = take_rows(classes(), np.arange(60))
    right = score(on_classes, table).estimate.value
    swapped = np.array(["left" if v == "right" else "right" for v in table.columns[2]], dtype=object)
    wrong = score(
        on_classes, Table(table.names, (*table.columns[:2], swapped), "csv", (3,), table.dtypes)
    ).estimate.value
    assert float((right - wrong).median()) > 3


# Transport


def test_there_and_back(on_moons):
    """Encode and transport use the adaptive solver at 1e-5 in both directions."""
    data = read_table(moons())  # rows of the data: others may lie beyond its bounds, where decoding ends
    there = transport(on_moons, data, to="source")
    assert there.table.names == ("z0", "z1")
    assert there.status.tolist() == [0] * 300
    back = transport(on_moons, there.table, to="target")
    # Ten times the tolerance each way, in float32, in standardised units near one.
    assert matrix(back.table) == pytest.approx(matrix(data), abs=2e-3)
    # Not by the solver of samples: its answer is another one.
    adaptive = on_moons.flow.with_options(solver=on_moons.flow.ode.likelihood_solver)
    latent = torch.from_numpy(matrix(there.table)).float()
    with torch.no_grad():
        exact, quick = (flow.decode(latent).value.numpy() for flow in (adaptive, on_moons.flow))
    assert np.array_equal(matrix(back.table), exact.clip(matrix(data).min(0), matrix(data).max(0)))
    assert not np.array_equal(exact, quick)


def test_encoded_rows_are_standard_normal(on_moons):
    latent = matrix(transport(on_moons, read_table(moons(2000, seed=8)), to="source").table)
    # Training is short: a tenth of a standard deviation, beside which the Monte-Carlo error 0.02 is small.
    assert latent.mean(0) == pytest.approx([0, 0], abs=0.15)
    assert latent.std(0) == pytest.approx([1, 1], abs=0.2)


def test_conditional_rows_go_there_and_back(on_classes):
    """The conditions travel with the rows, or nobody could move them back."""
    data = take_rows(classes(), np.arange(50))
    there = transport(on_classes, data, to="source").table
    assert there.sides["label"].tolist() == data.columns[2].tolist()
    back = transport(on_classes, there, to="target").table
    assert back.names == data.names
    assert back.columns[2].tolist() == data.columns[2].tolist()
    assert matrix_xy(back) == pytest.approx(matrix_xy(data), abs=5e-3)
    named = Table(
        ("z0", "z1", "label"), (*there.columns, data.columns[2]), "csv", (3,), ("float64", "float64", "str")
    )  # as read from a file
    assert matrix_xy(transport(on_classes, named, to="target").table) == pytest.approx(matrix_xy(back), abs=1e-6)


def test_wrong_rows_and_directions(on_moons, on_mixed):
    with pytest.raises(UnknownNameError, match="Did you mean 'source'"):
        transport(on_moons, read_table(moons(5)), to="sorce")
    with pytest.raises(ConfigError, match="2 latent columns"):
        transport(on_moons, read_table(np.zeros((4, 3))), to="target")
    text = np.array(["a", "b"], dtype=object)
    with pytest.raises(ConfigError, match="some hold text"):
        transport(on_moons, Table(("z0", "z1"), (text, text), "csv", (2,), ("str", "str")), to="target")
    strange = take_rows(mixed(), np.arange(6))
    strange.columns[2][2] = "moon"
    status = transport(on_mixed, strange, to="source").status
    assert status[2] == Status.OUTSIDE_SUPPORT


@pytest.fixture(scope="module")
def between():
    """From one Gaussian to another: the optimal map moves every row by the difference of the means."""
    random = np.random.default_rng(3)
    source, target = random.standard_normal((500, 2)), random.standard_normal((500, 2)) + np.array([4.0, -2.0])
    artefact = run(target, source=source, method="ot-cfm", steps=300, batch_size=64,
                   training={"learning_rate": 5e-3}).artefact  # fmt: skip
    return artefact, source, target


def test_transport_moves_one_population_onto_the_other(between):
    artefact, source, _ = between
    moved = matrix(transport(artefact, read_table(source), to="target").table)
    assert moved.mean(0) == pytest.approx([4, -2], abs=0.3)
    assert moved.std(0) == pytest.approx([1, 1], abs=0.25)
    # Optimal transport between shifted copies is the shift.
    assert np.abs(moved - source - [4, -2]).mean() < 0.5


def test_transport_back(between):
    artefact, source, target = between
    back = matrix(transport(artefact, read_table(target), to="source").table)
    assert back.mean(0) == pytest.approx([0, 0], abs=0.3)
    # Source rows have no bounds of the data's: most of them lie outside the range of the target.
    assert np.mean((back < target.min(0)).any(1)) > 0.3
    there = transport(artefact, read_table(source[:50]), to="target").table
    moved = matrix(there)
    inside = ((moved > target.min(0)) & (moved < target.max(0))).all(1)  # target rows end at the bounds of the data
    assert inside.sum() > 40
    again = matrix(transport(artefact, there, to="source").table)
    assert again[inside] == pytest.approx(source[:50][inside], abs=5e-3)


def test_samples_start_from_source_rows(between):
    artefact, _, target = between
    drawn = matrix(generate(artefact, 400).table)
    assert drawn.mean(0) == pytest.approx(target.mean(0), abs=0.35)


# Opening again


def assert_same_model(left, right, data, condition=None) -> None:
    """Samples bit for bit, scores bit for bit."""
    assert columns(generate(left, 40, seed=1, condition=condition).table) == columns(
        generate(right, 40, seed=1, condition=condition).table
    )
    a, b = (score(artefact, data, seed=2).estimate for artefact in (left, right))
    assert torch.equal(a.value.nan_to_num(), b.value.nan_to_num())
    assert torch.equal(a.status, b.status)


@pytest.mark.parametrize("method", ["fm", "i-cfm", "rf", "ot-cfm", "sb-cfm"])
def test_an_opened_run_is_the_trained_model(tmp_path, method):
    trained = run(mixed(), out=tmp_path / "run", method=method, steps=15).artefact
    opened = open_run(tmp_path / "run")
    assert_same_model(trained, opened, take_rows(mixed(), np.arange(20)))
    assert opened.config == trained.config
    assert opened.schema == trained.schema
    assert not opened.flow.training


def test_an_opened_conditional_run(tmp_path):
    trained = run(classes(), out=tmp_path / "run", condition=("label",)).artefact
    opened = open_run(tmp_path / "run")
    assert_same_model(trained, opened, take_rows(classes(), np.arange(20)), condition="left")


def test_an_opened_run_with_a_source(tmp_path):
    trained = run(moons(), source=moons(70, seed=3), out=tmp_path / "run").artefact
    opened = open_run(tmp_path / "run")
    assert columns(generate(trained, 30).table) == columns(generate(opened, 30).table)
    data = read_table(moons(10))
    for to in ("source", "target"):
        assert columns(transport(trained, data, to=to).table) == columns(transport(opened, data, to=to).table)


def test_opening_leaves_the_global_random_state(tmp_path):
    run(moons(), out=tmp_path / "run")
    torch.manual_seed(0)
    state = torch.get_rng_state()
    open_run(tmp_path / "run")
    assert torch.equal(state, torch.get_rng_state())


class OwnNetwork(torch.nn.Module):
    """Somebody's network."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.inner, self.outer = torch.nn.Linear(3, width), torch.nn.Linear(width, 2)

    def forward(self, t, x, condition=None):
        t = torch.as_tensor(t, dtype=x.dtype).expand(len(x)).reshape(-1, 1)
        return self.outer(torch.tanh(self.inner(torch.cat([x, t], 1))))


class Reversed:
    """Somebody's coupling: last with first."""

    def prepare(self, source, data, *, condition=None, generator=None):
        return self

    def draw(self, x0, x1, *, condition=None, generator=None):
        order = torch.arange(len(x1))
        return Pairs(order.flip(0), order)


def test_a_network_of_ones_own_is_asked_for_and_never_imported(tmp_path):
    trained = run(moons(), out=tmp_path / "run", parts=Parts(network=OwnNetwork())).artefact
    with pytest.raises(RunFolderError, match=r"test_moving:OwnNetwork.*never imported") as caught:
        open_run(tmp_path / "run")
    assert "advect.load(path, network=module)" in caught.value.message
    opened = open_run(tmp_path / "run", parts=Parts(network=OwnNetwork()))
    assert_same_model(trained, opened, read_table(moons(10)))
    with pytest.raises(RunFolderError, match="do not fit"):
        open_run(tmp_path / "run", parts=Parts(network=OwnNetwork(width=9)))


def test_path_and_coupling_of_ones_own(tmp_path):
    path = GaussianPath(lambda t, z: t * z.x1 + (1 - t) * z.x0, lambda t, z: 0.05 * (1 - t))
    parts = Parts(path=path, coupling=Reversed())
    trained = run(moons(), out=tmp_path / "run", parts=parts).artefact
    model = trained.config["model"]
    assert model["path"].endswith(":GaussianPath")
    assert model["coupling"].endswith("test_moving:Reversed")
    # Neither is needed for a flow: the run opens by itself.
    assert_same_model(trained, open_run(tmp_path / "run"), read_table(moons(10)))
    assert run(moons(), out=tmp_path / "run", parts=parts).state == "already finished"
    with pytest.raises(RunFolderError, match=r"model\.path"):
        run(moons(), out=tmp_path / "run")


def test_own_path_frees_a_method_from_its_source(tmp_path):
    """Trap P3: fm refuses another source because of its path; with another path the run trains and opens."""
    source = moons(70, seed=3)
    with pytest.raises(ConfigError, match="fm conditions on the data alone"):
        run(moons(), source=source, method="fm")
    trained = run(moons(), source=source, method="fm", parts=Parts(path=AffinePath(Linear())), out=tmp_path / "a")
    assert columns(generate(open_run(tmp_path / "a"), 9).table) == columns(generate(trained.artefact, 9).table)
    noise = GaussianPath(lambda t, x1: t * x1, lambda t, x1: 1 - t, given="data")
    with pytest.raises(ConfigError, match="standard-normal source only"):
        run(moons(), source=source, parts=Parts(path=noise))
