"""Hits and energy by hand, the baselines, and a model of which it is known where it looks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from planted import planted_images, planted_model

from attngraft.config import from_dict, to_dict
from attngraft.data.boxes import own_boxes
from attngraft.errors import ConfigError
from attngraft.explanation.explanation_record import Pointing
from attngraft.explanation.saliency_maps import centre_maps, gate_maps, random_maps, uniform_maps
from attngraft.explanation.saliency_measures import coverage, energy, hits, holds_centre, pointing


def box(*corners: float) -> np.ndarray:
    return np.array([corners], dtype=float)


def by_name(found: dict) -> dict:
    return {entry["map"]: entry for entry in to_dict(found)["maps"]}


NONE = np.empty((0, 4))


# --- by hand -----------------------------------------------------------------------------------------------------


def test_coverage_counts_parts_of_pixels():
    assert coverage(box(0.5, 1, 2, 1.5), 3, 3).tolist() == [[0, 0, 0], [0.25, 0.5, 0], [0, 0, 0]]
    both = np.concatenate([box(0, 0, 1, 1), box(0, 0, 3, 0.5)])
    assert coverage(both, 2, 3).tolist() == [[1, 0.5, 0.5], [0, 0, 0]]


def test_a_pixel_is_in_a_box_where_its_middle_is():
    assert holds_centre(box(0.5, 0.6, 2.5, 2), 3, 3).tolist() == [
        [False, False, False],
        [True, True, False],
        [False, False, False],
    ]


def test_hits_are_shared_among_equal_maxima():
    maps = np.array([[[1, 3], [3, 3]], [[1, 0], [0, 5]], [[5, 0], [0, 1]]], dtype=np.float32)
    inside = np.array([[[True, True], [False, False]]] * 3)
    assert hits(maps, inside).tolist() == [1 / 3, 0, 1]


def test_energy_is_the_part_of_the_shifted_map_in_the_box():
    maps = np.array([[[1, 3], [-1, 1]], [[4, 4], [4, 4]]], dtype=np.float32)  # shifted: 2 4 0 2
    cover = np.array([[[0.5, 1], [0, 0]]] * 2)
    assert energy(maps, cover).tolist() == [5 / 8, 1.5 / 4]


def test_the_energy_of_a_uniform_map_is_the_share_of_the_area_exactly():
    rng = np.random.default_rng(0)
    boxes = [np.sort(rng.random((1, 2, 2)) * 20, axis=1).reshape(1, 4) for _ in range(30)]
    found = by_name(pointing({"any": random_maps(30, 20, 20, seed=3)}, tuple(boxes)))
    areas = np.concatenate([(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in boxes]) / 400
    assert found["uniform"]["energy"]["mean"] == pytest.approx(areas.mean(), rel=1e-12)
    cover = np.stack([coverage(b, 20, 20) for b in boxes])
    assert np.array_equal(energy(uniform_maps(30, 20, 20), cover), cover.mean((1, 2)))


def test_boxes_as_large_as_the_image_hold_everything():
    found = by_name(pointing({"any": random_maps(9, 8, 6, seed=3)}, (box(0, 0, 6, 8),) * 9))
    for entry in found.values():
        assert entry["hits"]["mean"] == 1
        assert entry["energy"]["mean"] == pytest.approx(1)
        assert entry["hits"]["high"] <= 1
        assert entry["energy"]["high"] <= 1


# --- tables ------------------------------------------------------------------------------------------------------


def test_baselines_come_last_and_are_not_compared_with_themselves():
    found = pointing({"a": random_maps(5, 8, 8, seed=3), "b": centre_maps(5, 8, 8)}, (box(1, 1, 5, 5),) * 5)
    assert [entry.map for entry in found.maps] == ["a", "b", "uniform", "centre prior", "random"]
    rows = by_name(found)
    assert rows["centre prior"]["hits_against_centre"] is None
    assert rows["uniform"]["energy_against_uniform"] is None
    assert rows["b"]["hits_against_centre"]["mean"] == 0  # the same map
    assert rows["b"]["energy"] == rows["centre prior"]["energy"]
    for entry in rows.values():
        for value in entry.values():
            if isinstance(value, dict):
                assert value["low"] <= value["mean"] <= value["high"]
    assert from_dict(Pointing, json.loads(json.dumps(to_dict(found), allow_nan=False))) == found


def test_images_without_boxes_are_left_out_and_counted():
    maps = {"a": random_maps(4, 8, 8, seed=3)}
    boxes = (box(0, 0, 4, 4), NONE, box(1, 1, 5, 5), NONE)
    found = pointing(maps, boxes)
    assert (found.n, found.left_out) == (2, 2)
    alone = pointing({"a": maps["a"][[0, 2]]}, (boxes[0], boxes[2]))
    assert found.maps == alone.maps


def test_nothing_is_said_without_boxes_or_without_maps():
    assert pointing({"a": random_maps(2, 8, 8, seed=3)}, (NONE, NONE)) is None
    assert pointing({}, (box(0, 0, 1, 1),)) is None


def test_several_boxes_are_one_target():
    two = np.concatenate([box(0, 0, 2, 2), box(6, 6, 8, 8)])
    maps = np.zeros((2, 8, 8), dtype=np.float32)
    maps[0, 1, 1], maps[1, 7, 7] = 1, 1
    assert by_name(pointing({"a": maps}, (two, two)))["a"]["hits"]["mean"] == 1


@pytest.mark.parametrize(
    ("maps", "words"),
    [
        ({"a": np.zeros((2, 8, 8), np.float32)}, r"map 'a' is \(2, 8, 8\)"),
        ({"a": np.full((1, 8, 8), np.nan, np.float32)}, "expected finite numbers"),
        ({"random": np.zeros((1, 8, 8), np.float32)}, "called 'random'"),
    ],
)
def test_maps_that_do_not_fit(maps, words):
    with pytest.raises(ConfigError, match=words):
        pointing(maps, (box(0, 0, 1, 1),))


# --- priors ------------------------------------------------------------------------------------------------------


def test_random_maps_follow_the_seed_differ_between_images_and_know_no_place():
    first = random_maps(400, 16, 24, seed=1)
    assert np.array_equal(first, random_maps(400, 16, 24, seed=1))
    assert not np.array_equal(first, random_maps(400, 16, 24, seed=2))
    assert len(np.unique(first[:, 0, 0])) == 400
    assert np.abs(first.mean(0)).max() < 0.2


def test_the_centre_prior_is_largest_in_the_middle_and_symmetrical():
    (found,) = centre_maps(1, 9, 15)
    assert np.unravel_index(found.argmax(), found.shape) == (4, 7)
    assert np.allclose(found, found[::-1, ::-1])


# --- a known truth -----------------------------------------------------------------------------------------------


def test_the_gate_of_a_planted_detector_points_at_the_planted_patch():
    images = planted_images(100)
    (gate,) = gate_maps(planted_model(), images).values()
    boxes = own_boxes(images)
    rows = by_name(pointing({"gate": gate}, boxes))
    assert rows["gate"]["hits"]["mean"] == 1
    assert rows["gate"]["energy"]["mean"] > 0.7
    assert rows["gate"]["hits_against_centre"]["low"] > 0.5
    assert rows["gate"]["energy_against_uniform"]["low"] > 0.5
    assert rows["random"]["hits"]["high"] < 0.2
    assert rows["uniform"]["energy"]["mean"] == pytest.approx(64 / 1024)
    assert rows["random"]["energy_against_uniform"]["low"] < 0 < rows["random"]["energy_against_uniform"]["high"]


def test_the_same_gate_on_other_images_does_not_point():
    images = planted_images(100)
    (gate,) = gate_maps(planted_model(), images).values()
    boxes = own_boxes(images)
    shuffled = tuple(boxes[(i + 37) % 100] for i in range(100))
    rows = by_name(pointing({"gate": gate}, shuffled))
    assert rows["gate"]["hits"]["high"] < 0.25
    assert rows["gate"]["energy_against_uniform"]["high"] < 0.1
