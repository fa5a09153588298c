"""Train one model on one data set into one run folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones import backbone_info, note_preprocessing_, preprocessing_of
from ..config import Preprocessing, from_dict, to_dict
from ..data import Dataset
from ..environment import hardware, versions
from ..errors import NotFiniteError, RunError, TrainingError
from ..formats import RECORD_FORMATS
from ..interrupts import finishing, stopping_at_once
from ..locking import Claim
from ..settings import Settings, resolve_settings
from ..settings.recipe import Recipe
from ..surgery import check_live, graft_plan, load, note_classes_, save, ungraft_
from ..timestamp import timestamp
from .checkpoint import read_newest, remove_checkpoints
from .disk_space import kept_bytes, working_bytes
from .distillation import Lesson, Teacher, check_teacher
from .distributed import World, join_world
from .early_stopping import ShouldStop
from .evaluate import PREDICTIONS_FILE, Evaluation, in_eval_mode
from .events import Notes
from .nonfinite import first_not_finite
from .oom import is_out_of_memory, memory_needed
from .open_data import open_data
from .precision import Precision, choose_precision, parse_precision
from .preflight import check_fit
from .progress import Progress, Reading, Silent, watched
from .run_context import Job
from .run_folder import Resume, RunFolder, describe_data
from .tensorboard import Board
from .trainer import Trainer
from .validation import examine

LAST_GOOD_FILE = "last-good.safetensors"


@dataclass(frozen=True)
class FitResult:
    """A finished run.

    Attributes:
        run_dir: its folder.
        model: the trained model, in eval mode.
        evaluation: predictions for every test image.
        history: one row per epoch, as in `metrics.jsonl`.
        train_time_s: seconds of training, without evaluation.
        stopped_after_epochs: where training ended before the recipe did, after how many epochs.
    """

    run_dir: Path
    model: nn.Module
    evaluation: Evaluation
    history: tuple[dict[str, Any], ...]
    train_time_s: float
    stopped_after_epochs: int | None = None

    @property
    def top1(self) -> float:
        """Part of the test images that the model classifies rightly."""
        return self.evaluation.top1

    def __str__(self) -> str:
        return f"{self.run_dir}: top-1 {100 * self.top1:.1f} % on {len(self.evaluation.labels)} test images"


def fit(
    model: nn.Module,
    data: str | Path | Dataset,
    *,
    recipe: str | Path | Recipe = "three-phase",
    run_dir: str | Path,
    seed: int = 0,
    resume: Resume = "auto",
    variant: str | None = None,
    progress: Progress | None = None,
    teacher: Teacher | None = None,
    on_epoch: ShouldStop | None = None,
    **overrides: Any,
) -> FitResult:
    """Train the model in place; the run folder then holds all there is to know.

    Args:
        model: a classifier, grafted or not, with as many logits as the data have classes.
        data: a folder of class folders, the name of a built-in data set, or a loaded one.
        recipe: packaged name, path of a .toml file, or a Recipe.
        run_dir: a new folder, or that of the same run to be continued.
        seed: of data order, augmentation, dropout and mixing.
        resume: "auto" continues the same run, "never" refuses an existing one, "must" refuses a new one.
        variant: a name for the run in reports; the attention's name where not given.
        progress: where to show progress; a bar on a terminal where not given.
        teacher: a model whose answers are part of the loss.
        on_epoch: called after every epoch with the rows so far, as in `metrics.jsonl`; True ends the training, as
            early stopping does. Of several processes only the main one calls it. An error in it ends the call, and the
            same call goes on after the epoch. After a sudden death it may see an epoch a second time.
        **overrides: fields of `Recipe`, `DataSettings` and `MachineSettings`, and `epochs`.

    Raises:
        ConfigError, DataError, RunError, GraftError: what was asked for does not fit; nothing is changed.
        PeerError: another process of the training has ended or hangs; the same call goes on.
        TrainingError: the loss, the gradient or a weight is not finite; the last good weights are in the run
            folder, and the run is not finished.
        KeyboardInterrupt: interrupted; the state is saved, the same call goes on.
    """
    settings = resolve_settings(recipe, overrides)
    world, device = join_world(settings.machine), settings.machine.resolve_device()
    check_live(model)
    preprocessing = preprocessing_of(model, settings.data.image_size)
    run = RunFolder(Path(run_dir))
    shows = watched(progress if world.is_main else Silent())
    with stopping_at_once(), memory_needed(), shows as shown, ExitStack() as held:
        claim = Claim(run.path, held)
        if world.share(run.description_file.is_file()):  # in use: refused before any image is read
            world.in_main(run.read)
            world.in_main(claim)
        spec, reading = preprocessing.input, Reading(shown)
        dataset = open_data(data, settings.data, spec=spec, recipe=settings.recipe, progress=reading)
        check_fit(model, dataset, settings, spec, world)
        if teacher is not None:
            check_teacher(teacher, model, dataset, settings.recipe, preprocessing)
        description = describe_run(model, dataset, settings, preprocessing, seed=seed, variant=variant, teacher=teacher)
        needed = kept_bytes(model, dataset) + working_bytes(model, settings.recipe)
        description = world.in_main(lambda: run.open(description, resume, claim, needed))
        _note_training_(model, dataset, preprocessing)
        model.to(device)
        if description["status"] == "finished":
            if world.is_main:
                remove_checkpoints(run.checkpoints)  # a process that was killed as it finished may have left some
            return _finished(run, model, description)
        if description["precision"] is None:
            description["precision"] = world.in_main(
                lambda: _choose_precision(model, settings, preprocessing, device, run, description)
            )
        precision = from_dict(Precision, description["precision"])
        lesson = Lesson(teacher, dataset, preprocessing, precision, device) if teacher is not None else None
        notes = Notes(run, description, world.is_main)
        job = _job(dataset, preprocessing, settings, seed, precision, device, world, run, lesson, notes)
        return _train(model, job, run, description, shown, settings, on_epoch)


def _note_training_(model: nn.Module, dataset: Dataset, preprocessing: Preprocessing) -> None:
    """Let the model say how it is trained, so that what is saved can be used without the run's settings."""
    note_preprocessing_(model, preprocessing)
    note_classes_(model, dataset.classes)


def describe_run(
    model: nn.Module,
    dataset: Dataset,
    settings: Settings,
    preprocessing: Preprocessing,
    *,
    seed: int,
    variant: str | None,
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """The content of `run.json` before the first step."""
    info, plan = backbone_info(model), graft_plan(model)
    return {
        "format": RECORD_FORMATS["run"],
        "kind": "run",
        "status": "running",
        "created": timestamp(),
        "variant": variant or (plan.attention if plan else "none"),
        "seed": seed,
        "backbone": info.spec if info else type(model).__name__,
        "weights": info.weights if info else None,
        "plan": plan.to_dict() if plan else None,
        "recipe": to_dict(settings.recipe),
        "data": describe_data(dataset),
        "classes": list(dataset.classes),
        "preprocessing": to_dict(preprocessing),
        "precision": _fixed_precision(settings),
        **({"teacher": teacher.describe(dataset)} if teacher is not None else {}),
        "results": None,
        "hardware": hardware(),
        "versions": versions(),
    }


def _fixed_precision(settings: Settings) -> dict[str, Any] | None:
    fixed = parse_precision(settings.machine.precision)
    return to_dict(fixed) if fixed else None


def _choose_precision(
    model: nn.Module,
    settings: Settings,
    preprocessing: Preprocessing,
    device: torch.device,
    run: RunFolder,
    description: Mapping[str, Any],
) -> dict[str, Any]:
    chosen = choose_precision(model, spec=preprocessing.input, batch_size=settings.recipe.batch_size, device=device)
    run.write({**description, "precision": to_dict(chosen)})
    return to_dict(chosen)


def _job(
    dataset: Dataset,
    preprocessing: Preprocessing,
    settings: Settings,
    seed: int,
    precision: Precision,
    device: torch.device,
    world: World,
    run: RunFolder,
    lesson: Lesson | None,
    notes: Notes,
) -> Job:
    return Job(
        dataset,
        preprocessing,
        settings.recipe,
        seed,
        precision,
        device,
        world,
        settings.machine.resolve_workers(),
        settings.machine.curve,
        run.checkpoints,
        settings.machine.checkpoint_minutes,
        lesson,
        notes,
    )


def _train(
    model: nn.Module,
    job: Job,
    run: RunFolder,
    description: dict[str, Any],
    progress: Progress,
    settings: Settings,
    should_stop: ShouldStop | None,
) -> FitResult:
    checkpoint = read_newest(run.checkpoints, job.note)
    if checkpoint is not None and job.world.is_main:
        _mend_metrics(run, checkpoint.position.history, job)
    has_board = settings.machine.tensorboard and job.world.is_main
    done = checkpoint.position.epochs_done if checkpoint else 0
    with Board(run.path / "tensorboard" if has_board else None, done) as board:

        def write(rows: Sequence[Mapping[str, Any]]) -> None:
            run.write_metrics(rows)
            board.write(rows[-1])

        trainer = Trainer(model, job, progress, lambda rows: job.world.in_main(lambda: write(rows)), should_stop)
        if checkpoint is not None:
            trainer.restore(checkpoint)
        try:
            trainer.train()
        except TrainingError as error:
            if job.world.size > 1 and not isinstance(error, NotFiniteError):
                raise  # the other processes have not come here
            kept = _keep_last_good(trainer, run, description, error)
            raise TrainingError(f"{str(error).rstrip('.')}; {kept}.") from None
    model.load_state_dict(trainer.evaluated.state_dict())
    return _finish(model, job, run, description, trainer)


def _mend_metrics(run: RunFolder, history: list[dict[str, Any]], job: Job) -> None:
    """Bring `metrics.jsonl` to where the checkpoint is: it may be a row behind or ahead of it, or damaged."""
    rows: list[dict[str, Any]] | None
    try:
        rows = run.read_metrics()
    except RunError:
        rows = None
    if rows == history:
        return
    if rows is None or any(one != other for one, other in zip(rows, history, strict=False)):
        job.note(f"{run.metrics_file} was not what the checkpoint says: it was written again from there.")
    run.write_metrics(history)


def _keep_last_good(trainer: Trainer, run: RunFolder, description: Mapping[str, Any], error: TrainingError) -> str:
    """Save the weights from before the step that failed, or of the newest checkpoint; says which these are."""
    model, job = trainer.model, trainer.job
    kept, which = True, "the weights from before"
    if not job.world.share(not trainer.stepper.is_midway and _is_sound(model, job)):
        checkpoint = read_newest(run.checkpoints)
        kept, which = checkpoint is not None, "the weights of the last checkpoint"
        if checkpoint is not None:
            model.load_state_dict(checkpoint.part("model"))
    if job.world.is_main:
        run.write({**description, "stopped_because": str(error)})
        if kept:
            save(model, run.path / LAST_GOOD_FILE, classes=job.dataset.classes)
    job.world.wait()  # the others leave when the main process has saved
    return f"{which} are in {run.path / LAST_GOOD_FILE}" if kept else "there are no good weights to keep"


def _is_sound(model: nn.Module, job: Job) -> bool:
    """Whether all weights are finite, and so is what they make of noise: weights that blew up may still be numbers."""
    if not all(bool(torch.isfinite(t).all()) for t in model.state_dict().values() if t.is_floating_point()):
        return False
    noise = torch.randn(2, *job.preprocessing.input.shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), in_eval_mode(model):
            return bool(torch.isfinite(model(noise.to(job.device))).all())
    except Exception as failure:
        if not is_out_of_memory(failure):
            raise
        return True  # for want of memory training stopped, and the weights are finite


def _finish(model: nn.Module, job: Job, run: RunFolder, description: dict[str, Any], trainer: Trainer) -> FitResult:
    """Measure the trained model on the test images and complete the run folder."""
    model.requires_grad_(True)
    evaluation = examine(model.eval(), job.dataset.test, job, trainer.examiner.portions)
    spoilt = first_not_finite(model.state_dict())
    if spoilt is not None:
        raise NotFiniteError(f"{spoilt} is not finite after the training: start the same command again.")
    with finishing():
        if job.world.is_main:
            run.write_metrics(trainer.position.history)
            save(model, run.path, classes=job.dataset.classes)
            evaluation.write(run.path / PREDICTIONS_FILE)
            results = {"test": evaluation.summary(job.dataset.classes), "train_time_s": trainer.position.time_s}
            if trainer.stopped_after_epochs is not None:
                results["stopped_after_epochs"] = trainer.stopped_after_epochs
            finished = {**description, "status": "finished", "results": results}
            finished.pop("stopped_because", None)
            run.finish(finished)
            remove_checkpoints(run.checkpoints)
        job.world.wait()
    at = trainer.position
    return FitResult(run.path, model, evaluation, tuple(at.history), at.time_s, trainer.stopped_after_epochs)


def _finished(run: RunFolder, model: nn.Module, description: Mapping[str, Any]) -> FitResult:
    """A run that was done already: its results, and its weights in the model."""
    run.check_files(description)
    try:
        model.load_state_dict(load(run.path, backbone=_plain_copy(model)).state_dict())
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise RunError(f"the run in {run.path} has trained another model ({reason}): choose a new folder.") from error
    evaluation = Evaluation.read(run.path / PREDICTIONS_FILE)
    results = description["results"]
    return FitResult(
        run.path,
        model.eval(),
        evaluation,
        tuple(run.read_metrics()),
        results["train_time_s"],
        results.get("stopped_after_epochs"),
    )


def _plain_copy(model: nn.Module) -> nn.Module:
    plain = copy.deepcopy(model).cpu()
    return ungraft_(plain) if graft_plan(model) else plain
