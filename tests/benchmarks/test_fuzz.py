"""A short form of the fuzzer: every reader, few files, in this process; decoders as forks of it."""

import json
import sys

import pytest

from advect.decoding import guard
from benchmarks.reliability import fuzz, guided
from benchmarks.reliability.cases import READERS, make_case
from benchmarks.reliability.damaged_files import with_tar_sums
from benchmarks.reliability.mutate import with_png_checksums
from benchmarks.reliability.nursery import Nursery
from benchmarks.reliability.seeds import seeds_as_text, seeds_of_text

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory and open files are read from /proc")
FILES = {"run": 15, "toml": 40, "safetensors": 60, "h5ad": 12, "parquet": 25, "picture": 25, "folder": 8, "tar": 40}


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_rows_or_a_refusal(reader, tmp_path, monkeypatch):
    nursery = Nursery(READERS[reader].decoders) if READERS[reader].decoders else None
    if nursery:
        monkeypatch.setattr(guard, "run_child", nursery.run_child)
    monkeypatch.chdir(tmp_path)
    known = READERS[reader].seeds()
    found = []
    for number in range(FILES.get(reader, 120)):
        path = make_case(reader, known, 1, number, tmp_path / "case")
        found.append({"number": number, **fuzz.attempt(reader, path, tmp_path, nursery)})
    if nursery:
        nursery.close()
    said = fuzz.summary(reader, found)
    assert said["first_problems"] == []
    assert len(said["outcomes"]) >= 1


def test_a_file_is_made_again_from_its_number(tmp_path):
    known = READERS["csv"].seeds()
    one, two = (make_case("csv", known, 3, 17, tmp_path / name).read_bytes() for name in "ab")
    assert one == two


def test_checksums_of_pictures_are_put_right():
    assert [with_tar_sums(tar) for tar in READERS["tar"].seeds()] == READERS["tar"].seeds()
    png = next(data for ending, data in READERS["picture"].seeds() if ending == ".png")
    assert with_png_checksums(png) == png


@pytest.mark.parametrize("reader", ["csv", "npz", "picture", "run"])
def test_seeds_reach_the_workers_unchanged(reader):
    seeds = READERS[reader].seeds()
    assert seeds_of_text(seeds_as_text(seeds)) == seeds


def test_a_record_is_made_in_pieces(tmp_path):
    lines = [
        {"number": n, "outcome": "read" if n % 3 else "DataError", "problem": "slow" if n == 7 else None, "child": ""}
        | {"seconds": abs(4.5 - n), "mebibytes": float(n)}
        for n in range(10)
    ]
    fuzz.record([fuzz.summary("csv", lines)], tmp_path / "whole")
    fuzz.record([fuzz.summary("csv", lines[:6])], tmp_path / "pieces")
    with pytest.raises(ValueError, match="does not end before file 5"):
        fuzz.record([fuzz.summary("csv", lines[5:])], tmp_path / "pieces", first=5)
    fuzz.record([fuzz.summary("csv", lines[6:])], tmp_path / "pieces", first=6)
    assert json.loads((tmp_path / "pieces/fuzz.json").read_text()) == json.loads(
        (tmp_path / "whole/fuzz.json").read_text()
    )
    assert (tmp_path / "pieces/fuzz.md").read_text() == (tmp_path / "whole/fuzz.md").read_text()


@pytest.mark.slow
def test_coverage_leads_to_new_places(tmp_path):
    """The instrument: files are counted, and some reach what honest ones do not."""
    pytest.importorskip("atheris")
    made = guided.guided("idx", 3)
    assert (made["code"], made["problem"], made["found"]) == (0, "", [])
    assert made["files"] > 50
    assert made["reached"] > made["reached_by_honest_files"] > 0
    guided.record([made], tmp_path)
    assert "**Pass**: 0 of 1 readers" in (tmp_path / "guided.md").read_text()


def test_what_ended_a_guided_run_is_told():
    said = (
        "#2 INITED cov: 5 ft: 6 corp: 1/1b\n === Uncaught Python exception: ===\nError: x\n==1== ERROR: y\nSUMMARY: z\n"
    )
    made = guided.figures("csv", 3, 77, said)
    assert made["problem"].endswith("Error: x")
    assert guided.figures("csv", 3, 0, said)["problem"] == ""
    assert guided.figures("csv", 3, 70, "cov: 5 ft: 6 corp: 1\nSUMMARY: timeout\n")["problem"] == "SUMMARY: timeout"
