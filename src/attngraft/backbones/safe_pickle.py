"""Read the pickle inside a torch.save file without executing it.

The instructions are followed on stand-ins: dicts, lists and texts are read as they are, tensors become references to bytes
of the file, and every other object becomes its name. Nothing is imported and nothing is called, whatever the pickle asks
for. Files that ask for what acts (files, processes, code) are refused, as nobody honest writes them.
"""

from __future__ import annotations

import builtins
import pickletools
from dataclasses import dataclass, field
from typing import IO, Any

import torch

from ..errors import BackboneError

MOST_BYTES = 16 << 20  # a tensor takes about 200
MOST_STEPS = 1_000_000  # a tensor takes about 30
HEAL = "save the weights alone, with torch.save(model.state_dict(), FILE)"

_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_AROUND_TENSORS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_SUBCLASSES = "torch._tensor._rebuild_from_type_v2"
_DICTS = ("collections.OrderedDict", "builtins.dict", "__builtin__.dict")
_STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}  # fmt: skip
# Modules whose names stand for actions. Others are of the classes of settings, schedules and numbers beside the weights.
_ACTING = frozenset(
    (
        *("os", "posix", "nt", "ntpath", "subprocess", "commands", "sys", "io", "_io", "shutil", "socket", "importlib"),
        *("runpy", "pty", "ctypes", "code", "codeop", "pickle", "_pickle", "cPickle", "marshal", "types", "operator"),
        *("multiprocessing", "threading", "_thread", "asyncio", "tempfile", "urllib", "http", "requests", "webbrowser"),
        *("pip", "site", "pdb", "bdb", "timeit", "profile", "cProfile", "trace", "signal", "gc", "inspect", "imp"),
        *(
            "pkgutil",
            "zipimport",
            "py_compile",
            "compileall",
            "distutils",
            "setuptools",
            "atexit",
            "dill",
            "cloudpickle",
        ),
    )
)
_VALUES = {
    *(
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
    ),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class UnfitPickleError(Exception):
    """It does something that no checkpoint has a need of; the text says what."""


@dataclass(frozen=True)
class Name:
    """Something of a module, by its name."""

    path: str


@dataclass(eq=False)
class Other:
    """An object that is not made; what it is, and with what it would be filled."""

    path: str
    state: Any = None


@dataclass(eq=False)
class Pairs:
    """A dict; its pairs are looked at where they are asked for, as keys may be made to be slow."""

    items: list[tuple[Any, Any]] = field(default_factory=list)

    def texts(self) -> dict[str, Any]:
        """Values of the keys that are texts."""
        return {key: value for key, value in self.items if isinstance(key, str)}


@dataclass(frozen=True, eq=False)
class Stored:
    """A storage of the file."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True, eq=False)
class View:
    """A tensor: a part of a storage."""

    storage: Stored
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickle(file: IO[bytes], name: str) -> Any:
    """What a pickle builds, of `Pairs`, `View`, `Other`, lists, tuples and values; the file is read up to its end.

    Args:
        file: at the beginning of the pickle.
        name: what to call the file in the error.

    Raises:
        BackboneError: it would act, is damaged, or is more than a checkpoint is likely to need.
    """
    try:
        return _Machine().run(_Limited(file))
    except UnfitPickleError as error:
        raise BackboneError(f"{name} holds more than tensors ({error}): {HEAL}.") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise BackboneError(f"{name} is damaged ({error or type(error).__name__}): get it again.") from None


class _Limited:
    """A file of which no more is read than a pickle may have."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, MOST_BYTES

    def read(self, count: int) -> bytes:
        return self._counted(self.file.read(min(count, self.left + 1)))

    def readline(self) -> bytes:
        return self._counted(self.file.readline(self.left + 1))

    def _counted(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise UnfitPickleError(f"a pickle of more than {MOST_BYTES:,} bytes")
        return data


class _Machine:
    """A pickle machine whose objects are stand-ins; each of its steps makes at most one, so memory is bounded."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: Any) -> Any:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number > MOST_STEPS:
                raise UnfitPickleError(f"more than {MOST_STEPS:,} steps")
            if opcode.name == "STOP":
                return self.stack[-1]
            self.step(opcode.name, argument)
        raise ValueError("its pickle has no end")

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(_CONSTANTS.get(name, argument))
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("TUPLE", "LIST", "FROZENSET"):
            found = self.above_mark()
            self.stack.append(tuple(found) if name == "TUPLE" else found)
        elif name in _TUPLES:
            self.stack.append(tuple(self.pop(_TUPLES[name])))
        elif name in ("EMPTY_LIST", "EMPTY_SET"):
            self.stack.append([])
        elif name == "EMPTY_DICT":
            self.stack.append(Pairs())
        elif name in ("POP", "POP_MARK", "DUP"):
            self.stack_step(name)
        elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS", "ADDITEMS", "DICT", "BUILD"):
            self.fill(name)
        else:
            self.rare_step(name, argument)

    def stack_step(self, name: str) -> None:
        if name == "DUP":
            self.stack.append(self.stack[-1])
        elif name == "POP_MARK" or (self.marks and self.marks[-1] == len(self.stack)):
            self.above_mark()
        else:
            self.pop(1)

    def fill(self, name: str) -> None:
        """Put what is on the stack into the object below it, where that is a dict, a list, or waits for its state."""
        if name == "DICT":
            pairs = self.above_mark()
            self.stack.append(Pairs())
        else:
            pairs = (
                self.pop(2 if name == "SETITEM" else 1) if name in ("SETITEM", "APPEND", "BUILD") else self.above_mark()
            )
        target = self.stack[-1]
        if name in ("SETITEM", "SETITEMS", "DICT") and isinstance(target, Pairs):
            target.items += zip(pairs[::2], pairs[1::2], strict=True)
        elif name in ("APPEND", "APPENDS", "ADDITEMS") and isinstance(target, list):
            target += pairs
        elif name == "BUILD" and isinstance(target, Other):
            target.state = pairs[0]

    def rare_step(self, name: str, argument: Any) -> None:
        if name == "GLOBAL":
            self.stack.append(_named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            self.stack.append(_named(*self.pop(2)))
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = self.pop(2)
            self.stack.append(_made(function, arguments))
        elif name == "NEWOBJ_EX":
            function, _, _ = self.pop(3)
            self.stack.append(_made(function, ()))
        elif name == "BINPERSID":
            self.stack.append(_stored(*self.pop(1)))
        elif name not in ("PROTO", "FRAME"):
            raise UnfitPickleError(f"the instruction {name}")

    def above_mark(self) -> list[Any]:
        return self.pop(len(self.stack) - self.marks.pop())

    def pop(self, count: int) -> list[Any]:
        if count < 0 or count > len(self.stack):
            raise ValueError("its pickle takes more than it has")
        found = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return found


def _named(module: Any, name: Any) -> Name:
    """A name of a module.

    Raises:
        UnfitPickleError: it stands for an action.
    """
    if not (isinstance(module, str) and isinstance(name, str)):
        raise ValueError("a name that is no text")
    root, path = module.split(".")[0], f"{module}.{name}"
    if root in ("builtins", "__builtin__"):
        is_acting = not isinstance(getattr(builtins, name, int if name in ("unicode", "long") else None), type)
    else:
        is_acting = (root in _ACTING and path != "types.SimpleNamespace") or module in ("torch.hub", "torch.jit")
    if is_acting:
        raise UnfitPickleError(f"it asks for {path[:100]}")
    return Name(path)


def _made(function: Any, arguments: Any) -> Any:
    """What a call would make, without calling."""
    path = function.path if isinstance(function, (Name, Other)) else type(function).__name__
    given = arguments if isinstance(arguments, tuple) else ()
    if path in _DICTS or path == "collections.defaultdict":
        return Pairs()
    if path in _TENSORS and len(given) >= 4 and isinstance(given[0], Stored):
        return _view(given[0], *given[1:4])
    if path in _AROUND_TENSORS and given and isinstance(given[0], (View, Other)):
        return given[0]
    if path == _SUBCLASSES and len(given) == 4 and isinstance(given[0], Name) and given[0].path in _TENSORS:
        return _made(given[0], given[2])
    return Other(path)


def _view(storage: Stored, offset: Any, shape: Any, stride: Any) -> View:
    numbers = (offset, *shape, *stride)
    if len(shape) != len(stride) or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("a tensor whose size is none")
    return View(storage, offset, tuple(shape), tuple(stride))


def _stored(place: Any) -> Stored | Other | Name:
    """What a reference names: a storage in 5 parts, or, before PyTorch 1.6, in 6, or the class of a network."""
    if isinstance(place, tuple) and len(place) == 4 and place[0] == "module" and isinstance(place[1], Name):
        return place[1]
    if not (isinstance(place, tuple) and len(place) in (5, 6) and place[0] == "storage"):
        raise UnfitPickleError("a reference that is no storage")
    kind, key, numel = place[1], place[2], place[4]
    if not isinstance(kind, Name) or not isinstance(key, str) or type(numel) is not int:
        raise UnfitPickleError("a reference that is no storage")
    if len(place) == 6 and place[5] is not None:
        return Other("a view of a storage")
    return Stored(key, _STORAGES[kind.path], numel) if kind.path in _STORAGES else Other(kind.path)
