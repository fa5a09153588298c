"""Effects as CSV, LaTeX and runs of trackers: the numbers of the record, and nothing that a name could do."""

from __future__ import annotations

import csv
import io
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_folders import write_comparison
from sealed import rewrite

from attngraft.cli.compare import run as compare_verb
from attngraft.comparison.comparison_record import ComparisonRecord, StartRecord
from attngraft.errors import ConfigError, RunError
from attngraft.reporting import check_tracker, log_report, write_report
from attngraft.reporting.exports import comparison_csv, comparison_tex, escaped
from attngraft.reporting.read_folder import read_comparison

HOSTILE = r"\input{/etc/passwd} & 50 % of $x_1^2$ #{~}" + "\x1b[2J\n<b>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_comparison(tmp_path)
    return tmp_path


@pytest.fixture
def record(folder: Path) -> ComparisonRecord:
    return read_comparison(folder)


def test_the_csv_has_a_row_for_each_effect_in_points(record: ComparisonRecord) -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_csv(record))))
    assert [(row["variant"], row["against"]) for row in rows] == [(e.variant, e.against) for e in record.effects]
    for row, effect in zip(rows, record.effects, strict=True):
        assert float(row["mean"]) == pytest.approx(100 * effect.mean)
        assert float(row["p_adjusted"]) == effect.p_adjusted
        assert (row["unit"], row["verdict"]) == ("points", effect.verdict)


def test_the_table_for_latex_has_the_variants_and_escapes_them(record: ComparisonRecord) -> None:
    text = comparison_tex(record)
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    assert body.count(r"\\") == len(record.variants)
    assert all(line.count("&") == 4 for line in body.strip().splitlines())
    assert r"$\pm$" in body
    assert text.count("{") == text.count("}")


def test_the_table_for_latex_says_what_grafting_alone_changes(record: ComparisonRecord) -> None:
    variant = next(v for v in record.variants if v.name != record.baseline)
    start = StartRecord(images=400, kept=400, equal=True, largest_change=0.0, head="own")
    text = comparison_tex(replace(record, at_start={variant.slug: start}))
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    assert all(line.count("&") == 5 for line in body)
    assert sum("400 of 400, equal" in line for line in body) == 1
    assert "same at start" in text.partition(r"\midrule")[0]


def test_nothing_in_a_name_is_a_command_of_latex() -> None:
    text = escaped(HOSTILE)
    for mark in "&%$#_{}":
        assert all(text[at - 1] == "\\" for at, c in enumerate(text) if c == mark and mark in "&%#_")
    assert text.startswith(r"\textbackslash{}input\{/etc/passwd\} \& 50 \% of \$x\_1\textasciicircum{}2\$")
    assert text.isprintable()


def test_they_lie_beside_the_page_also_with_hostile_names(folder: Path) -> None:
    def rename(document: dict[str, Any]) -> None:
        for row in document["variants"]:
            row["name"] = row["name"].replace("cbam", HOSTILE)
        for effect in document["effects"]:
            effect["variant"] = effect["variant"].replace("cbam", HOSTILE)

    rewrite(folder / "comparison.json", rename)
    write_report(folder)
    assert {"report.html", "comparison.csv", "comparison.tex"} <= {path.name for path in folder.iterdir()}
    assert r"\input{" not in (folder / "comparison.tex").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO((folder / "comparison.csv").read_text(encoding="utf-8"), newline="")))
    assert HOSTILE in [row["variant"] for row in rows]


class Recorder:
    """Takes every call, as a module and as what it returns."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            return self

        call.update = lambda values: self.calls.append((f"{name}.update", (values,), {}))  # type: ignore[attr-defined]
        return call

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        self.calls.append(("end", (), {}))

    def of(self, name: str) -> tuple[Any, ...]:
        return next(args for called, args, _ in self.calls if called == name)


def test_wandb_gets_settings_numbers_and_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    write_report(folder)
    log_report(folder, "wandb")
    assert [name for name, *_ in fake.calls] == ["init", "summary.update", "Html", "log", "finish"]
    _, _, given = fake.calls[0]
    assert (given["project"], given["name"]) == ("attngraft", folder.name)
    assert given["config"]["data"] == "hymenoptera"
    effect = read_comparison(folder).effects[0]
    (numbers,) = fake.of("summary.update")
    assert numbers[f"{effect.variant}/against {effect.against}/mean"] == pytest.approx(100 * effect.mean)


def test_mlflow_gets_names_that_it_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Recorder()
    monkeypatch.setitem(sys.modules, "mlflow", fake)  # type: ignore[arg-type]
    log_report(folder, "mlflow")
    assert [name for name, *_ in fake.calls] == ["set_experiment", "start_run", "log_params", "log_metrics", "end"]
    (params,), (metrics,) = fake.of("log_params"), fake.of("log_metrics")
    assert all(len(value) <= 500 for value in params.values())
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz_-./ 0123456789") for name in metrics)
    assert all(isinstance(value, float) for value in metrics.values())


def test_a_tracker_that_lacks_or_fails_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"not installed: pip install attngraft\[wandb\]"):
        check_tracker("wandb")
    with pytest.raises(ConfigError, match=r"pip install attngraft\[wandb\]"):
        compare_verb(data=["no-such-folder"], backbone="small-cnn", log="wandb", **_unset())
    with pytest.raises(ConfigError, match="unknown tracker 'wandbb': did you mean 'wandb'"):
        check_tracker("wandbb")
    broken = types.ModuleType("mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", broken)
    with pytest.raises(ConfigError, match="the comparison is finished and whole"):
        log_report(folder, "mlflow")
    (folder / "other").mkdir()
    with pytest.raises(RunError, match="has none of"):
        log_report(folder / "other", "mlflow")
    check_tracker(None)


def _unset() -> dict[str, Any]:
    """The other options of compare, none of them given."""
    import inspect

    parameters = inspect.signature(compare_verb).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ("data", "backbone", "log")}
