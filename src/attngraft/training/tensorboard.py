"""Write TensorBoard files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any


class Board(AbstractContextManager["Board"]):
    """TensorBoard scalars, one per number of an epoch's row.

    Args:
        folder: for the event files; None writes nothing.
        epochs_done: of a run that goes on; what was written for later epochs is forgotten.
    """

    def __init__(self, folder: Path | None, epochs_done: int = 0) -> None:
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        pace = {f"dynamic/{key}": value for key, value in row.get("dynamic", {}).items()}
        for key, value in {**row, **pace}.items():
            if isinstance(value, float):
                self._writer.add_scalar(key, value, row["epoch"])
        self._writer.flush()

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.close()
