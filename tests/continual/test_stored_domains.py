from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from attngraft.continual.images.split_assignment import Shares
from attngraft.continual.images.stored_domains import (
    PIXELS_FILE,
    Domains,
    Packed,
    add_base,
    add_batch,
    fingerprint,
    pack,
    unpack,
)
from attngraft.data import ImageSet, load_data
from attngraft.data.pixel_store import decode_array
from attngraft.errors import DataError, RunError


def noise(count: int, seed: int, classes: int = 2) -> ImageSet:
    """Different images."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 6, 7, 3), dtype=np.uint8)
    decoded = decode_array(pixels, limit=100)
    ids = tuple(f"{seed}/{position}.png" for position in range(count))
    return ImageSet(ids, np.arange(count) % classes, decoded.hashes, decoded.store, np.arange(count))


def batch(domains: Domains, images: ImageSet, name: str = "batch"):
    return add_batch(domains, images, name, "here", classes=(), shares=Shares(), seed=0, mirrorable=True)


def test_packed_images_come_back_bit_for_bit(tmp_path):
    images = replace(noise(9, 0), boxes=np.arange(36, dtype=np.float32).reshape(9, 4)).select([8, 2, 5])
    packed = Packed(images, np.array(["learn", "guard", "tune"]), learned=("0" * 32, "ab" * 16))
    pack(packed, tmp_path)
    found = unpack(tmp_path)
    assert found.images.ids == images.ids
    assert found.images.pixel_hashes == images.pixel_hashes
    assert found.learned == packed.learned
    assert found.roles.tolist() == packed.roles.tolist()
    np.testing.assert_array_equal(found.images.labels, images.labels)
    np.testing.assert_array_equal(found.images.boxes, images.boxes)
    for position in range(3):
        assert torch.equal(found.images.image(position), images.image(position))
    assert found.of("guard").ids == (images.ids[1],)


def test_pixels_that_were_cut_short_are_refused(tmp_path):
    pack(Packed(noise(3, 0), np.array(["learn"] * 3)), tmp_path)
    os.truncate(tmp_path / PIXELS_FILE, 100)
    with pytest.raises(RunError, match="100 bytes where 378"):
        unpack(tmp_path)


def test_one_wrong_bit_in_kept_images_is_found(tmp_path):
    pack(Packed(noise(3, 0), np.array(["learn"] * 3)), tmp_path)
    for file in (PIXELS_FILE, "images.safetensors"):
        before = (tmp_path / file).read_bytes()
        damaged = bytearray(before)
        damaged[len(damaged) // 2] ^= 1
        (tmp_path / file).write_bytes(damaged)
        with pytest.raises(RunError, match="was changed after it was written"):
            unpack(tmp_path)
        (tmp_path / file).write_bytes(before)
    unpack(tmp_path)


def test_no_image_of_the_base_can_come_back_as_new(tmp_path):
    dataset = load_data("cluttered-digits", image_size=32, limit=300)
    domains = Domains(tmp_path)
    base = add_base(domains, dataset, seed=0, learn_pool=50)
    assert base.packed.counts()["learn"] == 50
    assert len(base.of("tune")) + len(base.of("guard")) + len(base.of("final")) == len(dataset.test)
    for images in (dataset.train, dataset.test):  # the training images that were not kept are known as well
        with pytest.raises(DataError, match="no new image"):
            batch(domains, images)
    assert len(domains.all()) == 1


def test_the_roles_of_all_domains_are_disjoint(tmp_path):
    domains = Domains(tmp_path)
    add_base(domains, load_data("cluttered-digits", image_size=32, limit=200), seed=0)
    first = batch(domains, noise(300, 1))
    mixed = noise(400, 2)
    joined = ImageSet(
        first.packed.images.ids + mixed.ids,
        np.concatenate([first.packed.images.labels, mixed.labels]),
        first.packed.images.pixel_hashes + mixed.pixel_hashes,
        mixed.store,
        np.concatenate([np.zeros(300, dtype=np.int64), mixed.rows]),
    )
    second = batch(domains, joined)
    assert second.known == 300
    hashes = [
        set(domain.of(role).pixel_hashes) for domain in domains.all() for role in ("learn", "tune", "guard", "final")
    ]
    assert sum(len(found) for found in hashes) == len(set().union(*hashes))
    assert domains.find(fingerprint(joined)) == second


def test_test_images_that_were_trained_on_judge_nothing(tmp_path):
    dataset = load_data("cluttered-digits", image_size=32, limit=200)
    leaky = replace(dataset, test=dataset.train.select(range(50)))
    with pytest.raises(DataError, match="every test image"):
        add_base(Domains(tmp_path), leaky, seed=0)
    assert not Domains(tmp_path).all()


def test_too_few_images_are_refused_and_nothing_is_kept(tmp_path):
    domains = Domains(tmp_path)
    with pytest.raises(DataError, match="give at least 100"):
        batch(domains, noise(2, 1))
    assert not domains.all()


def test_a_domain_that_was_half_written_is_none(tmp_path):
    domains = Domains(tmp_path)
    batch(domains, noise(100, 1))
    part = domains.folder / ".001.part"
    part.mkdir()
    (part / "domain.json").write_text("{")
    assert len(domains.all()) == 1
    assert batch(domains, noise(100, 2)).number == 1


def test_a_record_of_a_newer_version_is_one_sentence(tmp_path):
    domains = Domains(tmp_path)
    file = batch(domains, noise(100, 1)).folder / "domain.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"colour": "red"}))
    with pytest.raises(RunError, match="newer attngraft"):
        domains.all()
