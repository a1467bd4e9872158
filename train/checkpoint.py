"""Checks of a torch file before torch reads it, because torch bounds neither size nor time.

With weights_only=True torch runs no code of the file, but it calls the functions on a list that the
file asks for, among them bytearray, all storages and all tensors: 35 bytes of a pickle can become
gigabytes. So the pickle is first read here with placeholders for all names (`_Rehearsal`).
"""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import torch

from eventdata.errors import InputError
from eventdata.files.local import check_plain

MAX_TEXT = 4096
"""Largest number of characters of a name in the file. torch searches its messages, which contain
names, with patterns that take quadratic time: 100 seconds for 70,000 characters."""
_LEGACY_PICKLES = 5  # at the start of a file older than torch 1.6; the numbers follow
_INSTRUCTIONS = {
    *("APPEND", "APPENDS", "BINFLOAT", "BINGET", "BININT", "BININT1", "BININT2", "BINPERSID"),
    *("BINPUT", "BINUNICODE", "BUILD", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "GLOBAL"),
    *("LONG1", "LONG_BINGET", "LONG_BINPUT", "MARK", "NEWFALSE", "NEWOBJ", "NEWTRUE", "NONE"),
    "PROTO",
    *("REDUCE", "SETITEM", "SETITEMS", "SHORT_BINSTRING", "STOP"),
    *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
}
_STORAGES = {  # bytes per number
    **{"DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2},
    **{"LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1},
    **{"BoolStorage": 1, "UntypedStorage": 1, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16},
    **{"QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4},
}
_MAX_DIMENSIONS = 64
_ODD_TENSORS = {
    "_rebuild_meta_tensor_no_storage": "has no values, because it is on the device meta",
    "_rebuild_nested_tensor": "is nested",
    "_rebuild_sparse_tensor": "is sparse",
    "_rebuild_qtensor": "is quantized",
    "_rebuild_parameter_with_state": "has attributes of its own",
    "_rebuild_from_type_v2": "has attributes of its own",
}
_NEVER_CALLED = {  # other names in the pickles of odd tensors
    ("torch", "Tensor"),
    ("torch.nn.parameter", "Parameter"),
    *(("torch", f"per_{of}_affine") for of in ("tensor", "channel")),
}


def check_torch_file(path: Path) -> None:
    """Check that a file is not compressed and asks only for dense tensors.

    A compressed file could expand to any size; torch's own files are not compressed. The check
    calls nothing that the file names and needs memory in proportion to the file's pickles.

    Raises:
        InputError: the check fails.
        OSError: the file is not a plain file or can't be read.
        ValueError, zipfile.BadZipFile: the file is not a torch file.
    """
    size = check_plain(path).st_size
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # the mark by which torch distinguishes the two kinds
            file.seek(0)
            for _ in range(_LEGACY_PICKLES):
                _check_pickle(file, size, None)
            return
        _check_end(file, size)
        with zipfile.ZipFile(file) as archive:
            members = _members(archive, size)
            for info in archive.infolist():
                if info.filename.lower().endswith(".pkl"):
                    _check_pickle(io.BytesIO(archive.read(info)), size, members)


def _check_end(file: IO[bytes], size: int) -> None:
    """Raise InputError if zipfile and torch could find different directories in an archive."""
    file.seek(max(0, size - 98))
    tail = file.read(98).rjust(98, b"\0")
    length, start = struct.unpack("<II", tail[-10:-2])
    sound = tail[-22:-18] == b"PK\x05\x06" and tail[-2:] == b"\0\0"
    end = size - 22
    if tail[-42:-38] == b"PK\x06\x07":  # with numbers of 64 bits
        end = size - 98
        length, start = struct.unpack("<QQ", tail[40:56])
        (place,) = struct.unpack("<Q", tail[-34:-26])
        sound = sound and tail[:4] == b"PK\x06\x06" and place == end
    if not sound or start + length != end:
        raise InputError("the end of its archive is not as torch writes it")


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, int]:
    """Return the bytes of each member, by the name below the archive's only folder."""
    members: dict[str, int] = {}
    for info in archive.infolist():
        name = info.filename.partition("/")[2].lower()  # as torch looks them up
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise InputError("it is compressed, unlike files that torch writes")
        if name in members:
            raise InputError("two members of its archive have the same name")
        members[name] = info.file_size
    if sum(members.values()) > size:
        raise InputError("the members of its archive overlap")
    return members


def _check_pickle(file: IO[bytes], size: int, members: Mapping[str, int] | None) -> None:
    """Raise InputError unless the pickle at this position has only texts, numbers and tensors."""
    start = file.tell()
    for code, value, _ in pickletools.genops(file):
        if isinstance(value, str | bytes) and len(value) > MAX_TEXT:
            raise InputError(f"it has a name of {len(value):,} characters")
        if code.name not in _INSTRUCTIONS:
            raise InputError(f"it has the instruction {code.name}, which weights don't need")
    length = file.tell() - start
    file.seek(start)
    rehearsal = _Rehearsal(file, length, size, members)
    found = rehearsal.load()
    if rehearsal.odd:
        state = found.get("state_dict", found) if isinstance(found, dict) else {}
        named = {id(value): key for key, value in state.items()} if isinstance(state, dict) else {}
        odd = next((one for one in rehearsal.odd if id(one) in named), rehearsal.odd[0])
        name = repr(named[id(odd)]) if id(odd) in named else "a tensor"
        raise InputError(f"{name} {odd.problem}. Save only dense numbers")


@dataclass(frozen=True)
class _Type:
    itemsize: int


@dataclass(frozen=True)
class _Storage:
    nbytes: int
    itemsize: int


@dataclass(frozen=True)
class _Tensor:
    problem: str = ""


class _Namespace:
    """The placeholder of an argparse.Namespace, in which training scripts save their options."""


class _Dict(dict[Any, Any]):
    """A dict of simple keys, because hashing nested tuples can take forever."""

    def __setitem__(self, key: Any, value: Any) -> None:
        _check_key(key)
        super().__setitem__(key, value)


def _check_key(key: Any) -> None:
    if not isinstance(key, str | bytes | int | float | None):
        raise InputError("a key in it is neither text nor a number")


class _Rehearsal(pickle._Unpickler):
    """An unpickler that reads as torch does, with placeholders for everything the file asks for.

    The unpickler in C keeps its memo in a list, whose length a pickle can choose; this one uses a
    dict.
    """

    def __init__(
        self, file: IO[bytes], length: int, size: int, members: Mapping[str, int] | None
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self.size, self.members = size, members
        self.to_copy = length
        self.storages: dict[str, int] = {}
        self.odd: list[_Tensor] = []
        self.known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): self._mapping,
            ("collections", "Counter"): self._mapping,
            ("argparse", "Namespace"): _Namespace,
            ("__builtin__", "set"): self._set,
            ("builtins", "set"): self._set,
            ("torch", "Size"): self._copied,
            ("torch", "device"): lambda *_: None,
            ("torch.serialization", "_get_layout"): lambda *_: None,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_of_type,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }

    def find_class(self, module: str, name: str, /) -> Any:
        if name in _ODD_TENSORS and module in ("torch._utils", "torch._tensor"):
            return lambda *_: self._odd(_ODD_TENSORS[name])
        if (module, name) in self.known:
            return self.known[module, name]
        if name in _STORAGES and module in ("torch", "torch.cuda", "torch.storage"):
            return _Type(_STORAGES[name])
        dtype = vars(torch).get(name) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return _Type(dtype.itemsize)
        if (module, name) in _NEVER_CALLED:
            return None
        raise InputError(f"it asks for {module}.{name}, which weights don't need")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, of, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(of, _Type) or not isinstance(key, str):
            raise InputError("it refers to an object that is not a storage of numbers")
        nbytes = _natural(count) * of.itemsize
        there = self.size if self.members is None else self.members.get(f"data/{key}".lower(), 0)
        self.storages[key] = max(nbytes, self.storages.get(key, 0))
        if nbytes > there or sum(self.storages.values()) > self.size:
            raise InputError(f"it declares {nbytes:,} bytes of numbers, more than it has")
        return _Storage(nbytes, of.itemsize)

    def _copied(self, values: Any = (), *_: Any) -> Any:
        """Return values that a call copies; each is in the file once and may be copied once."""
        self.to_copy -= len(values)
        if self.to_copy < 0:
            raise InputError("it copies the same values again and again")
        return values

    def _mapping(self, values: Any = ()) -> _Dict:
        copied = self._copied(values)
        made = _Dict()
        for key, value in copied.items() if isinstance(copied, dict) else copied:
            made[key] = value
        return made

    def _set(self, values: Any = ()) -> None:
        for value in self._copied(values):
            _check_key(value)

    def _tensor(
        self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any, itemsize: int = 0
    ) -> _Tensor:
        """Check that a tensor fits its storage, which torch would enlarge otherwise."""
        if not isinstance(storage, _Storage) or not _MAX_DIMENSIONS >= len(shape) == len(strides):
            raise InputError("a tensor in it does not refer to numbers in it")
        sides, steps = [*map(_natural, shape)], [*map(_natural, strides)]
        reach = sum((side - 1) * step for side, step in zip(sides, steps, strict=True))
        end = _natural(offset) + reach + 1 if all(sides) else 0
        if end * (itemsize or storage.itemsize) > storage.nbytes:
            raise InputError("a tensor in it has more numbers than its storage")
        return _Tensor()

    def _tensor_of_type(self, *values: Any) -> _Tensor:
        if len(values) < 7 or not isinstance(values[6], _Type):
            raise InputError("a tensor in it does not refer to numbers in it")
        return self._tensor(*values[:4], itemsize=values[6].itemsize)

    def _odd(self, problem: str) -> _Tensor:
        self.odd.append(_Tensor(problem))
        return self.odd[-1]

    def _build(self) -> None:
        """Read attributes: of an OrderedDict, such as a state dict's versions, or a Namespace."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        built = self.stack[-1]  # type: ignore[attr-defined]
        if not isinstance(built, _Dict | _Namespace):
            raise InputError("it sets attributes of an object that is not a dict")
        if isinstance(built, _Namespace) and not (
            isinstance(state, _Dict)
            # Otherwise a second BUILD would call a __setstate__ that the first one has set.
            and all(isinstance(key, str) and key.isidentifier() and key[0] != "_" for key in state)
        ):
            raise InputError("it sets attributes of a Namespace that are not options")
        self._copied(state)

    def _new_object(self) -> None:
        arguments = self.stack.pop()  # type: ignore[attr-defined]
        if self.stack.pop() is not _Namespace or arguments != ():  # type: ignore[attr-defined]
            raise InputError("it makes an object that weights don't need")
        self.append(_Namespace())  # type: ignore[attr-defined]

    def _empty_dict(self) -> None:
        self.append(_Dict())  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: _build,
        pickle.EMPTY_DICT[0]: _empty_dict,
        pickle.NEWOBJ[0]: _new_object,
    }


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise InputError("a size in it is not a whole number of at least 0")
    return value
