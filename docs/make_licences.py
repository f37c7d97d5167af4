"""Make the list of what advect stands on and under which licences, from pyproject.toml and what is installed.

    python docs/make_licences.py           writes docs/licences.md

Only direct dependencies are named; what they need themselves is in constraints.txt, with its version. A test checks
that none is missing.
"""

import re
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences

advect is under the Apache License 2.0. What it stands on, by the extra that installs it; licences in the packages' own
words. Needed by all: the first part. Made by `python docs/make_licences.py` from what is installed.

Versions are pinned in `constraints.txt`; `make audit` asks `pip-audit` whether faults of them are known (it needs the
network, nothing else in advect does). advect opens no connection at import, in training, in use or in its tests, reads
no pickle, and writes pages that load nothing from elsewhere.
"""


def direct() -> dict[str, list[str]]:
    """Names of direct dependencies by extra; the empty name stands for all installations."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [n for n in map(_name, lines) if n != "advect"] for extra, lines in groups.items()}


def licence(package: str) -> str:
    """What a package says of itself; empty where it is not installed."""
    try:
        found = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return ""
    if found["License-Expression"]:
        return found["License-Expression"]
    classifiers = [line for line in found.get_all("Classifier") or [] if line.startswith("License ::")]
    if classifiers:
        return ", ".join(line.rpartition(" :: ")[2] for line in classifiers)
    return found["License"].splitlines()[0] if found["License"] else _title(package) or "not said"


def _title(package: str) -> str:
    """The first two lines of the licence that lies in the package."""
    for file in metadata.files(package) or []:
        if file.parts[-1].upper().startswith("LICEN") and ".dist-info" in file.parts[0]:
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            return " ".join(lines[:2])
    return ""


def page() -> str:
    """The page."""
    lines = [HEAD]
    for extra, packages in direct().items():
        rows = [f"| {name} | {licence(name) or 'not installed'} |" for name in packages]
        title = f"With `[{extra}]`" if extra else "Needed by all"
        if rows:
            lines.append(f"## {title}\n\n| package | licence |\n| --- | --- |\n" + "\n".join(rows) + "\n")
    return "\n".join(lines)


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
