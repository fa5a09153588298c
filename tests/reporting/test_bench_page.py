"""The page and the tables of a bench, from hand-made numbers."""

from __future__ import annotations

import contextlib
import json
import math
import re
from dataclasses import replace

import pytest
from fake_bench import HOSTILE, document
from rich.console import Console

from attngraft.benchmarking.bench_result import BenchResult
from attngraft.benchmarking.clock import Spread
from attngraft.errors import RunError
from attngraft.reporting import bench_notes, bench_tables, write_report
from attngraft.reporting.read_folder import read_record_as


def report(folder, found):
    values = found.to_dict() if isinstance(found, BenchResult) else found
    (folder / "bench.json").write_text(json.dumps(values))
    html = write_report(folder).read_text(encoding="utf-8")
    return html, " ".join(re.sub(r"<[^>]*>", " ", html).replace("\u00a0", " ").split())


def shown(found, width=80):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        for table in bench_tables(found):
            console.print(table)
    return console.export_text()


@pytest.mark.draws
def test_the_page_has_every_part_with_n_quartiles_and_hardware(tmp_path):
    html, text = report(tmp_path, document())
    order = ["What attention costs", "Xeon 8488C, 2 threads, 2025-01-31", "Attention modules", "forward+backward"]
    order += ["cbam, fp32 contiguous", "time relative to attngraft", "cbam, bf16 channels_last", "Networks"]
    order += ["Training step, fp32 contiguous", "time relative to the plain network", "Memory", "+20.0 %", "+50.0 %"]
    order += ["What the training loop costs", "Not measured", "How it was measured", "Where it ran", "torch 2.14.0"]
    places = [text.index(part) for part in [*order, "attngraft bench all"]]
    assert places == sorted(places)
    assert "batch 32, n = 2" in text
    assert "10.5 10.2 to 10.8" in text
    assert "geometric mean" in text
    assert "timm: has none: timm:tf_efficientnet_lite0 cbam" in text
    assert "not finished" not in text
    assert html.count("<svg") == 2 * 2 + 2
    assert not re.search(r"https?:", html)
    assert write_report(tmp_path).read_text(encoding="utf-8") == html


def test_every_chart_says_its_numbers_in_words(tmp_path):
    html, _ = report(tmp_path, document())
    told = re.findall(r'aria-label="(cbam, forward\. [^"]*)"', html)
    assert len(told) == 2
    assert "64 x 56 x 56: timm 3.05 (3.02 to 3.08), reference" in told[0]
    assert "traffic limit 0.400" in told[0]


@pytest.mark.draws
def test_names_and_reasons_are_text(tmp_path):
    html, _ = report(tmp_path, document(attention=HOSTILE))
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "[red]" in shown(document(attention=HOSTILE), 200)


@pytest.mark.draws
def test_a_bench_that_was_stopped_says_so_and_may_be_empty(tmp_path):
    empty = replace(document(status="partial"), modules=(), summaries=(), models=(), loop=(), memory=())
    assert "not finished (status: partial)" in report(tmp_path, empty)[1]
    assert shown(empty).strip() == ""
    assert bench_notes(empty) == []


def test_tables_fit_a_terminal_of_80_columns_without_losing_a_number():
    text = shown(document())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for part in ("geometric mean", "(3.05x)", "2.50x", "1.10x (1.10 to 1.10)", "resnet50", "+20.0 %", "n = 2", "1.06x"):
        assert part in text


def test_each_reason_is_told_once_with_its_places():
    first, second = bench_notes(document())
    assert first.startswith(f"torch.compile: failed ({HOSTILE}): cbam fp32 contiguous forward; ")
    assert second == "timm: has none: timm:tf_efficientnet_lite0 cbam"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("device"), "it has no 'device'"),
        (lambda d: d.update(kind="banana"), "does not describe a bench"),
        (lambda d: d.update(format=99), "has format 99"),
        (lambda d: d["modules"][0].pop("over_limit"), r"modules\[0\] is incomplete: it has no 'over_limit'"),
        (lambda d: d["models"][0]["entries"][1]["time_ms"].update(median="fast"), "expected a number"),
        (lambda d: d["models"][0]["entries"][1]["time_ms"].update(median=math.nan), "expected a finite number"),
        (lambda d: d["loop"].append(1), "expected a table"),
        (lambda d: d["memory"][0]["entries"][0].update(peak_bytes={"median": 1}), "it has no 'q1'"),
        (lambda d: d.update(colour="red"), "unknown option 'colour'"),
    ],
)
def test_a_damaged_bench_is_a_run_error_with_the_place(tmp_path, change, words):
    found = document().to_dict()
    change(found)
    with pytest.raises(RunError, match=words):
        report(tmp_path, found)


def removable(value, path=()):
    """The paths of all keys and of the first list entries of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1])
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from removable(inner, (*path, key))


@pytest.mark.parametrize("every", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_any_entry_may_be_damaged(tmp_path, monkeypatch, every):
    monkeypatch.setattr("attngraft.reporting.charts._draw_as_svg", lambda paint, size: "<svg></svg>")
    original = document().to_dict()
    cases = [(p, d) for p in removable(original) for d in (None, "gone", "text", 7, -0.5, math.nan, [], {}, [None])]
    assert len(cases) > 900
    for path, damage in cases[::every]:
        found = json.loads(json.dumps(original))
        parent = found
        for key in path[:-1]:
            parent = parent[key]
        if damage == "gone":
            del parent[path[-1]]
        else:
            parent[path[-1]] = damage
        with contextlib.suppress(RunError):
            report(tmp_path, found)
            result = read_record_as(BenchResult, tmp_path, "bench")
            shown(result)
            bench_notes(result)


def test_a_competitor_without_a_ratio_is_no_number(tmp_path):
    found = document().to_dict()
    for entry in found["modules"][0]["entries"] + found["models"][0]["entries"]:
        entry["speedup"] = None
        if "over_plain" in entry:
            entry["over_plain"] = None
    assert "n/a" in report(tmp_path, found)[1]
    assert "n/a" in shown(read_record_as(BenchResult, tmp_path, "bench"))


def test_the_spread_of_a_file_is_the_spread_of_the_bench():
    assert document().modules[0].entries[0].time_ms == Spread(10.5, 10.25, 10.75, 2)
