"""Augmentation: the same for all steps, no new values, decided by the seed."""

import numpy as np
import pytest
import torch

from eventdata.errors import OptionError
from eventdata.loader import unpack_frames
from train.augment import Augmentation, augment, mixup, pack_frames

N, T, P, SIDE = 6, 4, 2, 12


def still_frames(seed=0):
    """Return uint8 frames with one random plane per sample at every step and polarity."""
    rng = np.random.default_rng(seed)
    plane = rng.integers(1, 200, (N, 1, 1, SIDE, SIDE), dtype=np.uint8)
    return torch.from_numpy(np.broadcast_to(plane, (N, T, P, SIDE, SIDE)).copy())


@pytest.mark.parametrize(
    "chosen",
    [{"crop": 0.3}, {"flip": 0.5}, {"scale": 0.5}, {"cutout": 0.4}, {"crop": 0.2, "flip": 1.0}],
)
def test_geometry_differs_between_samples_but_not_between_steps(chosen):
    x = still_frames()
    moved = augment(x, Augmentation(**chosen), seed=1)
    assert (moved.shape, moved.dtype) == (x.shape, x.dtype)
    assert (moved == moved[:, :1, :1]).all()
    changed = {tuple((a != b).flatten().tolist()) for a, b in zip(moved, x, strict=True)}
    assert len(changed) > 1
    assert set(moved.unique().tolist()) <= {0, *x.unique().tolist()}


def test_flips_reverse_columns():
    x = still_frames()
    assert torch.equal(augment(x, Augmentation(flip=1.0), seed=0), x.flip(-1))
    some = augment(x, Augmentation(flip=0.5), seed=0)
    flipped = [bool((a == b.flip(-1)).all()) for a, b in zip(some, x, strict=True)]
    kept = [bool((a == b).all()) for a, b in zip(some, x, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert any(flipped)
    assert any(kept)


def test_a_crop_shifts_by_whole_pixels_and_fills_with_zeros():
    x = still_frames()
    for before, after in zip(x, augment(x, Augmentation(crop=0.25), seed=3), strict=True):
        shifts = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]
        assert any(torch.equal(shifted(before, dy, dx), after) for dy, dx in shifts)


def shifted(frame, dy, dx):
    out = torch.zeros_like(frame)
    rows, columns = range(max(0, dy), SIDE + min(0, dy)), range(max(0, dx), SIDE + min(0, dx))
    for row in rows:
        for column in columns:
            out[..., row, column] = frame[..., row - dy, column - dx]
    return out


def test_a_cutout_empties_one_square():
    side = 100
    x = torch.ones(20, 1, 1, side, side)
    cut = augment(x, Augmentation(cutout=0.4), seed=0)[:, 0, 0] == 0
    for hole in cut:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None])
        assert 0 < rows.sum() <= 40
        assert 0 < columns.sum() <= 40
    assert cut.sum(dim=(1, 2)).max() == 40 * 40


def test_time_shifts_move_whole_steps():
    x = torch.arange(1, T + 1, dtype=torch.uint8)[None, :, None, None, None]
    x = x.expand(40, T, P, 2, 2)
    moved = augment(x, Augmentation(time_shift=2), seed=0)[:, :, 0, 0, 0].tolist()
    steps = list(range(1, T + 1))
    wanted = [([0] * k + steps)[:T] for k in range(3)]
    wanted += [(steps[k:] + [0] * k) for k in (1, 2)]
    assert all(row in wanted for row in moved)
    assert len({tuple(row) for row in moved}) == 5


def test_event_drop_draws_a_share_for_each_sample():
    x = torch.ones(200, T, P, 16, 16, dtype=torch.uint8)
    kept = augment(x, Augmentation(event_drop=0.5), seed=0).float().mean(dim=(1, 2, 3, 4))
    assert 0.47 < kept.min() < 0.55
    assert 0.95 < kept.max() <= 1
    assert abs(kept.mean() - 0.75) < 0.03


def test_polarities_are_swapped_in_a_share_of_the_samples():
    x = torch.randint(0, 3, (400, T, P, 4, 4), dtype=torch.uint8)
    swapped = augment(x, Augmentation(polarity_swap=0.25), seed=0)
    changed = (swapped != x).flatten(1).any(1)
    assert 0.18 < changed.float().mean() < 0.32
    assert torch.equal(swapped[changed], x[changed].flip(2))


def test_swapped_voxel_grids_change_their_sign_and_frames_without_polarities_stay():
    grid = torch.randn(N, T, 1, SIDE, SIDE)
    assert torch.equal(augment(grid, Augmentation(polarity_swap=1.0), seed=0), -grid)
    for merged in (grid.abs(), (grid > 0).to(torch.uint8)):
        assert torch.equal(augment(merged, Augmentation(polarity_swap=1.0), seed=0), merged)


def test_strength_leaves_the_probabilities_as_they_are():
    chosen = Augmentation(flip=0.5, polarity_swap=0.5, strength=0.1)
    assert chosen.summary() == "flip 0.5, polarity_swap 0.5"


def test_images_are_only_moved():
    x = torch.rand(N, 3, SIDE, SIDE)
    of_events = Augmentation(time_shift=2, event_drop=0.5, polarity_swap=1.0)
    assert torch.equal(augment(x, of_events, seed=0), x)
    assert torch.equal(augment(x, Augmentation(flip=1.0), seed=0), x.flip(-1))


def test_the_seed_decides():
    x = still_frames()
    wild = Augmentation(crop=0.3, flip=0.5, scale=0.3, cutout=0.3, time_shift=1, event_drop=0.3)
    assert torch.equal(augment(x, wild, seed=5), augment(x, wild, seed=5))
    assert not torch.equal(augment(x, wild, seed=5), augment(x, wild, seed=6))
    assert torch.equal(x, still_frames())  # the caller's batch is unchanged


def test_no_augmentation_changes_nothing():
    x = still_frames()
    wild = Augmentation(crop=0.3, scale=0.3, cutout=0.3, time_shift=1, event_drop=0.3, strength=0)
    assert torch.equal(augment(x, wild, seed=0), x)
    assert torch.equal(augment(x, Augmentation(), seed=0), x)


def test_strength_multiplies():
    half = Augmentation(crop=0.2, flip=0.5, cutout=0.4, time_shift=2, strength=0.5).scaled()
    assert half == Augmentation(crop=0.1, flip=0.5, cutout=0.2, time_shift=1)
    assert Augmentation(cutout=0.5, strength=9).scaled().cutout == 1


def test_strengths_out_of_bounds_are_named():
    with pytest.raises(OptionError, match=r"cutout is 1\.5: choose 0 to 1"):
        Augmentation(cutout=1.5)


def test_mixup_mixes_inputs_and_targets_alike():
    targets = torch.eye(N)
    x = targets[:, :, None, None].expand(N, N, 2, 2).contiguous()
    mixed, soft = mixup(x, targets, 1.0, seed=0)
    assert torch.allclose(mixed[:, :, 0, 0], soft)
    assert torch.allclose(soft.sum(1), torch.ones(N))
    assert ((soft > 0).sum(1) == 2).any()


def test_mixup_takes_batches_of_the_loader():
    targets = torch.eye(N, dtype=torch.int64)
    frames = (torch.rand(N, 8, 2, 4, 4) < 0.5).to(torch.uint8)
    mixed, soft = mixup(frames, targets, 1.0, seed=0)
    assert (mixed.dtype, soft.dtype) == (torch.float32, torch.float32)
    packed, again = mixup(pack_frames(frames), targets, 1.0, seed=0, steps=8)
    assert torch.equal(packed, mixed)
    assert torch.equal(again, soft)
    same, ones = mixup(frames, targets, 0.0, seed=0)
    assert torch.equal(same, frames.float())
    assert torch.equal(ones, targets.float())


def test_event_drop_loses_events_of_a_count_one_by_one():
    counts = torch.full((4, 8, 2, 8, 8), 10, dtype=torch.uint8)
    left = augment(counts, Augmentation(event_drop=1.0), seed=0)
    assert left.dtype == torch.uint8
    assert left.max() <= 10
    assert len(left[0].unique()) > 3  # not all or nothing
    shares = left.float().mean(dim=(1, 2, 3, 4)) / 10
    assert shares.max() - shares.min() > 0.1  # drawn a sample at a time


def test_frames_known_to_be_binary_give_the_same_result():
    frames = (torch.rand(N, T, P, SIDE, SIDE) < 0.5).to(torch.uint8)
    wild = Augmentation(crop=0.3, time_shift=1, event_drop=0.5)
    assert torch.equal(augment(frames, wild, 3, binary=True), augment(frames, wild, 3))


@pytest.mark.parametrize("steps", [4, 8, 13])
@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"crop": 0.3},
        {"flip": 0.5},
        {"scale": 0.5},
        {"cutout": 0.4},
        {"time_shift": 3},
        {"event_drop": 0.5},
        {"polarity_swap": 0.5},
        {"crop": 0.2, "flip": 0.5, "scale": 0.2, "time_shift": 2, "event_drop": 0.3},
    ],
)
def test_packed_batches_give_the_same_result_as_dense_ones(steps, chosen):
    draw = torch.Generator().manual_seed(0)
    frames = (torch.rand(N, steps, P, SIDE, SIDE + 3, generator=draw) < 0.3).to(torch.uint8)
    packed = pack_frames(frames)
    assert torch.equal(unpack_frames(packed, steps), frames)
    moved = augment(packed, Augmentation(**chosen), seed=4, steps=steps)
    assert (moved.shape, moved.dtype) == (packed.shape, packed.dtype)
    dense = augment(frames, Augmentation(**chosen), seed=4)
    assert torch.equal(unpack_frames(moved, steps), dense)
    assert torch.equal(pack_frames(dense), moved)  # bits after the last step stay 0
