"""An explanation.json as `explain` writes it, with made-up numbers and real pictures beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SITES = ("layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2", "layer4.0.bn2")
CLASSES = ("ants", "bees", "<script>alert(1)</script>")


def effect(mean: float, half: float = 0.01) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def part(mean: float, dynamic: float, elements: int) -> dict[str, Any]:
    return {
        "elements": elements, "mean": mean, "spread": 0.1, "low": mean - 0.3, "high": mean + 0.3, "distance": 0.08,
        "between": 0.004, "fixed": 0.006, "dynamic": dynamic, "swing": 0.063, "saturated": 0.01, "dead": 2,
    }  # fmt: skip


def site(path: str, depth: int) -> dict[str, Any]:
    return {
        "path": path,
        "attention": "cbam",
        "depth": depth,
        "channels": 64,
        "height": 8,
        "width": 8,
        "parts": {"channel": part(1.0 + 0.1 * depth, 0.2 * depth, 64), "spatial": part(1.1, 0.5, 64)},
        "class_similarity": [[1.0, -0.4, None], [-0.4, 1.0, None], [None, None, None]],
        "leaning": {"ants": [[3, 0.12], [7, 0.05]], "bees": [[1, 0.2]]},
    }


def cell(where: str, change: str, mean: float) -> dict[str, Any]:
    return {
        "where": where, "change": change, "top1": 0.9 + mean, "loss": 0.3, "ece": 0.04, "effect": effect(mean),
        "loss_effect": effect(0.02), "brier": 0.1, "brier_effect": effect(0.001, 0.002),
        "p_adjusted": {"accuracy": 0.01, "loss": 0.04, "brier": 0.6},
    }  # fmt: skip


def decoupling() -> dict[str, Any]:
    changes = (
        "channel off",
        "spatial off",
        "all off",
        "order spatial-channel",
        "gates at their mean",
        "gates shuffled",
    )
    return {
        "images": 400,
        "intact": {"top1": 0.9, "loss": 0.31, "ece": 0.03},
        "cells": [cell("everywhere", change, -0.01 * i) for i, change in enumerate(changes)]
        + [cell(path, change, -0.002 * i) for i, path in enumerate(SITES) for change in changes[:2]],
        "total": {"accuracy": effect(0.02), "loss": effect(0.1, 0.05)},
        "halves": [
            {"part": "channel", "accuracy": effect(0.016), "loss": effect(0.08), "share": 0.8, "share_low": 0.6,
             "share_high": 0.97, "loss_share": 0.8},
            {"part": "spatial", "accuracy": effect(0.004), "loss": effect(0.02), "share": 0.2, "share_low": 0.03,
             "share_high": 0.4, "loss_share": 0.2},
        ],
        "sites": [
            {"path": path, "accuracy": effect(0.005 * i), "loss": effect(0.01 * i), "sampling_error": 0.0007}
            for i, path in enumerate(SITES)
        ],
        "permutations": 8,
        "subset": 256,
        "interactions": [{"first": SITES[0], "second": other, **effect(-0.003)} for other in SITES[1:]],
        "speed_up": {"ratio": 2.4, "shared_s": 5.0, "naive_s": 12.0},
    }  # fmt: skip


def folding() -> dict[str, Any]:
    actions = ("removed", "folded into layer2.0.bn2", "left as a scale", "kept")
    return {
        "sites": [
            {"path": path, "part": "channel", "action": action, "reason": "swing below 0.01", "dynamic": 0.1,
             "swing": 0.004, "change": 0.001}
            for path, action in zip(SITES, actions, strict=True)
        ],
        "before": {"top1": 0.9},
        "after": {"top1": 0.899},
        "effect": effect(-0.001, 0.002),
        "largest_output_change": 0.02,
        "latency_ms": {
            name: {"median": median, "q1": median, "q3": median, "n": 20, "batch_size": 1}
            for name, median in (("before", 10.0), ("after", 9.1))
        },
        "tolerance": 0.005,
        "images": 400,
        "sites_in_all": 4,
        "sites_gone": 2,
    }  # fmt: skip


def looks(folder: Path) -> dict[str, Any]:
    fractions = [i / 8 for i in range(9)]

    def curves(area: float) -> dict[str, Any]:
        line = [max(0.05, 0.9 * (1 - fraction) ** (1 / area)) for fraction in fractions]
        return {"curve": line, "auc": effect(area), "against_random": effect(area - 0.5, 0.1)}

    maps = [
        {"map": name, "deletion": curves(area), "insertion": curves(1 - area), "road": effect(0.1)}
        for name, area in (("spatial gate", 0.3), ("grad-cam", 0.35), ("random", 0.5))
    ]
    rng = np.random.default_rng(0)
    for name in ("0-image.png", "0-gate.png", "0-cam.png"):
        Image.fromarray(rng.integers(0, 255, (160, 160, 3), dtype=np.uint8)).save(folder / name)
    example = {
        "id": "test/ants/<b>.jpg",
        "label": "ants",
        "prediction": {"class": "ants", "probability": 0.93},
        "plain_prediction": {"class": "bees", "probability": 0.6},
        "files": {"image": "0-image.png", "gate": "0-gate.png", "cam": "0-cam.png", "plain_cam": None, "sites": {}},
    }
    pointing = {
        "n": 200,
        "left_out": 0,
        "maps": [
            {"map": "spatial gate", "hits": effect(0.41, 0.05), "energy": effect(0.3), "hits_against_centre": effect(0.1),
             "energy_against_uniform": effect(0.12)},
            {"map": "uniform", "hits": effect(0.2), "energy": effect(0.18), "hits_against_centre": effect(-0.1),
             "energy_against_uniform": effect(0.0, 0.0)},
        ],
    }  # fmt: skip
    faithfulness = {"n": 200, "fractions": fractions, "blur": 0.1, "road_fractions": [0.3, 0.7], "maps": maps,
                    "sentence": "The spatial gate is faithful."}  # fmt: skip
    return {"notes": ["a note"], "faithfulness": faithfulness, "pointing": pointing, "examples": [example]}


def explanation(folder: Path | None) -> dict[str, Any]:
    """The document, and its images in the folder, if there is one."""
    history = [
        {"epoch": epoch, "gates": {path: {"channel": {"mean": 1.0, "spread": 0.1, "distance": 0.02 * epoch, "dynamic": 0.1}}
                                   for path in SITES}}
        for epoch in range(1, 5)
    ]  # fmt: skip
    return {
        "format": 1,
        "kind": "explanation",
        "status": "finished",
        "created": "2026-01-01T00:00:00+00:00",
        "command": "attngraft explain runs/cbam-0",
        "name": "cbam on timm:resnet18, seed 0",
        "attention": "cbam",
        "classes": list(CLASSES),
        "images": 400,
        "labelled": True,
        "class_counts": [200, 200, 0],
        "plain": "the same network with its attention taken out, not trained anew",
        "gates": {"images": 400, "sites": [site(path, depth) for depth, path in enumerate(SITES)]},
        "gate_history": history,
        "decoupling": decoupling(),
        "folding": folding(),
        "looks": looks(folder) if folder else None,
        "sentences": ["The trained model rests on its attention."],
        "hardware": {"cpu": "a processor", "cores": 2},
        "versions": {"attngraft": "0.1"},
    }


def write_explanation(folder: Path) -> dict[str, Any]:
    """explanation.json in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    document = explanation(folder)
    (folder / "explanation.json").write_text(json.dumps(document), encoding="utf-8")
    return document
