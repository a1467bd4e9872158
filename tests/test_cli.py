"""The command as a user types it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from eventdata.cli import main
from eventdata.errors import OptionError
from eventdata.show import _columns, parse_index
from eventdata.store.columns import encode_column
from tests.makers import make_es_imagenet


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return make_es_imagenet(tmp_path_factory.mktemp("cli") / "raw")


@pytest.fixture(scope="module")
def store(raw):
    out = raw.parent / "store.zarr"
    assert call("convert", "es-imagenet", raw, out, "--workers", 1).exit_code == 0
    return out


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_help_has_examples():
    for command in ([], ["convert"], ["verify"], ["show"]):
        result = call(*command, "--help")
        assert result.exit_code == 0
        assert "eventdata " in result.output.split("Options:")[0].split("\n", 1)[1]
    assert "es-ucf101" in call("convert", "--help").output


def test_convert_reports_its_result(raw, tmp_path):
    out = tmp_path / "o.zarr"
    result = call("convert", "es-imagenet", raw, out, "--dry-run")
    assert "would hold 16 samples (train 12, val 4)" in result.output
    result = call("convert", "es-imagenet", raw, out, "--workers", 1, "--json")
    printed = json.loads(result.stdout)
    assert (printed["state"], printed["samples"]) == ("complete", {"train": 12, "val": 4})
    assert "already complete" in call("convert", "es-imagenet", raw, out).output


def test_info_reports_the_facts_of_a_store(store):
    result = call("info", store)
    assert result.exit_code == 0
    for word in ("train", "val", "8x2x224x224", "1000 classes", "event rate"):
        assert word in result.output
    facts = json.loads(call("info", store, "--json").output)
    train = facts["splits"]["train"]
    assert train["samples"] == 12
    assert train["shape"] == [8, 2, 224, 224]
    assert train["event_rate"] == pytest.approx(train["events"] / 12 / 8 / 2 / 224 / 224)
    assert facts["parameters"]["source"] == "es-imagenet"
    sizes = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    assert facts["bytes"] == sum(sizes)


def test_verify_reports_sound_and_damaged_stores(store, raw, tmp_path):
    result = call("verify", store, "--against", raw, "--samples", "all", "--workers", 1)
    assert result.exit_code == 0
    assert "sound; 16 samples, 16 compared with their raw files" in result.output
    bad = shutil.copytree(store, tmp_path / "bad.zarr")
    shard = bad / "train/frames/c/0/0/0/0/0"
    content = bytearray(shard.read_bytes())
    content[5] ^= 8
    shard.write_bytes(content)
    result = call("verify", bad, "--workers", 1)
    assert result.exit_code == 1
    assert "split train, shard 0, sample 0" in result.output
    printed = json.loads(call("verify", bad, "--json", "--workers", 1).stdout)
    assert printed["ok"] is False
    assert printed["problems"][0]["sample"] == 0


def test_show_writes_pictures_and_animations(store, tmp_path):
    for index, name, frames in (("0", "a.png", 1), ("-1", "b.gif", 8), ("0:5", "c.png", 1)):
        out = tmp_path / name
        result = call("show", store, "--split", "train", "--index", index, "-o", out)
        assert result.exit_code == 0, result.output
        with Image.open(out) as picture:
            assert getattr(picture, "n_frames", 1) == frames
            colours = {tuple(c) for c in np.asarray(picture.convert("RGB")).reshape(-1, 3)}
        assert {(255, 255, 255), (0, 114, 178), (213, 94, 0)} <= colours or name.endswith("gif")
    for index, out in (("99", "x.png"), ("a", "x.png"), ("5:5", "x.png"), ("0", "x.jpg")):
        result = call("show", store, "--split", "val", "--index", index, "-o", tmp_path / out)
        assert result.exit_code == 2
    assert "pass --split train or val" in call("show", store, "-o", "x.png").output


def test_sheets_fit_frames_of_any_shape():
    for tiles in (1, 2, 7, 256):
        for aspect in (1 / 4000, 0.1, 0.2, 1, 16 / 9, 10, 4000):  # 0.1: a sensor of 10x100
            assert 1 <= _columns(tiles, aspect) <= tiles


def test_a_huge_range_of_samples_is_refused():
    with pytest.raises(OptionError, match="1,000,000,000,000 of 1,000,000,000,000 samples"):
        parse_index("0:", 10**12)
    assert parse_index("10:999999999999:500000000000", 10**12) == [10, 10 + 5 * 10**11]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["convert", "nonsense", ".", "x"], 2, "unknown source 'nonsense'"),
        (["convert", "es-imagenet", "/no/such", "x"], 1, "no trainlabel.txt"),
        (
            ["convert", "es-imagenet", "RAW", "x", "--fold", "1"],
            2,
            "belongs to es-ucf101 and ucf101",
        ),
        (["convert", "es-imagenet", "RAW", "RAW"], 2, "contains the input"),
        (["convert", "es-imagenet", "RAW", "RAW/vallabel.txt/x"], 1, "lies below one"),
        (["convert", "es-imagenet", "RAW", "STORE", "--shard-size", "5"], 1, "shard_size is 512"),
        (["convert", "es-imagenet", "RAW", "x", "--shard-size", "100000"], 2, "at most 65,536"),
        (["convert", "es-imagenet", "RAW", "/proc/x.zarr"], 1, "can't be written"),
        (["convert", "es-imagenet", "RAW", "x" * 300], 1, "can't be"),
        (["convert", "es-imagenet", "RAW", "x", "--split", "test"], 2, "choose from train, val"),
        (["info", "nope://x"], 1, "can't be reached"),
        (
            ["show", "STORE", "--split", "val", "--index", "0:4", "--scale", "32", "-o", "x.png"],
            2,
            "too large",
        ),
        (["info", "/no/such"], 1, "no store found"),
        (["info", "x" * 300], 1, "can't be"),
        (["verify", "STORE", "--against", "RAW", "--samples", "few"], 2, "number or 'all'"),
        (["verify", "STORE", "--against", "RAW", "--samples", "9" * 5000], 2, "--samples is '999"),
        (["verify", "STORE", "--samples", "3"], 2, "need --against"),
        (["convert", "es-imagenet"], 2, "Missing argument"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(raw, store, words, code, says):
    words = [word.replace("RAW", str(raw)).replace("STORE", str(store)) for word in words]
    result = call(*words)
    assert result.exit_code == code
    assert says in result.output
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback(store):
    for words in (["--debug", "info", "/no/such"], ["info", "/no/such", "--debug"]):
        run = subprocess.run(
            [sys.executable, "-m", "eventdata", *words], capture_output=True, text=True, check=False
        )
        assert run.returncode == 1
        assert "Traceback" in run.stderr


def test_completion_prints_a_script_for_each_shell():
    for shell in ("bash", "zsh", "fish"):
        assert "_EVENTDATA_COMPLETE" in call("completion", shell).output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("convert es-", "plain\nes-imagenet"),
        ("verify run", "dir\nrun"),
        ("verify es.zarr --ag", "plain\n--against"),
        ("train pipe-d --recipe digi", "plain\ndigits"),
        ("train pipe-d --recipe runs/x", "file\nruns/x"),
    ],
)
def test_the_tab_key_completes_words(words, expected):
    environment = {
        "_EVENTDATA_COMPLETE": "zsh_complete",
        "COMP_WORDS": f"eventdata {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    result = CliRunner().invoke(main, env=environment, prog_name="eventdata")
    assert expected in result.output


def program(*words, **settings):
    """Run the command in its own process, whose output must be UTF-8."""
    return subprocess.run(
        [sys.executable, "-m", "eventdata", *map(str, words)],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        stderr=subprocess.PIPE,
        check=False,
        **settings,
    )


def test_texts_of_a_store_are_printed_escaped(store, raw, tmp_path):
    """The author of a store could otherwise control the terminal or fake lines of output."""
    bad = shutil.copytree(store, tmp_path / "bad.zarr")
    evil = "\ud800x\x1b]0;title\x07\nall is well"
    document = json.loads((bad / "zarr.json").read_text())
    document["attributes"]["eventdata"] |= {"dataset": evil}
    document["attributes"]["eventdata"]["parameters"] |= {"source": evil}
    (bad / "zarr.json").write_text(json.dumps(document))
    skipped = [{"split": evil, "index": 1, "name": evil, "reason": evil}]
    (bad / "skipped.json").write_text(json.dumps(skipped))
    names = np.array([evil.replace("\ud800", "")] * 4, object)
    for key, content in encode_column("name", names).items():
        (bad / "val" / key).write_bytes(content)
    for command, code in (("info", 0), ("verify", 1)):
        result = program(command, bad, stdout=subprocess.PIPE)
        printed = (result.stdout + result.stderr).decode()
        assert result.returncode == code, printed
        assert all(line.isprintable() for line in printed.split("\n")), printed
        assert "\\x1b]0;title\\x07\\nall is well" in printed
        assert "\nall is well" not in printed


def test_paths_that_are_not_unicode_are_printed(raw, tmp_path):
    out = os.fsdecode(os.fsencode(tmp_path) + b"/o\xff.zarr")
    for words in (["convert", "es-imagenet", raw, out], ["verify", out], ["info", out]):
        result = program(*words, stdout=subprocess.PIPE)
        assert result.returncode == 0, result.stderr
        assert b"o\\udcff.zarr: " in result.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_an_error(store, monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    for words in (["info", store], ["info", "--json", store], ["--help"], ["verify", store]):
        with open("/dev/full", "w") as full:  # noqa: PTH123
            result = program(*words, stdout=full)
        assert result.returncode == 1
        assert result.stderr.decode() == (
            "eventdata: can't write to the standard output: No space left on device\n"
        )


def test_import_and_help_load_neither_torch_nor_numba():
    """These imports would make `eventdata --help` slow; seconds would depend on the machine."""
    code = (
        "import sys, eventdata, eventdata.cli\n"
        "try: eventdata.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "bad = {'torch', 'numba', 'zarr', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_names_of_the_package_are_not_hidden_by_modules():
    """A module named like a function would replace it once it is imported."""
    import eventdata
    import eventdata.conversion
    import eventdata.show
    import eventdata.verification

    for name in eventdata.__all__:
        assert callable(getattr(eventdata, name)), name
    with pytest.raises(AttributeError):
        eventdata.nonsense  # noqa: B018
