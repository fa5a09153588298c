"""Whether the other processes of a training are still there while one waits for them.

A collective of torch.distributed fails at once where a peer's connection breaks, and waits for half an hour where the
peer is halted. Nor does it say who is missing, or reach a process that computes on alone. So every process tells the
others twice a second, by a datagram, that it is there and how it ended; of a process on the same machine the system
knows more.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from ..interrupts import SIGNALS, wake_main_thread
from .connections import Connection, cut

TICK_S = 0.5
# Counted in ticks of this process, so that a machine that slept has not missed anybody.
HALTED_TICKS = 40
SILENT_TICKS = 80  # on other machines; on this one a busy interpreter may be silent for as long as it takes
STOPPED_TICKS = 2  # others may be about to stop too
FAILED_TICKS = 10  # others may be about to fail together
END_S = 30.0  # then the process ends, whatever it hangs in
VERDICT_S = 5.0
State = Literal["in", "out", "stopped", "failed"]


@dataclass(frozen=True)
class Card:
    """How a process introduces itself.

    Attributes:
        rank: its number.
        address: where it hears datagrams.
        machine: equal for processes that see each other in /proc; empty where there is none.
        pid: its number there.
        born: when it was started, in the system's ticks.
        secret: of the main process: opens every datagram.
    """

    rank: int
    address: tuple[Any, ...]
    machine: str
    pid: int
    born: str
    secret: str


@dataclass(frozen=True)
class Lost:
    """Who is missing.

    Attributes:
        sentence: what is known, without a full stop.
        is_stop: it was asked to stop by a signal.
    """

    sentence: str
    is_stop: bool = False


@dataclass
class _Seen:
    """What is known of a peer."""

    card: Card
    state: State = "in"
    why: str = ""
    fit: int = 0
    is_heard: bool = False
    silent: int = 0
    halted: int = 0
    parted: int = 0


@dataclass
class Peers:
    """Watches over the processes that train together, from a thread.

    Args:
        rank: number of this process.
        size: number of processes.
        introduce: gives everybody's card for one's own.
        connections: to be cut where a peer is lost, so that no collective waits for it.
    """

    rank: int
    size: int
    introduce: Callable[[Card], Sequence[Card]]
    connections: Sequence[Connection] = ()
    lost: Lost | None = None
    _state: State = "out"
    _why: str = ""
    _fit: int = 0
    _seen: list[_Seen] = field(default_factory=list)
    _can_wake: bool = False

    def __post_init__(self) -> None:
        self._socket = _hearing_socket()
        machine, born = _machine(), _life(os.getpid())[1]
        card = Card(self.rank, self._socket.getsockname(), machine, os.getpid(), born, secrets.token_hex(8))
        cards = self.introduce(card)
        self._changing = threading.Lock()
        self._secret = cards[0].secret.encode()
        self._seen = [_Seen(other) for other in cards if other.rank != self.rank]
        threading.Thread(target=self._watch, name="attngraft-peers", daemon=True).start()

    @contextmanager
    def together(self) -> Iterator[None]:
        """A span in which every process needs the others: where one is lost, the span is ended by a signal."""
        self._can_wake = threading.current_thread() is threading.main_thread()
        self._fit += 1
        self.lost = None
        self._announce("in")
        try:
            yield
        except KeyboardInterrupt:
            self._announce("stopped")
            raise
        except BaseException as error:
            self._announce("failed", f"{type(error).__name__}: {error}"[:300])
            raise
        else:
            self._announce("out")

    def find_lost(self, wait_s: float = 0.0) -> Lost | None:
        """Who is missing, as far as it shows within some seconds."""
        end = time.monotonic() + wait_s
        while True:
            found = self.lost or next(filter(None, (self._judge(seen, patient=False) for seen in self._seen)), None)
            if found is not None or time.monotonic() >= end:
                return found
            time.sleep(0.05)

    def _announce(self, state: State, why: str = "") -> None:
        with self._changing:
            self._state, self._why = state, why
        self._tell()

    def _tell(self) -> None:
        told = json.dumps({"rank": self.rank, "fit": self._fit, "state": self._state, "why": self._why})
        for seen in self._seen:
            with suppress(OSError):  # who cannot be reached is silent, too
                self._socket.sendto(self._secret + told.encode(), seen.card.address)

    def _watch(self) -> None:
        """The thread."""
        while True:
            self._tell()
            self._listen(time.monotonic() + TICK_S)
            for seen in self._seen:
                seen.silent += 1
                seen.halted = seen.halted + 1 if self._is_near(seen) and _life(seen.card.pid)[0] == "T" else 0
                seen.parted = seen.parted + 1 if self._has_parted(seen) else 0
            if self._state == "in":
                lost = self.lost or next(filter(None, (self._judge(seen, patient=True) for seen in self._seen)), None)
                if lost is not None:
                    self.lost = lost
                    self._end_span(lost)

    def _listen(self, end: float) -> None:
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with suppress(OSError, ValueError, KeyError, TypeError):  # a time-out, or what a stranger sent
                said, _ = self._socket.recvfrom(4096)
                if said.startswith(self._secret):
                    self._hear(json.loads(said[len(self._secret) :]))

    def _hear(self, said: dict[str, Any]) -> None:
        for seen in self._seen:
            if seen.card.rank == said["rank"]:
                seen.state, seen.why, seen.fit = said["state"], said["why"], said["fit"]
                seen.is_heard, seen.silent = True, 0

    def _judge(self, seen: _Seen, *, patient: bool) -> Lost | None:
        """Whether the peer is lost; a patient judge gives a peer that has left some time for the others to follow."""
        who = f"the process of rank {seen.card.rank} (of {self.size})"
        if self._has_parted(seen):
            is_stop = seen.state == "stopped"
            if patient and seen.parted < (STOPPED_TICKS if is_stop else FAILED_TICKS):
                return None
            return Lost(f"{who} was stopped" if is_stop else f"{who} has failed ({seen.why})", is_stop)
        if self._is_near(seen):
            if _life(seen.card.pid)[1] != seen.card.born and (seen.state, seen.fit) != ("out", self._fit):
                return Lost(f"{who} has ended")
            if seen.halted >= HALTED_TICKS:
                return Lost(f"{who} has been halted for {HALTED_TICKS * TICK_S:.0f} s")
        elif seen.is_heard and seen.silent >= SILENT_TICKS:
            return Lost(f"{who} has not been heard of for {SILENT_TICKS * TICK_S:.0f} s")
        return None

    def _has_parted(self, seen: _Seen) -> bool:
        return seen.fit == self._fit and seen.state in ("stopped", "failed")

    def _is_near(self, seen: _Seen) -> bool:
        """Whether the system knows about the peer."""
        return bool(seen.card.machine) and seen.card.machine == _machine()

    def _end_span(self, lost: Lost) -> None:
        """Get the main thread out of whatever it does; the process ends where that does not help."""
        span, end = self._fit, time.monotonic() + END_S
        cut(self.connections)
        heard = [number for number in (signal.SIGTERM, *SIGNALS) if callable(signal.getsignal(number))]
        with self._changing:  # the handlers stay until the span is left
            if self._can_wake and heard and (self._state, self._fit) == ("in", span):
                wake_main_thread(heard[0])
        while (self._state, self._fit) == ("in", span):
            if time.monotonic() > end:
                sys.stderr.write(f"error: {lost.sentence}, and this one cannot go on: start the same command again.\n")
                sys.stderr.flush()
                os._exit(128 + signal.SIGTERM if lost.is_stop else 2)
            self._tell()
            self._listen(time.monotonic() + TICK_S)


def _hearing_socket() -> socket.socket:
    """A socket for datagrams, at the address by which this machine reaches the one that all processes meet at."""
    meeting = (os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "1")))
    family, _, _, _, address = socket.getaddrinfo(*meeting, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing
        here = probe.getsockname()[0]
    found = socket.socket(family, socket.SOCK_DGRAM)
    found.bind((here, 0))
    return found


def _machine() -> str:
    """Equal for processes that find each other in /proc, which is more than to be on one host."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _life(pid: int) -> tuple[str, str]:
    """State and time of start of a process of this machine; empty where it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return ("", "") if fields[0] in "ZX" else (fields[0], fields[19])
