"""Opening a finished run: the model comes back through the same constructor that made it, without running anything."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from advect.data import Codec
from advect.data.arrays import MOST_COLUMNS
from advect.errors import RunFolderError
from advect.flows import ConditionedBase, EmpiricalBase, Flow
from advect.methods import Blueprint, Parts, build_flow, full_flow
from advect.methods.table import get_method, resolve_options, stored_options
from advect.run import EVALUATION, Artefact, RunFolder, load_weights, read_card, read_history
from advect.transforms import Autoencoder, Precision, empty_preprocess
from advect.workflows.autoencoding import Autoencoding, autoencoding
from advect.workflows.bounded import REMEDY, checked, described_by_file


def open_run(path: object, *, parts: Parts | None = None) -> Artefact:
    """The model in a run folder.

    Args:
        path: The folder.
        parts: The user's own objects, for runs that were trained with some; they are never imported from the folder.

    Raises:
        RunFolderError: No finished run, or a damaged one.
    """
    folder = path if isinstance(path, RunFolder) else RunFolder(str(path))
    tensors, schema, codec, condition, config, growth = read_card(folder)
    flow = rebuild(tensors, codec, config, parts=parts, where=str(folder.path))
    evaluation = folder.read_json(EVALUATION) if folder.file(EVALUATION).exists() else {}
    return Artefact(
        flow=flow,
        schema=schema,
        codec=codec,
        condition=condition,
        config=config,
        history=tuple(read_history(folder)),
        evaluation=evaluation,
        growth=growth,
    )


def rebuild(
    tensors: Mapping[str, Tensor], codec: Codec, config: Mapping, *, parts: Parts | None = None, where: str = "model"
) -> Flow:
    """A trained flow from its weights and its resolved settings, on the CPU and ready to evaluate.

    Raises:
        RunFolderError: Settings are missing, the weights do not fit them, or a network of the user's own is needed.
    """
    parts = Parts() if parts is None else parts
    with described_by_file(where, tensors.values()):
        flow = _rebuilt(codec, config, parts, where)
    load_weights(flow, tensors, where)
    return flow.eval()


def _rebuilt(codec: Codec, config: Mapping, parts: Parts, where: str) -> Flow:
    """The flow without its weights."""
    blueprint = blueprint_from(config, where)
    if ":" in blueprint.network and parts.network is None:
        raise RunFolderError(
            f"this run was trained with a network of your own, {blueprint.network}",
            where=where,
            remedy="Give it: advect.load(path, network=module). It is never imported from the folder.",
        )
    source, data, width = None, config.get("data", {}), blueprint.condition_features
    if "time_key" in data and width:
        row, given = torch.zeros(1, *codec.event_shape), torch.zeros(1, width)
        source = ConditionedBase(row, given, scale=torch.zeros(width), labels=True)
    elif not {"source", "time_key"}.isdisjoint(data):
        source = EmpiricalBase(torch.zeros(1, *codec.event_shape))
    core = build_flow(blueprint, source=source, parts=parts)
    preprocess = empty_preprocess(codec.coordinates, codec.event_shape).double()
    precision = Precision(tuple(codec.event_shape))
    return full_flow(core, preprocess, precision, *stages_from(config, tuple(codec.event_shape)))


def stages_from(config: Mapping, event_shape: tuple[int, ...]) -> tuple[Autoencoder, ...]:
    """The autoencoder of a stored configuration, without its weights; nothing where there is none.

    Raises:
        ConfigError, ValueError: Settings that no run has.
    """
    stored = config.get("latent")
    if stored is None:
        return ()
    if not isinstance(stored, Mapping):
        raise ValueError("latent is no section")
    coding = autoencoding(True, {name: stored[name] for name in Autoencoding.__dataclass_fields__ if name in stored})
    assert coding is not None
    return (coding.stage(event_shape),)


def blueprint_from(config: Mapping, where: str = "model") -> Blueprint:
    """The constructor's settings from a stored configuration.

    Raises:
        RunFolderError: A setting is missing.
        AdvectError, ValueError: A setting that no run has.
    """
    try:
        # A map without an ODE has no solvers.
        model, sampling, likelihood = config["model"], config.get("sampling", {}), config.get("likelihood", {})
        shape = tuple(checked("event_shape", n, _is_size) for n in model["event_shape"])
        row = get_method(config["method"])
        return Blueprint(
            method=row.name,
            options=resolve_options(row, stored_options(row, config.get("options", {}))),
            network=checked("network", model["network"], lambda name: isinstance(name, str)),
            event_shape=checked("event_shape", shape, lambda sizes: math.prod(sizes) <= MOST_COLUMNS),
            condition_features=checked("condition_features", model["condition_features"], _is_size),
            condition_dropout=checked("condition_dropout", model["condition_dropout"], _is_number),
            # A path or coupling of the user's own leaves no Gaussian start, see `methods.build`.
            baseline=model["baseline"] and "path" not in model and "coupling" not in model,
            solver=sampling.get("solver"),
            steps=checked("steps", sampling.get("steps"), lambda n: n is None or _is_size(n)),
            tolerance=checked("tolerance", sampling.get("tolerance"), lambda n: n is None or _is_number(n)),
            likelihood_solver=likelihood.get("solver"),
            likelihood_tolerance=checked(
                "likelihood.tolerance", likelihood.get("tolerance"), lambda n: n is None or _is_number(n)
            ),
            piecewise="time_key" in config.get("data", {}),
            paired="coupling" in model or "path" in model or "reflow" in config.get("data", {}),
        )
    except KeyError as error:
        raise RunFolderError(f"the configuration lacks {error}", where=where, remedy=REMEDY) from error


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_COLUMNS


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0
