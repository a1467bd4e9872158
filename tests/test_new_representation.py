"""A representation is one file and one line in the table; everything else follows from these.

So it is with a toy, and with the floating representations of the package: they are converted,
verified, read by others, shown, trained on and predicted from.
"""

import json

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner

import eventdata
from eventdata.cli import main
from eventdata.errors import OptionError
from eventdata.kernels.representations import REPRESENTATIONS
from eventdata.options import markdown
from eventdata.store.layout import Header, SampleFormat
from tests.toy_representation import LAST
from tests.train.test_predict import H, W, record_hands, train_on
from train import load_model
from train.data import unpack_batch
from train.predict import predict

KINDS = ["last", "voxel", "timesurface"]


@pytest.fixture(scope="module", autouse=True)
def _one_line():
    REPRESENTATIONS["last"] = LAST
    yield
    del REPRESENTATIONS["last"]


def call(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return record_hands(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module", params=KINDS)
def store(request, raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores") / f"{request.param}.zarr"
    words = ("--frames", 4, "--sensor-size", f"{W}x{H}", "--representation", request.param)
    call("convert", "recordings", raw, out, *words, "--workers", 1)
    return out


def kind_of(store):
    return store.stem


def test_it_is_an_option_with_its_name():
    assert "binary|count|voxel|timesurface|last" in call("convert", "recordings", "--help")
    assert "`timesurface`, `last`" in markdown()


def test_the_store_is_verified_against_its_raw_files(store, raw):
    assert "sound; 24 samples, 24 compared" in call(
        "verify", store, "--against", raw, "--workers", 1
    )


def test_the_store_is_sound_only_with_possible_values(store, raw, tmp_path):
    dataset = eventdata.FrameDataset(store, "all")
    packed = dataset.packed(0)
    events = int(dataset.event_counts[0])
    faults = REPRESENTATIONS[kind_of(store)].faults
    assert not list(faults(packed, 4, events))
    packed[0, 0, 0, 0] = np.inf
    assert list(faults(packed, 4, events))


def test_any_reader_of_zarr_reads_it_by_its_attributes(store):
    array = zarr.open_array(store / "all/frames", mode="r")
    facts = dict(array.attrs)
    channels = ["signed"] if kind_of(store) != "timesurface" else ["positive", "negative"]
    assert facts["representation"] == kind_of(store)
    assert facts["channels"] == channels
    frames = eval(facts["unpack"], {"numpy": np, "frames": array, "i": 5, **facts})
    assert list(frames.shape) == facts["shape"] == [4, len(channels), H, W]
    found, _ = eventdata.FrameDataset(store, "all")[5]
    assert found.dtype == torch.float16
    np.testing.assert_array_equal(frames, found.numpy())


def test_batches_have_floating_types_on_every_path(store):
    dataset = eventdata.FrameDataset(store, "all")
    stored = torch.stack([frames for frames, _ in dataset])
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for layout in ("NTPHW", "TNPHW"):
            loader = eventdata.FrameLoader(dataset, 24, dtype=dtype, layout=layout)
            batch, _ = next(iter(loader))
            expected = stored if layout == "NTPHW" else stored.transpose(0, 1)
            assert batch.dtype == dtype
            assert torch.equal(batch, expected.to(dtype))
    packed, _ = next(iter(eventdata.FrameLoader(dataset, 24, layout="packed")))
    for factor in (1, 2):
        dense = unpack_batch(packed, dataset.sample_format, 3, factor)
        tiles = stored[:, :3].float().unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor))
        pooled = tiles.sum((-3, -1)) if kind_of(store) == "voxel" else tiles.amax((-3, -1))
        assert torch.allclose(dense, pooled, atol=1e-5)
    assert next(iter(eventdata.FrameLoader(dataset, 24)))[0].dtype == torch.float16
    with pytest.raises(OptionError, match="values are float16, which torch.uint8 does not hold"):
        eventdata.FrameLoader(dataset, 24, dtype=torch.uint8)


def test_it_is_described_and_shown(store, tmp_path):
    facts = json.loads(call("info", store, "--json"))
    assert facts["representation"] == kind_of(store)
    assert facts["splits"]["all"]["dtype"] == "float16"
    assert len(facts["splits"]["all"]["mean"]) == len(facts["polarity"])
    for name in ("a.png", "a.gif", "a.html"):
        call("show", store, "--index", "0:3", "-o", tmp_path / name)


def test_it_is_trained_on_and_predicted_from(store, raw, tmp_path):
    folder = train_on(store, tmp_path / "run", epochs=8)
    _, info = load_model(folder)
    assert info.framing.sample == eventdata.FrameDataset(store, "all").sample_format
    found = predict(folder, raw)
    assert len(found) == 24
    right = sum(one.best[0][0] == one.file.split("/")[0] for one in found)
    assert right > 20, "left and right are easy to separate"


# What attributes say about the other representations.


@pytest.mark.parametrize("representation", ["binary", "count"])
@pytest.mark.parametrize("options", [{"frames": 11}, {"frames": 3, "merge_polarities": True}])
def test_packed_frames_and_counts_are_unpacked_by_their_attributes(
    raw, tmp_path, representation, options
):
    options = {"representation": representation, "sensor_size": f"{W}x{H}", **options}
    eventdata.convert("recordings", raw, tmp_path / "s", **options)
    array = zarr.open_array(tmp_path / "s/all/frames", mode="r")
    facts = dict(array.attrs)
    frames = eval(facts["unpack"], {"numpy": np, "frames": array, "i": 7, **facts})
    assert list(frames.shape) == facts["shape"]
    assert facts["axes"] == ["step", "polarity", "y", "x"]
    expected = ["merged"] if "merge_polarities" in options else ["positive", "negative"]
    assert facts["channels"] == expected
    assert facts["value"]
    found, _ = eventdata.FrameDataset(tmp_path / "s", "all")[7]
    np.testing.assert_array_equal(frames, found.numpy())
    if representation == "binary":  # only by the words, with the last step first
        words = "bit k of byte b is step 8b+k, the first step in the highest bit"
        assert facts["packing"] == words
        for step in reversed(range(facts["steps"])):
            byte, bit = divmod(step, 8)
            assert np.array_equal(array[7, byte] >> (7 - bit) & 1, found[step])


def test_frames_of_other_types_or_attributes_are_refused(raw, tmp_path):
    options = {"representation": "voxel", "sensor_size": f"{W}x{H}", "frames": 3}
    eventdata.convert("recordings", raw, tmp_path / "s", **options)
    path = tmp_path / "s/all/frames/zarr.json"
    sound = path.read_text()
    for old, new in (
        ('"data_type": "float16"', '"data_type": "float32"'),
        ('"steps": 3', '"steps": 4'),
        ('"channels"', '"colours"'),
    ):
        assert old in sound
        path.write_text(sound.replace(old, new))
        with pytest.raises(eventdata.EventDataError, match="damaged or not of this layout"):
            eventdata.open_store(tmp_path / "s")
    document = json.loads(sound)
    document["attributes"] = {}
    path.write_text(json.dumps(document))
    with pytest.raises(eventdata.EventDataError, match="damaged or not of this layout"):
        eventdata.open_store(tmp_path / "s")  # only format version 1 has no attributes


def test_every_representation_has_a_format(tmp_path):
    for name, kind in REPRESENTATIONS.items():
        sample = SampleFormat(name, 9, 1 if kind.signed else 2, 3, 4, kind.dtypes[0])
        assert sample.dtypes == kind.dtypes
        assert sample.planes == (2 if name == "binary" else 9)
        assert len(sample.polarity) == sample.channels
    assert Header.__dataclass_fields__["version"].default == 2
