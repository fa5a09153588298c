"""Take a network of one's own as a backbone: a module, a factory, or the name of a factory in a source file.

In records and files it is called "own:NAME@DIGEST". The digest is that of its source, its architecture and, for a
module, its weights, so that a comparison is not continued with another network under the same name. A saved model
names it and nothing more: no code is run because a file says so.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import logging
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..backbones import (
    SOURCES,
    BackboneInfo,
    BackboneSource,
    assumed_preprocessing,
    note_assumed_,
    note_backbone_,
    preprocessing_of,
)
from ..backbones.channels import adapt_input_, input_channels
from ..errors import BackboneError, GraftError, RunError, first_line, nearest
from ..registry import Registry
from .compiled import uncompiled
from .copying import copy_model
from .heads import replace_head_
from .input_errors import missing_arguments
from .notes import note_classes_
from .sites import resolve_input
from .tensor_bytes import tensor_bytes
from .trace import trace

log = logging.getLogger(__name__)
Factory = Callable[..., nn.Module]
Backbone = str | nn.Module | Factory
PREFIX = "own:"
FIRST = "the first"
USUAL_SIDES = (224, 32, 64, 128, 28, 96, 160, 256, 299, 384, 16, 48, 40, 56, 80, 112, 192, 320, 448, 512)
MOST_NAMES = 12  # of functions in a message
CLASSES = ("num_classes", "n_classes", "classes", "num_labels", "num_outputs")  # what factories call their argument
_NAMED = re.compile(r"(?P<place>.+\.py|[A-Za-z_][\w]*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")


@dataclass(frozen=True, eq=False)
class OwnNetwork:
    """A network of one's own.

    Attributes:
        label: what people call it: "net.py:make", "MyNet".
        digest: of its source, architecture and weights.
        build: makes it with so many outputs.
    """

    label: str
    digest: str
    build: Callable[[int | None], nn.Module]

    @property
    def spec(self) -> str:
        return f"{PREFIX}{self.label}@{self.digest}"


_KNOWN: Registry[OwnNetwork] = Registry("network of one's own")


def backbone_spec(backbone: Backbone) -> str:
    """The spec of a backbone, by which `create_backbone` makes it in this process.

    Args:
        backbone: a spec, a module, a factory (num_classes) -> module, or "file.py:function", "package.module:function".

    Raises:
        BackboneError: nothing of the kind, or it fails.
    """
    if isinstance(backbone, str) and _is_file_alone(backbone):
        raise BackboneError(_without_function(Path(backbone).expanduser()))
    if isinstance(backbone, str) and not _names_source(backbone):
        return backbone
    if isinstance(backbone, str):
        network = _of_factory(_imported(backbone), _label(backbone))
    elif isinstance(backbone, nn.Module):
        network = _of_module(backbone)
    elif callable(backbone):
        network = _of_factory(backbone, getattr(backbone, "__name__", type(backbone).__name__))
    else:
        raise BackboneError(
            f"the backbone is of the type {type(backbone).__name__}: expected a name, a torch.nn.Module, or a function "
            "that makes one for a number of classes."
        )
    if network.spec not in _KNOWN:
        _KNOWN.register(network.spec, network)
    return network.spec


def _of_module(module: nn.Module) -> OwnNetwork:
    original = copy_model(uncompiled(module))  # it may be trained on while its copies are

    def build(outputs: int | None) -> nn.Module:
        return _with_outputs_(copy_model(original), outputs)

    return OwnNetwork(type(original).__name__, _digest(type(original), original, with_weights=True), build)


def _of_factory(factory: Factory, label: str) -> OwnNetwork:
    argument = _argument_of(factory)

    def build(outputs: int | None) -> nn.Module:
        if argument is None:
            return _with_outputs_(_called(factory, label), outputs)
        count = outputs or 2
        return _called(partial(factory, count) if argument == FIRST else partial(factory, **{argument: count}), label)

    with torch.random.fork_rng(devices=[]):
        example = build(2)
    return OwnNetwork(label, _digest(factory, example, with_weights=False), build)


def _argument_of(factory: Factory) -> str | None:
    """By which name a factory is told the number of outputs, or as the first argument that it needs; None where it is not."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # written in C
        return FIRST
    named = next((p.name for p in parameters if p.name in CLASSES), None)
    if named is None and any(p.kind is p.VAR_KEYWORD for p in parameters):
        named = CLASSES[0]
    ordered = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needs_one = bool(ordered) and ordered[0].default is inspect.Parameter.empty  # a default may be a width, or a size
    return named or (FIRST if needs_one else None)


def _called(factory: Callable[[], nn.Module], label: str) -> nn.Module:
    try:
        model = factory()
    except Exception as error:  # code of the user's: anything
        missing = missing_arguments(factory) if isinstance(error, TypeError) else ""
        if missing:
            raise BackboneError(_needs_more(label, missing)) from error
        raise BackboneError(f"{label} fails ({_said(error)}): mend it, and start again.") from error
    if not isinstance(model, nn.Module):
        raise BackboneError(f"{label} returns {type(model).__name__}: expected a torch.nn.Module.")
    return model


def _needs_more(label: str, missing: str) -> str:
    name, example = label.rpartition(":")[2], missing.split("'")[1]
    return (
        f"{label} needs {missing} too, and is told the number of classes alone: give that a default, or name a function "
        f"around it, such as def make(num_classes): return {name}(num_classes, {example}=...)."
    )


def _with_outputs_(model: nn.Module, outputs: int | None) -> nn.Module:
    """The model, with a new head where it has another number of outputs, or is told to learn other classes."""
    if outputs is None:
        return model
    size = _size_it_takes(model)
    replace_head_(model, outputs, input_size=size)
    return note_classes_(model, ())


def _size_it_takes(model: nn.Module) -> tuple[int, int, int]:
    """An input size at which the model runs, tried without weights: its own, then usual ones."""
    own = preprocessing_of(model).input
    reasons = []
    for size in [own.shape, *((own.channels, side, side) for side in USUAL_SIDES)]:
        try:
            trace(model, resolve_input(model, size, None))
            return size
        except GraftError as reason:
            reasons.append(reason)
    raise reasons[0]


def _digest(source: Any, model: nn.Module, *, with_weights: bool) -> str:
    found = hashlib.sha256(_source_of(source))
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        if with_weights:
            found.update(tensor_bytes(tensor).numpy().data)
    return found.hexdigest()[:12]


def _source_of(source: Any) -> bytes:
    """The whole file that something is defined in, else its own text or its name, as in a console."""
    source = getattr(source, "func", source)  # functools.partial
    try:
        return Path(inspect.getsourcefile(source) or "").read_bytes()
    except (OSError, TypeError):
        pass
    try:
        return inspect.getsource(source).encode()
    except (OSError, TypeError):
        return getattr(source, "__qualname__", type(source).__qualname__).encode()


def _names_source(spec: str) -> bool:
    """Whether a text names a function in a source file or a module, and no other source of backbones knows it."""
    if not _NAMED.fullmatch(spec) or spec.startswith(PREFIX):
        return False
    return not any(source.claims(spec) for name, source in SOURCES.items() if name not in ("own", "code", "file"))


def _is_file_alone(spec: str) -> bool:
    """Whether a text names a source file, and no function in it."""
    return spec.endswith(".py") and not Path(spec).expanduser().is_dir()


def _without_function(file: Path) -> str:
    """What to write in place of the file alone, found without running it."""
    if not file.is_file():
        return f"there is no file {file}: give file.py:function, with the path from here."
    try:
        found = [
            node for node in ast.parse(file.read_bytes()).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        ]
    except (SyntaxError, ValueError) as error:
        return f"{file} cannot be read as Python ({first_line(error)}): mend it, and give file.py:function."
    told = [node for node in found if any(isinstance(n, ast.arg) and n.arg in CLASSES for n in ast.walk(node))]
    names = [node.name for node in told or found if not node.name.startswith("_")]
    shown = ", ".join(f"{file}:{name}" for name in names[:MOST_NAMES]) + (", ..." if names[MOST_NAMES:] else "")
    return (
        f"{file} is a file: name the function or the class in it that makes the network, {shown or 'file.py:function'}."
    )


def _label(spec: str) -> str:
    place, _, name = spec.rpartition(":")
    return f"{Path(place).name if place.endswith('.py') else place}:{name}"


def _imported(spec: str) -> Factory:
    """The function that a spec names."""
    place, _, name = spec.rpartition(":")
    module = _module_from_file(Path(place).expanduser()) if place.endswith(".py") else _module_by_name(place)
    found = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise BackboneError(f"{place} has no function '{name}': {nearest(name, functions)}")
    return found  # type: ignore[no-any-return]


def _module_from_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise BackboneError(f"there is no file {file}: give file.py:function, with the path from here.")
    name = f"attngraft_own_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickles and dataclasses look their module up
    _let_import_from(file.resolve().parent)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # code of the user's: anything
        raise BackboneError(f"{file} cannot be imported ({_said(error)}): mend it, and start again.") from error
    return module


def _module_by_name(name: str) -> ModuleType:
    _let_import_from(Path.cwd())
    try:
        return importlib.import_module(name)
    except Exception as error:  # code of the user's: anything
        raise BackboneError(f"the module {name} cannot be imported ({_said(error)}): install or mend it.") from error


def _let_import_from(folder: Path) -> None:
    """Let modules beside the network be imported, also later, as networks import when they are built."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _said(error: BaseException) -> str:
    """Class and text of an error, and the last line of code of the user's that led to it."""
    text = " ".join(str(error).split())[:200]
    libraries = tuple(str(Path(file).parent) for file in (torch.__file__, Path(__file__).parent))
    files = (frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(libraries))
    frames = [frame for frame in files if Path(frame.filename).is_file()]
    where = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def _create(spec: str, outputs: int | None, pretrained: bool, in_channels: int | None = None) -> nn.Module:
    """A network of one's own with a head for so many outputs."""
    if pretrained:
        raise BackboneError(f"{spec} brings its own weights: leave out pretrained, or give weights=FILE.")
    network = _known(spec)
    model = network.build(outputs)
    preprocessing = preprocessing_of(model)
    if in_channels is not None and in_channels != input_channels(model):
        adapt_input_(model, in_channels)
        preprocessing = preprocessing.with_channels(in_channels)
    info = BackboneInfo(network.spec, outputs or 2, preprocessing, weights="as it was given")
    is_assumed = assumed_preprocessing(model) is not None
    note_backbone_(model.train(), info)
    return note_assumed_(model) if is_assumed else model


def check_unchanged(before: str, now: str, what: str) -> None:
    """Raise RunError where two specs are of the same network of one's own, which has changed in between.

    Args:
        before: the spec in a record.
        now: the spec that is asked for.
        what: was begun with the former: "the run in runs/a".
    """
    label = _label_of(now)
    if before != now and now.startswith(PREFIX) and before.startswith(PREFIX) and _label_of(before) == label:
        raise RunError(
            f"{label} has changed since {what} was begun: give it as it was then, or choose a new folder; nothing was "
            "changed."
        )


def _label_of(spec: str) -> str:
    return spec.removeprefix(PREFIX).rpartition("@")[0]


def _known(spec: str) -> OwnNetwork:
    if spec in _KNOWN:
        return _KNOWN[spec]
    label, digest = _label_of(spec), spec.rpartition("@")[2]
    for network in _KNOWN.values():
        if network.digest == digest:  # under another name: a function in Python, file.py:function on the command line
            return network
    for other, network in _KNOWN.items():
        if label in (network.label, network.label.rpartition(":")[2]):
            log.warning("the source of %s has changed since it was recorded (%s, now %s)", label, spec, other)
            return network
    raise BackboneError(
        f"{label} is a network of your own, whose code is not run because a file names it: give attngraft.load(..., "
        f"backbone=your_model), or attngraft --network {label if '.py:' in label else 'file.py:function'} before the verb."
    )


SOURCES.register("own", BackboneSource(lambda spec: spec.startswith(PREFIX), _create, (), is_published=False))
SOURCES.register(
    "code",
    BackboneSource(
        _names_source,
        lambda spec, outputs, pretrained, in_channels: _create(backbone_spec(spec), outputs, pretrained, in_channels),
        ("file.py:function",),
        reads_files=True,
        is_published=False,
    ),
)
SOURCES.register(
    "file",
    BackboneSource(
        _is_file_alone,
        lambda spec, outputs, pretrained, in_channels: _create(backbone_spec(spec), outputs, pretrained, in_channels),
        (),
        reads_files=True,
        is_published=False,
    ),
)
