"""Save and load models as one self-describing safetensors file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..backbones import (
    SOURCES,
    BackboneInfo,
    BackboneSource,
    assumed_preprocessing,
    backbone_info,
    create_backbone,
    note_backbone_,
    note_preprocessing_,
    noted_preprocessing,
    reads_files,
    stated_preprocessing,
)
from ..backbones.channels import adapt_input_
from ..checksums import (
    check_seal,
    check_written,
    is_own,
    write_sealed,
)
from ..config import Preprocessing, from_dict, to_dict
from ..errors import BackboneError, ConfigError, GraftError, RunError, command, counted
from ..formats import MODEL_FORMAT, own_version
from ..inventory import runs_below
from ..safetensors_files import Shapes, open_tensors, shapes_of
from .compiled import uncompiled
from .copying import copy_model
from .graft import check_live, graft_, graft_plan
from .graft_files import KIND as GRAFTS_ALONE
from .graft_files import save_grafts
from .heads import replace_head_
from .notes import FoldNote, classes_of, fold_note, note_classes_, note_fold_, note_task_, task_note
from .plan import GraftPlan
from .state_versions import with_versions
from .version_store.delta import apply_delta_, read_delta
from .version_store.store_files import is_store, served_version
from .version_store.version import Version
from .weightless_init import ForWeights, misfit

log = logging.getLogger(__name__)
MODEL_FILE = "model.safetensors"
OTHER_SUFFIXES = {".pth", ".pt", ".bin", ".ckpt", ".pkl", ".onnx", ".h5", ".npz", ".tar", ".zip"}


@dataclass(frozen=True)
class SavedModel:
    """The description in the header of a saved model.

    Attributes:
        backbone: what to build; None for a model that attngraft did not create.
        plan: the grafts; None for a plain backbone.
        classes: class names in the order of the logits; empty where unknown.
        preprocessing: how it was trained to get its images; None where unknown.
        folded: what was folded away; None for a model that was not folded.
        task: name and fields of the task that it was trained for; None for classification.
    """

    backbone: BackboneInfo | None
    plan: GraftPlan | None
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None = None
    folded: FoldNote | None = None
    task: Mapping[str, Any] | None = None


def save(
    model: nn.Module,
    path: str | Path,
    *,
    classes: Sequence[str] = (),
    only: str | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
) -> Path:
    """Write the model with all that is needed to build it again.

    Args:
        model: a backbone, grafted or not.
        path: a file ending in .safetensors, or a folder that will hold `model.safetensors`.
        classes: class names in the order of the logits; those that the model knows where not given.
        only: "grafts" for a small file that `load_grafts_` puts onto the same backbone; "grafts+head" where the head was
            trained with them.
        preprocessing: how the model wants its images, where it does not say; as for `graft_`.

    Raises:
        ConfigError: the name of another kind of file.
        GraftError: a graft is not live.
        RunError: the file cannot be written.
    """
    target = _target(Path(path).expanduser())
    if only is not None:
        return save_grafts(note_classes_(model, classes) if classes else model, target, only)
    model = uncompiled(model)
    check_live(model)
    if preprocessing is not None:
        note_preprocessing_(model, stated_preprocessing(model, preprocessing))
    elif (assumed := assumed_preprocessing(model)) is not None:
        log.warning("%s: when it is loaded, %s", path, assumed)
    plan, info, known = graft_plan(model), backbone_info(model), noted_preprocessing(model)
    header = {
        "format": MODEL_FORMAT,
        "written_by": own_version(),
        "backbone": to_dict(info) if info else None,
        "preprocessing": to_dict(known) if known else None,
        "plan": json.loads(plan.to_json()) if plan else None,
        "classes": list(classes or classes_of(model)),
    }
    note = fold_note(model)
    if note is not None:
        header["folded"] = asdict(note)
    if task_note(model) is not None:
        header["task"] = task_note(model)
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"attngraft": json.dumps(header)}
    write_sealed(target, lambda temporary, sealed: save_file(tensors, temporary, sealed), metadata)
    return target


def load(path: str | Path, *, backbone: nn.Module | None = None, example_input: Any = None) -> nn.Module:
    """Build a saved model again, in eval mode.

    Args:
        path: a run folder, a file written by `save`, or a store, of which it is the served version.
        backbone: an instance of the plain backbone, needed only for models that attngraft did not create. It
            is copied and stays as it is.
        example_input: for models that take something other than one image batch, as for `plan_graft`.

    Raises:
        RunError: no such file, not one of ours, damaged, or of a newer version.
        BackboneError: the model was built elsewhere and no backbone was given.
    """
    if not isinstance(path, (str, PathLike)):
        raise RunError(
            f"got {type(path).__name__} in place of a run or a model: expected a path, or a torch.nn.Module; call what makes "
            "one."
        )
    if is_store(Path(path).expanduser()):
        return load_version(served_version(Path(path).expanduser()), backbone=backbone, example_input=example_input)
    file = _file_in(Path(path).expanduser())
    saved = describe_saved(file)
    try:
        with open_tensors(file) as tensors:
            model = _build(saved, file, shapes_of(tensors), backbone, example_input)
            state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        _match_dtypes_(model, state, file)
        model.load_state_dict(with_versions(model, state))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise RunError(_no_fit(file, str(error)[:300])) from error
    if saved.preprocessing is not None:
        note_preprocessing_(model, saved.preprocessing)
    if saved.folded is not None:
        note_fold_(model, saved.folded)
    note_task_(model, saved.task)
    return note_classes_(model.eval(), saved.classes)


def load_version(version: Version, *, backbone: nn.Module | None = None, example_input: Any = None) -> nn.Module:
    """Build one version of a store, in eval mode: the base, and on it what the version changed.

    Raises:
        RunError: a file was changed after it was written, or is missing.
        BackboneError: as for `load`.
    """
    for problem in version.problems():
        raise RunError(problem)
    model = load(version.base_file, backbone=backbone, example_input=example_input)
    if version.delta_file is not None:
        apply_delta_(model, read_delta(version.delta_file))
    if version.preprocessing is not None:
        note_preprocessing_(model, version.preprocessing)
    return note_classes_(model.eval(), version.classes)


def describe_version(version: Version) -> SavedModel:
    """What one version of a store is, without its weights.

    Raises:
        RunError: as for `describe_saved`.
    """
    base = describe_saved(version.base_file)
    backbone, known = base.backbone, version.preprocessing or base.preprocessing
    if backbone is not None:
        logits = version.logits or backbone.num_classes
        backbone = replace(backbone, num_classes=logits, preprocessing=known or backbone.preprocessing)
    return replace(base, backbone=backbone, classes=version.classes, preprocessing=known)


def saved_classes(spec: str) -> tuple[str, ...]:
    """Class names of the run or model file that a backbone's spec names; empty for all others."""
    return describe_saved(spec).classes if _is_saved_model(spec) else ()


def describe_saved(path: str | Path) -> SavedModel:
    """Read what a saved model is, without its weights; of a store, its served version.

    Raises:
        RunError: as for `load`.
    """
    if is_store(Path(path).expanduser()):
        return describe_version(served_version(Path(path).expanduser()))
    file = _file_in(Path(path).expanduser())
    try:
        sealed = check_seal(file)
        if not is_own(file.parent, file.name):
            raise RunError(
                f"{file} is not the model of the run in its folder (its SHA-256 differs): restore it from a copy."
            )
        with open_tensors(file) as tensors:
            text = (tensors.metadata() or {}).get("attngraft")
    except FileNotFoundError:
        if (file.parent / "run.json").is_file():
            raise RunError(
                f"there is no {file}, so the run in its folder is not finished: start its command again."
            ) from None
        raise RunError(f"there is no {file}: {_advice(file)}") from None
    except (SafetensorError, OSError) as error:
        raise RunError(
            f"{file} is not a safetensors file or is damaged ({error}): restore it or train again."
        ) from None
    if text is None:
        raise RunError(f"{file} was not written by attngraft: load it with the library that wrote it.")
    try:
        header = json.loads(text)
        check_written(file, header["format"], MODEL_FORMAT, header.get("written_by"), sealed)
        if header.get("kind") == GRAFTS_ALONE:
            raise RunError(f"{file} holds grafts alone: put them onto their backbone with attngraft.load_grafts_.")
        return _parse_header(header)
    except (ConfigError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"the header of {file} cannot be read ({error}): was it written by a newer attngraft?") from None


def _advice(file: Path) -> str:
    """What to give instead of a folder without a model: one of the runs below it, where there are some."""
    folder = file.parent
    runs = [run for run in runs_below(folder) if (run / MODEL_FILE).is_file()] if folder.is_dir() else []
    if not runs:
        return "give a run folder or a file written by attngraft.save."
    named = ", ".join(map(str, runs[:3])) + (", ..." if len(runs) > 3 else "")
    shown = f"{command('runs', folder)} shows all"
    return f"{counted(len(runs), 'run')} below it {'has' if len(runs) == 1 else 'have'} one, so give such a folder: {named} ({shown})."


def _parse_header(header: dict[str, Any]) -> SavedModel:
    info, plan, wanted = header["backbone"], header["plan"], header.get("preprocessing")
    folded, task = header.get("folded"), header.get("task")
    if task is not None and not isinstance(task, dict):
        raise ValueError("task is no table")
    return SavedModel(
        backbone=from_dict(BackboneInfo, info, where="backbone") if info else None,
        plan=GraftPlan.from_dict(plan) if plan else None,
        classes=_classes(header["classes"], info["num_classes"] if info else None),
        preprocessing=from_dict(Preprocessing, wanted, where="preprocessing") if wanted else None,
        folded=from_dict(FoldNote, folded, where="folded") if folded else None,
        task=task,
    )


def _classes(names: Any, logits: int | None) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("classes are no list of names")
    if names and logits is not None and len(names) != logits:
        raise ValueError(f"{len(names)} class names for {logits} logits")
    return tuple(names)


def _match_dtypes_(model: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    """A model that was saved in half precision comes back in half precision."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        found = state[name].dtype
        if found.is_floating_point != tensor.dtype.is_floating_point or found.is_complex != tensor.dtype.is_complex:
            raise RunError(_no_fit(file, f"'{name}' is of the type {found}, expected {tensor.dtype}"))
        if found.is_floating_point:
            tensor.data = tensor.data.to(found)


def _build(saved: SavedModel, file: Path, shapes: Shapes, backbone: nn.Module | None, example_input: Any) -> nn.Module:
    """The model that the header describes, if it has the tensors that the file has; its weights mean nothing yet.

    Raises:
        RunError: the grafts do not fit the backbone, or the weights do not fit both.
        BackboneError: as for `load`.
    """
    with torch.random.fork_rng(devices=[]), ForWeights(shapes, file):
        model = copy_model(backbone) if backbone is not None else _create(saved, file)
        try:
            if saved.plan is not None:
                graft_(model, saved.plan, example_input=example_input)
        except (GraftError, ConfigError, TypeError, ValueError, OverflowError) as error:
            raise RunError(f"the grafts in {file} do not fit the backbone: {error}") from error
    problem = misfit(model, shapes)
    if problem is not None:
        raise RunError(_no_fit(file, problem))
    return model


def _no_fit(file: Path, reason: str) -> str:
    return f"the weights in {file} do not fit the model that its header describes ({reason})."


def _create(saved: SavedModel, file: Path) -> nn.Module:
    if saved.backbone is None:
        raise BackboneError(f"{file} holds a model that attngraft did not create: give load(..., backbone=your_model).")
    spec = saved.backbone.spec
    if reads_files(spec):
        raise RunError(f"the header of {file} names '{spec}' as its backbone, another file: restore it from a copy.")
    channels = saved.backbone.preprocessing.channels
    model = create_backbone(spec, num_classes=saved.backbone.num_classes, in_channels=channels, pretrained=False)
    return note_backbone_(model, saved.backbone)


def _target(path: Path) -> Path:
    """The file to write; a name that promises another kind of file is refused."""
    if path.suffix.lower() in OTHER_SUFFIXES and not path.is_dir():
        raise ConfigError(
            f"{path} is to be a {path.suffix} file, and attngraft writes safetensors: name it {path.with_suffix('').name}"
            ".safetensors, or write torch.save(model.state_dict(), ...)."
        )
    return _file_in(path)


def _file_in(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path / MODEL_FILE


def _is_saved_model(spec: str) -> bool:
    path = Path(spec).expanduser()
    return bool(spec) and (path.is_dir() or spec.endswith(".safetensors"))


def _create_from_run(spec: str, num_classes: int | None, pretrained: bool, in_channels: int | None = None) -> nn.Module:
    """A trained run as the backbone of the next, with the grafts that it has.

    The spec stays that of the original backbone, so that what is saved does not depend on this folder.
    """
    model = load(spec)
    info = backbone_info(model)
    if info is None:
        raise GraftError(f"{spec} does not say which backbone it holds: give the backbone by name.")
    if num_classes is not None and num_classes != info.num_classes:
        replace_head_(model, num_classes)
        note_classes_(model, ())
        info = replace(info, num_classes=num_classes)
    if in_channels is not None:
        adapt_input_(model, in_channels)
        info = replace(info, preprocessing=info.preprocessing.with_channels(in_channels))
    info = replace(info, weights=f"the run {Path(spec).expanduser().name}")
    return note_backbone_(model.train(), info)  # in the mode of every other fresh backbone


SOURCES.register(
    "run", BackboneSource(_is_saved_model, _create_from_run, ("the path of a run folder",), reads_files=True)
)
