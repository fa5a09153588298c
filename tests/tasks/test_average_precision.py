"""Average precision: the numbers of faster-coco-eval, and leaving images out as computing anew does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from hypothesis import given
from hypothesis import strategies as st

from attngraft.errors import ConfigError
from attngraft.tasks.average_precision import BoxMeasure, average_precision_metrics
from attngraft.tasks.box_matching import ERRORS, THRESHOLDS, error_counts, match, match_rows
from attngraft.tasks.contract import Metric, Rows, pseudo_values

CLASSES = 4
OF_COCO = {
    "ap": "AP_all", "ap50": "AP_50", "ap75": "AP_75", "ap-small": "AP_small", "ap-medium": "AP_medium",
    "ap-large": "AP_large", "ar": "AR_third", "ar-small": "AR_small", "ar-medium": "AR_medium", "ar-large": "AR_large",
}  # fmt: skip
METRICS = average_precision_metrics(CLASSES)
SIDES = [3, 8, 16, 32, 33, 64, 96, 97, 150]  # whole pixels, so that both sides compute in the same bits


def random_images(seed: int, images: int = 12, most_objects: int = 6, detections: int = 12) -> dict[str, np.ndarray]:
    """Objects, and detections around them or anywhere; empty images, crowds, ties, and a class without objects."""
    rng = np.random.default_rng(seed)
    shape = (images, most_objects)
    corner, size = rng.integers(0, 200, (*shape, 2)), rng.choice(SIDES, (*shape, 2))
    truth = np.concatenate([corner, corner + size], axis=2).astype(np.float64)
    truth_labels = rng.integers(0, CLASSES - 1, shape)
    if most_objects > 1:  # two objects in one place, which overlap a detection alike and may differ in area
        truth[:, 1], truth_labels[:, 1] = truth[:, 0], truth_labels[:, 0]
    known = np.arange(most_objects) < rng.integers(0, most_objects + 1, images)[:, None]
    of = rng.integers(0, most_objects, (images, detections))
    blur = rng.choice([0, 1, 3, 8], (images, detections, 1))
    moved = np.take_along_axis(truth, of[:, :, None], 1) + (rng.uniform(-1, 1, (images, detections, 4)) * blur).round()
    anywhere = rng.random((images, detections)) < 0.15
    moved[anywhere] = rng.permutation(truth.reshape(-1, 4))[rng.integers(0, truth.size // 4, anywhere.sum())]
    moved[..., 2:] = np.maximum(moved[..., 2:], moved[..., :2] + 1)
    predicted = np.arange(detections) < rng.integers(0, detections + 1, images)[:, None]
    labels = np.where(
        rng.random(of.shape) < 0.1, rng.integers(0, CLASSES, of.shape), np.take_along_axis(truth_labels, of, 1)
    )
    area = (truth[..., 2:] - truth[..., :2]).prod(2) * rng.choice([0.5, 1, 1], shape)
    return {
        "boxes": moved.astype(np.float32),
        "scores": (rng.integers(1, 20, of.shape) / 20).astype(np.float32),
        "labels": np.where(predicted, labels, -1).astype(np.int16),
        "truth_boxes": truth,
        "truth_labels": np.where(known, truth_labels, -1).astype(np.int16),
        "truth_crowd": rng.random(shape) < 0.15,
        "truth_area": area.astype(np.float64),
    }


def matched(rows: Rows, **options: Any) -> Rows:
    return {**rows, **match_rows(rows, **options)}


def of_coco(rows: Rows) -> COCOeval_faster:
    """The evaluation of the reference."""

    def box(corners: np.ndarray) -> list[float]:
        x0, y0, x1, y1 = corners.tolist()
        return [x0, y0, x1 - x0, y1 - y0]

    objects = [
        {"id": number, "image_id": int(i) + 1, "category_id": int(rows["truth_labels"][i, j]) + 1,
         "bbox": box(rows["truth_boxes"][i, j]), "area": float(rows["truth_area"][i, j]),
         "iscrowd": int(rows["truth_crowd"][i, j])}
        for number, (i, j) in enumerate(np.argwhere(rows["truth_labels"] >= 0), start=1)
    ]  # fmt: skip
    found = [
        {"image_id": int(i) + 1, "category_id": int(rows["labels"][i, j]) + 1, "bbox": box(rows["boxes"][i, j]),
         "score": float(rows["scores"][i, j])}
        for i, j in np.argwhere(rows["labels"] >= 0)
    ]  # fmt: skip
    images = [{"id": i + 1, "width": 500, "height": 500} for i in range(len(rows["labels"]))]
    truth = COCO({"images": images, "annotations": objects, "categories": [{"id": k + 1, "name": str(k)} for k in range(CLASSES)]})  # fmt: skip
    evaluation = COCOeval_faster(truth, truth.loadRes(found), "bbox", ranges={"small": [0, 32**2], "medium": [32**2, 96**2], "large": [96**2, 1e10]})  # fmt: skip
    evaluation.run()
    return evaluation


def agree(rows: Rows) -> None:
    expected = of_coco(rows).stats_as_dict
    for name, metric in METRICS.items():
        wanted = expected[OF_COCO[name]]
        if wanted == -1:
            with pytest.raises(ConfigError, match="have no objects"):
                metric.value(rows)
        else:
            assert metric.value(rows) == pytest.approx(wanted, abs=1e-9), name


@pytest.mark.parametrize("seed", range(12))
def test_values_are_those_of_faster_coco_eval(seed: int) -> None:
    agree(matched(random_images(seed)))


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 9), st.integers(1, 30))
def test_values_are_those_of_faster_coco_eval_whatever_is_found(
    seed: int, images: int, objects: int, boxes: int
) -> None:
    rows = random_images(seed, images, objects, boxes)
    if (rows["labels"] >= 0).any() and (rows["truth_labels"] >= 0).any():
        agree(matched(rows))


def test_more_than_100_detections_of_a_class_do_not_count() -> None:
    rows = random_images(5, images=3, detections=350)
    rows["labels"] = np.where(rows["labels"] < 0, -1, rows["labels"] % 2).astype(np.int16)
    assert max(np.bincount(row[row >= 0]).max() for row in rows["labels"]) > 100
    agree(matched(rows))
    assert METRICS["ar"].value(matched(rows, most=1)) < METRICS["ar"].value(matched(rows))


@pytest.mark.parametrize("hits", range(101))
def test_recall_is_rounded_as_coco_does_it(hits: int) -> None:
    rows = {
        "boxes": np.tile([0.0, 0, 10, 10], (100, 1, 1)),
        "scores": np.linspace(1, 0.5, 100, dtype=np.float32)[:, None],
        "labels": np.zeros((100, 1), dtype=np.int16),
        "truth_boxes": np.where(np.arange(100)[:, None, None] < hits, [0.0, 0, 10, 10], [50.0, 50, 60, 60]),
        "truth_labels": np.zeros((100, 1), dtype=np.int16),
        "truth_crowd": np.zeros((100, 1), dtype=bool),
        "truth_area": np.full((100, 1), 100.0),
    }
    expected = of_coco(rows).stats_as_dict["AP_50"]
    assert METRICS["ap50"].value(matched(rows)) == pytest.approx(expected, abs=1e-12)


def test_values_per_class_are_those_of_faster_coco_eval() -> None:
    rows = matched(random_images(3))
    precision = of_coco(rows).eval["precision"].reshape(10, 101, CLASSES, 4, 3)[:, :, :, 0, 2]
    expected = [np.nan if (precision[:, :, k] == -1).all() else precision[:, :, k].mean() for k in range(CLASSES)]
    found = BoxMeasure(CLASSES).per_class(rows)
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert np.isnan(found[CLASSES - 1])


# --- leaving out ------------------------------------------------------------------------------------------------------
def anew(metric: Metric, rows: Rows, kept: np.ndarray) -> float:
    """The value on some of the images, over the classes of all."""
    return replace(metric, without_groups=None)._without({name: values[kept] for name, values in rows.items()}, rows)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(4))
def test_scores_are_pseudo_values_of_leaving_each_image_out(seed: int, name: str) -> None:
    rows, metric = matched(random_images(seed, images=25)), METRICS[name]
    left_out = [anew(metric, rows, np.arange(25) != image) for image in range(25)]
    expected = pseudo_values(metric.value(rows), np.array(left_out))
    assert metric.scores(rows) == pytest.approx(expected, abs=1e-9)
    assert metric.scores(rows).mean() == pytest.approx(metric.value(rows), abs=1e-12)


@given(st.integers(0, 2**32), st.integers(1, 20), st.sampled_from(["ap", "ap50", "ap-small", "ar", "ar-large"]))
def test_leaving_groups_out_is_computing_anew(seed: int, groups: int, name: str) -> None:
    rows, metric = matched(random_images(seed, images=20)), METRICS[name]
    names = np.random.default_rng(seed).integers(0, groups, 20)
    try:
        value = metric.value(rows)
    except ConfigError:
        return
    left_out = [anew(metric, rows, names != group) for group in np.unique(names)]
    expected = pseudo_values(value, np.array(left_out))
    assert metric.scores_of_groups(rows, names) == pytest.approx(expected, abs=1e-9)
    assert metric.scores_of_groups(rows, names) == pytest.approx(
        replace(metric, without_groups=None).scores_of_groups(rows, names), abs=1e-9
    )


def test_many_left_out_images_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = matched(random_images(1, images=40))
    whole = METRICS["ap"].scores(rows)
    monkeypatch.setattr("attngraft.tasks.average_precision._AT_ONCE", 50)
    assert METRICS["ap"].scores(rows) == pytest.approx(whole, abs=1e-12)


def test_the_last_image_of_a_class_changes_nothing_when_it_is_left_out() -> None:
    rows = random_images(2, images=9)
    rows["truth_labels"][0], rows["labels"][:, 0] = CLASSES - 1, CLASSES - 1
    rows = matched(rows)
    measure = BoxMeasure(CLASSES)
    kept = {name: values[1:] for name, values in rows.items()}
    same = np.append(measure.per_class(kept)[:-1], measure.per_class(rows)[-1])
    assert measure.without(rows, np.arange(9))[0] == pytest.approx(np.nanmean(same), abs=1e-12)


# --- single images ----------------------------------------------------------------------------------------------------
BOX = [0.0, 0.0, 40.0, 40.0]


def one(boxes: list[list[float]], truth: list[list[float]], **options: Any) -> Any:
    fields = {"scores": np.linspace(0.9, 0.5, len(boxes)), "labels": [0] * len(boxes), "truth_labels": [0] * len(truth)}
    given = {**fields, **options}
    return match(
        boxes, given["scores"], given["labels"], truth, given["truth_labels"], given.get("truth_crowd"), given.get("truth_area")
    )  # fmt: skip


def test_an_image_without_objects_or_detections_has_empty_matches() -> None:
    nothing = one([], [])
    assert (nothing.hits.shape, nothing.truth_found.shape) == ((0, 4), (0,))
    assert one([BOX], []).errors.tolist() == [1 + ERRORS.index("background")]
    assert one([], [BOX]).truth_found.tolist() == [-1]


def test_a_threshold_is_reached_by_the_same_overlap() -> None:
    found = one([[0, 0, 40, 30]], [BOX])  # 0.75
    assert [found.hits[0, 0] >> t & 1 for t in range(10)] == (THRESHOLDS <= 0.75).astype(int).tolist()


def test_of_two_objects_with_the_same_overlap_the_last_is_taken() -> None:
    """As in COCO, so that the second detection finds its only object taken."""
    found = one([[10, 0, 50, 40], [25, 0, 65, 40]], [BOX, [20, 0, 60, 40]])
    assert (found.hits[:, 0] & 1).tolist() == [1, 0]
    other = one([[10, 0, 50, 40], [25, 0, 65, 40]], [[20, 0, 60, 40], BOX])
    assert (other.hits[:, 0] & 1).tolist() == [1, 1]


def test_objects_at_the_limits_of_areas_count_on_both_sides() -> None:
    found = one([], [[0, 0, 32, 32], [0, 0, 96, 96], [0, 0, 10, 10]])
    assert found.truth_ranges.tolist() == [0b0111, 0b1101, 0b0011]


def test_a_crowd_ignores_any_number_of_detections_within_it() -> None:
    found = one([[0, 0, 9, 9], [5, 5, 9, 9], [30, 30, 60, 60]], [BOX], truth_crowd=[True])
    assert (found.ignored[:, 0] & 1).tolist() == [1, 1, 0]
    assert not found.hits.any()
    assert found.truth_ranges.tolist() == [0]


@pytest.mark.parametrize(
    ("box", "label", "kind"),
    [
        ([2, 0, 40, 40], 0, "duplicate"),
        ([2, 0, 40, 40], 1, "class"),
        ([20, 0, 60, 40], 0, "localisation"),
        ([20, 0, 60, 40], 1, "class and localisation"),
        ([300, 0, 340, 40], 0, "background"),
    ],
)
def test_kinds_of_errors(box: list[float], label: int, kind: str) -> None:
    found = one([BOX, box], [BOX], labels=[0, label])
    assert found.errors.tolist() == [0, 1 + ERRORS.index(kind)]


def test_missed_are_objects_that_nothing_explains() -> None:
    truth = [BOX, [100, 0, 140, 40], [200, 0, 240, 40], [300, 0, 340, 40]]
    rows = {
        "boxes": np.array([[BOX, [100, 0, 140, 40], [220, 0, 260, 40]]]),
        "scores": np.array([[0.9, 0.8, 0.3]], dtype=np.float32),
        "labels": np.array([[0, 1, 0]], dtype=np.int16),
        "truth_boxes": np.array([truth], dtype=float),
        "truth_labels": np.zeros((1, 4), dtype=np.int16),
        "truth_crowd": np.zeros((1, 4), dtype=bool),
        "truth_area": np.full((1, 4), 1600.0),
    }

    def counts(least: float) -> dict[str, int]:
        return {kind: int(found[0]) for kind, found in error_counts(matched(rows), least).items() if found[0]}

    assert counts(0.0) == {"class": 1, "localisation": 1, "missed": 1}
    assert counts(0.5) == {"class": 1, "missed": 2}
    assert counts(0.95) == {"missed": 4}


def test_matches_are_where_the_detections_are() -> None:
    rows = random_images(7)
    order = np.argsort(np.random.default_rng(0).random(rows["labels"].shape), axis=1)
    rows["scores"] = np.random.default_rng(1).permutation(rows["scores"].size).reshape(order.shape) / 1000
    mixed = {**rows, **{name: np.take_along_axis(rows[name], order, 1) for name in ("scores", "labels")}}
    mixed["boxes"] = np.take_along_axis(rows["boxes"], order[:, :, None], 1)
    straight, shuffled = match_rows(rows), match_rows(mixed)
    assert (np.take_along_axis(straight["hits"], order[:, :, None], 1) == shuffled["hits"]).all()
    assert (straight["truth_found"] == shuffled["truth_found"]).all()
    assert (
        sum(values.nbytes for values in straight.values()) == rows["labels"].size * 17 + rows["truth_labels"].size * 9
    )
