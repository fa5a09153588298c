"""Check the pickle inside a torch.save file without executing it.

torch.load(weights_only=True) runs no code, but a hostile file can still make it take any amount of memory. So the
instructions are followed here first, on stand-ins: only what a state dict needs is let through.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any

from ..errors import BackboneError

MOST_BYTES = 16 << 20  # a tensor takes about 200
MOST_STEPS = 1_000_000  # a tensor takes about 30
HEAL = "save the weights alone, with torch.save(model.state_dict(), FILE)"

_TENSORS = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"}
_PARAMETERS = {"torch._utils _rebuild_parameter"}
_DICTS = {"collections OrderedDict"}
_STORAGES = {
    f"torch {kind}Storage"
    for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
}
_KNOWN = _TENSORS | _PARAMETERS | _DICTS | _STORAGES
_VALUES = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class UnfitPickleError(Exception):
    """It does something that a state dict has no need of; the text says what."""


@dataclass(frozen=True)
class Name:
    """Something of a module, by its name."""

    path: str


class Leaf:
    """A storage or a tensor."""


def check_pickle(data: bytes, file: str) -> None:
    """Raise unless the pickle builds dicts, lists and plain tensors, and nothing else.

    Args:
        data: the pickle.
        file: what to call the file in the error.

    Raises:
        BackboneError: it would do something else, or more than a state dict is likely to.
    """
    if len(data) > MOST_BYTES:
        raise BackboneError(f"{file} has a pickle of {len(data):,} bytes: {HEAL}.")
    try:
        _Dry().run(data)
    except UnfitPickleError as error:
        raise BackboneError(f"{file} holds more than tensors ({error}): {HEAL}.") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(f"{file} is damaged ({error or type(error).__name__}): get it again.") from None


class _Dry:
    """A pickle machine whose objects are stand-ins; each of its steps makes at most one, so memory is bounded."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> None:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number > MOST_STEPS:
                raise UnfitPickleError(f"more than {MOST_STEPS:,} steps")
            self.step(opcode.name, argument)

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name == "TUPLE":
            self.stack.append(tuple(self.above_mark()))
        elif name in _TUPLES:
            self.stack.append(tuple(self.pop(_TUPLES[name])))
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET"):
            self.stack.append([])
        elif name in ("SETITEMS", "APPENDS"):
            self.above_mark()
        elif name in ("SETITEM", "APPEND", "BUILD"):
            self.pop(2 if name == "SETITEM" else 1)
        else:
            self.rare_step(name, argument)

    def rare_step(self, name: str, argument: Any) -> None:
        if name == "GLOBAL":
            if argument not in _KNOWN:
                raise UnfitPickleError(f"it asks for {argument.replace(' ', '.')[:100]}")
            self.stack.append(Name(argument))
        elif name == "REDUCE":
            function, arguments = self.pop(2)
            self.stack.append(_call(function, arguments))
        elif name == "BINPERSID":
            (place,) = self.pop(1)
            if not (isinstance(place, tuple) and len(place) == 5 and place[0] == "storage"):
                raise UnfitPickleError("a reference that is no storage")
            if not (isinstance(place[1], Name) and place[1].path in _STORAGES):
                raise UnfitPickleError("a storage of a type that is not known")
            self.stack.append(Leaf())
        elif name not in ("PROTO", "STOP"):
            raise UnfitPickleError(f"the instruction {name}")

    def above_mark(self) -> list[Any]:
        return self.pop(len(self.stack) - self.marks.pop())

    def pop(self, count: int) -> list[Any]:
        if count < 0 or count > len(self.stack):
            raise ValueError("its pickle takes more than it has")
        found = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return found


def _call(function: Any, arguments: Any) -> Any:
    path = function.path if isinstance(function, Name) else type(function).__name__
    if path in _DICTS and arguments == ():
        return []
    if path in _TENSORS and isinstance(arguments[0], Leaf):
        return Leaf()
    if path in _PARAMETERS and isinstance(arguments[0], Leaf):
        return Leaf()
    raise UnfitPickleError(f"a call of {path.replace(' ', '.')[:100]}")
