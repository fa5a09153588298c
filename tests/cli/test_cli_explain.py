"""`attngraft explain` on a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import attngraft as ag


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = ag.graft(ag.create_backbone("small-cnn", num_classes=10), "cbam")
    folder = tmp_path_factory.mktemp("cli-explain") / "run"
    options = {"precision": "fp32+contiguous", "workers": 0, "device": "cpu", "epochs": 3, "batch_size": 16}
    ag.fit(model, "cluttered-digits", run_dir=folder, image_size=32, limit=30, **options)
    return folder


def test_it_prints_the_sentences_and_the_page(attngraft, run: Path) -> None:
    code, out, err = attngraft("explain", run, "--examples", 1, "--limit", 8)
    assert code == 0, err
    document = json.loads((run / "explanation" / "explanation.json").read_text())
    told = " ".join(out.split())
    assert all(" ".join(sentence.split()) in told for sentence in document["sentences"])
    assert (run / "explanation" / "report.html").is_file()
    told = [
        "gates of 8 images ...",
        "decoupling: ",
        "switching ",
        "folding: ",
        "latency ...",
        "maps: ",
        "perturbing images ...",
    ]
    places = [err.find(words) for words in told]
    assert places[0] > -1
    assert places == sorted(places)


@pytest.mark.slow
def test_json_is_all_there_is_on_standard_output(attngraft, run: Path, tmp_path: Path) -> None:
    code, out, _ = attngraft("explain", run, "--out", tmp_path / "x", "--limit", 10, "--examples", 0, "--json")
    assert code == 0
    assert json.loads(out)["kind"] == "explanation"
    code, out, _ = attngraft("report", tmp_path / "x")
    assert code == 0
    assert "report.html" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{tmp}/nowhere"], "nowhere"),
        (["{run}", "{tmp}/nowhere"], "nowhere"),
        (["{run}", "--boxes", "{tmp}/nowhere.csv"], "nowhere.csv"),
        (["{run}", "--device", "abacus"], "abacus"),
    ],
)
def test_errors_are_one_sentence_with_code_2(attngraft, run: Path, tmp_path: Path, arguments, told) -> None:
    words = [word.format(run=run, tmp=tmp_path) for word in arguments]
    code, out, err = attngraft("explain", *words, "--out", tmp_path / "out")
    assert code == 2
    assert out == ""
    sentence = err[err.index("error:") :].strip()
    assert told in sentence.replace("\n", "")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
