"""Save grafts without their backbone, as a file of kilobytes, and put them onto the same backbone again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checksums import check_seal, check_written, write_sealed
from ..errors import ConfigError, GraftError, RunError, listed
from ..formats import MODEL_FORMAT, own_version
from ..safetensors_files import open_tensors
from .compiled import uncompiled
from .copying import check_module
from .graft import check_live, graft_, graft_plan, grafts, ungraft_
from .graft_paths import is_inside_graft
from .heads import find_head
from .notes import classes_of, note_classes_
from .plan import GraftPlan
from .state_versions import with_versions
from .tensor_bytes import tensor_bytes

KIND = "grafts"
PARTS = ("grafts", "grafts+head")
UNCOUNTED = "num_batches_tracked"  # moves with every batch and changes no output


def save_grafts(model: nn.Module, path: Path, only: str) -> Path:
    """Write the grafts of a model, with the plan and the SHA-256 of every tensor of its backbone.

    Args:
        model: grafted.
        path: of a .safetensors file.
        only: "grafts", or "grafts+head" for the head too, where that was trained with them.

    Raises:
        ConfigError: another `only`.
        GraftError: no grafts, or one that is not live.
        RunError: the file cannot be written.
    """
    if only not in PARTS:
        raise ConfigError(f"only is '{only}': expected {' or '.join(PARTS)}.")
    model = uncompiled(model)
    check_live(model)
    plan = graft_plan(model)
    if plan is None:
        raise GraftError("the model has no grafts to save: graft it first, or save all of it.")
    state = model.state_dict()
    kept = _kept(model, state, only)
    header = {
        "format": MODEL_FORMAT,
        "kind": KIND,
        "written_by": own_version(),
        "plan": json.loads(plan.to_json()),
        "classes": list(classes_of(model)) if "head" in only else [],
        "backbone": _hashes({name: tensor for name, tensor in state.items() if name not in kept}),
    }
    tensors = {name: state[name].detach().cpu().clone().contiguous() for name in kept}
    write_sealed(path, lambda file, sealed: save_file(tensors, file, sealed), {"attngraft": json.dumps(header)})
    return path


def load_grafts_(model: nn.Module, path: str | Path) -> nn.Module:
    """Put saved grafts onto their backbone, in place, and return it. A failure leaves it as it was.

    Args:
        model: the plain backbone with the weights that it had when the grafts were saved.
        path: a file written by `save(..., only="grafts")`.

    Raises:
        GraftError: the model has grafts already, or is another backbone.
        RunError: no such file, another kind of file, or a damaged one.
    """
    check_module(model)
    inner, file = uncompiled(model), Path(path).expanduser()
    if grafts(inner):
        raise GraftError("the model has grafts already: ungraft it first.")
    header, tensors = _read(file)
    try:
        plan, hashes = GraftPlan.from_dict(header["plan"]), dict(header["backbone"])
        classes = tuple(map(str, header["classes"]))
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"the header of {file} cannot be read ({error}): was it written by a newer attngraft?") from None
    plain = {name: tensor for name, tensor in inner.state_dict().items() if name not in tensors}
    _check_same_backbone(plain, hashes, file)
    graft_(model, plan)  # not the inner module: code that is compiled already has to know of the grafts
    wanted = {name: tensor.shape for name, tensor in inner.state_dict().items() if name not in plain}
    if wanted != {name: tensor.shape for name, tensor in tensors.items()}:
        ungraft_(model)
        raise RunError(f"the tensors in {file} do not fit its plan: restore it from a copy.")
    inner.load_state_dict(with_versions(inner, tensors), strict=False)
    return note_classes_(model, classes) if classes else model


def _kept(model: nn.Module, state: Mapping[str, Tensor], only: str) -> list[str]:
    kept = [name for name in state if is_inside_graft(name)]
    if "head" in only:
        head = find_head(model)
        kept += [name for name in state if head.contains(name) and name not in kept]
    return kept


def _hashes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Name -> the beginning of the SHA-256 of shape, type and values."""
    found = {}
    for name, tensor in tensors.items():
        if not name.endswith(UNCOUNTED):
            digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype} ".encode())
            digest.update(tensor_bytes(tensor).numpy().data)
            found[name] = digest.hexdigest()[:16]
    return found


def _check_same_backbone(tensors: Mapping[str, Tensor], wanted: Mapping[str, str], file: Path) -> None:
    found = _hashes(tensors)
    unknown = [*(wanted.keys() - found.keys()), *(found.keys() - wanted.keys())]
    if unknown:
        raise GraftError(
            f"the grafts in {file} belong to another network ({listed(unknown)} only in one of the two): give theirs."
        )
    changed = [name for name, digest in found.items() if digest != wanted[name]]
    if changed:
        raise GraftError(
            f"the grafts in {file} were saved with other weights of this network ({len(changed)} of {len(found)} tensors "
            f"differ, {listed(changed)}): give it the weights that they were trained with; where the head was trained too, "
            "save with only='grafts+head', and where more was, the whole model."
        )


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        sealed = check_seal(file)
        with open_tensors(file) as opened:
            header = json.loads((opened.metadata() or {}).get("attngraft", "{}"))
            if not isinstance(header, dict) or header.get("kind") != KIND:
                raise RunError(f"{file} holds no grafts alone: load it with attngraft.load, or another file.")
            check_written(file, header["format"], MODEL_FORMAT, header.get("written_by"), sealed)
            return header, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise RunError(f"there is no {file}: give a file written by attngraft.save(..., only='grafts').") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise RunError(f"{file} is not a safetensors file or is damaged ({error}): restore it.") from None
