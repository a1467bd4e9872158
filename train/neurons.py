"""Three kinds of neuron over time with one membrane and one set of parameters.

==== ================================================================= =======================
kind membrane                                                          output
==== ================================================================= =======================
ann  u[t] = x[t]                                                       act(u)
liaf u[t] = d u[t-1] (1 - s[t-1]) + x[t], s = 1[u > threshold]         act(u), analogue
lif  the same                                                          s, binary
==== ================================================================= =======================

u[0] = x[0], the reset is hard, and s in it is detached from the graph. (LIF: Wu et al. 2018; LIAF:
Wu et al. 2021, LIAF-Net.) Legend: T steps, N samples, d decay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from eventdata.errors import OptionError
from train import neuron_kernels as kernels
from train.surrogate import SLOPES, SharpenedReLU, spike

Kind = Literal["ann", "liaf", "lif"]
Backend = Literal["auto", "loop", "compile"]
Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Callable[["NeuronSettings"], Activation]] = {
    "identity": lambda _: nn.Identity(),
    "relu": lambda _: nn.ReLU(),
    "leaky_relu": lambda _: nn.LeakyReLU(0.2),
    "selu": lambda _: nn.SELU(),
    "sharpened_relu": lambda s: SharpenedReLU(s.threshold, s.surrogate),
}


@dataclass(frozen=True, kw_only=True)
class NeuronSettings:
    """What a network's neurons are. The defaults are those of published pipe-D."""

    kind: Kind = "lif"
    """ann, liaf or lif."""
    decay: float = 0.5
    """d, in (0, 1): what is left of the membrane after a step; where learned, at the start."""
    learn_decay: bool = True
    """A decay of each layer's own, the sigmoid of a learned scalar; else the same fixed one."""
    threshold: float = 0.5
    """The membrane above which a neuron fires and is reset."""
    surrogate: str = "rectangular"
    """The slope of the spike backward: rectangular, triangular, arctangent."""
    activation: str | Activation = "leaky_relu"
    """The output of ann and liaf: a name in ACTIVATIONS or any function of a tensor."""
    carry_activated: bool = False
    """The membrane carried on is the activated one (published LIAF-18: its activation worked in
    place). The spike is that of the membrane before the activation."""
    backend: Backend = "auto"
    """auto: the fused kernels where there are any, else the loop; loop: plain torch; compile: the
    loop through torch.compile."""

    def __post_init__(self) -> None:
        named = self.activation if isinstance(self.activation, str) else "identity"
        for name, value, allowed in (
            ("kind", self.kind, get_args(Kind)),
            ("surrogate", self.surrogate, tuple(SLOPES)),
            ("activation", named, tuple(ACTIVATIONS)),
            ("backend", self.backend, get_args(Backend)),
        ):
            if value not in allowed:
                raise OptionError(f"neuron {name} {value!r} is not one of {', '.join(allowed)}")
        if not 0 < self.decay < 1:
            raise OptionError(f"neuron decay {self.decay} is not between 0 and 1")


def loop(
    x: Tensor,
    decay: Tensor | float,
    threshold: float = 0.5,
    surrogate: str | None = "rectangular",
    carry: Activation | None = None,
) -> Tensor:
    """The definition, step by step, left to autograd: the reference, and what runs on GPUs.

    x (T, ...) input current -> spikes (T, ...), or the membrane where `surrogate` is None. Half
    precision is computed in float32. `carry` is applied to the membrane after the spike is taken.
    """
    currents = x.float() if x.dtype in (torch.half, torch.bfloat16) else x
    steps: list[Tensor] = []
    u = before_carry = currents[0]
    for t, current in enumerate(currents):
        if t > 0:
            kept = torch.where(before_carry.detach() > threshold, 0.0, decay * u)
            before_carry = kept + current
        u = before_carry if carry is None else carry(before_carry)
        steps.append(u if surrogate is None else spike(u, threshold, surrogate))
    return torch.stack(steps).to(x.dtype)


@cache
def _compiled_loop() -> Callable[..., Tensor]:
    return torch.compile(loop)


def _by_memory(x: Tensor) -> Tensor:
    """x (T, ...) with the axes after the first in the order in which they lie in memory."""
    return x.permute(0, *sorted(range(1, x.ndim), key=x.stride, reverse=True))


def _run(kernel: Callable[..., None], neurons: int, *args: Any) -> None:
    """Run a kernel on all cores torch uses; tensors among its arguments go as arrays (T, M)."""
    arrays = [
        _by_memory(arg.detach()).reshape(len(arg), neurons).numpy()
        if isinstance(arg, Tensor)
        else arg
        for arg in args
    ]
    kernels.over_blocks(kernel, neurons, torch.get_num_threads(), *arrays)


class Fused(torch.autograd.Function):
    """`loop` without `carry` on the CPU in float32, as one Numba pass each way.

    Keeps one tensor for the backward pass, the input (in liaf the membrane, which is the output),
    where the loop keeps several. The same numbers as the loop, for any number of threads. Any
    memory layout whose steps lie one by one (contiguous, channels last) is worked on as it is.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, decay: Tensor | float, threshold: float, surrogate: str | None
    ) -> Tensor:
        x = x if _by_memory(x).is_contiguous() else x.contiguous()
        out = torch.empty_like(x)
        ctx.decay = decay.detach() if isinstance(decay, Tensor) else torch.tensor(decay)
        ctx.settings = (
            np.float32(ctx.decay.item()),
            np.float32(threshold),
            kernels.MEMBRANE if surrogate is None else kernels.SURROGATES[surrogate],
        )
        _run(kernels.forward, x[0].numel(), x, *ctx.settings, out)
        ctx.save_for_backward(out if surrogate is None else x)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (saved,) = ctx.saved_tensors
        neurons = saved[0].numel()
        if gradient.stride() != saved.stride():
            gradient = torch.empty_like(saved).copy_(gradient)
        gx = torch.empty_like(saved)
        terms = np.zeros(kernels.blocks(neurons)) if ctx.needs_input_grad[1] else None
        _run(kernels.backward, neurons, gradient, saved, *ctx.settings, gx, terms)
        gdecay = None if terms is None else torch.full_like(ctx.decay, terms.sum())
        return gx, gdecay, None, None


def integrate(
    x: Tensor,
    decay: Tensor | float,
    threshold: float = 0.5,
    surrogate: str | None = "rectangular",
    backend: Backend = "auto",
) -> Tensor:
    """x (T, ...) through the membrane: arguments and result of `loop`, by the fastest way."""
    if backend == "compile":
        return _compiled_loop()(x, decay, threshold, surrogate)
    fused = (
        x.device.type == "cpu" and x.dtype != torch.float64 and not torch.compiler.is_compiling()
    )
    if backend == "loop" or not fused:
        return loop(x, decay, threshold, surrogate)
    out: Tensor = Fused.apply(x.float(), decay, threshold, surrogate)  # type: ignore[no-untyped-call]
    return out.to(x.dtype)


class Neuron(nn.Module):
    """Neurons over time: input current (T, N, ...) -> output (T, N, ...), of one of three kinds.

    Has the same parameters whatever the kind (`decay` (1,), where learned: its sigmoid is d), so
    that one state dict fits all. No state is kept from call to call: every call starts at u = x[0].
    """

    def __init__(self, settings: NeuronSettings) -> None:
        super().__init__()
        self.settings = settings
        chosen = settings.activation
        self.activation = ACTIVATIONS[chosen](settings) if isinstance(chosen, str) else chosen
        self.decay: nn.Parameter | None = None
        if settings.learn_decay:
            start = torch.tensor([settings.decay]).logit()
            # An ann has it for the sake of the others: no optimiser or DDP should wait for it.
            self.decay = nn.Parameter(start, requires_grad=settings.kind != "ann")

    def respond(self, u: Tensor) -> Tensor:
        """What neurons with membrane u put out: a spike, or the activation. Any shape."""
        s = self.settings
        return spike(u, s.threshold, s.surrogate) if s.kind == "lif" else self.activation(u)

    def forward(self, x: Tensor) -> Tensor:  # (T, N, ...)
        s = self.settings
        if s.kind == "ann":
            return self.activation(x)
        decay = s.decay if self.decay is None else torch.sigmoid(self.decay)
        if s.kind == "lif":
            return integrate(x, decay, s.threshold, s.surrogate, s.backend)
        if s.carry_activated:
            return loop(x, decay, s.threshold, None, self.activation)
        return self.activation(integrate(x, decay, s.threshold, None, s.backend))

    def extra_repr(self) -> str:
        s = self.settings
        decay = "learned" if s.learn_decay else s.decay
        return f"{s.kind}, decay={decay}, threshold={s.threshold}, surrogate={s.surrogate}"
