"""A history.json as a store writes it, with made-up numbers: three domains, four adaptations, a stream with an alarm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

IDS = ("0a1b2c3d4e5f6071", "1b2c3d4e5f60718a", "2c3d4e5f60718a9b", "3d4e5f60718a9bac")
CLASSES = ("ants", "bees", "<script>alert(1)</script>")
DOMAINS = ("photos", "sketches", "night <b>cameras</b>")


def version(index: int, status: str) -> dict[str, Any]:
    return {
        "id": IDS[index],
        "parent": IDS[max(index - 1, 0)] if index else None,
        "created": f"2026-01-0{index + 1}T08:00:00+00:00",
        "update": "grafts+bn+head-bias" if index else None,
        "changed_parameters": 21_507 if index else 0,
        "parameters": 11_203_000,
        "delta_bytes": 131_584 if index else 0,
        "status": status,
    }


def variant(name: str, new: float, old: float, changed: int, minutes: float) -> dict[str, Any]:
    return {
        "name": name, "new_top1": new, "old_top1": old, "changed_parameters": changed, "parameters": 11_203_000,
        "delta_bytes": 4 * changed, "minutes": minutes,
    }  # fmt: skip


def adaptation(number: int, status: str, **other: Any) -> dict[str, Any]:
    answered = status in ("promoted", "rejected")
    return {
        "number": number,
        "status": status,
        "created": f"2026-01-0{number + 1}T07:00:00+00:00",
        "finished": f"2026-01-0{number + 1}T07:09:00+00:00",
        "data": {
            "name": DOMAINS[1 + number // 3],
            "images": 900,
            "labels_used": 500,
            "roles": {"learn": 500, "tune": 100, "guard": 200, "final": 100},
            "duplicates": 2 if number == 1 else 0,
        },
        "update": "grafts+bn+head-bias",
        "served": IDS[0],
        "candidate": IDS[1],
        "blend": {
            "chosen": 0.8,
            "tried": [{"weight": w, "new_top1": 0.62 + 0.15 * w, "old_top1": 0.93 - 0.02 * w} for w in (0.6, 0.8, 1.0)],
        },
        "variants": [
            variant("none", 0.62, 0.931, 0, 0.0),
            variant("bn-statistics", 0.68, 0.925, 9_600, 0.1),
            variant("head", 0.70, 0.902, 1_539, 1.2),
            variant("all", 0.80, 0.842, 11_203_000, 8.5),
            variant("adapted", 0.765, 0.926, 21_507, 3.4),
        ],
        "new_images": 100,
        "old_images": 300,
        "recovery": 0.806,
        "guard": {"attempt": number, "alpha": 0.0304 / number**2, "passed": status == "promoted", "new_images": 200,
                  "old_images": 1500} if answered else None,
        "refused": "the guard has 120 old images where 2,106 are needed." if status == "refused" else None,
        "minutes": 9.2,
        "sentence": f"Adaptation {number} to {DOMAINS[1 + number // 3]} was {status}.",
        **other,
    }  # fmt: skip


def window(number: int) -> dict[str, Any]:
    drifted = 9 <= number <= 11 or number == 4
    return {
        "number": number,
        "time": f"2026-01-03T{number:02d}:00:00+00:00",
        "images": 500,
        "drift": drifted,
        "p_value": 0.0 if number == 10 else 1e-9 if drifted else 0.2 + 0.01 * number,
        "threshold": 2e-4,
        "reasons": ["input sharpness", "class '<i>bees</i>'"] if drifted else [],
        "accuracy": None if number < 3 else 0.71 if drifted else 0.9,
        "version": IDS[1] if number < 12 else IDS[3],
    }


def history() -> dict[str, Any]:
    """The document."""
    return {
        "format": 1,
        "kind": "store",
        "created": "2026-01-01T08:00:00+00:00",
        "classes": list(CLASSES),
        "served": IDS[3],
        "base": IDS[0],
        "policy": {"alpha": 0.05, "delta": 0.02, "class_delta": None, "latency_budget": None, "size_budget": None,
                   "power": 0.8, "least_power": 0.5},
        "versions": [version(0, "base"), version(1, "promoted"), version(2, "rejected"), version(3, "served")],
        "domains": [{"name": name, "images": 100 * (index + 1)} for index, name in enumerate(DOMAINS)],
        "matrix": [[0.931, 0.62, 0.41], [0.926, 0.765, 0.48], [0.90, 0.80, None], [0.922, 0.76, 0.69]],
        "transfer": {"forgetting": 0.007, "backward": -0.007, "forward": 0.07},
        "ledger": [
            {"attempt": 1, "alpha": 0.0304, "spent": 0.0304, "candidate": IDS[1], "adaptation": 1, "passed": True},
            {"attempt": 2, "alpha": 0.00253, "spent": 0.03293, "candidate": IDS[2], "adaptation": 2, "passed": False},
            {"attempt": 3, "alpha": 4.8e-7, "spent": 0.03293048, "candidate": IDS[3], "adaptation": 4, "passed": None},
        ],
        "adaptations": [
            adaptation(1, "promoted"),
            adaptation(2, "rejected", candidate=IDS[2]),
            adaptation(3, "refused", candidate=None, recovery=None),
            adaptation(4, "promoted", candidate=IDS[3]),
        ],
        "stream": {"windows": [window(number) for number in range(1, 15)], "alarms": 2, "false_alarms": 1, "delay_windows": 1.5},
        "releases": [
            {"version": IDS[3], "created": "2026-01-06T08:00:00+00:00", "images": 420, "top1": 0.84,
             "per_domain": [{"name": name, "top1": 0.8 + 0.02 * index, "images": 140} for index, name in enumerate(DOMAINS)]},
        ],
        "events": [
            {"time": "2026-01-01T08:00:00+00:00", "event": "create", "version": IDS[0], "text": "the store was made"},
            {"time": "2026-01-02T08:00:00+00:00", "event": "promote", "version": IDS[1], "text": f"{IDS[1]} is served"},
            {"time": "2026-01-03T04:00:00+00:00", "event": "drift", "version": None, "text": "the stream <has> drifted"},
            {"time": "2026-01-03T08:00:00+00:00", "event": "reject", "version": None, "text": "attempt 2 did not pass"},
            {"time": "2026-01-04T08:00:00+00:00", "event": "refuse", "version": None, "text": "too few images"},
            {"time": "2026-01-04T09:00:00+00:00", "event": "rollback", "version": IDS[0], "text": "back"},
            {"time": "2026-01-05T08:00:00+00:00", "event": "promote", "version": IDS[3], "text": f"{IDS[3]} is served"},
            {"time": "2026-01-06T08:00:00+00:00", "event": "release", "version": IDS[3], "text": "measured"},
        ],
    }  # fmt: skip


def write_history(folder: Path) -> dict[str, Any]:
    """history.json in the folder of a store."""
    folder.mkdir(parents=True, exist_ok=True)
    document = history()
    (folder / "history.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "store.json").write_text("{}", encoding="utf-8")
    return document
