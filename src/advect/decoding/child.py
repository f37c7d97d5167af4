"""The decoding process: one request from standard input, limits, one answer to standard output."""

import gc
import json
import os
import sys
from importlib import import_module
from io import BufferedIOBase
from types import ModuleType
from typing import Any

from advect.decoding.answer import AnswerWriter
from advect.errors import AdvectError, DataError

DECODERS = {
    "parquet": "advect.decoding.parquet",
    "cells": "advect.decoding.cells",
    "loadings": "advect.decoding.loadings",
    "picture": "advect.decoding.picture",
    "pictures": "advect.decoding.pictures",
}


def main() -> None:
    """One request, one answer."""
    answer = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no part of the answer
    with os.fdopen(answer, "wb") as stream:
        serve(sys.stdin.buffer.read(), stream)


def serve(request: bytes, stream: BufferedIOBase) -> None:
    """Answer a request; what cannot be read is an answer, too."""
    asked = json.loads(request)
    answer = AnswerWriter(stream)
    try:
        decoder = import_module(DECODERS[asked["kind"]])
        decoder.load()
        limit(asked)
        answer.close(_decoded(decoder, asked, answer))
    except AdvectError as error:
        said = {"what": error.what, "where": error.where, "remedy": error.remedy}
        answer.close({"error": {"kind": type(error).__name__, **said}})


def _decoded(decoder: ModuleType, asked: dict[str, Any], answer: AnswerWriter) -> dict[str, Any]:
    """What the decoder says; whatever it raises on untrusted bytes becomes a refusal."""
    try:
        return decoder.decode(asked["path"], asked, answer)
    except AdvectError:
        raise
    except MemoryError:
        gc.collect()
        what = f"reading it takes more than {asked['memory'] >> 20} MiB"
        remedy = "If the file is yours, read it yourself and give an array or a frame from Python."
        raise DataError(what, where=asked["path"], remedy=remedy) from None
    except Exception as error:
        raise DataError(
            f"the file cannot be read: {error or type(error).__name__}",
            where=asked["path"],
            remedy="It is damaged, cut short or not of the kind its ending says; fetch or save it again.",
        ) from error


def limit(asked: dict[str, Any]) -> None:
    """Limits on memory, time, files and processes, where the system has them; lower ones in force stay."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock remains
        return
    size = _address_space()
    for what, most in (
        (resource.RLIMIT_AS, size + asked["memory"]),
        (resource.RLIMIT_CPU, asked["seconds"]),
        (resource.RLIMIT_FSIZE, asked["answer"]),
        (resource.RLIMIT_CORE, 0),
    ):
        soft, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        most = most if soft == resource.RLIM_INFINITY else min(most, soft)
        resource.setrlimit(what, (most, hard))


def _address_space() -> int:
    """Bytes mapped so far: libraries map far more than they use."""
    try:
        with open("/proc/self/statm") as stream:
            return int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 1 << 32
