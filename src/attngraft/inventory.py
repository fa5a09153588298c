"""What a folder or file of ours is, its main figures and what to do next, read from its documents without PyTorch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checksums import read_header, read_sealed_json
from .errors import RunError, command

FRACTIONS = {"top1", "top5", "ece", "balanced-accuracy", "macro-f1", "micro-f1", "map", "auroc"}  # shown in percent
LABELS = {"top1": "top-1", "top5": "top-5", "map": "mAP", "mae": "MAE", "rmse": "RMSE", "r2": "R²", "ece": "calibration error"}  # fmt: skip
PRIMARY = ("top1", "map", "mae")  # of the tasks that are built in
_OWN = "as the code of the network makes them"  # random or not: nobody but that code knows
Document = Mapping[str, Any]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """Something of ours.

    Attributes:
        kind: "run", "comparison", "store", ...
        path: where it is.
        title: one line on it.
        facts: its main figures by what they are called, JSON values.
        commands: what to do next, to be copied.
    """

    kind: str
    path: Path
    title: str
    facts: Facts
    commands: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "title": self.title,
            "figures": self.facts,
            "commands": list(self.commands),
        }


def identify(path: Path) -> Item:
    """What a path is.

    Raises:
        RunError: it is not there, is not of ours, or its document is damaged; one sentence.
    """
    path = path.expanduser()
    if path.is_dir():
        for name, (kind, describe) in _FOLDERS.items():
            if (path / name).is_file():
                return _described(kind, path, describe, _document(path / name))
        raise RunError(_foreign_folder(path))
    if not path.is_file():
        raise RunError(f"there is no {path}: give a folder or a file that attngraft has written.")
    if path.name in _FOLDERS:
        return identify(path.parent)
    return _file(path)


def runs_below(folder: Path) -> Iterator[Path]:
    """Folders of all runs in a folder and below it, in order; links are not followed."""
    for here, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if "run.json" in files:
            yield Path(here)


def run_facts(document: Document) -> Facts:
    """The figures of a run by the names that `attngraft runs` takes."""
    results, data, recipe = (_table(document.get(key)) for key in ("results", "data", "recipe"))
    test = _table(results.get("test"))
    scores = {name: value for name, value in test.items() if isinstance(value, (int, float)) and name != "images"}
    epochs = sum(phase.get("epochs", 0) for phase in recipe.get("phases", []) if isinstance(phase, dict))
    return {
        "variant": document.get("variant"),
        "backbone": document.get("backbone"),
        "data": data.get("name"),
        "recipe": recipe.get("name"),
        "epochs": results.get("stopped_after_epochs") or epochs,
        "seed": document.get("seed"),
        "status": document.get("status"),
        **scores,
        "test_images": test.get("images"),
        "train_time_s": results.get("train_time_s") if epochs else None,  # a head that is solved takes no epoch
        "sites": len(_table(document.get("plan")).get("sites") or ()),
        "task": _table(document.get("task")).get("name", "classification"),
        "weights": _OWN if document.get("weights") == "as it was given" else document.get("weights"),
        "created": document.get("created"),
    }


def told(name: str, value: Any) -> str:
    """A figure for people.

    >>> told("top1", 0.905), told("mae", 2.51239), told("train_time_s", 75.2), told("sites", 8), told("weights", None)
    ('90.5 %', '2.512', '1 min 15 s', '8', 'none')
    """
    if value is None:
        return "none"
    if name.endswith("_s") and isinstance(value, (int, float)):
        minutes, seconds = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        if hours:
            return f"{hours} h {minutes} min"
        return f"{minutes} min {seconds} s" if minutes else f"{value:.3g} s"
    if isinstance(value, float):
        return f"{100 * value:.1f} %" if name in FRACTIONS else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and name != "seed" else str(value)


def label(name: str) -> str:
    """What a figure is called for people.

    >>> label("top1"), label("train_time_s"), label("mean over seeds")
    ('top-1', 'training time', 'mean over seeds')
    """
    if name == "train_time_s":
        return "training time"
    return LABELS.get(name, name.removesuffix("_s").replace("_", " "))


def _described(kind: str, path: Path, describe: Callable[[Path, Document], Item], document: Document) -> Item:
    """The item, where its document has what is needed."""
    try:
        return describe(path, document)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise RunError(f"{path} looks like a {kind} and cannot be read ({error}): restore it from a copy.") from None


def _document(path: Path) -> Document:
    found, _ = read_sealed_json(path)
    if not isinstance(found, dict):
        raise RunError(f"{path} holds no table of entries: restore it from a copy.")
    return found


def _foreign_folder(path: Path) -> str:
    first = next(runs_below(path), None)
    if first is not None:
        return f"{path} is a folder with runs below it: {command('runs', path)} lists them."
    return f"{path} is no folder of ours: none of {', '.join(_FOLDERS)} is in it."


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _code_of(backbone: Any) -> tuple[str, ...]:
    """What goes before the verb where a network of one's own has to be built, whose code no record holds."""
    label = str(backbone).removeprefix("own:").rpartition("@")[0]
    if label == str(backbone) or not str(backbone).startswith("own:"):
        return ()
    return ("--network", label if ":" in label else f"FILE.py:{label}")


def _run(path: Path, document: Document) -> Item:
    facts = run_facts(document)
    title = f"run: {facts['variant']} on {facts['backbone']}, data {facts['data']}"
    if facts["status"] != "finished":
        rows = len((path / "metrics.jsonl").read_bytes().splitlines()) if (path / "metrics.jsonl").is_file() else 0
        why = document.get("stopped_because")
        told_why = {"stopped_because": why} if why else {}
        return Item("run", path, title, {**facts, "epochs_done": rows, **told_why}, (command("report", path),))
    facts |= _preparation(document)
    if not facts["epochs"]:
        del facts["train_time_s"]
    code = _code_of(facts["backbone"])
    commands = [command(*code, "predict", path, "IMAGES"), command(*code, "explain", path)]
    if facts["sites"]:
        commands.append(command(*code, "fold", path, "--out", f"{path}-folded"))
    commands += [command(*code, "store", f"{path}-store", "--create", path), command("report", path)]
    return Item("run", path, title, facts, tuple(commands))


def _preparation(document: Document) -> Facts:
    """What was done before the first steps, such as solving the head."""
    sentences = [str(sentence) for sentence in document.get("preparation") or ()]
    return {"preparation": " ".join(text[:1].upper() + text[1:] for text in sentences)} if sentences else {}


def _comparison(path: Path, document: Document) -> Item:
    metric = _table(document.get("metric"))
    unit = metric.get("unit", "points")
    facts: Facts = {"status": document["status"], "seeds": len(document["seeds"]), "backbone": document.get("backbone")}
    facts["data"] = document["data"]["name"]
    for row in document["variants"]:
        mean = row.get(f"{metric.get('name', 'top1')}_mean")
        shown = "none" if mean is None else f"{100 * mean:.1f} %" if unit == "points" else f"{mean:.4g} {unit}".rstrip()
        facts[f"{metric.get('label', 'top-1')} of {row['name']}"] = shown
    for effect in document["effects"]:
        facts[f"{effect['variant']} against {effect['against']}"] = effect["verdict"]
    runs = list(runs_below(path / "runs"))
    commands = [command("runs", path), command("report", path)]
    if runs:
        code = _code_of(facts["backbone"])
        commands += [command(*code, "explain", runs[0]), command(*code, "predict", runs[0], "IMAGES")]
    facts["runs"] = len(runs)
    return Item(
        "comparison", path, f"comparison on {facts['data']}, backbone {facts['backbone']}", facts, tuple(commands)
    )


def _combination(path: Path, document: Document) -> Item:
    facts: Facts = {"data sets": ", ".join(member["name"] for member in document["sets"])}
    facts |= {effect["variant"]: effect["verdict"] for effect in document["effects"]}
    return Item(
        "combination",
        path,
        f"combination of {len(document['sets'])} comparisons",
        facts,
        (command("report", path),),
    )


def _search(path: Path, document: Document) -> Item:
    facts = {key: document.get(key) for key in ("until", "status", "verdict", "sentence", "budget_s", "used_s")}
    facts["trials"] = len(document.get("trials", ()))
    commands = [command("report", path), command("runs", path)]
    if (path / "model.safetensors").is_file():
        code = _code_of(document["backbone"])
        commands = [command(*code, "predict", path, "IMAGES"), command(*code, "explain", path), *commands]
    return Item("search", path, f"search for {document['until']} with {document['backbone']}", facts, tuple(commands))


def _bench(path: Path, document: Document) -> Item:
    facts: Facts = {key: document.get(key) for key in ("status", "device", "threads", "created")}
    facts |= {part: len(document.get(part) or ()) for part in ("modules", "models", "loop", "memory")}
    return Item("bench", path, f"bench on {document['device']}", facts, (command("report", path),))


def _explanation(path: Path, document: Document) -> Item:
    facts: Facts = {key: document.get(key) for key in ("status", "attention", "images", "created")}
    facts |= {f"finding {number}": sentence for number, sentence in enumerate(document.get("sentences", ()), start=1)}
    return Item("explanation", path, f"explanation of {document['name']}", facts, (command("report", path),))


def _store(path: Path, document: Document) -> Item:
    head = (path / "HEAD").read_text(encoding="utf-8").strip()
    versions = [entry for entry in (path / "versions").iterdir() if (entry / "manifest.json").is_file()]
    facts = {
        "serves": head,
        "versions": len(versions),
        "classes": len(document["classes"]),
        "created": document["created"],
    }
    base = path / "base" / "model.safetensors"
    code = _code_of(_file(base).facts.get("backbone")) if base.is_file() else ()
    verbs = (("store", path), ("predict", path, "IMAGES"), ("adapt", path, "NEWDATA"))
    commands = tuple(command(*code, *words) for words in verbs)
    return Item("store", path, f"store of {len(versions)} versions", facts, commands)


def _version(path: Path, document: Document) -> Item:
    facts = {key: document.get(key) for key in ("number", "parent", "created", "parameters", "changed")}
    facts["classes"] = len(document["classes"])
    return Item(
        "version",
        path,
        f"version {document['number']} of a store",
        facts,
        (command("store", path.resolve().parents[1]),),
    )


def _folding(path: Path, document: Document) -> Item:
    numbers = {key: value for key, value in document.items() if isinstance(value, (str, int, float)) and key not in ("kind", "format")}  # fmt: skip
    saved = path / "model.safetensors"
    backbone = _file(saved).facts.get("backbone") if saved.is_file() else None
    return Item(
        "folded model", path, "folded model", numbers, (command(*_code_of(backbone), "predict", path, "IMAGES"),)
    )


_FOLDERS: dict[str, tuple[str, Callable[[Path, Document], Item]]] = {
    "combined.json": ("combination", _combination),
    "comparison.json": ("comparison", _comparison),
    "iterate.json": ("search", _search),
    "run.json": ("run", _run),
    "bench.json": ("bench", _bench),
    "explanation.json": ("explanation", _explanation),
    "store.json": ("store", _store),
    "manifest.json": ("version", _version),
    "fold.json": ("folded model", _folding),
}


def _file(path: Path) -> Item:
    """A safetensors file by its header."""
    foreign = f"{path} is no file of ours: expected a model, grafts, predictions or a checkpoint in safetensors."
    try:
        with path.open("rb") as file:
            header = json.loads(read_header(file, path))
    except (RunError, OSError, ValueError, RecursionError):
        raise RunError(foreign) from None
    metadata = _table(_table(header).get("__metadata__"))
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    facts: Facts = {"tensors": len(tensors), "bytes": path.stat().st_size}
    if "attngraft" in metadata:
        return _described("model", path, _model, {**json.loads(metadata["attngraft"]), "facts": facts})
    beside = path.parent if (path.parent / "run.json").is_file() else path.parent.parent
    if path.name == "predictions.safetensors":
        facts["images"] = next((entry["shape"][0] for entry in tensors.values() if entry.get("shape")), 0)
        return Item("predictions", path, "predictions of a run", facts, (command("show", path.parent),))
    if path.parent.name == "checkpoints" and (beside / "run.json").is_file():
        return Item("checkpoint", path, "checkpoint of a run", facts, (command("show", beside),))
    raise RunError(foreign)


def _model(path: Path, header: Document) -> Item:
    """A file that `save` wrote."""
    plan, facts = _table(header.get("plan")), dict(header["facts"])
    facts |= {"attention": plan.get("attention", "none"), "sites": len(plan.get("sites") or ())}
    facts["classes"] = len(header.get("classes") or ())
    if header.get("kind") == "grafts":
        load = f"in Python, ag.load_grafts_(model, {str(path)!r})"
        facts["use"] = f"{load}, where model is the plain network with the weights that it had when they were saved"
        return Item("grafts", path, f"grafts without their backbone: {facts['attention']}", facts)
    backbone = _table(header.get("backbone"))
    facts["backbone"] = backbone.get("spec", "built elsewhere")
    kind = "folded model" if header.get("folded") else "model"
    code = _code_of(facts["backbone"])
    explain = command(*code, "explain", path, "DATA", "--out", path.parent / "explanation")
    return Item(
        kind,
        path,
        f"{kind}: {facts['attention']} on {facts['backbone']}",
        facts,
        (command(*code, "predict", path, "IMAGES"), explain),
    )
