"""Three kinds of neuron over time with one membrane and one set of parameters.

==== ================================================================= =======================
kind membrane                                                          output
==== ================================================================= =======================
ann  u[t] = x[t]                                                       act(u)
liaf u[t] = d u[t-1] (1 - s[t-1]) + x[t], s = 1[u > threshold]         act(u), analogue
lif  the same                                                          s, binary
==== ================================================================= =======================

u[0] = x[0], the reset is hard, and s in it is detached from the graph. LIF: Wu et al. 2018; LIAF:
Wu et al. 2021, LIAF-Net. Legend: T steps, N samples, M neurons, d decay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eventdata.errors import OptionError
from eventdata.settings import Settings, setting
from train.neurons.kernels import kernels_for
from train.neurons.memory import mark_spikes
from train.neurons.surrogate import OUTPUTS, Dynamics, SharpenedReLU, Surrogate, spike

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
class NeuronSettings(Settings):
    """Settings of a network's neurons. The defaults are those of published pipe-D."""

    kind: Kind = setting("lif", "Kind of neuron.")
    decay: float = setting(
        0.5,
        "Share of the membrane potential left after a step; the initial value if learned.",
        above=0,
        below=1,
    )
    learn_decay: bool = setting(
        True, "Learn one decay per layer, the sigmoid of a scalar, instead of keeping `decay`."
    )
    threshold: float = setting(0.5, "Membrane above which a neuron fires and is reset.")
    surrogate: Surrogate = setting("rectangular", "Slope of the spike in the backward pass.")
    activation: str | Activation = setting(
        "leaky_relu",
        "Output of ann and liaf; from Python also any function of a tensor.",
        form=", ".join(f"`{name}`" for name in ACTIVATIONS),
    )
    carry_activated: bool = setting(
        False,
        "Carry the activated membrane to the next step, as published LIAF-18, whose activation "
        "works in place. The spike is taken from the membrane before the activation.",
    )
    backend: Backend = setting(
        "auto",
        "auto: fused kernels where they run, else the loop; loop: plain torch; compile: the loop "
        "through torch.compile. The kernels use Numba on the CPU and Triton on GPUs.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.activation, str) and self.activation not in ACTIVATIONS:
            raise OptionError(f"activation is {self.activation!r}: choose {', '.join(ACTIVATIONS)}")


def loop(
    x: Tensor,
    decay: Tensor | float,
    threshold: float = 0.5,
    surrogate: str | None = "rectangular",
    carry: Activation | None = None,
) -> Tensor:
    """Run neurons step by step under autograd: the reference, and the fallback for `Fused`.

    Args:
        x: input current (T, ...); half precision is computed in float32.
        decay: d, one number or one that broadcasts over a step.
        threshold: the membrane above which a neuron fires and is reset.
        surrogate: a name in `train.neurons.surrogate.SLOPES`; None: return the membrane.
        carry: a function applied to the membrane after the spike is taken.

    Returns:
        Spikes, or the membrane: shape and dtype of x.
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


def _axes(x: Tensor) -> list[int]:
    """Return the axes of x (T, ...), those after the first in their order in memory."""
    return [0, *sorted(range(1, x.ndim), key=x.stride, reverse=True)]


def step_by_step(x: Tensor) -> Tensor:
    """Return x (T, ...) with its steps one after the other, each in its own order in memory."""
    axes = _axes(x)
    back = sorted(range(x.ndim), key=axes.__getitem__)
    return x.permute(axes).contiguous().permute(back)


def _rows(x: Tensor) -> Tensor:
    """View x (T, ...), whose steps lie one after the other, as (T, M) in the order of memory."""
    return x.permute(_axes(x)).reshape(len(x), x[0].numel())


class Fused(torch.autograd.Function):
    """`loop` without `carry` in one pass forward and one backward: Numba or Triton.

    It saves one tensor for the backward pass where the loop saves several: the input, or in liaf
    the membrane, which is the output. Its numbers are those of the loop for any number of threads.
    A memory layout whose steps lie one after the other (contiguous, channels last) is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, decay: Tensor | float, threshold: float, surrogate: str | None
    ) -> Tensor:
        if not x.permute(_axes(x)).is_contiguous():  # e.g. an image's current, expanded over time
            # On the CPU torch sums in another order where gradients are channels last.
            x = x.contiguous() if x.is_cpu else step_by_step(x)
        out = torch.empty_like(x)
        if not isinstance(decay, Tensor):
            decay = torch.full((), decay, device=x.device)
        ctx.kernels = kernels_for(x.device, x.dtype, len(x))
        # A membrane rounded to half precision may fall on the other side of the threshold.
        membrane = surrogate is None and x.dtype == torch.float
        ctx.neurons = Dynamics(decay.detach().float(), threshold, OUTPUTS[surrogate], membrane)
        ctx.kernels.run_forward(_rows(x), ctx.neurons, _rows(out))
        ctx.save_for_backward(out if membrane else x)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (saved,) = ctx.saved_tensors
        if gradient.stride() != saved.stride():
            gradient = torch.empty_like(saved).copy_(gradient)
        gx = torch.empty_like(saved)
        neurons = ctx.neurons._replace(learns_decay=ctx.needs_input_grad[1])
        gdecay = ctx.kernels.run_backward(_rows(gradient), _rows(saved), neurons, _rows(gx))
        return gx, None if gdecay is None else gdecay.expand_as(ctx.neurons.decay), None, None


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
    """Run neurons by the fastest method available; arguments and result are those of `loop`.

    Args:
        x, decay, threshold, surrogate, carry: see `loop`.
        backend: see `NeuronSettings`.
        recompute: save only x for the backward pass, which runs the steps again. The fused kernels
            always do so; they run without `carry`.

    Raises:
        OptionError: x has no steps.
    """
    if not len(x):
        raise OptionError(
            f"the input has shape {tuple(x.shape)}; pass (T, ...) with at least one step"
        )
    shared = not isinstance(decay, Tensor) or decay.numel() == 1  # by all neurons
    fits = carry is None and shared and backend == "auto" and not torch.compiler.is_compiling()
    if fits and kernels_for(x.device, x.dtype, len(x)) is not None:
        out: Tensor = Fused.apply(x, decay, threshold, surrogate)  # type: ignore[no-untyped-call]
        return out
    run = _compiled_loop() if backend == "compile" and carry is None else loop
    if recompute:
        run = partial(checkpoint, run, use_reentrant=False, preserve_rng_state=False)
    return run(x, decay, threshold, surrogate, carry)


class Neuron(nn.Module):
    """Neurons of one of three kinds over time: current (T, N, ...) -> output (T, N, ...).

    The parameters do not depend on the kind, so one state dict fits all three: `decay` (1,), where
    it is learned, whose sigmoid is d. Calls share no state: each starts at u = x[0].
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
            # An ann has it only for the others' sake: no optimiser or DDP should wait for it.
            self.decay = nn.Parameter(start, requires_grad=settings.kind != "ann")

    def respond(self, u: Tensor) -> Tensor:
        """Return the output of neurons with membrane u, of any shape: spikes or activations."""
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
