"""Small data, small models and a watcher that acts at a chosen step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attngraft.backbones.metadata import BackboneInfo, note_backbone_
from attngraft.backbones.small_networks import SmallCNN
from attngraft.config import Preprocessing
from attngraft.data import DataReport, Dataset, ImageSet
from attngraft.data.pixel_store import decode_array
from attngraft.data.targets import LabelSets, Values
from attngraft.settings import DataSettings, MachineSettings, Settings
from attngraft.tasks import Classification
from attngraft.training import Evaluation, EvaluationContext, FitResult, Phase, Recipe, World, fit
from attngraft.training.run_context import RunContext

SIZE = 16
CLASSES = ("red", "green", "blue")
PREPROCESSING = Preprocessing(
    image_size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), interpolation="bilinear", crop_pct=1.0
)
# settings of every small run: nothing is timed, nothing depends on the machine
PLAIN: Mapping[str, Any] = {"precision": "fp32+contiguous", "workers": 0, "device": "cpu"}
TWO_PHASES = (
    Phase("head", train=("head", "grafts"), epochs=1, lr=0.05, warmup=0.3),
    Phase("all", epochs=2, lr=0.02, lr_decay=0.7),
)
ON_PLATEAU = Phase("all", epochs=4, lr=0.3, schedule="plateau", patience=1, gamma=0.5)


def image_set(name: str, count: int, first_seed: int) -> ImageSet:
    """Noise in which the channel of the class is a little brighter."""
    rng = np.random.default_rng(first_seed)
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    pixels = rng.integers(0, 200, size=(count, SIZE + 2, SIZE, 3))
    pixels[np.arange(count), :, :, labels] += 45
    decoded = decode_array(pixels.astype(np.uint8), limit=100)
    ids = tuple(f"{name}/{CLASSES[label]}/{i}.png" for i, label in enumerate(labels))
    return ImageSet(ids, labels, decoded.hashes, decoded.store, np.arange(count))


def coloured_squares(*, train: int = 48, test: int = 24, val: int = 0) -> Dataset:
    return Dataset(
        name="squares",
        classes=CLASSES,
        train=image_set("train", train, 0),
        val=image_set("val", val, 1) if val else None,
        test=image_set("test", test, 2),
        report=DataReport(),
        fingerprint=f"squares-{train}-{test}-{val}",
    )


class Droppy(nn.Module):
    """A small network with BatchNorm, dropout and stochastic depth."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        from torchvision.ops import StochasticDepth

        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depth = StochasticDepth(0.4, "row")
        self.down = nn.MaxPool2d(4)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8 * 16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.depth(self.branch(x))
        return self.head(self.drop(self.down(x).flatten(1)))


def with_targets(make: type[LabelSets] | type[Values], names: tuple[str, ...], table: np.ndarray) -> Dataset:
    """The coloured squares with other targets, looked up by the class."""
    data = coloured_squares(val=12)
    splits = {
        name: replace(getattr(data, name), targets=make(table[getattr(data, name).labels]))
        for name in ("train", "val", "test")
    }
    return replace(data, classes=names, fingerprint=make.__name__, task=make.task, **splits)


def small_model(classes: int = 3, seed: int = 0, width: int = 4) -> nn.Module:
    """SmallCNN, narrow, on 16 x 16 pixels; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return note_backbone_(SmallCNN(classes, width), BackboneInfo("small-cnn", classes, PREPROCESSING))


def droppy_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return note_backbone_(Droppy(), BackboneInfo("droppy", 3, PREPROCESSING))


def classes_evaluation(probabilities: np.ndarray, labels: np.ndarray, ids: tuple[str, ...] | None = None) -> Evaluation:
    """Predictions of classes with numbers for names."""
    rows = {"probabilities": np.asarray(probabilities, dtype=np.float32), "labels": np.asarray(labels, dtype=np.int64)}
    names = tuple(map(str, range(rows["probabilities"].shape[1])))
    return Evaluation(rows, tuple(map(str, range(len(labels)))) if ids is None else ids, Classification(names))


def classes_context(**fields: Any) -> EvaluationContext:
    """How the small models predict the classes of the coloured squares."""
    return EvaluationContext(Classification(CLASSES), fields.pop("preprocessing", PREPROCESSING), **fields)


def classes_run_context(data: Dataset, **fields: Any) -> RunContext:
    """What a training on the coloured squares depends on."""
    settings = Settings(short_recipe(), DataSettings(), MachineSettings())
    return RunContext(
        **{
            "dataset": data,
            "task": Classification(CLASSES),
            "preprocessing": PREPROCESSING,
            "settings": settings,
            "seed": 0,
            "device": torch.device("cpu"),
            "world": World(),
            "checkpoints": Path("checkpoints"),
            **fields,
        }
    )


def short_recipe(epochs: int = 2, **fields: Any) -> Recipe:
    """Everything trained at once with SGD, 3 steps of 16 images per epoch."""
    phase = Phase("all", epochs=epochs, lr=fields.pop("lr", 0.05), schedule=fields.pop("schedule", "cosine"))
    return Recipe("short", (phase,), **{"optimizer": "sgd", "batch_size": 16, **fields})


def run_fit(model: nn.Module, data: Dataset, folder: Path, **options: Any) -> FitResult:
    return fit(model, data, run_dir=folder, **{"recipe": short_recipe(), **PLAIN, **options})


class AtStep:
    """A watcher that does something after the given optimiser step of a training."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.step, self.act, self.done = step, act, 0

    def start(self, title: str, total: int, done: int = 0) -> None:
        self.done = done

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if self.done == self.step:
            self.act()

    def note(self, values: Mapping[str, Any]) -> None:
        return

    def stop(self) -> None:
        return


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl` without what a clock measured."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in {"time_s", "images_per_s"}} for row in rows]


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


def assert_same_run(one: FitResult, other: FitResult) -> None:
    """Weights, metrics and predictions agree in every bit."""
    assert_same_weights(one.model, other.model)
    assert metrics(one.run_dir) == metrics(other.run_dir)
    assert np.array_equal(one.evaluation.probabilities, other.evaluation.probabilities)
    assert one.evaluation.ids == other.evaluation.ids


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the lock, which is not of anybody."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
