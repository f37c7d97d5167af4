"""Builds the compiled files, whose sources stand beside the code; everything else stands in `pyproject.toml`.

They need no Python headers: they are plain C to the outside and loaded by ctypes. Each source is compiled once for each
instruction set, into one library; which is used is decided at run time. Where that fails (no compiler, say) the
installation goes on without it, and SciPy or torch does the work.
"""

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

_ASSIGNMENT = [f"src/advect/couplings/assignment{name}_kernel.cpp" for name in ("", "_bfloat16", "_rows")]
_SCALING = ["src/advect/couplings/scaling_kernel.cpp"]
_LAYERS = [f"src/advect/transforms/{name}_kernel.cpp" for name in ("layers", "walk", "coupling")]
_PERCEPTRON = [f"src/advect/networks/perceptron{name}_kernel.cpp" for name in ("", "_bfloat16", "_split")]
_RESIDUAL = ["src/advect/networks/residual_kernel.cpp"]
_NORM = ["src/advect/networks/norm_kernel.cpp"]
_CONVOLUTION = ["src/advect/networks/convolution_kernel.cpp"]
_ADVANCE = ["src/advect/training/advance_kernel.cpp"]
_ATTENTION = [f"src/advect/networks/attention{name}_kernel.cpp" for name in ("", "_bfloat16")]
_HEADERS = [
    *("compiled", "aligned", "vectors", "turned", "shares", "numbers", "products", "bfloat16", "split"),
    *(f"couplings/{name}" for name in ("assignment_costs", "assignment_vectors", "auction", "augmenting_paths")),
    *("transforms/functions", "transforms/coupling"),
    *(f"networks/{name}" for name in ("perceptron", "gradients", "tangents", "residual", "attention", "convolution")),
]
_SHARED = [f"src/advect/{name}.h" for name in _HEADERS]
_COMMON = [
    *("-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
]
_FLAGS = {
    # Sums keep their order and products are not fused, so that every instruction set computes the same numbers; costs
    # are finite.
    _ASSIGNMENT[0]: ["-ffp-contract=off", "-ffinite-math-only"],
    # Products are fused with sums where the source says so, as in torch.
    _ADVANCE[0]: ["-ffp-contract=off"],
    # Here they agree to rounding only, and rows may be NaN.
    _SCALING[0]: ["-ffp-contract=fast"],
    _LAYERS[0]: ["-ffp-contract=fast"],
    _PERCEPTRON[0]: ["-ffp-contract=fast"],
    _RESIDUAL[0]: ["-ffp-contract=fast"],
    _NORM[0]: ["-ffp-contract=fast"],
    _ATTENTION[0]: ["-ffp-contract=fast"],
    _CONVOLUTION[0]: ["-ffp-contract=fast"],
}
_X86_SETS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"],
}
# Some sources are for sets of their own alone: products of bfloat16 numbers.
_BFLOAT16_SETS = {
    "avx512bf16": [*_X86_SETS["avx512"], "-mavx512bf16"],
    "amx": [*_X86_SETS["avx512"], "-mavx512bf16", "-mamx-tile", "-mamx-bf16"],
}
_OWN_SETS = {
    **dict.fromkeys((_PERCEPTRON[1], _ATTENTION[1], _ASSIGNMENT[1]), _BFLOAT16_SETS),
    _PERCEPTRON[2]: {"amx": _BFLOAT16_SETS["amx"]},  # three products for one pay by tiles alone
}


class BuildKernel(build_ext):
    """Compile the sources for each instruction set the compiler knows, and link what came out."""

    def get_ext_filename(self, fullname: str) -> str:
        """No tag of an interpreter: any of them can load it."""
        return str(Path(*fullname.split("."))) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None: there is no Python module to initialise."""
        return []

    def build_extension(self, ext: Extension) -> None:
        """Leave out the instruction sets that the compiler refuses."""
        msvc = self.compiler.compiler_type == "msvc"
        common = _COMMON + _FLAGS[ext.sources[0]]
        sources = [source for source in ext.sources if source not in _OWN_SETS]
        objects = self._objects(sources, "plain", ["/std:c++17", "/O2", "/EHsc"] if msvc else common)
        if not msvc and platform.machine().lower() in ("x86_64", "amd64") and sys.platform != "darwin":
            kinds = [(sources, _X86_SETS), *(([own], _OWN_SETS[own]) for own in ext.sources if own in _OWN_SETS)]
            for some, sets in kinds:
                for name, flags in sets.items():
                    try:
                        objects += self._objects(some, name, common + flags)
                    except Exception as error:  # every compiler has its own exception
                        self.warn(f"{ext.name} goes without {name}: {error}")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, str(target), target_lang="c++")

    def _objects(self, sources: list[str], name: str, flags: list[str]) -> list[str]:
        return self.compiler.compile(
            sources,
            output_dir=str(Path(self.build_temp, name)),
            macros=[("ADVECT_SET", name)],
            extra_postargs=flags,
        )


setup(
    ext_modules=[
        Extension("advect.couplings.assignment_kernel", _ASSIGNMENT, depends=_SHARED, language="c++", optional=True),
        Extension("advect.couplings.scaling_kernel", _SCALING, depends=_SHARED, language="c++", optional=True),
        Extension("advect.transforms.layers_kernel", _LAYERS, depends=_SHARED, language="c++", optional=True),
        Extension("advect.networks.perceptron_kernel", _PERCEPTRON, depends=_SHARED, language="c++", optional=True),
        Extension("advect.networks.residual_kernel", _RESIDUAL, depends=_SHARED, language="c++", optional=True),
        Extension("advect.networks.norm_kernel", _NORM, depends=_SHARED, language="c++", optional=True),
        Extension("advect.networks.convolution_kernel", _CONVOLUTION, depends=_SHARED, language="c++", optional=True),
        Extension("advect.networks.attention_kernel", _ATTENTION, depends=_SHARED, language="c++", optional=True),
        Extension("advect.training.advance_kernel", _ADVANCE, depends=_SHARED, language="c++", optional=True),
    ],
    cmdclass={"build_ext": BuildKernel},
)
