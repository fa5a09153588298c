"""Several processes under `torchrun`; with one process everything here is a no-op.

Each process is a rank of one process group: gloo for small objects and on the CPU, NCCL on GPUs. A collective fails when a
rank has ended, and when one has not come for `ddp_timeout_s`. What the main process does alone, the others wait for in
a second group, which has no timeout.
"""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import AttngraftError, ConfigError, PeerError
from ..settings import MachineSettings

Found = TypeVar("Found")
FOREVER = timedelta(days=365)
START = timedelta(hours=1)  # between the first process and the last
SIGNS = ("gloo", "pair closure", "timed out", "nccl")  # in what collectives say, in lower case, when a rank is missing


@contextmanager
def collective() -> Iterator[None]:
    """Raise PeerError where something fails because another process has ended or hangs."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).lower()
        if not isinstance(error, dist.DistError) and not any(sign in said for sign in SIGNS):
            raise
        what = "does not respond" if "timeout" in said or "timed out" in said else "has ended"
        raise PeerError(
            f"another process of this training {what}: see its own message, and start the same command again."
        ) from None


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    Attributes:
        rank: number of this process.
        size: number of processes.
        unhurried: a group of all processes without a timeout.

    Every exchange raises PeerError where another process has ended or, unless it says otherwise, hangs.
    """

    rank: int = 0
    size: int = 1
    unhurried: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files."""
        return self.rank == 0

    @collective()
    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered

    @collective()
    def share(self, value: Any) -> Any:
        """The main process's value, in every process; waited for as long as it takes."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.unhurried)
        return box[0]

    def in_main(self, do: Callable[[], Found]) -> Found:
        """Call the function in the main process; all get what it returns, or the user's error that it raises.

        The others wait as long as it takes.
        """
        outcome: tuple[Found | None, AttngraftError | None] = (None, None)
        if self.is_main:
            try:
                outcome = do(), None
            except AttngraftError as error:
                outcome = None, error
        found, failure = self.share(outcome)
        if failure is not None:
            raise failure
        return cast(Found, found)

    @collective()
    def wait(self) -> None:
        """Wait for all processes, as long as it takes."""
        if self.size > 1:
            dist.barrier(group=self.unhurried)

    @collective()
    def sum(self, *values: float) -> list[float]:
        """The sum of each value over all processes, in double precision."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return [float(value) for value in sums]

    def any(self, *flags: bool) -> list[bool]:
        """Whether each flag is set in any process."""
        return [count > 0 for count in self.sum(*flags)]

    @collective()
    def align_buffers_(self, model: nn.Module) -> None:
        """Give every process the main one's BatchNorm statistics, which each has from its own share of a batch."""
        if self.size > 1:
            for buffer in model.buffers():
                value = buffer.detach().contiguous()
                dist.broadcast(value, src=0)
                buffer.detach().copy_(value)

    @collective()
    def parallel(self, model: nn.Module, output: Tensor) -> nn.Module:
        """Wrap a model so that backward passes average the gradients over all processes.

        Parameters and buffers become the main process's. Wrap anew when other parameters are to be trained.

        Args:
            model: its parameters say by `requires_grad` what is trained.
            output: of the model, for any input: tells whether all of these parameters are used.
        """
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=not _reaches(output, trained))


def _reaches(output: Tensor, parameters: Iterable[nn.Parameter]) -> bool:
    """Whether a backward pass from the output leaves a gradient in all parameters."""
    seen, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
    reached = {id(getattr(node, "variable", None)) for node in seen}
    return all(id(parameter) in reached for parameter in parameters)


def join_world(machine: MachineSettings | None = None) -> World:
    """Join the processes that `torchrun` started; alone without it.

    Args:
        machine: the device and the timeout, for the first call in a process.

    Raises:
        ConfigError: more processes than GPUs, or one GPU for all of them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return World()
    if not dist.is_initialized():
        _initialize(machine or MachineSettings())
    return World(dist.get_rank(), dist.get_world_size(), _unhurried_group())


def _initialize(machine: MachineSettings) -> None:
    device = None
    if torch.cuda.is_available() and machine.device != "cpu":
        device = _own_gpu(machine.device)
        torch.cuda.set_device(device)
    store, rank, size = _meeting_place()
    dist.init_process_group(
        "gloo" if device is None else "cpu:gloo,cuda:nccl",
        timeout=timedelta(seconds=machine.ddp_timeout_s),
        store=store,
        rank=rank,
        world_size=size,
        device_id=device,
    )
    atexit.register(dist.destroy_process_group)


def _meeting_place() -> tuple[dist.Store, int, int]:
    """The store by which the processes find each other, when all of them have started; this one's rank; how many.

    After a restart, torchrun on one machine hands out the same store, with the addresses of the processes before
    (https://github.com/pytorch/pytorch/issues/135712).
    """
    store, rank, size = next(dist.rendezvous("env://", timeout=START))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
    store.set(f"started {rank}", "")
    store.wait([f"started {other}" for other in range(size)], START)
    return store, rank, size


def _own_gpu(name: str) -> torch.device:
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if name not in ("auto", "cuda"):
        raise ConfigError(f"device is '{name}' for several processes: expected auto, cuda (each its own GPU) or cpu.")
    if local >= count:
        raise ConfigError(f"there are {count} GPUs for more processes: start {count} of them, or choose device=cpu.")
    return torch.device("cuda", local)


@functools.cache
def _unhurried_group() -> dist.ProcessGroup:
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=FOREVER))
