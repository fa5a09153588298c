"""Train one model on one data set into one run folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..answers import Question
from ..backbones import backbone_info, note_preprocessing_, preprocessing_source, stated_preprocessing
from ..config import Preprocessing
from ..data import Dataset
from ..data.leak_pictures import write_leak_pictures
from ..data_frames import data_frame
from ..environment import hardware, versions
from ..errors import NotFiniteError, RunError, TrainingError, counted
from ..interrupts import finishing, stopping_at_once
from ..locking import Claim
from ..settings import USUAL_RECIPE, Settings, resolve_settings
from ..settings.recipe import Recipe
from ..surgery import check_live, copy_model, graft_plan, load, save, ungraft_
from ..surgery.model_output import main_output
from ..surgery.own_networks import Factory
from ..surgery.state_versions import with_versions
from ..tasks import Task, create_task, describe_task, note_task_of_, primary, task_of
from ..tasks.contract import Calibrating
from ..timestamp import timestamp
from .built_for import built_for
from .checkpoint import read_newest, remove_checkpoints
from .disk_space import kept_bytes, working_bytes
from .distillation import DistillationLoss, Teacher, check_teacher
from .distributed import join_world
from .early_stopping import ShouldStop
from .evaluate import PREDICTIONS_FILE, Evaluation, in_eval_mode
from .given_again import question_of
from .nonfinite import first_not_finite
from .oom import is_out_of_memory, memory_needed
from .open_data import as_loaded, framed, open_data, resampled
from .precision import Precision, choose_precision, parse_precision
from .preflight import check_fit
from .progress import Progress, Reading, Silent, doing, watched
from .run_context import RunContext
from .run_folder import Resume, RunFolder
from .run_log import Board, RunLog
from .run_record import DataRecord, RunRecord, RunResults
from .solved_head import settle_head
from .top_losses import write_top_losses
from .trainer import Trainer

log_again = logging.getLogger(__name__)
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
    def score(self) -> float:
        """The task's primary metric on the test images: accuracy for classification."""
        return self.evaluation.score

    @property
    def top1(self) -> float:
        """Accuracy of a classifier on the test images, 0 to 1."""
        return self.evaluation.value("top1")

    def to_frame(self) -> Any:
        """The history as a pandas.DataFrame, one row per epoch.

        Raises:
            ConfigError: pandas is not installed.
        """
        return data_frame(self.history)

    def __str__(self) -> str:
        metric = primary(self.evaluation.task)
        return f"{self.run_dir}: {metric.label} {metric.show(self.score)} on {counted(len(self.evaluation.ids), 'test image')}"


def fit(
    model: nn.Module | Factory,
    data: str | Path | Dataset | Any,
    *,
    recipe: str | Path | Recipe | Settings = USUAL_RECIPE,
    run_dir: str | Path,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
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
        model: grafted or not, with as many outputs as the data have classes, labels or targets; or the class or function
            (num_classes) -> module that makes a plain one, which is then called.
        data: whatever `load_data` takes, or what it returns.
        recipe: packaged name, path of a .toml file, a Recipe, or Settings with all that is chosen.
        run_dir: a new folder, or that of the same run to be continued.
        preprocessing: how the model wants its images, where it does not say: a `Preprocessing` or some of its fields, for
            example {"image_size": 64, "mean": 0.5, "std": 0.5}.
        seed: of data order, augmentation, dropout and mixing.
        resume: "auto" continues the same run, "never" refuses an existing one, "must" refuses a new one.
        variant: a name for the run in reports; the attention's name where not given.
        progress: gets the steps. Where not given, a bar on a terminal shows them, and each epoch is a line on standard
            error, by the logger "attngraft.training": its level, or `progress=Silent()`, silences them.
        teacher: a model whose outputs are part of the loss.
        on_epoch: called after every epoch with the rows so far, as in `metrics.jsonl`; True ends the training, as
            early stopping does. Of several processes only the main one calls it. An error in it ends the call, and the
            same call goes on after the epoch. After a sudden death it may see an epoch a second time.
        **overrides: fields of `Recipe`, `DataSettings` and `MachineSettings`, `epochs` and `lr`.

    Raises:
        ConfigError, DataError, RunError, GraftError: what was asked for does not fit; nothing is changed.
        PeerError: another process of the training has ended or hangs; the same call goes on.
        TrainingError: the loss, the gradient or a weight is not finite; the last good weights are in the run
            folder, and the run is not finished.
        KeyboardInterrupt: interrupted; the state is saved, the same call goes on.
    """
    settings, seed = resolve_settings(recipe, overrides), index(seed)  # NumPy's integers too
    world, device = join_world(settings.machine), settings.machine.resolve_device()
    run = RunFolder(Path(run_dir).expanduser())
    if not isinstance(model, nn.Module):
        with stopping_at_once(), watched(progress if world.is_main else Silent()) as shown:
            model, data = built_for(model, data, settings, preprocessing, begun=run.record_file, seed=seed, shown=shown)
    check_live(model)
    own = stated_preprocessing(model, preprocessing)
    is_stated = preprocessing is not None or settings.data.says_scale
    preprocessing = settings.data.preprocessing(own)
    source = None if is_stated else preprocessing_source(model, preprocessing)
    shows = watched(progress if world.is_main else Silent())
    with stopping_at_once(), memory_needed(), shows as shown, ExitStack() as held:
        claim = Claim(run.path, held)
        if world.share(run.record_file.is_file()):  # in use: refused before any image is read
            world.in_main(run.read)
            world.in_main(claim)
        asked = None
        if teacher is None:
            asked = question_of(model, data, run.path, settings, preprocessing, seed=seed, variant=variant)
        if asked is not None and resume != "never" and asked.answer() is not None:
            log_again.info(asked.told)
            note_preprocessing_(model, run.read().preprocessing)
            return _finished(run, model.to(device), run.read())
        reading = Reading(shown)
        dataset = open_data(data, settings, preprocessing=preprocessing, begun=run.record_file, progress=reading)
        preprocessing = framed(as_loaded(preprocessing, dataset), dataset, settings.data)
        dataset = resampled(dataset, settings.data.resample_train, seed)
        doing(shown, "checking the model")
        task = create_task(dataset.task, dataset.classes).fitted(dataset.train.targets)
        context = RunContext(dataset, task, preprocessing, settings, seed, device, world, run.checkpoints)
        context = replace(context, anatomy=check_fit(model, context))
        recipe = world.in_main(
            lambda: settle_head(model, context, run.read().recipe if run.record_file.is_file() else None)
        )
        settings = replace(settings, recipe=recipe)
        context = replace(context, settings=settings)
        if teacher is not None:
            check_teacher(teacher, model, context)
        wanted = describe_run(model, context, variant=variant, teacher=teacher)
        needed = kept_bytes(model, dataset) + working_bytes(model, settings.recipe)
        record = world.in_main(lambda: run.open(wanted, resume, claim, needed))
        # what is saved can be used without the run's settings
        note_task_of_(note_preprocessing_(model, preprocessing), task)
        model.to(device)
        if record.status == "finished":
            if world.is_main:
                remove_checkpoints(run.checkpoints)  # a process that was killed as it finished may have left some
            return _kept(_finished(run, model, record), asked)
        log = RunLog(run, record, world.is_main)
        if world.is_main:
            write_leak_pictures(run.path, dataset)
        if source is not None and not record.events:
            log(source)
        doing(shown, "warming up")
        if record.precision is None:
            log.update(precision=world.in_main(lambda: _choose_precision(model, context)))
        precision = log.record.precision or Precision()
        context = replace(context, precision=precision, note=log)
        if teacher is not None:
            context = replace(context, extra_loss=DistillationLoss(teacher, context))
        return _kept(_train(model, context, log, shown, on_epoch), asked)


def _kept(result: FitResult, asked: Question | None) -> FitResult:
    """The result, which answers the same question from now on."""
    if asked is not None:
        asked.keep({})
    return result


def _choose_precision(model: nn.Module, context: RunContext) -> Precision:
    if not context.recipe.phases:
        return Precision()  # no step is taken that would have to be fast
    spec, batch_size = context.preprocessing.input, context.recipe.batch_size
    return choose_precision(model, spec=spec, batch_size=batch_size, device=context.device, task=context.task)


def describe_run(
    model: nn.Module, context: RunContext, *, variant: str | None = None, teacher: Teacher | None = None
) -> RunRecord:
    """The content of `run.json` before the first step."""
    info, plan, settings = backbone_info(model), graft_plan(model), context.settings
    return RunRecord(
        status="running",
        created=timestamp(),
        variant=variant or (plan.attention if plan else "none"),
        seed=context.seed,
        backbone=info.spec if info else type(model).__name__,
        weights=info.weights if info else None,
        plan=plan.to_dict() if plan else None,
        recipe=settings.recipe,
        data=DataRecord.of(context.dataset),
        classes=context.dataset.classes,
        preprocessing=context.preprocessing,
        precision=parse_precision(settings.machine.precision),
        hardware=hardware(),
        versions=versions(),
        task=describe_task(context.task),
        teacher=teacher.describe(context.dataset) if teacher is not None else None,
        resample_train=settings.data.resample_train,
    )


def _train(
    model: nn.Module, context: RunContext, log: RunLog, progress: Progress, should_stop: ShouldStop | None
) -> FitResult:
    run, world = log.run, context.world
    checkpoint = read_newest(run.checkpoints, context.note)
    if checkpoint is not None and world.is_main:
        _mend_metrics(run, checkpoint.position.history, context)
    has_board = context.settings.machine.tensorboard and world.is_main
    done = checkpoint.position.epochs_done if checkpoint else 0
    with Board(run.path / "tensorboard" if has_board else None, done) as board:

        def write(rows: Sequence[Mapping[str, Any]]) -> None:
            run.write_metrics(rows)
            board.write(rows[-1])

        trainer = Trainer(model, context, progress, lambda rows: world.in_main(lambda: write(rows)), should_stop)
        if checkpoint is not None:
            trainer.restore(checkpoint)
        try:
            trainer.train()
        except TrainingError as error:
            if world.size > 1 and not isinstance(error, NotFiniteError):
                raise  # the other processes have not come here
            kept = _keep_last_good(trainer, log, error)
            raise TrainingError(f"{str(error).rstrip('.')}; {kept}.") from None
    model.load_state_dict(trainer.evaluated.state_dict())
    return _finish(model, context, log, trainer)


def _mend_metrics(run: RunFolder, history: list[dict[str, Any]], context: RunContext) -> None:
    """Bring `metrics.jsonl` to where the checkpoint is: it may be a row behind or ahead of it, or damaged."""
    rows: list[dict[str, Any]] | None
    try:
        rows = run.read_metrics()
    except RunError:
        rows = None
    if rows == history:
        return
    if rows is None or any(one != other for one, other in zip(rows, history, strict=False)):
        context.note(f"{run.metrics_file} was not what the checkpoint says: it was written again from there.")
    run.write_metrics(history)


def _keep_last_good(trainer: Trainer, log: RunLog, error: TrainingError) -> str:
    """Save the weights from before the step that failed, or of the newest checkpoint; says which these are."""
    model, context, run = trainer.model, trainer.context, log.run
    kept, which = True, "the weights from before"
    if not context.world.share(not trainer.stepper.is_midway and _is_sound(model, context)):
        checkpoint = read_newest(run.checkpoints)
        kept, which = checkpoint is not None, "the weights of the last checkpoint"
        if checkpoint is not None:
            model.load_state_dict(with_versions(model, checkpoint.part("model")))
    if context.world.is_main:
        log.update(stopped_because=str(error))
        if kept:
            save(model, run.path / LAST_GOOD_FILE)
    context.world.wait()  # the others leave when the main process has saved
    return f"{which} are in {run.path / LAST_GOOD_FILE}" if kept else "there are no good weights to keep"


def _is_sound(model: nn.Module, context: RunContext) -> bool:
    """Whether all weights are finite, and so is what they make of noise: weights that blew up may still be numbers."""
    if not all(bool(torch.isfinite(t).all()) for t in model.state_dict().values() if t.is_floating_point()):
        return False
    noise = torch.randn(2, *context.preprocessing.input.shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), in_eval_mode(model):
            return bool(torch.isfinite(main_output(model(noise.to(context.device)))).all())
    except Exception as failure:
        if not is_out_of_memory(failure):
            raise
        return True  # for want of memory training stopped, and the weights are finite


def _finish(model: nn.Module, context: RunContext, log: RunLog, trainer: Trainer) -> FitResult:
    """Measure the trained model on the test images and complete the run folder."""
    for parameter in model.eval().parameters():
        parameter.requires_grad_(True)
    measure, dataset = trainer.validator.evaluate_split, context.dataset
    task = context.task.tuned(None if dataset.val is None else lambda: measure(model, "val", context.task).rows)
    if context.recipe.calibrate and isinstance(task, Calibrating):
        task = _calibrated(task, measure(model, "val", task))
    doing(trainer.progress, "evaluating the test images")
    evaluation = measure(model, "test", task)
    not_finite = first_not_finite(model.state_dict())
    if not_finite is not None:
        raise NotFiniteError(f"{not_finite} is not finite after the training: start the same command again.")
    at, run = trainer.position, log.run
    note_task_of_(model, task)
    with finishing():
        if context.world.is_main:
            run.write_metrics(at.history)
            save(model, run.path)
            evaluation.write(run.path / PREDICTIONS_FILE)
            write_top_losses(run.path, dataset.test, evaluation, context.preprocessing)
            results = RunResults(evaluation.summary(), at.time_s, trainer.stopped_after_epochs)
            record = replace(log.record, preparation=tuple(at.preparation), results=results, stopped_because=None)
            run.finish(replace(record, recipe=trainer.context.recipe, status="finished"))
            remove_checkpoints(run.checkpoints)
        context.world.wait()
    return FitResult(run.path, model, evaluation, tuple(at.history), at.time_s, trainer.stopped_after_epochs)


def _calibrated(task: Calibrating, before: Evaluation) -> Task:
    """The task with probabilities that fit the validation images; says in a line what that changes."""
    found = task.calibrated(before.rows)
    images = counted(len(before.ids), "validation image")
    log_again.info(f"the probabilities were calibrated on {images} ({_told(describe_task(found))}).")
    return found


def _told(fields: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in (fields or {}).items() if isinstance(value, float))


def _finished(run: RunFolder, model: nn.Module, record: RunRecord) -> FitResult:
    """The results of a run that was done already, and its weights in the model."""
    run.check_files(record)
    trained = load(run.path, backbone=_plain_copy(model))
    try:
        model.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise RunError(f"the run in {run.path} has trained another model ({reason}): choose a new folder.") from error
    task = task_of(trained)
    note_task_of_(model, task)
    evaluation = replace(Evaluation.read(run.path / PREDICTIONS_FILE), task=task)
    if record.results is None:
        raise RunError(f"{run.record_file} says finished and has no results: restore it from a copy.")
    time_s, stopped = record.results.train_time_s, record.results.stopped_after_epochs
    return FitResult(run.path, model.eval(), evaluation, tuple(run.read_metrics()), time_s, stopped)


def _plain_copy(model: nn.Module) -> nn.Module:
    plain = copy_model(model).cpu()
    return ungraft_(plain) if graft_plan(model) else plain
