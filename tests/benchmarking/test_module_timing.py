"""Module level: arithmetic on hand-made times, and tiny real races."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from attngraft.benchmarking import module_timing as modules
from attngraft.benchmarking import timm_equivalents as peers
from attngraft.benchmarking.bench_settings import BenchSettings
from attngraft.benchmarking.clock import Spread, nothing
from attngraft.benchmarking.module_timing import ModuleCase, measure_module, module_cases, module_row, summarise
from attngraft.training import Precision

CPU = torch.device("cpu")
PLAIN = Precision("fp32", "contiguous")


def case(attention="cbam", direction="forward", precision=PLAIN, shape=(2, 16, 6, 6)):
    return ModuleCase(attention, direction, precision, shape)


def measured(what, **options):
    return measure_module(what, CPU, **{"repeats": 2, "compiled": False, "on_round": nothing, **options})


def names(row):
    return [entry.name for entry in row.entries if entry.time_ms is not None]


def reason(row, name):
    return next(entry.reason for entry in row.entries if entry.name == name)


def test_ratios_come_from_times_of_the_same_round():
    samples = {"attngraft": (2.0, 4.0, 2.0), "timm": (6.0, 12.0, 8.0), "reference": (1.0, 2.0, 1.0)}
    samples["copy"] = (0.5, 1.0, 0.5)
    row = module_row(case(), samples, {"torch.compile": "failed (no compiler)"}, bytes_of_x=1_000_000)
    found = {entry.name: entry for entry in row.entries}
    assert list(found) == ["attngraft", "timm", "torch.compile", "reference", "traffic limit"]
    assert found["timm"].time_ms == Spread(8.0, 7.0, 10.0, 3)
    assert found["timm"].speedup == Spread(3.0, 3.0, 3.5, 3)
    assert found["attngraft"].speedup.median == 1.0
    assert found["reference"].speedup.median == 0.5
    assert found["torch.compile"] == dataclasses.replace(
        found["torch.compile"], time_ms=None, speedup=None, reason="failed (no compiler)"
    )
    assert found["traffic limit"].time_ms.median == 1.0
    assert row.over_limit.median == 2.0
    assert row.copy_share.median == 0.5
    assert row.copy_gb_per_s == pytest.approx(2 * 1e6 / 0.5e-3 / 1e9)


@pytest.mark.parametrize(
    ("attention", "direction", "copies"),
    [
        ("cbam", "forward", 2.0),
        ("cbam", "forward+backward", 5.0),
        ("se", "forward", 1.5),
        ("eca", "forward+backward", 3.5),
    ],
)
def test_the_limit_counts_the_passes_that_an_attention_needs(attention, direction, copies):
    samples = {"attngraft": (10.0,), "copy": (1.0,)}
    row = module_row(case(attention, direction), samples, {}, bytes_of_x=1)
    assert row.limit_copies == copies
    assert row.over_limit.median == pytest.approx(10 / copies)


def test_summaries_are_geometric_means_of_one_attention_direction_and_precision():
    def row(timm, **where):
        samples = {"attngraft": (1.0,), "copy": (0.25,), **({"timm": (timm,)} if timm else {})}
        return module_row(case(**where), samples, {} if timm else {"timm": "refused"}, bytes_of_x=1)

    first, second, other = summarise(
        [row(2.0), row(8.0), row(None), row(3.0, direction="forward+backward"), row(5.0, attention="se")]
    )
    assert [(mean.name, mean.speedup, mean.shapes) for mean in first.means] == [("timm", pytest.approx(4.0), 2)]
    assert first.over_limit == pytest.approx(2.0)
    assert second.direction == "forward+backward"
    assert other.attention == "se"


def test_cases_are_all_combinations():
    settings = BenchSettings(
        attentions=("se", "eca"), dtypes=("fp32", "bf16"), shapes=((4, 3, 3),), batch_size=2, layouts=("channels_last",)
    )
    found = module_cases(settings)
    assert len(found) == len(set(found)) == 2 * 2 * 1 * 2
    assert found[0].shape == (2, 4, 3, 3)


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("precision", [PLAIN, Precision("bf16", "channels_last")], ids=str)
@pytest.mark.parametrize("attention", ["cbam", "se", "eca"])
def test_a_tiny_race_has_all_competitors(attention, precision, direction):
    row = measured(case(attention, direction, precision))
    assert names(row) == ["attngraft", "timm", "reference", "traffic limit"]
    assert {entry.time_ms.n for entry in row.entries} == {2}


def test_an_attention_without_a_peer_is_compared_with_the_reference(monkeypatch):
    row = measured(case("simam", "forward+backward"), compiled=True)
    assert names(row) == ["attngraft", "reference", "traffic limit"]
    assert "no module" in reason(row, "timm")


def test_a_peer_that_computes_something_else_is_refused_and_not_timed(monkeypatch):
    wrong = dataclasses.replace(peers.PEERS["cbam"], flipped=frozenset())
    monkeypatch.setattr(peers, "PEERS", {"cbam": wrong})
    row = measured(case())
    assert names(row) == ["attngraft", "reference", "traffic limit"]
    assert "computes something else (output differs" in reason(row, "timm")


def test_a_compiler_that_fails_is_a_reason(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no working C++ compiler\nand a long story")

    monkeypatch.setattr(modules.torch, "compile", fail)
    row = measured(case(), compiled=True)
    assert names(row) == ["attngraft", "timm", "reference", "traffic limit"]
    assert reason(row, "torch.compile") == "failed (RuntimeError: no working C++ compiler)"


def test_what_the_compiler_makes_is_timed_where_it_computes_the_same(monkeypatch):
    monkeypatch.setattr(modules.torch, "compile", lambda module, **options: module)
    assert names(measured(case(), compiled=True))[:3] == ["attngraft", "timm", "torch.compile"]
    monkeypatch.setattr(modules.torch, "compile", lambda module, **options: torch.nn.Identity())
    assert "computes something else" in reason(measured(case(), compiled=True), "torch.compile")
