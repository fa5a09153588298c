"""Run folders as training and comparing would leave them, from simulated answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from attngraft.comparison.analysis_plan import AnalysisPlan
from attngraft.comparison.verdicts import Judge
from attngraft.statistics.effects import crossed_effect
from attngraft.statistics.multiplicity import holm
from attngraft.statistics.power import smallest_detectable
from attngraft.tasks import Classification

ROLES = {"none": "baseline", "static": "control", "capacity": "control"}
GAINS = {"none": 0.0, "static": 0.05, "capacity": 0.0, "cbam": 0.35, "se": 0.1, "simam": -0.3}
COSTS = {"static": (0.001, 0.02, 1.01), "capacity": (0.06, 0.05, 1.1), "cbam": (0.05, 0.01, 1.46)}
HARDWARE = {"cpu": "Xeon 8488C", "cores": 2, "memory_gib": 7.6, "gpu": None, "os": "Linux 6.1"}
VERSIONS = {"attngraft": "0.1.0", "torch": "2.14.0", "timm": "1.0.20", "numpy": "2.4.6"}
PHASES = [
    {"name": "head", "train": ["head", "grafts"], "epochs": 2, "lr": 0.003},
    {"name": "upper", "train": ["head", "grafts", "upper:2"], "epochs": 3, "lr": 0.001},
    {"name": "all", "train": ["all"], "epochs": 3, "lr": 0.0001},
]
RECIPE = {"name": "three-phase", "batch_size": 32, "optimizer": "adamw", "label_smoothing": 0.1, "phases": PHASES}
PREPROCESSING = {"image_size": 224, "interpolation": "bicubic"}

JUDGE = Judge(AnalysisPlan(Classification(("cat", "dog")).metrics["top1"]))


def data_record(classes, test_images, *, warnings=False):
    """The "data" part of both documents."""
    return {
        "name": "hymenoptera",
        "origin": None,
        "fingerprint": "sha256:1f0c9a44e1",
        "classes": list(classes),
        "train_images": 244,
        "val_images": None,
        "test_images": test_images,
        "notes": ["no validation split: the last epoch counts, nothing was chosen on the test images"],
        "skipped": [["train/ants/imageNotFound.gif", "not an image"]] if warnings else [],
        "leaks": [["train/ants/1.jpg", "test/ants/9.jpg"]] if warnings else [],
    }


def write_run(folder: Path, name, seed, classes, labels, probabilities, *, epochs=8, status="finished"):
    """One run folder; returns its top-1."""
    folder.mkdir(parents=True, exist_ok=True)
    right = probabilities.argmax(1) == labels
    top1, rng = float(right.mean()), np.random.default_rng(seed)
    lines = []
    for epoch in range(1, epochs + 1):
        phase = PHASES[0 if epoch <= 2 else 1 if epoch <= 5 else 2]
        reached = top1 - 0.35 * 0.55**epoch + (0.006 * rng.standard_normal() if epoch < epochs else 0)
        entry = {"epoch": epoch, "phase": phase["name"], "train_loss": 1.4 * 0.8**epoch, "train_top1": reached - 0.02}
        entry |= {"eval_split": "test", "eval_loss": 1.2 * 0.85**epoch, "eval_top1": reached, "lr": phase["lr"]}
        lines.append(json.dumps(entry | {"time_s": 14.2, "images_per_s": 17.2}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    ids = json.dumps([f"test/{index:04}.jpg" for index in range(len(labels))])
    tensors = {"probabilities": probabilities.astype(np.float32), "labels": labels.astype(np.int64)}
    save_file(tensors, folder / "predictions.safetensors", metadata={"ids": ids})
    (folder / "run.json").write_text(json.dumps(run_record(name, seed, classes, labels, right, status)))
    return top1


def run_record(name, seed, classes, labels, right, status):
    """run.json of a run with these answers."""
    per_class = [
        {"class": label, "top1": float(right[labels == index].mean()), "images": int((labels == index).sum())}
        for index, label in enumerate(classes)
        if (labels == index).any()
    ]
    sites = [
        {"path": f"layer{1 + i // 2}.{i % 2}.bn2", "channels": 64 << i // 2, "height": 56 >> i // 2} for i in range(8)
    ]
    test = {"top1": float(right.mean()), "top5": None, "loss": 0.31, "ece": 0.042, "per_class": per_class}
    return {
        "format": 1,
        "kind": "run",
        "status": status,
        "variant": name,
        "seed": seed,
        "backbone": "timm:resnet18",
        "plan": None if name == "none" else {"attention": name, "sites": [s | {"width": s["height"]} for s in sites]},
        "recipe": RECIPE,
        "data": data_record(classes, len(labels)),
        "classes": list(classes),
        "preprocessing": PREPROCESSING,
        "precision": {"dtype": "fp32", "layout": "contiguous"},
        "created": "2026-05-04T10:11:12+00:00",
        "weights": None,
        "results": {"test": test, "train_time_s": 113.6} if status == "finished" else None,
        "hardware": HARDWARE,
        "versions": VERSIONS,
    }


def simulate(rng, variants, seeds, labels, classes):
    """variant -> per seed probabilities (N, K), from shared difficulties of the images."""
    images, ease = len(labels), rng.normal(1.5, 1.2, len(labels))
    rivals = (labels + 1 + rng.integers(0, max(classes - 1, 1), images)) % classes
    answers = {}
    for variant in variants:
        gain = GAINS.get(variant, 0.2)
        answers[variant] = []
        for _ in range(seeds):
            score = ease + gain + 0.06 * rng.standard_normal() + 0.5 * rng.standard_normal(images)
            probabilities = np.full((images, classes), 0.2 / classes)
            sure = 0.8 / (1 + np.exp(-score))
            probabilities[np.arange(images), labels] += sure
            probabilities[np.arange(images), rivals] += 0.8 - sure
            answers[variant].append(probabilities)
    return answers


def effect_records(names, answers, labels, classes, baseline="none"):
    """The "effects" list, as the comparison would write it."""
    right = {name: np.array([p.argmax(1) == labels for p in runs], dtype=float) for name, runs in answers.items()}
    controls = [name for name in names if ROLES.get(name) == "control"]
    pairs = [(name, baseline) for name in names if name != baseline]
    pairs += [(name, control) for name in names if name not in ROLES for control in controls]
    effects = {pair: crossed_effect(right[pair[0]] - right[pair[1]]) for pair in pairs}
    families = [[pair for pair in pairs if (pair[1] == baseline) is one] for one in (True, False)]
    adjusted = [p for family in families for p in holm([effects[pair].p_value for pair in family])]
    records = []
    for (name, against), p_adjusted in zip(pairs, adjusted, strict=True):
        effect = effects[name, against]
        verdict = JUDGE.verdict(
            effect,
            p_adjusted,
            name=name,
            against=against,
            comparisons=sum((other == baseline) is (against == baseline) for _, other in pairs),
        )
        told = [c for c in controls if (name, c) in effects and against == baseline]
        clauses = [JUDGE.control_clause(name, c, effects[name, c], adjusted[pairs.index((name, c))]) for c in told]
        per_class = class_records(right[name] - right[against], labels, classes)
        values = effect.to_json()
        detectable = smallest_detectable(effect)
        record = {"variant": name, "against": against, "p_adjusted": p_adjusted, "verdict": verdict.kind}
        record |= values
        record |= {"smallest_detectable": detectable.size, "detectable_low": detectable.low}
        record |= {
            "detectable_high": detectable.high,
            "answers_differ": 0.02,
            "paired_seeds": list(range(effect.seeds)),
        }
        record |= {"seed_effects": (right[name] - right[against]).mean(1).tolist()}
        record |= {"sentence": verdict.sentence + (clauses[0] if clauses else "")}
        records.append(record | {"per_class": per_class})
    return records


def class_records(difference, labels, classes):
    """The "per_class" list of an effect."""
    found = [(index, crossed_effect(difference[:, labels == index])) for index in np.unique(labels)]
    adjusted = holm([effect.p_value for _, effect in found])
    return [
        {"class": classes[index], "images": effect.images, "mean": effect.mean, "low": effect.low, "high": effect.high}
        | {"p_adjusted": p}
        for (index, effect), p in zip(found, adjusted, strict=True)
    ]


def variant_record(name, top1, seeds, slug):
    """One entry of "variants"."""
    parameters, macs, latency = COSTS.get(name, (0.0, 0.0, 1.0) if name == "none" else (0.02, 0.01, 1.2))
    median = 21.4 * latency
    return {
        "name": name,
        "slug": slug,
        "role": ROLES.get(name, "attention"),
        "top1_per_seed": top1,
        "top1_mean": float(np.mean(top1)) if top1 else None,
        "loss_mean": 0.31,
        "parameters": int(11_177_538 * (1 + parameters)),
        "parameters_added": int(11_177_538 * parameters),
        "macs": int(1.82e9 * (1 + macs)),
        "macs_added": int(1.82e9 * macs),
        "latency_ms": {"median": median, "q1": median * 0.98, "q3": median * 1.04, "n": 50, "batch_size": 8},
        "train_time_s": [118.0 * latency + seed for seed in range(len(top1))],
        "sites": 0 if name == "none" else 8,
        "plan": None,
        "runs": [f"runs/{slug}/seed-{seed}" for seed in range(seeds)],
    }


def sample_records(folder: Path, rng, classes, seeds, variant, count=6):
    """Images on disk and the "samples" list."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(count):
        noise = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((320, 240)).save(folder / "samples" / f"{index:04}.png")
        right, wrong = classes[index % len(classes)], classes[(index + 1) % len(classes)]
        fixed = index % 2 == 0
        before, after = ([wrong] * seeds, [right] * seeds) if fixed else ([right] * seeds, [wrong] * seeds)
        record = {"id": f"test/{index}.jpg", "file": f"samples/{index:04}.png", "label": right, "variant": variant}
        records.append(record | {"before": before, "after": after, "direction": "fixed" if fixed else "broken"})
    return records


def write_comparison(
    folder: Path,
    *,
    classes=("ants", "bees"),
    seeds=5,
    images=153,
    variants=("none", "cbam", "se", "static"),
    status="finished",
    warnings=False,
    samples=6,
    seed=3,
):
    """A comparison folder; returns comparison.json as a dict."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(classes), images)
    answers = simulate(rng, variants, seeds, labels, len(classes))
    records = []
    for index, name in enumerate(variants):
        slug = name if name in GAINS else f"variant-{index}"
        top1 = [
            write_run(folder / f"runs/{slug}/seed-{k}", name, k, classes, labels, probabilities)
            for k, probabilities in enumerate(answers[name])
        ]
        records.append(variant_record(name, top1, seeds, slug))
    document = {
        "format": 1,
        "kind": "comparison",
        "status": status,
        "command": f"attngraft compare photos/ --backbone timm:resnet18 --attentions cbam,se --seeds {seeds}",
        "created": "2026-05-04T10:11:12+00:00",
        "data": data_record(classes, images, warnings=warnings),
        "backbone": "timm:resnet18",
        "pretrained": True,
        "recipe": RECIPE,
        "precision": {"dtype": "bf16", "layout": "channels_last"},
        "seeds": list(range(seeds)),
        "baseline": variants[0],
        "variants": records,
        "effects": effect_records(variants, answers, labels, classes, variants[0]),
        "hardware": HARDWARE,
        "versions": VERSIONS,
        "samples": sample_records(folder, rng, classes, seeds, variants[1], samples),
    }
    (folder / "comparison.json").write_text(json.dumps(document))
    return document


def write_single_run(folder: Path, *, classes=("ants", "bees"), images=153, status="finished", epochs=8):
    """The folder of one run; returns run.json as a dict."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, len(classes), images)
    answers = simulate(rng, ["cbam"], 1, labels, len(classes))
    write_run(folder, "cbam", 0, classes, labels, answers["cbam"][0], epochs=epochs, status=status)
    return json.loads((folder / "run.json").read_text())
