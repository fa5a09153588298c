"""What an adaptation brings back, and what a watched stream serves: python benchmarks/adaptation.py PART CIFAR10 WORK RESULT.json

PART is "shifts" or "streams". CIFAR10 holds train/CLASS/* and test/CLASS/*. A ResNet-20 with CBAM is trained on 20,000 of
the training images once, in WORK; the 30,000 others are corrupted and become new data, so that nothing is judged on images
that were learned from. Every number is measured on images that neither the training nor any choice has seen.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import attngraft as ag
from attngraft.continual import GuardPolicy, Store, Watch, WatchOptions, adapt, create_store
from attngraft.continual.adaptation.candidate_training import CandidateTraining, Trained, evaluate_version
from attngraft.continual.images.stored_domains import Domains
from attngraft.data import ImageSet, corrupted, joined, load_labelled
from attngraft.environment import hardware, versions
from attngraft.files import read_json, write_json
from attngraft.statistics.effects import crossed_effect
from attngraft.training import fit

LEARNED = 20_000
LABELS, TESTED = 1000, 2000
SHIFTS = (("contrast", 4), ("gaussian-noise", 5), ("defocus-blur", 4), ("jpeg", 5))
SEEDS = (0, 1)
WINDOW = 500
DELTA = 0.03
LEAST_GAIN = 0.02
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Data:
    """Images that the base has never seen."""

    unseen: ImageSet
    folder: Path

    def some(self, count: int, seed: int, skip: int = 0) -> ImageSet:
        order = np.random.default_rng(seed).permutation(len(self.unseen))
        return self.unseen.select(order[skip : skip + count])


def base_run(data: Path, work: Path) -> Path:
    """ResNet-20 with CBAM on 20,000 images, 12 epochs."""
    run = work / "base"
    if not (run / "model.safetensors").is_file():
        torch.manual_seed(0)
        model = ag.graft_(ag.create_backbone("resnet20-32", num_classes=10), "cbam", input_size=(3, 32, 32))
        options: dict[str, Any] = {"limit": LEARNED, "batch_size": 128, "lr_scale": 3.0, "workers": 0}
        fit(model, data, recipe="one-cycle", run_dir=run, epochs=12, precision="fp32+channels_last", **options)
    return run


def prepared(data: Path, work: Path) -> tuple[Path, Data]:
    """A store that no adaptation has touched, and unseen images."""
    template = work / "template"
    if not template.exists():
        policy = GuardPolicy(delta=DELTA, class_delta=0.15)
        create_store(template, base_run(data, work), policy=policy)
    store = Store.open(template)
    images, _ = load_labelled(data / "train", store.classes, image_size=32)
    known = Domains(template).known()
    fresh = [i for i, digest in enumerate(images.pixel_hashes) if digest not in known]
    return template, Data(images.select(fresh), work)


def shifts(template: Path, data: Data, work: Path) -> dict[str, Any]:
    """1,000 labels of one shift: the adaptation and its controls on 2,000 other images of the shift, and on clean ones."""
    clean = data.some(TESTED, seed=99)
    used = set(clean.pixel_hashes)
    rest = Data(data.unseen.select([i for i, p in enumerate(data.unseen.pixel_hashes) if p not in used]), work)
    rows = []
    for kind, severity in SHIFTS:
        tested = corrupted(rest.some(TESTED, seed=7), kind, severity)
        for seed in SEEDS:
            labelled = corrupted(rest.some(LABELS, seed=100 + seed, skip=0), kind, severity)
            apart = set(tested.ids)
            labelled = labelled.select([i for i, name in enumerate(labelled.ids) if name not in apart])
            name = f"{kind}-{severity}"
            kept = work / "rows" / f"{name}-{seed}.json"  # the same command goes on where it was stopped
            if not kept.is_file():
                write_json(kept, one_shift(template, work, name, labelled, tested, clean, seed))
            rows.append(read_json(kept))
    return {"labels": LABELS, "tested": TESTED, "seeds": list(SEEDS), "rows": rows, "summary": summary(rows)}


def one_shift(
    template: Path, work: Path, name: str, labelled: ImageSet, tested: ImageSet, clean: ImageSet, seed: int
) -> dict[str, Any]:
    folder = work / "store"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    kept: dict[str, nn.Module] = {}

    real = CandidateTraining.variants

    def keeping(training: CandidateTraining, allowed_loss: float) -> tuple[dict[str, Trained], Any]:
        trained, blend = real(training, allowed_loss)
        kept.update({variant: one.model for variant, one in trained.items()})
        return trained, blend

    CandidateTraining.variants = keeping  # type: ignore[method-assign]  # the controls' weights are not kept otherwise
    begun = time.perf_counter()
    try:
        found = adapt(folder, labelled, name=name, seed=seed, precision="fp32+channels_last", workers=0)
    finally:
        CandidateTraining.variants = real  # type: ignore[method-assign]
    seconds = time.perf_counter() - begun
    rows = {row["name"]: row for row in found.document["variants"]}
    right = {variant: evaluate_version(model, tested, CPU).correct for variant, model in kept.items()}
    old = {variant: evaluate_version(model, clean, CPU).score for variant, model in kept.items()}
    gain = {v: crossed_effect((right[v].astype(float) - right["none"].astype(float))[None]) for v in right}
    return {
        "shift": name,
        "seed": seed,
        "labelled": len(labelled),
        "status": found.status,
        "seconds": seconds,
        "recovery": gain["adapted"].mean / gain["all"].mean if gain["all"].mean > LEAST_GAIN else None,
        "variants": [
            {
                "name": variant,
                "new_top1": float(right[variant].mean()),
                "clean_top1": old[variant],
                "gain": [gain[variant].mean, gain[variant].low, gain[variant].high],
                "changed": rows[variant]["changed_parameters"] / rows[variant]["parameters"],
                "minutes": rows[variant]["minutes"],
            }
            for variant in right
        ],
    }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds, per shift."""
    found = []
    for shift in dict.fromkeys(row["shift"] for row in rows):
        mine = [row for row in rows if row["shift"] == shift]
        names = [variant["name"] for variant in mine[0]["variants"]]
        mean = {
            name: {
                key: float(np.mean([v[key] for row in mine for v in row["variants"] if v["name"] == name]))
                for key in ("new_top1", "clean_top1", "changed")
            }
            for name in names
        }
        gains = {name: mean[name]["new_top1"] - mean["none"]["new_top1"] for name in names}
        found.append(
            {
                "shift": shift,
                "runs": len(mine),
                "promoted": sum(row["status"] == "promoted" for row in mine),
                # where fine-tuning everything hardly gains, there is nothing to recover
                "recovery": gains["adapted"] / gains["all"] if gains["all"] > LEAST_GAIN else None,
                "seconds": [row["seconds"] for row in mine],
                "variants": mean,
            }
        )
    return found


def streams(template: Path, data: Data, work: Path) -> dict[str, Any]:
    """What is served along streams with drift, against the version that was served at their beginning."""
    found = {name: one_stream(template, data, work, name, make) for name, make in STREAMS.items()}
    return {"window": WINDOW, "delta": DELTA, "streams": found}


def abrupt(data: Data) -> list[ImageSet]:
    """Two clean windows, then six with little contrast."""
    images = data.some(8 * WINDOW, seed=11)
    return [window(images, k) if k < 2 else corrupted(window(images, k), "contrast", 4) for k in range(8)]


def mixed(data: Data) -> list[ImageSet]:
    """Two clean windows, then six of which each is half clean and half of little contrast."""
    images = data.some(8 * WINDOW, seed=12)
    half = WINDOW // 2
    found = [window(images, k) for k in range(2)]
    for k in range(2, 8):
        whole = window(images, k)
        pair = [whole.select(range(half)), corrupted(whole.select(range(half, WINDOW)), "contrast", 4)]
        found.append(joined(pair))
    return found


def ordered(data: Data) -> list[ImageSet]:
    """Class after class, clean at first and then with little contrast."""
    images = data.some(8 * WINDOW, seed=13)
    images = images.select(np.argsort(images.labels, kind="stable"))
    clean = [window(images, k) for k in range(0, 8, 2)]
    return clean + [corrupted(window(images, k), "contrast", 4) for k in range(1, 8, 2)]


STREAMS = {"abrupt": abrupt, "mixed": mixed, "class-ordered": ordered}


def window(images: ImageSet, number: int) -> ImageSet:
    return images.select(range(number * WINDOW, (number + 1) * WINDOW))


def one_stream(template: Path, data: Data, work: Path, name: str, make: Any) -> dict[str, Any]:
    """Feed a stream to a watch, part by part; its owner fills in every table at once."""
    folder, inbox = work / f"stream-{name}", work / f"inbox-{name}"
    for path in (folder, inbox):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(template, folder)
    inbox.mkdir()
    store, said = Store.open(folder), []
    frozen, classes, clean = store.model(), store.classes, data.some(TESTED, seed=99)
    options = WatchOptions(window=WINDOW, labels_needed=700, labels_wanted=1000, settle_s=0)
    watch = Watch(folder, inbox, options=options, adapt_options={"controls": False, "workers": 0}, say=said.append)
    clean_top1 = {store.head: evaluate_version(frozen, clean, CPU).score}
    truth: dict[str, str] = {}
    rows = []
    for number, images in enumerate(make(data)):
        rows.append(compared(store, frozen, images, clean_top1[store.head]))
        for i in range(len(images)):
            path = inbox / f"{number:03d}-{i:04d}.png"
            Image.fromarray(images.image(i).permute(1, 2, 0).numpy()).save(path)
            truth[str(path.resolve())] = classes[images.labels[i]]
        while watch.step():
            fill_in(folder / "watch" / "labels-wanted", truth)
        fill_in(folder / "watch" / "labels-wanted", truth)
        while watch.step():
            pass
        if store.head not in clean_top1:
            clean_top1[store.head] = evaluate_version(store.model(), clean, CPU).score
    first = clean_top1[store.base]
    return {
        "parts": rows,
        "worst": min(row["served_top1"] - row["frozen_top1"] for row in rows),
        "worst_clean": min(top1 - first for top1 in clean_top1.values()),
        "promotions": len(clean_top1) - 1,
        "said": [sentence.replace(str(work), "WORK") for sentence in said],
    }


def compared(store: Store, frozen: nn.Module, images: ImageSet, clean_top1: float) -> dict[str, Any]:
    """What is served and what was, on a part of the stream that neither has seen."""
    return {
        "served": store.head,
        "served_top1": evaluate_version(store.model(), images, CPU).score,
        "frozen_top1": evaluate_version(frozen, images, CPU).score,
        "served_clean_top1": clean_top1,
    }


def fill_in(tables: Path, truth: dict[str, str]) -> None:
    for table in sorted(tables.glob("*.csv")):
        rows = [line.split(",")[0] for line in table.read_text().splitlines()[1:]]
        text = "\n".join(["path,label", *(f"{row},{truth[row]}" for row in rows), ""])
        if table.read_text() != text:
            table.write_text(text)


if __name__ == "__main__":
    part, source, place, target = sys.argv[1], *(Path(word) for word in sys.argv[2:5])
    started = prepared(source, place)
    document = {"shifts": shifts, "streams": streams}[part](*started, place)
    about = {"format": 1, "kind": f"adaptation {part}", "hardware": hardware(), "versions": versions()}
    base = Store.open(started[0]).model()
    about["base_top1"] = evaluate_version(base, started[1].some(TESTED, seed=99), CPU).score
    write_json(target, {**about, **document})
