"""A search that was made up."""

from __future__ import annotations

from typing import Any

EVIL = "<script>alert(1)</script>"


def trial(number: int, status: str, top1: float | None, **changes: Any) -> dict[str, Any]:
    measured = {"top1": {"value": top1, "low": 0.1, "high": 0.9}, "loss": {"value": 1.5, "low": 1.2, "high": None}}
    return {
        "number": number, "status": status, "variant": "cbam@stage" if number > 1 else "none", "recipe": "one-cycle",
        "params": {"attention": "cbam", "recipe": "one-cycle", "lr_scale": 0.5 * number, "augment": "light"},
        "run": f"trials/{number:03d}", "begun_s": 1.0, "time_s": 12.5, "costs": {"parameters": 94762, "macs": 2e6},
        "curve": [0.1, 0.2], "stop": None, "measured": None if top1 is None else measured, "score": 0.1,
        "reason": None, **changes,
    }  # fmt: skip


def search(**changes: Any) -> dict[str, Any]:
    clauses = [
        {"metric": "top1", "operator": ">=", "number": 0.93125, "value": 0.912, "low": 0.899, "high": 0.925, "met": False},
        {"metric": "latency_ms", "operator": "<", "number": 5.0, "value": 4.2, "low": 4.2, "high": 4.2, "met": True},
    ]  # fmt: skip
    run = {"seed": 1, "run": "final/seed-1", "status": "trained", "measured": {"top1": 0.915, "loss": 0.31}}
    return {
        "format": 1,
        "kind": "iteration",
        "status": "finished",
        "until": "top1>=0.93125 and latency_ms<5",
        "clauses": clauses,
        "budget_s": 7200.0,
        "used_s": 7260.0,
        "search_s": 6000.0,
        "trials_asked": 5,
        "seeds": 2,
        "seed": 0,
        "backbone": "small-cnn",
        "pretrained": False,
        "weights": None,
        "preprocessing": {"image_size": 32},
        "data": {"name": EVIL, "origin": None, "fingerprint": "0", "classes": ["a", EVIL], "train_images": 100, "val_images": 20, "test_images": 40},
        "space": {"choices": {"augment": ["none"]}, "scales": {"lr_scale": [0.25, 4]}, "attentions": ["none"]},
        "trials": [
            trial(1, "finished", 0.8),
            trial(2, "pruned", 0.5),
            trial(3, "failed", None, reason=EVIL, curve=[]),
            trial(4, "infeasible", None, curve=[], reason="it does not keep latency_ms<5"),
            trial(5, "finished", 0.9),
        ],
        "best_so_far": [0.8, 0.8, 0.8, 0.8, 0.9],
        "primary": "top1",
        "importances": {"lr_scale": 0.7, "augment": 0.3},
        "finalist": {
            "trial": 5, "variant": "cbam@stage", "recipe": "one-cycle", "params": {}, "status": "tested",
            "runs": [run, {"seed": 2, "run": "final/seed-2", "status": "failed", "reason": "the loss is inf"}],
        },
        "measured": {},
        "verdict": "not met",
        "sentence": "not met: 91.2 % where 93.125 % was asked",
        "notes": ["The search ended because all 5 trials were made."],
        "command": "attngraft iterate",
        **changes,
    }  # fmt: skip
