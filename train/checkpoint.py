"""What is checked of a torch file before torch reads it, which bounds neither size nor time.

With weights_only=True torch runs nothing of the file's, but calls what it asks for of a list on
which are bytearray, all storages and all tensors: 35 bytes of a pickle become gigabytes. So the
pickle is gone through here first, with nothing behind its names (`_Rehearsal`).
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
"""Characters of a name in the file. torch seeks in its messages, names among them, by patterns that
take time with the square of the length: 100 seconds of 70,000 characters."""
_LEGACY_PICKLES = 5  # a file of before torch 1.6 begins with so many, then come the numbers
_INSTRUCTIONS = {
    *("APPEND", "APPENDS", "BINFLOAT", "BINGET", "BININT", "BININT1", "BININT2", "BINPERSID"),
    *("BINPUT", "BINUNICODE", "BUILD", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "GLOBAL"),
    *("LONG1", "LONG_BINGET", "LONG_BINPUT", "MARK", "NEWFALSE", "NEWTRUE", "NONE", "PROTO"),
    *("REDUCE", "SETITEM", "SETITEMS", "SHORT_BINSTRING", "STOP"),
    *("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
}
_STORAGES = {  # bytes a number
    **{"DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2},
    **{"LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1},
    **{"BoolStorage": 1, "UntypedStorage": 1, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16},
    **{"QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4},
}
_MAX_DIMENSIONS = 64
_ODD_TENSORS = {
    "_rebuild_meta_tensor_no_storage": "has no values (it is of the device meta)",
    "_rebuild_nested_tensor": "is nested",
    "_rebuild_sparse_tensor": "is sparse",
    "_rebuild_qtensor": "is quantized",
    "_rebuild_parameter_with_state": "has attributes of its own",
    "_rebuild_from_type_v2": "has attributes of its own",
}
_NEVER_CALLED = {  # what odd tensors name beside
    ("torch", "Tensor"),
    ("torch.nn.parameter", "Parameter"),
    *(("torch", f"per_{of}_affine") for of in ("tensor", "channel")),
}


def check_torch_file(path: Path) -> None:
    """InputError unless a file is stored without compression and asks for dense tensors alone.

    What is compressed could become of any size; torch's own files are not. Nothing of the file is
    called, and no more memory taken than its pickles are worth. OSError where it is no plain file
    that can be read; ValueError or a kind of zipfile's where it is none of torch.
    """
    size = check_plain(path).st_size
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # as torch tells the two kinds
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
    """InputError where zipfile and torch could find different directories in an archive."""
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
    """Bytes of the members, by their names below the archive's one folder."""
    members: dict[str, int] = {}
    for info in archive.infolist():
        name = info.filename.partition("/")[2].lower()  # as torch seeks them
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise InputError("it is compressed, which torch's files are not")
        if name in members:
            raise InputError("two members of its archive have one name")
        members[name] = info.file_size
    if sum(members.values()) > size:
        raise InputError("the members of its archive overlap")
    return members


def _check_pickle(file: IO[bytes], size: int, members: Mapping[str, int] | None) -> None:
    """InputError unless the pickle at which a file stands is one of texts, numbers and tensors."""
    start = file.tell()
    for code, value, _ in pickletools.genops(file):
        if isinstance(value, str | bytes) and len(value) > MAX_TEXT:
            raise InputError(f"it has a name of {len(value):,} characters")
        if code.name not in _INSTRUCTIONS:
            raise InputError(f"its pickle has the instruction {code.name}, which weights need not")
    length = file.tell() - start
    file.seek(start)
    rehearsal = _Rehearsal(file, length, size, members)
    found = rehearsal.load()
    if rehearsal.odd:
        state = found.get("state_dict", found) if isinstance(found, dict) else {}
        named = {id(value): key for key, value in state.items()} if isinstance(state, dict) else {}
        odd = next((one for one in rehearsal.odd if id(one) in named), rehearsal.odd[0])
        name = repr(named[id(odd)]) if id(odd) in named else "a tensor"
        raise InputError(f"{name} {odd.problem}: save dense numbers alone")


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


class _Dict(dict[Any, Any]):
    """A dict of simple keys: the hash of tuples in tuples can take for ever."""

    def __setitem__(self, key: Any, value: Any) -> None:
        _check_key(key)
        super().__setitem__(key, value)


def _check_key(key: Any) -> None:
    if not isinstance(key, str | bytes | int | float | None):
        raise InputError("a key in it is neither a text nor a number")


class _Rehearsal(pickle._Unpickler):
    """Reads a pickle as torch would, with placeholders for all that it asks for.

    The one in C keeps what it is to remember in a list, whose length a pickle can choose; this one
    in a dict.
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
        raise InputError(f"it asks for {module}.{name}, which weights need not")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, of, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(of, _Type) or not isinstance(key, str):
            raise InputError("it refers to something that is no storage of numbers")
        nbytes = _natural(count) * of.itemsize
        there = self.size if self.members is None else self.members.get(f"data/{key}".lower(), 0)
        self.storages[key] = max(nbytes, self.storages.get(key, 0))
        if nbytes > there or sum(self.storages.values()) > self.size:
            raise InputError(f"it declares {nbytes:,} bytes of numbers, more than are in it")
        return _Storage(nbytes, of.itemsize)

    def _copied(self, values: Any = (), *_: Any) -> Any:
        """Values that a call copies: all of them are in the file once, so may be copied once."""
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
        """InputError where a tensor reaches over its storage, which torch would then enlarge."""
        if not isinstance(storage, _Storage) or not _MAX_DIMENSIONS >= len(shape) == len(strides):
            raise InputError("a tensor in it is not of numbers in it")
        sides, steps = [*map(_natural, shape)], [*map(_natural, strides)]
        reach = sum((side - 1) * step for side, step in zip(sides, steps, strict=True))
        end = _natural(offset) + reach + 1 if all(sides) else 0
        if end * (itemsize or storage.itemsize) > storage.nbytes:
            raise InputError("a tensor in it is of more numbers than are in it")
        return _Tensor()

    def _tensor_of_type(self, *values: Any) -> _Tensor:
        if len(values) < 7 or not isinstance(values[6], _Type):
            raise InputError("a tensor in it is not of numbers in it")
        return self._tensor(*values[:4], itemsize=values[6].itemsize)

    def _odd(self, problem: str) -> _Tensor:
        self.odd.append(_Tensor(problem))
        return self.odd[-1]

    def _build(self) -> None:
        """What an OrderedDict keeps beside its values, as a state dict its versions."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        if not isinstance(self.stack[-1], _Dict):  # type: ignore[attr-defined]
            raise InputError("it sets attributes of what is no dict")
        self._copied(state)

    def _empty_dict(self) -> None:
        self.append(_Dict())  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: _build,
        pickle.EMPTY_DICT[0]: _empty_dict,
    }


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise InputError("a size in it is no whole number")
    return value
