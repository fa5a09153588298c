"""The page of a store: complete, escaped, and possible from whatever is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_store import IDS, history, write_history

from attngraft.errors import RunError
from attngraft.reporting import write_report

SECTIONS = {
    "matrix": "Versions and domains",
    "adaptations": "Adaptations</h2>",
    "ledger": "The guard</h2>",
    "stream": "The stream</h2>",
    "releases": "Released</h2>",
}


def page_of(folder: Path, document: dict[str, Any]) -> str:
    (folder / "history.json").write_text(json.dumps(document), encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page).replace("\u00a0", " "))


@pytest.mark.draws
def test_everything_that_happened_is_on_the_page(tmp_path: Path) -> None:
    write_history(tmp_path)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    for title in (*SECTIONS.values(), "The life of the store", "Drift of the stream", "Accuracy on the stream"):
        assert title in page
    assert "The store serves v3 (3d4e5f60)" in page
    assert all(page.count(f"Adaptation {number}: new against old data") >= 1 for number in range(1, 5))
    words = text_of(page)
    assert "forgetting +0.7 points" in words
    assert "0.03293 of 0.05 in 3 attempts" in words
    assert "1 window" not in words
    assert "1.5 windows after the drift" in words
    assert "4 of 14 windows drifted" in words
    assert "21.5 k (0.2 %)" in words
    assert "no verdict" in words


@pytest.mark.draws
def test_nothing_from_outside_reaches_the_page_as_markup(tmp_path: Path) -> None:
    document = history()
    document["adaptations"][0]["sentence"] = "<script>alert(2)</script>"
    document["adaptations"][0]["variants"][0]["name"] = "<b>none</b>"
    document["events"][0]["text"] = "<img src=x>"
    document["versions"][1]["update"] = "\x1b[31m<i>grafts</i>"
    page = page_of(tmp_path, document)
    for mark in ("<script", "<b>", "<i>bees", "<i>grafts", "<img src=x", "\x1b"):
        assert mark not in page
    for mark in ("&lt;script&gt;alert(2)", "&lt;b&gt;cameras", "&lt;img src=x", "&lt;has&gt;"):
        assert mark in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "the page loads nothing"


@pytest.mark.parametrize("missing", SECTIONS)
def test_what_is_missing_is_left_out_and_said(tmp_path: Path, missing: str) -> None:
    document = history()
    document["adaptations"] = document["adaptations"][:1]
    document[missing] = None
    page = page_of(tmp_path, document)
    del document[missing]
    assert page_of(tmp_path, document) == page
    assert SECTIONS[missing] not in page
    assert "Not in this store" in page
    assert all(title in page for key, title in SECTIONS.items() if key != missing)


@pytest.mark.draws
def test_a_new_store_has_a_page(tmp_path: Path) -> None:
    document = history()
    empty: dict[str, Any] = {key: [] for key in ("domains", "matrix", "ledger", "adaptations", "releases", "events")}
    document |= {**empty, "versions": document["versions"][:1], "served": IDS[0], "stream": None, "transfer": None}
    page = page_of(tmp_path, document)
    assert "The store serves v0 (0a1b2c3d)" in page
    assert "<svg" not in page


def test_an_adaptation_that_runs_still_has_its_place(tmp_path: Path) -> None:
    document = history()
    document["adaptations"].append({"number": 5, "status": "running", "data": {"name": "rain"}, "variants": []})
    words = text_of(page_of(tmp_path, document))
    assert "Adaptation 5: running It has not come to an end yet." in words


@pytest.mark.draws
def test_values_that_were_not_measured_are_no_numbers(tmp_path: Path) -> None:
    document = history()
    document["transfer"] = {"forgetting": None, "backward": None, "forward": None}
    document["stream"] |= {"false_alarms": None, "delay_windows": None}
    for entry in document["adaptations"]:
        entry |= {"blend": None, "guard": None, "recovery": None, "minutes": None, "new_images": None}
        entry["variants"][1] |= {"new_top1": None, "changed_parameters": None}
    words = text_of(page_of(tmp_path, document))
    assert "forgetting" not in words
    assert "false alarms" not in words
    assert "n/a" in words
    assert "None" not in words


def test_many_events_windows_and_domains_stay_one_page(tmp_path: Path) -> None:
    document = history()
    document["events"] = document["events"] * 30
    document["stream"]["windows"] = [
        {**document["stream"]["windows"][number % 14], "number": number} for number in range(1, 900)
    ]
    document["domains"] = [{"name": f"domain {number}", "images": 50} for number in range(12)]
    document["matrix"] = [[0.5 + 0.01 * number for number in range(12)] for _ in document["versions"]]
    page = page_of(tmp_path, document)
    assert "The last 60 of 240 events" in page
    assert len(page) < 2_000_000


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "run"},
        {"versions": [{"id": "x"}]},
        {"matrix": [[0.5]]},
        {"matrix": [[0.5, 0.5, "x"]] * 4},
        {"served": None},
        {"ledger": [{"attempt": 1}]},
        {"stream": {"windows": [{"number": 1, "images": 5, "drift": "yes", "reasons": []}]}},
        {"adaptations": [{"variants": [{"new_top1": "high"}]}]},
    ],
)
def test_a_damaged_document_is_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "history.json").write_text(json.dumps(history() | change), encoding="utf-8")
    with pytest.raises(RunError) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_store_that_was_never_adapted_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="adapt it once"):
        write_report(tmp_path)
