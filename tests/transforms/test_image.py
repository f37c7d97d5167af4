"""Couplings on pictures: which numbers move, what their networks see, and the mistakes of the study notes put right."""

import pytest
import torch
from safetensors.torch import load, save

from advect.errors import ConfigError, ShapeError, UnknownNameError
from advect.flows.architectures.image import dequantisation_noise, glow, notes_realnvp, realnvp_image
from advect.flows.base import StandardNormal
from advect.flows.flow import Flow
from advect.transforms.compose import Compose
from advect.transforms.image import ImageCoupling
from advect.transforms.squeeze import Squeezed, squeeze, unsqueeze
from tests.laws.maps.image import perturbed

FLOAT64 = torch.float64
ARCHITECTURES = [realnvp_image, glow, notes_realnvp]
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 5, 7), (1, 5, 7), (5, 1, 1), (1, 1, 2)]

every_architecture = pytest.mark.parametrize("build", ARCHITECTURES, ids=lambda b: b.__name__)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def small(build, shape, *rest, spread=0.05, **options):
    return perturbed(build(shape, *rest, width=4, **options, generator=torch.Generator().manual_seed(3)), spread)


def jacobian(verb, x):
    """∂ out/∂ in of one row, both flattened."""
    return torch.autograd.functional.jacobian(
        lambda flat: verb(flat.reshape(1, *x.shape[1:])).value.reshape(-1), x[0].reshape(-1)
    )


# Squeezing


def test_squeeze_by_hand():
    picture = torch.tensor([[[[0.0, 1, 2, 3], [4, 5, 6, 7]]]])
    upper_left, lower_right, upper_right, lower_left = [[0, 2]], [[5, 7]], [[1, 3]], [[4, 6]]
    assert squeeze(picture)[0].tolist() == [upper_left, lower_right, upper_right, lower_left]


def test_unsqueeze_undoes_it_and_colours_stay_together():
    x = randn(2, 3, 4, 6)
    assert torch.equal(unsqueeze(squeeze(x)), x)
    colour = ((torch.arange(4.0)[:, None] + torch.arange(6.0)) % 2).expand(1, 3, 4, 6)
    one, other = squeeze(colour).chunk(2, dim=1)
    assert not one.any()
    assert other.all()


def test_squeezed_needs_even_sides_and_a_fitting_map():
    with pytest.raises(ConfigError, match="3 × 4 pixels"):
        Squeezed(Compose(), (1, 3, 4))
    with pytest.raises(ShapeError, match=r"\(4, 2, 2\)"):
        Squeezed(ImageCoupling((2, 2, 2)), (1, 4, 4))


# One coupling


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 2, 2), (1, 3, 5), (2, 3, 4), (1, 1, 3)])
def test_a_checkerboard_moves_one_colour(shape, flip):
    """On even sides and on odd ones alike, in every channel."""
    x = randn(1, *shape)
    moved = small(ImageCoupling, shape, flip=flip, spread=0.3).encode(x).value != x
    odd = (torch.arange(shape[1])[:, None] + torch.arange(shape[2])) % 2 == 1
    assert torch.equal(moved[0], (odd != flip).expand(shape))


@pytest.mark.parametrize(("channels", "even", "odd"), [(2, [0], [1]), (3, [0, 2], [1]), (4, [0, 2], [1, 3])])
def test_a_channel_mask_moves_every_other_channel(channels, even, odd):
    x = randn(1, channels, 2, 3)
    for flip, expected in ((False, odd), (True, even)):
        coupling = small(ImageCoupling, (channels, 2, 3), mask="channel", flip=flip, spread=0.3)
        moved = coupling.encode(x).value != x
        assert [c for c in range(channels) if moved[0, c].all()] == expected
        assert int(moved.sum()) == len(expected) * 6


@pytest.mark.parametrize(
    ("shape", "mask"), [((1, 4, 4), "checkerboard"), ((1, 3, 3), "checkerboard"), ((3, 2, 2), "channel")]
)
def test_moved_numbers_depend_on_themselves_and_on_those_that_stay(shape, mask):
    """Eq. 6 of Real NVP: ordered kept first, the Jacobian is [[I, 0], [A, diag exp s]], and log |det| = Σ s."""
    coupling = small(ImageCoupling, shape, mask=mask, spread=0.3)
    x = randn(1, *shape)
    out = coupling.encode(x)
    moved = (out.value != x).reshape(-1)
    matrix = jacobian(coupling.encode, x)
    assert torch.equal(matrix[~moved], torch.eye(len(moved), dtype=FLOAT64)[~moved])
    scales = matrix[moved][:, moved]
    assert torch.equal(scales, scales.diagonal().diag())
    assert matrix[moved][:, ~moved].abs().max() > 1e-3  # and the network does look
    torch.testing.assert_close(out.log_abs_det_jacobian[0], scales.diagonal().log().sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bound", [0.5, 3.0])
def test_the_log_scale_stays_below_its_bound(bound):
    """Trap T13: whatever the network returns and the factor learns."""
    coupling = ImageCoupling((1, 2, 2), mask="checkerboard", bound=bound, width=4).double()
    with torch.no_grad():
        coupling.parameters_of.factor.fill_(1e3)
        coupling.parameters_of.network.output.bias.fill_(1e3)
    found = coupling.encode(randn(1, 1, 2, 2)).log_abs_det_jacobian.item()
    assert found == pytest.approx(2 * bound, rel=1e-9)  # two pixels move, each by e^bound


def thirty_two_couplings(output_spread):
    """Network weights times four, the last layer no longer zero."""
    generator = torch.Generator().manual_seed(0)
    chain = notes_realnvp((2, 4, 4), couplings=32, width=8, generator=generator).double()
    with torch.no_grad():
        for name, parameter in chain.named_parameters():
            if "output" in name:
                parameter.copy_(output_spread * torch.randn(parameter.shape, generator=generator, dtype=FLOAT64))
            if "network" in name:
                parameter.mul_(4)
    return chain


def test_thirty_two_couplings_with_wild_weights_stay_finite():
    """Trap T13, on pictures. The log-determinant is at most 32 couplings × 16 moved numbers × the bound."""
    out = thirty_two_couplings(0.5).encode(randn(16, 2, 4, 4))
    assert torch.isfinite(out.value).all()
    assert torch.isfinite(out.log_abs_det_jacobian).all()
    assert out.log_abs_det_jacobian.abs().max() <= 32 * 16 * 3.0


def test_thirty_two_couplings_are_invertible():
    """The other half of T13, for last layers as large as training makes them."""
    chain, x = thirty_two_couplings(0.003), randn(16, 2, 4, 4)
    out = chain.encode(x)
    assert out.value.abs().max() > 2 * x.abs().max()
    assert out.log_abs_det_jacobian.abs().max() > 1
    # Each coupling may stretch rounding some two or three times: 2^32 · 1e-16 at the very most.
    torch.testing.assert_close(chain.decode(out.value).value, x, rtol=1e-6, atol=1e-6)


def test_a_picture_as_condition_is_looked_at_where_it_lies():
    """Kernels 3×3 and 3×3 reach two positions of the half-sized grid: pixels six away cannot matter."""
    coupling = small(ImageCoupling, (1, 2, 16), (1, 2, 16), kernels=(3, 3), spread=0.5)
    x, picture = randn(1, 1, 2, 16), randn(1, 1, 2, 16, seed=1)
    touched = picture.clone()
    touched[..., 0] += 1
    changed = coupling.encode(x, picture).value != coupling.encode(x, touched).value
    assert changed[..., :6].any()
    assert not changed[..., 6:].any()


def test_a_float32_coupling_keeps_float64_rows():
    coupling = small(ImageCoupling, (1, 2, 2), (2,), spread=0.3).float()
    x, condition = randn(3, 1, 2, 2), randn(3, 2, seed=1)
    out = coupling.encode(x, condition)
    assert out.value.dtype == out.log_abs_det_jacobian.dtype == FLOAT64
    # The shift and scale of both ways are the same float32 numbers: only float64 rounding is left.
    torch.testing.assert_close(coupling.decode(out.value, condition).value, x, rtol=1e-13, atol=1e-13)


def test_refusals():
    with pytest.raises(UnknownNameError, match="checkerboard"):
        ImageCoupling((1, 2, 2), mask="chequerboard")
    with pytest.raises(ConfigError, match="mask 'checkerboard'"):
        ImageCoupling((1, 2, 2), mask="channel")
    with pytest.raises(ConfigError, match="mask 'channel'"):
        ImageCoupling((2, 1, 1), mask="checkerboard")
    with pytest.raises(ConfigError, match="as vectors"):
        ImageCoupling((1, 1, 1))
    with pytest.raises(ConfigError, match="bound"):
        ImageCoupling((1, 2, 2), bound=0.0)
    with pytest.raises(ShapeError, match="same height and width"):
        ImageCoupling((1, 2, 2), (1, 4, 4))
    with pytest.raises(ShapeError, match="channels, height, width"):
        ImageCoupling((4, 4))


# Whole flows: the mistakes of the notes


@every_architecture
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("condition_features", [0, 2])
def test_every_number_changes_and_comes_back(build, shape, condition_features):
    """Notes, item 4: with one split of the channels half of them never change, and three channels fail."""
    flow = small(build, shape, condition_features)
    x = randn(2, *shape)
    condition = randn(2, 2, seed=1) if condition_features else None
    out = flow.encode(x, condition)
    assert (out.value != x).all()
    # Rounding of some twenty layers.
    torch.testing.assert_close(flow.decode(out.value, condition).value, x, rtol=1e-11, atol=1e-11)


def test_the_notes_masks_would_leave_half_of_the_numbers_alone():
    """What the test above fails on: six couplings that all split the channels the same way."""
    chain = Compose(*(small(ImageCoupling, (2, 4, 4), mask="channel") for _ in range(6)))
    x = randn(1, 2, 4, 4)
    assert (chain.encode(x).value == x).double().mean() == 0.5


@every_architecture
@pytest.mark.parametrize("direction", ["encode", "decode"])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 2, 2), (3, 3, 1)], ids=str)
def test_log_determinants_are_signed(build, direction, shape):
    """Notes, item 4: the reverse pass returned the forward log-determinant. Each direction against its own Jacobian."""
    flow = small(build, shape, spread=0.1)
    verb, x = getattr(flow, direction), randn(1, *shape)
    truth = torch.linalg.slogdet(jacobian(verb, x)).logabsdet
    assert abs(truth) > 1e-3
    torch.testing.assert_close(verb(x).log_abs_det_jacobian[0], truth, rtol=1e-10, atol=1e-10)


@every_architecture
def test_densities_are_full(build):
    """Notes, item 4: the prior lacked −d/2 log 2π, so nothing integrated to one (but to 2π, here)."""
    flow = Flow(StandardNormal((1, 1, 2)).double(), small(build, (1, 1, 2), spread=0.2))
    axis = torch.linspace(-9, 9, 121, dtype=FLOAT64)
    grid = torch.cartesian_prod(axis, axis).reshape(-1, 1, 1, 2)
    with torch.no_grad():
        mass = flow.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    # Smooth but for the kinks of relu, which cost the square of the step, 0.02, times their jumps in slope.
    assert mass.item() == pytest.approx(1.0, abs=4e-3)


@every_architecture
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_log_dets_are_per_row(build, rows):
    """Trap T20."""
    flow = small(build, (3, 4, 4), 2)
    x, condition = randn(rows, 3, 4, 4), randn(rows, 2)
    for verb in (flow.encode, flow.decode):
        out = verb(x, condition)
        assert out.log_abs_det_jacobian.shape == out.status.shape == (rows,)
        assert verb(x, condition, log_det=False).log_abs_det_jacobian is None


@pytest.mark.parametrize("build", [realnvp_image, notes_realnvp])
def test_untrained_flows_are_the_identity(build):
    x = randn(2, 3, 4, 4)
    out = build((3, 4, 4), width=4).encode(x)
    assert torch.equal(out.value, x)
    assert not out.log_abs_det_jacobian.any()


def test_glow_starts_from_its_first_training_batch_and_from_that_alone():
    """Trap T14, on the whole: evaluating first changes nothing, and a reloaded flow is not set again."""
    flow = glow((1, 4, 4), steps=2, width=4, generator=torch.Generator().manual_seed(0)).double()
    x = 3 + 2 * randn(64, 1, 4, 4)
    fresh = {key: value.clone() for key, value in flow.state_dict().items()}
    flow.eval().encode(x)
    flow.decode(x)
    assert all(torch.equal(fresh[key], value) for key, value in flow.state_dict().items())
    z = flow.train().encode(x).value
    # Half of the couplings are still the identity, so all channels come out standardised; rotations keep that.
    assert z.mean().abs() < 0.2
    assert z.std().item() == pytest.approx(1.0, abs=0.1)
    again = glow((1, 4, 4), steps=2, width=4).double()
    again.load_state_dict(load(save(flow.state_dict())))
    other = 5 - 3 * x
    assert torch.equal(again.train().encode(other).value, flow.train().encode(other).value)


@every_architecture
def test_weights_come_from_the_generator_alone(build):
    before = torch.get_rng_state()
    first, again = (build((3, 4, 4), width=4, generator=torch.Generator().manual_seed(7)).state_dict() for _ in "ab")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_scales_stop_where_a_side_becomes_odd():
    """28 → 14 → 7: three resolutions, whatever more are asked for."""
    few, many = (realnvp_image((1, 28, 28), scales=scales, width=4).state_dict().keys() for scales in (3, 9))
    assert few == many
    assert realnvp_image((1, 28, 28), scales=2, width=4).state_dict().keys() != few


@pytest.mark.parametrize("build", [*ARCHITECTURES, dequantisation_noise], ids=lambda b: b.__name__)
def test_a_single_number_is_no_picture(build):
    with pytest.raises(ConfigError, match="as vectors"):
        build((1, 1, 1))
    with pytest.raises(ShapeError, match="channels, height, width"):
        build((4, 4))


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (realnvp_image, {"scales": 0}),
        (realnvp_image, {"couplings": 1}),
        (glow, {"steps": 0}),
        (notes_realnvp, {"couplings": 1}),
        (notes_realnvp, {"kernels": (2, 3)}),
    ],
)
def test_refuses_settings_that_leave_numbers_unmoved(build, options):
    with pytest.raises(ConfigError):
        build((1, 4, 4), **options)
