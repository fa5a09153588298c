"""Several processes under `torchrun`; with one process everything here is a no-op."""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGTERM
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import AttngraftError, PeerError
from ..interrupts import Stopped
from .connections import open_connections, to_peers
from .peers import VERDICT_S, Card, Lost, Peers

Found = TypeVar("Found")
Exchange = TypeVar("Exchange", bound=Callable[..., Any])


def _among_peers(exchange: Exchange) -> Exchange:
    """The exchange, with the loss of a peer as what it is."""

    @functools.wraps(exchange)
    def call(world: World, *args: Any) -> Any:
        try:
            return exchange(world, *args)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise world.explain(error) from None

    return cast(Exchange, call)


@dataclass(frozen=True)
class World:
    """This process among its peers.

    Attributes:
        rank: number of this process.
        size: number of processes.
        peers: watches over the others, where there are any.

    Every exchange raises PeerError where a peer is missing, and Stopped where one was stopped by a signal.
    """

    rank: int = 0
    size: int = 1
    peers: Peers | None = None

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files."""
        return self.rank == 0

    @_among_peers
    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered

    @_among_peers
    def share(self, value: Any) -> Any:
        """The main process's value, in every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def in_main(self, do: Callable[[], Found]) -> Found:
        """Do it in the main process; what it returns, or the user's error that it ends with, is that of all."""
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

    @_among_peers
    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        count = torch.tensor([int(flag)])
        dist.all_reduce(count)
        return bool(count.item())

    @_among_peers
    def sum(self, *values: float) -> list[float]:
        """The sum of each value over all processes, in double precision."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return [float(value) for value in sums]

    @_among_peers
    def align_(self, model: nn.Module) -> None:
        """Give every process the main one's weights and BatchNorm statistics."""
        self.align_buffers_(model)
        if self.size > 1:
            _all_at_once(list(model.parameters()), lambda flat: dist.broadcast(flat, src=0))

    @_among_peers
    def align_buffers_(self, model: nn.Module) -> None:
        """Give every process the main one's BatchNorm statistics, which each has from its own share of a batch."""
        if self.size > 1:
            _all_at_once(list(model.buffers()), lambda flat: dist.broadcast(flat, src=0))

    @_among_peers
    def average_gradients_(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every parameter the mean of its gradients in all processes; one that has none anywhere stays without.

        Not inside the backward pass, as `DistributedDataParallel` does it: a process that runs out of memory there
        would leave its peers waiting for ever.
        """
        if self.size == 1:
            return
        has_one = torch.tensor([int(parameter.grad is not None) for parameter in parameters])
        dist.all_reduce(has_one)
        learned = [parameter for parameter, count in zip(parameters, has_one.tolist(), strict=True) if count]
        for parameter in learned:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        _all_at_once(
            [p.grad for p in learned if p.grad is not None], lambda flat: dist.all_reduce(flat.div_(self.size))
        )

    @_among_peers
    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def together(self) -> Iterator[None]:
        """A span in which every process needs the others: it ends within a minute where one is lost.

        Raises:
            PeerError: a process has ended, has failed or is halted.
        """
        if self.peers is None:
            yield
            return
        with self.peers.together():
            try:
                yield
            except (
                KeyboardInterrupt
            ) as interrupt:  # torchrun stops the others where one has failed, and so does `peers`
                if isinstance(interrupt.__context__, PeerError):  # it was about to be said
                    raise interrupt.__context__ from None
                lost = self.find_lost()
                if lost is None or lost.is_stop:
                    raise
                raise PeerError(f"{lost.sentence}: start the same command again.") from None

    def find_lost(self, wait_s: float = 0.0) -> Lost | None:
        """Who is missing, as far as it shows within some seconds; None where nobody is."""
        return self.peers.find_lost(wait_s) if self.peers is not None else None

    def explain(self, error: RuntimeError) -> BaseException:
        """Why an exchange failed."""
        lost = self.find_lost(VERDICT_S)
        if lost is None:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return PeerError(f"the processes have lost each other ({reason}): start the same command again.")
        if lost.is_stop:
            return Stopped(SIGTERM)
        return PeerError(f"{lost.sentence}: start the same command again.")


def _all_at_once(tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """Exchange many tensors in place, all of one type together, as one."""
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor.detach())
    for alike in kinds.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in alike])
        exchange(flat)
        for tensor, values in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(values.view_as(tensor))


def join_world() -> World:
    """Join the processes that `torchrun` started; alone without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return World()
    return World(*_joined())


@functools.cache
def _joined() -> tuple[int, int, Peers]:
    """Rank, number of processes, and who watches over them; once per process."""
    ours, before = not dist.is_initialized(), open_connections()
    if ours:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        # tensors on the GPU go through NCCL; flags and other small things need not wait for it
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    World(rank, size).wait()  # connections are made when they are first needed
    new = to_peers(open_connections() - before, int(os.environ.get("MASTER_PORT", "0"))) if ours else ()
    peers = Peers(rank, size, lambda card: cast(Sequence[Card], World(rank, size).gather(card)), new)
    if ours:
        atexit.register(_leave, peers)
    return rank, size, peers


def _leave(peers: Peers) -> None:
    """A group of which somebody is missing is not taken leave of: that could wait for ever."""
    if peers.find_lost() is None:
        dist.destroy_process_group()
