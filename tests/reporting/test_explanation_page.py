"""The page of an explanation: complete, escaped, and possible from whatever is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_explanation import SITES, explanation, write_explanation

from attngraft.errors import RunError
from attngraft.reporting import write_report

SECTIONS = {
    "decoupling": "What each part is worth",
    "gates": "The gates",
    "folding": "What folds away",
}
LOOKS = {
    "examples": "Where it looks",
    "faithfulness": "Are the maps faithful?",
    "pointing": "Do they point at the object?",
}


def page_of(folder: Path, document: dict[str, Any]) -> str:
    (folder / "explanation.json").write_text(json.dumps(document), encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


@pytest.mark.draws
def test_everything_that_was_found_is_on_the_page(tmp_path: Path) -> None:
    write_explanation(tmp_path)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    for title in (*SECTIONS.values(), *LOOKS.values(), "Classes and channels", "Channel gates during training"):
        assert title in page
    assert all(page.count(path) >= 4 for path in SITES)
    assert page.count("<img ") == 3  # the picture that is not there is left out
    assert "\u22120.40" in page, "the similarity of two classes"
    assert "2.4 times less time" in page


@pytest.mark.draws
def test_nothing_from_outside_reaches_the_page_as_markup(tmp_path: Path) -> None:
    write_explanation(tmp_path)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "test/ants/&lt;b&gt;.jpg" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "the page loads nothing"


@pytest.mark.parametrize("missing", SECTIONS)
@pytest.mark.draws
def test_what_was_not_measured_is_left_out(tmp_path: Path, missing: str) -> None:
    page = page_of(tmp_path, explanation(tmp_path) | {missing: None, "gate_history": None})
    assert SECTIONS[missing] not in page
    assert all(title in page for key, title in SECTIONS.items() if key != missing)


@pytest.mark.parametrize("missing", LOOKS)
def test_a_look_that_was_not_taken_is_left_out(tmp_path: Path, missing: str) -> None:
    document = explanation(tmp_path)
    document["looks"][missing] = [] if missing == "examples" else None
    page = page_of(tmp_path, document)
    assert LOOKS[missing] not in page


def test_control_characters_do_not_reach_the_page(tmp_path: Path) -> None:
    document = explanation(tmp_path)
    document["looks"]["examples"][0]["id"] = "a\x1b[31mb.jpg"
    page = page_of(tmp_path, document)
    assert "\x1b" not in page
    assert "[31mb.jpg" in page


def test_sites_that_were_taken_in_all_orders_are_exact(tmp_path: Path) -> None:
    document = explanation(tmp_path)
    assert "Shapley values by sampling" in page_of(tmp_path, document)
    for site in document["decoupling"]["sites"]:
        site["sampling_error"] = 0.0
    assert "Exact Shapley values over all orders" in page_of(tmp_path, document)


def test_pictures_outside_the_folder_are_not_shown(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    document = explanation(folder)
    (folder / "0-image.png").rename(tmp_path / "secret.png")
    document["looks"]["examples"][0]["files"]["image"] = "../secret.png"
    assert page_of(folder, document).count("<img ") == 2


def test_an_interrupted_explanation_says_so(tmp_path: Path) -> None:
    assert "interrupted" in page_of(tmp_path, explanation(tmp_path) | {"status": "partial", "looks": None})


@pytest.mark.parametrize(
    "change",
    [
        {"sentences": None},
        {"colour": "red"},
        {"format": 2},
        {"images": float("nan")},
        {"gates": {"images": 3}},
        {"decoupling": {"images": 3}},
        {"kind": "run"},
        {"gates": {"images": 4, "sites": [{"path": 3}]}},
    ],
)
def test_a_damaged_document_is_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "explanation.json").write_text(json.dumps(explanation(tmp_path) | change), encoding="utf-8")
    with pytest.raises(RunError) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()
