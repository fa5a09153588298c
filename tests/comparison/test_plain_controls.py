"""Controls that spend an attention's cost otherwise: a larger plain network, a longer training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sealed import read_plain

import attngraft as ag
from attngraft.backbones import create_backbone, larger_backbones
from attngraft.comparison import compare, parse_variants
from attngraft.comparison.plain_controls import longer_epochs
from attngraft.comparison.variants import matched_controls, parse_variant
from attngraft.data import Dataset
from attngraft.errors import BackboneError, ConfigError
from attngraft.reporting import write_report


@pytest.mark.parametrize(
    ("spec", "first"),
    [
        ("small-cnn", "small-cnn:width=40"),
        ("resnet20-32:width=24", "resnet20-32:width=32"),
        ("resnet18-32", "resnet50-32"),
        ("timm:resnet18", "timm:resnet26"),
        ("timm:tf_efficientnet_lite0", "timm:tf_efficientnet_lite1"),
        ("torchvision:resnet18", "torchvision:resnet34"),
    ],
)
def test_larger_networks_are_of_the_same_family(spec: str, first: str) -> None:
    assert larger_backbones(spec)[0] == first


@pytest.mark.parametrize("spec", ["resnet50-32", "torchvision:squeezenet1_1", "runs/some-run"])
def test_where_no_larger_network_is_known_it_can_be_named(spec: str) -> None:
    with pytest.raises(BackboneError, match="larger:backbone=NAME"):
        larger_backbones(spec)


@pytest.mark.parametrize("spec", ["small-cnn:width=0", "small-cnn:wide=40", "resnet50-32:width=8", "small-cnn:40"])
def test_widths_that_mean_nothing_are_refused(spec: str) -> None:
    with pytest.raises(BackboneError, match="width=N"):
        create_backbone(spec, pretrained=False)


def test_a_width_is_that_of_the_first_block() -> None:
    model = create_backbone("small-cnn:width=48", num_classes=3)
    assert model.head.in_features == 4 * 48


def test_they_are_like_the_first_attention_unless_they_say_otherwise() -> None:
    variants = matched_controls(parse_variants(["se", "coord"], ["larger", "longer:like=coord", "capacity"]))
    assert [v.options.get("like") for v in variants[3:]] == ["se", "coord", "se"]
    assert {v.role for v in variants[3:]} == {"control"}


@pytest.mark.parametrize("text", ["larger@stage", "longer:epochs=3", "larger:wide=1"])
def test_options_that_they_lack_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_variant(text, "control")


def test_the_training_time_of_the_attention_buys_epochs(tmp_path: Path) -> None:
    times = {"none": 10.0, "coord": 28.0}
    results: Any = {name: {0: SimpleNamespace(train_time_s=seconds)} for name, seconds in times.items()}
    longer = matched_controls(parse_variants(["coord"], ["longer"]))[-1]
    assert longer_epochs(longer, 12, results, 0, tmp_path) == (34, pytest.approx(2.8))
    assert longer_epochs(longer, 12, {}, 0, tmp_path) == (12, 1.0)


def test_both_are_trained_kept_and_the_same_when_it_goes_on(
    tmp_path: Path, digits: Dataset, settings: dict[str, Any]
) -> None:
    controls = ["larger", "longer"]
    first = compare(digits, attentions=["se"], controls=controls, seeds=1, run_dir=tmp_path, **settings)
    matched = read_plain(tmp_path / "comparison.json")["matched"]
    assert set(matched) == {"larger", "longer"}
    assert matched["larger"]["backbone"].startswith("small-cnn:width=")
    epochs = matched["longer"]["epochs"]
    rows = {row["name"]: row for row in first.document["variants"]}
    assert rows["larger"]["parameters"] > rows["se"]["parameters"] > rows["longer"]["parameters"]
    run = read_plain(tmp_path / "runs/longer/seed-0/run.json")
    assert sum(phase["epochs"] for phase in run["recipe"]["phases"]) == epochs
    assert ag.load(tmp_path / "runs/larger/seed-0").head.in_features > 128
    more = compare(digits, attentions=["se"], controls=controls, seeds=2, run_dir=tmp_path, **settings)
    assert more.document["matched"] == matched
    assert matched["larger"]["backbone"] in write_report(tmp_path).read_text(encoding="utf-8")
    pairs = {(e["variant"], e["against"]) for e in more.effects}
    assert {("larger", "none"), ("longer", "none"), ("se", "larger"), ("se", "longer")} <= pairs


def test_weights_of_a_file_fit_no_larger_network(tmp_path: Path, digits: Dataset, settings: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(create_backbone("small-cnn", num_classes=10).state_dict(), tmp_path / "w.safetensors")
    options = {**settings, "weights": tmp_path / "w.safetensors"}
    with pytest.raises(BackboneError):
        compare(digits, attentions=["se"], controls=["larger"], seeds=1, run_dir=tmp_path / "run", **options)
    assert not (tmp_path / "run/comparison.json").exists()
