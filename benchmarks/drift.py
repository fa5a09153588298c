"""How often the drift test alarms, and at what: python benchmarks/drift.py CIFAR10_FOLDER WORK_FOLDER RESULT.json

CIFAR10_FOLDER holds train/CLASS/* and test/CLASS/*. A small network is trained on 10,000 of the training images; the
40,000 others and the test images are streams that it has not seen. Everything is kept in WORK_FOLDER, so the same command
goes on where it was stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import attngraft as ag
from attngraft.continual.drift.cusum import ErrorCusum, safe_error_rate
from attngraft.continual.drift.detector import Detector, DriftPolicy, WindowTest, calibrate
from attngraft.continual.drift.drift_reference import Reference, input_statistics
from attngraft.data import CORRUPTIONS, SEVERITIES, ImageSet, corrupted, load_data, load_labelled
from attngraft.environment import hardware, versions
from attngraft.files import write_json
from attngraft.surgery import load
from attngraft.training import EvaluationContext, evaluate, fit

WINDOW = 500
REFERENCE = 4000
SPLITS = 40
PASSES = 5  # random orders of the stream of a split, each cut into windows
PREVALENCE = 0.2
LEARNED = 10_000


def main(data: Path, work: Path, result: Path) -> None:
    torch.set_num_threads(1)
    model = trained(data, work)
    unseen, test = streams(data)
    clean = reference_of(model, unseen, work / "unseen.safetensors")
    held_out = reference_of(model, test, work / "test.safetensors")
    chance = np.random.default_rng(0)
    document: dict[str, Any] = {
        "format": 1,
        "kind": "drift benchmark",
        "network": "resnet20-32 with cbam, 12 epochs on 10,000 CIFAR-10 images",
        "top1_test": float(1 - held_out.errors.mean()),  # type: ignore[union-attr]
        "window": WINDOW,
        "hardware": hardware(),
        "versions": versions(),
    }
    document["clean"] = [clean_rates(clean, held_out, size, window, chance) for size, window in CLEAN]
    known = [sample(clean, REFERENCE, chance)[0] for _ in range(3)]
    detectors = [calibrate(reference, DriftPolicy(WINDOW), seed=i) for i, reference in enumerate(known)]
    blind = [calibrate(without_inputs(reference), DriftPolicy(WINDOW), seed=i) for i, reference in enumerate(known)]
    drifted = {}
    for name in CORRUPTIONS:
        for severity in SEVERITIES:
            images = test.select(np.arange(0, len(test), 2))
            path = work / f"{name}-{severity}.npz"
            worse = read_reference(path) if path.is_file() else None
            worse = worse or reference_of(model, corrupted(images, name, severity), path)
            drifted[name, severity] = worse
    document["detection"] = detection(detectors, blind, drifted, chance)
    document["mixed"] = mixed_stream(detectors, held_out, drifted, chance)
    document["proportions"] = proportions(detectors, held_out, test, chance)
    document["cusum"] = accuracy(clean, held_out, drifted, chance)
    write_json(result, document)


CLEAN = [(1000, WINDOW), (2000, WINDOW), (REFERENCE, WINDOW), (REFERENCE, 100)]


def trained(data: Path, work: Path) -> torch.nn.Module:
    if not (work / "run" / "model.safetensors").is_file():
        torch.manual_seed(0)
        model = ag.graft(ag.create_backbone("resnet20-32", num_classes=10), "cbam")
        dataset = load_data(data, image_size=32, limit=LEARNED)
        fit(model, dataset, recipe="scratch", run_dir=work / "run", seed=0, epochs=12)
    return load(work / "run").eval()


def streams(data: Path) -> tuple[ImageSet, ImageSet]:
    """The training images that were not learned from, and the test images."""
    learned = load_data(data, image_size=32, limit=LEARNED)
    images, _ = load_labelled(data, learned.classes, image_size=32)
    known = set(learned.train.pixel_hashes) | set(learned.test.pixel_hashes)
    unseen = [i for i, pixels in enumerate(images.pixel_hashes) if pixels not in known]
    return images.select(unseen), learned.test


def reference_of(model: torch.nn.Module, images: ImageSet, path: Path) -> Reference:
    if not path.is_file():
        found = evaluate(model, images, EvaluationContext.of(model))
        np.savez(path, probabilities=found.probabilities, inputs=input_statistics(images), errors=~found.correct)
    return read_reference(path)


def read_reference(path: Path) -> Reference:
    with np.load(path) as arrays:
        return Reference(arrays["probabilities"], arrays["inputs"], arrays["errors"])


def sample(stream: Reference, count: int, chance: np.random.Generator) -> tuple[Reference, Reference]:
    """So many images at random, and the others in random order."""
    order = chance.permutation(len(stream))
    return rows(stream, order[:count]), rows(stream, order[count:])


def rows(stream: Reference, at: NDArray[np.int64]) -> Reference:
    errors = None if stream.errors is None else stream.errors[at]
    return Reference(stream.probabilities[at], stream.inputs[at], errors)


def without_inputs(stream: Reference) -> Reference:
    """The answers alone."""
    return Reference(stream.probabilities, stream.inputs[:, :0], stream.errors)


def windows(stream: Reference, size: int) -> Iterator[Reference]:
    """Disjoint windows, in order."""
    for start in range(0, len(stream) - size + 1, size):
        yield rows(stream, np.arange(start, start + size))


def tested(detector: Detector, window: Reference) -> WindowTest:
    return detector.test(window.probabilities, window.inputs)


def wilson(hits: int, n: int) -> list[float]:
    """95 % interval of a proportion (Wilson, JASA 22, 1927)."""
    z, p = 1.959964, hits / n
    centre, half = p + z * z / (2 * n), z * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return [round((centre - half) / (1 + z * z / n), 5), round((centre + half) / (1 + z * z / n), 5)]


def rate(hits: int, n: int) -> dict[str, Any]:
    return {"hits": hits, "n": n, "rate": hits / n, "wilson95": wilson(hits, n)}


def clean_rates(
    clean: Reference, held_out: Reference, reference: int, window: int, chance: np.random.Generator
) -> dict[str, Any]:
    """Alarms on windows of clean images: the reference from one part, all windows from the others."""
    pool = Reference(
        np.concatenate([clean.probabilities, held_out.probabilities]), np.concatenate([clean.inputs, held_out.inputs])
    )
    alarms, plain, counts, thresholds, seconds = [], [], [], [], []
    for split in range(SPLITS):
        known, stream = sample(pool, reference, chance)
        started = time.process_time()
        detector = calibrate(known, DriftPolicy(WINDOW), seed=split)
        seconds.append(time.process_time() - started)
        orders = (sample(stream, 0, chance)[1] for _ in range(PASSES))
        found = [tested(detector, part) for order in orders for part in islice(windows(order, window), 90)]
        alarms.append(sum(one.drift for one in found))
        plain.append(sum(one.p_value < detector.policy.false_alarms for one in found))
        counts.append(len(found))
        thresholds.append(detector.threshold)
    by_split = np.array(alarms) / np.array(counts)
    plain_by_split = np.array(plain) / np.array(counts)
    return {
        "reference": reference,
        "images_in_window": window,
        "splits": SPLITS,
        "alarms": rate(sum(alarms), sum(counts)),
        "worst_split": float(by_split.max()),
        "splits_above_1_percent": int((by_split > 0.01).sum()),
        "bonferroni_alone": rate(sum(plain), sum(counts)),
        "bonferroni_worst_split": float(plain_by_split.max()),
        "bonferroni_splits_above_1_percent": int((plain_by_split > 0.01).sum()),
        "median_threshold": float(np.median(thresholds)),
        "median_calibration_cpu_s": float(np.median(seconds)),
    }


def detection(
    detectors: list[Detector],
    blind: list[Detector],
    drifted: dict[tuple[str, int], Reference],
    chance: np.random.Generator,
) -> dict[str, Any]:
    """Alarms by kind and severity; a pair of windows sees what one of them sees."""
    table, pairs, wrong = [], [0, 0], [0, 0]
    for (name, severity), stream in drifted.items():
        single, seen, mistaken = [], [], 0
        first: dict[str, int] = {}
        by_answers = [
            tested(detector, without_inputs(part)).drift
            for detector in blind
            for part in windows(sample(stream, 0, chance)[1], WINDOW)
        ]
        for detector in detectors:
            found = [tested(detector, part) for part in windows(sample(stream, 0, chance)[1], WINDOW)]
            single += [one.drift for one in found]
            seen += [a.drift or b.drift for a, b in zip(found[::2], found[1::2], strict=False)]
            mistaken += sum(one.only_proportions for one in found)
            for one in found:
                reason = one.reasons[0] if one.reasons else "nothing"
                first[reason] = first.get(reason, 0) + 1
        table.append(
            {
                "corruption": name,
                "severity": severity,
                "top1": float(1 - stream.errors.mean()),  # type: ignore[union-attr]
                "seen_in_one": rate(sum(single), len(single)),
                "seen_in_two": rate(sum(seen), len(seen)),
                "seen_in_one_by_answers_alone": rate(sum(by_answers), len(by_answers)),
                "said_proportions": mistaken,
                "first_reason": max(first, key=lambda reason: first[reason]),
            }
        )
        wrong = [wrong[0] + mistaken, wrong[1] + sum(single)]
        if severity == 5:
            pairs = [pairs[0] + sum(seen), pairs[1] + len(seen)]
    return {"table": table, "severity_5_in_two": rate(*pairs), "said_proportions_of_alarms": wrong}


def mixed_stream(
    detectors: list[Detector],
    clean: Reference,
    drifted: dict[tuple[str, int], Reference],
    chance: np.random.Generator,
) -> dict[str, Any]:
    """F1 of single windows on a stream in which every fifth window has drifted, all kinds and severities alike."""
    hits, misses, false, quiet = 0, 0, 0, 0
    for detector in detectors:
        kinds = list(drifted.values())
        for one in kinds:
            worse = tested(detector, rows(one, chance.choice(len(one), WINDOW, replace=False))).drift
            hits, misses = hits + worse, misses + (not worse)
        for _ in range(round(len(kinds) * (1 - PREVALENCE) / PREVALENCE)):
            alarm = tested(detector, rows(clean, chance.choice(len(clean), WINDOW, replace=False))).drift
            false, quiet = false + alarm, quiet + (not alarm)
    return {
        "prevalence": PREVALENCE,
        "windows": hits + misses + false + quiet,
        "recall": hits / (hits + misses),
        "precision": hits / max(1, hits + false),
        "false_alarms": rate(false, false + quiet),
        "f1": 2 * hits / (2 * hits + false + misses),
        "f1_always_fire": 2 * PREVALENCE / (1 + PREVALENCE),
    }


def proportions(
    detectors: list[Detector], clean: Reference, test: ImageSet, chance: np.random.Generator
) -> list[dict[str, Any]]:
    """Alarms where nothing but the proportions of the classes has changed, and how many are said to be that."""
    classes = int(test.labels.max()) + 1
    found = []
    for kind in ("as usual", "one class twice as often", "Dirichlet(1)", "five of ten classes", "one class only"):
        tests = []
        for detector in detectors:
            for number in range(40):
                wanted = np.full(classes, 1 / classes)
                if kind == "one class twice as often":
                    wanted[number % classes] *= 2
                elif kind == "Dirichlet(1)":
                    wanted = chance.dirichlet(np.ones(classes))
                elif kind == "five of ten classes":
                    wanted[chance.permutation(classes)[:5]] = 0
                elif kind == "one class only":
                    wanted = np.eye(classes)[number % classes]
                weights = (wanted / wanted.sum())[test.labels]
                picked = chance.choice(len(test), WINDOW, replace=kind == "Dirichlet(1)", p=weights / weights.sum())
                tests.append(tested(detector, rows(clean, picked)))
        alarms = [one for one in tests if one.drift]
        said = sum(one.only_proportions for one in alarms)
        found.append({"kind": kind, "alarms": rate(len(alarms), len(tests)), "said_proportions": said})
    return found


def accuracy(
    clean: Reference, held_out: Reference, drifted: dict[tuple[str, int], Reference], chance: np.random.Generator
) -> dict[str, Any]:
    """Labelled images until the error rate is said to have risen."""
    assert clean.errors is not None
    known, stream = sample(clean, REFERENCE, chance)
    assert known.errors is not None
    assert stream.errors is not None
    cusum = ErrorCusum.design(safe_error_rate(known.errors), 0.05, false_alarms_per_1000=0.1)
    false, images = 0, 0
    for start in range(0, len(stream), 2000):
        false += cusum.update(stream.errors[start : start + 2000]).alarm
        images += len(stream.errors[start : start + 2000])
    delays = {}
    for (name, severity), worse in drifted.items():
        if severity == 5 and worse.errors is not None:
            at = [cusum.update(worse.errors[chance.permutation(len(worse))]).alarm_at for _ in range(20)]
            delays[name] = {
                "top1": float(1 - worse.errors.mean()),
                "median_labels": float(np.median([len(worse) if a is None else a for a in at])),
            }
    return {
        "error_rate": cusum.error_rate,
        "measured_on_stream": float(stream.errors.mean()),
        "rise": 0.05,
        "images_between_false_alarms": cusum.images_between_false_alarms,
        "images_until_seen": cusum.images_until_seen,
        "clean_stream": {"alarms": false, "images": images, "restarted_every": 2000},
        "severity_5": delays,
    }


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:4]))
