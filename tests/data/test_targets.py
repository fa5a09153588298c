"""What every kind of targets promises, and what each means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attngraft.data import ClassLabels, ImageSet, LabelSets, Values, joined, make_loader
from attngraft.data.build_dataset import fingerprint_of
from attngraft.errors import DataError

KINDS = [
    ClassLabels(np.array([0, 2, 1, 2])),
    LabelSets(np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 1, 0]])),
    Values(np.array([[0.5, 1.0], [2.0, -3.0], [0.1, 0.0], [1e-9, 7.0]])),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.task)
def targets(request):
    return request.param


def test_selecting_keeps_order_and_repeats(targets):
    some = targets.select([3, 0, 3])
    assert len(some) == 3
    assert [some.digest(i) for i in range(3)] == [targets.digest(i) for i in (3, 0, 3)]
    assert np.array_equal(some.get(1), targets.get(0))


def test_a_batch_holds_the_targets_of_its_positions(targets):
    batch = targets.collate([2, 1])
    assert len(batch) == 2
    assert torch.equal(batch[0], targets.collate([2])[0])
    assert torch.equal(targets.collate([]), batch[:0])


def test_digests_tell_different_targets_apart(targets):
    digests = [targets.digest(i) for i in range(4)]
    values = [np.asarray(targets.get(i)).tolist() for i in range(4)]
    assert len(set(digests)) == len({str(value) for value in values})


def test_extending_appends_in_order(targets):
    longer = targets.extend([targets.select([1]), targets.select([2, 2])])
    assert [longer.digest(i) for i in range(7)] == [targets.digest(i) for i in (0, 1, 2, 3, 1, 2, 2)]


def test_there_is_one_stratum_per_image(targets):
    assert targets.strata.shape == (4,)
    assert targets.strata.dtype == np.int64


def test_a_label_set_is_stratified_by_its_rarest_label():
    counts = LabelSets(np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]]))
    assert counts.strata.tolist() == [1, 0, 0, 2, 3, 1]


def test_values_are_stratified_by_tenths_and_equal_ones_stay_together():
    strata = Values(np.arange(300.0)).strata
    assert np.bincount(strata).tolist() == [30] * 10
    assert set(Values(np.arange(39.0)).strata.tolist()) == {0}
    assert len(set(Values(np.repeat([0.0, 1.0], 50)).strata.tolist())) == 2


def test_an_array_of_whole_numbers_is_taken_as_class_labels(image_set: ImageSet):
    assert isinstance(image_set.targets, ClassLabels)
    assert image_set.labels is image_set.targets.labels
    with pytest.raises(DataError, match="expected one whole number per image"):
        replace(image_set, targets=np.zeros((37, 2)))


def test_labels_of_another_task_are_refused(image_set: ImageSet):
    with pytest.raises(DataError, match="labelled for regression: expected one class per image"):
        _ = replace(image_set, targets=Values(np.zeros(37))).labels


@pytest.mark.parametrize("wrong", [np.array([[2, 0]]), np.array([0, 1])])
def test_label_sets_have_one_zero_or_one_per_label(wrong):
    with pytest.raises(DataError, match="each 0 or 1"):
        LabelSets(wrong)


def test_values_have_to_be_finite():
    with pytest.raises(DataError, match="finite"):
        Values(np.array([0.0, np.nan]))


def test_the_fingerprint_depends_on_targets_and_task(image_set: ImageSet):
    plain = fingerprint_of(("a", "b"), {"train": image_set})
    sets = LabelSets(np.eye(2, dtype=np.uint8)[image_set.labels % 2])
    same = replace(image_set, targets=image_set.labels % 2)
    found = {plain, *(fingerprint_of(("a", "b"), {"train": i}) for i in (same, replace(image_set, targets=sets)))}
    assert len(found) == 3


def test_sets_of_images_keep_their_targets_when_selected_joined_and_loaded(image_set: ImageSet):
    values = Values(np.arange(74.0).reshape(37, 2))
    images = replace(image_set, targets=values)
    both = joined([images.select([5, 6]), images.select([1])])
    assert both.targets.collate([0, 1, 2])[:, 0].tolist() == [10.0, 12.0, 2.0]
    batch = next(iter(make_loader(images, torch.Tensor.float, batch_size=1)))
    assert torch.equal(batch.targets, values.collate([0]))
