"""Layers taken together against the same layers one by one, without a graph and with the gradient of a likelihood."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch

from advect.errors import ShapeError
from advect.flows import Flow, StandardNormal
from advect.flows.architectures.coupling import nsf, realnvp
from advect.flows.likelihood_pass import likelihood_pass
from advect.networks.conditioner import Conditioner
from advect.objectives import MaximumLikelihood
from advect.records import Batch
from advect.transforms import Compose, Coupling, LULinear, Permutation, coupling_run
from advect.transforms.coupling_run import Run, in_runs
from advect.transforms.scale import Scale
from advect.transforms.spline import RationalQuadraticSpline

FLOAT64 = torch.float64


def drawn(*shape, seed=0, std=1.0):
    return std * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def chain(make=realnvp, features=5, conditions=0, mixing="permutation", **more):
    """Couplings off the identity, with a permutation after every second."""
    generator = torch.Generator().manual_seed(0)
    flow = make(features, conditions, layers=4, mixing=mixing, width=16, generator=generator, **more)
    for module in flow.modules():
        if isinstance(module, Conditioner):
            module.perturb(0.4, generator=generator)
    return flow.double()


def runs(map):
    return [part for part in map._parts if isinstance(part, Run)]


def together_and_apart(monkeypatch, flow, verb, x, condition=None):
    """What a pass gives, and what the plain maps give; the layers are together in the former."""
    begun = []
    blocks = coupling_run.Blocks
    with torch.no_grad(), monkeypatch.context() as patched:
        patched.setattr(coupling_run, "Blocks", lambda *given: begun.append(1) or blocks(*given))
        found = getattr(flow, verb)(x, condition)
    assert begun == [1] * len(runs(flow))
    monkeypatch.setenv("ADVECT_KERNEL", "none")
    with torch.no_grad():
        return found, getattr(flow, verb)(x, condition)


@pytest.mark.parametrize("make", [realnvp, nsf])
@pytest.mark.parametrize("verb", ["encode", "decode"])
@pytest.mark.parametrize(("features", "conditions", "rows"), [(2, 0, 1), (5, 3, 65), (19, 0, 130)])
def test_layers_together_are_the_layers(instructions, make, verb, features, conditions, rows, monkeypatch):
    flow, x = chain(make, features, conditions), drawn(rows, features, std=1.5)
    condition = drawn(rows, conditions, seed=1) if conditions else None
    ours, plain = together_and_apart(monkeypatch, flow, verb, x, condition)
    torch.testing.assert_close(ours.value, plain.value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.log_abs_det_jacobian, plain.log_abs_det_jacobian, rtol=1e-9, atol=1e-9)
    assert torch.equal(ours.status, plain.status)


@pytest.mark.parametrize("make", [realnvp, nsf])
@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_float32_is_no_rougher_together(instructions, make, verb, monkeypatch):
    flow, x = chain(make), drawn(500, 5)
    with torch.no_grad():
        exact = getattr(flow, verb)(x)
    ours, plain = together_and_apart(monkeypatch, flow.float(), verb, x.float())
    for name in ("value", "log_abs_det_jacobian"):
        truth = getattr(exact, name)
        error, usual = ((getattr(found, name).double() - truth).abs().quantile(0.99) for found in (ours, plain))
        assert error <= 2 * usual + 2**-21  # four layers of numbers up to 8


def test_rows_in_any_order_of_memory_and_none_at_all(instructions):
    flow, x = chain(), drawn(70, 5)
    with torch.no_grad():
        plain = flow.decode(x)
        wide = torch.cat([x, x], dim=1)[:, 2:7].roll(3, 1)  # a copy; then three ways to look at the same numbers
        for same in (x.t().contiguous().t(), torch.stack([x, x], dim=2)[..., 0], torch.cat([x, wide], dim=1)[:, :5]):
            assert torch.equal(flow.decode(same).value, plain.value)
        assert flow.decode(x[:0]).value.shape == (0, 5)
        assert flow.decode(x, log_det=False).log_abs_det_jacobian is None


def test_a_change_of_the_layers_is_seen(instructions):
    flow, x = chain(), drawn(20, 5)
    (run,) = runs(flow)
    layer = run.couplings[1]

    def same():
        with torch.no_grad():
            together, apart = flow.encode(x), x
            for map in run.maps:
                apart = map.plain_encode(apart).value if isinstance(map, Coupling) else map.encode(apart).value
        torch.testing.assert_close(together.value, apart, rtol=1e-10, atol=1e-10)
        return together.value

    seen = [same()]
    layer.conditioner.hidden[0].weight.data.mul_(1.5)
    seen.append(same())
    weight = layer.conditioner.hidden[1].weight
    weight.data = weight.data.t()  # where it was, the other way round
    seen.append(same())
    run.maps[2].load_state_dict({"order": torch.tensor([1, 0, 2, 4, 3])})
    seen.append(same())
    layer.function = Scale(0.5)
    seen.append(same())
    layer.conditioner.output.register_forward_hook(lambda *given: 2 * given[-1])
    seen.append(same())
    for before, after in pairwise(seen):
        assert not torch.equal(before, after)


def test_a_row_that_is_no_number_hurts_no_other(instructions):
    flow, x = chain(nsf), drawn(100, 5)
    with torch.no_grad():
        whole = flow.decode(x)
        x[70, 0] = torch.nan
        broken = flow.decode(x)
    others = torch.arange(100) != 70
    assert broken.value[70].isnan().any()
    assert torch.equal(broken.value[others], whole.value[others])
    assert torch.equal(broken.log_abs_det_jacobian[others], whole.log_abs_det_jacobian[others])


def test_a_copy_has_its_own_weights(instructions):
    flow, x = chain(), drawn(20, 5)
    with torch.no_grad():
        before = flow.encode(x).value
        same = copy.deepcopy(flow)
        for parameter in flow.parameters():
            parameter.zero_()
        assert torch.equal(same.encode(x).value, before)
        assert torch.equal(pickle.loads(pickle.dumps(same)).encode(x).value, before)


def test_what_goes_together():
    couplings = [map for map in chain().maps if isinstance(map, Coupling)]
    turn, linear = Permutation.reverse(5), LULinear(5)
    bent = [map for map in chain(nsf).maps if isinstance(map, Coupling)]
    apart = Coupling((0, 2), (1, 3, 4), Scale(3.0), Conditioner(2, 6))
    parts = in_runs([turn, *couplings[:2], linear, couplings[2], turn, apart, bent[0], couplings[3], bent[1], bent[2]])
    sizes = [len(part.maps) if isinstance(part, Run) else 1 for part in parts]
    assert sizes == [3, 1, 2, 1, 1, 1, 2]
    assert in_runs([turn, turn]) == [turn, turn]
    other = Coupling((0, 1), (2, 3, 4), RationalQuadraticSpline(4, 5.0), Conditioner(2, 3 * 11))
    assert in_runs([other, bent[0]]) == [other, bent[0]]  # of another number of bins


def test_a_graph_is_that_of_the_layers_one_by_one(instructions):
    flow, x = chain(), drawn(20, 5).requires_grad_()
    (run,) = runs(flow)
    assert run.passed(x, None, log_det=True, inverse=False) is None
    found = flow.encode(x)
    assert found.value.requires_grad
    torch.autograd.grad(found.value.sum(), [x, *flow.parameters()])


def test_conditions_are_checked(instructions):
    flow, x = chain(conditions=2), drawn(20, 5)
    with torch.no_grad():
        for condition in (None, drawn(20, 3), drawn(19, 2)):
            with pytest.raises(ShapeError):
                flow.encode(x, condition)
        with pytest.raises(ShapeError):
            chain().encode(x, drawn(20, 2))


def test_conditions_of_later_batches_are_checked(instructions):
    map = Compose(*(m for m in chain(conditions=2).maps if type(m) is Coupling))
    flow = Flow(StandardNormal((5,)), map).double()
    step = likelihood_pass(flow, {p: torch.empty_like(p) for p in flow.parameters()})
    assert step is not None
    x, condition = drawn(20, 5), drawn(20, 2, seed=1)
    assert step(Batch(x1=x, condition=condition)).isfinite()
    for wrong in (None, condition[:, :1]):
        with pytest.raises(ShapeError):
            step(Batch(x1=x, condition=wrong))


@pytest.mark.parametrize("make", [realnvp, nsf])
@pytest.mark.parametrize(("rows", "end"), [(1, False), (130, False), (65, True)])
def test_the_gradient_of_a_likelihood_there_and_back_at_once(instructions, make, rows, end):
    """Also behind a linear map, and where another one follows."""
    first, last = (LULinear(7, start="rotation", generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    maps = [first, chain(make, 7)] + ([last] if end else [])
    flow = Flow(StandardNormal((7,)), Compose(*maps)).double()
    gradients = {p: torch.full_like(p, torch.nan) for p in flow.parameters()}
    step, x = likelihood_pass(flow, gradients), drawn(7, rows, seed=2).t()
    assert step is not None
    for turned in (False, False, True):  # the second time with other weights in the same place
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.mul_(1.1)
                if turned:  # the same weights in another order of memory
                    parameter.data = parameter.data.t().contiguous().t()
        loss = step(Batch(x1=x))
        plain = MaximumLikelihood()(flow, Batch(x1=x)).mean()
        exact = torch.autograd.grad(plain, list(gradients))
        assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
        for ours, theirs in zip(gradients.values(), exact, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
