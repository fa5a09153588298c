"""Fine-tuning as attngraft does it beside what others do: the same pictures, input size and epochs, one thread each.

python benchmarks/finetune.py DATA --out FOLDER [--sets a,b] [--arms a,b] [--seeds 5] [--workers 2] [--validation]

DATA holds hymenoptera, grocery, flowers, textures and cifar10, each with train/CLASS and test/CLASS (or val/CLASS);
cluttered-digits is built in. Each seed draws its own training pictures; all arms of a seed get the same. The test part
is the same for all seeds, and read once per training. With --validation a part of the training pictures takes its
place, for choosing settings. An arm may be changed, such as timm:lr=3e-4 or ours:batchnorm=train.
The table of the test parts is written into docs/fine-tuning.md. What is done is kept in FOLDER, one file a training, and in benchmarks/results/finetune.json (those of choosing settings in
finetune-validation.json); trainings that are there are not repeated. fastai is needed for its arm alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from attngraft.environment import hardware, versions
from attngraft.settings import USUAL_RECIPE
from attngraft.timestamp import timestamp

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "fine-tuning.md"
MARK = "<!-- what follows is written by benchmarks/finetune.py -->\n"
Cell = tuple[str, str, int]  # data set, arm, seed
SETS = {  # train pictures a class, test pictures a class at most
    "hymenoptera": (100, 1000),
    "grocery": (6, 1000),
    "flowers": (100, 1000),
    "textures": (40, 1000),
    "cifar10": (50, 100),
    "cluttered-digits": (60, 1000),
}
ARMS = ("ours", "probe", "fastai", "timm", "tutorial", "frozen")
VALIDATION = 0.3  # of the training pictures that a seed does not train with, at most as many as it does
EPOCHS, SIZE = 10, 96


def drawn_folder(
    data: Path, name: str, seed: int, out: Path, *, on_validation: bool = False, count: int | None = None
) -> Path:
    """FOLDER/train/CLASS and FOLDER/test/CLASS with hard links to the pictures of a seed, so many of a class."""
    kind = "-validation" if on_validation else "" if count is None else f"-{count}"
    folder = out / "pictures" / f"{name}-{seed}{kind}"
    if folder.is_dir():
        return folder
    source = _rendered_digits(out) if name == "cluttered-digits" else data / name
    rng, (usual, test_count) = np.random.default_rng([seed, *name.encode()]), SETS[name]
    count = count or usual
    making = folder.with_suffix(".making")
    for of_class in sorted((source / "train").iterdir()):
        pictures = sorted(of_class.iterdir())
        order = [pictures[position] for position in rng.permutation(len(pictures))]
        n = min(count, round(len(order) * (1 - VALIDATION))) if on_validation else count
        _link(order[:n], making / "train" / of_class.name)
        if on_validation:
            _link(order[n : 2 * n], making / "test" / of_class.name)
    test = source / ("test" if (source / "test").is_dir() else "val")
    for of_class in [] if on_validation else sorted(test.iterdir()):
        _link(sorted(of_class.iterdir())[:test_count], making / "test" / of_class.name)
    making.rename(folder)
    return folder


def _link(pictures: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        target = folder / picture.name
        if not target.exists():
            os.link(picture, target)


def _rendered_digits(out: Path) -> Path:
    """`cluttered-digits` as a folder of pictures."""
    from PIL import Image

    from attngraft.data.digits import render_splits

    folder = out / "pictures" / "cluttered-digits"
    if not folder.is_dir():
        making, digits = folder.with_suffix(".making"), render_splits(seed=0, val_count=0)
        for pixels, label, name in zip(digits.images, digits.labels, digits.ids, strict=True):
            path = making / name.split("/")[1] / str(label) / f"{name.split('/')[2]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        making.rename(folder)
    return folder


def train(arm: str, folder: Path, seed: int, run: Path) -> dict[str, Any]:
    """One training in this process: accuracy on the test part and what it cost, imports left out."""
    import timm  # noqa: F401
    import torch

    import attngraft as ag

    name, _, changes = arm.partition(":")
    pairs = [change.split("=") for change in changes.split(",")] if changes else []
    options: dict[str, Any] = {key: _value(text) for key, text in pairs}
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    began, cpu = time.perf_counter(), time.process_time()
    if name in ("ours", "probe"):
        recipe = "probe" if name == "probe" else options.pop("recipe", USUAL_RECIPE)
        if name == "ours":
            options.setdefault("epochs", EPOCHS - 1)  # the pass that solves the head is the other one
        classes = len(list((folder / "train").iterdir()))
        network = ag.create_backbone("timm:tf_efficientnet_lite0", num_classes=classes)
        done = ag.fit(network, folder, recipe=recipe, run_dir=run, seed=seed, image_size=SIZE, **options)
        score = done.top1
    else:
        import finetune_peers as peers

        score = peers.PEERS[name](peers.Job(folder, seed, SIZE, EPOCHS, options))
    return {"top1": score, "wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu,
            "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}  # fmt: skip


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text, text)


def in_a_process(cell: Cell, folder: Path, out: Path, kept: Mapping[Cell, dict[str, Any]]) -> dict[str, Any] | None:
    """The result of a cell, from its file where it is done."""
    name, arm, seed = cell
    if cell in kept:
        return kept[cell]
    file = out / "cells" / f"{folder.name}-{arm.replace(':', '+')}.json"
    if not file.is_file():
        command = [sys.executable, "-W", "ignore", __file__, "--cell", arm, str(folder), str(seed), str(file)]
        threads = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(command, env=threads, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name} {arm} seed {seed}: {done.stderr.strip()[-2000:]}", flush=True)
            return None
    found = json.loads(file.read_text())
    print(f"{name:<18}{arm:<28} seed {seed}  {100 * found['top1']:5.1f} %  {found['wall_s']:6.1f} s", flush=True)
    return {"set": name, "arm": arm, "seed": seed, **found}


def summary(cells: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Per set and arm: the mean accuracy, its spread over seeds, and the difference to ours, paired by the seed."""
    by = {(cell["set"], cell["arm"], cell["seed"]): cell for cell in cells}
    for name, arm in dict.fromkeys((cell["set"], cell["arm"]) for cell in cells):
        rows = [cell for cell in cells if (cell["set"], cell["arm"]) == (name, arm)]
        scores = [100 * row["top1"] for row in rows]
        apart = [100 * (by[name, "ours", row["seed"]]["top1"] - row["top1"])
                 for row in rows if (name, "ours", row["seed"]) in by]  # fmt: skip
        yield {"set": name, "arm": arm, "n": len(rows), "top1": round(mean(scores), 2),
               "sd": round(float(np.std(scores, ddof=1)), 2) if len(scores) > 1 else None,
               "ours_minus_it": round(mean(apart), 2) if apart else None,
               "wall_s": round(mean(row["wall_s"] for row in rows), 1),
               "cpu_s": round(mean(row["cpu_s"] for row in rows), 1)}  # fmt: skip


TITLES = {
    "ours": "attngraft `full`",
    "probe": "attngraft `probe`",
    "fastai": "fastai `fine_tune`",
    "timm": "timm",
    "tutorial": "PyTorch tutorial",
    "frozen": "frozen BatchNorm",
}


def publish(cells: list[dict[str, Any]]) -> None:
    """Write the table of the arms that all data sets have into docs/fine-tuning.md, below the mark."""
    rows = {(row["set"], row["arm"]): row for row in summary(cells)}
    sets = [name for name in SETS if (name, "ours") in rows]
    arms = [arm for arm in TITLES if all((name, arm) in rows for name in sets)]
    lines = [f"| | seeds | {' | '.join(TITLES[arm] for arm in arms)} | ours minus the best of the others |",
             f"|---|---:|{'---:|' * (len(arms) + 1)}"]  # fmt: skip
    for name in sets:
        best = max((arm for arm in arms if arm != "ours"), key=lambda arm: rows[name, arm]["top1"])
        shown = [_score(rows[name, arm]) for arm in arms]
        top = max(range(len(arms)), key=lambda place: rows[name, arms[place]]["top1"])
        shown[top] = f"**{shown[top]}**"
        apart = rows[name, best]["ours_minus_it"]
        seeds = min(rows[name, arm]["n"] for arm in arms)
        lines.append(f"| {name} | {seeds} | {' | '.join(shown)} | {apart:+.1f} ({TITLES[best]}) |")
    means = [mean(rows[name, arm]["top1"] for name in sets) for arm in arms]
    times = [mean(rows[name, arm]["cpu_s"] for name in sets) for arm in arms]
    lines.append(f"| mean over data sets | | {' | '.join(f'{value:.1f}' for value in means)} | |")
    lines.append(f"| processor time, s | | {' | '.join(f'{value:.0f}' for value in times)} | |")
    told = ("\n\nTop-1 accuracy on the test part in percent, mean ± standard deviation over seeds where there are several.\n"
            f"Hardware: {hardware()['cpu']}, one thread a training, beside other work.\n")  # fmt: skip
    before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(before + MARK + "\n" + "\n".join(lines) + told, encoding="utf-8")


def _score(row: dict[str, Any]) -> str:
    return f"{row['top1']:.1f}" + ("" if row["sd"] is None else f" ± {row['sd']:.1f}")


def main() -> None:
    if sys.argv[1:2] == ["--cell"]:
        arm, folder, seed, file = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
        found = train(arm, folder, seed, file.with_suffix(""))
        part = file.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.rename(file)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--arms", default=" ".join(ARMS), help="separated by spaces")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--validation", action="store_true")
    asked = parser.parse_args()
    (asked.out / "cells").mkdir(parents=True, exist_ok=True)
    sets, arms = asked.sets.split(","), asked.arms.split()
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    folders = {(name, seed): drawn_folder(asked.data, name, seed, asked.out, on_validation=asked.validation)
               for seed in seeds for name in sets}  # fmt: skip
    cells = [(name, arm, seed) for seed in seeds for name in sets for arm in arms]
    result = RESULTS / ("finetune-validation.json" if asked.validation else "finetune.json")
    before = json.loads(result.read_text())["trainings"] if result.is_file() else []
    kept = {(cell["set"], cell["arm"], cell["seed"]): cell for cell in before}
    with ThreadPoolExecutor(asked.workers) as pool:
        done = list(pool.map(lambda cell: in_a_process(cell, folders[cell[0], cell[2]], asked.out, kept), cells))
    made = {(cell["set"], cell["arm"], cell["seed"]): cell for cell in done if cell is not None}
    trainings = [cell for _, cell in sorted({**kept, **made}.items())]
    rows = list(summary(trainings))
    for row in rows:
        print(f"{row['set']:<18}{row['arm']:<28}{row['n']:>3}{row['top1']:7.1f} ± {row['sd'] or 0:4.1f}"
              f"{row['ours_minus_it'] or 0:+7.1f}{row['wall_s']:8.1f} s")  # fmt: skip
    options = " ".join(word for word in sys.argv[1:] if not word.startswith("/"))
    document = {"created": timestamp(), "command": f"python benchmarks/finetune.py {options}",
                "epochs": EPOCHS, "image_size": SIZE, "hardware": hardware(), "versions": versions(),
                "images_of_a_class": SETS, "summary": rows, "trainings": trainings}  # fmt: skip
    result.write_text(json.dumps(document, indent=1) + "\n")
    if not asked.validation:
        publish(trainings)


if __name__ == "__main__":
    main()
