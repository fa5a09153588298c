"""Statistics of gates: by hand, and the same however the images are cut into batches."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attngraft.errors import ConfigError
from attngraft.surgery.gate_statistics import GateMoments, PartStatistics


def moments_of(*batches: list | Tensor, **options) -> GateMoments:
    moments = GateMoments(**options)
    for batch in batches:
        moments.add(torch.as_tensor(batch, dtype=torch.float32))
    return moments


def test_two_images_with_two_elements_by_hand():
    statistics = moments_of([[1.0, 3.0]], [[3.0, 3.0]]).statistics()
    assert statistics == PartStatistics(
        elements=2,
        mean=2.5,
        spread=math.sqrt(0.75),
        low=1.0,
        high=3.0,
        distance=1.5,  # (0 + 2 + 2 + 2) / 4
        between=0.5,  # the first element varies by 1, the second not at all
        fixed=0.25,  # element means 2 and 3
        dynamic=2 / 3,
        swing=math.sqrt(0.5),
        saturated=None,
        dead=None,
    )


def test_saturated_and_dead_by_hand():
    """Range 2: nearer than 0.04 to 0 or 2 is saturated; an element that is never above 0.1 is dead."""
    first, second = [0.03, 0.09, 1.97, 0.15], [0.05, 0.01, 1.95, 0.02]
    statistics = moments_of([first], [second], limits=(0.0, 2.0)).statistics()
    assert statistics.saturated == 4 / 8  # 0.03, 1.97; 0.01, 0.02
    assert statistics.dead == 2  # the first two elements; the last was at 0.15 once


def test_limits_that_do_not_begin_at_zero():
    statistics = moments_of([[-0.99, 0.0, 0.99, -0.91]], limits=(-1.0, 1.0)).statistics()
    assert statistics.saturated == 2 / 4
    assert statistics.dead == 2


def test_distance_is_from_the_neutral_value():
    assert moments_of([[0.5, 0.25]], [[1.0, 0.5]], neutral=0.5).statistics().distance == pytest.approx(0.75 / 4)


@pytest.mark.parametrize("value", [1.0, 0.1, 1e-3, 777.7])
def test_gates_that_never_change_have_no_variance_at_all(value: float):
    statistics = moments_of(*[torch.full((n, 3), value) for n in (5, 1, 8)]).statistics()
    assert (statistics.between, statistics.fixed, statistics.dynamic, statistics.swing) == (0, 0, 0, 0)


def test_gates_that_depend_on_the_element_alone_are_not_dynamic():
    statistics = moments_of(*[torch.tensor([[0.1, 0.9, 1.7]]).repeat(n, 1) for n in (4, 3)]).statistics()
    assert statistics.dynamic == 0
    assert statistics.fixed == pytest.approx(np.var([0.1, 0.9, 1.7]))


def test_gates_that_depend_on_the_image_alone_are_dynamic():
    assert moments_of([[0.1, 0.1], [0.9, 0.9]], [[1.7, 1.7]]).statistics().dynamic == pytest.approx(1)


def test_a_single_image_shows_no_difference_between_images():
    statistics = moments_of([[0.2, 0.8]]).statistics()
    assert (statistics.between, statistics.dynamic) == (0, 0)
    assert statistics.fixed == pytest.approx(0.09)


def test_small_differences_on_a_large_value_are_not_lost():
    values = torch.tensor([[1000.0], [1000.0 + 2**-10]]).repeat(500, 1)
    statistics = moments_of(*values.split(7)).statistics()
    assert statistics.between == pytest.approx((2**-11) ** 2, rel=1e-9)


SHAPES = st.sampled_from([(3,), (1,), (2, 3), (2, 1, 4)])


@given(st.integers(0, 2**31), st.integers(1, 12), SHAPES, st.data())
def test_any_split_into_batches_gives_what_numpy_gives_on_the_whole(seed: int, count: int, shape: tuple, data):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, *shape, generator=generator) * 2
    cuts = sorted(data.draw(st.sets(st.integers(1, count), max_size=4)))
    sizes = np.diff([0, *cuts, count]).tolist()
    labels = (torch.arange(count) % 3).numpy()
    moments, start = GateMoments(neutral=0.7, limits=(0.0, 2.0), classes=4), 0
    for size in sizes:  # the last is 0 where a cut is at the end
        moments.add(values[start : start + size], labels[start : start + size])
        start += size
    statistics, whole = moments.statistics(), values.double().numpy().reshape(count, -1)
    expected = {
        "elements": whole.shape[1],
        "mean": whole.mean(),
        "spread": whole.std(),
        "low": whole.min(),
        "high": whole.max(),
        "distance": np.abs(whole - 0.7).mean(),
        "between": whole.var(0).mean(),
        "fixed": whole.mean(0).var(),
        "swing": math.sqrt(whole.var(0).mean()),
        "saturated": np.mean((whole <= 0.04) | (whole >= 1.96)),
        "dead": (whole.max(0) <= 0.1).sum(),
    }
    for name, value in expected.items():
        assert getattr(statistics, name) == pytest.approx(value, rel=1e-9, abs=1e-12), name
    total = expected["between"] + expected["fixed"]
    assert statistics.dynamic == pytest.approx(expected["between"] / total if total >= 1e-12 else 0, rel=1e-9)
    assert moments.images == count
    np.testing.assert_allclose(moments.mean().reshape(1, -1), whole.mean(0)[None], rtol=1e-12)
    np.testing.assert_allclose(moments.variance().reshape(1, -1), whole.var(0)[None], rtol=1e-9, atol=1e-15)
    means = moments.class_means().reshape(4, -1).numpy()
    for label in range(4):
        mine = whole[labels == label]
        wanted = mine.mean(0) if len(mine) else np.full(whole.shape[1], np.nan)
        np.testing.assert_allclose(means[label], wanted, rtol=1e-12)


def test_means_of_classes_leave_out_images_without_a_label():
    moments = GateMoments(classes=3)
    moments.add(torch.tensor([[1.0, 2.0], [3.0, 4.0], [50.0, 50.0]]), [0, 2, -1])
    moments.add(torch.tensor([[2.0, 6.0]]), [0])
    means = moments.class_means()
    assert means[[0, 2]].tolist() == [[1.5, 4.0], [3.0, 4.0]]
    assert means[1].isnan().all()
    assert moments.images == 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_types_are_counted_as_they_are(dtype: torch.dtype):
    moments = GateMoments()
    moments.add(torch.tensor([[0.5, 1.5]], dtype=dtype))
    assert moments.statistics().mean == 1
    assert moments.mean().dtype == torch.float64


def test_gates_that_need_gradients_are_counted_without_keeping_their_graph():
    moments = GateMoments()
    moments.add(torch.ones(2, 3, requires_grad=True) * 2)
    assert not moments.mean().requires_grad


def test_what_is_returned_can_be_changed_without_harm():
    moments = moments_of([[1.0, 2.0]])
    moments.mean().zero_()
    moments.variance().fill_(9)
    assert moments.statistics().mean == 1.5


def test_the_given_gates_are_not_changed():
    gates = torch.rand(4, 3)
    before = gates.clone()
    moments_of(gates, gates, limits=(0.0, 1.0))
    assert torch.equal(gates, before)


def test_memory_does_not_grow_with_the_images():
    def held(moments: GateMoments) -> int:
        return sum(value.numel() for value in vars(moments).values() if isinstance(value, Tensor))

    few, many = moments_of(torch.rand(2, 5)), moments_of(*[torch.rand(64, 5)] * 20)
    assert held(many) == held(few) > 0


def test_json_has_nothing_that_is_not_finite():
    told = moments_of([[float("nan"), 1.0]], limits=(0.0, 2.0)).statistics().to_json()
    json.dumps(told, allow_nan=False)
    assert told["mean"] is None
    assert told["elements"] == 2
    plain = moments_of([[0.5, 1.0]]).statistics().to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["mean"], plain["saturated"], plain["dead"]) == (0.75, None, None)
    assert list(plain) == [
        *("elements", "mean", "spread", "low", "high", "distance"),
        *("between", "fixed", "dynamic", "swing", "saturated", "dead"),
    ]


def test_gates_of_another_size_are_refused_and_not_counted():
    moments = moments_of(torch.ones(2, 3))
    with pytest.raises(ConfigError, match=r"gates of \(4,\) after gates of \(3,\)"):
        moments.add(torch.zeros(2, 4))
    assert (moments.images, moments.statistics().mean) == (2, 1)


@pytest.mark.parametrize("labels", [[0], [0, 1, 2], [0, 2]])
def test_labels_that_do_not_fit_are_refused_and_nothing_is_counted(labels: list[int]):
    moments = GateMoments(classes=2)
    with pytest.raises(ConfigError, match=f"got {len(labels)} labels"):
        moments.add(torch.ones(2, 3), labels)
    assert moments.images == 0


@pytest.mark.parametrize("ask", ["statistics", "mean", "variance", "class_means"])
def test_nothing_can_be_said_about_no_gates(ask: str):
    moments = GateMoments(classes=2)
    moments.add(torch.ones(0, 3))
    with pytest.raises(ConfigError, match="no gates were counted"):
        getattr(moments, ask)()


def test_means_of_classes_have_to_be_wanted():
    moments = GateMoments()
    moments.add(torch.ones(2, 3), [0, 1])
    with pytest.raises(ConfigError, match="number of classes"):
        moments.class_means()
