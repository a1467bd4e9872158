"""UCF101's clips are found and become events."""

import json

import numpy as np
import pytest
from PIL import Image

import eventdata
from eventdata.conversion import convert
from eventdata.errors import InputError, MismatchError, OptionError
from eventdata.formats.video import read_clip
from eventdata.generation import generate
from eventdata.kernels.video import VideoSettings, clip_events, clip_frames
from eventdata.raw.ucf101 import Ucf101
from eventdata.raw.ucf101_lists import find_clips
from eventdata.settings import from_options
from tests.makers import make_clips

SMALL = VideoSettings(steps=4, size=(32, 40))


@pytest.mark.parametrize("mode", [1, 2])
def test_reads_what_the_kernel_makes(tmp_path, mode):
    video = VideoSettings(steps=4, size=(32, 40), mode=mode, seed=3)
    source = Ucf101(root=make_clips(tmp_path), video=video)
    samples = source.splits()["all"]
    for index in range(len(samples)):
        out, expected = np.full((2, *video.frames_shape), 9, np.uint8)
        grey = read_clip(samples.paths[index], video)
        name = samples.names[index]
        ones = source.read(samples.row(index), out)
        assert ones == clip_frames(grey, video, expected, name) > 0
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(
            source.events(samples.paths[index]), clip_events(grey, video, name)
        )


def test_clips_are_found_in_class_folders(tmp_path):
    """A folder of frames is not searched for clips: UCF101 has two million frames."""
    made = make_clips(tmp_path, clips=2)
    (tmp_path / "Archery").mkdir()
    (made / "v_Archery_g01_c01").rename(tmp_path / "Archery" / "v_Archery_g01_c01")
    (made / "v_PushUps_g01_c01" / "v_Nested_g01_c01.avi").touch()
    (tmp_path / "Archery" / "v_Archery_g02_c01.AVI").touch()
    (tmp_path / "README").touch()
    (tmp_path / "other").mkdir()
    found = find_clips(tmp_path, Ucf101.suffixes)
    assert {name: [path.name for path in paths] for name, paths in found.items()} == {
        "v_Archery_g01_c01": ["v_Archery_g01_c01"],
        "v_Archery_g02_c01": ["v_Archery_g02_c01.AVI"],
        "v_PushUps_g01_c01": ["v_PushUps_g01_c01"],
    }


def test_a_clip_in_two_places_is_a_problem(tmp_path):
    make_clips(tmp_path, clips=2)
    (tmp_path / "v_Archery_g01_c01.avi").touch()
    samples = Ucf101(root=tmp_path).splits()["all"]
    assert list(samples.problems) == [0]
    assert "the same clip is also at" in samples.problems[0]


def test_a_clip_without_motion_is_an_error(tmp_path):
    raw = make_clips(tmp_path / "raw", clips=3)
    for path in (raw / "v_PushUps_g01_c01").iterdir():
        Image.new("L", (64, 48), 99).save(path)
    with pytest.raises(InputError, match="v_PushUps_g01_c01: nothing moves"):
        convert("ucf101", raw, tmp_path / "out", steps=4, size="32x40")
    convert("ucf101", raw, tmp_path / "out", steps=4, size="32x40", on_error="skip")
    (entry,) = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert entry["name"] == "v_PushUps_g01_c01"
    assert len(eventdata.FrameDataset(tmp_path / "out", "all")) == 2


def test_the_seed_is_only_a_parameter_of_mode_2(tmp_path):
    made = [
        Ucf101(root=tmp_path, video=VideoSettings(mode=mode, seed=seed)).parameters
        for mode in (1, 2)
        for seed in (0, 1)
    ]
    assert made[0] == made[1]
    assert made[2] != made[3]


def test_the_draws_are_a_parameter_where_they_are_counted(tmp_path):
    """Without it, as in older stores, draws are NumPy's."""
    for mode, draws, recorded in ((1, "counter", False), (2, "numpy", False), (2, "counter", True)):
        video = VideoSettings(mode=mode, draws=draws)
        assert ("draws" in Ucf101(root=tmp_path, video=video).parameters) == recorded


def test_counted_draws_do_not_depend_on_workers_or_order(tmp_path):
    raw = make_clips(tmp_path / "raw")
    options = {"steps": 4, "size": "32x40", "mode": 2}
    for name, how in {
        "one": {"draws": "counter", "workers": 1, "shard_size": 64},
        "two": {"draws": "counter", "workers": 2, "shard_size": 1},
        "numpy": {"workers": 1},
    }.items():
        convert("ucf101", raw, tmp_path / name, **options, **how)
    one, two, other = (
        [frames.numpy() for frames, _ in eventdata.FrameDataset(tmp_path / name, "all")]
        for name in ("one", "two", "numpy")
    )
    np.testing.assert_array_equal(one, two)
    assert (np.array(one) != np.array(other)).any()
    assert eventdata.open_store(tmp_path / "one").header.parameters["draws"] == "counter"
    assert eventdata.verify(tmp_path / "two", against=raw, workers=1).problems == []
    with pytest.raises(MismatchError, match="draws is 'counter' in the store, None in this call"):
        convert("ucf101", raw, tmp_path / "one", **options, workers=1, shard_size=64)
    assert eventdata.verify(tmp_path / "numpy", against=raw, workers=1).problems == []
    convert("ucf101", raw, tmp_path / "numpy", **options, draws="numpy", workers=1)


def test_generated_files_record_counted_draws(tmp_path):
    raw, out = make_clips(tmp_path / "raw", clips=2), tmp_path / "out"
    generate("es-ucf101", raw, out, mode=2, draws="counter", workers=1)
    about = json.loads((out / "generated.json").read_text())
    assert about["parameters"]["draws"] == "counter"


def test_the_size_is_read_from_text():
    assert from_options(VideoSettings, {"size": "256x342"}).size == (256, 342)
    for text in ("", "256", "256x", "axb", "1x2x3"):
        with pytest.raises(OptionError, match="not rows x columns such as"):
            from_options(VideoSettings, {"size": text})
    with pytest.raises(OptionError, match="choose 1 to 8192"):
        from_options(VideoSettings, {"size": "-1x5"})
