"""The alignment of ODG's frames: its result, and its use in training and prediction."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import eventdata
from eventdata.errors import OptionError
from eventdata.kernels.odg import OdgSettings, edge_integral
from eventdata.store.layout import SampleFormat
from tests.drawn import TINY_RECIPE, make_store
from tests.makers import make_images
from train import load_model
from train.align import align, shifts_of
from train.data import Epoch
from train.evaluate import evaluate
from train.predict import predict
from train.recipe import load
from train.runs.run import run

ODG = {"long_side": 16, "crop": 16, "min_events": 0, "resampling": "area"}
STAGES = """[defaults]
align = true
batch_size = 2
learning_rate = 0.1
[stages.sum]
neuron = { kind = "ann" }
collapse = 1
[stages.lif]
weights = "sum"
calibrate = "refit"
calibrate_samples = 16
teacher = "sum"
"""

place = st.tuples(st.integers(0, 7), st.integers(0, 7))
traces = st.lists(place, min_size=2, max_size=14).map(tuple)


def sample_of(odg: OdgSettings, height: int, width: int) -> SampleFormat:
    return SampleFormat("binary", odg.steps, 2, height, width)


def shifts_by(odg: OdgSettings, height: int = 4, width: int = 4) -> tuple[tuple[int, int], ...]:
    text = " ".join(f"{row},{column}" for row, column in odg.trace)
    return shifts_of({"trace": text}, sample_of(odg, height, width), "here")


def by_hand(planes: np.ndarray, odg: OdgSettings) -> np.ndarray:
    """Return frames (N, T, P, H, W) with each event moved back."""
    moved = np.zeros_like(planes)
    height, width = planes.shape[-2:]
    for sample, step, p, row, column in np.argwhere(planes):
        y, x = odg.trace[step + 1]
        row, column = row - y + odg.reach // 2, column - x + odg.reach // 2
        if 0 <= row < height and 0 <= column < width:
            moved[sample, step, p, row, column] = 1
    return moved


@settings(deadline=None, max_examples=50)
@given(traces, st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_each_event_moves_back_by_its_placement(trace, height, width, seed):
    odg = OdgSettings(trace=trace)
    rng = np.random.default_rng(seed)
    planes = rng.integers(0, 2, (3, odg.steps, 2, height, width), dtype=np.uint8)
    packed = np.packbits(planes, axis=1).transpose(0, 1, 3, 4, 2).copy()
    aligned = align(torch.from_numpy(packed), shifts_by(odg, height, width)).numpy()
    found = np.unpackbits(aligned, axis=1, count=odg.steps).transpose(0, 1, 4, 2, 3)
    np.testing.assert_array_equal(found, by_hand(planes, odg))
    # Its signed sum is the published reconstruction.
    sums = found[0, :, 0].astype(int).sum(0) - found[0, :, 1].astype(int).sum(0)
    grey = np.floor(255 * (sums + odg.steps) / (2 * odg.steps) + 0.5)
    np.testing.assert_array_equal(edge_integral(packed[0], odg), grey)


def test_frames_of_no_known_path_are_refused():
    odg = OdgSettings()
    sample = sample_of(odg, 4, 4)
    with pytest.raises(
        OptionError, match=r"s\.zarr: align needs frames that ODG made .* dvs; omit"
    ):
        shifts_of({"source": "dvs"}, sample, "s.zarr")
    with pytest.raises(OptionError, match=r"s\.zarr: .*trace.*; convert it again"):
        shifts_of({"trace": "1,0 x"}, sample, "s.zarr")
    for other in (SampleFormat("binary", 6, 2, 4, 4), SampleFormat("count", 8, 2, 4, 4)):
        with pytest.raises(OptionError, match="do not have the 8 steps of its path"):
            shifts_of({"trace": "1,0 0,2 2,1 1,0 0,1 2,2 1,0 1,1 2,1"}, other, "s.zarr")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A folder with pictures, a store of their events, a recipe and a run that aligns them."""
    base = tmp_path_factory.mktemp("aligned")
    make_images(base / "raw", train=30, val=10)
    eventdata.convert("imagenet", base / "raw", base / "s.zarr", **ODG)
    (base / "r.toml").write_text(TINY_RECIPE + STAGES)
    run(load(str(base / "r.toml")), base / "run", data=str(base / "s.zarr"))
    return base


@pytest.mark.parametrize(("steps", "factor"), [(None, 1), (3, 1), (None, 2), (6, 4)])
def test_batches_are_aligned_then_cut_and_downscaled(base, steps, factor):
    part = eventdata.FrameDataset(base / "s.zarr", "val")
    epoch = Epoch(part=part, batch_size=10, steps=steps, downscale=factor, align=True)
    ((batch, _),) = epoch
    whole = by_hand(np.stack([part[index][0].numpy() for index in range(10)]), OdgSettings())
    tiles = whole.reshape(*whole.shape[:3], 16 // factor, factor, 16 // factor, factor)
    np.testing.assert_array_equal(batch.numpy(), tiles.max(axis=(-3, -1))[:, :steps])
    plain = Epoch(part=part, batch_size=10, steps=steps, downscale=factor)
    assert not torch.equal(next(iter(plain))[0], batch)


def test_a_run_that_aligns_is_evaluated_and_predicts_like_a_plain_loop(base):
    network, info = load_model(base / "run")
    assert info.settings.align
    part = eventdata.FrameDataset(base / "s.zarr", "val")
    whole = by_hand(np.stack([part[index][0].numpy() for index in range(10)]), OdgSettings())
    with torch.no_grad():
        shares = network(torch.from_numpy(whole).float()).softmax(dim=1)
    result = evaluate(base / "run")
    hits = (shares.argmax(1).numpy() == part.labels).mean()
    assert result["top1"] == pytest.approx(hits)
    loss = -shares[torch.arange(10), torch.from_numpy(part.labels)].log().mean()
    assert result["loss"] == pytest.approx(float(loss), abs=1e-4)
    wanted = dict(zip(part.names, shares.max(dim=1).values.tolist(), strict=True))
    in_store = {one.file: one.best[0][1] for one in predict(base / "run", base / "s.zarr")}
    assert in_store == pytest.approx(wanted, abs=1e-5)
    of_files = {one.file: one.best[0][1] for one in predict(base / "run", base / "raw" / "val")}
    assert of_files == pytest.approx(wanted, abs=1e-5)


def test_align_is_refused_where_the_motion_is_not_known(base, tmp_path):
    store = make_store(tmp_path / "other.zarr")
    with pytest.raises(OptionError, match=r"other\.zarr: align needs frames that ODG made"):
        run(load(str(base / "r.toml")), tmp_path / "run", data=store)
    assert not (tmp_path / "run").exists()
