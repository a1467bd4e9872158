"""The layout of a store on disk: Zarr v3, core data types and codecs only.

    OUT.zarr/                 group; attributes {"eventdata": {...} (`Header`), "eventdata_sha256"}
      SPLIT/                  group, one a split
        frames | images       the samples, sharded (`SampleFormat`)
        label event_count name valid        one value a sample
        input_size input_time               size (bytes) and time of change (ns) of each raw file,
                                            which show whether the input has changed since
      skipped.json            samples that were skipped, with the reasons; only if there are any
      .work/                  only during a conversion, or after an interrupted one

Shapes: N samples, T steps, K planes, P polarities or C colour channels, H rows, W columns. A plane
is a time byte of binary frames, a step of other frames, or an image. In memory a sample is
(K, H, W, P), the order in which it is compressed: polarity comes last.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eventdata.errors import StoreError
from eventdata.kernels.representations import REPRESENTATIONS

FORMAT_VERSION = 2  # 1 has no attributes of frames, and only binary frames, counts and images
ZSTD_LEVEL = 1
HEADER_KEY = "zarr.json"
SKIPPED_KEY = "skipped.json"
CONVERT_AGAIN = "convert again with --overwrite"  # the remedy for damage
HEADER_DIGEST = "eventdata_sha256"  # outside the header, whose keys older versions check
METADATA_CHUNK = 65_536  # samples in a chunk of the arrays with one value a sample
MAX_SHARD_SIZE = 65_536  # samples; a worker holds one or two shards in memory
MAX_SHARD_CHUNKS = 1 << 22  # the index has 16 bytes for each and is read first
MAX_DEPTH = 64  # levels of lists and objects in JSON
MAX_SAMPLE_BYTES = 1 << 29  # in memory before compression

COMPRESSION = (
    {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
    {"name": "crc32c"},
)
IMAGE = "image"  # the samples of a store without events
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class SampleFormat:
    """The shape and type of one sample.

    binary: K = ceil(T/8) bytes a pixel, step 8k in the highest bit of byte k, pad bits zero.
    image: K = 1, uint8, C colour channels. Other representations: K = T values a pixel, of a type
    that `kernels.representations` lists.
    """

    representation: str
    steps: int | None
    channels: int
    height: int
    width: int
    dtype: str = "uint8"

    def __post_init__(self) -> None:
        if (self.steps is None) != (self.representation == IMAGE):
            raise StoreError(f"{self.representation} frames can't have steps={self.steps}")

    @property
    def is_events(self) -> bool:
        """Whether samples are frames of events, not images."""
        return self.representation != IMAGE

    @property
    def is_packed(self) -> bool:
        """Whether a byte holds eight steps."""
        return self.is_events and REPRESENTATIONS[self.representation].steps_per_plane == 8

    @property
    def planes(self) -> int:
        """The number of chunks of a sample, K."""
        if self.steps is None:
            return 1
        return REPRESENTATIONS[self.representation].planes(self.steps)

    @property
    def array(self) -> str:
        """The name of the array that holds the samples."""
        return "frames" if self.is_events else "images"

    @property
    def polarity(self) -> list[str]:
        """The meaning of the channels of event frames; images have none."""
        if not self.is_events:
            return []
        return REPRESENTATIONS[self.representation].channels(self.channels)

    @property
    def dimension_names(self) -> list[str]:
        """The names of the dimensions of the array on disk."""
        if not self.is_events:
            return ["sample", "channel", "y", "x"]
        return ["sample", "time_byte" if self.is_packed else "time", "polarity", "y", "x"]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The types that samples of this representation may have."""
        return REPRESENTATIONS[self.representation].dtypes if self.is_events else ("uint8",)

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the array on disk, which say how to read it without this package."""
        if not self.is_events:
            return {}
        unpacking = {
            "packing": "bit k of byte b is step 8b+k, the first step in the highest bit",
            "unpack": "numpy.unpackbits(frames[i], axis=0, count=steps)",
        }
        return {
            "representation": self.representation,
            "value": REPRESENTATIONS[self.representation].value,
            "steps": self.steps,
            "channels": self.polarity,
            "shape": list(self.dense_shape),
            "axes": ["step", "polarity", "y", "x"],
            **(unpacking if self.is_packed else {"unpack": "frames[i]"}),
        }

    @property
    def packed_shape(self) -> tuple[int, int, int, int]:
        """The shape of a sample in memory before compression: (K, H, W, P)."""
        return (self.planes, self.height, self.width, self.channels)

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """The shape of a sample for networks: (T, P, H, W), or (C, H, W) for images."""
        shape = (self.channels, self.height, self.width)
        return shape if self.steps is None else (self.steps, *shape)

    @property
    def array_shape(self) -> tuple[int, ...]:
        """The shape of a sample on disk: (K, P, H, W), or (C, H, W) for images."""
        shape = self.dense_shape
        return shape if self.steps is None else (self.planes, *shape[1:])

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """The shape of an inner chunk, one plane of one sample: (1, 1, P, H, W) or (1, C, H, W)."""
        *leading, channels, height, width = self.array_shape
        return (1, *(1 for _ in leading), channels, height, width)

    @property
    def chunk_bytes(self) -> int:
        """The bytes of an inner chunk before compression."""
        return self.height * self.width * self.channels * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class Header:
    """The ``eventdata`` attribute of the root group."""

    dataset: str
    representation: str
    steps: int | None
    polarity: Sequence[str]
    classes: Sequence[str]
    parameters: Parameters
    parameters_sha256: str
    complete: bool
    version: int = FORMAT_VERSION

    @property
    def split_names(self) -> list[str]:
        """The names of the splits, each a group."""
        return list(self.parameters.get("split_names", []))

    def class_name(self, label: int) -> str:
        """Return the name of a label's class; damaged stores may have labels without one."""
        return self.classes[label] if 0 <= label < len(self.classes) else f"label {label}"

    def document(self) -> bytes:
        """Return the root group's ``zarr.json``, with a digest of all except ``complete``."""
        digest = parameters_digest({**vars(self), "complete": None})
        return group_document({"eventdata": vars(self), HEADER_DIGEST: digest})


def parameters_digest(parameters: Parameters) -> str:
    """Return the SHA-256 of the parameters as JSON with sorted keys and no spaces."""
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def parse_header(document: bytes, where: str) -> Header:
    """Parse the root group's ``zarr.json``; raise StoreError if it is not a sound header."""
    try:
        values = parse_json(document)["attributes"]["eventdata"]
        version = whole_number(values["version"], least=1)
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            f"{where}: not an eventdata store: its zarr.json has no readable 'eventdata' "
            "attributes; pass a folder that `eventdata convert` wrote"
        ) from None
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{where}: the store has format version {version}, this eventdata reads up to "
            f"{FORMAT_VERSION}; upgrade eventdata"
        )
    try:
        header = Header(**values)
        sound = (
            header.representation in (*REPRESENTATIONS, IMAGE)
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
        raise StoreError(
            f"{where}: the 'eventdata' attributes in zarr.json are damaged; {CONVERT_AGAIN}"
        )
    return header


def _is_plain(name: object) -> bool:
    """Return whether it can name a split's folder, which is inside the store."""
    return (
        isinstance(name, str)
        and 0 < len(name) < 200
        and name.isprintable()
        and name[0] != "."
        and name not in (HEADER_KEY, SKIPPED_KEY)
        and not set(name) & set("/\\")
    )


def parse_json(document: bytes) -> Any:
    """Return a JSON document's value; ValueError if it is not JSON or nested dangerously deep."""
    try:
        value = json.loads(document)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        values = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for inner in values for one in inner if isinstance(one, (dict, list))]
        if not level:
            return value
    raise ValueError("nested too deeply")


def whole_number(value: Any, *, least: int) -> int:
    """Return a whole number of JSON up to 2**53, which all readers agree on; ValueError otherwise.

    8.0, true and a text could pass for one and are refused.
    """
    if type(value) is not int or not least <= value <= 2**53:
        raise ValueError(f"{value!r:.40} is not a whole number of at least {least}")
    return value


def group_document(attributes: Mapping[str, Any] | None = None) -> bytes:
    """Return a group's ``zarr.json``."""
    document = {"attributes": attributes or {}, "zarr_format": 3, "node_type": "group"}
    return json.dumps(document, indent=2).encode()


def array_document(
    shape: list[int],
    chunk: list[int],
    dtype: str,
    codecs: list[Any],
    names: list[str],
    attributes: Mapping[str, Any] | None = None,
) -> bytes:
    """Return an array's ``zarr.json``, with its keys in the order that zarr-python writes."""
    document = {
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": {"string": "", "bool": False, "float16": 0.0}.get(dtype, 0),
        "codecs": codecs,
        "attributes": attributes or {},
        "dimension_names": names,
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    return json.dumps(document, indent=2).encode()


def value_codecs(dtype: str) -> list[dict[str, Any]]:
    """Return the codecs from numbers to compressed bytes with a checksum."""
    little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    return [little if np.dtype(dtype).itemsize > 1 else {"name": "bytes"}, *COMPRESSION]


def same_document(found: Any, expected: bytes) -> bool:
    """Return whether a parsed ``zarr.json`` has every value of the expected one."""
    return all(found.get(key) == value for key, value in json.loads(expected).items())


def sample_array_document(sample: SampleFormat, count: int, shard_size: int) -> bytes:
    """Return the ``zarr.json`` of an array of ``count`` samples in shards of ``shard_size``."""
    last = len(sample.chunk_shape) - 1
    channel_last = [*range(last - 2), last - 1, last, last - 2]
    transpose = {"name": "transpose", "configuration": {"order": channel_last}}
    sharding = {
        "chunk_shape": sample.chunk_shape,
        "codecs": [transpose, *value_codecs(sample.dtype)],
        "index_codecs": [value_codecs("uint64")[0], {"name": "crc32c"}],
        "index_location": "end",
    }
    return array_document(
        [count, *sample.array_shape],
        [shard_size, *sample.array_shape],
        sample.dtype,
        [{"name": "sharding_indexed", "configuration": sharding}],
        sample.dimension_names,
        sample.attributes,
    )


def older_document(document: bytes) -> bytes:
    """Return the ``zarr.json`` of an array as format version 1 has it, without attributes."""
    return json.dumps({**json.loads(document), "attributes": {}}, indent=2).encode()


def parse_sample_array(
    document: bytes, header: Header, where: str
) -> tuple[SampleFormat, int, int]:
    """Return the sample format, number of samples and shard size from an array's ``zarr.json``.

    Raises:
        StoreError: `sample_array_document` writes another, or samples or shards are too large.
    """
    try:
        found = parse_json(document)
        count = whole_number(found["shape"][0], least=0)
        shard_size = whole_number(found["chunk_grid"]["configuration"]["chunk_shape"][0], least=1)
        lengths = [whole_number(length, least=1) for length in found["shape"][-3:]]
        facts: dict[str, Any] = {"representation": header.representation, "steps": header.steps}
        facts |= zip(("channels", "height", "width"), lengths, strict=True)
        sample = SampleFormat(**facts, dtype=found["data_type"])
        expected = sample_array_document(sample, count, shard_size)
        if header.version == 1 and not found["attributes"]:
            expected = older_document(expected)
        sound = sample.dtype in sample.dtypes and same_document(found, expected)
    except (ValueError, KeyError, TypeError, IndexError):
        sound = False
    if not sound:
        raise StoreError(
            f"{where}: the array's zarr.json is damaged or not of this layout; {CONVERT_AGAIN}"
        )
    size = sample.planes * sample.chunk_bytes
    if size > MAX_SAMPLE_BYTES:
        raise StoreError(
            f"{where}: samples of {size:,} bytes; at most {MAX_SAMPLE_BYTES:,} are valid"
        )
    if shard_size > largest_shard(sample):
        raise StoreError(
            f"{where}: shards of {shard_size:,} samples; at most {largest_shard(sample):,} of "
            "this size are valid"
        )
    return sample, count, shard_size


def largest_shard(sample: SampleFormat) -> int:
    """Return how many samples a shard may have."""
    return min(MAX_SHARD_SIZE, max(1, MAX_SHARD_CHUNKS // sample.planes))


def shard_key(split: str, sample: SampleFormat, shard: int) -> str:
    """Return the key of a shard: SPLIT/frames/c/SHARD/0/0/0/0."""
    zeros = "/".join("0" * (len(sample.chunk_shape) - 1))
    return f"{split}/{sample.array}/c/{shard}/{zeros}"


def shard_count(samples: int, shard_size: int) -> int:
    """Return how many shards hold this many samples."""
    return -(-samples // shard_size)
