"""The guard where images come in groups: one image of each counts, roles follow groups, and a store remembers them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from adapting import QUICK, coloured_noise, reddish
from scipy.special import ndtri

from attngraft.continual.adaptation.adapt import adapt
from attngraft.continual.adaptation.release_test import release
from attngraft.continual.guard.alpha_spending import share
from attngraft.continual.images.split_assignment import HELD_OUT, Shares, one_of_each_group, roles_of_images
from attngraft.continual.images.stored_domains import Domains, Packed, add_base, add_batch, pack, unpack
from attngraft.data import DataReport, Dataset, ImageSet, grouped, joined, load_labelled
from attngraft.errors import DataError
from attngraft.statistics.exact_tests import is_noninferior, superiority_p

TENS = r"(\d+/\d*)\d\.png"  # ten images a group


def tens(count: int, seed: int) -> ImageSet:
    return grouped(coloured_noise(count, seed), TENS)


def groups_of(images: ImageSet) -> set[str]:
    return set(images.groups.tolist())


# One image of each group


def test_one_image_of_each_group_counts_whatever_the_order():
    images = tens(60, 0)
    (found,) = one_of_each_group([images])
    assert len(found) == len(groups_of(found)) == 6
    (backwards,) = one_of_each_group([images.select(range(59, -1, -1))])
    assert set(backwards.ids) == set(found.ids)
    assert found.ids != tuple(images.ids[::10]), "the pixels choose, not the place"


def test_a_group_in_two_sets_counts_in_the_first_and_images_without_groups_all_count():
    images = tens(60, 0)
    first, second = one_of_each_group([images.select(range(25)), images.select(range(25, 60))])
    assert [len(first), len(second)] == [3, 3]
    assert not groups_of(first) & groups_of(second)
    alone = coloured_noise(9, 1)
    assert one_of_each_group([alone])[0] is alone


def flips(rng, experiments, groups, size, gain, loss, alike=0.9):
    """(E, groups, size): gained (1), lost (-1) or neither, alike within groups."""
    latent = np.sqrt(alike) * rng.standard_normal((experiments, groups, 1))
    latent = latent + np.sqrt(1 - alike) * rng.standard_normal((experiments, groups, size))
    return (latent > -ndtri(gain)).astype(int) - (latent < ndtri(loss))


def passed_wrongly(groups, size, delta, alpha, experiments, *, by_group):
    """How often a candidate at the edge of what is bad passes: no better (None), or as much worse as delta."""
    rng, passed = np.random.default_rng([groups, size]), 0
    for seen in flips(rng, experiments, groups, size, 0.05, 0.05 + (delta or 0.0)):
        counted = seen[:, 0] if by_group else seen.ravel()
        gained, lost = int((counted > 0).sum()), int((counted < 0).sum())
        better = superiority_p(gained, lost) <= alpha
        passed += better if delta is None else is_noninferior(gained, lost, counted.size, delta, alpha)
    return passed / experiments


@pytest.mark.parametrize("delta", [None, 0.05])
def test_a_bad_candidate_seldom_passes_by_one_image_of_each_group(delta):
    alpha = 0.05 * share(1, 0)
    assert passed_wrongly(100, 10, delta, alpha, 150, by_group=True) <= alpha + 0.045
    assert passed_wrongly(100, 10, delta, alpha, 150, by_group=False) > 0.12


@pytest.mark.slow
@pytest.mark.parametrize("delta", [None, 0.05, 0.1])
@pytest.mark.parametrize("size", [10, 30])
@pytest.mark.parametrize("groups", [40, 100, 300])
def test_a_bad_candidate_seldom_passes_in_the_grid(groups, size, delta):
    for alpha in (0.05, 0.05 * share(1, 0), 0.05 * share(3, 0)):
        assert passed_wrongly(groups, size, delta, alpha, 1000, by_group=True) <= alpha + 0.02


# Roles and the store


def test_a_group_has_one_role_and_keeps_it():
    images = tens(400, 0)
    roles = roles_of_images(images, Shares(), seed=0)
    by_group = {group: set(roles[images.groups == group].tolist()) for group in groups_of(images)}
    assert all(len(found) == 1 for found in by_group.values())
    assert len(set(roles.tolist())) == 4
    known = dict.fromkeys(list(by_group)[:5], "guard")
    again = roles_of_images(images, HELD_OUT, seed=0, known=known)
    assert set(again[np.isin(images.groups, list(known))].tolist()) == {"guard"}


def test_groups_come_back_from_the_disk(tmp_path):
    images = tens(20, 0)
    pack(Packed(images, np.array(["learn"] * 20), learned_groups=("x",)), tmp_path)
    found = unpack(tmp_path)
    assert found.images.groups.tolist() == images.groups.tolist()
    assert found.learned_groups == ("x",)


def base(train: ImageSet, test: ImageSet) -> Dataset:
    return Dataset("base", ("red", "green", "blue"), train, None, test, DataReport(), "base", grouped_by=TENS)


def batch(domains: Domains, images: ImageSet):
    options = {"classes": ("red", "green", "blue"), "shares": Shares(), "seed": 0, "mirrorable": True}
    return add_batch(domains, images, "batch", "here", **options)


def test_no_group_stands_on_two_sides_over_all_batches(tmp_path):
    domains, train, test = Domains(tmp_path), tens(300, 0), tens(300, 1)
    shared = replace(test, groups=np.where(np.arange(300) < 20, train.groups[0], test.groups))
    first = add_base(domains, base(train, shared), seed=0, learn_pool=30)
    assert len(first.packed.images) == 30 + 280, "test images of a group that was trained on judge nothing"
    new = tens(600, 2)
    overlapping = np.where(np.arange(600) < 100, np.resize(train.groups, 600), new.groups)
    overlapping = np.where(np.arange(600) >= 500, np.resize(test.groups[-100:], 600), overlapping)
    second = batch(domains, replace(new, groups=overlapping))
    assert groups_of(second.of("learn")) >= set(train.groups[:100].tolist()), "a group that was learned from"
    for role in ("learn", "tune", "guard", "final"):
        for other in {"learn", "tune", "guard", "final"} - {role}:
            assert not groups_of(joined([d.of(role) for d in domains.all()])) & groups_of(
                joined([d.of(other) for d in domains.all()])
            )


def test_groups_on_one_side_alone_are_refused(tmp_path):
    with_groups, without = Domains(tmp_path / "with"), Domains(tmp_path / "without")
    add_base(with_groups, base(tens(60, 0), tens(200, 1)), seed=0)
    add_base(without, base(coloured_noise(60, 0), coloured_noise(200, 1)), seed=0)
    with pytest.raises(DataError, match="has no groups of images"):
        batch(with_groups, coloured_noise(300, 2))
    with pytest.raises(DataError, match=r"counts images as independent.*--group-by"):
        batch(without, tens(300, 2))
    with pytest.raises(DataError, match="of 3 groups, too few"):
        batch(with_groups, tens(30, 3))
    assert len(with_groups.all()) == len(without.all()) == 1


def test_a_store_hands_its_groups_on_to_the_guard(stores, tmp_path):
    store = stores.make(tmp_path / "store", group_by=TENS)
    assert store.settings["group_by"] == TENS
    options = {**QUICK, "epochs": 2, "blends": (1.0,), "controls": False}
    found = adapt(store.path, coloured_noise(400, 10, reddish), **options)
    old, new = Domains(store.path).all()
    assert found.status == "refused"
    assert "of each group one image counts" in str(found)
    assert f"the guard has {len(groups_of(new.of('guard')))} new images" in str(found)
    assert len(new.of("guard")) > 5 * len(groups_of(new.of("guard")))
    entry = release(store.path)
    assert entry["groups"] == len(groups_of(old.of("final"))) + len(groups_of(new.of("final")))


def test_a_column_of_a_table_says_which_images_belong_together(tmp_path, write_folder):
    folder = write_folder(tmp_path / "images", 12, {"red": None, "green": None, "blue": None})
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in folder.rglob("*.png"))
    lines = [f"{path},{path.split('/')[1]},patient{number % 3}" for number, path in enumerate(paths)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["path,label,patient", *lines]))
    options = {"classes": ("red", "green", "blue"), "image_size": 8}
    images, _ = load_labelled(table, **options, group_by="column:patient")
    assert groups_of(images) == {"patient0", "patient1", "patient2"}
    with pytest.raises(DataError, match="no column 'patent'"):
        load_labelled(table, **options, group_by="column:patent")
    with pytest.raises(DataError, match="only a CSV file has them"):
        load_labelled(folder, **options, group_by="column:patient")
    table.write_text("\n".join(["path,label,patient", *lines[:-1], lines[-1].rsplit(",", 1)[0] + ","]))
    with pytest.raises(DataError, match="every image needs a group"):
        load_labelled(table, **options, group_by="column:patient")
    by_path, _ = load_labelled(folder, **options, group_by=r"(\d)\.png")
    assert len(groups_of(by_path)) == 10
