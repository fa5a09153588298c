"""What is assumed of a network of one's own is said once, and can be said by its owner."""

import logging

import pytest
from torch import nn

import attngraft as ag
from attngraft.benchmarking import BenchSettings, bench
from attngraft.comparison import compare
from attngraft.config import Preprocessing
from attngraft.errors import BackboneError, ConfigError, GraftError, RunError
from attngraft.settings import DataSettings
from attngraft.surgery import backbone_spec
from attngraft.training import RunFolder, Silent

HALF = (0.5, 0.5, 0.5)


def make(num_classes):
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


@pytest.fixture
def compared(tmp_path, digits, settings, caplog):
    def call(**changes):
        with caplog.at_level(logging.INFO, logger="attngraft"):
            asked = (
                settings | {"backbone": make, "attentions": "se@stage", "seeds": 1, "run_dir": tmp_path / "c"} | changes
            )
            compare(digits, progress=Silent(), **asked)
        return caplog.text.count("assumed are images of"), RunFolder(tmp_path / "c/runs/none/seed-0").read()

    return call


def test_a_comparison_says_once_what_it_assumes(compared):
    told, run = compared()
    assert told == 1
    assert run.preprocessing.mean == Preprocessing().mean


@pytest.mark.parametrize("said", [{"mean": 0.5, "std": "0.5,0.5,0.5"}, {"preprocessing": {"mean": 0.5, "std": HALF}}])
def test_what_is_said_is_used_by_every_run_and_nothing_is_assumed(compared, said):
    told, run = compared(**said)
    assert told == 0
    assert run.preprocessing.mean == run.preprocessing.std == HALF


def test_a_run_of_a_named_network_says_what_it_assumes(tmp_path, digits, caplog):
    model = ag.create_backbone(backbone_spec(make), num_classes=10)
    with caplog.at_level(logging.INFO, logger="attngraft"):
        ag.fit(model, digits, recipe="one-cycle", epochs=1, image_size=16, run_dir=tmp_path / "r", progress=Silent())
    assert caplog.text.count("assumed are images of 16 x 16 pixels") == 1
    assert "--mean and --std" in RunFolder(tmp_path / "r").read().events[0].text


def test_fit_builds_what_a_function_makes_for_the_data_and_goes_on_with_it(tmp_path, digits, caplog):
    options = {"recipe": "one-cycle", "epochs": 1, "image_size": 16, "run_dir": tmp_path / "r", "progress": Silent()}
    with caplog.at_level(logging.INFO, logger="attngraft"):
        result = ag.fit(make, digits, **options)
    assert caplog.text.count("assumed are images of 16 x 16 pixels") == 1
    assert result.model[-1].out_features == len(digits.classes)
    assert RunFolder(tmp_path / "r").read().backbone.startswith("own:make@")
    again = ag.fit(make, digits, **options)
    assert (again.evaluation.probabilities == result.evaluation.probabilities).all()
    with pytest.raises(GraftError, match="got int as the model"):
        ag.fit(3, digits, **options)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"mean": 127.5, "std": 127.5}, "mean is 127.5 and std is 127.5: pixels are 0 to 1"),
        ({"std": (0.5, 0.5)}, "std 2 numbers: expected one for each of the 3"),
        ({"mean": "half"}, "mean is 'half': expected a number"),
        ({"std": 0}, "std above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(said, words):
    with pytest.raises(ConfigError, match=words):
        DataSettings(**said).preprocessing(Preprocessing())
    if said.keys() == {"mean", "std"}:
        with pytest.raises(ConfigError, match=words):
            ag.graft(make(2), "se", where="stage", input_size=16, preprocessing=said)


SOURCE = """
from torch import nn

def make(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""


def test_a_network_that_was_changed_is_said_to_have_changed(compared, tmp_path):
    file = tmp_path / "net.py"
    file.write_text(SOURCE)
    compared(backbone=f"{file}:make")
    file.write_text(SOURCE + "# by hand\n")
    with pytest.raises(
        RunError, match=r"^net.py:make has changed since the comparison in .* was begun: give it as it was"
    ):
        compared(backbone=f"{file}:make")


def test_a_bench_of_what_cannot_be_made_measures_nothing(tmp_path):
    (tmp_path / "net.py").write_text(SOURCE.replace("num_classes)", "num_classes, width)", 1))
    results = []
    settings = BenchSettings(quick=True, backbones=("small-cnn", f"{tmp_path / 'net.py'}:make"))
    with pytest.raises(BackboneError, match="needs 'width' too"):
        bench(settings, progress=Silent(), on_result=results.append)
    assert not results
