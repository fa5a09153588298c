"""Peak memory of a training step: plain, grafted and timm's, each in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from ..backbones import preprocessing_of
from ..training import Progress, doing
from .bench_result import OURS, PLAIN, MemoryEntry, MemoryRow
from .bench_settings import BenchSettings
from .clock import spread
from .network_timing import TIMM, NetworkCase, build_plain

# Blocks of this size go back to the system when they are freed, so that the peak is that of what is in use.
CHILD_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
Reply = Mapping[str, Any]


def memory_rows(settings: BenchSettings, device: torch.device, progress: Progress) -> Iterator[MemoryRow]:
    """Measure every backbone with every attention in every precision; the plain one once per precision."""
    repeats, precisions = settings.rounds("memory"), settings.precisions
    processes = len(settings.memory_backbones) * len(precisions) * (1 + 2 * len(settings.measured)) * repeats
    progress.start("memory", processes)
    for backbone in settings.memory_backbones:
        size = preprocessing_of(build_plain(backbone), settings.pixels).size[0]
        for precision in precisions:
            plain: list[Reply] = []
            for attention in settings.measured:
                case = NetworkCase(backbone, attention, precision, settings.images, size)
                progress.note({"case": str(case)})
                doing(progress, "warming up, compiling kernels")
                plain = plain or _ask_often(case, PLAIN, device, repeats, progress)
                others = {name: _ask_often(case, name, device, repeats, progress) for name in (OURS, TIMM)}
                yield memory_row(case, {PLAIN: plain, **others})


def memory_row(case: NetworkCase, replies: Mapping[str, Sequence[Reply]]) -> MemoryRow:
    """From the replies of the processes to medians and what is extra.

    Args:
        case: what was measured.
        replies: name -> peak_bytes, saved_bytes and method, or reason, of every process.
    """
    plain = _entry(PLAIN, replies[PLAIN], None)
    entries = [plain if name == PLAIN else _entry(name, found, plain) for name, found in replies.items()]
    methods = [str(reply["method"]) for found in replies.values() for reply in found if "method" in reply]
    method = methods[0] if methods else "not measured"
    return MemoryRow(*case.columns, method, tuple(entries))


def _entry(name: str, replies: Sequence[Reply], plain: MemoryEntry | None) -> MemoryEntry:
    reasons = [str(reply["reason"]) for reply in replies if "reason" in reply]
    if reasons:
        return MemoryEntry(name, reason=reasons[0])
    peaks = [float(reply["peak_bytes"]) for reply in replies if reply["peak_bytes"] is not None]
    peak, saved = spread(peaks) if peaks else None, int(replies[0]["saved_bytes"])
    base_peak, base_saved = (plain.peak_bytes, plain.saved_bytes) if plain else (None, None)
    return MemoryEntry(
        name,
        peak,
        saved,
        extra_peak=peak.median / base_peak.median - 1 if peak and base_peak else None,
        extra_saved=saved / base_saved - 1 if base_saved else None,
    )


def _ask_often(case: NetworkCase, name: str, device: torch.device, repeats: int, progress: Progress) -> list[Reply]:
    """The replies of several processes; one that gives a reason is not asked again."""
    replies: list[Reply] = []
    for _ in range(repeats):
        if not replies or "reason" not in replies[-1]:
            replies.append(_ask(case, name, device))
        progress.advance()
    return replies


def _ask(case: NetworkCase, name: str, device: torch.device) -> Reply:
    """What a fresh process finds for one network; its failure is a reason."""
    wanted = {**asdict(case), **asdict(case.precision), "name": name, "device": str(device)}
    wanted |= {"threads": torch.get_num_threads()}
    wanted.pop("precision")
    command = [sys.executable, "-m", f"{__package__}.peak_memory_child", json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **CHILD_ENVIRONMENT}, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"reason": f"the process that measures failed ({lines[-1][:200]})"}
    reply = json.loads(done.stdout.strip().splitlines()[-1])
    return reply if isinstance(reply, dict) else {"reason": "the process that measures gave no answer"}
