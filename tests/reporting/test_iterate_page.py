"""The page of a search: complete, escaped, and possible from whatever is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from attngraft.errors import RunError
from attngraft.reporting import write_report

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


def page_of(folder: Path, document: dict[str, Any]) -> str:
    (folder / "iterate.json").write_text(json.dumps(document), encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


@pytest.mark.draws
def test_everything_that_was_found_is_on_the_page(tmp_path: Path) -> None:
    page = page_of(tmp_path, search())
    for text in (
        "not met: 91.2 %", "all 5 trials were made", "at least 93.125 %", "89.9 % to 92.5 %", "less than 5 ms",
        "4.20 ms", "91.5 %", "the loss is inf", "Trial 4: it does not keep latency_ms&lt;5", "pruned", "2 h 0 min",
        "21 min 0 s", "Trial by trial", "What mattered in the search", "The result",
    ):  # fmt: skip
        assert text in page, text
    assert page.count("<svg") == 3
    assert "\u00d72.5" in page


@pytest.mark.draws
def test_nothing_from_outside_reaches_the_page_as_markup(tmp_path: Path) -> None:
    page = page_of(tmp_path, search())
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "the page loads nothing"


@pytest.mark.draws
def test_a_search_that_goes_on_has_a_page_too(tmp_path: Path) -> None:
    clauses = [{"metric": "top1", "operator": ">=", "number": 0.9}]
    missing = dict.fromkeys(("verdict", "sentence", "finalist", "measured", "primary"))
    missing |= {"importances": {}, "best_so_far": []}
    page = page_of(tmp_path, search(status="searching", clauses=clauses, notes=[], used_s=None, **missing))
    assert "This search is not finished" in page
    assert "The finalist" not in page
    assert page.count("<svg") == 1
    empty = page_of(tmp_path, search(status="searching", clauses=clauses, trials=[], **missing))
    assert "<svg" not in empty


def test_a_search_by_loss_shows_the_loss(tmp_path: Path) -> None:
    clauses = [
        {"metric": "loss", "operator": "<=", "number": 0.3, "value": 0.4, "low": 0.3, "high": None, "met": False}
    ]
    page = page_of(tmp_path, search(primary="loss", clauses=clauses, best_so_far=[1.5] * 5))
    assert "at most 0.3" in page
    assert "1.500" in page


@pytest.mark.parametrize(
    "change",
    [
        {"trials": None},
        {"trials": [{"number": 1}]},
        {"kind": "run"},
        {"clauses": [{"metric": "top1"}]},
        {"finalist": {"variant": "x"}},
        {"best_so_far": ["much"]},
        {"budget_s": "2h"},
    ],
)
def test_a_damaged_document_is_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "iterate.json").write_text(json.dumps(search() | change), encoding="utf-8")
    with pytest.raises(RunError) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()
