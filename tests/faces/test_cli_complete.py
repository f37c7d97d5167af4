"""Completing rows and autoguidance from the command: on quick runs, with every kind of column and with pictures."""

from pathlib import Path

import numpy as np
import pytest

from advect import fit, load
from advect.workflows.fit import train
from advect.workflows.request import TrainRequest
from tests.faces.made_runs import houses, only_json, refuse, succeed, table


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("complete")
    houses(folder / "houses.csv")
    for name, data, more in (
        ("run", folder / "houses.csv", {}),
        ("conditional", folder / "houses.csv", {"condition": ("place",)}),
        ("strong", "moons", {"steps": 300}),
        ("weak", "moons", {"network": "mlp-1x4", "steps": 10}),
        ("vp", "moons", {"method": "vp", "steps": 300}),
        ("paired", "moons", {"method": "ot-cfm"}),
    ):
        settings = {"method": "i-cfm", "network": "mlp-1x8", "steps": 30} | more
        train(TrainRequest(data=str(data), out=folder / name, **settings), evaluate=False)
    return folder


@pytest.fixture
def here(runs, monkeypatch) -> Path:
    monkeypatch.chdir(runs)
    return runs


@pytest.mark.parametrize("name", ["strong", "vp"])
def test_a_missing_column_is_filled_and_the_given_one_stays(name, here, capsys):
    (here / "given.csv").write_text("x0\n0.5\n1\n-2\n")
    out, _ = succeed(f"sample {name} --given given.csv --draws 4 --steps 12 --out new.csv --json", capsys)
    assert only_json(out)["rows"] == 12
    head, rows = table(here / "new.csv")
    assert head == ["x0", "x1"]
    assert [float(row[0]) for row in rows] == [0.5] * 4 + [1.0] * 4 + [-2.0] * 4
    assert len({row[1] for row in rows}) == 12


def test_every_kind_of_column_is_completed_and_comes_back_without_gaps(here, capsys):
    """Empty cells are unknown, not missing: the age of every row is filled although a tenth of them is missing in
    training; what was given is what comes back, digit by digit."""
    given = ["250000.25,,INLAND,,", ",3,,true,", "123456.78,5,BAY,false,33.25", ",,,,21.5"]
    (here / "given.csv").write_text("\n".join(["price,rooms,place,garden,age", *given]) + "\n")
    succeed("sample run --given given.csv --draws 5 --steps 12 --out new.csv", capsys)
    _, rows = table(here / "new.csv")
    assert len(rows) == 20
    for number, row in enumerate(rows):
        assert all(row)
        for cell, known in zip(row, given[number // 5].split(","), strict=True):
            assert not known or cell in (known, f"{known}.0"), (row, known)
    again, _ = succeed("sample run --given given.csv --steps 12 --seed 3 --json", capsys)
    assert again == succeed("sample run --given given.csv --steps 12 --seed 3 --json", capsys)[0] or "seconds" in again
    (here / "given.csv").write_text("place,rooms\nBAY,3\nINLAND,\n")
    succeed("sample conditional --given given.csv --steps 8 --guidance 0.5 --out new.csv", capsys)
    head, rows = table(here / "new.csv")
    assert [row[head.index("place")] for row in rows] == ["BAY", "INLAND"]


def test_noise_of_the_given_numbers_widens_what_is_drawn(here):
    given = np.full((400, 2), np.nan)
    given[:, 0] = 0.5
    model = load("vp")
    sharp, wide = (np.asarray(model.complete(given, noise=noise, steps=12)) for noise in (0.0, 50.0))
    assert (sharp[:, 0] == 0.5).all()
    assert (wide[:, 0] == 0.5).all()
    free = np.asarray(model.sample(400))
    assert abs(wide[:, 1].std() - free[:, 1].std()) < 0.15 * free[:, 1].std()


def test_pictures_with_unknown_pixels():
    pictures = np.random.default_rng(0).integers(0, 256, (60, 4, 4)).astype(np.uint8)
    model = fit(pictures, method="vp", steps=5, network="mlp-1x8", seed=0)
    given = pictures[:3].astype(float)
    given[:, :, 2:] = np.nan
    whole = np.asarray(model.complete(given, draws=2, steps=8))
    assert whole.dtype == np.uint8
    assert (whole.reshape(3, 2, 4, 4)[..., :2] == pictures[:3, None, :, :2]).all()


REFUSALS = {
    "unknown column": ("x0,x2\n1,\n", "strong", "There is no column 'x2'. Did you mean"),
    "all given": ("x0,x1\n1,2\n", "strong", "nothing to complete"),
    "none given": ("x0,x1\n,\n", "strong", "nothing is given"),
    "no score": ("x0\n1\n", "paired", "trained without --source"),
    "unknown category": ("place,rooms\nMOON,\n", "run", "column 'place'"),
    "a fraction of a room": ("rooms\n2.5\n", "run", "column 'rooms' cannot have"),
    "text for a number": ("price\ncheap\n", "run", "column 'price'"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_of_given_rows(name, here, capsys):
    content, model, message = REFUSALS[name]
    (here / "bad.csv").write_text(content)
    assert message in refuse(f"sample {model} --given bad.csv --out never.csv", capsys)
    assert not (here / "never.csv").exists()


def test_refusals_of_options(here, capsys):
    np.save(here / "wide.npy", np.full((2, 3), np.nan))
    (here / "given.csv").write_text("x0\n1\n")
    assert "rows of 2 numbers are expected" in refuse("sample strong --given wide.npy", capsys)
    assert "--given FILE" in refuse("sample strong --draws 3", capsys)
    assert "--given FILE" in refuse("sample strong --observed-noise 1", capsys)
    assert "Give 0 or more" in refuse("sample strong --given given.csv --observed-noise -1", capsys)
    assert "--draws" in refuse("sample strong --given given.csv -n 5", capsys)
    assert "different columns" in refuse("sample strong --guide-with run", capsys)
    assert "different schedules" in refuse("sample strong --guide-with vp", capsys)


def drawn(arguments: str, here: Path, capsys) -> tuple[np.ndarray, int]:
    out, _ = succeed(f"sample {arguments} -n 50 --solver euler --steps 10 --out new.csv --json", capsys)
    values = [
        [float(cell) for cell in row if cell.lstrip("-").replace(".", "").isdigit()]
        for row in table(here / "new.csv")[1]
    ]
    return np.array([row[:1] for row in values]), only_json(out)["nfe"]


def test_guidance_by_a_weaker_run_and_by_the_condition_only_in_an_interval(here, capsys):
    """Weight 0 changes nothing and costs nothing; an interval changes less than the whole of time; 2 evaluations."""
    for plain, guided in (("strong", "strong --guide-with weak"), ("conditional", "conditional")):
        tail = " --condition BAY" if plain == "conditional" else ""
        alone, spent = drawn(plain + tail, here, capsys)
        none, _ = drawn(f"{guided} --guidance 0{tail}", here, capsys)
        whole, twice = drawn(f"{guided} --guidance 2{tail}", here, capsys)
        part, _ = drawn(f"{guided} --guidance 2 --guidance-interval 0.85 1{tail}", here, capsys)
        assert (none == alone).all()
        assert (spent, twice) == (10, 20)
        moved = [np.abs(values - alone).mean() for values in (part, whole)]
        assert 0 < moved[0] < moved[1]
