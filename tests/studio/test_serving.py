"""`advect studio` from its command line to its last word, as a real process over a real socket."""

import contextlib
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from advect.cli.app import run as command
from advect.data import read_table
from advect.run import RunFolder
from advect.run.folder import CONFIG, METRICS, MODEL, REPORT
from tests.faces.made_runs import advect, digests, houses, only_json
from tests.studio.served import PATIENCE, Served
from tests.workflows.tiny import moons, run

pytest.importorskip("starlette", reason="starlette is not installed (the extra: web)")
pytest.importorskip("uvicorn", reason="uvicorn is not installed (the extra: web)")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run whose rows are a file, with a report that says more than it should."""
    folder = tmp_path_factory.mktemp("finished")
    np.save(folder / "moons.npy", moons())
    run(str(folder / "moons.npy"), out=folder / "run")
    (folder / "run" / REPORT).write_text("<!doctype html><title>kept</title><script>document.title = 'run'</script>")
    (folder / "secret.txt").write_text("a file beside the run")
    return folder / "run"


@pytest.fixture(scope="module")
def served(finished, tmp_path_factory):
    made = Served(finished, tmp_path_factory.mktemp("served"))
    yield made
    made.stop()


def test_the_page(served):
    answer = served.get()
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy.pop("img-src") == "data:"
    assert policy.pop("connect-src") == "'self'"
    assert policy.pop("script-src").startswith("'sha256-")
    assert policy.pop("style-src").startswith("'sha256-")
    assert set(policy.values()) == {"'none'"}
    assert set(policy) == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    text = answer.body.decode()
    assert "Rows from this model" in text
    assert served.token not in text
    assert served.get("state").json["state"] == "finished"


def test_wrong_links(served):
    """Without the token, with half of it, with another: 403 for every path, and no page beside the known ones."""
    for path in ("/", "/state", f"/{served.token[:-1]}/", f"/{served.token}x/state", "/favicon.ico", "/../"):
        assert served.at(path).status == 403, path
    for path in ("nothing", "draw/", "static/report.css", ".", "state/x"):
        assert served.get(path).status == 404, path


def raw(served, request):
    """The status of a request as it is, which no library would send."""
    with socket.create_connection(("127.0.0.1", int(served.origin.rpartition(":")[2])), timeout=PATIENCE) as stream:
        stream.sendall(request.replace(b"TOKEN", served.token.encode()))
        return int(stream.recv(4096).split(b" ")[1])


def test_foreign_names_and_pages(served):
    host = served.origin.removeprefix("http://").encode()
    head = b"GET /TOKEN/ HTTP/1.1\r\nConnection: close\r\n"
    assert raw(served, head + b"Host: " + host + b"\r\n\r\n") == 200
    assert raw(served, head + b"Host: localhost:1\r\n\r\n") == 200
    assert raw(served, head + b"Host: evil.example\r\n\r\n") == 403
    assert raw(served, head + b"Host: " + host + b"\r\nHost: evil.example\r\n\r\n") in (400, 403)
    assert raw(served, head + b"\r\n") in (400, 403)
    for origin in ("http://evil.example", "null", served.origin.replace("127.0.0.1", "localhost")):
        assert served.post("draw", {}, Origin=origin).status == 403
    assert served.post("draw", {}, **{"Content-Type": "text/plain"}).status == 415
    assert served.post("draw", b" " * 20_000).status == 413
    assert served.get("draw").status == 405
    assert served.post("state", {}).status == 405


def test_nothing_beside_the_run_is_reachable(served):
    ways = (b"../secret.txt", b"%2e%2e/secret.txt", b"..%2fsecret.txt", b"report/../../secret.txt", b"config.toml",
            b"/etc/passwd", b"model.safetensors", b"report%00", b"..\\secret.txt")  # fmt: skip
    for way in ways:
        request = b"GET /TOKEN/" + way + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        assert raw(served, request) in (400, 403, 404), way


def test_the_report_is_under_this_pages_policy(served, finished, tmp_path):
    """It is a file of a folder that may be a stranger's: only the script of this version's reports may run."""
    answer = served.get("report")
    assert (answer.status, b"kept" in answer.body) == (200, True)
    assert "script-src 'sha256-" in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    report = finished / REPORT
    kept = report.read_bytes()
    report.unlink()
    try:
        assert served.get("report").status == 404
        report.symlink_to(finished.parent / "secret.txt")
        assert served.get("report").status == 404
    finally:
        report.unlink()
        report.write_bytes(kept)


def test_rows_are_those_of_the_command(served, finished, tmp_path):
    """The command that the page shows writes the rows whose first ones it shows."""
    said = served.post("draw", {"rows": 50, "seed": 3, "solver": "heun", "evaluations": 9}).json
    assert (said["nfe"], said["rows"], said["failed"]) == (8.0, 50, 0)
    out = tmp_path / "rows.csv"
    assert command([*shlex.split(said["command"])[1:], "--out", str(out)]) == 0
    table = read_table(str(out))
    for i, row in enumerate(said["preview"]["rows"]):
        for name, cell in zip(said["preview"]["names"], row, strict=True):
            value = table.columns[table.names.index(name)][i]
            assert float(cell.replace("−", "-")) == pytest.approx(value, rel=1e-3, abs=1e-12)


def test_refusals_are_sentences(served):
    for wish in (b"", b"[]", b"{", {"rows": 0}, {"rows": 10**9}, {"seed": -1}, {"solver": "os.system"}, {"more": 1}):
        answer = served.post("draw", wish)
        assert answer.status == 422
        assert answer.json["error"].endswith(".")
        assert "Traceback" not in answer.json["error"]


def test_looking_changes_nothing(served, finished):
    before = digests(finished.parent), sorted(p.name for p in finished.rglob("*"))
    for path in ("", "state", "report", "nothing"):
        served.get(path)
    served.post("draw", {"rows": 10})
    served.post("views", {"seed": 1})
    assert (digests(finished.parent), sorted(p.name for p in finished.rglob("*"))) == before


def test_many_at_once(served):
    """More than wait in turn are refused with a sentence, and those that wait are answered."""
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(served.post("draw", {"rows": 4000, "seed": 1})))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} <= {200, 503}
    good = [answer.json["states"] for answer in answers if answer.status == 200]
    assert len(good) >= 8
    assert len(set(good)) == 1
    assert served.post("draw", {"rows": 10}).status == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_told(finished, tmp_path, number):
    made = Served(finished, tmp_path)
    assert made.get("state").status == 200
    assert made.stop(number) == 0
    said = made.log.read_text()
    assert said.splitlines()[-1] == "The studio is closed."
    assert "Traceback" not in said
    assert made.token not in said.replace(made.link, "")


def _whatever_comes(made, wish):
    """An answer, a refusal or a broken connection: all may happen while a server closes."""
    with contextlib.suppress(OSError):
        made.post("draw", wish)


def test_it_ends_while_it_computes(finished, tmp_path):
    """An answer that would take minutes is given up within one evaluation of the network."""
    made = Served(finished, tmp_path)
    wish = {"rows": 4000, "solver": "tsit5", "tolerance": 1e-6}
    threading.Thread(target=_whatever_comes, args=(made, wish), daemon=True).start()
    time.sleep(0.5)
    started = time.monotonic()
    assert made.stop() == 0
    assert time.monotonic() - started < 30.0  # of which two are for answers under way; the machine may be busy


def test_a_taken_port(served, finished, tmp_path, capsys):
    port = served.origin.rpartition(":")[2]
    assert command(["studio", str(finished), "--no-open", "--port", port]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"--port: port {port} of this machine cannot be used" in said.err
    assert "another port" in said.err
    assert command(["studio", str(finished), "--no-open", "--port", "70000"]) == 2
    assert "no port" in capsys.readouterr().err


def test_a_port_that_is_named_and_json(finished, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = Served(finished, tmp_path, "--port", str(port), "--json")
    try:
        told = only_json(made.out.read_text())
        assert told == {"url": made.link, "port": port, "run": str(finished)}
        assert made.get("state").status == 200
        # On the loopback address and nowhere else.
        others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
        for other in {"127.0.0.2", *others}:
            with pytest.raises(OSError):
                socket.create_connection((other, port), timeout=5).close()
    finally:
        made.stop()


def test_no_run_and_no_web_server(finished, tmp_path, capsys, monkeypatch):
    assert command(["studio", str(tmp_path / "nothing"), "--no-open"]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    for name in ("uvicorn", "starlette"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, name, None)
            assert command(["studio", str(finished), "--no-open"]) == 2
        said = capsys.readouterr().err
        assert "pip install 'advect[web]'" in said
        assert name in said


def test_a_damaged_model_is_told_on_the_page(finished, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / CONFIG).write_bytes((finished / CONFIG).read_bytes())
    (broken / MODEL).write_bytes(b"no weights")
    made = Served(broken, tmp_path)
    try:
        answer = made.get()
        assert answer.status == 200
        assert b"This run cannot be opened" in answer.body
        assert made.post("draw", {}).status == 422
    finally:
        made.stop()


def lines_of(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_it_follows_a_training(tmp_path):
    """From the first lines to the first rows: numbers that rise, a curve, and sliders when the model is there.

    The training is held after some lines, so that the studio is there in time on a quick machine too.
    """
    houses(tmp_path / "houses.csv", 300)
    words = "train houses.csv --steps 1000 --network mlp-1x8 --set validation_every=50 --set checkpoint_seconds=0.3"
    log, folder = tmp_path / "training.txt", RunFolder(tmp_path / "run")
    with log.open("w") as stream:
        training = subprocess.Popen(
            [sys.executable, "-m", "advect", *shlex.split(f"{words} --out run")],
            cwd=tmp_path,
            stdout=stream,
            stderr=stream,
        )
    try:
        while lines_of(folder.file(METRICS)) < 3:
            assert training.poll() is None, log.read_text()
            time.sleep(0.01)
        training.send_signal(signal.SIGSTOP)
        assert folder.state == "started"
        made = Served(folder.path, tmp_path)
        try:
            assert b"as soon as the training is finished" in made.get().body
            assert "not finished" in made.post("draw", {}).json["error"]
            state = made.get("state").json
            assert (state["state"], state["words"], state["steps"]) == ("started", "In training.", 1000)
            assert state["ago"].startswith("Last sign of life")
            assert len(state["validation"]) == lines_of(folder.file(METRICS))
            assert state["share"] >= 0.15
            names = {name for name, _ in state["tiles"]}
            assert {"step", "training loss", "validation loss", "steps per second", "time left"} <= names
            training.send_signal(signal.SIGCONT)
            shares = [state["share"]]
            while state["state"] == "started":
                assert training.poll() in (None, 0), log.read_text()
                state = made.get("state").json
                shares.append(state["share"])
                time.sleep(0.05)
            assert shares == sorted(shares)
            assert shares[-1] == 1.0
            assert b"Rows from this model" in made.get().body
            assert len(made.post("draw", {"rows": 5}).json["preview"]["rows"]) == 5
            assert training.wait(3 * PATIENCE) == 0
            state = made.get("state").json
            assert (state["state"], state["report"], state["words"]) == ("finished", True, "The training is finished.")
            assert [step for step, _ in state["validation"]] == list(range(50, 1001, 50))
        finally:
            made.stop()
    finally:
        training.kill()
        training.wait()


def test_help(tmp_path):
    done = advect("studio --help", tmp_path)
    assert done.returncode == 0
    assert "--no-open" in done.stdout
