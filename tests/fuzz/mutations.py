"""Damage a file: replace its bits, numbers, lines and values. Pure functions of a Random.

A case depends only on the Random, so that it can be made again.
"""

import contextlib
import json
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

from tests.fuzz.containers import container_of

MAX_BYTES = 1 << 23
"""Maximum length of a damaged file: memory is measured against the bytes of a case."""
TEXT_SUFFIXES = (".txt", ".toml", ".csv", ".json")
WHOLE_NUMBERS = (
    *(0, 1, -1, 2, 7, 8, 127, 128, 255, 256, 2**15 - 1, 2**15, 2**16 - 1, 2**16),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 10**12, 2**63 - 1, 2**63, 2**64 - 1),
)
TOKENS = (
    b"",
    b"..",
    b"../../../escaped",
    b"/etc/passwd",
    b"/dev/zero",
    b"C:\\escaped",
    b"a/./b/../../c",
    b"~root",
    b"-",
    b"--1",
    b"-0",
    b"+1",
    b"0x10",
    b"1_000",
    b"1e999",
    b"-1e999",
    b"1e-999",
    b"nan",
    b"NaN",
    b"inf",
    b"-Infinity",
    b"None",
    b"null",
    b"true",
    b"True",
    b"[]",
    b"{}",
    b"()",
    b'""',
    b"'",
    b'"',
    b"\\",
    b"\0",
    b"\r",
    b"\x1b[2J\x07",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",  # half of a surrogate pair
    "\u0661\u0662".encode(),  # digits outside ASCII
    "\u2028".encode(),
    "e\u0301\u202e".encode(),
    b"%s%n",
    b"{0.__class__}",
    b"__import__('os').system('touch escaped')",
    b"9" * 40,
    b"9" * 5000,
    b"[" * 3000,
    b"{" * 3000,
    b"[" * 100_000,
    b"x" * 70_000,
    *(str(number).encode() for number in WHOLE_NUMBERS),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "..", "../../escaped", "/etc/passwd", "a\0b", "\ud800", "\x1b[2J"),
    *([], {}, [[]], [None], {"": None}, "8", "uint8", "O", "S99999999", "(1000000,)f8", "<U4"),
    *WHOLE_NUMBERS,
    *(10**30, -(2**63), 10**400, 0.5, 8.0, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), float("-inf"), "x" * 70_000, "9" * 5000, "@deep@"),
)
_DEEP = "[" * 100_000 + "]" * 100_000


def mutate(rng: Random, name: str, data: bytes, other: bytes = b"") -> bytes:
    """Return damaged bytes of the file ``name``, with pieces of the file ``other``."""
    damaged = data
    while damaged == data:  # some damage changes nothing
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            damaged = _mutate_once(rng, name, damaged, other)
    return damaged[:MAX_BYTES]


def _mutate_once(rng: Random, name: str, data: bytes, other: bytes) -> bytes:
    container = container_of(data)
    if container is not None and rng.random() < 0.7:
        # Damaged containers may not split any more, or their parts may not join.
        with contextlib.suppress(Exception):
            parts = container.split(data)
            if rng.random() < 0.1:
                rng.choice((_drop, _repeat, _rename))(rng, parts)
            at = rng.randrange(len(parts))
            inside, content = parts[at]
            parts[at] = inside, _mutate_once(rng, inside, content, other)
            return container.join(parts)
    if data[:1] in (b"{", b"[") and data[1:2] in b' \n"}]' and rng.random() < 0.6:
        return _damage_json(rng, data)
    if name.endswith(TEXT_SUFFIXES) and rng.random() < 0.8:
        return rng.choice((_damage_token, _damage_token, _damage_lines))(rng, data)
    return rng.choice(_BINARY)(rng, data, other)


Parts = list[tuple[str, bytes]]


def _drop(rng: Random, parts: Parts) -> None:
    del parts[rng.randrange(len(parts))]


def _repeat(rng: Random, parts: Parts) -> None:
    parts.insert(rng.randint(0, len(parts)), rng.choice(parts))


def _rename(rng: Random, parts: Parts) -> None:
    at = rng.randrange(len(parts))
    parts[at] = rng.choice(TOKENS)[:60].decode("latin-1") or "x", parts[at][1]


def _damage_json(rng: Random, data: bytes) -> bytes:
    """Replace a value of the document, or add, remove or rename a key."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data[: rng.randint(0, len(data))]
    places = list(_places(document))
    value = rng.choice(VALUES)
    if not places or rng.random() < 0.03:
        document = value
    else:
        holder, key = rng.choice(places)
        choice = rng.random()
        if choice < 0.75:
            holder[key] = value
        elif choice < 0.85:
            del holder[key]
        elif isinstance(holder, dict):
            holder[rng.choice(("", "x", "version", key + " "))] = holder.pop(key)
        else:
            holder[key:key] = [holder[key]] * rng.choice((1, 5, 1000))
    text = json.dumps(document)
    return text.replace('"@deep@"', _DEEP).encode("utf-8", "surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return (holder, key or index) of every value inside."""
    inside = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    return [(value, key) for key, _ in inside] + [
        place for _, inner in inside for place in _places(inner)
    ]


def _damage_token(rng: Random, data: bytes) -> bytes:
    """Replace one word or number by an awkward one."""
    words = list(re.finditer(rb"[^\s,=\[\]{}():]+", data))
    token = rng.choice(TOKENS)
    if not words:
        return data + token
    word = rng.choice(words)
    return data[: word.start()] + token + data[word.end() :]


def _damage_lines(rng: Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    choice = rng.randrange(6)
    if choice == 0:
        del lines[at]
    elif choice == 1:
        lines.insert(rng.randint(0, len(lines)), lines[at])
    elif choice == 2:
        lines.insert(at, rng.choice(TOKENS))
    elif choice == 3:
        lines[at] += b" " + rng.choice(TOKENS)
    elif choice == 4:
        lines[at] = lines[at][: rng.randint(0, len(lines[at]))]
    else:
        rng.shuffle(lines)
    return rng.choice((b"\n", b"\n", b"\r\n", b"\r")).join(lines)


def _place(rng: Random, data: bytes) -> int:
    """Draw a place in the bytes: at the head, at the end or anywhere, a third each."""
    near = min(len(data), 256)
    anywhere = rng.randint(0, len(data))
    return rng.choice((rng.randint(0, near), len(data) - rng.randint(0, near), anywhere))


def _flip_bits(rng: Random, data: bytes, _: bytes) -> bytes:
    changed = bytearray(data)
    for _number in range(rng.choice((1, 1, 1, 4, 32)) if data else 0):
        changed[min(_place(rng, data), len(data) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set_bytes(rng: Random, data: bytes, _: bytes) -> bytes:
    at = _place(rng, data)
    length = rng.choice((1, 1, 2, 4, 8, 64))
    return data[:at] + rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length + data[at + length :]


def _set_number(rng: Random, data: bytes, _: bytes) -> bytes:
    """Replace a length, count or offset by another number."""
    size, code = rng.choice(((2, "H"), (4, "I"), (4, "I"), (8, "Q")))
    number = rng.choice((*WHOLE_NUMBERS, len(data), len(data) + 1, rng.getrandbits(8 * size)))
    at = _place(rng, data)
    if rng.random() < 0.5:
        at -= at % size
    packed = struct.pack(rng.choice("<>") + code, number % (1 << 8 * size))
    return data[:at] + packed + data[at + size :]


def _truncate(rng: Random, data: bytes, _: bytes) -> bytes:
    return data[: _place(rng, data)]


def _cut_out(rng: Random, data: bytes, _: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 4, 16, 256, len(data) // 2)) :]


def _insert(rng: Random, data: bytes, _: bytes) -> bytes:
    at = _place(rng, data)
    return (
        data[:at] + rng.choice((rng.randbytes(rng.randint(1, 32)), rng.choice(TOKENS))) + data[at:]
    )


def _copy(rng: Random, data: bytes, _: bytes) -> bytes:
    """Copy a piece of the file to another place, once or several times."""
    start = _place(rng, data)
    piece = data[start : start + rng.choice((1, 8, 64, 1024))]
    at = _place(rng, data)
    return data[:at] + piece * rng.choice((1, 1, 2, 100)) + data[at + len(piece) :]


def _splice(rng: Random, data: bytes, other: bytes) -> bytes:
    """Join the head of this file and the end of another."""
    return data[: _place(rng, data)] + other[_place(rng, other) :]


_BINARY: tuple[Callable[[Random, bytes, bytes], bytes], ...] = (
    *(_flip_bits, _flip_bits, _set_bytes, _set_number, _set_number, _set_number),
    *(_truncate, _cut_out, _insert, _copy, _splice),
)
