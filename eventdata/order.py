"""In which order the samples of an epoch are read: a pure function of seed and epoch."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["samples", "shards"]
Indices = NDArray[np.int64]


def epoch_order(
    shards: NDArray[np.integer], *, shuffle: bool, order: Order, window: int, seed: int, epoch: int
) -> Indices:
    """Indices 0..N-1 in the order of an epoch.

    shards: (N,) the shard in which each sample lies. order="samples" shuffles all samples; "shards"
    draws shards in random order and shuffles the samples of ``window`` of them together, so that a
    slow disk or a remote store is read shard by shard.
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
    """The batches of one rank: of every ``batch_size * world_size`` indices, its share.

    Ranks together see each index once. Of the last batch, ranks may get a sample more or less, or
    none; with drop_last all have the same batches, as training in step needs.
    """
    step = batch_size * world_size
    stop = len(indices) // step * step if drop_last else len(indices)
    batches = [indices[start : min(start + step, stop)] for start in range(0, stop, step)]
    shares = [batch[rank::world_size] for batch in batches]
    return [share for share in shares if len(share)]


def batch_count(
    samples: int, *, batch_size: int, rank: int, world_size: int, drop_last: bool
) -> int:
    """How many batches `rank_batches` makes of so many samples."""
    whole, rest = divmod(samples, batch_size * world_size)
    return whole + (not drop_last and rest > rank)
