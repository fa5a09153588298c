from __future__ import annotations

import json

import pytest

SMALL = (
    "--backbone", "small-cnn", "--attention", "none,se", "--recipe", "one-cycle", "--epochs", 1, "--image-size", 16,
    "--batch-size", 20, "--limit", 40, "--precision", "fp32+contiguous", "--device", "cpu", "--workers", 0,
    "--trials", 2, "--seeds", 1, "--budget", "1h",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("search") / "out"


def test_a_search_that_is_not_met_says_so_and_exits_with_1(attngraft, folder):
    code, out, err = attngraft("iterate", "cluttered-digits", "--until", "top1>=99%", "--out", folder, *SMALL)
    assert code == 1, err
    words = " ".join(out.split())
    assert "not met: top-1 " in words
    assert "where at least 99 % was asked (1 seed, 40 test images, 95 % interval)" in words
    assert "best of 2 trials, on the validation images" in words
    assert "the validation set is a random" in words or "validation" in words
    assert (folder / "report.html").is_file()
    assert "not met" in (folder / "report.html").read_text(encoding="utf-8")
    assert "attngraft iterate cluttered-digits" in json.loads((folder / "iterate.json").read_text())["command"]


def test_the_same_command_again_prints_the_same_without_training(attngraft, folder):
    before = (folder / "iterate.json").read_bytes()
    arguments = ("iterate", "cluttered-digits", "--until", "top1 >= 0.99", "--out", folder, *SMALL)
    code, out, _ = attngraft(*arguments, "--json")
    assert code == 1
    assert json.loads(out) == json.loads(before)
    assert (folder / "iterate.json").read_bytes() == before


def test_the_model_of_a_search_predicts(attngraft, folder, tmp_path):
    from PIL import Image

    Image.new("L", (20, 20), 90).save(tmp_path / "one.png")
    code, out, err = attngraft("predict", folder, tmp_path / "one.png")
    assert code == 0, err
    assert "one.png" in out


def test_a_search_that_is_met_exits_with_0(attngraft, tmp_path):
    code, out, err = attngraft("iterate", "cluttered-digits", "--until", "loss<=3", "--out", tmp_path / "o", *SMALL)
    assert code == 0, err
    assert "met: loss 2." in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--until", "top1>=93"), "write 93% for percent"),
        (("--until", "acc>=0.9"), "unknown metric 'acc'"),
        (("--budget", "soon"), "the budget 'soon' cannot be read"),
        (("--attention", "none,cbma"), "did you mean 'cbam'"),
        (("--recipe", "one-cycl"), "did you mean 'one-cycle'"),
    ],
)
def test_iterate_refuses_in_one_sentence(attngraft, tmp_path, change, message):
    arguments = ["iterate", "cluttered-digits", "--until", "top1>=0.9", "--out", tmp_path / "o", *SMALL, *change]
    code, out, err = attngraft(*arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert not (tmp_path / "o").exists()
