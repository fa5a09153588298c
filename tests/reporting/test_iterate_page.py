"""The page of a search: complete, escaped, and possible from whatever is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_search import search

from attngraft.data.leak_pictures import names_of_pair, write_thumbnail
from attngraft.errors import RunError
from attngraft.reporting import write_report


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


@pytest.mark.draws
def test_both_pictures_of_nearly_equal_images_are_on_the_page(tmp_path: Path) -> None:
    data = {**search()["data"], "near_leaks": [["train/a/1.png", "test/a/2.png"]]}
    assert "data:image" not in page_of(tmp_path, search(data=data))
    for name in names_of_pair(0):
        write_thumbnail(tmp_path / name, torch.zeros(3, 8, 8, dtype=torch.uint8))
    page = page_of(tmp_path, search(data=data))
    assert page.count('<img src="data:image') == 2
    assert "train/a/1.png ~ test/a/2.png" in page
