"""The state of this machine, so that a question about it starts complete."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from advect.couplings import compiled_scaling
from advect.couplings.kernel import instruction_set
from advect.methods import Blueprint, build, get_method, resolve_options
from advect.networks import attention, convolution, normed, perceptron, residual_compiled
from advect.run import MemorySink
from advect.training import Batches, DataRows, Trainer, TrainingConfig, advance
from advect.transforms import kernel

OPTIONAL = {
    "scikit-learn": "sklearn",
    "pandas": "tables",
    "polars": "tables",
    "pyarrow": "tables",
    "POT": "ot",
    "anndata": "cells",
    "starlette": "web",
    "uvicorn": "web",
}


def examine() -> dict[str, Any]:
    """Versions, threads, devices, optional packages, and the time of one training step in milliseconds."""
    facts: dict[str, Any] = {
        "advect": version("advect"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "torch threads": torch.get_num_threads(),
        "processor cores": os.cpu_count(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "assignment solver": _assignment_solver(),
        "entropic plans": _compiled(compiled_scaling.instruction_set()),
        "coupling and spline layers": _compiled(kernel.instruction_set()),
        "plain networks": _compiled(perceptron.instruction_set()),
        "plain networks, bfloat16": _compiled_bfloat16(perceptron.bfloat16_set()),
        'plain networks, "high" float32': _compiled_bfloat16(perceptron.split_set()),
        "residual networks": _compiled(residual_compiled.instruction_set()),
        "norms of U-Nets": _compiled(normed.instruction_set()),
        "convolutions of size 3": _compiled(convolution.instruction_set()),
        "attention": _compiled(attention.instruction_set()),
        "attention, bfloat16": _compiled_bfloat16(attention.bfloat16_set()),
        "steps of the optimiser": _compiled(advance.instruction_set()),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        "mps": "yes" if torch.backends.mps.is_available() else "none",
    }
    for package, extra in OPTIONAL.items():
        facts[package] = _version(package) or f"not installed (pip install 'advect[{extra}]')"
    facts["step, i-cfm 2-D"] = f"{1000 * time_step('i-cfm'):.2g} ms"
    facts["step, ot-cfm 2-D"] = f"{1000 * time_step('ot-cfm'):.2g} ms"
    return facts


def _assignment_solver() -> str:
    instructions = instruction_set()
    if instructions is not None:
        return f"compiled ({instructions})"
    return "SciPy (the compiled one is faster; installing advect with a C++ compiler builds it)"


def _compiled(instructions: str | None) -> str:
    if instructions is not None:
        return f"compiled ({instructions})"
    return "torch (the compiled ones are faster; installing advect with a C++ compiler builds them)"


def _compiled_bfloat16(instructions: str | None) -> str:
    return "torch" if instructions is None else f"compiled ({instructions})"


def time_step(method: str, *, rows: int = 4096, steps: int = 20) -> float:
    """Seconds of one training step of a method on two-dimensional noise: batch 256, network mlp-3x64."""
    data = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    blueprint = Blueprint(method, resolve_options(get_method(method), {}), "mlp-3x64", (2,))
    built = build(blueprint, latent=data)
    source = DataRows(draw=lambda index, generator: data[index], num_rows=rows)
    config = TrainingConfig(steps=1000, batch_size=256)
    trainer = Trainer(
        built.core, built.objective, Batches(source, 256, 0, built.core.base, built.coupling), config, MemorySink()
    )
    return trainer.time_steps(steps)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
