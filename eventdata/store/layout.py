"""What a store looks like on disk: Zarr v3, core data types and codecs only.

    OUT.zarr/                 group; attributes {"eventdata": {...} (`Header`), "eventdata_sha256"}
      SPLIT/                  group, one a split
        frames | images       the samples, sharded (`SampleFormat`)
        label event_count name valid        one value a sample
        input_size input_time               size (bytes) and time of change (ns) of each raw file:
                                            by these a later call knows that its input is the same
      skipped.json            only where samples were skipped: which, and why
      .work/                  only while a conversion runs or after it was interrupted

N samples, T steps, K planes (time bytes, steps or 1), P polarities or colour channels, H rows,
W columns. In memory a sample is (K, H, W, P), polarity last: the order in which it is compressed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eventdata.errors import StoreError

FORMAT_VERSION = 1
ZSTD_LEVEL = 1
HEADER_KEY = "zarr.json"
SKIPPED_KEY = "skipped.json"
HEADER_DIGEST = "eventdata_sha256"  # beside the header, which older versions read key by key
METADATA_CHUNK = 65_536  # samples a chunk of the one-value-a-sample arrays
MAX_SHARD_SIZE = 65_536  # samples; a worker holds a shard in memory, or two
MAX_SHARD_CHUNKS = 1 << 22  # their index is read before any of them, 16 bytes each
MAX_DEPTH = 64  # of lists and objects in JSON
MAX_SAMPLE_BYTES = 1 << 29  # in memory before compression

Representation = Literal["binary", "count", "image"]
Parameters = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SampleFormat:
    """Shape and type of one sample.

    ``binary``: K = ceil(T/8) bytes a pixel, step 8k in the highest bit of byte k, pad bits zero.
    ``count``: K = T counts a pixel, uint8 or uint16. ``image``: K = 1, uint8, P colour channels.
    """

    representation: Representation
    steps: int | None
    channels: int
    height: int
    width: int
    dtype: str = "uint8"

    def __post_init__(self) -> None:
        if (self.steps is None) != (self.representation == "image"):
            raise StoreError(
                f"a store of {self.representation} frames can't have steps={self.steps}"
            )

    @property
    def planes(self) -> int:
        """K: how many chunks a sample has."""
        if self.steps is None:
            return 1
        return -(-self.steps // 8) if self.representation == "binary" else self.steps

    @property
    def array(self) -> str:
        """Name of the array that holds the samples."""
        return "images" if self.representation == "image" else "frames"

    @property
    def packed_shape(self) -> tuple[int, int, int, int]:
        """Shape (K, H, W, P) of a sample in memory before compression."""
        return (self.planes, self.height, self.width, self.channels)

    @property
    def polarity(self) -> list[str]:
        """What the channels of event frames are; images have none."""
        if self.representation == "image":
            return []
        return ["positive", "negative"] if self.channels == 2 else ["merged"]

    @property
    def dimension_names(self) -> list[str]:
        """Names of the dimensions of the array on disk."""
        if self.representation == "image":
            return ["sample", "channel", "y", "x"]
        time = "time_byte" if self.representation == "binary" else "time"
        return ["sample", time, "polarity", "y", "x"]

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of one sample on disk: (K, P, H, W), or (C, H, W) for images."""
        shape = (self.channels, self.height, self.width)
        return shape if self.representation == "image" else (self.planes, *shape)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of the inner chunk: one plane of one sample."""
        plane = (self.channels, self.height, self.width)
        return (1, *plane) if self.representation == "image" else (1, 1, *plane)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one inner chunk before compression."""
        return self.height * self.width * self.channels * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class Header:
    """The ``eventdata`` attribute of the root group."""

    dataset: str
    representation: Representation
    steps: int | None
    polarity: Sequence[str]
    classes: Sequence[str]
    parameters: Parameters
    parameters_sha256: str
    complete: bool
    version: int = FORMAT_VERSION

    @property
    def split_names(self) -> list[str]:
        """Names of the splits, each a group."""
        return list(self.parameters.get("split_names", []))

    def class_name(self, label: int) -> str:
        """The name of a label's class; a damaged store may have labels without one."""
        return self.classes[label] if 0 <= label < len(self.classes) else f"label {label}"

    def document(self) -> bytes:
        """The root group's ``zarr.json``, with a digest of all but ``complete``."""
        digest = parameters_digest({**vars(self), "complete": None})
        return group_document({"eventdata": vars(self), HEADER_DIGEST: digest})


def parameters_digest(parameters: Parameters) -> str:
    """SHA-256 of the parameters as JSON with sorted keys and no spaces."""
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def parse_header(document: bytes, where: str) -> Header:
    """Read the root group's ``zarr.json``; StoreError where it is not one of ours."""
    try:
        values = parse_json(document)["attributes"]["eventdata"]
        version = whole_number(values["version"], least=1)
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            f"{where}: not a store of eventdata (its zarr.json has no readable 'eventdata' "
            "attributes); give the folder that `eventdata convert` wrote"
        ) from None
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{where}: the store has format version {version}, this eventdata reads up to "
            f"{FORMAT_VERSION}; upgrade eventdata"
        )
    try:
        header = Header(**values)
        sound = (
            header.representation in ("binary", "count", "image")
            and (header.steps is None or bool(whole_number(header.steps, least=1)))
            and isinstance(header.complete, bool)
            and isinstance(header.parameters, dict)
            and all(isinstance(text, str) for text in (header.dataset, header.parameters_sha256))
            and all(isinstance(names, list) for names in (header.classes, header.polarity))
            and all(isinstance(name, str) for name in (*header.classes, *header.polarity))
            and len(set(header.split_names)) == len(header.split_names)
            and all(_is_plain(name) for name in header.split_names)
        )
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise StoreError(f"{where}: the 'eventdata' attributes in zarr.json are damaged")
    return header


def _is_plain(name: object) -> bool:
    """Whether it names a folder of the store and nothing outside it, nor the store's own files."""
    return (
        isinstance(name, str)
        and 0 < len(name) < 200
        and name.isprintable()
        and name[0] != "."
        and name not in (HEADER_KEY, SKIPPED_KEY)
        and not set(name) & set("/\\")
    )


def parse_json(document: bytes) -> Any:
    """A JSON document's value; ValueError for all that is none, or is nested too deep.

    Deep is what nobody writes and code that copies or prints it would fail at.
    """
    try:
        value = json.loads(document)
    except RecursionError:
        raise ValueError("nested too deep") from None
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        values = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for inner in values for one in inner if isinstance(one, (dict, list))]
        if not level:
            return value
    raise ValueError("nested too deep")


def whole_number(value: Any, *, least: int) -> int:
    """A whole number of JSON, in which 8.0, true and a text could pass for one; ValueError.

    At most 2**53, up to which all readers of JSON agree.
    """
    if type(value) is not int or not least <= value <= 2**53:
        raise ValueError(f"{value!r:.40} is no whole number of {least} or more")
    return value


def group_document(attributes: Mapping[str, Any] | None = None) -> bytes:
    """A group's ``zarr.json``."""
    document = {"attributes": attributes or {}, "zarr_format": 3, "node_type": "group"}
    return json.dumps(document, indent=2).encode()


def sample_array_document(sample: SampleFormat, count: int, shard_size: int) -> bytes:
    """The ``zarr.json`` of the array of samples: ``count`` of them, ``shard_size`` a shard."""
    return json.dumps(_sample_array(sample, count, shard_size), indent=2).encode()


def _sample_array(sample: SampleFormat, count: int, shard_size: int) -> dict[str, Any]:
    last = len(sample.chunk_shape) - 1
    channel_last = [*range(last - 2), last - 1, last, last - 2]
    itemsize = np.dtype(sample.dtype).itemsize
    to_bytes: dict[str, Any] = {"name": "bytes"}
    if itemsize > 1:
        to_bytes["configuration"] = {"endian": "little"}
    sharding = {
        "chunk_shape": list(sample.chunk_shape),
        "codecs": [
            {"name": "transpose", "configuration": {"order": channel_last}},
            to_bytes,
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
            {"name": "crc32c"},
        ],
        "index_codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
        "index_location": "end",
    }
    return {
        "shape": [count, *sample.array_shape],
        "data_type": sample.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [shard_size, *sample.array_shape]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "dimension_names": sample.dimension_names,
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def parse_sample_array(
    document: bytes, header: Header, where: str
) -> tuple[SampleFormat, int, int]:
    """Sample format, number of samples and shard size from an array's ``zarr.json``.

    StoreError unless the document says what `sample_array_document` would: a reader of our own
    must not guess at codecs it does not know.
    """
    damaged = StoreError(f"{where}: the array's zarr.json is damaged or not of this layout")
    try:
        found = parse_json(document)
        count = whole_number(found["shape"][0], least=0)
        shard_size = whole_number(found["chunk_grid"]["configuration"]["chunk_shape"][0], least=1)
        channels, height, width = (whole_number(side, least=1) for side in found["shape"][-3:])
        if found["data_type"] not in ("uint8", "uint16"):
            raise damaged
        sample = SampleFormat(
            representation=header.representation,
            steps=header.steps,
            channels=channels,
            height=height,
            width=width,
            dtype=found["data_type"],
        )
        expected = _sample_array(sample, count, shard_size)
    except (ValueError, KeyError, TypeError, IndexError):
        raise damaged from None
    if any(found.get(key) != value for key, value in expected.items()):
        raise damaged
    if sample.planes * sample.chunk_bytes > MAX_SAMPLE_BYTES:
        raise StoreError(
            f"{where}: samples of {sample.planes * sample.chunk_bytes:,} bytes, more than the "
            f"{MAX_SAMPLE_BYTES:,} that any store has"
        )
    if shard_size > largest_shard(sample):
        raise StoreError(
            f"{where}: shards of {shard_size:,} samples, more than the {largest_shard(sample):,} "
            "that any store of such samples has"
        )
    return sample, count, shard_size


def largest_shard(sample: SampleFormat) -> int:
    """How many samples a shard may have."""
    return min(MAX_SHARD_SIZE, max(1, MAX_SHARD_CHUNKS // sample.planes))


def shard_key(split: str, sample: SampleFormat, shard: int) -> str:
    """Where a shard lies: SPLIT/frames/c/SHARD/0/0/0/0."""
    zeros = "/".join("0" * (len(sample.chunk_shape) - 1))
    return f"{split}/{sample.array}/c/{shard}/{zeros}"


def shard_count(samples: int, shard_size: int) -> int:
    """How many shards hold so many samples."""
    return -(-samples // shard_size)
