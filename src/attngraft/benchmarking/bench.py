"""Run all parts of a benchmark."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from typing import Any

import torch

from ..config import to_dict
from ..environment import hardware, versions
from ..errors import ConfigError
from ..kernels.dispatch import wrong_on
from ..timestamp import timestamp
from ..training import MachineSettings, Progress, Whole, watched
from ..training.pace import Pace, clock_time
from .bench_result import BenchResult
from .bench_settings import BenchSettings
from .module_timing import module_rows, summarise
from .network_timing import check_networks, model_rows
from .peak_memory import memory_rows
from .training_throughput import loop_rows

KERNEL_PACKAGES = ("numba", "triton")
KERNELS_VARIABLE = "ATTNGRAFT_KERNELS"

log = logging.getLogger(__name__)


def bench(
    settings: BenchSettings,
    *,
    progress: Progress | None = None,
    on_result: Callable[[BenchResult], object] | None = None,
    command: str | None = None,
) -> BenchResult:
    """Measure what the settings name.

    Args:
        settings: what to measure.
        progress: where to show progress; a bar on a terminal where not given.
        on_result: called with what there is after every measurement, so that nothing is lost.
        command: the command line, for the record.

    Raises:
        ConfigError: no such device or backbone, or too large for the memory.
        BackboneError, GraftError: a network that is named cannot be made or grafted; nothing was measured yet.
    """
    device = MachineSettings(device=settings.device).resolve_device()
    if device.type == "cuda":
        log.info(wrong_on(device.type) or f"the kernels agree with plain PyTorch on {device}")
    result = BenchResult(
        created=timestamp(),
        device=str(device),
        threads=torch.get_num_threads(),
        settings=_record(settings),
        hardware=hardware(),
        versions=_versions(),
        command=command,
    )
    with watched(progress) as shown:
        check_networks(settings)
        used, whole = Pace(0), Whole(shown, len(settings.parts), None)
        for number, part in enumerate(settings.parts, start=1):
            title = f"part {number} of {len(settings.parts)}: {part}"
            steps = whole.part(title)
            for grown in _with_part(result, part, settings, device, steps):
                result = grown
                left = clock_time(None if steps.pace is None else steps.pace.left_s)
                row = getattr(result, part)[-1]
                log.info(
                    f"{title}  {row.case}  {clock_time(used.used_s)} used, {left} left in this part, {clock_time(whole.left_s)} for all"
                )
                if on_result is not None:
                    on_result(result)
            shown.stop()
    result = replace(result, status="finished")
    if on_result is not None:
        on_result(result)
    return result


def _with_part(
    result: BenchResult, part: str, settings: BenchSettings, device: torch.device, progress: Progress
) -> Iterator[BenchResult]:
    """The result with one more row at a time."""
    measure: dict[str, Callable[..., Iterator[Any]]] = {
        "modules": module_rows,
        "models": model_rows,
        "loop": loop_rows,
        "memory": memory_rows,
    }
    rows: list[Any] = []
    try:
        for row in measure[part](settings, device, progress):
            rows.append(row)
            changes: dict[str, Any] = {part: tuple(rows)}
            if part == "modules":
                changes["summaries"] = summarise(rows)
            yield replace(result, **changes)
    except RuntimeError as error:
        if not _is_lack_of_memory(error):
            raise
        raise ConfigError(
            f"a batch of {settings.images} images does not fit into the memory of {device}: choose a smaller batch_size."
        ) from error


def _is_lack_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _record(settings: BenchSettings) -> dict[str, Any]:
    """The settings, and the environment variable that chooses kernels where it is set."""
    kernels = os.environ.get(KERNELS_VARIABLE)
    return {**to_dict(settings), **({KERNELS_VARIABLE: kernels} if kernels else {})}


def _versions() -> dict[str, str]:
    """Versions, those of the compilers behind the kernels among them."""
    found = versions()
    for package in KERNEL_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
