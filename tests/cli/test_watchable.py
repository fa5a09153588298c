"""What the verbs show while they work: lines on standard error, nothing but results on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attngraft.cli import VERBS, WATCHED

FIT = ("fit", "cluttered-digits", "--backbone", "small-cnn", "--limit", "20", "--image-size", "28", "--epochs", "3")
SMALL = ("--no-pretrained", "--device", "cpu", "--workers", "0", "--precision", "fp32")


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("epoch ")]


def test_each_epoch_is_a_line_on_standard_error_and_json_stays_clean(attngraft, tmp_path: Path):
    code, out, err = attngraft(*FIT, *SMALL, "--run-dir", tmp_path / "a run", "--json")
    assert code == 0, err
    assert json.loads(out)["status"] == "finished"
    assert [line.split()[1] for line in lines_of(err)] == ["0:", "1/3", "2/3", "3/3"]


def test_quiet_leaves_results_alone(attngraft, tmp_path: Path):
    code, out, err = attngraft(*FIT, *SMALL, "--run-dir", tmp_path / "run", "--quiet")
    assert (code, err) == (0, "")
    assert "report: " in out


@pytest.mark.slow
def test_a_comparison_says_what_is_done_and_the_best_so_far(attngraft, tmp_path: Path):
    asked = ("--seeds", "2", "--attention", "se", "--run-dir", tmp_path / "cmp")
    code, out, err = attngraft("compare", *FIT[1:], *SMALL, *asked)
    assert code == 0, err
    told = [line for line in err.splitlines() if "runs done" in line]
    assert [line.split(" runs")[0] for line in told] == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]
    assert ["best so far: " in line for line in told] == [False, True, True, True]
    assert [line.count("(mean of 1)") for line in told] == [0, 1, 1, 0]
    assert len(lines_of(err)) == 4 * 3
    assert "runs done" not in out


@pytest.mark.parametrize("verb", WATCHED)
def test_what_takes_long_can_be_silenced(attngraft, verb: str):
    assert verb in VERBS
    assert "--quiet" in attngraft(verb, "--help")[1]


@pytest.mark.parametrize("columns", [72, 80, 160])
def test_the_table_of_sites_is_whole_at_any_width(attngraft, columns: int):
    code, out, _ = attngraft("sites", "resnet18-32")
    assert code == 0
    assert "…" not in out
    for part in ("layer4.1", "33,412", "67,1", "parameters", "4x4", "end of the residual branch of layer4.1"):
        assert part in out
    assert all(len(line) <= columns for line in out.splitlines())
