"""AdamW without what torch's own class does around it in every step.

On a small network the class spends several times as long on looking its state up as on arithmetic. `advance` looks it
up once and then calls the same fused kernel on the same tensors: the weights are those of `torch.optim.AdamW` to the
bit, and so is what a checkpoint holds. `advance_flat` makes one pass over all parameters, which lie in one buffer
(`advance`), clipping and averages included; the last few numbers of a tensor may then round otherwise.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advect.training.advance import Advance, advance_for, rule
from advect.training.average import WeightAverage
from advect.training.flat import Flat


class FusedAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` of one group of parameters, with `advance` in the place of ``step``.

    Args:
        parameters: What is trained.
        settings: Of `torch.optim.AdamW`, all but ``fused``, which is on where all parameters lie on processors or
            NVIDIA cards.
    """

    def __init__(self, parameters: list[nn.Parameter], **settings: Any) -> None:
        fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
        super().__init__(parameters, fused=fused, **settings)
        self._parameters: list[Tensor] = list(parameters)
        # The kernel takes the tensors of one device and dtype at a time; with several torch's class sorts them.
        self._direct = fused and len({(p.device, p.dtype) for p in parameters}) == 1
        self._held: Any = None
        self._moments: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        self._flat: tuple[Flat, Flat, Tensor] | None = None
        self._flat_held: Any = None
        self._advance: tuple[tuple[Any, ...], Advance | None] = (), None

    @torch.no_grad()
    def advance(self, rate: float) -> None:
        """One step at this learning rate, from the parameters' ``grad``; those that have none stay as they are."""
        group = self.param_groups[0]
        group["lr"] = rate
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not self._direct or len(gradients) < len(self._parameters) or not self._find():
            self.step()
            return
        means, squares, steps = self._moments
        torch._foreach_add_(steps, 1)
        self._fused(self._parameters, gradients, means, squares, steps)

    @torch.no_grad()
    def advance_flat(
        self,
        rate: float,
        values: Flat,
        gradients: Flat,
        factor: float = 1.0,
        averages: Sequence[WeightAverage] = (),
        number: int = 0,
    ) -> None:
        """One step at this learning rate of parameters that are the parts of ``values``, which averages then take in.

        Args:
            rate: The learning rate.
            values: Holds all parameters.
            gradients: Their gradients, laid out alike; every parameter has one. They may be changed.
            factor: Of the gradients, before all else.
            averages: Of these parameters.
            number: The step that the averages go by, counted from 1.
        """
        group = self.param_groups[0]
        group["lr"] = rate
        flat = self._flat_state(values) if self._direct else None
        if flat is not None:
            flat[2].add_(1)
            at_once = self._at_once(values, gradients, averages)
            if at_once is not None:
                at_once(rule(group, flat[2][0].item(), factor), [average.share(number) for average in averages])
                return
        if factor != 1:
            gradients.whole.mul_(factor)
        if flat is not None:
            means, squares, steps = flat
            self._fused([values.whole], [gradients.whole], [means.whole], [squares.whole], [steps[0]])
        else:
            for parameter, gradient in zip(self._parameters, gradients.parts, strict=True):
                parameter.grad = gradient
            self.advance(rate)
        for average in averages:
            average.update(number)

    def _at_once(self, values: Flat, gradients: Flat, averages: Sequence[WeightAverage]) -> Advance | None:
        """The compiled pass over all of them, found once; None where there is none."""
        together = (self._flat, values, gradients, *averages)
        held, found = self._advance
        if len(held) != len(together) or any(a is not b for a, b in zip(held, together, strict=True)):
            found = None
            if self._flat is not None and all(average.lies_beside(values) for average in averages):
                moments = [moment.whole for moment in self._flat[:2]]
                found = advance_for(gradients.whole, values.whole, moments, [average.whole for average in averages])
            self._advance = together, found
        return found

    def _fused(self, values: Any, gradients: Any, means: Any, squares: Any, steps: Any) -> None:
        group = self.param_groups[0]
        torch._fused_adamw_(
            values,
            gradients,
            means,
            squares,
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=None,
        )

    def _flat_state(self, values: Flat) -> tuple[Flat, Flat, Tensor] | None:
        """The state in buffers of its own; None where the parameters have not all gone as many steps."""
        first = self.state.get(self._parameters[0])
        if first is not None and first is self._flat_held:
            return self._flat
        states = [self.state.get(p) for p in self._parameters]
        done = {0.0 if state is None or not state else float(state["step"]) for state in states}
        if len(done) > 1:
            return None
        means, squares = Flat(values.parts), Flat(values.parts)
        # Each parameter's own count, as torch's class has it, in a view of one tensor.
        steps = torch.full((len(states),), done.pop(), device=values.whole.device)
        for i, (parameter, state) in enumerate(zip(self._parameters, states, strict=True)):
            if state:
                means.parts[i].copy_(state["exp_avg"])
                squares.parts[i].copy_(state["exp_avg_sq"])
            self.state[parameter] = {"step": steps[i], "exp_avg": means.parts[i], "exp_avg_sq": squares.parts[i]}
        self._flat, self._flat_held = (means, squares, steps), self.state[self._parameters[0]]
        return self._flat

    def _find(self) -> bool:
        """Look the state up where it has changed hands; False where there is none yet for some parameter."""
        first = self.state.get(self._parameters[0])
        if first is None or first is not self._held:
            if not all(p in self.state for p in self._parameters):
                return False
            self._held = first
            states = [self.state[p] for p in self._parameters]
            self._moments = tuple([s[key] for s in states] for key in ("exp_avg", "exp_avg_sq", "step"))  # type: ignore
        return True


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """The 2-norm of all of them together; zero of none."""
    if not gradients:
        return torch.zeros(())
    if len(gradients) == 1:
        return torch.linalg.vector_norm(gradients[0])
    where = gradients[0].device
    return torch.linalg.vector_norm(torch.stack([norm.to(where) for norm in torch._foreach_norm(gradients)]))
