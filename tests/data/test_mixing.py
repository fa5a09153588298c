"""MixUp and CutMix."""

from __future__ import annotations

import pytest
import torch

from attngraft.data import mix_batch
from attngraft.errors import ConfigError

IMAGES = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16).contiguous()  # image i has the value i everywhere
LABELS = torch.tensor([0, 1, 2, 3])


def mixed(mixup: float, cutmix: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return mix_batch(IMAGES, LABELS, num_classes=5, mixup=mixup, cutmix=cutmix, seed=seed)


def is_mixup(images: torch.Tensor) -> bool:
    """MixUp leaves constant images constant."""
    return bool((images.amax(dim=(1, 2, 3)) == images.amin(dim=(1, 2, 3))).all())


def test_off_gives_one_hot_targets() -> None:
    images, targets = mixed(0, 0)
    assert images is IMAGES
    assert torch.equal(targets, torch.eye(5)[:4])


def test_mixup_blends_images_as_it_blends_targets() -> None:
    images, targets = mixed(1.0, 0)
    assert is_mixup(images)
    torch.testing.assert_close(images[:, 0, 0, 0], targets @ torch.tensor([0.0, 1, 2, 3, 4]))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_targets_are_the_shares_of_the_area(seed: int) -> None:
    images, targets = mixed(0, 1.0, seed)
    share = (images[2, 0] == 2).float().mean()
    torch.testing.assert_close(targets[2, 2], share)
    torch.testing.assert_close(targets[2, 1], 1 - share)
    assert set(images[2].unique().tolist()) <= {1.0, 2.0}


def test_both_take_turns() -> None:
    kinds = [is_mixup(mixed(1.0, 1.0, seed)[0]) for seed in range(40)]
    assert 8 < sum(kinds) < 32


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = mixed(0.5, 0.5, seed=9)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(mixed(0.5, 0.5, seed=9)[0], first[0])
    assert not torch.equal(mixed(0.5, 0.5, seed=10)[0], first[0])


def test_negative_strengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="mixup is -1"):
        mixed(-1, 0)
