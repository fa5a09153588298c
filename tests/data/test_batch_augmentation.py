"""What is done to whole batches is what is meant, image by image, and depends on the sample alone."""

from __future__ import annotations

import numpy as np
import torch

from attngraft.config import Preprocessing
from attngraft.data import Batch, ImageSet, build_transform, make_loader
from attngraft.data.batch_augmentation import BatchAugmentation

AS_IS = Preprocessing(image_size=8, mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=1.0)


def noise(count: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def draws(*rows: tuple[float, float, float, float, float]) -> np.ndarray:
    return np.array(rows)


def test_a_shift_moves_each_image_and_reflects_what_comes_into_sight():
    images = noise(3, 8)
    moved = BatchAugmentation(shift=1 / 8).move(
        images, draws((0.5, 0.5, 0, 0, 0), (0, 0.5, 0, 0, 0), (0.5, 0.99, 0, 0, 0))
    )
    assert torch.equal(moved[0], images[0])
    assert torch.equal(moved[1, :, 1:], images[1, :, :-1])  # down by one
    assert torch.equal(moved[1, :, 0], images[1, :, 1])
    assert torch.equal(moved[2, :, :, :-1], images[2, :, :, 1:])  # to the left by one
    assert torch.equal(moved[2, :, :, -1], images[2, :, :, -2])


def test_every_shift_and_both_mirror_images_are_equally_frequent():
    augmentation = BatchAugmentation(shift=1 / 8, mirror=True)
    numbers = augmentation.draws(1, 2, range(6000))
    ramp = torch.arange(256).reshape(1, 1, 16, 16).expand(6000, 1, 16, 16)
    moved = augmentation.move(ramp, numbers)
    assert abs(float((moved[:, 0, 8, 8] > moved[:, 0, 8, 7]).float().mean()) - 0.5) < 0.03
    rows = moved[:, 0, 8, :].min(1).values // 16 - 8
    assert np.allclose(np.bincount(rows.numpy() + 2) / 6000, 0.2, atol=0.02)


def test_a_hole_is_a_square_of_the_mean_colour():
    covered = BatchAugmentation(cutout=0.25).cover_(
        torch.ones(2, 3, 16, 16), draws((0, 0, 0, 0.5, 0.5), (0, 0, 0, 0, 0.99))
    )
    assert covered[0, :, 6:10, 6:10].abs().sum() == 0
    assert covered[0].sum() == 3 * (256 - 16)
    assert covered[1].sum() == 3 * (256 - 2 * 3)  # at the upper right corner most of it lies outside


def epoch(images: ImageSet, **options: object) -> dict[int, torch.Tensor]:
    transform = build_transform("shift", AS_IS, train=True, cutout=0.25)
    batches = list(make_loader(images, transform, **{"batch_size": 5, "shuffle": True, **options}))  # type: ignore[arg-type]
    assert all(isinstance(batch, Batch) for batch in batches)
    return {int(i): image for batch in batches for i, image in zip(batch.indices, batch.images, strict=True)}


def test_a_sample_is_the_same_in_any_batch_and_worker_and_another_in_the_next_epoch(image_set):
    one = epoch(image_set)
    for other in (epoch(image_set, batch_size=4), epoch(image_set, shuffle=False), epoch(image_set, workers=2)):
        assert all(torch.equal(other[i], one[i]) for i in range(37))
    later = epoch(image_set, epoch=1)
    assert sum(torch.equal(later[i], one[i]) for i in range(37)) <= 2
    assert torch.equal(epoch(image_set, seed=1)[0], epoch(image_set, seed=1)[0])


def test_without_mirroring_nothing_is_mirrored():
    transform = build_transform("shift", AS_IS, train=True, mirror=False)
    assert transform.whole is not None
    assert not transform.whole.mirror
    assert build_transform("shift", AS_IS, train=False, cutout=0.5).whole is None
