"""AEDAT files for the bench of formats, and the libraries that read them."""

import struct
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import numpy as np

from eventdata.events import Events
from tools.bench.arrays import Read, Write

PACKET = 10_000  # events


def _write_2(path: Path, events: Events) -> None:
    """Write AEDAT 2.0 of a DAVIS346."""
    x, y, p = (events[field].astype(np.int64) for field in "xyp")
    address = 345 - x << 12 | 259 - y << 22 | p << 11
    rows = np.stack([address, events["t"]], axis=1).astype(">u4")
    header = "#!AER-DAT2.0\r\n# Creation time: System.currentTimeMillis() 0\r\n"
    path.write_bytes(f"{header}# AEChip: x.Davis346B\r\n".encode() + rows.tobytes())


def _write_3(path: Path, events: Events) -> None:
    x, y, p = (events[field].astype(np.int64) for field in "xyp")
    rows = np.stack([x << 17 | y << 2 | p << 1 | 1, events["t"]], axis=1).astype("<u4")
    lines = ("#!AER-DAT3.1", "#Format: RAW", "#Source 1: DAVIS346", "#!END-HEADER", "")
    with path.open("wb") as file:
        file.write("\r\n".join(lines).encode())
        for start in range(0, len(rows), PACKET):
            part = rows[start : start + PACKET]
            numbers = (len(part), len(part), len(part))
            file.write(struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, *numbers) + part.tobytes())


def _write_4(path: Path, events: Events) -> None:
    dv = import_module("dv_processing")
    writer = dv.io.MonoCameraWriter(
        str(path), dv.io.MonoCameraWriter.EventOnlyConfig("x", (346, 260))
    )
    for start in range(0, len(events), PACKET):
        store = dv.EventStore()
        for x, y, t, p in events[start : start + PACKET].tolist():
            store.push_back(t, x, y, p)
        writer.writeEvents(store)


def _read_tonic(path: Path, name: str) -> int:
    return len(getattr(import_module("tonic.io"), name)(str(path))[-1])


def _read_aedat(path: Path) -> int:
    packets = import_module("aedat").Decoder(str(path))
    return len(np.concatenate([one["events"] for one in packets if "events" in one]))


def _read_dv(path: Path) -> int:
    recording = import_module("dv_processing").io.MonoCameraRecording(str(path))
    parts = []
    while (batch := recording.getNextEventBatch()) is not None:
        parts.append(batch.numpy())
    return len(np.concatenate(parts))


# By the name of the file: how it is written, and its peers. Tonic does not read AEDAT 3.1 headers
# as they are published.
CASES: Mapping[str, tuple[Write, Mapping[str, Read]]] = {
    "davis346-2.0.aedat": (_write_2, {"Tonic": lambda path: _read_tonic(path, "read_davis_346")}),
    "davis346-3.1.aedat": (_write_3, {}),
    "davis346.aedat4": (_write_4, {"aedat": _read_aedat, "dv-processing": _read_dv}),
}
