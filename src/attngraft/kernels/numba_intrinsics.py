"""What Numba lacks for the loops: typed raw pointers, bf16, tagged loads and stores, an atomic task counter.

The loops work on addresses, not on NumPy arrays: NumPy has no bf16, and LLVM gives up vectorising where it
would have to compare ten arrays for overlap at run time. Here the caller promises that outputs overlap no
input, and the loads and stores say so to LLVM.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

FP32 = types.CPointer(types.float32)

_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
INPUT = "input"
SCOPES = (INPUT, "total", "maximum", "ties", "squares")


class Arguments(types.Type):
    """A pointer to 64-bit integers, the only argument of a loop; its type says what kind of map x is.

    Args:
        dtype: "fp32" or "bf16", which is the upper half of an fp32.
        kind: "stored", or "by_row" or "by_lane" where x is recomputed (see `backend.Recomputed`).
    """

    def __init__(self, dtype: str, kind: str) -> None:
        self.map = types.CPointer(types.float32 if dtype == "fp32" else types.uint16)
        self.kind = kind
        super().__init__(f"Arguments({dtype}, {kind})")


register_model(Arguments)(models.OpaqueModel)


@intrinsic(prefer_literal=True)
def integers(_: Any, arguments: Any, first: Any, count: Any) -> Any:
    """`count` of the arguments as integers, from index `first` on; every loop calls this once."""
    return _unpack(arguments, first, count, types.int64)


@intrinsic(prefer_literal=True)
def lines(_: Any, arguments: Any, first: Any, count: Any) -> Any:
    """`count` of the arguments as pointers to fp32, from index `first` on."""
    return _unpack(arguments, first, count, FP32)


@intrinsic(prefer_literal=True)
def maps(_: Any, arguments: Any, first: Any, count: Any) -> Any:
    """`count` of the arguments as pointers to x's dtype, from index `first` on."""
    return _unpack(arguments, first, count, arguments.map)


def _unpack(arguments: Any, first: Any, count: Any, kind: Any) -> Any:
    result = types.UniTuple(kind, count.literal_value)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _prefer_wide_vectors(builder)
        base, start = builder.bitcast(values[0], _I64.as_pointer()), first.literal_value
        places = [builder.gep(base, [ir.Constant(_I64, start + index)]) for index in range(count.literal_value)]
        numbers = [builder.load(place) for place in places]
        if kind is not types.int64:
            numbers = [builder.inttoptr(number, context.get_value_type(kind)) for number in numbers]
        return context.make_tuple(builder, result, numbers)

    return result(arguments, first, count), codegen


@intrinsic
def next_number(_: Any, arguments: Any, index: Any) -> Any:
    """Take a number from the counter that the index-th argument is: every thread gets another one."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        counters = builder.bitcast(values[0], _I64.as_pointer())
        return builder.atomic_rmw("add", builder.gep(counters, [values[1]]), ir.Constant(_I64, 1), "monotonic")

    return types.int64(arguments, types.int64), codegen


@intrinsic
def fp32(_: Any, address: Any) -> Any:
    """An address as a pointer to fp32."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(FP32))

    return FP32(types.int64), codegen


@intrinsic
def load(_: Any, pointer: Any, index: Any) -> Any:
    """Element `index` of an input, as fp32."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = builder.load(builder.gep(values[0], [values[1]], inbounds=True))
        _tag(value, builder, INPUT)
        return _widen(builder, value) if pointer.dtype == types.uint16 else value

    return types.float32(pointer, types.int64), codegen


@intrinsic
def peek(_: Any, pointer: Any, index: Any) -> Any:
    """Element `index` of fp32 memory that is both written and read; nothing is promised about it."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.gep(values[0], [values[1]], inbounds=True))

    return types.float32(FP32, types.int64), codegen


@intrinsic
def poke(_: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Write element `index` of such memory."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], builder.gep(values[0], [values[1]], inbounds=True))
        return context.get_dummy_value()

    return types.void(FP32, types.int64, types.float32), codegen


@intrinsic
def recomputed(_: Any, pointer: Any, index: Any, slope: Any, offset: Any) -> Any:
    """Element `index` of an input times slope plus offset, rounded once, and again if the input is bf16."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = builder.load(builder.gep(values[0], [values[1]], inbounds=True))
        _tag(value, builder, INPUT)
        is_half = pointer.dtype == types.uint16
        value = builder.fma(_widen(builder, value) if is_half else value, values[2], values[3])
        return _widen(builder, _narrow(builder, value)) if is_half else value

    return types.float32(pointer, types.int64, types.float32, types.float32), codegen


def output(name: str) -> tuple[Any, Any]:
    """How a loop reads back and writes one of its outputs: `reload(pointer, index)`, `store(pointer, index, value)`.

    Outputs of different names overlap neither each other nor an input. Values are fp32; bf16 is written rounded
    to nearest even.
    """

    @intrinsic
    def reload(_: Any, pointer: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            value = builder.load(builder.gep(values[0], [values[1]], inbounds=True))
            _tag(value, builder, name)
            return value

        return types.float32(FP32, types.int64), codegen

    @intrinsic
    def store(_: Any, pointer: Any, index: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            place = builder.gep(values[0], [values[1]], inbounds=True)
            number = _narrow(builder, values[2]) if pointer.dtype == types.uint16 else values[2]
            _tag(builder.store(number, place), builder, name)
            return context.get_dummy_value()

        return types.void(pointer, types.int64, types.float32), codegen

    return reload, store


@intrinsic
def larger(_: Any, left: Any, right: Any) -> Any:
    """The larger of two numbers; which one where one is NaN is left open, and that lets LLVM use one instruction."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        flags = ("nnan", "nsz")
        is_larger = builder.fcmp_ordered(">", values[0], values[1], flags=flags)
        return builder.select(is_larger, values[0], values[1], flags=flags)

    return types.float32(types.float32, types.float32), codegen


@intrinsic
def power_of_two(_: Any, exponent: Any) -> Any:
    """2 to the power of a whole number from -126 to 128, where it is infinity; of NaN something."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits = builder.add(builder.fptosi(values[0], _I32), ir.Constant(_I32, 127))
        return builder.bitcast(builder.shl(bits, ir.Constant(_I32, 23)), _F32)

    return types.float32(types.float32), codegen


def _widen(builder: Any, half: Any) -> Any:
    return builder.bitcast(builder.shl(builder.zext(half, _I32), ir.Constant(_I32, 16)), _F32)


def _narrow(builder: Any, value: Any) -> Any:
    """Round to nearest even by adding to the bits that fall away; a NaN would overflow there and is set apart."""
    bits = builder.bitcast(value, _I32)
    odd = builder.and_(builder.lshr(bits, ir.Constant(_I32, 16)), ir.Constant(_I32, 1))
    rounded = builder.add(builder.add(bits, odd), ir.Constant(_I32, 0x7FFF))
    is_nan = builder.fcmp_unordered("uno", value, value)
    rounded = builder.select(is_nan, ir.Constant(_I32, 0x7FC00000), rounded)
    return builder.trunc(builder.lshr(rounded, ir.Constant(_I32, 16)), _I16)


def _tag(instruction: Any, builder: Any, name: str) -> None:
    """Put a load or store into the alias scope of that name, and outside of all others."""
    module = builder.module
    domain = module.add_metadata(["attngraft"])
    scopes = {scope: module.add_metadata([f"attngraft.{scope}", domain]) for scope in SCOPES}
    instruction.set_metadata("alias.scope", module.add_metadata([scopes[name]]))
    others = [scope for other, scope in scopes.items() if other != name]
    instruction.set_metadata("noalias", module.add_metadata(others))


def _prefer_wide_vectors(builder: Any) -> None:
    """512-bit vectors where the processor has them: LLVM's default of 256 costs up to half the speed here."""
    set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite knows no free-form attributes
