"""Whether a run that is there may be continued by what is asked for now."""

from collections.abc import Mapping
from dataclasses import replace

from advect.errors import RunFolderError
from advect.methods.table import get_method, stored_options
from advect.run import RunFolder, differences, read_config, values
from advect.run.card import Sections
from advect.workflows.prepare import Prepared
from advect.workflows.trainer import with_steps


def continue_settings(folder: RunFolder, prepared: Prepared) -> Prepared:
    """Take the derived settings of the stored run.

    Raises:
        RunFolderError: A setting that was given differs.
    """
    stored = read_config(folder)
    if "options" in stored and stored.get("method") == prepared.request.method:
        options = stored_options(get_method(prepared.request.method), stored["options"])
        stored = {**stored, "options": options}
    prepared = with_draws_of(stored, prepared)
    sections = prepared.sections
    if prepared.request.budget_seconds is not None and "training" in stored:
        steps = int(stored["training"].get("steps", prepared.training.steps))
        prepared = with_steps(prepared, steps)
        sections = prepared.sections
    changed = differences(_comparable(stored), _comparable(values(_known(stored, sections))))
    if len(changed) > 1:  # the digest of the split follows from other settings
        changed = [line for line in changed if not line.startswith("data.split")]
    if changed:
        raise RunFolderError(
            "a run with other settings is in this folder: " + "; ".join(changed),
            where=str(folder.path),
            remedy="Give the old settings to continue it, another --out to keep both, or --restart to move it aside.",
        )
    return prepared


def with_draws_of(stored: Mapping, prepared: Prepared) -> Prepared:
    """The training with the draws of the version that began the run of this configuration."""
    if "draws_ahead" in stored.get("training", {}):
        return prepared
    return replace(prepared, training=replace(prepared.training, draws_ahead=False))


def _known(stored: Mapping, sections: Sections) -> Sections:
    """The settings without those that the version that began the run did not know yet, where they are left alone: a
    new setting's default is what was done before there was one."""
    return {
        section: {
            name: setting
            for name, setting in settings.items()
            if setting.origin != "default" or name in stored.get(section, {})
        }
        for section, settings in sections.items()
    }


def _comparable(config: Mapping) -> dict:
    """What must not change when a run is continued; versions and threads may, and the name of the same data."""
    kept = {k: dict(v) if isinstance(v, Mapping) else v for k, v in config.items() if k != "environment"}
    for name in ("path", "origin", "reflow", "reflow_straightness"):  # names do not matter, contents do
        kept.get("data", {}).pop(name, None)
    # None of these touches the weights, or by rounding alone: a machine with less memory or no compiler may go on.
    for name in ("checkpoint_seconds", "probe_share", "channels_last", "compile", "checkpoint"):
        kept.get("training", {}).pop(name, None)
    return kept
