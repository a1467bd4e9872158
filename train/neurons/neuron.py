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

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eventdata.errors import OptionError
from train.neurons import cpu as neuron_kernels
from train.neurons.memory import mark_spikes
from train.neurons.surrogate import SLOPES, SharpenedReLU, spike

Kind = Literal["ann", "liaf", "lif"]
Backend = Literal["auto", "loop", "compile"]
Activation = Callable[[Tensor], Tensor]
HALF = (torch.half, torch.bfloat16)

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
    """auto: the fused kernels where there are any (Numba on the CPU; Triton on GPUs, where it is
    installed), else the loop; loop: plain torch; compile: the loop through torch.compile."""

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
    """The definition, step by step, left to autograd: the reference, and what runs elsewhere.

    x (T, ...) input current -> spikes (T, ...), or the membrane where `surrogate` is None. Half
    precision is computed in float32. `carry` is applied to the membrane after the spike is taken.
    """
    currents = x.float() if x.dtype in HALF else x
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
    return x.permute(_axes(x))


def _axes(x: Tensor) -> list[int]:
    return [0, *sorted(range(1, x.ndim), key=x.stride, reverse=True)]


def step_by_step(x: Tensor) -> Tensor:
    """x (T, ...) whose steps lie one by one, each in the order in which it lies in memory."""
    axes = _axes(x)
    places = sorted(range(x.ndim), key=axes.__getitem__)  # where each axis has gone
    return x.permute(axes).contiguous().permute(places)


def _rows(x: Tensor) -> Tensor:
    """A view (T, M) of x (T, ...), whose steps lie one by one, in the order of memory."""
    return _by_memory(x).reshape(len(x), math.prod(x.shape[1:]))


def _kernels(x: Tensor) -> ModuleType | None:
    """The module whose kernels run on x (T, ...); None where there are none."""
    device = x.device.type
    cpu, cuda = device == "cpu", device == "cuda"
    module = neuron_kernels if cpu else neuron_kernels.triton_kernels() if cuda else None
    known = module is not None and x.dtype in (torch.float, *HALF) and len(x) <= module.MOST_STEPS
    return module if known else None


class Fused(torch.autograd.Function):
    """`loop` without `carry` as one pass each way: Numba on the CPU, Triton on GPUs.

    Keeps one tensor for the backward pass, the input (in liaf the membrane, which is the output),
    where the loop keeps several. The same numbers as the loop, for any number of threads. Any
    memory layout whose steps lie one by one (contiguous, channels last) is worked on as it is.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, decay: Tensor | float, threshold: float, surrogate: str | None
    ) -> Tensor:
        if not _by_memory(x).is_contiguous():  # as the current of an image, there but once
            # On the CPU torch sums in another order where gradients are channels last.
            x = x.contiguous() if x.is_cpu else step_by_step(x)
        out = torch.empty_like(x)
        ctx.kernels = _kernels(x)
        if isinstance(decay, Tensor):
            ctx.decay = decay.detach().float()
        else:
            ctx.decay = torch.full((), decay, device=x.device)
        ctx.settings = (
            threshold,
            neuron_kernels.MEMBRANE if surrogate is None else neuron_kernels.SURROGATES[surrogate],
        )
        ctx.kernels.run_forward(_rows(x), ctx.decay, *ctx.settings, _rows(out))
        # A membrane in half precision is rounded: another might have been above the threshold.
        ctx.is_membrane = surrogate is None and x.dtype == torch.float
        ctx.save_for_backward(out if ctx.is_membrane else x)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (saved,) = ctx.saved_tensors
        if gradient.stride() != saved.stride():
            gradient = torch.empty_like(saved).copy_(gradient)
        gx = torch.empty_like(saved)
        gdecay = ctx.kernels.run_backward(
            _rows(gradient),
            _rows(saved),
            ctx.decay,
            *ctx.settings,
            _rows(gx),
            is_membrane=ctx.is_membrane,
            learn_decay=ctx.needs_input_grad[1],
        )
        return gx, None if gdecay is None else gdecay.expand_as(ctx.decay), None, None


def integrate(
    x: Tensor,
    decay: Tensor | float,
    threshold: float = 0.5,
    surrogate: str | None = "rectangular",
    backend: Backend = "auto",
    *,
    carry: Activation | None = None,
    recompute: bool = False,
) -> Tensor:
    """x (T, ...) through the membrane: arguments and result of `loop`, by the fastest way.

    `recompute`: of all steps only x is kept for the pass backward, which runs them again. The fused
    kernels (all but `carry` is) always do so.

    Raises:
        OptionError: x has no steps.
    """
    if not len(x):
        raise OptionError(f"input of shape {tuple(x.shape)}: (T, ...) with at least one step")
    alike = not isinstance(decay, Tensor) or decay.numel() == 1  # of all neurons
    free = carry is None and alike and backend == "auto" and not torch.compiler.is_compiling()
    if free and _kernels(x) is not None:
        out: Tensor = Fused.apply(x, decay, threshold, surrogate)  # type: ignore[no-untyped-call]
        return out
    run = _compiled_loop() if backend == "compile" and carry is None else loop
    arguments = x, decay, threshold, surrogate, carry
    if recompute:
        run = partial(checkpoint, run, use_reentrant=False, preserve_rng_state=False)
    return run(*arguments)


class Neuron(nn.Module):
    """Neurons over time: input current (T, N, ...) -> output (T, N, ...), of one of three kinds.

    Has the same parameters whatever the kind (`decay` (1,), where learned: its sigmoid is d), so
    that one state dict fits all. No state is kept from call to call: every call starts at u = x[0].
    """

    recompute = False
    """As in `integrate`; `train.networks.layers.recompute` sets it."""

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
        run = partial(integrate, backend=s.backend, recompute=self.recompute)
        if s.kind == "lif":
            return mark_spikes(run(x, decay, s.threshold, s.surrogate))
        if s.carry_activated:
            return run(x, decay, s.threshold, None, carry=self.activation)
        return self.activation(run(x, decay, s.threshold, None))

    def extra_repr(self) -> str:
        s = self.settings
        decay = "learned" if s.learn_decay else s.decay
        return f"{s.kind}, decay={decay}, threshold={s.threshold}, surrogate={s.surrogate}"
