"""The same batches, however they are made."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal

import pytest
import torch

from attngraft.config import Preprocessing
from attngraft.data import Batch, ImageSet, build_transform, make_loader
from attngraft.errors import ConfigError

AUGMENTED = build_transform("strong", Preprocessing(image_size=8), train=True)


def batches(images: ImageSet, **options: object) -> list[Batch]:
    settings = {"batch_size": 8, "seed": 3, "epoch": 1, "shuffle": True, **options}
    return list(make_loader(images, AUGMENTED, **settings))  # type: ignore[arg-type]


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.indices, b.indices)
        assert torch.equal(a.targets, b.targets)
        assert torch.equal(a.images, b.images)


def test_an_epoch_visits_every_image_once(image_set: ImageSet) -> None:
    found = batches(image_set)
    assert [len(batch.targets) for batch in found] == [8, 8, 8, 8, 5]
    indices = torch.cat([batch.indices for batch in found])
    assert sorted(indices.tolist()) == list(range(37))
    assert indices.tolist() != list(range(37))
    assert torch.cat([batch.targets for batch in found]).tolist() == (indices % 3).tolist()
    assert found[0].images.shape == (8, 3, 8, 8)
    assert (found[0].images.dtype, found[0].targets.dtype, found[0].indices.dtype) == (
        torch.float32,
        torch.int64,
        torch.int64,
    )


def test_without_shuffling_the_order_is_the_stored_one(image_set: ImageSet) -> None:
    indices = torch.cat([batch.indices for batch in batches(image_set, shuffle=False)])
    assert indices.tolist() == list(range(37))


def test_workers_change_nothing(image_set: ImageSet) -> None:
    assert_same(batches(image_set, workers=2), batches(image_set))


def test_going_on_in_mid_epoch_changes_nothing(image_set: ImageSet) -> None:
    assert_same(batches(image_set, first_batch=2), batches(image_set)[2:])
    assert batches(image_set, first_batch=5) == []


@pytest.mark.parametrize("drop_last", [True, False])
def test_two_processes_share_the_batches_of_one(image_set: ImageSet, drop_last: bool) -> None:
    alone = batches(image_set, drop_last=drop_last)
    shares = [batches(image_set, drop_last=drop_last, rank=rank, world_size=2) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == len(alone)
    for whole, even, odd in zip(alone, *shares, strict=True):
        for name in ("images", "targets", "indices"):
            assert torch.equal(getattr(even, name), getattr(whole, name)[0::2])
            assert torch.equal(getattr(odd, name), getattr(whole, name)[1::2])


def test_a_rank_without_samples_gets_an_empty_batch(image_set: ImageSet) -> None:
    images = image_set.select(range(9))
    last = batches(images, rank=1, world_size=2)[-1]
    assert last.images.shape == (0, 3, 8, 8)
    assert last.targets.shape == last.indices.shape == (0,)


def test_seed_and_epoch_change_order_and_augmentation(image_set: ImageSet) -> None:
    reference = batches(image_set, shuffle=False)[0].images
    for changed in ({"seed": 4}, {"epoch": 2}):
        assert not torch.equal(batches(image_set, shuffle=False, **changed)[0].images, reference)
        assert batches(image_set, **changed)[0].indices.tolist() != batches(image_set)[0].indices.tolist()


def test_augmentation_belongs_to_the_sample_not_to_its_place(image_set: ImageSet) -> None:
    shuffled, ordered = batches(image_set), batches(image_set, shuffle=False)
    first = int(shuffled[0].indices[0])
    assert torch.equal(shuffled[0].images[0], ordered[first // 8].images[first % 8])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_and_thread_count_are_left_alone(image_set: ImageSet, workers: int) -> None:
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    batches(image_set, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_the_global_seed_does_not_matter(image_set: ImageSet) -> None:
    torch.manual_seed(1)
    first = batches(image_set)
    torch.manual_seed(2)
    assert_same(batches(image_set), first)


def test_any_callable_serves_as_transform(image_set: ImageSet) -> None:
    def noisy(image: torch.Tensor) -> torch.Tensor:
        return image.float() + torch.rand(image.shape)

    first, again = (next(iter(make_loader(image_set, noisy, batch_size=4))) for _ in range(2))
    assert first.images.shape == (4, 3, 10, 12)
    assert torch.equal(first.images, again.images)


def test_len_counts_the_batches_that_are_left(image_set: ImageSet) -> None:
    def count(**options: object) -> int:
        return len(make_loader(image_set, AUGMENTED, batch_size=8, **options))  # type: ignore[arg-type]

    assert count() == 5
    assert count(drop_last=True) == 4
    assert count(first_batch=3) == 2


def test_a_loader_can_be_iterated_twice(image_set: ImageSet) -> None:
    loader = make_loader(image_set, AUGMENTED, batch_size=8)
    assert_same(list(loader), list(loader))


def test_pinning_without_a_gpu_has_no_effect(image_set: ImageSet) -> None:
    assert_same(batches(image_set, pin_memory=True), batches(image_set))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 9, "world_size": 2}, "cannot be shared by 2 processes"),
        ({"rank": 2, "world_size": 2}, "rank is 2"),
        ({"workers": -1}, "workers is -1"),
        ({"first_batch": 6}, "first_batch is 6: expected 0 to 5"),
        ({"batch_size": 38, "drop_last": True}, "only 37 images"),
    ],
)
def test_sizes_that_do_not_fit(image_set: ImageSet, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        batches(image_set, **options)


def test_an_empty_set_is_refused(image_set: ImageSet) -> None:
    with pytest.raises(ConfigError, match="empty"):
        batches(image_set.select([]))


def test_a_selection_keeps_boxes_and_pixels(image_set: ImageSet) -> None:
    boxes = torch.arange(37 * 4).view(37, 4).numpy()
    chosen = dataclasses.replace(image_set, boxes=boxes).select([5, 2])
    assert chosen.ids == ("5", "2")
    assert chosen.boxes is not None
    assert chosen.boxes[1].tolist() == [8, 9, 10, 11]
    assert torch.equal(chosen.image(0), image_set.image(5))


def test_workers_do_not_hear_what_ends_their_parent_politely(image_set: ImageSet) -> None:
    """`timeout` sends SIGTERM to all processes: the parent has yet to save, and gets its batches until then."""
    loader = make_loader(image_set, lambda image: image.float(), batch_size=4, workers=2)
    batches = iter(loader)
    begun = [next(batches), next(batches)]  # one of each
    children = multiprocessing.active_children()
    assert len(children) == 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        for child in children:
            os.kill(child.pid, number)
    assert len([*begun, *batches]) == len(loader)
    assert not any(child.is_alive() for child in children)
