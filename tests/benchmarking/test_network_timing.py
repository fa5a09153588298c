"""Networks, the training loop and memory: arithmetic on hand-made numbers, and small real measurements."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import attngraft as ag
from attngraft.benchmarking import peak_memory as memory
from attngraft.benchmarking.bench_settings import LoopCase
from attngraft.benchmarking.clock import Spread
from attngraft.benchmarking.network_timing import NetworkCase, build_plain, model_row
from attngraft.benchmarking.peak_memory import memory_row
from attngraft.benchmarking.peak_memory_child import saved_bytes
from attngraft.benchmarking.timed_steps import random_batch, training_step
from attngraft.benchmarking.training_throughput import loop_row, write_images
from attngraft.data import load_data
from attngraft.errors import ConfigError
from attngraft.training import Precision

CPU, PLAIN = torch.device("cpu"), Precision()


def test_a_network_is_put_beside_the_plain_one_of_the_same_round():
    samples = {"plain": (100.0, 200.0), "attngraft": (120.0, 240.0)}
    row = model_row(NetworkCase("b", "se", PLAIN, 16, 64), "inference", samples, {"timm": "has none"}, sites=3)
    plain, ours, timm = row.entries
    assert plain.over_plain == Spread(1.0, 1.0, 1.0, 2)
    assert ours.over_plain == Spread(1.2, 1.2, 1.2, 2)
    assert plain.speedup.median == pytest.approx(1 / 1.2)
    assert ours.images_per_s == pytest.approx(16 / 0.18)
    assert (timm.time_ms, timm.reason) == (None, "has none")


def test_the_loop_costs_what_fit_takes_longer_than_bare_steps():
    samples = {"bare": (10.0, 20.0), "loader": (1.0, 1.0), "fit": (12.0, 24.0)}
    row = loop_row(LoopCase("b", 32, "png", 32, 48), PLAIN, samples, 4, 8, 0)
    assert row.images == "png of 48 x 32"
    assert row.over_bare.median == pytest.approx(1.2)
    assert row.loader.median == 1000.0
    assert row.bare.median == pytest.approx(75.0)


def test_made_up_images_can_be_loaded(tmp_path):
    write_images(tmp_path / "images", LoopCase("small-cnn", 16, "jpeg", 20, 24), 8)
    data = load_data(tmp_path / "images", image_size=16, test_fraction=0.25)
    assert (len(data.classes), len(data.train), len(data.test)) == (2, 6, 2)
    assert data.train.image(0).shape == (3, 20, 24)


def test_gradients_do_not_accumulate_over_training_steps():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    task = training_step(model, *random_batch(model, 4, 2, PLAIN, CPU), PLAIN)
    norms = []
    for _ in range(3):
        task.before()
        task.run()
        norms.append(model[1].weight.grad.norm().item())
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-2)


def test_saved_bytes_are_what_autograd_keeps_with_shared_memory_counted_once():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))
    images = torch.randn(5, 3, 2, 2)
    assert saved_bytes(model, images, PLAIN) == 5 * 8 * 4  # the ReLU's output, for itself and for the layer after it


@pytest.mark.slow
def test_the_memory_of_a_step_covers_what_autograd_keeps_and_the_weights():
    request = {"name": "plain", "backbone": "small-cnn", "attention": "se", "batch_size": 64, "image_size": 64}
    request |= {"dtype": "fp32", "layout": "channels_last", "device": "cpu", "threads": 1}
    child = [sys.executable, "-m", "attngraft.benchmarking.peak_memory_child", json.dumps(request)]
    # in a process of its own, as the bench does: in this one there may be free memory already
    found = json.loads(subprocess.run(child, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert found["saved_bytes"] > 64 * 32 * 64 * 64 * 4
    assert found["peak_bytes"] is None or found["peak_bytes"] > found["saved_bytes"]


def test_extra_memory_is_over_the_plain_network():
    def reply(peak, saved):
        return {"peak_bytes": peak, "saved_bytes": saved, "method": "counted"}

    case = NetworkCase("b", "se", PLAIN, 8, 32)
    replies = {"plain": [reply(1000, 400), reply(1200, 400)], "attngraft": [reply(1210, 500)]}
    plain, ours, timm = memory_row(case, {**replies, "timm": [{"reason": "has none"}]}).entries
    assert plain.peak_bytes == Spread(1100, 1050, 1150, 2)
    assert (plain.extra_peak, plain.extra_saved) == (None, None)
    assert ours.extra_peak == pytest.approx(0.1)
    assert ours.extra_saved == pytest.approx(0.25)
    assert timm.reason == "has none"


def test_memory_that_the_system_does_not_tell_or_a_failed_process_is_no_number():
    case = NetworkCase("b", "se", PLAIN, 8, 32)
    silent = {"peak_bytes": None, "saved_bytes": 7, "method": "not measured"}
    row = memory_row(case, {"plain": [silent], "attngraft": [silent]})
    assert row.entries[1].peak_bytes is None
    assert row.entries[1].extra_peak is None
    assert row.entries[1].extra_saved == 0.0
    row = memory_row(case, {"plain": [{"reason": "killed"}], "attngraft": [silent]})
    assert row.entries[0].reason == "killed"
    assert row.entries[1].extra_saved is None
    assert row.method == "not measured"


def test_a_process_that_dies_is_a_reason(monkeypatch):
    def die(command, **options):
        assert find_spec(command[2]), "what is started is there"
        return subprocess.CompletedProcess(command, -9, "", "")

    monkeypatch.setattr(memory.subprocess, "run", die)
    case = NetworkCase("small-cnn", "se", PLAIN, 8, 32)
    assert memory._ask(case, "plain", CPU) == {"reason": "the process that measures failed (exit code -9)"}


@pytest.mark.slow
def test_a_fresh_process_answers():
    case = NetworkCase("small-cnn", "se", PLAIN, 4, 32)
    assert memory._ask(case, "timm", CPU) == {"reason": "does not make small-cnn"}


def test_a_backbone_with_grafts_is_refused(tmp_path):
    ag.save(ag.graft(ag.create_backbone("small-cnn"), "se"), tmp_path / "m.safetensors")
    with pytest.raises(ConfigError, match="has grafts already"):
        build_plain(str(tmp_path / "m.safetensors"))
