"""Rows on their way: the ends are the source and the samples, and the files are what they say."""

import stat
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from advect.data import read_table
from advect.errors import ConfigError, UnknownNameError, UnsupportedError
from advect.flows import layers
from advect.report.animation import point_frames, write_mp4
from advect.training import generator_for
from advect.workflows.animate import AnimateRequest, animate
from advect.workflows.generate import SAMPLE
from advect.workflows.motion import _STREAM, chosen_columns, motion, real_points
from advect.workflows.open import open_run
from tests.workflows.tiny import moons, run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    np.savetxt(folder / "moons.csv", moons(), delimiter=",", header="a,b", comments="")
    np.savetxt(folder / "one.csv", moons()[:, :1], header="a", comments="")
    pictures = np.random.default_rng(0).integers(0, 256, (40, 5, 5), dtype=np.uint8)
    np.save(folder / "pictures.npy", pictures)
    for name, data, method, more in (
        ("ode", "moons.csv", "i-cfm", {}),
        ("layers", "moons.csv", "nice", {"network": "mlp-1x8"}),
        ("one", "one.csv", "i-cfm", {}),
        ("pictures", "pictures.npy", "i-cfm", {"steps": 3}),
        ("vae", "moons.csv", "vae", {"network": "mlp-1x8"}),
    ):
        run(str(folder / data), out=folder / name, **({"method": method} | more))
    return folder


def source_of(artefact, rows, seed=0):
    return artefact.flow.base.sample(rows, generator=generator_for(seed, SAMPLE, _STREAM))


@pytest.mark.parametrize("name", ["ode", "layers"])
def test_the_ends_are_the_source_and_the_samples(runs, name):
    artefact = open_run(runs / name)
    found = motion(artefact, rows=50, frames=9)
    assert found.states.shape == (9, 50, 2)
    assert len(found.captions) == 9
    z = source_of(artefact, 50)
    with torch.no_grad():
        end = artefact.flow.decode(z).value.double().numpy()
        scaling = list(artefact.flow.map.maps)[:-1]
        start = z
        for part in reversed(scaling):
            start = part.decode(start, log_det=False).value
    np.testing.assert_allclose(found.states[0], start.numpy(), atol=1e-5)
    # A fixed solver that stops at given times takes other steps: both are near the same solution.
    np.testing.assert_allclose(found.states[-1], end, atol=0.05)


def test_between_layers_rows_move_straight(runs):
    artefact = open_run(runs / "layers")
    count = len(layers(artefact.flow)) - 2  # two of them are scaling and precision
    found = motion(artefact, rows=10, frames=2 * count + 1)
    np.testing.assert_allclose(found.states[1], (found.states[0] + found.states[2]) / 2, atol=1e-5)
    assert found.captions[0] == f"layer 0 of {count}"
    assert found.captions[-1] == f"layer {count} of {count}"


def test_real_rows_stand_behind_in_the_units_of_the_data(runs):
    artefact = open_run(runs / "ode")
    table = read_table(runs / "moons.csv")
    found = real_points(artefact, table, (1, 0), rows=20)
    np.testing.assert_allclose(found, np.stack(table.columns, 1)[:20][:, [1, 0]], atol=1e-5)


def test_a_gif_of_a_cloud(runs):
    files = animate(AnimateRequest(runs / "ode", rows=60, frames=6, seconds=1.0))
    assert files["gif"] == runs / "ode" / "animation.gif"
    with Image.open(files["gif"]) as gif:
        assert gif.n_frames == 6
        assert gif.info["loop"] == 0
        shown, durations = [], []
        for i in range(6):
            gif.seek(i)
            durations.append(gif.info["duration"])
            shown.append(np.asarray(gif.convert("RGB"), dtype=float))
    assert durations[1:-1] == [200] * 4  # a second from end to end in five steps
    assert durations[-1] > durations[0] > 200
    assert all(np.abs(a - b).max() > 50 for a, b in pairwise(shown))


@pytest.mark.parametrize("name", ["layers", "one", "pictures"])
def test_every_kind_of_flow_and_rows(runs, name, tmp_path):
    files = animate(AnimateRequest(runs / name, out=tmp_path / "a.gif", rows=8, frames=3))
    with Image.open(files["gif"]) as gif:
        assert gif.n_frames == 3


def test_columns():
    assert chosen_columns(("a", "b", "c"), ()) == (0, 1)
    assert chosen_columns(("a",), ()) == (0,)
    assert chosen_columns(("a", "b", "c"), ("c", "a")) == (2, 0)
    with pytest.raises(UnknownNameError, match="Did you mean 'rooms'"):
        chosen_columns(("rooms", "price"), ("room", "price"))
    with pytest.raises(ConfigError, match="Name two"):
        chosen_columns(("a", "b"), ("a",))


def test_refusals(runs, tmp_path):
    with pytest.raises(UnsupportedError, match="one jump"):
        animate(AnimateRequest(runs / "vae"))
    with pytest.raises(ConfigError, match=r"Use one of \.gif"):
        animate(AnimateRequest(runs / "ode", out=tmp_path / "a.avi"))
    with pytest.raises(ConfigError, match="seconds"):
        animate(AnimateRequest(runs / "ode", seconds=0.0))
    with pytest.raises(ConfigError, match="nothing that moves"):
        motion(open_run(runs / "ode"), rows=3, frames=1)
    with pytest.raises(ConfigError, match="no columns"):
        animate(AnimateRequest(runs / "pictures", columns=("a", "b")))


def test_points_without_a_value_are_left_out():
    states = np.zeros((2, 3, 2))
    states[1] = [[1, 1], [np.nan, 0], [2, 0]]
    assert len(point_frames(states, ("a", "b"))) == 2
    assert len(point_frames(np.full((2, 3, 2), np.nan), ("a", "b"))) == 2


def test_mp4_goes_through_ffmpeg(tmp_path, monkeypatch):
    """A stand-in that keeps what it is given: as many frames as the ends are held and the rest shown."""
    frames = [Image.new("RGB", (7, 5), (i, i, i)) for i in range(5)]
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(UnsupportedError, match="no ffmpeg"):
        write_mp4(frames, tmp_path / "a.mp4", seconds=1.0)
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor last; do :; done\n/bin/cat > "$last"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    content = write_mp4(frames, tmp_path / "a.mp4", seconds=1.0).read_bytes()
    size = 6 * 4 * 3  # cut to even sides
    assert len(content) % size == 0
    shown = [content[i * size] for i in range(len(content) // size)]
    assert shown == [0, 0, 0, 1, 2, 3, *[4] * 7]  # four a second: 0.6 s more of the first, 1.6 s of the last
    program.write_text("#!/bin/sh\necho no such codec >&2\nexit 3\n")
    with pytest.raises(OSError, match="no such codec"):
        write_mp4(frames, tmp_path / "b.mp4", seconds=1.0)
    assert not (tmp_path / "b.mp4").exists()
