"""Learning rates over time, as factors for torch's LambdaLR."""

import math

from train.settings import Stage


def rate_factor(stage: Stage, step: int, epoch_steps: int) -> float:
    """Return the factor on a stage's learning rate for a step, counted from 0.

    Each epoch has `epoch_steps` steps.
    """
    done = step / epoch_steps  # epochs
    total = stage.epochs
    if stage.schedule == "one-cycle":  # Smith and Topin 2019, with cosine flanks
        rise = stage.warmup * total
        if done < rise:
            return 0.04 + 0.96 * _half_cosine(1 - done / rise)
        return max(1e-4, _half_cosine((done - rise) / (total - rise)))
    if done < stage.warmup:
        return min(
            (step + 1) / (stage.warmup * epoch_steps), 1.0
        )  # warmup may be shorter than a step
    if stage.schedule == "step":
        return stage.gamma ** sum(done >= milestone for milestone in stage.milestones)
    if stage.schedule == "cosine":
        return _half_cosine((done - stage.warmup) / max(total - stage.warmup, 1e-9))
    return 1.0


def _half_cosine(share: float) -> float:
    """Return a cosine that falls from 1 at 0 to 0 at 1."""
    return (1 + math.cos(math.pi * min(share, 1.0))) / 2
