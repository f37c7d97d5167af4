"""Draw every figure of the documentation: python -m figures.make, in the folder docs.

A figure is drawn again when its own file, a file that figures share, or advect itself has changed; else the pictures
that are there are kept.
"""

import hashlib
import importlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import advect
from figures.ink import PAPERS, svg

HERE = Path(__file__).resolve().parent
SHARED = ("__init__", "ink", "make", "trained")
"""Files of this folder that are no figures."""


@dataclass(frozen=True)
class Drawn:
    """A figure as a page can show it.

    Attributes:
        pictures: The file for each paper, by its name.
        alt: For those who do not see it.
        caption: Below it, in Markdown.
    """

    pictures: dict[str, Path]
    alt: str
    caption: str


def figure_names() -> list[str]:
    """The figures there are, in a fixed order."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in SHARED)


def drawn(name: str, folder: Path) -> Drawn:
    """The figure in ``folder``, drawn anew if what is there was made by other code."""
    pictures = {ink.name: folder / f"{name}-{ink.name}.svg" for ink in PAPERS}
    record, key = folder / f"{name}.json", _key(name)
    if record.exists() and all(path.exists() for path in pictures.values()):
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["key"] == key:
            return Drawn(pictures, known["alt"], known["caption"])
    folder.mkdir(parents=True, exist_ok=True)
    figure, began = importlib.import_module(f"figures.{name}"), time.perf_counter()
    found = figure.compute()
    for ink in PAPERS:
        pictures[ink.name].write_bytes(svg(figure.draw, found, ink))
    said = {"key": key, "alt": figure.ALT, "caption": figure.caption(found)}
    record.write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
    print(f"figure {name}: {time.perf_counter() - began:.1f} s")
    return Drawn(pictures, said["alt"], said["caption"])


def _key(name: str) -> str:
    """A digest of all the code that decides how a figure looks."""
    package = Path(advect.__file__).parent
    files = [HERE / f"{stem}.py" for stem in (name, *SHARED)] + sorted(package.rglob("*.py"))
    digest = hashlib.sha256(torch.__version__.encode())
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def main() -> None:
    """Draw all, into the folder where the site looks for them."""
    for name in figure_names():
        print(drawn(name, HERE.parent / "_build" / "figures").caption, "\n")


if __name__ == "__main__":
    main()
