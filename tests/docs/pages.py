"""The pages of the documentation, and the parts of them that can be run or followed."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LANGUAGES = ("python", "console", "text", "toml")
"""``python`` and ``console`` blocks are run; the other two are shown only."""

_FENCE = re.compile(r"^```(?P<language>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page on which the text begins."""

    language: str
    text: str
    line: int

    @property
    def commands(self) -> list[str]:
        """The command lines of a ``console`` block, with lines that end in a backslash joined."""
        joined = self.text.replace("\\\n", " ")
        return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]

    @property
    def printed(self) -> str | None:
        """What a ``python`` block claims to print: its lines that begin with ``# →``; None where it claims nothing."""
        claims = [line[4:] for line in self.text.splitlines() if line.startswith("# → ")]
        return "\n".join(claims) if claims else None


def all_pages() -> list[Path]:
    """Every Markdown page under ``docs``, in a fixed order; what a build left there is no page."""
    pages = (page for page in DOCS.rglob("*.md") if not page.relative_to(DOCS).parts[0].startswith("_"))
    return sorted(pages)


def original_of(page: Path) -> Path | None:
    """The page that a translation, ``NAME.LANGUAGE.md``, has the code of; None for a page that is no translation."""
    stem, _, language = page.stem.rpartition(".")
    return page.with_name(f"{stem}.md") if language.isalpha() and stem else None


def name_of(page: Path) -> str:
    """The page's path inside ``docs``, for the name of a test."""
    return page.relative_to(DOCS).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"].strip(), found["body"], text.count("\n", 0, found.start("body")) + 1)
        for found in _FENCE.finditer(text)
    ]


def prose_of(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links_of(page: Path) -> list[str]:
    """The targets of a page's links."""
    return _LINK.findall(prose_of(page))


def anchors_of(page: Path) -> set[str]:
    """The anchors that a page's headings make: small letters, blanks as hyphens, no other signs."""
    titles = _HEADING.findall(prose_of(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
