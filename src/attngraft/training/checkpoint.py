"""Checkpoints: the whole state of training in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checksums import check_seal, check_written, write_sealed
from ..config import from_dict
from ..errors import ConfigError, NotFiniteError, RunError
from ..formats import CHECKPOINT_FORMAT, own_version
from ..safetensors_files import open_tensors
from .dynamic_attention import Pace
from .nonfinite import first_not_finite

KEPT = 2


@dataclass
class Position:
    """How far training has come, and what was counted on the way.

    Attributes:
        phase: number of the phase.
        epoch: epochs finished within it.
        step: optimiser steps finished within the epoch.
        epochs_done: epochs finished in all.
        global_step: optimiser steps finished in all.
        loss_sum: of the training loss over the images seen in this epoch.
        score_sum: of the primary metric's scores over them, where it is a mean over images.
        seen: images seen in this epoch, by all processes.
        time_s: seconds of training, without evaluation.
        epoch_time_s: the same within this epoch.
        drop: factor on the rates from "plateau" in this phase.
        plateau: best loss and epochs waited, for the rate.
        patience: best loss and epochs waited, for early stopping.
        stopped: early stopping, or whoever looks at the epochs, has ended the training.
        lr_cut: factor on all rates, halved by every rollback.
        rollbacks: how often this epoch was begun again because a number was not finite.
        parts: in how many parts a process computes its share of a batch, for want of memory.
        evaluation_parts: the same, of a batch of an evaluation.
        pace: of the grafts, where a recipe lets it follow the loss.
        prepared: for how many phases what comes before their first step is done.
        preparation: sentences on what that was.
        new_norms: paths of the layers that had the statistics of a new network when the training began.
        found_lr: the recipe's highest rate by a range test, where it asks for one.
        history: one row per finished epoch.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    epochs_done: int = 0
    global_step: int = 0
    loss_sum: float = 0.0
    score_sum: float = 0.0
    seen: int = 0
    time_s: float = 0.0
    epoch_time_s: float = 0.0
    drop: float = 1.0
    plateau: tuple[float, float] = (float("inf"), 0.0)
    patience: tuple[float, float] = (float("inf"), 0.0)
    stopped: bool = False
    lr_cut: float = 1.0
    rollbacks: int = 0
    parts: int = 1
    evaluation_parts: int = 1
    pace: Pace = field(default_factory=Pace)
    prepared: int = 0
    preparation: list[str] = field(default_factory=list)
    new_norms: tuple[str, ...] | None = None
    found_lr: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """A position and all tensors that belong to it, named "model/...", "ema/...", "best/...", "start/...", "optimizer/..."."""

    position: Position
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below a prefix, without it."""
        return {name.removeprefix(f"{prefix}/"): t for name, t in self.tensors.items() if name.startswith(f"{prefix}/")}


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and remove all but the newest few and that of the beginning of the epoch.

    Raises:
        NotFiniteError: a weight is not finite; nothing is written.
        RunError: the disk is full; older checkpoints are intact.
    """
    at, found = checkpoint.position, first_not_finite(checkpoint.tensors)
    if found is not None:
        raise NotFiniteError(
            f"{found} is not finite at step {at.global_step}: "
            "lower the learning rate (lr_scale) or clip gradients (clip_norm)"
        )
    path = _path(folder, at.global_step)
    header = {
        "format": str(CHECKPOINT_FORMAT),
        "written_by": own_version(),
        "position": json.dumps(asdict(checkpoint.position)),
    }
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.tensors.items()}
    write_sealed(path, lambda temporary, sealed: save_file(tensors, temporary, sealed), header)
    begun = _path(folder, at.global_step - at.step)
    for old in [*(old for old in _paths(folder)[KEPT:] if old != begun), *_leftovers(folder)]:
        old.unlink(missing_ok=True)
    return path


def read_newest(folder: Path, note: Callable[[str], None] | None = None) -> Checkpoint | None:
    """The newest checkpoint that is as it was written; None where there is none.

    Args:
        folder: of the checkpoints.
        note: gets a sentence for every newer one that was passed over.

    Raises:
        RunError: there are checkpoints, but none can be used.
    """
    failures: list[RunError] = []
    found = next(_readable(folder, failures), None)
    if found is None and failures:
        raise failures[0]
    if found is not None and note is not None:
        for failure in failures:
            note(f"{failure} Training goes on from step {found.position.global_step}.")
    return found


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        RunError: damaged, changed after it was written, or of another format.
    """
    try:
        sealed = check_seal(path)
        with open_tensors(path) as file:
            header = file.metadata() or {}
            check_written(path, int(header["format"]), CHECKPOINT_FORMAT, header.get("written_by"), sealed)
            position = from_dict(Position, _renamed(json.loads(header["position"])), where="checkpoint")
            return Checkpoint(position, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, ConfigError) as error:
        raise RunError(f"{path} cannot be read ({error}): remove it to go on from the one before.") from None


def epoch_start(folder: Path) -> Checkpoint:
    """The newest checkpoint that was taken between two epochs.

    Raises:
        RunError: there is none that can be used.
    """
    failures = [RunError(f"{folder} has no checkpoint from the beginning of an epoch: train this run again.")]
    found = next((one for one in _readable(folder, failures) if one.position.step == 0), None)
    if found is None:
        raise failures[-1]
    return found


def remove_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps."""
    for path in _paths(folder):
        if path > _path(folder, step):
            path.unlink(missing_ok=True)


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a finished run; its model stays."""
    for path in [*_paths(folder), *_leftovers(folder)]:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """The optimiser's state by parameter name: "optimizer/NAME//KEY"."""
    found = {}
    for number, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                found[f"optimizer/{names[number]}//{key}"] = value
    return found


def restore_optimizer_(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put the state back that `optimizer_tensors` took out (given without the prefix "optimizer/").

    Moments get the layout of their parameters, as in a training that was not interrupted: in another layout the
    same update can be rounded otherwise.

    Raises:
        RunError: the state belongs to other parameters.
    """
    number_of = {name: number for number, name in names.items()}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, key = name.partition("//")
        if parameter not in number_of:
            raise RunError(
                f"the checkpoint has a state for '{parameter}', which is not trained: use another run folder."
            )
        state.setdefault(number_of[parameter], {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for trained, moments in optimizer.state.items():
        for key, value in moments.items():
            if isinstance(value, Tensor) and value.shape == trained.shape:
                moments[key] = torch.empty_like(trained).copy_(value)


def parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[int, str]:
    """Number in the optimiser's state dict -> name in the model."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    flat = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {number: name_of[id(parameter)] for number, parameter in enumerate(flat)}


def _readable(folder: Path, failures: list[RunError]) -> Iterator[Checkpoint]:
    """The checkpoints that can be used, newest first; why the others cannot is added to `failures`."""
    for path in _paths(folder):
        try:
            found = read_checkpoint(path)
        except RunError as error:
            failures.append(error)
            continue
        yield found


def _renamed(position: Any) -> Any:
    """The position with the names of today, where version 0.1.0 has written it."""
    if isinstance(position, dict) and "correct" in position:
        position["score_sum"] = position.pop("correct")
    return position


def _leftovers(folder: Path) -> list[Path]:
    """What a process that was killed while it wrote has left behind."""
    return list(folder.glob(".step-*.part"))


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}.safetensors"


def _paths(folder: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)
