"""Training throughput: images/s of `fit` beside bare training steps."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..backbones import create_backbone, preprocessing_of
from ..config import Preprocessing
from ..data import Dataset, build_transform, load_data, make_loader
from ..training import MachineSettings, Phase, Precision, Progress, Recipe, Silent, doing, fit
from .bench_result import LoopRow
from .bench_settings import BenchSettings, LoopCase
from .clock import Samples, paired_ratio, spread, synchronise
from .timed_steps import random_batch, training_step

CLASSES = 2
TEST_SHARE = 0.1
STEPS, QUICK_STEPS = 16, 4
BARE, LOADER, FIT = "bare", "loader", "fit"


@dataclass(frozen=True)
class _Bench:
    """All that the rounds of one case share."""

    model: nn.Module
    dataset: Dataset
    preprocessing: Preprocessing
    recipe: Recipe
    precision: Precision
    device: torch.device
    workers: int
    folder: Path

    @property
    def steps(self) -> int:
        return len(self.dataset.train) // self.recipe.batch_size


def loop_rows(settings: BenchSettings, device: torch.device, progress: Progress) -> Iterator[LoopRow]:
    """Measure every case in every precision."""
    repeats, cases = settings.rounds("loop"), settings.loop_cases
    progress.start("loop", len(cases) * len(settings.precisions) * repeats)
    steps = QUICK_STEPS if settings.quick else STEPS
    for case in cases:
        for precision in settings.precisions:
            progress.note({"case": f"{case.backbone} {case.image_size} px {precision}"})
            doing(progress, "warming up, compiling kernels")
            with tempfile.TemporaryDirectory(prefix="attngraft-bench-") as name:
                bench = _prepare(case, precision, settings.images, steps, device, Path(name))
                samples = time_loop(bench, repeats, progress.advance)
            yield loop_row(case, precision, samples, settings.images, bench.steps, bench.workers)


def time_loop(bench: _Bench, repeats: int, on_round: Callable[[], object]) -> dict[str, tuple[float, ...]]:
    """Milliseconds per image of bare steps, of the loader and of `fit` in every round."""
    times: dict[str, list[float]] = {BARE: [], LOADER: [], FIT: []}
    for turn in range(repeats):
        times[BARE].append(_bare_ms(bench))
        times[LOADER].append(_loader_ms(bench, epoch=turn))
        times[FIT].append(_fit_ms(bench, turn))
        on_round()
    return {name: tuple(values) for name, values in times.items()}


def loop_row(
    case: LoopCase, precision: Precision, samples: Samples, batch_size: int, steps: int, workers: int
) -> LoopRow:
    """From milliseconds per image to images/s and the paired ratio."""
    rates = {name: spread([1e3 / value for value in values]) for name, values in samples.items()}
    return LoopRow(
        f"{case.files} of {case.width} x {case.height}",
        case.backbone,
        precision.dtype,
        precision.layout,
        batch_size,
        case.image_size,
        workers,
        steps,
        bare=rates[BARE],
        loader=rates[LOADER],
        fit=rates[FIT],
        over_bare=paired_ratio(samples[FIT], samples[BARE]),
    )


def write_images(folder: Path, case: LoopCase, count: int) -> None:
    """Made-up images in class folders, smooth as photos are, so that their files have the size of photos."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % CLASSES}" / f"{number}.{case.files}"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((case.width, case.height), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = smooth + rng.normal(0, 6, smooth.shape).astype(np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)


def _prepare(
    case: LoopCase, precision: Precision, batch_size: int, steps: int, device: torch.device, folder: Path
) -> _Bench:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_backbone(case.backbone, num_classes=CLASSES, pretrained=False)
    # every class gives up a tenth, rounded, for the test
    count = 2 * CLASSES + round(batch_size * steps / (1 - TEST_SHARE))
    write_images(folder / "images", case, count)
    dataset = load_data(
        folder / "images", image_size=case.image_size, test_fraction=TEST_SHARE, cache_dir=folder / "cache"
    )
    phase = Phase("all", epochs=2, lr=1e-4, schedule="constant")
    recipe = Recipe("bench", (phase,), optimizer="sgd", batch_size=batch_size, augment="light")
    workers = MachineSettings().resolve_workers()
    preprocessing = preprocessing_of(model, case.image_size)
    return _Bench(model, dataset, preprocessing, recipe, precision, device, workers, folder)


def _bare_ms(bench: _Bench) -> float:
    """Training steps on one batch that is on the device already, after one that is not counted."""
    model = copy.deepcopy(bench.model).to(bench.device)
    model.to(memory_format=bench.precision.memory_format)  # type: ignore[call-overload]
    size, batch_size = bench.preprocessing.size[0], bench.recipe.batch_size
    task = training_step(model, *random_batch(model, batch_size, size, bench.precision, bench.device), bench.precision)
    start = 0.0
    for step in range(1 + bench.steps):
        task.before()
        task.run()
        if step == 0:
            synchronise(bench.device)
            start = time.perf_counter()
    synchronise(bench.device)
    return 1e3 * (time.perf_counter() - start) / (bench.steps * batch_size)


def _loader_ms(bench: _Bench, epoch: int) -> float:
    transform = build_transform("light", bench.preprocessing, train=True, mirror=bench.dataset.mirrorable)
    start, seen = time.perf_counter(), 0
    loader = make_loader(
        bench.dataset.train,
        transform,
        batch_size=bench.recipe.batch_size,
        epoch=epoch,
        shuffle=True,
        drop_last=True,
        workers=bench.workers,
        pin_memory=bench.device.type == "cuda",
    )
    for batch in loader:
        seen += len(batch.indices)
    return 1e3 * (time.perf_counter() - start) / seen


def _fit_ms(bench: _Bench, turn: int) -> float:
    """The second of two epochs: the first pays for a cold start."""
    result = fit(
        copy.deepcopy(bench.model),
        bench.dataset,
        recipe=bench.recipe,
        run_dir=bench.folder / f"run-{turn}",
        resume="never",
        preprocessing={},  # as it is: what is assumed makes no difference to times
        progress=Silent(),
        image_size=bench.preprocessing.image_size,
        precision=str(bench.precision),
        device=str(bench.device),
        workers=bench.workers,
        curve=False,
    )
    return 1e3 / result.history[-1]["images_per_s"]
