"""A finished command that is given again answers from its record: nothing is decoded, trained or imported for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import attngraft as ag
import attngraft.data.pixel_store as pixel_store
from attngraft.answers import Question
from attngraft.backbones import preprocessing_of
from attngraft.errors import RunError

SMALL = ("--backbone", "small-cnn", "--no-pretrained", "--image-size", "16", "--recipe", "plateau", "--epochs", "1")
PLAIN = ("--device", "cpu", "--workers", "0", "--precision", "fp32", "--quiet")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("glass", "paper"):
        for number in range(12):
            path = tmp_path / "my photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (20, 18, 3), dtype=np.uint8)).save(path)
    return tmp_path / "my photos"


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """How many files each reading of images was asked for."""
    calls: list[int] = []
    real = pixel_store.decode_files
    monkeypatch.setattr(
        "attngraft.data.sources.decode_files", lambda paths, **k: calls.append(len(paths)) or real(paths, **k)
    )
    return calls


@pytest.mark.parametrize("verb", ["fit", "compare"])
def test_a_finished_command_reads_no_image_again(attngraft, tmp_path: Path, photos: Path, decoded, verb: str):
    folder = tmp_path / "run"
    command = (verb, photos, *SMALL, *PLAIN, "--run-dir", folder, *(("--seeds", "1") if verb == "compare" else ()))
    code, first, err = attngraft(*command)
    assert code == 0, err
    assert len(decoded) == 1
    code, again, err = attngraft(*command)
    assert (code, err, len(decoded)) == (0, "", 1)
    assert again.startswith(first.rstrip())
    assert "answered from the record" in again
    assert "24 files" in again
    code, document, err = attngraft(*command, "--json")
    assert code == 0, err
    assert json.loads(document)["status"] == "finished"
    assert "answered from the record" in err


def test_other_settings_are_refused_as_before(attngraft, tmp_path: Path, photos: Path, decoded):
    command = ("fit", photos, *SMALL, *PLAIN, "--run-dir", tmp_path / "run")
    attngraft(*command)
    code, _, err = attngraft(*command, "--batch-size", "7")
    assert code == 2, err
    assert "has another recipe" in err
    assert len(decoded) == 2


def test_images_that_changed_meanwhile_are_refused_as_before(attngraft, tmp_path: Path, photos: Path, decoded):
    command = ("fit", photos, *SMALL, *PLAIN, "--run-dir", tmp_path / "run")
    attngraft(*command)
    Image.new("RGB", (20, 18), (1, 2, 3)).save(photos / "glass/0.png")
    code, _, err = attngraft(*command)
    assert code == 2, err
    assert "has another data" in err


def test_images_that_were_only_copied_anew_are_read_once_more(attngraft, tmp_path: Path, photos: Path, decoded):
    command = ("fit", photos, *SMALL, *PLAIN, "--run-dir", tmp_path / "run")
    attngraft(*command)
    (photos / "glass/0.png").touch()
    assert "answered" not in attngraft(*command)[1]
    assert "answered" in attngraft(*command)[1]
    assert len(decoded) == 2


def test_a_list_of_images_is_watched_too(attngraft, tmp_path: Path, photos: Path, decoded):
    rows = [f"my photos/{p.parent.name}/{p.name},{p.parent.name}" for p in sorted(photos.rglob("*.png"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    command = ("fit", tmp_path / "list.csv", *SMALL, *PLAIN, "--run-dir", tmp_path / "run")
    assert attngraft(*command)[0] == 0
    assert "answered" in attngraft(*command)[1]
    Image.new("RGB", (20, 18), (1, 2, 3)).save(photos / "glass/0.png")
    assert attngraft(*command)[0] == 2


def test_the_answer_needs_no_pytorch(attngraft, tmp_path: Path, photos: Path):
    command = ["fit", str(photos), *SMALL, *PLAIN, "--run-dir", str(tmp_path / "run")]
    attngraft(*command)
    code = "import sys; sys.argv[0] = 'attngraft'\nfrom attngraft.cli import app\n"
    code += f"app({command!r}, standalone_mode=False)\nprint('torch' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


def test_in_python_too(tmp_path: Path, photos: Path, decoded, capsys):
    options = {"recipe": "plateau", "epochs": 1, "image_size": 16, "device": "cpu", "workers": 0, "precision": "fp32"}

    def train() -> ag.FitResult:
        model = ag.graft(ag.create_backbone("small-cnn", num_classes=2, pretrained=False), "se")
        return ag.fit(model, photos, run_dir=tmp_path / "run", **options)

    first, again = train(), train()
    assert len(decoded) == 1
    assert "answered from the record" in capsys.readouterr().err
    assert again.evaluation.ids == first.evaluation.ids
    assert again.history == first.history
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    assert preprocessing_of(again.model) == preprocessing_of(first.model)
    with pytest.raises(RunError, match="seed"):
        ag.fit(first.model, photos, run_dir=tmp_path / "run", seed=1, **options)


def test_a_comparison_in_python_too(tmp_path: Path, photos: Path, decoded):
    options = {"recipe": "plateau", "epochs": 1, "image_size": 16, "device": "cpu", "workers": 0, "precision": "fp32"}
    asked = {"backbone": "small-cnn", "attentions": "se", "seeds": 1, "pretrained": False, "run_dir": tmp_path / "cmp"}
    first, again = (ag.compare(photos, **asked, **options) for _ in range(2))
    assert len(decoded) == 1
    assert again.verdicts == first.verdicts
    assert len(ag.compare(photos, **{**asked, "seeds": 2}, **options).document["seeds"]) == 2


@pytest.mark.parametrize("backbone", ["my.package:network", "file.py:network"])
def test_a_network_of_ones_own_code_is_built_to_be_compared(tmp_path: Path, photos: Path, backbone: str):
    assert Question.about("fit", tmp_path, [photos], backbone) is None
    (tmp_path / "file.py").write_text("")
    found = Question.about("fit", tmp_path / "run", [photos], str(tmp_path / "file.py") + ":network")
    assert found is not None
    assert tmp_path / "file.py" in found.inputs


def test_an_explanation_given_again_is_answered_from_its_record(attngraft, tmp_path: Path, photos: Path, monkeypatch):
    run, passes = tmp_path / "run", []
    code, _, err = attngraft("fit", photos, *SMALL, *PLAIN, "--attention", "cbam", "--out", run)
    assert code == 0, err
    real = torch.nn.Conv2d.forward
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda self, x: passes.append(1) or real(self, x))
    command = ("explain", run, "--examples", "1", "--quiet")
    code, first, err = attngraft(*command)
    assert code == 0, err
    taken = len(passes)
    assert taken
    code, again, err = attngraft(*command)
    assert (code, err, len(passes)) == (0, "", taken)
    assert again.startswith(first.rstrip())
    assert "answered from the record" in again
    code, document, err = attngraft(*command, "--json")
    assert (code, len(passes)) == (0, taken), err
    assert json.loads(document) == json.loads((run / "explanation" / "explanation.json").read_text())
    assert attngraft(*command, "--seed", "1")[0] == 0
    assert len(passes) > taken
    Image.new("RGB", (20, 18), (1, 2, 3)).save(photos / "glass/0.png")
    code, _, err = attngraft(*command, "--seed", "1")
    assert code == 2
    assert "are not those" in " ".join(err.split())
