"""Ablate and swap parts of a trained model's attention to measure what each is worth."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data import evenly_spread
from ..errors import ConfigError, DataError
from ..statistics.shapley import coalitions_of, everyone, sampled_orders
from ..surgery import grafts
from ..training import Progress, Silent
from ..training.evaluate import in_eval_mode
from .ablations import (
    EVERYWHERE,
    MEAN,
    SHUFFLED,
    Cell,
    MeanGates,
    Scores,
    Switches,
    cell_effects,
    fixed,
    halves_of,
    interactions_of,
    shuffled,
    sites_of,
    total_of,
)
from .explanation_record import Decoupling, SpeedUp
from .image_source import Source, View, grafted_view
from .partial_forward import PartialForward

BATCH = 128  # small maps are computed faster in large batches
MOST_PAIRED_SITES = 12
HELD_BYTES = 256 << 20  # of one batch's recorded outputs
TIMED_BATCHES = 8  # on which whole passes are timed too


def decouple(
    model: nn.Module,
    data: Source | View,
    *,
    permutations: int = 8,
    subset: int = 512,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> Decoupling:
    """Take a trained model's attention apart: what each part, site and order is worth to its predictions.

    Nothing is trained, so this says what the trained model rests on, not what it could have learned without. The model
    is the same afterwards. Memory: one batch with some of its feature maps, and 13 bytes per image and cell.

    Args:
        model: a classifier with live grafts.
        data: labelled images, as `view_of` takes them.
        permutations: orders in which sites are switched on one after another, each second the reverse of the one
            before; an even number. Where there are no more orders than that, all are taken.
        subset: most images, evenly spread, for the worth and interactions of sites.
        seed: of the shuffles and the orders.
        batch_size: images at once; fewer where the feature maps to be held are large.
        progress: where to show progress.

    Raises:
        GraftError: the model has no grafts, or some are not live.
        DataError: the images have no labels, or other ones than the model's classes.
        ConfigError: an option is out of range.
        TrainingError: the model's outputs are not finite.
    """
    _check_options(permutations, subset, batch_size)
    model, view = grafted_view(model, data, "there is no attention to take apart", ("explain", "decouple"))
    view.require_labels("decoupling")
    with in_eval_mode(model), torch.no_grad(), torch.inference_mode(False):
        bench = _Bench(model, view, batch_size, seed, progress or Silent())
        intact, cells = bench.measure_cells()
        paths, parts = bench.passes.sites, bench.switches.parts
        by_parts = _by_parts_on(parts, intact, cells, bench.switches)
        orders = sampled_orders(len(paths), permutations, seed)
        pairs = list(combinations(_most_telling(paths, intact, cells, bench.switches), 2))
        coalitions = _needed(len(paths), [order for pair in orders for order in pair], pairs)
        positions = evenly_spread(len(view), subset)
        spread = view.select(positions)
        by_sites = bench.measure_coalitions(positions, coalitions)
    return Decoupling(
        images=len(view),
        intact=intact.quality,
        cells=cell_effects(intact, cells, view.groups),
        total=total_of(intact, by_parts[0], view.groups),
        halves=halves_of(parts, by_parts, view.groups),
        sites=sites_of(paths, by_sites, orders, spread.groups),
        permutations=2 * len(orders),
        subset=len(positions),
        interactions=interactions_of(paths, by_sites, pairs, spread.groups),
        speed_up=bench.speed_up,
        groups=view.group_count,
    )


class _Bench:
    """A model, its images, and the passes over them."""

    def __init__(self, model: nn.Module, view: View, batch_size: int, seed: int, progress: Progress) -> None:
        self._model, self._view, self._seed, self._progress = model, view, seed, progress
        self._device = next(model.parameters()).device
        example = torch.stack([view.input(position) for position in range(min(2, len(view)))]).to(self._device)
        _check_labels(view, model(example))  # and kernels are chosen and compiled before time is taken
        began = time.perf_counter()
        self.passes = PartialForward(model, example)
        self._shared_s = time.perf_counter() - began
        self._naive_s_per_image: list[float] = []
        live = grafts(model)
        self.switches = Switches({path: live[path] for path in self.passes.sites})
        fitting = max(2, int(HELD_BYTES // max(self.passes.bytes_per_image, 1)))
        self._size = _batch_size(len(view), min(batch_size, fitting))

    @property
    def speed_up(self) -> SpeedUp:
        cells = len(self.switches.site_by_site())
        naive_s = cells * len(self._view) * float(np.mean(self._naive_s_per_image))
        return SpeedUp(naive_s / self._shared_s, self._shared_s, naive_s)

    def measure_cells(self) -> tuple[Scores, dict[tuple[str, str], Scores]]:
        """The intact model and every change to it, on all images."""
        view, everywhere, by_site = self._view, self.switches.everywhere(), self.switches.site_by_site()
        shuffles = [Cell(EVERYWHERE, SHUFFLED, {})] if self._size > 1 else []
        named = [*everywhere, Cell(EVERYWHERE, MEAN, {}), *shuffles, *by_site]
        intact, table = Scores.empty(len(view)), {cell[:2]: Scores.empty(len(view)) for cell in named}
        # Mixed, as images often come class by class, and an image is to be given gates of any other.
        rng, means = np.random.default_rng(self._seed), MeanGates()
        order = rng.permutation(len(view))
        timed = set(np.linspace(0, self._count(len(view)) - 1, TIMED_BATCHES).round().astype(int).tolist())
        for number, (x, positions, load_s) in enumerate(self._batches(order, "switching parts off")):
            labels, began = view.labels[positions], time.perf_counter()
            recording = self.passes.record(x, self.switches.intact)
            intact.note(positions, recording.logits, labels)
            gates = {path: seen.last for path, seen in self.switches.intact.items() if seen.last is not None}
            for cell in by_site:
                table[cell[:2]].note(positions, self.passes.rerun(recording, cell.changes).logits, labels)
            self._shared_s += load_s + time.perf_counter() - began
            means.add(gates, len(x))
            exchanged = [cell._replace(changes=shuffled(gates, _derangement(len(x), rng, x))) for cell in shuffles]
            for cell in [*everywhere, *exchanged]:
                table[cell[:2]].note(positions, self.passes.rerun(recording, cell.changes).logits, labels)
            if number in timed:
                self._time_whole_pass(x, by_site[number % len(by_site)], labels, load_s)
        mean = fixed(means.means())
        for x, positions, _ in self._batches(order, "gates at their mean"):
            table[EVERYWHERE, MEAN].note(positions, self.passes.whole(x, mean).logits, view.labels[positions])
        return intact, table

    def measure_coalitions(self, positions: NDArray[np.int64], coalitions: Iterable[int]) -> dict[int, Scores]:
        """The model with some sites on and all others off, on some images.

        In lexicographic order, so that each pass can begin where it differs from the one before: no stretch of the
        network is computed twice with the same sites before it.
        """
        paths, off = self.passes.sites, self.switches.without(self.switches.parts)
        ordered = sorted(coalitions, key=lambda one: [not one >> site & 1 for site in range(len(paths))])
        table = {coalition: Scores.empty(len(positions)) for coalition in ordered}
        changes = {
            coalition: {
                path: self.switches.intact[path] if coalition >> site & 1 else off[path]
                for site, path in enumerate(paths)
            }
            for coalition in ordered
        }
        for x, at, _ in self._batches(positions, "switching sites on and off"):
            local = np.searchsorted(positions, at)
            recording = self.passes.record(x, self.switches.intact)
            for coalition in ordered:
                recording = self.passes.rerun(recording, changes[coalition], keep=True)
                table[coalition].note(local, recording.logits, self._view.labels[at])
        return table

    def _batches(self, order: NDArray[np.int64], title: str) -> Iterator[tuple[Tensor, NDArray[np.int64], float]]:
        """Inputs, their positions in the view, and the seconds that loading took."""
        self._progress.start(title, self._count(len(order)))
        batches = self._view.select(order).batches(self._device, size=self._size)
        while True:
            began = time.perf_counter()
            found = next(batches, None)
            if found is None:
                break
            yield found[0], order[found[1]], time.perf_counter() - began
            self._progress.advance()
        self._progress.stop()

    def _count(self, images: int) -> int:
        return -(-images // self._size)

    def _time_whole_pass(self, x: Tensor, cell: Cell, labels: NDArray[np.int64], load_s: float) -> None:
        began = time.perf_counter()
        Scores.empty(len(x)).note(np.arange(len(x)), self.passes.whole(x, cell.changes).logits, labels)
        self._naive_s_per_image.append((load_s + time.perf_counter() - began) / len(x))


def _check_options(permutations: int, subset: int, batch_size: int) -> None:
    if permutations < 2 or permutations % 2:
        raise ConfigError(f"permutations is {permutations}: expected an even number of at least 2.")
    for name, value in (("subset", subset), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} is {value}: expected at least 1.")


def _check_labels(view: View, logits: Any) -> None:
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
    if len(shape) != 2 or view.labels.max() >= shape[1]:
        got = f"of shape {shape}" if shape else f"a {type(logits).__name__}"
        raise DataError(
            f"the model returns {got}, and labels go up to {view.labels.max()}: expected a classifier that returns "
            "logits (images, classes), and images of its classes."
        )


def _batch_size(images: int, wanted: int) -> int:
    """At most what is wanted, so that no image is alone in a batch: it could not be given another's gates."""
    sizes = [*range(min(wanted, images), 1, -1), *range(2, images + 1)]
    return next((size for size in sizes if images % size != 1), images)


def _derangement(count: int, rng: np.random.Generator, like: Tensor) -> Tensor:
    """An order of a batch in which nothing stays in its place."""
    round_trip = rng.permutation(count)
    order = np.empty(count, np.int64)
    order[round_trip] = np.roll(round_trip, 1)
    return torch.from_numpy(order).to(like.device)


def _by_parts_on(
    parts: Sequence[str], intact: Scores, cells: Mapping[tuple[str, str], Scores], switches: Switches
) -> dict[int, Scores]:
    """Scores of the cells everywhere, by which parts are on."""
    found = {}
    for on in range(everyone(len(parts)) + 1):
        off = [part for i, part in enumerate(parts) if not on >> i & 1]
        found[on] = cells[EVERYWHERE, switches.word_for(off)] if off else intact
    return found


def _most_telling(
    paths: Sequence[str], intact: Scores, cells: Mapping[tuple[str, str], Scores], switches: Switches
) -> list[int]:
    """Positions of the sites whose switching off changes accuracy most, in the order in which they run."""
    change = [abs(cells[switches.all_off(path)[:2]].top1 - intact.top1) for path in paths]
    return sorted(sorted(range(len(paths)), key=lambda site: -change[site])[:MOST_PAIRED_SITES])


def _needed(sites: int, orders: Iterable[Sequence[int]], pairs: Iterable[tuple[int, int]]) -> set[int]:
    """The coalitions whose scores the worth and the interactions of sites are computed from."""
    whole = everyone(sites)
    found = coalitions_of(tuple(order) for order in orders)
    for first, second in pairs:
        found |= {whole, whole ^ 1 << first, whole ^ 1 << second, whole ^ 1 << first ^ 1 << second}
    return found
