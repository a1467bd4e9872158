"""Recordings from reported situations give the frames that independent decoders gave.

Each folder of ``reported/`` in the shared data stands for a situation that users of event-camera
tools have reported; its README describes them, and ``expected.json`` has the right frames.
"""

import hashlib
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import eventdata
from eventdata.cli import main

EXTRA = {"etram": "--outside drop"}  # what the command needs besides
# The words that the notes of a conversion must contain.
NOTES = {
    "etram": ("1 event", "off the sensor"),
    "killed": ("end is missing",),
    "stale": ("falls",),
    "float_us": ("microseconds",),
}
# Whether a row is right already; a row that turns right must be set to true.
ROWS = {
    "asldvs": True,
    "datv1": True,
    "davis240": True,
    "dsec": True,
    "etram": True,
    "float_us": True,
    "gesture": True,
    "killed": True,
    "mixed": True,
    "ncars": True,
    "nested_link": True,
    "rpgtxt": True,
    "stale": True,
    "v2e": True,
}


def with_link(folder: Path, tmp_path: Path) -> Path:
    """Return a folder with a copy of the situation, where day1 is a link to a folder.

    Tools that copy without links write a file with the link's target instead.
    """
    copy = Path(shutil.copytree(folder, tmp_path / "reported" / folder.name))
    day = copy / "input" / "c" / "day1"
    day.parent.chmod(0o755)
    shutil.rmtree(day) if day.is_dir() else day.unlink()
    day.symlink_to("../../elsewhere")
    return copy.parent


def sample_name(file: str) -> str:
    """Return the name of the sample of a file: its path in its split, or in the set of Tonic."""
    for folder in ("n-cars_train/", "n-cars_test/", "ASLDVS/"):
        file = file.removeprefix(folder)
    return file


@pytest.mark.parametrize("row", ROWS)
def test_reported_recording_gives_the_expected_frames(
    row: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ROWS[row]:
        pytest.xfail("not supported yet")
    folder = shared / "reported"
    if row == "nested_link":
        folder = with_link(folder / row, tmp_path)
    expected: dict[str, Any] = json.loads((shared / "reported" / "expected.json").read_text())[row]
    out = tmp_path / "out.zarr"
    command = f"{expected['command']} {EXTRA.get(row, '')}".replace("OUT.zarr", str(out))
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    for words in NOTES.get(row, ()):
        assert words in " ".join(result.output.split())
    store = eventdata.open_store(out)
    found = {}
    for split in store.splits:
        dataset = eventdata.FrameDataset(out, split=split)
        for index, (frames, label) in enumerate(dataset):
            dense = np.ascontiguousarray(frames.numpy(), np.uint8)
            found[split, dataset.classes[label], dataset.names[index]] = (
                int(store.splits[split].event_counts[index]),
                list(dense.shape),
                int(dense.sum()),
                hashlib.sha256(dense.tobytes()).hexdigest(),
            )
    assert found == {
        (one["split"], one["class"], sample_name(one["file"])): (
            one["set_cells"],
            one["shape"],
            one["set_cells"],
            one["sha256"],
        )
        for one in expected["samples"]
    }
