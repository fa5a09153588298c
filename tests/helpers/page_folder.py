"""The folder in which a page is followed: the images, files and earlier results that its blocks name.

What is made here are circumstances: few and small images, a narrow network under the name resnet18 with weights in the
cache of torch, CIFAR-10 with 40 images. The blocks themselves run as they are written.
"""

from __future__ import annotations

import csv
import hashlib
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapting import Shift, Stores, base_data, coloured_noise, reddish
from PIL import Image
from safetensors.torch import load_file

import attngraft as ag

GOLDEN = Path(__file__).parents[1] / "golden"
LONG_AGO = 1e9
HELD_OUT = 2000
SIZE = 32
CLASSES = ("red", "green", "blue", "yellow", "teal")
COLOURS = np.array([[50, 0, 0], [0, 50, 0], [0, 0, 50], [50, 50, 0], [0, 50, 50]])
SPLITS = {"train": 6, "test": 3}
QUICK: dict[str, Any] = {"recipe": "one-cycle", "epochs": 1, "precision": "fp32+contiguous", "workers": 0}


def image(label: int, seed: int) -> Image.Image:
    """Noise in the colour of its class."""
    noise = np.random.default_rng((seed, label)).integers(0, 200, (SIZE, SIZE, 3)) + COLOURS[label]
    return Image.fromarray(noise.astype(np.uint8))


def class_folders(folder: Path, each: int, seed: int) -> None:
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            image(label, seed + number).save(folder / name / f"{number}.png")


def photos(folder: Path) -> None:
    """Class folders with a split for training and one for the test."""
    for first, (split, each) in enumerate(SPLITS.items()):
        class_folders(folder / split, each, 100 * first)


def table(path: Path, header: str, row: Callable[[int], str]) -> None:
    """A CSV file, with the whole paths of its images."""
    lines = [header]
    for number in range(40):
        file = path.parent.absolute() / f"{path.stem}-images/{number}.png"
        file.parent.mkdir(exist_ok=True)
        image(number % 5, 500 + number).save(file)
        lines.append(f"{file},{row(number)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def boxes(path: Path) -> None:
    rows = [f"{name.relative_to('photos/test')},4,4,20,20" for name in sorted(Path("photos/test").rglob("*.png"))]
    path.write_text("\n".join(["image,x0,y0,x1,y1", *rows]) + "\n", encoding="utf-8")


def predictions(path: Path, seeds: tuple[int, ...]) -> None:
    """What another program has predicted, in its columns."""
    columns: dict[str, list[Any]] = {"image": [], "seed": [], "variant": [], "label": [], "prediction": []}
    for seed in seeds:
        for place, variant in enumerate(("plain", "cbam", "static")):
            right = np.random.default_rng((seed, place)).random(60) < 0.8
            for number in range(60):
                truth = number % 2
                row = (f"{number}.png", seed, variant, "ab"[truth], "ab"[truth if right[number] else 1 - truth])
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
    if path.suffix == ".npz":
        np.savez(path, **{name: np.array(values) for name, values in columns.items()})
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])


def network(classes: int = 5) -> torch.nn.Module:
    """Its attention does something: in so short a training nothing else would make it."""
    torch.manual_seed(0)
    model = ag.graft_(ag.create_backbone("timm:resnet18", pretrained=True, num_classes=classes), "cbam")
    with torch.no_grad():
        for parameter in torch.nn.ModuleList(ag.grafts(model).values()).parameters():
            parameter.add_(3 * torch.randn_like(parameter))
    return model


def weights(path: Path) -> None:
    torch.save({"state_dict": ag.create_backbone("timm:resnet18", pretrained=True).state_dict()}, path)


def run(path: Path) -> None:
    """A run of a grafted network on the photos."""
    ag.fit(network(), "photos/", run_dir=path, **{**QUICK, "epochs": 4, "lr": 0.01})


def comparison(path: Path, data: str = "photos/") -> None:
    ag.compare(data, backbone="timm:resnet18", attentions=["cbam"], seeds=2, run_dir=path, **QUICK)


def digits(path: Path) -> None:
    model = ag.create_backbone("small-cnn", num_classes=10)
    ag.fit(model, "cluttered-digits", run_dir=path, image_size=SIZE, limit=50, **QUICK)


def checkpoint(path: Path) -> None:
    """A checkpoint of CBAM's authors, as far as it is read, for 256 channels instead of 32."""
    wider = {32: 256, 2: 16}
    state = {}
    for name, tensor in load_file(GOLDEN / "cbam.safetensors").items():
        size = [wider.get(n, n) for n in tensor.shape] if "ChannelGate" in name else tensor.shape
        state[name.replace("state.", "module.layer1.0.cbam.")] = torch.zeros(size)
    torch.save({"state_dict": state}, path)


def store(path: Path) -> None:
    """A small network in use, with enough held-out images for windows of 500."""
    Stores().make(path, data=replace(base_data(), test=coloured_noise(HELD_OUT, 1)))


def new_images(folder: Path, counts: tuple[tuple[int, Shift | None], ...], labels: str | None = None) -> None:
    """Images for that store, old enough to be read: in folders of their classes, or in one with a table of labels."""
    lines = ["path,label"]
    for part, (count, shift) in enumerate(counts):
        images = coloured_noise(count, 50 + part, shift)
        for number, label in enumerate(images.labels):
            place = folder if labels else folder / CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            file = place / f"{part}-{number:03}.png"
            Image.fromarray(images.image(number).permute(1, 2, 0).numpy()).save(file)
            os.utime(file, (LONG_AGO + 1000 * part + number,) * 2)
            lines.append(f"{file},{CLASSES[label]}")
    if labels:
        Path(labels).write_text("\n".join(lines) + "\n", encoding="utf-8")


DATA_SETS = ("flowers", "birds", "aircraft", "cars")
MADE: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "photos": ((), photos),
    **{name: ((), partial(class_folders, each=8, seed=900 + 50 * i)) for i, name in enumerate(DATA_SETS)},
    "more/x.jpg": ((), lambda path: image(0, 700).save(path)),
    "birds.csv": ((), partial(table, header="path,labels", row=lambda n: "|".join("ab"[: 1 + n % 2]))),
    "ages.csv": ((), partial(table, header="path,age", row=lambda n: str(20 + n % 5 * 9 + n / 40))),
    "boxes.csv": (("photos",), boxes),
    "runs.csv": ((), partial(predictions, seeds=(0, 1))),
    "more.npz": ((), partial(predictions, seeds=(2,))),
    "resnet18-ours.pth": ((), weights),
    "cbam-of-the-authors.pth": ((), checkpoint),
    "runs/cbam-0": (("photos",), run),
    "runs/digits": ((), digits),
    "runs/": (("runs/cbam-0",), lambda path: None),
    "runs/cmp": (("photos",), comparison),
    **{f"runs/{name}": ((name,), partial(comparison, data=name)) for name in DATA_SETS},
    "stores/photos": ((), store),
    "stores/digits": ((), store),
    "photos-of-today": ((), partial(new_images, counts=((397, reddish),))),
    "haze": ((), partial(new_images, counts=((397, reddish),))),
    "inbox": ((), partial(new_images, counts=((120, None),), labels="inbox.csv")),
    "stream": ((), partial(new_images, counts=((100, None), (397, reddish)), labels="labels.csv")),
    "labels.csv": (("stream",), lambda path: None),
}


def missing(code: str) -> list[str]:
    """What the blocks of a page name before they make it."""
    found = []
    for name in MADE:
        made = rf"(--out |run_dir=|create_store\()?['\"]?(?<![\w/.-]){re.escape(name)}(?![\w.-])(/?[ ]--create)?"
        mention = re.search(made, code)
        if mention and not mention[1] and not mention[2]:
            found.append(name)
    return found


def make(names: Iterable[str]) -> None:
    """Make what is named, and what that needs, in the working directory, where it is not there yet."""
    for name in names:
        needs, write = MADE[name]
        make(needs)
        if not Path(name).exists():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            write(Path(name))


def copy(name: str, source: Path) -> None:
    """Copy a file or folder from another folder into the working directory; times of files stay."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    found = source / name
    (shutil.copytree if found.is_dir() else shutil.copy2)(found, name)


def narrow_resnet18_(patch: Any, cache: Path) -> None:
    """timm's resnet18 with few channels and small images of its own, and its published file in the cache of torch."""
    from timm.models import _registry, resnet

    name = "resnet18"
    published = replace(
        _registry.get_pretrained_cfg(name),
        hf_hub_id=None,
        input_size=(3, SIZE, SIZE),
        test_input_size=None,
        pool_size=(1, 1),
    )

    def narrow(pretrained: bool = False, **options: Any) -> torch.nn.Module:
        shape = {
            "block": resnet.BasicBlock,
            "layers": (1, 1, 1, 1),
            "channels": (8, 16, 16, 16),
            "zero_init_last": False,
        }
        return resnet._create_resnet(name, pretrained, **{**shape, **options})

    patch.setitem(_registry._model_entrypoints, name, narrow)
    for known in (name, f"{name}.{published.tag}"):
        patch.setitem(_registry._model_pretrained_cfgs, known, published)
    patch.setenv("TORCH_HOME", str(cache))
    file = cache / "hub/checkpoints" / published.url.rpartition("/")[2]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.save(narrow().state_dict(), file)


def small_cifar10_(patch: Any, root: Path) -> None:
    """CIFAR-10's files with 40 images, and their digests where torchvision looks them up."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def file(name: str, content: dict[str, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def part(name: str) -> list[str]:
        return file(name, {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [*range(10)] * 2})

    meta = {"label_names": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]}
    name, digest = file("batches.meta", meta)
    patch.setattr(CIFAR10, "train_list", [part("data_batch_1")])
    patch.setattr(CIFAR10, "test_list", [part("test_batch")])
    patch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})
