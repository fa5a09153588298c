"""Settings, the whole bench at a tiny size, and its way to JSON and back."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace

import pytest
import torch

from attngraft.benchmarking import BenchResult, BenchSettings, bench, parse_shapes
from attngraft.benchmarking.bench_settings import LoopCase
from attngraft.errors import ConfigError
from attngraft.training import Silent

TINY = BenchSettings(
    parts=("modules", "models", "loop"),
    attentions=("se",),
    device="cpu",
    compile=False,
    batch_size=4,
    repeats=2,
    image_size=64,
    backbones=("timm:resnet18",),
    shapes=((8, 6, 6), (16, 3, 3)),
    loops=(LoopCase("small-cnn", 16, "png", 16, 16),),
    quick=True,
)


@pytest.fixture(scope="module")
def tiny():
    """A finished tiny bench and every result on the way."""
    seen = []
    return bench(TINY, progress=Silent(), on_result=seen.append, command="attngraft bench"), seen


def test_a_tiny_bench_measures_every_part(tiny):
    result, _ = tiny
    assert result.status == "finished"
    assert [(row.direction, row.shape) for row in result.modules] == [
        ("forward", (4, 8, 6, 6)),
        ("forward", (4, 16, 3, 3)),
        ("forward+backward", (4, 8, 6, 6)),
        ("forward+backward", (4, 16, 3, 3)),
    ]
    assert [summary.direction for summary in result.summaries] == ["forward", "forward+backward"]
    assert [row.mode for row in result.models] == ["training step", "inference"]
    assert all(entry.time_ms for row in result.models for entry in row.entries)
    assert [row.backbone for row in result.loop] == ["small-cnn"]
    assert result.loop[0].fit.n == 2
    assert result.hardware["cores"] >= 1
    assert "torch" in result.versions
    assert result.threads == torch.get_num_threads()


def test_after_every_measurement_a_line_says_what_is_left_of_the_part_and_of_the_whole(caplog):
    with caplog.at_level(logging.INFO, logger="attngraft"):
        bench(replace(TINY, parts=("modules",)), progress=Silent())
    lines = [record.getMessage() for record in caplog.records if "used" in record.getMessage()]
    assert len(lines) == 4
    assert all("left in this part" in line and line.endswith("for all") and "-:--" not in line for line in lines)
    assert lines[-1].endswith("0:00 left in this part, 0:00 for all")


def test_results_grow_and_none_is_lost_on_the_way(tiny):
    result, seen = tiny
    sizes = [len(r.modules) + len(r.models) + len(r.loop) for r in seen]
    assert sizes == [1, 2, 3, 4, 5, 6, 7, 7]
    assert [r.status for r in seen] == ["partial"] * 7 + ["finished"]
    assert seen[-1] == result


def test_a_result_comes_back_from_json(tiny):
    result, _ = tiny
    assert BenchResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_json_of_something_else_is_an_error(tiny):
    document = tiny[0].to_dict()
    with pytest.raises(ConfigError, match="unknown option 'speed'"):
        BenchResult.from_dict({**document, "speed": 1})
    with pytest.raises(ConfigError, match="incomplete"):
        BenchResult.from_dict({"device": "cpu"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parts": ("module",)}, "did you mean 'modules'"),
        ({"dtypes": ("fp16",)}, "unknown dtype 'fp16'"),
        ({"layouts": ("channel_last",)}, "did you mean 'channels_last'"),
        ({"attentions": ("cbma",)}, "did you mean 'cbam'"),
        ({"attentions": ("se", "se")}, "named twice"),
        ({"attentions": ("",)}, "no attention is named"),
        ({"backbones": ()}, "no backbone is named"),
        ({"batch_size": 1}, "batch_size is 1: expected at least 2"),
        ({"repeats": 0}, "repeats is 0"),
        ({"image_size": 4}, "image_size is 4"),
    ],
)
def test_settings_that_make_no_sense_are_one_sentence(changes, words):
    with pytest.raises(ConfigError, match=words):
        BenchSettings(**changes)


@pytest.mark.parametrize("text", ["64x56", "axbxc", "64x56x0", "", "64x56x56,"])
def test_shapes_that_cannot_be_read_are_one_sentence(text):
    with pytest.raises(ConfigError, match="expected channels x height x width"):
        parse_shapes(text)


def test_quick_is_less_of_everything_and_what_is_given_wins():
    full, quick = BenchSettings(), BenchSettings(quick=True)
    assert len(full.maps) == 5
    assert set(quick.maps) < set(full.maps)
    assert quick.images < full.images
    assert all(quick.rounds(part) < full.rounds(part) for part in full.parts)
    assert len(quick.model_backbones) < len(full.model_backbones)
    assert quick.measured == full.measured[:1]
    assert (full.compiles, quick.compiles, BenchSettings(quick=True, compile=True).compiles) == (True, False, True)
    assert len(quick.loop_cases) < len(full.loop_cases)
    assert (full.pixels, quick.pixels) == (None, 96)
    given = BenchSettings(quick=True, batch_size=64, repeats=7, backbones=("small-cnn",), shapes=((4, 4, 4),))
    assert (given.images, given.rounds("loop"), given.maps) == (64, 7, ((4, 4, 4),))
    assert given.model_backbones == given.memory_backbones == ("small-cnn",)


def test_lack_of_memory_is_one_sentence(monkeypatch):
    def too_large(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    monkeypatch.setattr(sys.modules["attngraft.benchmarking.bench"], "module_rows", too_large)
    with pytest.raises(ConfigError, match="a batch of 4 images does not fit into the memory of cpu"):
        bench(TINY, progress=Silent())
