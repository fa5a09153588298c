"""Read a run folder for reports, and nothing outside it."""

from __future__ import annotations

import base64
import io
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..checksums import MOST_NAMES_BYTES, is_own, read_record, read_sealed_json
from ..comparison.comparison_record import ComparisonRecord
from ..config import from_dict, to_dict
from ..errors import ConfigError, RunError
from ..files import MOST_JSON_BYTES
from ..formats import check_format
from ..tasks import task_from
from ..training import RunFolder, RunRecord
from .schema import OPTIONAL_STORE, STORE, require

Record = TypeVar("Record")
THUMBNAIL_SIZE = 176  # pixels of the longer side: 8 KB each as JPEG
MOST_PIXELS = 50_000_000


@dataclass(frozen=True)
class Predictions:
    """Class probabilities (N, K) of one run on the test images, and their labels (N,)."""

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]

    def confusion(self, classes: int) -> NDArray[np.float64]:
        """(K, K) counts; rows are true classes, columns predicted ones."""
        flat = self.labels * classes + self.probabilities.argmax(1)
        return np.bincount(flat, minlength=classes * classes).reshape(classes, classes).astype(np.float64)


Kind = Literal["combined", "comparison", "run", "bench", "explanation", "store", "iteration"]
DOCUMENTS: dict[Kind, str] = {
    "combined": "combined.json",
    "comparison": "comparison.json",
    "run": "run.json",
    "bench": "bench.json",
    "explanation": "explanation.json",
    "store": "history.json",
    "iteration": "iterate.json",
}


def folder_kind(run_dir: Path) -> Kind:
    """Which report a folder gets.

    Raises:
        RunError: the folder holds none of the documents that a report is made of.
    """
    if not run_dir.is_dir():
        raise RunError(
            f"no folder {run_dir}: give the folder of a run, a comparison, a combination, a bench, an explanation, a store "
            "or a search."
        )
    for kind, name in DOCUMENTS.items():
        if (run_dir / name).is_file():
            return kind
    if (run_dir / "store.json").is_file():
        raise RunError(
            f"{run_dir} is a store without a history.json: adapt it once, then there is something to report."
        )
    raise RunError(
        f"{run_dir} has none of {', '.join(DOCUMENTS.values())}: "
        "give the folder of a run, a comparison, a combination, a bench, an explanation, a store or a search."
    )


def read_comparison(run_dir: Path) -> ComparisonRecord:
    """comparison.json."""
    path = run_dir / "comparison.json"
    document = read_record(path, "comparison")
    with _as_run_error(path):
        _check_numbers(document, path.name)
        return ComparisonRecord.from_json(document, where=path.name)


def read_run(run_dir: Path) -> RunRecord:
    """run.json."""
    record = RunFolder(run_dir).read()
    with _as_run_error(run_dir / "run.json"):
        _check_numbers(to_dict(record), "run.json")
        task_from(record.task, record.classes)
        return record


def read_record_as(record: type[Record], run_dir: Path, kind: Kind) -> Record:
    """The document of this kind, whose latest format is the default of its record's entry `format`.

    Raises:
        RunError: the file is missing, damaged, of another kind or of a later format.
    """
    path = run_dir / DOCUMENTS[kind]
    document, _ = read_sealed_json(path)
    if not isinstance(document, dict) or document.get("kind") != kind:
        raise RunError(f"{path} does not describe a {kind}: choose another folder.")
    latest: Any = next(field.default for field in fields(record) if field.name == "format")  # type: ignore[arg-type]
    check_format(path, document.get("format"), range(1, latest + 1))
    with _as_run_error(path):
        _check_numbers(document, path.name)
        return from_dict(record, document, where=path.name)


def read_store(run_dir: Path) -> dict[str, Any]:
    """history.json, checked."""
    path = run_dir / "history.json"
    document = read_sealed_json(path)[0]
    require(document, STORE, path.name)
    require(document, OPTIONAL_STORE, path.name, optional=True)
    if document["kind"] != "store":
        raise RunError(f"{path} is of the kind '{document['kind'][:40]}': expected a store.")
    matrix, domains = document.get("matrix") or [], document.get("domains") or []
    if matrix and (len(matrix) != len(document["versions"]) or any(len(row) != len(domains) for row in matrix)):
        raise RunError(f"{path}: matrix does not have a row a version and a column a domain: adapt or watch again.")
    return document


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The epochs of a run in order; a last line that was cut off is dropped, a missing or changed file is no epochs.

    After a resume an epoch can be there twice: the later line counts.
    """
    file = run_dir / "metrics.jsonl"
    try:
        if not file.is_file() or file.stat().st_size > MOST_JSON_BYTES or not is_own(run_dir, file.name):
            return []
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    epochs: dict[int, dict[str, Any]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("epoch"), int):
            epochs[entry["epoch"]] = entry
    return [epochs[epoch] for epoch in sorted(epochs)]


def read_predictions(run_dir: Path, classes: int) -> Predictions | None:
    """The predictions of a run, or None where the file is missing, damaged or of other classes."""
    from safetensors import SafetensorError

    from ..safetensors_files import open_tensors

    try:
        with open_tensors(run_dir / "predictions.safetensors", "np", MOST_NAMES_BYTES) as tensors:
            probabilities = tensors.get_tensor("probabilities")
            labels = tensors.get_tensor("labels").astype(np.int64)
        if not is_own(run_dir, "predictions.safetensors"):
            return None
    except (OSError, RunError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    fits = probabilities.ndim == 2 and probabilities.shape == (*labels.shape, classes) and len(labels)
    if not fits or labels.min() < 0 or labels.max() >= classes:
        return None
    return Predictions(probabilities, labels)


def inside(run_dir: Path, relative: str) -> Path | None:
    """The path of an entry of the folder; None for one that points out of it."""
    try:
        path = (run_dir / relative).resolve()
        return path if path.is_relative_to(run_dir.resolve()) else None
    except (OSError, ValueError):
        return None


def thumbnail(run_dir: Path, relative: str) -> str | None:
    """An image of the folder as a small data URI; None where it is missing, damaged or outside."""
    from PIL import Image

    path = inside(run_dir, relative)
    if path is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a strange image is left out or shown as it is, without a word
            with Image.open(path) as image:
                if image.width * image.height > MOST_PIXELS:
                    return None
                small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=82)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def finite(value: Any) -> float | None:
    """A number as float, or None where it is missing, NaN or infinite.

    >>> finite(2), finite(float("nan")), finite("2"), finite(None)
    (2.0, None, None, None)
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


@contextmanager
def _as_run_error(path: Path) -> Iterator[None]:
    """What does not fit in a file is a fault of the file."""
    try:
        yield
    except ConfigError as error:
        raise RunError(f"{str(error).rstrip('.')}; copy {path.parent} again or repeat the run.") from None


def _check_numbers(value: Any, where: str) -> None:
    """Raise ConfigError for NaN and infinity, which JSON does not know and Python reads."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        _check_numbers(item, f"{where}[{str(key)[:40]}]")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}: expected a finite number")
