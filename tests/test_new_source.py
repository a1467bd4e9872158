"""A new source is one file and one line in the table; everything else follows from these."""

import json
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

import eventdata
from eventdata import options
from eventdata.cli import main
from eventdata.errors import OptionError
from eventdata.raw.registry import SOURCES, SourceEntry
from tests.source_contract import SettingsContract


@pytest.fixture(autouse=True)
def _one_line(monkeypatch):
    monkeypatch.setitem(SOURCES, "toy", SourceEntry("tests.toy:Toy", "Text files with one event."))
    # `verify` makes the options of all sources once, perhaps in an earlier test without the toy.
    verify = main.commands["verify"]
    own = [one for one in verify._params if not isinstance(one, options.SectionOption)]
    monkeypatch.setattr(verify, "_params", own)
    monkeypatch.setattr(verify, "_own", options.against_options)


class TestToy(SettingsContract):
    source = "toy"
    options: ClassVar[dict[str, Any]] = {"size": 8}
    other: ClassVar[dict[str, Any]] = {"corner": True, "size": 9}

    def make(self, folder):
        raw = folder / "raw"
        raw.mkdir()
        for number in range(6):
            (raw / f"{'ab'[number % 2]}-{number}.txt").write_text(f"{number} {7 - number}")
        return raw

    def file_of_a_sample(self, raw):
        return raw / "b-3.txt"

    def damage(self, raw):
        (raw / "b-3.txt").write_text("three")
        return "b-3.txt"


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_line_takes_its_options(tmp_path):
    raw = TestToy().make(tmp_path)
    (tmp_path / "names.txt").write_text("b a")
    out = tmp_path / "out.zarr"
    result = call(
        *("convert", "--size", "8", "toy", "--corner", raw, out),
        *("--names", tmp_path / "names.txt", "--workers", "1"),
    )
    assert result.exit_code == 0, result.output
    store = eventdata.open_store(out)
    assert store.header.classes == ["b", "a"]
    assert store.split("all").event_counts.tolist() == [2] * 6
    document = json.loads((out / "zarr.json").read_text())["attributes"]["eventdata"]
    assert {"source": "toy", "size": 8, "corner": True}.items() <= document["parameters"].items()
    assert "names" not in document["parameters"]
    for names in ((), ("--names", tmp_path / "names.txt")):
        result = call("verify", out, "--against", raw, "--workers", "1", *names)
        assert "sound; 6 samples, 6 compared" in result.output, result.output


def test_the_help_pages_show_its_options():
    assert "toy          Text files with one event." in call("convert", "--help").output
    page = call("convert", "toy", "--help").output
    assert "eventdata convert toy notes/ toy.zarr --size 8" in page
    assert "Options of toy:" in page
    assert "Dots:" in page
    assert "--size PIXELS  Rows and columns.  [default: 4]" in page
    assert "--crop" not in page
    assert "--names FILE" in call("verify", "--help").output


def test_errors_name_its_options(tmp_path):
    result = call("convert", "imagenet", tmp_path, tmp_path / "out", "--corner")
    assert result.exit_code == 2
    assert "imagenet has no option 'corner'; it belongs to toy." in result.output
    result = call("convert", "toys", tmp_path, tmp_path / "out")
    assert result.exit_code == 2
    assert "unknown source 'toys'; did you mean 'toy'? Choose from es-imagenet" in result.output
    result = call("convert", "toy", tmp_path, tmp_path / "out", "--size", "65")
    assert result.exit_code == 2
    assert "size is 65: choose 1 to 64" in result.output
    with pytest.raises(OptionError, match="toy has no option 'sise'; did you mean 'size'?"):
        eventdata.convert("toy", tmp_path, tmp_path / "out", sise=3)


def test_the_reference_has_its_options():
    text = options.markdown()
    assert "\n## toy\n\nText files with one event.\n" in text
    assert "\n### Dots\n" in text
    assert "| `--size` | pixels, 1 to 64 | `4` | Rows and columns. |" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [("convert to", "plain\ntoy"), ("convert toy a b --cor", "plain\n--corner")],
)
def test_the_tab_key_completes_its_options(words, expected):
    environment = {
        "_EVENTDATA_COMPLETE": "zsh_complete",
        "COMP_WORDS": f"eventdata {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    result = CliRunner().invoke(main, env=environment, prog_name="eventdata")
    assert expected in result.output
