"""Where and how training runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import setting
from ..environment import default_device, usable_cores
from ..errors import ConfigError

if TYPE_CHECKING:
    import torch

MOST_WORKERS = 128  # each is a process of some 300 MB


@dataclass(frozen=True)
class MachineSettings:
    """Where and how training runs; none of this changes what is learned, except by rounding."""

    device: str = setting("auto", "auto, cpu, cuda, cuda:1 or mps.", flag=True, metavar="NAME")
    precision: str = setting(
        "auto",
        "auto (timed once), fp32 or bf16; +contiguous or +channels_last fixes the layout too.",
        flag=True,
        metavar="NAME",
    )
    workers: int | None = setting(None, "Processes that load images; chosen by the machine by default.", flag=True)
    curve: bool = setting(True, "Evaluate after every epoch, for the curves of the report.")
    tensorboard: bool = setting(False, "Write TensorBoard files too (needs the extra tensorboard).", flag=True)
    checkpoint_minutes: float = setting(10.0, "Longest time between two checkpoints within an epoch.")
    ddp_timeout_s: float = setting(120.0, "Seconds that one of several processes waits for the others in a step.")

    def __post_init__(self) -> None:
        if self.workers is not None and not 0 <= self.workers <= MOST_WORKERS:
            raise ConfigError(
                f"workers is {self.workers}: expected 0 to {MOST_WORKERS}; there are {usable_cores()} cores."
            )
        if not self.checkpoint_minutes >= 0:
            raise ConfigError(f"checkpoint_minutes is {self.checkpoint_minutes}: expected 0 (every step) or more.")
        if not 0 < self.ddp_timeout_s <= 1e6:
            raise ConfigError(f"ddp_timeout_s is {self.ddp_timeout_s}: expected more than 0 seconds, at most 1e6.")

    def resolve_device(self) -> torch.device:
        """The device to train on.

        Raises:
            ConfigError: no such device here.
        """
        import torch

        if self.device == "auto":
            return default_device()
        try:
            device = torch.device(self.device)
            if device.type == "cuda" and device.index is None:
                device = torch.device("cuda", torch.cuda.current_device())
            torch.empty(1, device=device).item()  # the meta device has no values
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device '{self.device}' cannot be used ({reason}): try auto or cpu.") from None
        return device

    def resolve_workers(self) -> int:
        """Worker processes: none where they would only compete with training for two cores."""
        if self.workers is not None:
            return self.workers
        return 0 if usable_cores() <= 2 else min(8, usable_cores() // 2)
