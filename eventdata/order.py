"""The order in which an epoch reads its samples: a pure function of seed and epoch."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["samples", "shards"]
Indices = NDArray[np.int64]


def epoch_order(
    shards: NDArray[np.integer], *, shuffle: bool, order: Order, window: int, seed: int, epoch: int
) -> Indices:
    """Return the indices 0..N-1 in the order of an epoch.

    Args:
        shards: the shard in which each sample lies (N,).
        order: "samples" shuffles all samples. "shards" shuffles shards and, within each ``window``
            of them, their samples, so that slow disks and remote stores are read shard by shard.
    """
    count = len(shards)
    if not shuffle:
        return np.arange(count)
    draw = np.random.default_rng([seed, epoch])
    if order == "samples":
        return draw.permutation(count)
    by_shard = np.argsort(shards, kind="stable")
    starts = np.flatnonzero(np.diff(shards[by_shard], prepend=-1))
    pieces = np.split(by_shard, starts[1:])
    pieces = [pieces[number] for number in draw.permutation(len(pieces))]
    groups = [np.concatenate(pieces[i : i + window]) for i in range(0, len(pieces), window)]
    return np.concatenate([draw.permutation(group) for group in groups])


def rank_batches(
    indices: Indices, *, batch_size: int, rank: int, world_size: int, drop_last: bool
) -> list[Indices]:
    """Return the batches of a rank: its share of every ``batch_size * world_size`` indices.

    All ranks together read each index once. Their shares of the last batch may differ by a sample
    or be empty; with ``drop_last`` all are equal, as training in step needs.
    """
    step = batch_size * world_size
    stop = len(indices) // step * step if drop_last else len(indices)
    batches = [indices[start : min(start + step, stop)] for start in range(0, stop, step)]
    shares = [batch[rank::world_size] for batch in batches]
    return [share for share in shares if len(share)]


def batch_count(
    samples: int, *, batch_size: int, rank: int, world_size: int, drop_last: bool
) -> int:
    """Return how many batches `rank_batches` makes of this many samples."""
    whole, rest = divmod(samples, batch_size * world_size)
    return whole + (not drop_last and rest > rank)
