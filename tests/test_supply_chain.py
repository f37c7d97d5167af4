"""What advect stands on is pinned and its licences are listed; and nothing is asked of the network."""

import importlib.util
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faces.made_runs import cloud

ROOT = Path(__file__).parent.parent
PERMISSIVE = re.compile(r"apache|bsd|0bsd|mit|zlib|cc0|bsl|psf|python software foundation|mit-cmu|llvm", re.IGNORECASE)


def _licences():
    spec = importlib.util.spec_from_file_location("make_licences", ROOT / "docs" / "make_licences.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LICENCES = _licences()


def listed() -> dict[str, str]:
    rows = re.findall(r"^\| (\S+) \| (.+) \|$", (ROOT / "docs" / "licences.md").read_text(encoding="utf-8"), re.M)
    return {name: text for name, text in rows if name not in ("package", "---")}


def test_the_licence_of_every_direct_dependency_is_listed():
    direct = {name for names in LICENCES.direct().values() for name in names}
    assert direct == set(listed()), "run: python docs/make_licences.py"
    assert not [name for name, text in listed().items() if text in ("not said", "not installed")]


def test_what_every_installation_needs_is_under_a_permissive_licence():
    for name in LICENCES.direct()[""]:
        for word in re.split(r" AND | OR | WITH |, ", listed()[name]):
            assert PERMISSIVE.search(word), f"{name}: {word}"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_of_the_development_environment_is_pinned():
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line) for line in lines)
    pinned = {canonical(line.partition("==")[0]) for line in lines}
    wanted = {canonical(name) for extra, names in LICENCES.direct().items() if extra != "bench" for name in names}
    assert wanted <= pinned
    assert "pip-audit" in pinned


def test_an_audit_that_could_not_ask_is_no_pass():
    """Without ``--strict`` pip-audit says "No known vulnerabilities found" of a mirror that has no database of them."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"pip-audit --strict --requirement constraints.txt .*\|\| \{.*exit 1", makefile, re.S)


ALONE = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise RuntimeError(f"the network was asked: {event} {arguments[1:]}")

sys.addaudithook(refuse)
from advect.cli.app import run
for line in sys.argv[1:]:
    code = run(line.split())
    assert code == 0, (line, code)
import advect, advect.adapters, advect.estimator
print("alone")
"""


@pytest.mark.slow
def test_import_training_sampling_and_report_ask_nothing_of_the_network(tmp_path):
    """In a process in which Python refuses to connect, bind, send, or look up a name."""
    cloud(tmp_path / "cloud.csv", 1)
    lines = (
        "train cloud.csv --method i-cfm --steps 20 --network mlp-1x8 --out run",
        "sample run -n 10 --out new.csv",
        "score run cloud.csv --out scores.csv",
        "report run",
        "doctor",
    )
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *lines], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("alone\n")


def test_the_refusal_refuses():
    line = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=0.1)"
    script = ALONE.partition("from advect")[0] + line
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "the network was asked" in done.stderr


def test_the_tests_themselves_reach_nobody_but_this_machine():
    """The hook of `conftest.py`."""
    with pytest.raises(RuntimeError, match="tests ask nothing of the network"), socket.socket() as asked:
        asked.connect(("192.0.2.1", 9))
    with pytest.raises(RuntimeError, match="tests ask nothing of the network"):
        socket.getaddrinfo("example.invalid", 80)
