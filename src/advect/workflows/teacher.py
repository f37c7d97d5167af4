"""The run whose paths a new training straightens: opened, checked against the new rows, and asked for its start."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from advect.data import Codec, ConditionCodec, Split
from advect.errors import ConfigError
from advect.flows import EmpiricalBase, Flow, StandardNormal
from advect.records import Table
from advect.run import Artefact
from advect.run.card import Setting
from advect.typing import Base
from advect.workflows.open import open_run
from advect.workflows.origin import fingerprint

WHERE = "--reflow"
FEWEST_PAIRS, MOST_PAIRS, PAIRS_PER_ROW = 10_000, 100_000, 10
MOST_NUMBERS = 2**25  # of either side of the pairs, where nobody asked for a number of them
_OTHERS = "Straighten a run of rf, i-cfm, ot-cfm, fm, vp or cosine."
_SAME = "Give the data, the columns and the --seed (or --split-seed) that it was trained with."


@dataclass(frozen=True)
class Teacher:
    """A trained run, and how many pairs it is to make.

    Attributes:
        artefact: The run.
        name: As it was given.
        pairs: How many pairs.
        origin: Whether that was ``given`` or ``derived``.
        digest: Of its weights.
    """

    artefact: Artefact
    name: str
    pairs: int
    origin: Literal["given", "derived"]
    digest: str

    @property
    def source(self) -> Base | None:
        """The rows it starts from, which are those of the new run too; None for Gaussian noise."""
        base = self.artefact.flow.base
        return EmpiricalBase(base.points.float()) if isinstance(base, EmpiricalBase) else None

    def begin(self, flow: Flow, method: str, options: Mapping[str, Any]) -> dict[str, Setting]:
        """Lend the new flow its weights where they fit; return what is written down about it."""
        lent = self._lend_weights(flow, method, options.get("predict"))
        data = self.artefact.config["data"]
        straight = self.artefact.evaluation.get("transport", {}).get("straightness")
        rows = {k: Setting(data[k], "rows to start from", "given") for k in ("source", "source_sha256") if k in data}
        return rows | {
            "reflow": Setting(self.name, "the run whose paths are straightened", "given"),
            "reflow_sha256": Setting(self.digest, "of its weights", "derived"),
            "reflow_straightness": Setting(straight, "of its paths; 0 is straight", "derived"),
            "reflow_weights": Setting(lent, "whether the first weights are its own", "derived"),
            "pairs": Setting(self.pairs, "source rows and where that run takes them", self.origin),
        }

    def _lend_weights(self, flow: Flow, method: str, predict: object) -> bool:
        """Begin with its weights, where the new flow is of the same make in the same coordinates; say if they fit."""
        config = self.artefact.config
        if (config["method"], config.get("options", {}).get("predict")) != (method, predict):
            return False
        mine, own = self.artefact.flow.state_dict(), flow.state_dict()
        if mine.keys() != own.keys() or any(mine[name].shape != own[name].shape for name in own):
            return False
        learnt = {name for name, _ in flow.named_parameters()}
        if not all(torch.allclose(mine[k].double(), own[k].cpu().double(), atol=1e-6) for k in own.keys() - learnt):
            return False  # another scaling of the columns
        flow.load_state_dict(mine)
        return True


def open_teacher(
    given: Any,
    pairs: int | None,
    *,
    data: Any,
    table: Table,
    split: Split,
    codec: Codec,
    condition: ConditionCodec | None,
) -> Teacher:
    """Open the run and make sure that it is one of these rows.

    Args:
        given: A run folder, or a model in memory.
        pairs: How many it is to make; None chooses.
        data: The new run's data, as given.
        table: As read.
        split: Of the new run.
        codec: Likewise.
        condition: Likewise.

    Raises:
        ConfigError: It is no flow from its source to such rows, or it has seen rows that are held out here.
        RunFolderError: No finished run.
    """
    artefact = given if isinstance(given, Artefact) else open_run(given)
    name = "a model in memory" if isinstance(given, Artefact) else str(Path(given))
    facts = artefact.config["data"]
    if "time_key" in facts:
        raise ConfigError(
            "this run leads through several times; what is straightened is a flow from one source", where=WHERE
        )
    if artefact.flow.ode is None:
        raise ConfigError("this run has no paths: its map is no ODE", where=WHERE, remedy=_OTHERS)
    if type(artefact.flow.base) not in (StandardNormal, EmpiricalBase):
        raise ConfigError(
            "this run starts from noise of another size than one; straight lines start from a standard normal or rows",
            where=WHERE,
            remedy=_OTHERS,
        )
    if artefact.codec.coordinates != codec.coordinates or artefact.condition != condition:
        raise ConfigError("this run has other columns or conditions", where=WHERE, remedy=_SAME)
    if facts["sha256"] != fingerprint(data, table) or facts["split"] != split.digest():
        raise ConfigError(
            "this run was trained on other rows, so it may have seen those that are held out here",
            where=WHERE,
            remedy=_SAME,
        )
    size = math.prod(codec.event_shape)
    chosen = min(max(FEWEST_PAIRS, PAIRS_PER_ROW * len(split.train)), MOST_PAIRS, max(2, MOST_NUMBERS // size))
    if pairs is None:
        return Teacher(artefact, name, chosen, "derived", _digest(artefact.flow))
    return Teacher(artefact, name, pairs, "given", _digest(artefact.flow))


def _digest(flow: Flow) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(flow.state_dict().items()):
        found.update(name.encode() + b"\0" + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
