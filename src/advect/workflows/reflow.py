"""Pairs for a training that straightens the paths of another run: made once, kept in the run's folder.

Each source row goes with the row to which the other run's flow takes it, solved to its likelihood tolerance. A
continued training reads the pairs it began with.
"""

from dataclasses import replace

import torch
from torch import Tensor

from advect.errors import ConfigError, RunFolderError
from advect.run import RunFolder, read_tensors, write_tensors
from advect.training import ALONE, TaughtRows, Workers, generator_for
from advect.transforms import Compose
from advect.workflows.listen import Listener
from advect.workflows.prepare import Prepared
from advect.workflows.streams import TAUGHT
from advect.workflows.teacher import WHERE

PAIRS = "pairs.safetensors"
VALIDATION_SHARE = 10  # one pair in ten, beside the others, chooses the weights
LEAST_USABLE = 0.99


def with_pairs(prepared: Prepared, folder: RunFolder | None, listener: Listener, workers: Workers = ALONE) -> Prepared:
    """The training with its pairs, read from the folder or made; as it is where no run is straightened.

    Raises:
        ConfigError: The other run's solver fails on more than one source row in a hundred; several processes.
    """
    teacher = prepared.teacher
    if teacher is None:
        return prepared
    if workers.count > 1:
        raise ConfigError("pairs are made and kept by one process", where=WHERE, remedy="Train without torchrun.")
    found = None if folder is None else _kept(folder, teacher.digest)
    if found is None:
        listener.phase("making pairs")
        found = make_pairs(prepared)
    held = len(found.x0) // (VALIDATION_SHARE + 1)
    train, validate = slice(None, len(found.x0) - held), slice(len(found.x0) - held, None)
    return replace(prepared, taught=(_on(found, train, prepared.device), _on(found, validate, prepared.device)))


def keep_pairs(prepared: Prepared, folder: RunFolder) -> None:
    """Write the pairs beside the run, unless they are there."""
    if prepared.taught is None or prepared.teacher is None or folder.file(PAIRS).exists():
        return
    both = prepared.taught
    tensors = {name: torch.cat([getattr(rows, name) for rows in both]) for name in ("x0", "x1")}
    if both[0].condition is not None:
        tensors["condition"] = torch.cat([rows.condition for rows in both if rows.condition is not None])
    write_tensors(folder.destination(PAIRS), tensors, {"reflow_sha256": prepared.teacher.digest})


@torch.no_grad()
def make_pairs(prepared: Prepared) -> TaughtRows:
    """All pairs of a training, those for validation last, on the processor; see `with_pairs`."""
    teacher = prepared.teacher
    assert teacher is not None
    flow = teacher.artefact.flow.to(prepared.device)
    generator = generator_for(prepared.training.seed, TAUGHT)
    count = teacher.pairs + -(-teacher.pairs // VALIDATION_SHARE)
    condition = _conditions(prepared, count, generator)
    start = flow.base.sample(count, condition, generator=generator)
    drawn = flow.decode(start, condition, generator=generator).value
    flow.cpu()
    whole = prepared.flow.map
    assert isinstance(whole, Compose)
    x1 = whole.maps[0].encode(drawn.cpu().double(), log_det=False).value.float()
    usable = x1.flatten(1).isfinite().all(1)
    if float(usable.float().mean()) < LEAST_USABLE:
        raise ConfigError(
            f"its solver fails on {int((~usable).sum())} of {count} source rows",
            where=WHERE,
            remedy="Train that run longer or with a smaller learning rate first.",
        )
    return TaughtRows(start.cpu().float()[usable], x1[usable], None if condition is None else condition.cpu()[usable])


def _conditions(prepared: Prepared, count: int, generator: torch.Generator) -> Tensor | None:
    """Conditions of training rows, drawn with replacement."""
    train = prepared.train
    condition = getattr(train, "condition", None)
    if condition is None:
        return None
    return condition[torch.randint(len(condition), (count,), generator=generator).to(condition.device)]


def _on(pairs: TaughtRows, part: slice, device: torch.device) -> TaughtRows:
    condition = None if pairs.condition is None else pairs.condition[part].to(device)
    return TaughtRows(pairs.x0[part].to(device), pairs.x1[part].to(device), condition)


def _kept(folder: RunFolder, digest: str) -> TaughtRows | None:
    """The pairs in a folder; None where there are none of this run, or they are damaged: they can be made again."""
    try:
        tensors, card = read_tensors(folder.file(PAIRS))
    except RunFolderError:
        return None
    if card.get("reflow_sha256") != digest or not {"x0", "x1"} <= tensors.keys():
        return None
    return TaughtRows(tensors["x0"], tensors["x1"], tensors.get("condition"))
