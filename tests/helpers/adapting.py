"""A small store, and labelled images of kinds that its base has not met."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import attngraft as ag
from attngraft.continual.adaptation.create_store import create_store
from attngraft.continual.guard.guard import GuardPolicy
from attngraft.data import DataReport, Dataset, ImageSet
from attngraft.data.pixel_store import decode_array
from attngraft.surgery.version_store.store import Store
from attngraft.training import Phase, Recipe, fit

SIZE = 8
CLASSES = ("red", "green", "blue")
# nothing is timed, nothing depends on the machine
MACHINE = {"device": "cpu", "precision": "fp32+contiguous", "workers": 0}
QUICK: dict[str, Any] = {**MACHINE, "epochs": 3, "replay": 90, "lr": 0.01, "blends": (0.5, 1.0)}
POLICY = GuardPolicy(delta=0.1, class_delta=None)

Shift = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def coloured_noise(count: int, seed: int, shift: Shift | None = None) -> ImageSet:
    """Noise in which the channel of the class is a little brighter, and what `shift` makes of it."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    pixels = rng.integers(0, 200, size=(count, SIZE, SIZE, 3)).astype(np.float64)
    pixels[np.arange(count), :, :, labels] += 50
    if shift is not None:
        pixels, labels = shift(pixels, labels)
    decoded = decode_array(np.clip(pixels, 0, 255).round().astype(np.uint8), limit=100)
    ids = tuple(f"{seed}/{position}.png" for position in range(count))
    return ImageSet(ids, labels, decoded.hashes, decoded.store, np.arange(count))


def reddish(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Another light: everything looks like the first class."""
    return pixels * np.array([1.0, 0.7, 0.7]) + np.array([30.0, 0.0, 0.0]), labels


def teal(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A third light."""
    return pixels * np.array([0.75, 1.0, 1.0]) + np.array([0.0, 15.0, 15.0]), labels


def shuffled(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """There is nothing to learn."""
    return reddish(pixels, np.random.default_rng(5).permutation(labels))


def relabelled(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same images mean something else: who learns this forgets what was."""
    return pixels, (labels + 1) % len(CLASSES)


def base_data() -> Dataset:
    return Dataset("lights", CLASSES, coloured_noise(240, 0), None, coloured_noise(900, 1), DataReport(), "lights")


def trained() -> nn.Module:
    """Small-cnn with CBAM, right on nearly all of the base's images."""
    import tempfile

    torch.manual_seed(0)
    model = ag.graft_(ag.create_backbone("small-cnn", num_classes=3), "cbam", input_size=(3, SIZE, SIZE))
    recipe = Recipe("quick", (Phase("all", epochs=3, lr=3e-3),), augment="none")
    with tempfile.TemporaryDirectory() as folder:
        fit(model, base_data(), recipe=recipe, run_dir=folder, image_size=SIZE, curve=False, **MACHINE)
    return model


class Stores:
    """Makes equal stores in new folders; the model is trained once."""

    def __init__(self) -> None:
        self._model: nn.Module | None = None

    def make(self, folder: Path, **options: Any) -> Store:
        if self._model is None:
            self._model = trained()
        given = {"policy": POLICY, "data": base_data(), **options}
        return create_store(folder, copy.deepcopy(self._model), **given)
