"""Time attention modules on feature maps against timm, torch.compile, the reference and memory traffic."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from .. import kernels
from ..attention import Attention, create_attention
from ..training import Precision, Progress, doing
from .bench_result import OURS, Direction, MeanRatio, ModuleEntry, ModuleRow, ModuleSummary
from .bench_settings import BenchSettings
from .clock import Samples, Task, geometric_mean, paired_ratio, spread, time_interleaved
from .timm_equivalents import NoPeer, disagreement, first_line, objection, timm_twin

TIMM, COMPILED, REFERENCE, LIMIT, COPY = "timm", "torch.compile", "reference", "traffic limit", "copy"
DIRECTIONS: tuple[Direction, ...] = ("forward", "forward+backward")
# What moving the data costs, in copies of x (one read and one write each), if every pass goes to memory. CBAM reads x
# three times and writes it once, backward five reads and one write; a channel gate alone needs 2 + 1 and 3 + 1.
SPATIAL_COPIES: Mapping[Direction, float] = {"forward": 2.0, "forward+backward": 5.0}
CHANNEL_COPIES: Mapping[Direction, float] = {"forward": 1.5, "forward+backward": 3.5}
CHANNEL_ONLY = frozenset({"cbam-channel", "eca", "ese", "gct", "se", "srm"})
# Output and input gradient may differ by so much of their size. In bf16 each side rounds where it likes.
ALLOWED = {"fp32": (1e-4, 2e-3), "bf16": (2e-2, 6e-2)}

Run = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class ModuleCase:
    """One attention on one feature map in one direction."""

    attention: str
    direction: Direction
    precision: Precision
    shape: tuple[int, int, int, int]

    @property
    def limit_copies(self) -> float:
        """The traffic limit in copies of the feature map."""
        return (CHANNEL_COPIES if self.attention in CHANNEL_ONLY else SPATIAL_COPIES)[self.direction]

    def __str__(self) -> str:
        return f"{self.attention} {self.precision} {'x'.join(map(str, self.shape))} {self.direction}"


def module_cases(settings: BenchSettings) -> list[ModuleCase]:
    """All cases of a bench, in the order in which they are measured."""
    return [
        ModuleCase(attention, direction, precision, (settings.images, *feature_map))
        for attention in settings.measured
        for precision in settings.precisions
        for direction in DIRECTIONS
        for feature_map in settings.maps
    ]


def module_rows(settings: BenchSettings, device: torch.device, progress: Progress) -> Iterator[ModuleRow]:
    """Measure every case."""
    cases, repeats = module_cases(settings), settings.rounds("modules")
    progress.start("modules", len(cases) * repeats)
    for case in cases:
        progress.note({"case": str(case)})
        doing(progress, "warming up, compiling kernels")
        yield measure_module(case, device, repeats=repeats, compiled=settings.compiles, on_round=progress.advance)


def measure_module(
    case: ModuleCase, device: torch.device, *, repeats: int, compiled: bool, on_round: Callable[[], object]
) -> ModuleRow:
    """Time attngraft's module beside all competitors that compute the same function."""
    runs, reasons, x = _competitors(case, device, compiled)
    source, target = x.detach(), torch.empty_like(x)
    tasks = {name: Task(run) for name, run in runs.items()}
    tasks[COPY] = Task(lambda: target.copy_(source))
    samples = time_interleaved(tasks, repeats=repeats, device=device, on_round=on_round)
    return module_row(case, samples, reasons, bytes_of_x=x.numel() * x.element_size())


def module_row(case: ModuleCase, samples: Samples, reasons: dict[str, str], *, bytes_of_x: int) -> ModuleRow:
    """From times in milliseconds to medians and paired ratios.

    Args:
        case: what was measured.
        samples: time of every round of "attngraft", "copy" and the competitors.
        reasons: why others are missing.
        bytes_of_x: size of the feature map.
    """
    ours = samples[OURS]
    limit = tuple(case.limit_copies * value for value in samples[COPY])
    measured = {**samples, LIMIT: limit}
    entries = tuple(
        ModuleEntry(name, spread(measured[name]), paired_ratio(measured[name], ours))
        if name in measured
        else ModuleEntry(name, reason=reasons[name])
        for name in (OURS, TIMM, COMPILED, REFERENCE, LIMIT)
        if name in measured or name in reasons
    )
    return ModuleRow(
        case.attention,
        case.direction,
        case.precision.dtype,
        case.precision.layout,
        case.shape,
        entries,
        over_limit=paired_ratio(ours, limit),
        copy_share=paired_ratio(limit, ours),
        limit_copies=case.limit_copies,
        copy_gb_per_s=2 * bytes_of_x / (1e6 * spread(samples[COPY]).median),
    )


def summarise(rows: Iterable[ModuleRow]) -> tuple[ModuleSummary, ...]:
    """Geometric means over the feature maps of each attention, direction, dtype and layout."""
    groups: dict[tuple[str, Direction, str, str], list[ModuleRow]] = {}
    for row in rows:
        groups.setdefault((row.attention, row.direction, row.dtype, row.layout), []).append(row)
    return tuple(
        ModuleSummary(
            *key,
            _means(group),
            geometric_mean([row.over_limit.median for row in group]),
            geometric_mean([row.copy_share.median for row in group]),
        )
        for key, group in groups.items()
    )


def _means(rows: list[ModuleRow]) -> tuple[MeanRatio, ...]:
    found: dict[str, list[float]] = {}
    for row in rows:
        for entry in row.entries:
            if entry.speedup is not None and entry.name not in (OURS, LIMIT):
                found.setdefault(entry.name, []).append(entry.speedup.median)
    return tuple(MeanRatio(name, geometric_mean(values), len(values)) for name, values in found.items())


def _competitors(
    case: ModuleCase, device: torch.device, compiled: bool
) -> tuple[dict[str, Run], dict[str, str], Tensor]:
    """Name -> what to time, name -> why it is missing, and the feature map."""
    ours, x, direction = _material(case, device)
    work = _Work(case, x, direction)
    runs: dict[str, Run] = {OURS: work.of(ours)}
    reasons: dict[str, str] = {}
    try:
        twin = timm_twin(case.attention, ours)
        runs[TIMM] = work.of(twin)
    except NoPeer as reason:
        reasons[TIMM] = str(reason)
    else:
        if compiled:
            _add_compiled(runs, reasons, work, twin)
    runs[REFERENCE] = _with_reference(work.of(copy.deepcopy(ours)))
    _refuse_others(runs, reasons, case.precision.dtype)
    return runs, reasons, x


def _material(case: ModuleCase, device: torch.device) -> tuple[Attention, Tensor, Tensor]:
    """Our module, a feature map and the gradient of a loss with respect to the output."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = create_attention(case.attention, case.shape[1], init="paper")
        # every image and channel has a mean of its own, or else gates would hardly differ
        x, direction = torch.randn(case.shape) + torch.randn(*case.shape[:2], 1, 1), torch.randn(case.shape)
    dtype = torch.bfloat16 if case.precision.dtype == "bf16" else torch.float32
    x, direction = (t.to(device, dtype).to(memory_format=case.precision.memory_format) for t in (x, direction))
    return ours.to(device).train(case.direction != "forward"), x, direction


@dataclass(frozen=True)
class _Work:
    """One feature map, and what is done with it."""

    case: ModuleCase
    x: Tensor
    direction: Tensor

    def of(self, module: nn.Module) -> Run:
        """The call that is timed for one module."""
        if self.case.direction == "forward":
            return lambda: self._forward(module)
        self.x.requires_grad_(True)
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        return lambda: self._forward_backward(module, parameters)

    def _forward(self, module: nn.Module) -> tuple[Tensor, ...]:
        with torch.no_grad(), self.case.precision.autocast(self.x.device):
            return (module(self.x),)

    def _forward_backward(self, module: nn.Module, parameters: list[nn.Parameter]) -> tuple[Tensor, ...]:
        """Gradients are returned, not accumulated, so there are none to set to zero."""
        with self.case.precision.autocast(self.x.device):
            output = module(self.x)
        gradients = torch.autograd.grad(output, (self.x, *parameters), self.direction, allow_unused=True)
        return output, gradients[0]


def _with_reference(run: Run) -> Run:
    def call() -> tuple[Tensor, ...]:
        with kernels.using("reference"):
            return run()

    return call


def _add_compiled(runs: dict[str, Run], reasons: dict[str, str], work: _Work, twin: nn.Module) -> None:
    """torch.compile of timm's module, where this machine can compile."""
    try:
        torch.compiler.reset()  # every case is compiled for its own shape
        run = work.of(cast(nn.Module, torch.compile(copy.deepcopy(twin), dynamic=False)))
        run()
    except Exception as error:  # there are as many kinds of failure as there are compilers
        reasons[COMPILED] = f"failed ({first_line(error)})"
    else:
        runs[COMPILED] = run


def _refuse_others(runs: dict[str, Run], reasons: dict[str, str], dtype: str) -> None:
    """Leave out every competitor that computes something else."""
    ours = runs[OURS]()
    for name in [name for name in runs if name != OURS]:
        problem = objection(disagreement(ours, runs[name]()), ALLOWED[dtype])
        if problem:
            del runs[name]
            reasons[name] = problem
