"""A model as a small table that a notebook shows."""

from collections.abc import Mapping

from advect.flows import EmpiricalBase
from advect.flows.notebook import count_parameters, html_table
from advect.methods import get_method
from advect.records import Schema
from advect.report.ink import clean, shorten
from advect.report.numerals import grouped, listed, number, plus_minus
from advect.run import Artefact

MOST_COLUMNS, LONGEST_NAME = 8, 40


def model_table(artefact: Artefact) -> str:
    """What a model is, what it was trained on and how, how well it does, and what can be called."""
    config, schema = artefact.config, artefact.schema
    method = get_method(config["method"])
    rows = [("data", _data(config["data"], schema)), ("columns", _columns(schema))]
    if schema.condition:
        rows.append(("condition", _names([c.name for c in schema.condition])))
    rows += [
        ("parameters", grouped(count_parameters(artefact.flow))),
        ("network", _name(config["model"]["network"])),
        ("training", _training(config)),
        _result(artefact),
    ]
    return html_table(f"Model · {method.name}", method.sentence, rows, _calls(artefact))


def _name(text: object) -> str:
    return shorten(clean(str(text)), LONGEST_NAME)


def _names(names: list[str]) -> str:
    return listed([_name(name) for name in names], MOST_COLUMNS)


def _data(data: Mapping, schema: Schema) -> str:
    if not data["rows"]:
        return f"a log-density of rows of shape {schema.event_shape}"
    source = f"; starts from {_name(data['source'])}" if "source" in data else ""
    return f"{grouped(data['rows'])} rows of {_name(data['origin'])}, each of shape {schema.event_shape}{source}"


def _columns(schema: Schema) -> str:
    if schema.image:
        return "pictures (channels, height, width)"
    kinds = [c.kind for c in schema.columns]
    counts = listed([f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)])
    return f"{counts}: {_names(list(schema.names))}"


def _training(config: Mapping) -> str:
    outcome: Mapping = config.get("outcome", {})
    steps = outcome.get("step", config["training"]["steps"])
    words = f"{grouped(steps)} steps of {grouped(config['training']['batch_size'])} rows"
    seconds = outcome.get("seconds")
    return words if seconds is None else f"{words}, {number(float(seconds))} seconds"


def _result(artefact: Artefact) -> tuple[str, str]:
    """The held-out log-likelihood with its error, or why there is none; of a model of a log-density its log Z."""
    evaluation = artefact.evaluation
    if "target" in evaluation:
        target = evaluation["target"]
        size = f"effective sample size {number(target['effective_sample_size'])} of {grouped(target['num_draws'])}"
        return "log Z", f"{plus_minus(target['log_normaliser'], target['standard_error'], 'nats')}; {size}"
    like: Mapping = evaluation.get("likelihood", {})
    if like.get("mean") is not None:
        mean = plus_minus(like["mean"], like["standard_error"], "nats per row")
        bound = "at least " if like.get("bound") else ""
        return "held out", f"log-likelihood {bound}{mean} ({grouped(like['rows'])} rows)"
    return "held out", clean(str(like.get("reason", "not computed")))


def _calls(artefact: Artefact) -> list[str]:
    """The verbs that this model answers; pictures only where they can be drawn."""
    flow, schema = artefact.flow, artefact.schema
    invertible = getattr(flow.map, "likelihood", "exact") == "exact"
    scored = flow.likelihood != "none" and not isinstance(flow.base, EmpiricalBase)
    plane = not schema.image and len(schema.columns) == len(artefact.codec.coordinates) <= 2
    plane = plane and all(c.kind == "continuous" for c in schema.columns)
    given = "condition=…" if schema.condition else ""
    calls = ["sample(n, condition)" if given else "sample(n)"] + (["log_prob(rows)", "score(rows)"] if scored else [])
    calls += ["encode(rows)", "transport(rows)"] if invertible else []
    calls += ["evaluate(rows, training_rows)", "save(path)", "plot_samples()"]
    calls += [f"plot_density({given})"] if plane and scored and invertible else []
    calls += ["plot_trajectories()"] if invertible else []
    return calls + ([f"plot_velocity({given})"] if plane and flow.ode is not None and len(schema.columns) == 2 else [])
