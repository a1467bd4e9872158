"""Lanes: 16 neurons as one value of a Numba kernel, which stays in registers from step to step.

Numba compiles loops over arrays to vectors, but a loop over neurons within a loop over steps keeps
the membranes in memory. Lanes turn the loops around, and can be stored past the cache, which no
loop over an array is compiled to. LLVM splits them where registers are shorter.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
BYTES = 4 * LANES
"""Bytes of lanes in memory: one line of the cache."""

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INDEX = ir.IntType(32)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__("Lanes")


@register_model(_Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: _Lanes) -> None:
        super().__init__(manager, kind, _VECTOR)  # type: ignore[no-untyped-call]


_lanes = _Lanes()


def _compiled(rule: Callable[..., Any]) -> Any:
    """Return a function that kernels can call, from its rule for types and code."""
    return intrinsic(rule)


def _define(symbol: Callable[[Any, Any], Any], instruction: str) -> None:
    """Let a Python operator on lanes be an instruction of LLVM."""

    @_compiled
    def compute(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args)

        return _lanes(_lanes, _lanes), generate

    @overload(symbol)
    def choose(a, b):  # type: ignore[no-untyped-def]  # Numba compares it with the lambda
        return (lambda a, b: compute(a, b)) if a == b == _lanes else None


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")


@_compiled
def where_above(typing: Any, a: Any, b: Any, then: Any, otherwise: Any) -> Any:
    """Return `then` in the lanes where a > b, else `otherwise`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b, then, otherwise = args
        return builder.select(builder.fcmp_ordered(">", a, b), then, otherwise)

    return _lanes(_lanes, _lanes, _lanes, _lanes), generate


@_compiled
def everywhere(typing: Any, value: Any) -> Any:
    """Return lanes that all have a value, a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nothing = _VECTOR(ir.Undefined)
        single = builder.insert_element(nothing, args[0], _INDEX(0))
        return builder.shuffle_vector(single, nothing, ir.VectorType(_INDEX, LANES)(None))

    return _lanes(types.float32), generate


@_compiled
def load(typing: Any, address: Any) -> Any:
    """Return the lanes at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _VECTOR.as_pointer()), align=4)

    return _lanes(types.intp), generate


def _store(align: int, past_cache: bool) -> Any:
    def store(typing: Any, value: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.inttoptr(args[1], _VECTOR.as_pointer())
            stored = builder.store(args[0], place, align=align)
            if past_cache:
                mark = builder.module.add_metadata([ir.IntType(32)(1)])
                stored.set_metadata("nontemporal", mark)
            return context.get_dummy_value()

        return types.void(_lanes, types.intp), generate

    return _compiled(store)


store = _store(4, past_cache=False)
"""Store lanes at an address."""
stream = _store(BYTES, past_cache=True)
"""Store lanes at an address, a multiple of BYTES, past the cache: an ordinary store first reads the
memory that it overwrites."""
