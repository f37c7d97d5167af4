"""No map of the library is left out of the registry: a class or an architecture that is not in it fails here."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, ModuleType

import pytest
import torch

import advect.adapters
import advect.flows
import advect.flows.architectures
import advect.transforms
from advect.transforms import Bijection, Monotone
from tests.laws.maps import REGISTRY

# Not bijections, or none that every law can hold for; each is tested in a file of its own.
EXEMPT = {
    "Precision": "changes the dtype of rows, which is what the laws forbid (tests/transforms/test_compose.py)",
    "Autoencoder": "no log-determinant and no inverse (tests/transforms/test_autoencoder.py)",
    "GaussianLatent": "draws, and bounds a likelihood (tests/transforms/test_latent.py)",
    "Pushforward": "one direction only (tests/objectives/test_adversarial.py)",
    "vae": "makes a GaussianLatent",
    "gan": "makes a Pushforward",
    "circular_base": "makes a source, no map",
}


def modules_of(package: ModuleType) -> list[ModuleType]:
    # By the sources: a compiled file beside them is no module.
    names = sorted(path.stem for folder in package.__path__ for path in Path(folder).glob("[!_]*.py"))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


def public(package: ModuleType, wanted: Callable[[object], bool]) -> dict[str, object]:
    """What the modules of a package define under a name without an underscore."""
    return {
        name: thing
        for module in modules_of(package)
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__ and wanted(thing)
    }


def is_map(thing: object) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Bijection | Monotone) and not inspect.isabstract(thing)


CLASSES = {
    name: thing
    for package in (advect.transforms, advect.flows, advect.adapters)
    for name, thing in public(package, is_map).items()
}
ARCHITECTURES = public(advect.flows.architectures, inspect.isfunction)


@pytest.fixture(scope="module")
def built() -> tuple[set[type], set[CodeType]]:
    """Classes of all modules of all cases, and the code of every function that ran while they were built."""
    classes: set[type] = set()
    codes: set[CodeType] = set()
    before = sys.getprofile()
    for case in REGISTRY.values():
        sys.setprofile(lambda frame, event, _: codes.add(frame.f_code) if event == "call" else None)
        try:
            map = case.build()
        finally:
            sys.setprofile(before)
        classes |= {type(module) for module in map.modules()}
    return classes, codes


def test_the_search_finds_what_is_known_to_be_there():
    assert {"RationalQuadraticSpline", "ContinuousMap", "PassByPass", "Residual"} <= CLASSES.keys()
    assert {"nsf", "glow", "cnf", "residual", "umnn"} <= ARCHITECTURES.keys()
    assert EXEMPT.keys() <= CLASSES.keys() | ARCHITECTURES.keys(), "exempt, but not there any more"


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_of_maps_is_in_the_registry(name, built):
    if name not in EXEMPT:
        assert CLASSES[name] in built[0], f"add {name} to a module of tests/laws/maps"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_in_the_registry(name, built):
    if name not in EXEMPT:
        assert inspect.unwrap(ARCHITECTURES[name]).__code__ in built[1], f"add {name} to a module of tests/laws/maps"


@pytest.mark.parametrize("name", REGISTRY)
def test_a_case_builds_the_same_map_in_float64_every_time(name):
    """What the laws take for granted."""
    first, again = REGISTRY[name].build(), REGISTRY[name].build()
    tensors, same = first.state_dict(), again.state_dict()
    assert tensors.keys() == same.keys()
    assert all(torch.equal(tensors[key], same[key]) for key in tensors)
    assert all(p.dtype == torch.float64 for p in first.parameters())
