"""Held-out figures: log-likelihood and two-sample metrics, each beside what real data and a Gaussian fit would get.

Samples and real rows are compared in the latent coordinates of the preprocessing (standardised, categories and gaps
as coordinates of their own), so that one scale serves every column. As many rows are drawn as are held out, and under
the held-out rows' own conditions where the model has one.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from advect.data import Split, some_rows, take_rows
from advect.errors import DataError
from advect.evaluation import column_suite, path_energy, straightness, two_sample_suite
from advect.flows import on_schedule
from advect.paths import Linear
from advect.records import Metric, Table
from advect.run import Artefact
from advect.solvers import Adams3
from advect.training import generator_for
from advect.workflows.calibrate import summary
from advect.workflows.effort import affordable_rows
from advect.workflows.generate import Generated
from advect.workflows.grown import grown
from advect.workflows.held_out import HeldOutScores, flat_scaled, held_out_scores, likelihood_facts
from advect.workflows.picture_features import PictureFeatures
from advect.workflows.picture_figures import FEWEST, picture_figures
from advect.workflows.regression_gap import regression_facts, regression_line
from advect.workflows.snapshot_scores import snapshot_facts, snapshot_lines
from advect.workflows.snapshots import of_last_time, timeline_of
from advect.workflows.streams import EVALUATE
from advect.workflows.weighted import by_weight

MAX_ROWS = 2000
WEIGHT_STREAM = 4  # below EVALUATE; others have the first three
DRAWN_SHARE, PATH_SHARE = 0.4, 0.15  # of the time until a deadline; the rest is for likelihoods
PATH_ROWS, PATH_TIMES = 500, 33
FEW_KEPT = 2  # of so many samples that are wanted one is left: they say less than they seem to
_PICTURES = 3  # a stream below EVALUATE


def evaluate_rows(
    artefact: Artefact,
    table: Table,
    split: Split,
    *,
    seed: int = 0,
    max_rows: int = MAX_ROWS,
    likelihood_rows: int | None = None,
    deadline: float | None = None,
    scores: HeldOutScores | None = None,
    features: PictureFeatures | None = None,
) -> dict[str, Any]:
    """Figures on the test rows of a split, with the training rows as reference.

    Of a run with times those of its last time, to which its samples belong, and `snapshot_facts` of all.
    """
    timeline = timeline_of(artefact)
    held_out, reference = (of_last_time(artefact, table, part) for part in (split.test, split.train))
    evaluation = evaluate_table(
        artefact,
        held_out,
        reference,
        seed=seed,
        max_rows=max_rows,
        likelihood_rows=likelihood_rows,
        deadline=deadline,
        scores=scores,
        features=features,
    )
    if timeline is None:
        return evaluation
    facts = snapshot_facts(artefact, timeline, table, split, seed=seed, deadline=deadline)
    return evaluation | {"snapshots": finite(facts), "time_key": timeline.key}


def evaluate_table(
    artefact: Artefact,
    held_out: Table,
    reference: Table,
    *,
    seed: int = 0,
    max_rows: int = MAX_ROWS,
    likelihood_rows: int | None = None,
    deadline: float | None = None,
    scores: HeldOutScores | None = None,
    features: PictureFeatures | None = None,
) -> dict[str, Any]:
    """Figures on given held-out rows.

    Args:
        artefact: The model.
        held_out: Rows the model has not seen.
        reference: Training rows: for the floor (real against real) and the Gaussian fit.
        seed: Of every draw.
        max_rows: Rows in the two-sample metrics.
        likelihood_rows: Rows scored; by default up to 500, fewer in many dimensions.
        deadline: ``time.monotonic()`` by which to be done: fewer rows are drawn and scored where time is short, a few
            always are.
        scores: Log-probabilities that are known already, so that rows are not scored twice.
        features: In which pictures are compared as well; without them pixels alone are.

    Returns:
        Plain values, ready for JSON (a number that is not finite is None): ``metrics``, ``columns``, ``transport``,
        ``regression``, ``likelihood``, ``sampling``, and ``pictures`` where there are features.

    Raises:
        DataError: Fewer than two held-out rows.
    """
    generator, all_rows = generator_for(seed, EVALUATE), held_out.num_rows
    held_out, reference = _by_weight(artefact, held_out, reference, seed)
    count = affordable_rows(artefact, min(max_rows, held_out.num_rows), deadline=deadline, share=DRAWN_SHARE, seed=seed)
    real_table = some_rows(held_out, count, generator)
    condition = real_table if artefact.condition is not None else None
    generated = grown(artefact, real_table.num_rows, condition=condition, seed=seed + 1)
    real = flat_scaled(artefact, real_table, generator)
    if generated.usable.sum() < 2:
        raise DataError(
            f"{generated.failed} of {real_table.num_rows} samples have no value: the solver failed on them",
            remedy="Train longer or with a smaller learning rate.",
        )
    drawn = take_rows(generated.table, np.flatnonzero(generated.usable))
    samples = flat_scaled(artefact, drawn, generator)
    train = flat_scaled(artefact, some_rows(reference, 4 * max_rows, generator), generator)
    metrics = two_sample_suite(samples, real, train, generator=generator, max_rows=max_rows)
    columns: tuple[Metric, ...] = ()
    if not artefact.schema.image:  # a pixel is no column that anyone looks up
        names = [c.name for c in artefact.codec.coordinates]
        columns = column_suite(samples, real, train, names, generator=generator)
    paths = affordable_rows(artefact, PATH_ROWS, deadline=deadline, share=PATH_SHARE, seed=seed)
    moved = _transport(artefact, paths, generator)
    pictured, facts = [], {}
    if features is not None and artefact.schema.image:
        shown = some_rows(held_out, 2 * count, generator_for(seed, EVALUATE, _PICTURES))
        pictured, facts = _in_pictures(drawn, shown, reference, features, seed)
    if scores is None:  # last, as it heeds the deadline
        scores = held_out_scores(artefact, held_out, seed=seed, most_rows=likelihood_rows, deadline=deadline)
    evaluation = {
        "metrics": [asdict(m) for m in metrics] + pictured,
        "columns": [asdict(m) for m in columns],
        "transport": moved,
        "regression": regression_facts(artefact, real, reference, seed=seed, deadline=deadline),
        "likelihood": likelihood_facts(artefact, scores, reference, seed=seed),
        "sampling": _sampling(artefact, generated, real_table.num_rows),
        "held_out_rows": all_rows,
        "reference_rows": reference.num_rows,
        "seed": seed,
    }
    evaluation |= {"pictures": facts} if facts else {}
    if artefact.growth:
        evaluation |= {"samples_by_mass": True, "samples_kept": drawn.num_rows, "samples_wanted": real_table.num_rows}
    if held_out.num_rows != all_rows:
        evaluation["held_out_rows_by_weight"] = held_out.num_rows
    return finite(evaluation)


def _by_weight(artefact: Artefact, held_out: Table, reference: Table, seed: int) -> tuple[Table, Table]:
    """Both tables with each row as often as its weight says."""
    if held_out.num_rows < 2:
        raise DataError(f"{held_out.num_rows} held-out rows cannot be compared with anything", where=held_out.origin)
    weighed, trained = (
        by_weight(artefact, rows, generator_for(seed, EVALUATE, WEIGHT_STREAM, place))
        for place, rows in enumerate((held_out, reference))
    )
    if weighed.num_rows < 2 or trained.num_rows < 2:
        raise DataError("fewer than two held-out rows have weight", where=held_out.origin)
    return weighed, trained


def _in_pictures(
    drawn: Table, shown: Table, reference: Table, features: PictureFeatures, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Figures on features of pictures, and what they are of; where there are too few, the reason alone."""
    if min(drawn.num_rows, shown.num_rows // 2) < FEWEST:
        return [], {"reason": f"{drawn.num_rows} samples and {shown.num_rows} held-out pictures are too few"}
    return picture_figures(drawn, shown, reference, features, seed=seed)


def _sampling(artefact: Artefact, generated: Generated, rows: int) -> dict[str, Any]:
    """How the samples were drawn, and how fast."""
    chosen = artefact.config.get("sampling", {})
    return {
        **{name: chosen.get(name) for name in ("solver", "steps", "tolerance")},
        "measured": summary(artefact.config),
        "nfe": generated.nfe,
        "rows": rows,
        "rows_per_second": rows / max(generated.seconds, 1e-9),
        "failed_rows": generated.failed,
    }


@torch.no_grad()
def _transport(artefact: Artefact, rows: int, generator: torch.Generator) -> dict[str, float]:
    """Energy and straightness of the paths of some samples, in latent coordinates; empty for maps without an ODE.

    A path on an affine schedule is looked at on the linear one, where its scale and clock play no part.
    """
    flow = artefact.flow
    if flow.ode is None:
        return {}
    if getattr(flow.ode.field, "schedule", None) is not None:
        flow = on_schedule(flow, Linear()).flow
        flow = flow.with_options(solver=Adams3(PATH_TIMES))
    condition = None if artefact.condition is None else artefact.condition.draw(rows, generator).float()
    start = flow.base.sample(rows, condition, generator=generator)
    _, ode, after = flow.split_at_ode("straightness")
    start = after.decode(start, None if after.condition_shape is None else condition, log_det=False).value
    times = torch.linspace(*ode.interval, PATH_TIMES)
    before = artefact.config.get("data", {}).get("reflow_straightness")
    states = ode.trajectory(start, times, condition).double()
    return {
        "path_energy": float(path_energy(states, times.double()).mean()),
        "straightness": float(straightness(states, times.double()).mean()),
    } | ({} if before is None else {"before_reflow": before})


def _by_mass(evaluation: Mapping) -> str:
    """That samples count by mass, and whether few of them carry most of it."""
    text = "samples count by the mass that they carry"
    rows, wanted = evaluation.get("samples_kept"), evaluation.get("samples_wanted")
    if rows is None or wanted is None or rows * FEW_KEPT >= wanted:
        return text
    return (
        f"{text}; few carry most of it, and {rows} stand for {wanted}: figures are coarse. A larger relaxation moves "
        "more and makes less"
    )


def _nats(value: float) -> str:
    """Three decimals; of what is far off, its size."""
    return f"{value:.3f}" if abs(value) < 1e5 else f"{value:.3g}"


def figures(evaluation: Mapping) -> list[tuple[str, str]]:
    """The evaluation as lines of text: name and figure with floor and ceiling."""
    lines = []
    like = evaluation.get("likelihood", {})
    if like.get("mean") is not None:
        spread = "" if like["standard_error"] is None else f" ± {_nats(like['standard_error'])}"
        text = f"{_nats(like['mean'])}{spread} nats per row ({like['rows']} rows)"
        if like.get("elbo") is not None:
            text = f"at least {text}: a bound of K = {like['importance_samples']} draws, ELBO {_nats(like['elbo'])}"
        if like.get("gaussian") is not None:
            text += f"; Gaussian fit {_nats(like['gaussian'])}"
        lines.append(("log-likelihood", text))
        lines += [("in doubt", like["doubt"])] if "doubt" in like else []
    elif "mean" in like:
        lines.append(
            ("log-likelihood", f"none: {like['failed_rows']} rows failed, {like['impossible_rows']} impossible")
        )
    elif "reason" in like:
        lines.append(("log-likelihood", f"none: {like['reason']}"))
    for metric in evaluation.get("metrics", ()):
        text = "undefined here" if metric["value"] is None else f"{metric['value']:.4g}"
        if metric["floor"] is not None:
            spread = f" ± {metric['floor_error']:.2g}" if metric["floor_error"] is not None else ""
            text += f" (floor {metric['floor']:.4g}{spread}"
            text += f", Gaussian fit {metric['ceiling']:.4g})" if metric["ceiling"] is not None else ")"
        lines.append((metric["name"], text))
    pictured = evaluation.get("pictures", {})
    if "reason" in pictured:
        lines.append(("figures of features", f"none: {pictured['reason']}"))
    elif pictured:
        lines += [("features", pictured["features"]), ("at few pictures", pictured["note"])]
    moved = evaluation.get("transport", {})
    if moved:
        before = f", before reflow {moved['before_reflow']:.4g}" if moved.get("before_reflow") is not None else ""
        lines.append(
            (
                "path energy",
                f"{moved['path_energy']:.4g}; straightness {moved['straightness']:.4g} (0 is straight{before})",
            )
        )
    if "held_out_rows_by_weight" in evaluation:
        kept, rows = evaluation["held_out_rows_by_weight"], evaluation["held_out_rows"]
        lines.append(("weights", f"{kept} of {rows} held-out rows stand for all, drawn by weight"))
    if evaluation.get("samples_by_mass"):
        lines.append(("growth", _by_mass(evaluation)))
    lines += snapshot_lines(evaluation.get("snapshots", []), evaluation.get("time_key", ""))
    gap = regression_line(evaluation.get("regression", {}))
    if gap is not None:
        lines.append(("regression gap", gap))
    measured = evaluation.get("sampling", {}).get("measured")
    if measured:
        lines.append(("sampling", measured))
    return lines


def finite(value: Any) -> Any:
    """Numbers that JSON knows: NaN and infinities become None."""
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value
