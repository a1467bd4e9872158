"""Videos and pages of samples; a page is opened and played in Chromium, where there is one."""

import base64
import json
import re
import shutil
import sys
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from click.testing import CliRunner

import eventdata
from eventdata import page as pages
from eventdata.cli import main
from tests.drawn import SIDE, Drawn, T, make_store

HOSTILE = ["</script><script>document.title='hacked'</script>", "<img src=x onerror=alert(1)>"]
HOSTILE.append("@DATA@ \u202e \u2028 & \"'")


@dataclass(frozen=True)
class Hostile(Drawn):
    """Samples whose classes and names try to run programs."""

    counts: tuple[tuple[str, int], ...] = (("train", 7),)
    names: str = "{:03}</script><script>document.title='hacked'</script>"

    @property
    def classes(self):
        return HOSTILE


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    out = tmp_path_factory.mktemp("show") / "hostile.zarr"
    eventdata.convert(Hostile(), "", out)
    return out


def show(store, out, *words, code=0):
    words = ("show", str(store), "--split", "train", "-o", str(out), *words)
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, result.output
    return result.output


def data_of(path):
    text = path.read_text(encoding="utf-8")
    found = re.search('<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def levels_of(data, number):
    raw = zlib.decompress(base64.b64decode(data["samples"][number]["data"]))
    return np.frombuffer(raw, np.uint8).reshape(data["steps"], data["height"], data["width"], -1)


def test_a_page_holds_all_of_its_samples(hostile, tmp_path):
    show(hostile, tmp_path / "page.html", "--index", "1:6:2", "--scale", "3")
    data = data_of(tmp_path / "page.html")
    dataset = eventdata.FrameDataset(hostile, "train")
    assert [one["index"] for one in data["samples"]] == [1, 3, 5]
    for number, one in enumerate(data["samples"]):
        frames, label = dataset[one["index"]]
        assert one["name"] == dataset.names[one["index"]]
        assert one["label"] == dataset.classes[label] == HOSTILE[label]
        assert one["events"] == dataset.event_counts[one["index"]]
        levels = levels_of(data, number)[..., 0]
        assert np.array_equal(levels >> 4, 15 * frames[:, 0])
        assert np.array_equal(levels & 15, 15 * frames[:, 1])
        counts = frames.sum(axis=(1, 2, 3)).numpy()
        assert one["activity"] == np.rint(100 * counts / counts.max()).tolist()


@pytest.mark.parametrize("kind", ["count", "wide", "voxel", "timesurface", "image"])
def test_pages_of_every_kind_of_samples(kind, tmp_path):
    channels = {"voxel": 1, "image": 3}.get(kind, 2)
    store = make_store(tmp_path / "s", kind=kind, channels=channels, counts=(("train", 3),))
    show(store, tmp_path / "page.html", "--index", "0:3")
    data = data_of(tmp_path / "page.html")
    samples = np.stack([frames.numpy() for frames, _ in eventdata.FrameDataset(store, "train")])
    for number, frames in enumerate(samples):
        levels = levels_of(data, number)
        if kind == "image":
            assert np.array_equal(levels[0], np.moveaxis(frames, 0, -1))
        elif kind == "voxel":
            assert np.array_equal(levels[..., 0] >> 4 > 0, frames[:, 0] > 0)
            assert np.array_equal(levels[..., 0] & 15 > 0, frames[:, 0] < 0)
            assert data["channels"] == 2
        else:
            assert np.array_equal(levels[..., 0] >> 4 > 0, frames[:, 0] > 0)
            assert np.array_equal(levels[..., 0] & 15 > 0, frames[:, 1] > 0)


def test_a_page_asks_for_nothing_and_runs_only_its_own_program(hostile, tmp_path):
    show(hostile, tmp_path / "page.html", "--index", "0:7")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    text = re.sub('"data":"[A-Za-z0-9+/=]+"', "", text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert "default-src 'none'" in text
    assert text.count("<script") == 2
    assert "document.title" not in text.replace("\\u003cscript>document.title", "")


def test_a_page_that_would_be_too_large_is_refused(hostile, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MAX_PAGE_BYTES", 1000)
    output = show(hostile, tmp_path / "page.html", "--index", "0:7", code=2)
    assert "too large with more than" in output
    assert "choose fewer of them with --index" in output
    assert not (tmp_path / "page.html").exists()


def test_a_skipped_sample_has_a_card_without_a_picture(tmp_path):
    @dataclass(frozen=True)
    class Broken(Drawn):
        def read(self, sample, out):
            if sample.name.endswith("1"):
                raise eventdata.errors.InputError("broken")
            return super().read(sample, out)

    eventdata.convert(Broken(counts=(("train", 3),)), "", tmp_path / "s", on_error="skip")
    show(tmp_path / "s", tmp_path / "page.html", "--index", "0:3")
    assert [one["data"] is None for one in data_of(tmp_path / "page.html")["samples"]] == [
        *(False, True, False)
    ]


@pytest.mark.parametrize("scale", [1, 3])
def test_a_video_has_a_picture_for_each_step(hostile, tmp_path, scale):
    av = pytest.importorskip("av")
    show(hostile, tmp_path / "a.mp4", "--index", "0:2", "--scale", str(scale))
    with av.open(str(tmp_path / "a.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == T
    assert pictures[0].shape[0] % 2 == pictures[0].shape[1] % 2 == 0
    assert all((one != pictures[0]).any() for one in pictures[1:])
    show(hostile, tmp_path / "b.mp4", "--index", "0:2", "--scale", str(scale))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_video_without_pyav_names_the_extra(hostile, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    output = show(hostile, tmp_path / "a.mp4", code=2)
    assert ".mp4 needs PyAV; run: pip install 'eventdata[video]'" in output


def test_an_unknown_ending_is_refused(hostile, tmp_path):
    output = show(hostile, tmp_path / "a.webm", code=2)
    assert "a picture must be .png, .gif, .mp4 or .html" in output


# In a browser.


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    places = [path for path in map(shutil.which, names) if path]
    with api.sync_playwright() as playwright:
        for place in (None, *places):
            try:
                opened = playwright.chromium.launch(executable_path=place)
            except api.Error:
                continue
            yield opened
            opened.close()
            return
    pytest.skip("no Chromium: run `playwright install chromium` or install the system's")


class Page:
    """A page in a browser; records the addresses that it asks for, and its errors."""

    def __init__(self, browser, path, **options):
        self.page = browser.new_page(viewport={"width": 1000, "height": 700}, **options)
        self.asked, self.errors = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console", lambda one: self.errors.append(one.text) if one.type == "error" else None
        )
        self.page.goto(path.as_uri())
        self.wait("data.samples.some(one => one.seen && one.cells)")
        self.wait("data.samples.every(one => !one.wait || one.cells)")

    def wait(self, condition):
        """Wait until it is true. Playwright's own function is forbidden by the page's policy."""
        while not self.page.evaluate(condition):
            self.page.wait_for_timeout(5)

    def pixels(self, number=0):
        """Return the pixels (H, W, 3) of a sample's canvas."""
        script = """number => { const canvas = document.querySelectorAll(".frame canvas")[number];
            const context = canvas.getContext("2d");
            return [...context.getImageData(0, 0, canvas.width, canvas.height).data]; }"""
        flat = np.array(self.page.evaluate(script, number), np.uint8)
        return flat.reshape(SIDE, SIDE, 4)[..., :3]

    def step(self):
        return int(self.page.evaluate("step"))


def expected_pixels(frame, theme):
    """Return a step (P, H, W) of binary frames in the colours of a theme."""
    ground, positive, negative = {
        "light": ((255, 255, 255), (0, 114, 178), (213, 94, 0)),
        "dark": ((12, 14, 18), (86, 180, 233), (240, 128, 60)),
    }[theme]
    ground, *colours = (np.array(one, float) for one in (ground, positive, negative))
    mixed = ground + sum(
        plane[..., None] * (colour - ground) for plane, colour in zip(frame, colours, strict=True)
    )
    return mixed.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def page_path(hostile, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    show(hostile, path, "--index", "0:7")
    return path


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_draws_each_step_as_it_is_scrubbed(browser, hostile, page_path, theme):
    page = Page(browser, page_path, color_scheme=theme)
    dataset = eventdata.FrameDataset(hostile, "train")
    for step in (0, 2, 1, T - 1):
        page.page.locator("#time").fill(str(step))
        assert page.step() == step
        assert page.page.locator("#step").text_content() == f"step {step + 1} of {T}"
        for number in (0, 3):
            frames, _ = dataset[number]
            expected = expected_pixels(frames[step].numpy(), theme)
            np.testing.assert_array_equal(page.pixels(number), expected)
    assert page.asked == [page_path.as_uri()]
    assert page.errors == []


def test_the_page_plays_and_stops(browser, page_path):
    page = Page(browser, page_path)
    page.page.locator("#speed").select_option("60")
    before = page.pixels()
    page.page.locator("#play").click()
    assert page.page.locator("#play").inner_text() == "Pause"
    page.wait("step === 2")
    page.wait("step === 0")  # it begins again at the end
    page.wait("step === 1")
    page.page.keyboard.press("Home")
    page.page.locator("body").press("ArrowRight")  # stops
    assert page.page.locator("#play").inner_text() == "Play"
    stopped = page.step()
    page.page.wait_for_timeout(100)
    assert page.step() == stopped
    page.page.locator("#time").fill("1")
    assert (page.pixels() != before).any()
    page.page.locator("#samples").press("ArrowLeft")
    np.testing.assert_array_equal(page.pixels(), before)
    assert page.errors == []


def test_the_page_filters_by_class_and_shows_names_as_text(browser, hostile, page_path):
    page = Page(browser, page_path)
    dataset = eventdata.FrameDataset(hostile, "train")
    cards = page.page.locator("article")
    assert cards.count() == 7
    for number in (0, 1, 2):
        label = dataset.classes[dataset.labels[number]]
        assert cards.nth(number).locator(".label").text_content() == label
        assert cards.nth(number).locator(".name").text_content() == dataset.names[number]
        events = f"sample {number} · {dataset.event_counts[number]:,} events"
        assert cards.nth(number).locator(".events").text_content() == events
    options = page.page.locator("#classes option").all_text_contents()
    assert options == ["all (7)", *(f"{HOSTILE[i]} ({n})" for i, n in enumerate((3, 2, 2)))]
    page.page.locator("#classes").select_option("1")
    visible = page.page.locator("article:visible .label")
    assert visible.all_text_contents() == [HOSTILE[1]] * 2
    page.page.locator("#classes").select_option("")
    assert page.page.locator("article:visible").count() == 7
    assert page.page.title() == "drawn, binary"
    assert page.page.locator("article img, article script").count() == 0
    assert page.errors == []


def test_a_screenshot_shows_events_in_both_themes_and_on_a_phone(browser, page_path):
    from io import BytesIO

    from PIL import Image

    page = Page(browser, page_path, color_scheme="light")
    shots = [page.page.screenshot()]
    page.page.locator("#theme").click()
    shots.append(page.page.screenshot())
    page.page.set_viewport_size({"width": 360, "height": 640})
    shots.append(page.page.screenshot())
    wide = page.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 360, "nothing to scroll sideways"
    for shot, colour, ground in zip(
        shots,
        [(0, 114, 178), (86, 180, 233), (86, 180, 233)],
        [(246, 247, 249), (16, 19, 24), (16, 19, 24)],
        strict=True,
    ):
        with Image.open(BytesIO(shot)) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert (pixels == colour).all(axis=1).mean() > 0.02
        assert (pixels == ground).all(axis=1).mean() > 0.02
