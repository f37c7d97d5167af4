"""Verbs that several processes share, as torchrun starts them: real processes, gloo on this machine alone."""

import os
import socket
import subprocess
import sys

import pytest

from tests.training.test_workers import environment

PAIR = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ADVECT = ["-m", "advect"]


def ran(*arguments: object, launcher=(sys.executable,), **variables: str) -> subprocess.CompletedProcess:
    line = [*launcher, *ADVECT, *map(str, arguments)]
    surroundings = environment() | variables
    return subprocess.run(line, env=surroundings, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training."""
    folder = tmp_path_factory.mktemp("processes") / "run"
    done = ran("train", "moons", "--steps", 20, "--network", "residual-1x8", "--out", folder, "--set", "probe_share=0")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [("sample", "-n", 5000), ("sample", "-n", 5000, "--at-once"), ("score", "moons")],
    ids=["sample", "refused", "score"],
)
def test_two_processes_write_the_file_of_one(run, tmp_path, arguments):
    """To the bit, once; and an error that comes to both is told by one."""
    verb, *rest = arguments
    alone = ran(verb, run, *rest, "--out", tmp_path / "alone.npy")
    two = ran(verb, run, *rest, "--out", tmp_path / "two.npy", launcher=PAIR)
    said = [line for line in two.stderr.splitlines() if str(tmp_path) in line or line.startswith("error: ")]
    assert len(said) == 1
    if alone.returncode:
        assert two.returncode != 0
        assert said[0] == alone.stderr.strip()
        assert not list(tmp_path.iterdir())
    else:
        assert two.returncode == 0, two.stderr
        assert (tmp_path / "two.npy").read_bytes() == (tmp_path / "alone.npy").read_bytes()


LOST = "import os\nfrom advect.training import joined\nwith joined():\n    os._exit(9)\n"


@pytest.mark.slow
def test_where_a_process_is_lost_the_other_ends_and_writes_nothing(run, tmp_path):
    """Without torchrun, which would end it by itself: the other notices that nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with subprocess.Popen([sys.executable, "-c", LOST], env=environment() | meeting | {"RANK": "1"}) as lost:
        out = tmp_path / "new.npy"
        left = ran("sample", run, "-n", 5000, "--out", out, **meeting, RANK="0")
    assert lost.returncode == 9
    assert left.returncode == 2
    assert "another process is gone" in left.stderr
    assert not os.path.lexists(out)
