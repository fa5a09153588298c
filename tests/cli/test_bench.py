"""The verb: one small real bench, what it leaves behind, and what it refuses."""

from __future__ import annotations

import json

import pytest

from attngraft import benchmarking
from attngraft.benchmarking import BenchResult

SMALL = ("--attention", "eca", "--shapes", "8x6x6,8x3x3", "--batch-size", 2, "--repeats", 2, "--device", "cpu")
ARGUMENTS = ("bench", "modules", *SMALL, "--no-compile")


@pytest.fixture
def columns():
    return 80


def test_a_bench_prints_a_table_and_leaves_json_and_a_page(attngraft, tmp_path):
    folder = tmp_path / "b"
    code, out, err = attngraft(*ARGUMENTS, "--out", folder)
    assert code == 0, err
    for part in ("eca forward, fp32 contiguous, batch 2, n = 2", "8 x 6 x 6", "geometric mean", "timm", "reference"):
        assert part in out
    assert "…" not in out
    document = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    assert document["status"] == "finished"
    assert document["command"].startswith("attngraft bench modules --attention eca")
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json", "report.html"]
    (folder / "report.html").unlink()
    assert attngraft("report", folder)[0] == 0
    assert "eca, forward+backward" in (folder / "report.html").read_text(encoding="utf-8")


def test_json_and_a_folder_of_its_own_by_default(attngraft, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = attngraft(*ARGUMENTS, "--json")
    assert code == 0, err
    result = BenchResult.from_dict(json.loads(out))
    assert len(result.modules) == 4
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("bench-2")
    assert BenchResult.from_dict(json.loads((folder / "bench.json").read_text())) == result


def test_nothing_is_overwritten(attngraft, tmp_path):
    (tmp_path / "bench.json").write_text("{}")
    code, out, err = attngraft(*ARGUMENTS, "--out", tmp_path)
    assert (code, out) == (2, "")
    assert "holds a bench already: choose a new folder" in err
    (tmp_path / "bench.json").rename(tmp_path / "notes.txt")
    code, _, err = attngraft(*ARGUMENTS, "--out", tmp_path)
    assert code == 2
    assert "holds something else" in err
    assert attngraft(*ARGUMENTS, "--out", tmp_path / "notes.txt")[0] == 2
    assert (tmp_path / "notes.txt").read_text() == "{}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("module",), "did you mean 'modules'"),
        (("modules", "--attention", "cbma"), "did you mean 'cbam'"),
        (("modules", "--dtype", "fp8"), "unknown dtype 'fp8'"),
        (("modules", "--layout", "channels-last"), "did you mean 'channels_last'"),
        (("modules", "--shapes", "64x56"), "for example 64x56x56"),
        (("modules", "--batch-size", 1), "expected at least 2"),
        (("modules", "--repeats", 0), "expected at least 1"),
        (("modules", "--device", "cuda:99"), "cannot be used"),
        (("models", "--backbone", "timm:resnt18"), "did you mean 'resnet18'"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(attngraft, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = attngraft("bench", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_what_was_measured(attngraft, tmp_path, monkeypatch):
    real = benchmarking.bench

    def interrupted(settings, *, on_result, command):
        def stop_after_two(result):
            on_result(result)
            if len(result.modules) == 2:
                raise KeyboardInterrupt

        return real(settings, on_result=stop_after_two, command=command)

    monkeypatch.setattr(benchmarking, "bench", interrupted)
    code, out, err = attngraft(*ARGUMENTS, "--out", tmp_path / "b")
    assert code == 130
    assert "eca forward, fp32 contiguous" in out
    assert "what was measured so far is in" in err
    document = json.loads((tmp_path / "b/bench.json").read_text())
    assert (document["status"], len(document["modules"])) == ("partial", 2)
    assert "not finished" in (tmp_path / "b/report.html").read_text(encoding="utf-8")


def test_ctrl_c_before_the_first_number(attngraft, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmarking, "bench", interrupted)
    code, _, err = attngraft(*ARGUMENTS, "--out", tmp_path / "b")
    assert code == 130
    assert "nothing was measured yet" in err
    assert not (tmp_path / "b").exists()
