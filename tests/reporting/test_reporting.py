"""Pages and tables from run folders: what they say, and that they are safe and whole."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from fake_folders import write_comparison, write_run, write_single_run
from matplotlib.figure import Figure
from rich.console import Console

from attngraft.comparison.comparison_record import ComparisonRecord
from attngraft.errors import ConfigError, RunError
from attngraft.reporting import comparison_table, run_summary, write_report
from attngraft.reporting.charts import LegendItem, Line, line_chart
from attngraft.reporting.comparison_tables import variant_table
from attngraft.reporting.read_folder import read_metrics, thumbnail
from attngraft.reporting.tables import Column, rich_table
from attngraft.training import RunFolder

HOSTILE = ("<script>alert(1)</script>", "$x^2$ & $\\frac", "蜂", "_under\nline", "a" * 90, "\ud800")
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, balance and text of a page."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def report(folder):
    html = write_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


def shown(table, width=200):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(table)
    return console.export_text()


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, write_comparison(folder, warnings=True)


@pytest.fixture
def folder(two_classes, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(two_classes[0], tmp_path / "copy")


def edit(folder, change, name="comparison.json"):
    document = json.loads((folder / name).read_text())
    change(document)
    (folder / name).write_text(json.dumps(document))


def assert_self_contained(html, page):
    assert not re.search(r"https?:", html)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith(("data:image/jpeg;base64,", "#"))
    assert not re.search(r"url\((?!#|&quot;#)", html)


@pytest.mark.draws
def test_comparison_page_says_verdicts_first_and_all_parts_are_there(two_classes):
    folder, document = two_classes
    html, page = report(folder)
    assert_self_contained(html, page)
    for effect in document["effects"]:
        assert effect["sentence"][1:] in page.text
    order = ["Does attention help", document["effects"][0]["sentence"][1:], "equal images in different splits"]
    order += ["Quality and cost", "Effect on top-1", "Top-1 per epoch", "What top-1 costs"]
    order += ["Class by class", "What is confused more", "Wrong before, right", "Right before, wrong", "Protocol"]
    order += ["Phases of the recipe", "Where it ran", "Xeon 8488C", "torch 2.14.0", "attngraft compare photos/"]
    places = [page.text.index(part) for part in order]
    assert places == sorted(places)
    assert "n = 5 seeds x 153 test images" in page.text
    assert "imageNotFound.gif: not an image" in page.text
    assert page.tags.count("img") == 6
    assert all(value for name, value in page.attributes if name in ("alt", "aria-label"))


@pytest.mark.draws
def test_many_classes_show_the_most_changed_and_stay_small(tmp_path):
    classes = [f"class {index}" for index in range(81)]
    variants = ("none", "cbam", "static")
    write_comparison(tmp_path, classes=classes, seeds=2, images=810, variants=variants, samples=40)
    html, page = report(tmp_path)
    assert len(html) < 2_000_000
    assert "The 14 of 81 classes that changed most" in page.text
    assert "Most changed mistakes: cbam minus none" in page.text
    assert "class matrix" not in html
    assert "18 of 20 such images" in page.text


@pytest.mark.draws
def test_one_seed_and_a_partial_comparison_say_so(tmp_path):
    write_comparison(tmp_path, seeds=1, status="partial", variants=("none", "cbam"), samples=0)
    page = report(tmp_path)[1]
    assert "not finished (status: partial)" in page.text
    assert "One seed only" in page.text
    assert "One seed cannot say whether cbam helps or hurts" in page.text


@pytest.mark.draws
def test_hostile_names_are_text(tmp_path):
    write_comparison(tmp_path, classes=HOSTILE, seeds=2, variants=("none", "<b>cbam</b>$a$", "_se", "static"))
    html, page = report(tmp_path)
    assert_self_contained(html, page)
    assert "<script" not in html
    assert "b" not in page.tags
    for part in ("<script>alert(1)</script>", "$x^2$ & $\\frac", "蜂", "<b>cbam</b>$a$", "_se"):
        assert part in page.text
    assert "[<" not in shown(comparison_table(json.loads((tmp_path / "comparison.json").read_text())))


def test_hostile_run_names_are_text(tmp_path):
    labels = np.arange(60) % 5
    write_run(tmp_path, "<i>x</i>", 0, HOSTILE[:5], labels, np.random.default_rng(0).random((60, 5)))
    html, page = report(tmp_path)
    assert_self_contained(html, page)
    assert "<i>x</i>" in page.text
    assert "alert(1)</script>" in page.text


@pytest.mark.draws
def test_run_page_has_results_curves_confusion_and_sites(tmp_path):
    run = write_single_run(tmp_path)
    html, page = report(tmp_path)
    assert_self_contained(html, page)
    top1 = run["results"]["test"]["top1"]
    for part in (f"{100 * top1:.1f} % of 153 test images", "Loss per epoch", "Top-1 by class", "layer4.1.bn2"):
        assert part in page.text
    cells = [int(cell) for cell in re.findall(r'--depth: [\d.]+">(\d+)<', html)]
    assert sum(cells) == 153
    assert cells[0] + cells[3] == round(top1 * 153)


def test_run_with_many_classes_lists_mistakes(tmp_path):
    write_single_run(tmp_path, classes=[f"class {index}" for index in range(81)], images=900)
    page = report(tmp_path)[1]
    assert "The most frequent mistakes, n = 900 test images" in page.text
    assert "The worst 30 of 81 classes" in page.text


@pytest.mark.draws
def test_unfinished_run_shows_what_there_is(tmp_path):
    write_single_run(tmp_path, status="running", epochs=3)
    (tmp_path / "predictions.safetensors").unlink()
    page = report(tmp_path)[1]
    assert "not finished (status: running, 3 epochs so far)" in page.text
    assert "Top-1 per epoch" in page.text


def test_missing_runs_and_images_are_left_out_and_named(folder):
    shutil.rmtree(folder / "runs" / "se")
    shutil.rmtree(folder / "samples")
    page = report(folder)[1]
    assert "No predictions in this folder for: se" in page.text
    assert "No metrics in this folder for: se" in page.text
    assert "img" not in page.tags


@pytest.mark.parametrize("damage", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", b"garbage" * 99])
def test_damaged_predictions_and_images_are_left_out(folder, damage):
    for path in [*folder.glob("runs/*/*/predictions.safetensors"), *folder.glob("samples/*.png")]:
        path.write_bytes(damage)
    for path in folder.glob("runs/*/*/metrics.jsonl"):
        path.write_text(path.read_text()[:-40] + '{"epoch": "x"}\n[1]\n{"epoch": 99, "eval_top1": NaN}')
    page = report(folder)[1]
    assert "No predictions in this folder for: none, cbam, se, static" in page.text
    assert "Top-1 per epoch" in page.text


def test_predictions_of_other_classes_are_left_out(folder):
    other = folder.parent / "other"
    write_single_run(other, classes=("a", "b", "c"))
    shutil.copy(other / "predictions.safetensors", folder / "runs/cbam/seed-0/predictions.safetensors")
    assert "mean over 4 seeds x 153" in report(folder)[1].text


def test_nothing_outside_the_folder_is_read(folder, tmp_path):
    picture = next(folder.glob("samples/*.png"))
    shutil.copy(picture, tmp_path / "secret.png")
    assert thumbnail(folder, f"samples/{picture.name}")
    for path in ("../secret.png", str(tmp_path / "secret.png"), "samples/\0.png", "samples"):
        assert thumbnail(folder, path) is None
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    assert thumbnail(folder, "link.png") is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("backbone"), "it has no 'backbone'"),
        (lambda d: d["variants"][1].pop("top1_per_seed"), r"variants\[1\] is incomplete: it has no 'scores'"),
        (lambda d: d["effects"][0].update(mean="much"), r"effects\[0\].mean is 'much': expected a number"),
        (lambda d: d["effects"][0].update(mean=math.nan), "expected a finite number"),
        (lambda d: d["effects"][0].update(variant="gone"), "no such variant"),
        (lambda d: d["variants"][0].update(latency_ms=[1]), "expected a table"),
        (lambda d: d.update(variants={"cbam": 1}), "expected a list"),
        (lambda d: d["data"].update(classes=[1, 2]), "expected text"),
        (lambda d: d.update(colour="red"), "unknown option 'colour'"),
    ],
)
def test_damaged_comparison_is_a_run_error_with_the_place(folder, change, words):
    edit(folder, change)
    with pytest.raises(RunError, match=words):
        write_report(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '"\\ud800"'])
def test_unreadable_json_is_a_run_error(tmp_path, text):
    for name in ("run.json", "comparison.json"):
        (tmp_path / name).write_text(text)
        with pytest.raises(RunError, match=r"restore it from a copy|does not describe a"):
            write_report(tmp_path)


def test_other_folders_are_a_run_error(tmp_path):
    with pytest.raises(RunError, match="has none of"):
        write_report(tmp_path)
    with pytest.raises(RunError, match="no folder"):
        write_report(tmp_path / "gone")


def removable(document, path=()):
    """The paths of all keys and of the first list entries of the document."""
    items = document.items() if isinstance(document, dict) else enumerate(document[:1])
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from removable(value, (*path, key))


DAMAGES = (None, "gone", "text", 7, -0.5, math.nan, [], {}, [None], True)


def damaged(original, path, damage):
    """A copy of the document where one entry is gone or something else."""
    document = json.loads(json.dumps(original))
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    if damage == "gone":
        del parent[path[-1]]
    else:
        parent[path[-1]] = damage
    return document


def survive_every_damage(folder, name, original, every):
    """Write the report with each entry damaged in turn: a page or a sentence, nothing else."""
    cases = [(path, damage) for path in removable(original) for damage in DAMAGES]
    for path, damage in cases[::every]:
        (folder / name).write_text(json.dumps(damaged(original, path, damage)))
        with contextlib.suppress(RunError):
            write_report(folder)
    return len(cases)


@pytest.fixture
def quick_charts(monkeypatch):
    """Charts that are painted but not laid out and saved, which takes most of the time."""

    def paint_only(paint, size):
        paint(Figure(size))
        return "<svg></svg>"

    monkeypatch.setattr("attngraft.reporting.charts._draw_as_svg", paint_only)


@pytest.mark.parametrize("every", [59, pytest.param(1, marks=pytest.mark.slow)])
def test_any_entry_of_a_comparison_may_be_damaged(tmp_path, quick_charts, every):
    variants = ("none", "cbam")
    original = write_comparison(tmp_path, images=20, seeds=2, variants=variants, samples=1, warnings=True)
    assert survive_every_damage(tmp_path, "comparison.json", original, every) > 200


@pytest.mark.parametrize("every", [59, pytest.param(1, marks=pytest.mark.slow)])
def test_any_entry_of_a_run_may_be_damaged(tmp_path, quick_charts, every):
    assert survive_every_damage(tmp_path, "run.json", write_single_run(tmp_path, images=20), every) > 100


@pytest.mark.draws
def test_empty_comparison_gives_a_page(folder):
    edit(folder, lambda d: d.update(variants=[], effects=[], samples=[], seeds=[], status="partial"))
    assert "No effect can be told yet" in report(folder)[1].text


def test_comparison_table_in_the_terminal(two_classes):
    _, document = two_classes
    text = shown(comparison_table(document))
    effect = document["effects"][0]
    assert f"{100 * effect['mean']:+.1f}" in text
    for part in ("cbam", "static", "5 seeds x 153 test images", "11.2 M", "21.4 ms", "+46.0 %", effect["verdict"]):
        assert part in text
    with pytest.raises(ConfigError, match="it has no"):
        comparison_table({})


def test_the_verdict_is_whole_in_80_columns_whatever_the_unit(two_classes):
    document = json.loads(json.dumps(two_classes[1]))
    document["effects"][0].update(mean=0.0004, low=-0.006, high=0.007, verdict="no evidence")
    record = ComparisonRecord.from_json(document)
    table = variant_table(replace(record, metric=replace(record.metric, label="distance", unit="kilometres")))
    text = shown(rich_table(table), width=80)
    assert "no evidence" in text
    assert re.search(r"(?<!\S)0\.000 ", text)  # as many decimals as its interval


def test_the_verdict_of_a_comparison_may_wrap_but_is_never_cut(two_classes):
    table = variant_table(ComparisonRecord.from_json(two_classes[1]))
    assert table.columns[-1] == Column("verdict", folds=True)


def test_run_summary_in_the_terminal(tmp_path):
    write_single_run(tmp_path)
    text = shown(run_summary(RunFolder(tmp_path).read()))
    assert "of 153 test images" in text
    assert "weakest class" in text


def test_metrics_after_a_resume_count_the_later_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"epoch": 2, "a": 1}\n{"epoch": 1}\n{"epoch": 2, "a": 5}\n{"epoch": 3, "a"'
    )
    assert read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2, "a": 5}]
    assert read_metrics(tmp_path / "gone") == []


@pytest.mark.draws
def test_plots_of_the_caller_keep_their_settings(two_classes):
    before = dict(matplotlib.rcParams)
    write_report(two_classes[0])
    assert dict(matplotlib.rcParams) == before


@pytest.mark.draws
def test_report_is_the_same_when_written_again(two_classes):
    first = write_report(two_classes[0]).read_bytes()
    assert write_report(two_classes[0]).read_bytes() == first


def test_a_dynamic_run_shows_what_followed_the_loss_and_a_fixed_one_does_not(tmp_path):
    folder = tmp_path / "run"
    write_single_run(folder)
    title = "What followed the trend of the loss"
    assert title not in write_report(folder).read_text()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["dynamic"] = {"rate": 1.1**number, "strength": 1.0, "trend": None}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(folder).read_text()
    assert title in page
    assert f"learning rate of the grafts: x {1.1 ** (len(rows) - 1):.3g} in the last epoch" in page


@pytest.mark.draws
@pytest.mark.parametrize("dashed", [False, True])
def test_the_only_epoch_of_a_run_is_seen(dashed: bool):
    for points, marked in (([(1, 0.5)], 1), ([(number, 0.5) for number in range(1, 31)], 0)):
        chart = line_chart([Line(LegendItem("training", 0, dashed), points)], "Loss", "", ylabel="loss")
        assert chart is not None
        assert len(re.findall(r'<g clip-path="[^"]*">\s*<use', chart.svg)) == marked
