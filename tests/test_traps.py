"""Known pitfalls of other libraries on transforms (T) and likelihood (L), each held by a test of ours.

A test names the pitfalls it would catch in its docstring or in a comment beside it, as in "Trap T6" or "Traps L3, T3".
What each is about stands here in short, so that a row is not lost when a test moves, and none is named that is unknown.
"""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TRAPS = {
    "T1": "the log-determinant of an inverse taken at its output",
    "T2": "a log-determinant without a graph, a constraint left to the user",
    "T3": "Russian roulette with the series of the gradient in its value",
    "T4": "spectral norms that are underestimated or never applied",
    "T5": "sizes of networks that are not those asked for",
    "T6": "the memory-saving gradient with the weight of another row",
    "T7": "stale norms: a trained residual flow that is not invertible",
    "T8": "the inverse of a spline with a discriminant below zero",
    "T9": "NaN gradients from a spline outside its box",
    "T10": "splines with all points in their tails, or with none",
    "T11": "a box too small for heavy tails",
    "T12": "planar layers that overflow",
    "T13": "scales without a bound",
    "T14": "ActNorm set in evaluation, or again after loading",
    "T15": "singular linear layers",
    "T16": "log-determinants held against the other direction only",
    "T17": "directions that disagree under a condition",
    "T18": "one coordinate: a lost condition, a mere Gaussian",
    "T19": "a condition that is taken and ignored",
    "T20": "log-determinants of another shape than (batch,)",
    "T21": "a split prior that does not see what stays",
    "L1": "a new probe at every evaluation",
    "L2": "a stochastic trace without seed and error",
    "L3": "probes that are summed, checks with one side",
    "L4": "divergences of rows that are no vectors, graphs nobody needs",
    "L5": "densities above the truth",
    "L6": "likelihoods from few steps",
    "L7": "log-densities without gradients",
    "L8": "rows without a value that are dropped",
    "L9": "surrogates printed as likelihood",
    "L10": "nats called bits",
    "L11": "scaling that is missing from the likelihood",
    "L12": "gradients switched on in frozen parts",
    "L13": "densities of samples that differ from those of the same rows",
    "L14": "points far out or outside the support",
}
MARK = re.compile(r"[Tt]raps?\s+((?:[A-Z]\d{1,2})(?:(?:,|\s+and|,\s+and)\s+[A-Z]\d{1,2})*)")


def marks() -> dict[str, list[str]]:
    """Each row of each section, and the files of tests that name it."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if path == Path(__file__):
            continue
        text = re.sub(r"\s*\n\s*(#\s*)?", " ", path.read_text(encoding="utf-8"))  # a list may go on in the next line
        for match in MARK.finditer(text):
            for row in re.findall(r"[A-Z]\d{1,2}", match[1]):
                found.setdefault(row, []).append(str(path.relative_to(TESTS)))
    return found


@pytest.mark.parametrize("row", TRAPS)
def test_every_trap_is_named_by_a_test(row):
    assert marks().get(row), f"no test is marked with trap {row}: {TRAPS[row]}"


def test_no_test_names_a_trap_that_is_not_there():
    assert {row for row in marks() if row[0] in "TL"} <= TRAPS.keys()


def test_the_marks_are_read():
    assert MARK.search("Traps T9, T13, L14: far out")[1] == "T9, T13, L14"
    assert MARK.search("trap T6 and more")[1] == "T6"
    assert MARK.search("traps T7 and T14, on the whole")[1] == "T7 and T14"
