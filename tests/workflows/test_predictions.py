"""What a network says in its several words: against the network's own word, closed forms, and one another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from advect.errors import ConfigError, UnsupportedError
from advect.workflows.plots import data_velocity
from advect.workflows.predictions import EDGE, VIEWS, predictions
from tests.workflows.tiny import mixed, moons, run

FRAMES, ROWS = 5, 12
INSIDE = slice(1, FRAMES - 1)  # at the ends times are moved a little inside


@pytest.fixture(scope="module")
def artefacts():
    """Runs by what is special about them."""
    made = {
        "i-cfm": run(moons()),
        "predicts x1": run(moons(), options={"predict": "x1"}),
        "ddpm": run(moons(), method="ddpm"),
        "ot-cfm": run(moons(), method="ot-cfm"),
        "sf2m": run(moons(), method="sf2m"),
        "cnf": run(moons(), method="cnf", network="mlp-1x8", steps=5),
        "edm": run(moons(), method="edm"),
        "nsf": run(moons(), method="nsf", network="mlp-1x8", steps=3),
        "vae": run(moons(), method="vae", network="mlp-1x8", steps=3),
        "houses": run(mixed(), condition=("place",)),
    }
    return {name: result.artefact for name, result in made.items()}


def asked(artefact, **more):
    return predictions(artefact, rows=ROWS, frames=FRAMES, **more)


def inside(artefact, x):
    """Places in the units of the data in the coordinates of the ODE, in float64."""
    before, _, _ = artefact.flow.split_at_ode("test")
    shift = np.array([code.offset for code in artefact.codec.codes])
    return before.encode(torch.as_tensor(x - shift), log_det=False).value.double().numpy()


def test_views_that_apply(artefacts):
    """Each model has the words that it knows, and a reason for every other."""
    known = {
        "i-cfm": set(VIEWS),
        "predicts x1": set(VIEWS),
        "ddpm": set(VIEWS),
        "edm": set(VIEWS),
        "houses": set(VIEWS),
        "ot-cfm": {"velocity", "x1", "noise"},
        "sf2m": {"velocity", "score"},
        "cnf": {"velocity"},
    }
    for name, views in known.items():
        found = asked(artefacts[name])
        assert set(found.says) == views, name
        assert set(found.missing) == set(VIEWS) - views, name
        assert all(np.isfinite(one).all() for one in found.says.values()), name
        assert found.rescheduled == (name == "edm")
    assert "affine path" in asked(artefacts["cnf"]).missing["x1"]
    assert "paired at random" in asked(artefacts["ot-cfm"]).missing["score"]


def test_two_places_make_the_row_and_the_velocity(artefacts):
    """On the linear path x_t = t E[x1] + (1 − t) E[x0] and v = E[x1] − E[x0]; scaling column by column keeps both."""
    for name in ("i-cfm", "predicts x1", "ot-cfm"):
        found = asked(artefacts[name])
        t = found.times[:, None, None][INSIDE]
        x1, x0 = found.says["x1"][INSIDE], found.says["noise"][INSIDE]
        size = np.abs(found.states).max()
        # Float32 on the way in and out of the network: some units of 6e-8 of the largest number.
        np.testing.assert_allclose(t * x1 + (1 - t) * x0, found.states[INSIDE], atol=1e-5 * size)
        np.testing.assert_allclose(x1 - x0, found.says["velocity"][INSIDE], atol=1e-5 * size)


@pytest.mark.parametrize(("name", "view"), [("predicts x1", "x1"), ("ddpm", "noise")])
def test_a_view_is_what_the_network_was_trained_to_say(artefacts, name, view):
    """`VelocityField.predict` knows nothing of velocities where the network says x1 or noise itself."""
    artefact = artefacts[name]
    found, before = asked(artefact), artefact.flow.split_at_ode("test")[0]
    assert artefact.flow.ode.field.parameterisation == view
    for frame in range(1, FRAMES - 1):
        z = torch.as_tensor(inside(artefact, found.states[frame])).float()
        with torch.no_grad():
            own = before.decode(artefact.flow.predict(float(found.times[frame]), z), log_det=False).value.numpy()
        # DDPM's conversion divides by α, which is 0.1 at t = 1/4: ten more units of rounding.
        np.testing.assert_allclose(found.says[view][frame], own, atol=1e-4 * np.abs(found.states).max())


def test_the_score_of_a_gaussian(artefacts):
    """A network that says nothing leaves the Gaussian start, whose marginals are N(t m, t²Σ + (1 − t)² I)."""
    for name in ("i-cfm", "sf2m"):
        artefact = artefacts[name]
        flow = artefact.flow
        field = flow.ode.field
        kept = {key: value.clone() for key, value in field.state_dict().items()}
        for network in (field.network, getattr(field, "score_network", field.network)):
            for parameter in network.parameters():
                parameter.data.zero_()
        try:
            found = asked(artefact)
            baseline = field.baseline
            basis, spectrum = baseline.directions.double().numpy(), baseline.spectrum.double().numpy()
            mean = baseline.mean.double().numpy()
            middle = FRAMES // 2
            t, sigma = 0.5, float(getattr(field, "diffusion", 0.0))
            spread = t**2 * spectrum + (1 - t) ** 2
            if name == "sf2m":  # the bridge's, `flows.baseline`
                spread += t * (1 - t) * np.sqrt(sigma**4 + 4 * spectrum)
            z = inside(artefact, found.states[middle])
            exact = -((z - t * mean) @ basis / spread) @ basis.T
            slope = inside(artefact, found.states[middle] + found.says["score"][middle]) - z  # the scaling is affine
            np.testing.assert_allclose(slope, exact, atol=1e-4 * np.abs(exact).max())
        finally:
            field.load_state_dict(kept)


def test_velocities_on_a_grid(artefacts):
    """At points that are asked for, the velocity is that of the flow in the units of the data."""
    artefact = artefacts["i-cfm"]
    grid = np.array([[0.0, 0.0], [1.5, 0.5], [-2.0, 3.0]])
    found = asked(artefact, grid=grid)
    np.testing.assert_allclose(found.points, np.broadcast_to(grid, (FRAMES, 3, 2)), atol=1e-5)
    assert found.says["x1"].shape == (FRAMES, ROWS, 2)
    for frame, time in enumerate(found.times):
        exact = data_velocity(artefact, float(time), torch.as_tensor(grid).float(), None)
        np.testing.assert_allclose(found.says["velocity"][frame], exact, atol=1e-5 * np.abs(exact).max())


def test_rows_end_where_samples_are(artefacts):
    """The last states are the flow's own samples for the same source rows, whichever way they are solved."""
    found = asked(artefacts["i-cfm"])
    assert (found.times[0], found.times[-1]) == (0.0, 1.0)
    # At the data end the expected data row of a row is the row itself, up to the time that is kept from the end.
    spread = np.ptp(found.states[-1], axis=0).max()
    np.testing.assert_allclose(found.says["x1"][-1], found.states[-1], atol=5 * EDGE * spread)
    np.testing.assert_allclose(found.says["noise"][0], found.states[0], atol=5 * EDGE * spread)


def test_a_condition_and_guidance_change_what_is_said(artefacts):
    artefact = artefacts["houses"]
    sea, town = (asked(artefact, condition={"place": place}) for place in ("sea", "town"))
    guided = asked(artefact, condition={"place": "sea"}, guidance=2.0)
    np.testing.assert_array_equal(sea.states[0], town.states[0])
    for other in (town, guided):
        assert np.abs(sea.says["velocity"][0] - other.says["velocity"][0]).max() > 1e-6
    with pytest.raises(ConfigError, match="no condition"):
        asked(artefacts["i-cfm"], guidance=1.0)


def test_what_has_no_way_says_so(artefacts):
    with pytest.raises(UnsupportedError, match="layers"):
        asked(artefacts["nsf"])
    with pytest.raises(UnsupportedError, match="one jump"):
        asked(artefacts["vae"])
    with pytest.raises(ConfigError, match="1 frames"):
        predictions(artefacts["i-cfm"], rows=3, frames=1)


def test_the_model_is_left_as_it_was(artefacts):
    artefact = artefacts["houses"]
    before = {key: value.clone() for key, value in artefact.flow.state_dict().items()}
    first = asked(replace(artefact), condition={"place": "sea"}, guidance=1.0)
    again = asked(artefact, condition={"place": "sea"}, guidance=1.0)
    np.testing.assert_array_equal(first.states, again.states)
    assert all(torch.equal(value, before[key]) for key, value in artefact.flow.state_dict().items())
