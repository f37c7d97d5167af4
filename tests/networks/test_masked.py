"""Masked networks: who sees whom is exact and complete, and a walk computes each hidden unit once."""

import math
from itertools import pairwise

import pytest
import torch
from torch.overrides import TorchFunctionMode

from advect.errors import ConfigError, UnknownNameError
from advect.networks.dependence import chain, find_levels
from advect.networks.masked import MaskedMLP

FLOAT64 = torch.float64


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_order(features: int, seed: int = 0) -> torch.Tensor:
    return chain(torch.randperm(features, generator=draws(seed)).tolist())


def random_graph(features: int, seed: int, density: float = 0.4) -> torch.Tensor:
    """Some of the entries of a random order."""
    kept = torch.rand(features, features, generator=draws(seed + 100)) < density
    return random_order(features, seed) & kept


HALVES = torch.block_diag(chain([0, 1, 2]), chain([2, 1, 0])).bool()  # two chains that know nothing of one another
COUPLING = torch.tensor([[0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
ADJACENCIES = {
    "first to last": chain(range(5)),
    "last to first": chain(range(4, -1, -1)),
    **{f"order {seed}": random_order(6, seed) for seed in range(3)},
    **{f"graph {seed}": random_graph(7, seed) for seed in range(4)},
    "halves": HALVES,
    "coupling": COUPLING,
    "nothing": torch.zeros(3, 3, dtype=torch.bool),
    "one": chain([0]),
}
each_adjacency = pytest.mark.parametrize("adjacency", ADJACENCIES.values(), ids=ADJACENCIES)


def network(adjacency: torch.Tensor, num_parameters: int = 3, condition: int = 0, **settings) -> MaskedMLP:
    """In float64, saying something."""
    made = MaskedMLP(adjacency, num_parameters, condition, **{"width": 16, "generator": draws(1)} | settings)
    made.perturb(1.0, generator=draws(2))
    return made.double()


def rows(adjacency: torch.Tensor, condition: int = 0, num: int = 5) -> tuple[torch.Tensor, torch.Tensor | None]:
    g = draws(3)
    x = torch.randn(num, len(adjacency), dtype=FLOAT64, generator=g)
    return x, torch.randn(num, condition, dtype=FLOAT64, generator=g) if condition else None


@each_adjacency
@pytest.mark.parametrize("condition", [0, 2])
@pytest.mark.parametrize(("width", "depth"), [(16, 1), (16, 2), (2, 3)])
def test_an_output_sees_exactly_what_it_may(adjacency, condition, width, depth):
    """Exact zeros by autograd where the adjacency is false, and a dependence wherever it is true, however narrow."""
    net = network(adjacency, 3, condition, width=width, depth=depth)
    x, given = rows(adjacency, condition)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x, given).sum(0), x)  # out, parameter, row, in
    seen = jacobian.abs().amax((1, 2))
    assert torch.equal(seen != 0, adjacency)


@each_adjacency
def test_every_output_sees_the_condition_and_bends_with_it(adjacency):
    """Trap T18: also the first coordinate and the only one, and not merely in a straight line."""
    net = network(adjacency, 2, 2)
    x, given = rows(adjacency, 2)
    step = torch.tensor([0.5, -0.3], dtype=FLOAT64)
    below, here, above = (net(x, given + k * step) for k in (-1, 0, 1))
    assert ((above - here).abs().amax((0, 2)) > 1e-3).all()
    assert ((above - 2 * here + below).abs().amax((0, 2)) > 1e-4).all()


def test_masks_of_a_chain_are_those_of_made():
    """Germain et al. 2015, eqs. 8 and 9, with degrees recovered from what each unit knows of the order."""
    order = [2, 0, 3, 1]
    net = MaskedMLP(chain(order), 1, width=9, depth=2, gain=1.0, generator=draws())
    place = torch.tensor(order).argsort() + 1  # m(j), counted from 1
    degree = (net.input_mask * place).amax(1)
    assert sorted(set(degree.tolist())) == [1, 2, 3]
    assert torch.equal(net.input_mask != 0, degree[:, None] >= place[None, :])
    assert torch.equal(net.inner_mask != 0, degree[:, None] >= degree[None, :])
    assert torch.equal(net.output_mask != 0, place[:, None] > degree[None, :])


def test_starts_at_zero_and_can_leave_it():
    """The gradient reaches output weights and bias at the start: neither condition nor constants are cut off."""
    net = MaskedMLP(chain([0]), 2, 3, generator=draws())
    x, c = torch.randn(8, 1, generator=draws(1)), torch.randn(8, 3, generator=draws(2))
    out = net(x, c)
    assert not out.any()
    (out - 1).square().sum().backward()
    assert net.output_weight.grad.abs().amax(2).all()
    assert net.output_bias.grad.all()


def test_nothing_to_see_leaves_numbers_to_learn():
    """One coordinate without a condition: no weights that could never matter, but no fixed map either."""
    net = MaskedMLP(chain([0]), 4)
    assert {name: p.shape for name, p in net.named_parameters()} == {"output_bias": (4, 1)}
    assert net(torch.zeros(3, 1)).shape == (3, 1, 4)
    net.perturb(1.0, generator=draws())
    assert torch.equal(net(torch.zeros(2, 1))[1, 0], net.output_bias[:, 0])


def test_sizes_are_as_asked():
    """Trap T5; a unit for each set of inputs is the least."""
    net = MaskedMLP(chain(range(5)), 3, 2, width=32, depth=3)
    assert [tuple(layer.weight.shape) for layer in net.layers] == [(32, 7), (32, 32), (32, 32)]
    assert net.output_weight.shape == (3, 5, 32)
    assert MaskedMLP(chain(range(50)), 1, width=8).width == 49
    assert MaskedMLP(chain(range(50)), 1, 1, width=8).width == 50
    for wrong in ({"width": 0}, {"depth": 0}, {"num_parameters": 0}):
        with pytest.raises(ConfigError, match="Choose at least 1"):
            MaskedMLP(chain([0, 1]), **{"num_parameters": 1} | wrong)


def test_weights_are_stored_masked_and_drawn_from_the_generator():
    state = torch.get_rng_state()
    one, same, other = (MaskedMLP(random_order(6), 2, generator=draws(seed)) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), state)
    for layer, mask in zip(one.layers, (one.input_mask, one.inner_mask), strict=True):
        assert not layer.weight[mask == 0].any()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)


def test_what_a_mask_hides_cannot_come_back():
    """Weight decay, averaging or a careless write may touch hidden entries; the output must not."""
    net = network(random_order(5), 2)
    x, _ = rows(random_order(5))
    before = net(x)
    with torch.no_grad():
        for weight, mask in zip([*[layer.weight for layer in net.layers], net.output_weight], masks(net), strict=True):
            weight[(mask == 0).expand_as(weight)] = 7.0
    assert torch.equal(net(x), before)


def masks(net: MaskedMLP) -> list[torch.Tensor]:
    return [net.input_mask, *[net.inner_mask] * (len(net.layers) - 1), net.output_mask]


def test_parameters_are_bounded_whatever_the_row():
    net = network(chain([0, 1]), 1)
    far = torch.tensor([[10.0, 0.0], [1e3, 0.0], [1e300, 0.0]], dtype=FLOAT64, requires_grad=True)
    out = net(far)
    assert torch.equal(out[0], out[1])
    assert torch.equal(out[0], out[2])
    (gradient,) = torch.autograd.grad(out.sum(), far)
    assert torch.isfinite(gradient).all()
    unclipped = network(chain([0, 1]), 1, reach=math.inf)(far)
    assert not torch.isclose(unclipped[0, 1], unclipped[1, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameters_have_the_dtype_of_the_rows(dtype):
    net = MaskedMLP(chain([0, 1]), 1, 1, width=4)
    assert net(torch.zeros(3, 2, dtype=dtype), torch.zeros(3, 1, dtype=dtype)).dtype == dtype


def test_a_drawn_order_is_part_of_the_state():
    """Loading does not know the generator that drew the order."""
    saved, loaded = (network(random_order(6, seed), 2, 1) for seed in (0, 1))
    x, c = rows(random_order(6), 1)
    assert not torch.allclose(saved(x, c), loaded(x, c))
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(saved(x, c), loaded(x, c))
    assert loaded.levels == saved.levels
    with torch.no_grad():
        torch.testing.assert_close(walked(loaded, x, c), saved(x, c), rtol=1e-12, atol=1e-12)


# Walks


def walked(net: MaskedMLP, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
    """The parameters by a walk over known rows."""
    order = torch.tensor(net.levels.order)
    walk = net.walk(len(x), condition)
    found = []
    for values in x.T[order].split(net.levels.sizes):
        found.append(walk.parameters())
        walk.push(values)
    return torch.cat(found)[order.argsort()].transpose(0, 1)


@each_adjacency
@pytest.mark.parametrize("condition", [0, 2])
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(FLOAT64, 1e-13), (torch.float32, 1e-5)])
def test_a_walk_gives_the_parameters_of_one_pass(adjacency, condition, graph, dtype, tolerance):
    """To rounding: sums of up to 17 products, three layers deep, with values of a few units."""
    net = network(adjacency, 3, condition, depth=3).to(dtype)
    x, given = rows(adjacency, condition)
    x, given = x.to(dtype), None if given is None else given.to(dtype)
    with torch.set_grad_enabled(graph):
        torch.testing.assert_close(walked(net, x, given), net(x, given), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("condition", [0, 2])
def test_gradients_of_a_walk_are_those_of_one_pass(condition):
    adjacency = random_graph(6, 1)
    net = network(adjacency, 2, condition)
    x, given = rows(adjacency, condition)
    x.requires_grad_()
    wanted = [x, *net.parameters()]
    weights = torch.randn(len(x), 6, 2, dtype=FLOAT64, generator=draws(8))
    by_walk = torch.autograd.grad((walked(net, x, given) * weights).sum(), wanted)
    by_pass = torch.autograd.grad((net(x, given) * weights).sum(), wanted)
    for one, other in zip(by_walk, by_pass, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class Products(TorchFunctionMode):
    """Counts the rows of the results of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.computed = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if function.__name__ in ("mm", "addmm", "matmul", "bmm", "linear", "__matmul__"):
            self.computed += result.numel()
        return result


@each_adjacency
@pytest.mark.parametrize("graph", [False, True])
def test_each_hidden_unit_is_computed_once(adjacency, graph):
    """All sums formed by a walk are one for each hidden unit and each parameter, per row."""
    net = network(adjacency, 3, 1, width=20, depth=2)
    x, given = rows(adjacency, 1, num=4)
    with torch.set_grad_enabled(graph), Products() as counted:
        walked(net, x, given)
    assert counted.computed == 4 * (2 * net.width + 3 * len(adjacency))


def test_independent_coordinates_are_walked_together():
    assert network(HALVES).levels.sizes == (2, 2, 2)
    assert network(COUPLING).levels.sizes == (2, 2)
    assert network(torch.zeros(9, 9, dtype=torch.bool)).levels.sizes == (9,)
    assert network(chain(range(9))).levels.sizes == (1,) * 9


@pytest.mark.parametrize("rows_", [0, 1])
def test_walks_of_no_and_of_one_row(rows_):
    adjacency = random_graph(5, 2)
    net = network(adjacency, 2, 1)
    x, given = rows(adjacency, 1, num=rows_)
    with torch.no_grad():
        torch.testing.assert_close(walked(net, x, given), net(x, given), rtol=1e-12, atol=1e-12)


# Adjacencies


@pytest.mark.parametrize("seed", range(5))
def test_levels_put_each_coordinate_after_all_it_looks_at(seed):
    adjacency = random_graph(12, seed)
    levels = find_levels(adjacency)
    assert sorted(levels.order) == list(range(12))
    assert sum(levels.sizes) == 12
    place = {coordinate: index for index, coordinate in enumerate(levels.order)}
    for i, j in adjacency.nonzero().tolist():
        assert place[j] < place[i]
        assert levels.of[j] < levels.of[i]
    for i, level in enumerate(levels.of):  # the longest path: somebody stands one level below
        assert level == max((levels.of[j] + 1 for j in adjacency[i].nonzero().flatten().tolist()), default=0)


def test_a_cycle_is_refused_and_named():
    adjacency = chain(range(6))
    adjacency[1, 4] = True  # 1 → 4 → … → 1
    with pytest.raises(ConfigError, match="circle") as refused:
        MaskedMLP(adjacency, 1)
    named = [int(part) for part in refused.value.what.split(": ")[1].split(" → ")]
    assert named[0] == named[-1]
    assert len(named) > 2
    assert all(adjacency[i, j] for i, j in pairwise(named))


def test_two_coordinates_that_look_at_one_another():
    with pytest.raises(ConfigError, match=r"0 → 1 → 0|1 → 0 → 1"):
        find_levels(torch.tensor([[False, True], [True, False]]))


def test_a_coordinate_that_looks_at_itself_is_refused():
    adjacency = chain(range(3))
    adjacency[2, 2] = True
    with pytest.raises(ConfigError, match=r"output 2 looks at its own input"):
        MaskedMLP(adjacency, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(2, 3), "shape"),
        (torch.zeros(2), "shape"),
        (torch.tensor([[0.0, 0.0], [0.5, 0.0]]), "other than 0 and 1"),
    ],
)
def test_what_is_no_adjacency_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        MaskedMLP(wrong, 1)


def test_numbers_zero_and_one_are_an_adjacency():
    assert torch.equal(MaskedMLP(chain([1, 0]).float(), 1).adjacency, chain([1, 0]))


@pytest.mark.parametrize("wrong", [[0, 0], [1, 2], [0, 2, 3]])
def test_what_is_no_order_is_refused(wrong):
    with pytest.raises(ConfigError, match="once"):
        chain(wrong)


def test_an_unknown_activation_is_refused():
    with pytest.raises(UnknownNameError, match="silu"):
        MaskedMLP(chain([0, 1]), 1, activation="sillu")
