"""The table of methods: every row builds, explains itself, checks its options and starts at a Gaussian fit."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advect.errors import ConfigError, ShapeError, UnknownNameError, UnsupportedError
from advect.flows import EmpiricalBase, IsotropicNormal, layers, start_law
from advect.methods import METHODS, Blueprint, Parts, build, explanation, full_flow, get_method, resolve_options
from advect.methods.denoising import Denoising
from advect.methods.matching import Matching
from advect.methods.table import stored_options
from advect.paths import PREDICTIONS, GaussianPath, linear
from advect.records import Batch
from advect.solvers import make_solver
from advect.training import generator_for

# Every name of the table of DESIGN.md; a row may only carry one of these.
FIELD_NAMES = {
    *[
        "planar",
        "radial",
        "sylvester",
        "nice",
        "realnvp",
        "glow",
        "maf",
        "iaf",
        "nsf",
        "nsf-ar",
        "flowpp",
        "umnn",
        "residual",
    ],
    *[
        "cnf",
        "rnode",
        "ot-flow",
        "fm",
        "i-cfm",
        "rf",
        "ot-cfm",
        "sb-cfm",
        "sf2m",
        "vp",
        "subvp",
        "ve",
        "cosine",
        "edm",
        "ddpm",
        "vae",
        "gan",
    ],
}
SHAPES = [(2,), (1, 8, 8), ()]
WORDS = ("title", "map", "couples", "path", "objective", "equation", "paper", "cost", "avoid")

MATCHING = [name for name, row in METHODS.items() if isinstance(row.recipe, Matching)]
LIKELIHOOD = [name for name, row in METHODS.items() if row.recipe.has_tractable_density]
CONTRAST = [name for name, row in METHODS.items() if row.recipe.likelihood != "exact"]
DIFFUSION = [name for name, row in METHODS.items() if isinstance(row.recipe, Denoising)]


def works_on_pictures(name: str) -> bool:
    return getattr(METHODS[name].recipe, "picture", None) is not None


def works_on_vectors(name: str) -> bool:
    return getattr(METHODS[name].recipe, "vector", True) is not None


CASES = [
    (name, shape)
    for name in METHODS
    for shape in SHAPES
    if works_on_vectors(name) or (works_on_pictures(name) and len(shape) == 3)
]
# A Gaussian fit is an affine map of all coordinates at once; convolutional layers have no such first layer.
# The components of a mixture that all start alike would never part: flowpp starts near the fit, not at it.
FITTED = [
    (name, shape)
    for name, shape in CASES
    if not (works_on_pictures(name) and len(shape) == 3) and name not in ("flowpp", *CONTRAST)
]

methods = pytest.mark.parametrize("name", METHODS)
matching = pytest.mark.parametrize("name", MATCHING)
likelihood = pytest.mark.parametrize("name", LIKELIHOOD)
cases = pytest.mark.parametrize(("name", "shape"), CASES, ids=str)


def blueprint(name: str, shape: tuple[int, ...] | None = None, **more) -> Blueprint:
    shape = shape if shape is not None else (2,) if works_on_vectors(name) else (1, 8, 8)
    network = "mlp-2x8" if name in (*LIKELIHOOD, *CONTRAST) else "residual-1x8"
    settings = {"network": network, "event_shape": shape, **METHODS[name].recipe.settings, **more}
    return Blueprint(name, resolve_options(get_method(name), settings.pop("options", {})), **settings)


def gaussian_rows(num_rows: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Correlated Gaussian rows with a mean of their own."""
    generator = torch.Generator().manual_seed(3)
    width = math.prod(shape)
    mix = torch.eye(width) + 0.3 * torch.randn(width, width, generator=generator) / max(width, 1) ** 0.5
    rows = torch.randn(num_rows, width, generator=generator) @ mix.T + torch.linspace(-0.5, 0.5, width)
    return rows.reshape(num_rows, *shape)


@methods
def test_names_are_those_of_the_field(name):
    """Trap A3: one meaning each, and the key is the name."""
    assert name in FIELD_NAMES
    assert METHODS[name].name == name


def test_the_methods_of_the_main_job_are_there():
    assert {"fm", "i-cfm", "rf", "ot-cfm", "sb-cfm"} <= set(METHODS)
    titles = [row.title for row in METHODS.values()]
    assert len(set(titles)) == len(titles)


@methods
def test_no_word_is_missing(name):
    row = METHODS[name]
    for word in WORDS:
        assert getattr(row, word).strip(), word
    explained = explanation(name)
    assert all(value for value in explained.values()), explained
    assert set(explained["options"]) == set(row.options)
    for key, option in row.options.items():
        assert option.meaning.endswith("."), key
        assert repr(option.default) in explained["options"][key]
    # The words tell of the objects the code runs on, not of others.
    assert explained["equation"] == row.equation
    assert any(ch.isdigit() for ch in row.paper)


@methods
def test_defaults_are_valid_and_may_be_given(name):
    row = METHODS[name]
    defaults = {key: option.default for key, option in row.options.items()}
    assert resolve_options(row, {}) == resolve_options(row, defaults) == defaults


@methods
def test_options_are_checked(name):
    row = METHODS[name]
    with pytest.raises(UnknownNameError, match="no option"):
        resolve_options(row, {"zzz": 1})
    for key, option in row.options.items():
        with pytest.raises(UnknownNameError, match=f"Did you mean '{key}'"):
            resolve_options(row, {key + "s": option.default})
        wrong = [None, [], object()] + ([1.0, "yes"] if isinstance(option.default, bool) else [])
        if isinstance(option.default, float):
            wrong += [-0.1, math.nan, math.inf, "0.1", True] + ([0.0] if option.exclusive else [])
        if isinstance(option.default, str):
            wrong += [1, True]
        for value in wrong:
            with pytest.raises(ConfigError, match=key):
                resolve_options(row, {key: value})
        if isinstance(option.default, float):
            assert resolve_options(row, {key: 1})[key] == 1.0
            assert isinstance(resolve_options(row, {key: 1})[key], float)


@matching
def test_unknown_times_are_refused(name):
    with pytest.raises(UnknownNameError, match="Did you mean 'uniform'"):
        build(blueprint(name, options={"times": "unifrom"}))


def test_unknown_method():
    with pytest.raises(UnknownNameError, match="Did you mean 'ot-cfm'"):
        get_method("ot-cmf")


@cases
def test_every_row_builds_trains_and_speaks(name, shape):
    """Trap M14: methods × verbs, on every event shape."""
    rows = gaussian_rows(32, shape)
    built = build(blueprint(name, shape), latent=rows)
    generator = torch.Generator().manual_seed(0)
    built.core.train()
    batch = Batch(x1=rows)
    if built.coupling is not None:
        x0 = built.core.base.sample(32, generator=generator)
        pairs = built.coupling.draw(x0, rows, condition=None, generator=generator)
        batch = Batch(x1=rows[pairs.index1], x0=x0[pairs.index0])
    loss = built.objective(built.core, batch, generator=generator)
    assert loss.shape == (32,)
    assert torch.isfinite(loss).all()
    loss.mean().backward()
    moved = [p for p in built.core.parameters() if p.grad is not None and bool((p.grad != 0).any())]
    assert moved
    built.core.eval()
    with torch.no_grad():
        drawn = built.core.sample(5, generator=generator)
        assert drawn.shape == (5, *shape)
        if name in CONTRAST:
            return
        assert torch.isfinite(built.core.log_prob(drawn)).all()
        # There and back by the adaptive solver at 1e-5, in float32.
        exact = built.core
        if built.core.ode is not None:
            exact = built.core.with_options(solver=make_solver("dopri5", tolerance=1e-5))
            assert built.core.trajectory(3, torch.tensor([0.0, 1.0])).shape == (2, 3, *shape)
        assert torch.allclose(exact.decode(exact.encode(drawn).value).value, drawn, atol=1e-3)


@pytest.mark.parametrize("name", CONTRAST)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_that_are_no_flows_say_what_they_know(name, shape):
    rows = gaussian_rows(32, shape)
    flow = build(blueprint(name, shape, options={"code": 3}), latent=rows).core.eval()
    known = METHODS[name].recipe.likelihood
    assert flow.likelihood == known
    assert explanation(name)["likelihood"] == {"bound": "a lower bound", "none": "none"}[known]
    if known == "none":
        with pytest.raises(UnsupportedError, match="no likelihood"):
            flow.log_prob(rows)
    else:
        assert flow.log_prob(rows).isfinite().all()
        assert flow.encode(rows).value.shape == (32, 3)
    with pytest.raises(UnsupportedError):
        flow.sample_and_log_prob(3)


def fitted_law(rows: torch.Tensor) -> torch.distributions.MultivariateNormal:
    flat = rows.reshape(len(rows), -1).double()
    centred = flat - flat.mean(0)
    return torch.distributions.MultivariateNormal(flat.mean(0), centred.T @ centred / len(flat))


def start_gap(flow, rows):
    """What a diffusion's start law leaves in the log-density: a log-ratio has size √(2 KL), four of them."""
    schedule = getattr(flow.ode.field, "schedule", None) if flow.ode is not None else None
    if not isinstance(flow.base, IsotropicNormal) or schedule is None:
        return 0.0
    flat = rows.reshape(len(rows), -1).double()
    told = start_law(schedule.start(), flow.base.scale, flat.mean(0), flat.var(0))
    return 4 * math.sqrt(2 * told.bound)


@pytest.mark.parametrize(("name", "shape"), FITTED, ids=str)
def test_untrained_model_is_the_gaussian_fit(name, shape):
    """Trap O4: density and samples of an untrained model are those of a Gaussian fitted to the training rows."""
    rows = gaussian_rows(20_000, shape)
    flow = build(blueprint(name, shape), latent=rows).core.eval()
    law = fitted_law(rows)
    with torch.no_grad():
        given = flow.log_prob(rows[:20]).double()
        samples = flow.sample(4000, generator=torch.Generator().manual_seed(1)).reshape(4000, -1).double()
    # Solver at 1e-5 in float32 over d coordinates; the fit shrinks the covariance by order d / rows of itself.
    width = max(1, math.prod(shape))
    exact = law.log_prob(rows[:20].reshape(20, -1).double())
    assert torch.allclose(given, exact, atol=2e-3 + 1e-3 * width + start_gap(flow, rows), rtol=1e-3)
    # Means: sd/√n; variances of a Gaussian: √(2/n) of themselves. Five of them; 24 steps of the sampler add far less.
    spread = law.covariance_matrix.diagonal()
    assert ((samples.mean(0) - law.mean).abs() < 5 * (spread / 4000).sqrt()).all()
    assert ((samples.var(0) - spread).abs() < 5 * spread * (2 / 4000) ** 0.5 + 0.01 * spread).all()
    if width == 2:
        truth = law.covariance_matrix[0, 1] / spread.prod().sqrt()
        assert abs(torch.corrcoef(samples.T)[0, 1] - truth) < 5 / 4000**0.5


@matching
def test_without_baseline_the_network_stands_alone(name):
    flow = build(blueprint(name, baseline=False), latent=gaussian_rows(50, (2,))).core
    assert flow.ode.field.baseline is None


@pytest.mark.parametrize("name", [name for name in LIKELIHOOD if works_on_vectors(name)])
def test_without_baseline_the_layers_stand_alone(name):
    rows = gaussian_rows(50, (2,))
    with_start, without = (build(blueprint(name, baseline=b), latent=rows).core for b in (True, False))
    assert len(layers(with_start)) == len(layers(without)) + 1


@likelihood
def test_likelihood_needs_a_source_with_a_density_and_no_path(name):
    shape = (2,) if works_on_vectors(name) else (1, 8, 8)
    with pytest.raises(ConfigError, match=r"source with a density.*standard-normal source only"):
        build(blueprint(name), source=EmpiricalBase(gaussian_rows(40, shape)))
    with pytest.raises(ConfigError, match="no path of your own"):
        build(blueprint(name), parts=Parts(path=linear()))


@pytest.mark.parametrize(
    "name", [name for name in LIKELIHOOD if METHODS[name].recipe.settings.get("solver", 1) is None]
)
def test_discrete_layers_take_no_network_and_no_solver(name):
    with pytest.raises(ConfigError, match="no network of your own"):
        build(blueprint(name), parts=Parts(network=torch.nn.Linear(2, 2)))
    with pytest.raises(ConfigError, match="no ODE to guide or to solve"):
        build(blueprint(name, likelihood_solver="dopri5"))
    with pytest.raises(ConfigError, match="no ODE to guide or to solve"):
        build(blueprint(name, condition_dropout=0.1))


def test_pictures_only():
    with pytest.raises(ConfigError, match="glow works on pictures"):
        build(blueprint("glow", (2,)))


@likelihood
@pytest.mark.parametrize("wrong", ["residual-3x64", "mlp-64", "mpl-2x64"])
def test_networks_inside_layers_have_their_own_names(name, wrong):
    with pytest.raises(UnknownNameError, match="mlp-2x64"):
        METHODS[name].recipe.resolve_network(wrong, event_shape=(2,))
    with pytest.raises(ConfigError, match="size of zero"):
        METHODS[name].recipe.resolve_network("mlp-0x64", event_shape=(2,))


@likelihood
@pytest.mark.parametrize("features", [0, 3])
def test_a_condition_reaches_the_map(name, features):
    shape = (2,) if works_on_vectors(name) else (1, 8, 8)
    rows = gaussian_rows(16, shape)
    flow = build(blueprint(name, shape, condition_features=features), latent=rows).core
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    flow.eval()
    if not features:
        with pytest.raises(ShapeError):
            flow.log_prob(rows, torch.zeros(16, 1))
        return
    given = torch.randn(16, features, generator=generator)
    with torch.no_grad():
        assert not torch.allclose(flow.log_prob(rows, given), flow.log_prob(rows, given + 1), atol=1e-3)
    with pytest.raises(ShapeError):
        flow.log_prob(rows)


@matching
def test_another_source(name):
    """Trap P3: a path whose noise is the source takes no other source; the others do."""
    base = EmpiricalBase(gaussian_rows(40, (2,)))
    if METHODS[name].any_source:
        built = build(blueprint(name), source=base, latent=gaussian_rows(50, (2,)))
        assert built.core.base is base
        assert built.core.ode.field.baseline is None  # a Gaussian start presumes a Gaussian source
    else:
        with pytest.raises(ConfigError, match=f"{name} conditions on the data alone.*standard-normal source only"):
            build(blueprint(name), source=base)


def test_flow_matching_refuses_a_source():
    assert not METHODS["fm"].any_source
    assert {name for name in MATCHING if not METHODS[name].any_source} == {"fm"}
    for name in MATCHING:
        row = METHODS[name]
        path = row.recipe.make_path(resolve_options(row, {}))
        assert bool(getattr(path, "requires_gaussian_source", False)) == (not row.any_source), name


def test_own_path_that_needs_gaussian_noise_refuses_a_source():
    path = GaussianPath(lambda t, x1: t * x1, lambda t, x1: 1 - t, given="data")
    base = EmpiricalBase(gaussian_rows(40, (2,)))
    with pytest.raises(ConfigError, match="standard-normal source only"):
        build(blueprint("i-cfm"), source=base, parts=Parts(path=path))
    pair = GaussianPath(lambda t, z: t * z.x1 + (1 - t) * z.x0, lambda t, z: 0.1)
    assert build(blueprint("fm"), source=base, parts=Parts(path=pair)).objective.path is pair


def test_own_parts_take_the_place_of_the_rows():
    path = GaussianPath(lambda t, z: t * z.x1 + (1 - t) * z.x0, lambda t, z: 0.1)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, t, x, condition):
            return self.weight * x

    network = Network()
    built = build(blueprint("i-cfm"), parts=Parts(path=path, network=network))
    assert built.objective.path is path
    assert built.core.ode.field.network is network
    assert built.core.ode.field.baseline is None
    alone = build(blueprint("i-cfm"), latent=gaussian_rows(50, (2,)), parts=Parts(network=network))
    assert alone.core.ode.field.baseline is not None


@given(seed=st.integers(0, 2**31))
def test_seed_decides_the_weights(seed):
    def weights(number):
        flow = build(blueprint("i-cfm", baseline=False), seed=number).core
        return torch.cat([p.flatten() for p in flow.parameters()])

    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(weights(seed), weights(seed))
    assert not torch.equal(weights(seed), weights(seed + 1))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("features", [0, 3])
def test_condition_dropout_reaches_the_objective(features):
    built = build(blueprint("i-cfm", condition_features=features, condition_dropout=0.25))
    assert built.objective.condition_dropout == 0.25
    for wrong in (-0.1, 1.5, math.nan):
        with pytest.raises(ConfigError, match="condition_dropout"):
            build(blueprint("i-cfm", condition_features=features, condition_dropout=wrong))


def test_full_flow_shares_the_weights():
    core = build(blueprint("i-cfm")).core
    whole = full_flow(core)
    assert {id(p) for p in whole.parameters()} == {id(p) for p in core.parameters()}
    z = torch.randn(4, 2, generator=generator_for(0))
    assert torch.equal(whole.decode(z).value, core.decode(z).value)


@pytest.mark.parametrize("name", DIFFUSION)
def test_diffusion_has_one_source_and_one_path(name):
    with pytest.raises(ConfigError, match="Gaussian noise"):
        build(blueprint(name), source=EmpiricalBase(gaussian_rows(40, (2,))))
    with pytest.raises(ConfigError, match="no path of your own"):
        build(blueprint(name), parts=Parts(path=linear()))


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("name", [*DIFFUSION, "fm", "i-cfm", "rf"])
def test_every_prediction_starts_at_the_gaussian_fit_and_trains(name, predict):
    """A network that says nothing yet leaves the baseline, whatever it is to predict, and its loss reaches it."""
    rows = gaussian_rows(2000, (2,))
    built = build(blueprint(name, options={"predict": predict}), latent=rows)
    with torch.no_grad():
        field = built.core.ode.field
        x, t = rows[:5], torch.full((5,), 0.4)
        torch.testing.assert_close(field(t, x), field.baseline(t, x))
    generator = torch.Generator().manual_seed(0)
    x0 = None if built.coupling is None else torch.randn(64, 2, generator=generator)
    loss = built.objective(built.core, Batch(x1=rows[:64], x0=x0), generator=generator)
    assert loss.isfinite().all()
    loss.mean().backward()
    gradients = [p.grad for p in built.core.parameters() if p.grad is not None]
    assert any(bool((g != 0).any()) for g in gradients)
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_predictions_that_a_path_cannot_have_are_refused():
    with pytest.raises(ConfigError, match="adds noise of its own"):
        build(blueprint("i-cfm", options={"sigma": 0.1, "predict": "x1"}))
    with pytest.raises(ConfigError, match="no other score is known"):
        build(blueprint("i-cfm", options={"predict": "score"}), source=EmpiricalBase(gaussian_rows(40, (2,))))
    with pytest.raises(UnknownNameError, match="Did you mean 'noise'"):
        blueprint("vp", options={"predict": "noize"})


def test_a_weight_is_heeded_whatever_is_predicted():
    """With the velocity predicted too: the losses of two weights differ row by row by the ratio of the weights."""
    rows = gaussian_rows(500, (2,))
    batch = Batch(x1=rows[:64], x0=torch.randn(64, 2, generator=torch.Generator().manual_seed(1)))
    losses = {}
    for weighting in ("velocity", "noise", "flow-matching"):
        built = build(blueprint("i-cfm", options={"weighting": weighting}), latent=rows)
        losses[weighting] = built.objective(built.core, batch, generator=torch.Generator().manual_seed(0)).detach()
    torch.testing.assert_close(losses["flow-matching"], losses["velocity"], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(losses["noise"], losses["velocity"], rtol=0.1)
    with pytest.raises(ConfigError, match="adds noise of its own"):
        build(blueprint("i-cfm", options={"sigma": 0.1, "weighting": "noise"}))


@methods
def test_a_stored_run_keeps_its_options_and_means_the_earlier_ones(name):
    row = METHODS[name]
    earlier = {key: option.earlier for key, option in row.options.items() if option.earlier is not None}
    assert stored_options(row, {}) == earlier
    assert resolve_options(row, stored_options(row, {})) == resolve_options(row, earlier)
    defaults = resolve_options(row, {})
    assert stored_options(row, defaults) == defaults


def test_affine_couplings_of_before_bend_by_gelu():
    for name in ("nice", "realnvp"):
        row = METHODS[name]
        assert resolve_options(row, stored_options(row, {}))["activation"] == "gelu"
        assert resolve_options(row, {})["activation"] == "silu"
