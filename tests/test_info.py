"""Values and rates that `eventdata info` reports, compared with plain NumPy."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from click.testing import CliRunner

import eventdata
from eventdata import info
from eventdata.cli import main
from eventdata.errors import InputError
from tests.drawn import Drawn, make_store

KINDS = {"binary": 2, "count": 1, "wide": 2, "voxel": 1, "timesurface": 2, "image": 3}


def describe(store, *words):
    result = CliRunner().invoke(main, ["info", str(store), *words])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in words else result.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_deviation_equal_plain_numpy(tmp_path, kind):
    store = make_store(tmp_path / "s", kind=kind, channels=KINDS[kind], counts=(("train", 9),))
    found = describe(store, "--json")["splits"]["train"]
    samples = np.stack([x.numpy() for x, _ in eventdata.FrameDataset(store, "train")])
    channels = np.moveaxis(samples.astype(float), -3, 0).reshape(KINDS[kind], -1)
    np.testing.assert_allclose(found["mean"], channels.mean(axis=1))
    np.testing.assert_allclose(found["deviation"], channels.std(axis=1))
    assert found["measured"] == 9
    text = describe(store)
    assert f"{found['mean'][0]:.5g}" in text
    assert "over 9 of 9 samples" in text


def test_a_large_split_is_measured_by_samples_spread_over_it(tmp_path, monkeypatch):
    store = make_store(tmp_path / "s", counts=(("train", 60),))
    monkeypatch.setattr(info, "MEASURED_SAMPLES", 7)
    found = describe(store, "--json")["splits"]["train"]
    dataset = eventdata.FrameDataset(store, "train")
    chosen = np.stack([dataset[60 * i // 7][0].numpy() for i in range(7)])
    np.testing.assert_allclose(found["mean"], chosen.mean(axis=(0, 1, 3, 4)))
    assert found["measured"] == 7
    assert "over 7 of 60 samples" in describe(store)
    monkeypatch.setattr(info, "MEASURED_BYTES", 1)
    assert describe(store, "--json")["splits"]["train"]["measured"] == 1


def test_damaged_samples_are_reported_and_the_rest_is_described(tmp_path):
    store = make_store(tmp_path / "s", counts=(("train", 9), ("test", 3)))
    path = tmp_path / "s/train/frames/c/0/0/0/0/0"
    path.write_bytes(b"\xff" * 100 + path.read_bytes()[100:])
    found = describe(store, "--json")["splits"]
    assert found["train"]["mean"] is None
    assert "checksum" in found["train"]["unreadable"]
    assert found["test"]["measured"] == 3
    assert "train: values can't be read" in describe(store)


def test_a_split_without_valid_samples_has_no_values(tmp_path):
    @dataclass(frozen=True)
    class Broken(Drawn):
        def read(self, sample, out):
            raise InputError("broken")

    eventdata.convert(Broken(counts=(("all", 3),)), "", tmp_path / "s", on_error="skip")
    found = describe(tmp_path / "s", "--json")["splits"]["all"]
    assert (found["mean"], found["measured"], found["events_per_step"]) == (None, 0, None)
    assert "all: no valid samples" in describe(tmp_path / "s")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Write a recording of 2,000 events, one every 100 microseconds."""
    folder = tmp_path_factory.mktemp("raw")
    (folder / "raw/a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    t = np.arange(2000) * 100
    x, y, p = rng.integers(0, 8, 2000), rng.integers(0, 8, 2000), rng.integers(0, 2, 2000)
    octets = np.stack([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255], axis=1)  # as N-MNIST's
    (folder / "raw/a/one.bin").write_bytes(octets.astype(np.uint8).tobytes())
    return folder / "raw"


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"window": 10_000, "steps": 19}, 0.19),
        ({"window": 10_000, "overlap": 5_000, "steps": 10}, 0.1),
        ({"window": 10_000, "every": 50_000}, 0.05),
        ({"frames": 4, "every": 50_000}, 0.05),
        ({"frames": 4}, None),
        ({"events_per_frame": 100, "steps": 20}, None),
    ],
)
def test_events_a_second_are_known_where_parameters_state_the_time(
    tmp_path, recording, options, seconds
):
    options = {"representation": "count", "sensor_size": "34x34", **options}
    eventdata.convert("recordings", recording, tmp_path / "s", **options)
    facts = describe(tmp_path / "s", "--json")
    assert facts["seconds_per_sample"] == seconds
    split, steps = facts["splits"]["all"], facts["steps"]
    assert split["events_per_step"] == pytest.approx(split["events_per_sample"] / steps)
    if seconds is None:
        assert split["events_per_second"] is None
        assert "events/s: unknown" in describe(tmp_path / "s")
    else:
        assert split["events_per_second"] == pytest.approx(10_000)
        assert "10,000" in describe(tmp_path / "s")


def test_events_of_a_time_surface_are_counted_once(tmp_path, recording):
    options = {"window": 10_000, "overlap": 5_000, "steps": 10, "representation": "timesurface"}
    eventdata.convert("recordings", recording, tmp_path / "s", sensor_size="34x34", **options)
    facts = describe(tmp_path / "s", "--json")
    assert facts["seconds_per_sample"] == pytest.approx(0.055)
    assert facts["splits"]["all"]["events_per_second"] == pytest.approx(10_000)


def test_still_images_have_no_rates(tmp_path):
    facts = describe(make_store(tmp_path / "s", kind="image", counts=(("train", 3),)), "--json")
    assert facts["splits"]["train"]["events_per_step"] is None
    assert facts["splits"]["train"]["events_per_second"] is None
