"""Clips are read from folders of frames and from video files, sound and damaged."""

import struct
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from eventdata.errors import InputError, OptionError
from eventdata.formats import video as clips
from eventdata.formats.video import natural_order, read_clip
from eventdata.kernels.video import VideoSettings, clip_events, frame_indices

U8 = NDArray[np.uint8]
SMALL = VideoSettings(size=(48, 64))


def make_frames(folder: Path, count: int, size: tuple[int, int] = (48, 64)) -> Path:
    """Write frames 1 to ``count``, each of one grey (twice its number), without leading zeros."""
    folder.mkdir()
    for number in range(1, count + 1):
        frame = Image.fromarray(np.full(size, 2 * number, np.uint8))
        frame.save(folder / f"frame{number}.jpg", quality=95)
    return folder


def make_video(path: Path, count: int, size: tuple[int, int] = (48, 64)) -> Path:
    """Write a moving edge as MPEG-4 in an AVI, the format of UCF101's clips."""
    av = pytest.importorskip("av")
    height, width = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(count):
            pixels = np.full((height, width, 3), 40, np.uint8)
            pixels[:, : (3 * number) % width] = 200
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decoded(path: Path, size: tuple[int, int]) -> list[U8]:
    """Decode every frame of a video and scale each on its own."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return [
            frame.reformat(size[1], size[0], "gray", interpolation="BILINEAR").to_ndarray()
            for frame in container.decode(video=0)
        ]


def with_frame_count(data: bytes, count: int) -> bytes:
    """Return an AVI whose headers declare another number of frames."""
    changed = bytearray(data)
    for tag, offset in ((b"avih", 16), (b"strh", 32)):
        at = changed.index(tag) + 8 + offset
        changed[at : at + 4] = struct.pack("<I", count)
    return bytes(changed)


# ---- folders -------------------------------------------------------------------------------------


def test_frames_are_in_natural_order() -> None:
    names = ["f10.jpg", "f2.jpg", "f1.jpg", "e3.jpg", "10.jpg", "9.jpg", "f02.jpg", "f2a1.jpg"]
    assert natural_order(names) == [
        "9.jpg", "10.jpg", "e3.jpg", "f1.jpg", "f02.jpg", "f2.jpg", "f2a1.jpg", "f10.jpg",
    ]  # fmt: skip


def test_published_folders_are_read(shared: Path) -> None:
    for folder in sorted((shared / "es_ucf101" / "jpegs_256").iterdir()):
        grey = read_clip(folder, VideoSettings())
        with np.load(shared / "es_ucf101" / "event_dvs" / f"{folder.name}.npz") as raw:
            np.testing.assert_array_equal(clip_events(grey, VideoSettings()), raw["arr_0"])


@pytest.mark.parametrize("count", [1, 7, 31, 45])
def test_folder_takes_the_published_frames(tmp_path: Path, count: int) -> None:
    folder = make_frames(tmp_path / "clip", count)
    for other in ("notes.txt", "._frame1.jpg"):
        (folder / other).write_text("no frame")
    grey = read_clip(folder, SMALL)
    assert (grey.shape, grey.dtype) == ((31, 48, 64), np.uint8)
    np.testing.assert_array_equal(grey[:, 20, 20], 2 * (frame_indices(count, 31) + 1))


def test_folder_scales_frames_of_another_size(tmp_path: Path) -> None:
    folder = make_frames(tmp_path / "clip", 31, size=(24, 90))
    for interpolation in ("bilinear", "bicubic", "area", "nearest", "lanczos"):
        video = VideoSettings(size=(48, 64), interpolation=interpolation)
        grey = read_clip(folder, video)
        np.testing.assert_array_equal(grey[:, 20, 20], 2 * np.arange(1, 32))
        assert grey.shape == (31, 48, 64)


def test_a_folder_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frames"):
        read_clip(tmp_path, SMALL)


def test_a_folder_with_a_damaged_frame_is_refused(tmp_path: Path) -> None:
    folder = make_frames(tmp_path / "clip", 31)
    data = (folder / "frame9.jpg").read_bytes()
    (folder / "frame9.jpg").write_bytes(data[:-40])
    with pytest.raises(InputError, match=r"frame9\.jpg"):
        read_clip(folder, SMALL)


# ---- video files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 10, 31, 80])
def test_video_takes_the_published_frames(tmp_path: Path, count: int) -> None:
    path = make_video(tmp_path / "clip.avi", count)
    frames = decoded(path, SMALL.size)
    assert len(frames) == count
    grey = read_clip(path, SMALL)
    assert (grey.shape, grey.dtype, grey.flags.c_contiguous) == ((31, 48, 64), np.uint8, True)
    expected = np.stack([frames[index] for index in frame_indices(count, 31)])
    # The reader rounds exactly; swscale does not by default.
    assert np.abs(grey.astype(int) - expected).max() <= 2
    assert abs(int(grey[0].max()) - 40) < 4  # black is 16 in the video's luma, 0 here
    assert count == 1 or abs(int(grey[-1].max()) - 200) < 12


def test_a_video_is_scaled(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.avi", 31)
    made = {
        interpolation: read_clip(path, VideoSettings(size=(30, 100), interpolation=interpolation))
        for interpolation in ("bilinear", "bicubic", "area", "nearest", "lanczos")
    }
    assert {grey.shape for grey in made.values()} == {(31, 30, 100)}
    assert (made["nearest"] != made["bicubic"]).any()
    expected = np.stack(decoded(path, (30, 100)))
    assert np.abs(made["bilinear"].astype(int) - expected).max() <= 2


def test_video_is_near_the_published_frames(shared: Path) -> None:
    """Published frames were scaled by another program and stored as JPEG: close, but not equal."""
    pytest.importorskip("av")
    for folder in sorted((shared / "es_ucf101" / "jpegs_256").iterdir()):
        path = next((shared / "ucf101" / "UCF-101").rglob(f"{folder.name}.avi"))
        video, images = (read_clip(source, VideoSettings()) for source in (path, folder))
        assert np.abs(video.astype(int) - images).mean() < 2
        agree = clip_events(video, VideoSettings()) & clip_events(images, VideoSettings())
        assert agree.sum() > 0.94 * clip_events(images, VideoSettings()).sum()


@pytest.mark.parametrize("claimed", [0, 3, 79, 81, 2**31 - 1])
def test_video_header_may_state_a_wrong_number_of_frames(tmp_path: Path, claimed: int) -> None:
    path = make_video(tmp_path / "clip.avi", 80)
    expected = read_clip(path, SMALL)
    path.write_bytes(with_frame_count(path.read_bytes(), claimed))
    np.testing.assert_array_equal(read_clip(path, SMALL), expected)


def test_video_keeps_only_the_frames_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "clip.avi", 200)
    kept: list[int] = []
    decode = clips._decode

    def watched(*arguments: Any) -> Any:
        result = decode(*arguments)
        kept.append(len(result[2]))
        return result

    monkeypatch.setattr(clips, "_decode", watched)
    read_clip(path, SMALL)
    assert kept == [31]  # in one pass


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.99])
def test_a_truncated_video_is_refused(tmp_path: Path, part: float) -> None:
    path = make_video(tmp_path / "clip.avi", 60)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=r"clip\.avi: (cut short|can't be decoded)"):
        read_clip(path, SMALL)


def test_a_video_with_damaged_content_is_refused(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    data = next((shared / "ucf101" / "UCF-101").rglob("*.avi")).read_bytes()
    rng = np.random.default_rng(0)
    for number in range(5):
        broken = bytearray(data)
        for _ in range(5):
            broken[rng.integers(6000, 0.9 * len(broken))] ^= 1 << rng.integers(8)
        path = tmp_path / f"{number}.avi"
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"frame \d+ is damaged|can't be decoded"):
            read_clip(path, VideoSettings())


def test_other_files_are_refused(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    make_video(tmp_path / "clip.avi", 3)
    lists = {
        "text.avi": "#EXTM3U\nhttp://localhost/clip.avi\n",
        "other.avi": "ffconcat version 1.0\nfile clip.avi\n",
        "itself.avi": "ffconcat version 1.0\nfile itself.avi\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=rf"{name}: (not a video in|can't be decoded)"):
            read_clip(tmp_path / name, SMALL)
    sound = tmp_path / "sound.mkv"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="no video in this file"):
        read_clip(sound, SMALL)
    with pytest.raises(InputError, match="can't be read"):
        read_clip(tmp_path / "missing.avi", SMALL)


def test_frames_that_are_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "clip.avi", 2)
    monkeypatch.setattr(clips, "MAX_FRAME_PIXELS", 48 * 64 - 1)
    with pytest.raises(InputError, match="more than 3071 pixels"):
        read_clip(path, SMALL)


def test_a_missing_pyav_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.avi"
    path.write_bytes(b"video")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(OptionError, match=r"eventdata\[video\]"):
        read_clip(path, SMALL)
    folder = make_frames(tmp_path / "clip", 3)
    assert read_clip(folder, SMALL).shape == (31, 48, 64)
