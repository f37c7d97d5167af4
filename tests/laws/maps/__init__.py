"""The one registry of maps: every module here that defines ``MAPS`` joins it."""

import importlib
import pkgutil

from tests.laws.maps.case import Case


def _gathered() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        maps = getattr(importlib.import_module(f"{__name__}.{module}"), "MAPS", {})
        doubled = found.keys() & maps.keys()
        assert not doubled, f"two maps are called {sorted(doubled)}"
        found |= maps
    return found


REGISTRY: dict[str, Case] = _gathered()

__all__ = ["REGISTRY", "Case"]
