"""Data loader whose order and augmentation depend on (seed, epoch, sample index) alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess, parent_process
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ..errors import ConfigError, LoaderError, counted
from .dataset import ImageSet
from .masks import Masks
from .object_boxes import BoxBatch, Boxes
from .splits import hash64
from .targets import Targets
from .transforms import ImageTransform

Transform = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """Some samples.

    Attributes:
        images: (B, C, H, W) float32.
        targets: what the images are labelled with, first axis = images; (B,) int64 for classification, a `BoxBatch` for
            detection.
        indices: (B,) int64, positions in the image set.
    """

    images: torch.Tensor
    targets: Any
    indices: torch.Tensor

    def pin_memory(self) -> Batch:
        """The same in page-locked memory; the name is the one that PyTorch's loader looks for."""
        return Batch(self.images.pin_memory(), self.targets.pin_memory(), self.indices.pin_memory())


@dataclass(frozen=True, eq=False)
class Loader:
    """An iterable of batches; len() is the number of batches left."""

    samples: _Samples
    batches: Sequence[Sequence[int]]
    workers: int = 0
    pin_memory: bool = False

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Generator[Batch, None, None]:
        """The batches; closing the generator ends its workers.

        Raises:
            LoaderError: a worker has died.
        """
        # Given a generator of its own, the DataLoader does not draw its base seed from the global one.
        loader: DataLoader[Batch] = DataLoader(
            self.samples,
            batch_sampler=self.batches,  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=_unchanged,
            pin_memory=self.pin_memory and torch.cuda.is_available(),
            generator=torch.Generator(),
            worker_init_fn=_begin,
        )
        batches = iter(loader)
        try:
            yield from batches
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            reason = " ".join(str(error).split())
            raise LoaderError(
                f"a process that prepares images has died ({reason}): start the same command again, with fewer workers."
            ) from None
        finally:
            _end(getattr(batches, "_workers", ()))


def _begin(worker: int) -> None:
    """Prepare a worker process for the ways in which its parent may end."""
    _ignore_interrupts(worker)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """PyTorch looks every 5 seconds whether the parent lives, and never sees one that died while its worker began."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C, a closed terminal and `timeout` reach the workers too: their parent decides what becomes of them."""
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _end(workers: Sequence[BaseProcess]) -> None:
    """End workers that are left, also one that hangs in a file system, for which PyTorch would wait."""
    last = time.monotonic() + 10.0  # only what hangs in the system lives on after a kill
    for worker in workers:
        with suppress(RuntimeError):  # PyTorch's complaint about a worker that was killed
            if worker.is_alive():
                worker.kill()  # they do not hear a termination
    for worker in workers:
        with suppress(RuntimeError):
            worker.join(max(0.0, last - time.monotonic()))


def make_loader(
    images: ImageSet,
    transform: ImageTransform | Transform,
    *,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    workers: int = 0,
    first_batch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    weights: NDArray[np.float64] | None = None,
) -> Loader:
    """Iterate over an image set once.

    The batches are the same for any number of workers, after a start in mid-epoch, and, taken together, for any
    number of processes.

    Args:
        images: the samples.
        transform: stored image -> (C, H, W) float32, as from `build_transform`; any randomness must come from
            torch's global CPU generator, which is seeded per sample and restored.
        batch_size: samples per batch over all processes together.
        seed, epoch: what order and augmentation depend on.
        shuffle: a random order instead of the stored one.
        drop_last: leave out a last batch that is not full. Training with several processes needs it: otherwise
            ranks get unequal shares of the last batch, down to an empty one.
        workers: worker processes, 0 for none.
        first_batch: batches to leave out at the start, to go on in mid-epoch.
        rank, world_size: this process takes positions rank, rank + world_size, ... of every batch.
        pin_memory: page-locked memory for the GPU; without effect where there is none.
        weights: (N,) draw as many samples as there are with replacement, in proportion to these, instead of each once.

    Raises:
        ConfigError: sizes that do not fit each other.
    """
    _check_sizes(len(images), batch_size, drop_last, workers, rank, world_size)
    order = _order(len(images), seed, epoch, shuffle, weights)
    starts = range(0, len(order), batch_size)
    batches = [order[start : start + batch_size] for start in starts]
    if drop_last and len(batches[-1]) < batch_size:
        batches.pop()
    if not 0 <= first_batch <= len(batches):
        raise ConfigError(f"first_batch is {first_batch}: expected 0 to {len(batches)}, the batches in an epoch.")
    mine = [batch[rank::world_size] for batch in batches[first_batch:]]
    return Loader(_Samples(images, transform, seed, epoch), mine, workers, pin_memory)


@dataclass(frozen=True, eq=False)
class _Samples(Dataset[Batch]):
    """Makes whole batches, in a worker or in the main process."""

    images: ImageSet
    transform: ImageTransform | Transform
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.tensor(list(indices), dtype=torch.int64)
        if isinstance(self.images.targets, Masks):
            images, masks = self._with_masks(indices or [0], self.images.targets)
            return Batch(images[: len(indices)], masks[: len(indices)], chosen)
        if isinstance(self.images.targets, Boxes):
            images, boxes = self._with_boxes(indices or [0], self.images.targets)
            return Batch(images[: len(indices)], boxes[: len(indices)], chosen)
        images = self._transformed(indices) if len(indices) else self._transformed([0])[:0]
        return Batch(images, self.images.targets.collate(chosen.numpy()), chosen)

    def _with_masks(self, indices: Sequence[int], masks: Masks) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (B, C, H, W) and masks (B, H, W) int64."""
        joint = self.transform.joint if isinstance(self.transform, ImageTransform) else None
        images, found = self._together(joint, "masks", indices, masks)
        return images, torch.stack(found).long()

    def _with_boxes(self, indices: Sequence[int], boxes: Boxes) -> tuple[torch.Tensor, BoxBatch]:
        """Inputs (B, C, H, W) and their targets, in pixels of the inputs."""
        joint = self.transform.boxes if isinstance(self.transform, ImageTransform) else None
        images, found = self._together(joint, "boxes", indices, boxes)
        return images, BoxBatch(found, boxes.most)

    def _together(
        self, joint: Callable[..., Any] | None, what: str, indices: Sequence[int], targets: Targets
    ) -> tuple[torch.Tensor, list[Any]]:
        """Images and targets that were brought to the input together."""
        if joint is None or not isinstance(self.transform, ImageTransform):
            raise ConfigError(f"images with {what} are augmented together: expected augment none, light or strong.")
        with torch.random.fork_rng(devices=[]), one_thread():
            pairs = []
            for index in indices:
                torch.default_generator.manual_seed(hash64(self.seed, self.epoch, index))
                pairs.append(joint(self.images.image(index), targets.get(index)))
            return self.transform.batch([image for image, _ in pairs]), [target for _, target in pairs]

    def _transformed(self, indices: Sequence[int]) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]), one_thread():
            if not isinstance(self.transform, ImageTransform):
                return torch.stack([self._one(self.transform, index) for index in indices])
            arrange, whole = self.transform.arrange, self.transform.whole
            draws = None if whole is None else whole.draws(self.seed, self.epoch, indices)
            if self.transform.is_random:
                return self.transform.batch([self._one(arrange, index) for index in indices], draws)
            return self.transform.batch([arrange(self.images.image(index)) for index in indices], draws)

    def _one(self, transform: Transform, index: int) -> torch.Tensor:
        # torch.manual_seed would also seed the GPU, whose state nobody restores here.
        torch.default_generator.manual_seed(hash64(self.seed, self.epoch, index))
        return transform(self.images.image(index))


@contextmanager
def one_thread() -> Iterator[None]:
    """A sample is too little work to share: on a busy machine, waiting for the other threads takes 50 times longer."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _order(count: int, seed: int, epoch: int, shuffle: bool, weights: NDArray[np.float64] | None) -> list[int]:
    if not shuffle:
        return list(range(count))
    generator = torch.Generator().manual_seed(hash64("order", seed, epoch))
    if weights is not None:
        return torch.multinomial(torch.from_numpy(weights), count, replacement=True, generator=generator).tolist()
    return torch.randperm(count, generator=generator).tolist()


def _unchanged(batch: Any) -> Any:
    return batch


def _check_sizes(count: int, batch_size: int, drop_last: bool, workers: int, rank: int, world_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: expected at least 1.")
    if workers < 0:
        raise ConfigError(f"workers is {workers}: expected 0 or more.")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank is {rank} with world_size {world_size}: expected 0 to world_size - 1.")
    if batch_size % world_size:
        raise ConfigError(f"batch_size {batch_size} cannot be shared by {world_size} processes: take a multiple.")
    if count == 0:
        raise ConfigError("the image set is empty: there is nothing to load.")
    if drop_last and count < batch_size:
        raise ConfigError(
            f"batch_size is {batch_size}, but there are only {counted(count, 'image')}: take a smaller batch."
        )
