"""The history of a store as one document, which `report` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...config import to_dict
from ...files import read_json, write_json
from ...surgery.version_store.store import Store
from ..images.stored_domains import Domain, Domains
from ..stream_log import stream_summary
from .adaptation_record import PROMOTED, REFUSED, Adaptation, adaptations
from .candidate_training import evaluate_version
from .promotion import policy_of

HISTORY_FILE = "history.json"
HISTORY_FORMAT = 1
ACCURACIES_FILE = "accuracies.json"  # version -> domain -> top-1 on its tune images: never changes, so kept

Entries = Sequence[Mapping[str, Any]]


def update_history(store: Store, device: torch.device | None = None) -> Path:
    """Measure what is not measured yet and write `history.json`; needs the store's lock.

    Raises:
        RunError: the store is damaged, or the disk is full.
    """
    domains, done = Domains(store.path).all(), adaptations(store.path)
    entries = store.journal.entries()
    versions = [version.id for version in store.versions()]
    matrix = _accuracies(store, domains, device or torch.device("cpu"))
    path = store.path / HISTORY_FILE
    write_json(
        path,
        {
            "format": HISTORY_FORMAT,
            "kind": "store",
            "created": store.created,
            "classes": list(store.classes),
            "served": store.head,
            "base": store.base,
            "policy": to_dict(policy_of(store)),
            "versions": _versions(store, entries),
            "domains": [{"name": domain.name, "images": len(domain.of("tune"))} for domain in domains],
            "matrix": matrix,
            "transfer": transfer(served_rows(matrix, versions, store.base, entries, done)),
            "ledger": _ledger(entries, done),
            "adaptations": [_adaptation(one) for one in done],
            "stream": stream_summary(store.path),
            "releases": [
                {"created": entry["time"], **{key: entry[key] for key in ("version", "images", "top1", "per_domain")}}
                for entry in entries
                if entry["event"] == "release"
            ],
            "events": [event for event in map(_event, entries) if event],
        },
    )
    return path


def transfer(rows: Sequence[Sequence[float | None]]) -> dict[str, float | None]:
    """Forgetting, backward and forward transfer from the accuracies after each domain.

    With R[i][j] the accuracy on domain j of what was served after domain i (of T): backward is the mean of
    R[T-1][j] - R[j][j] over j < T-1, forward the mean of R[j-1][j] - R[0][j] over 1 < j, forgetting the mean of
    max_i R[i][j] - R[T-1][j] over j < T-1. None where there are too few domains.

    Source: Lopez-Paz and Ranzato, 2017, arXiv:1706.08840; Chaudhry et al., 2018, arXiv:1801.10112.
    """
    table = np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64)
    count = len(table)
    if count < 2:
        return {"forgetting": None, "backward": None, "forward": None}
    last, past = table[-1, :-1], np.arange(count - 1)
    later = np.arange(2, count)
    best = table[:-1, :-1].max(axis=0, where=np.tri(count - 1, dtype=bool), initial=-np.inf)
    return {
        "forgetting": _mean(best - last),
        "backward": _mean(last - table[past, past]),
        "forward": _mean(table[later - 1, later] - table[0, later]),
    }


def served_rows(
    matrix: Sequence[Sequence[float | None]],
    versions: Sequence[str],
    base: str,
    entries: Entries,
    done: Sequence[Adaptation],
) -> list[list[float | None]]:
    """Row i: accuracies on all domains of the version that was served after domain i."""
    domain_of = {one.record.candidate: one.record.domain for one in done}
    after = {0: base}
    for entry in entries:
        if entry["event"] == "promote" and entry["to"] in domain_of:
            after[domain_of[entry["to"]]] = entry["to"]
    rows, current = [], base
    for number in range(len(matrix[0]) if matrix else 0):
        current = after.get(number, current)
        rows.append(list(matrix[versions.index(current)]))
    return rows


def _accuracies(store: Store, domains: Sequence[Domain], device: torch.device) -> list[list[float | None]]:
    """(versions, domains); measured once and kept."""
    file = store.path / ACCURACIES_FILE
    known: dict[str, dict[str, float]] = read_json(file) if file.is_file() else {}
    for version in store.versions():
        rows = known.setdefault(version.id, {})
        missing = [d for d in domains if str(d.number) not in rows and d.can_judge(version.classes)]
        missing = [d for d in missing if len(d.of("tune"))]
        if missing:
            model = store.model(version.id)
            rows |= {str(d.number): evaluate_version(model, d.of("tune"), device).score for d in missing}
    write_json(file, known)
    return [[known[version.id].get(str(d.number)) for d in domains] for version in store.versions()]


def _versions(store: Store, entries: Entries) -> list[dict[str, Any]]:
    served_once = {entry["to"] for entry in entries if entry["event"] in ("promote", "rollback")}
    left = {entry["from"] for entry in entries if entry["event"] == "rollback"}

    def status(version: str) -> str:
        if version == store.head:
            return "served"
        if version == store.base:
            return "base"
        if version not in served_once:
            return REFUSED
        return "rolled back" if version in left else PROMOTED

    return [
        {
            "id": version.id,
            "parent": version.parent,
            "created": version.created,
            "update": version.made.get("update"),
            "changed_parameters": version.changed,
            "parameters": version.parameters,
            "delta_bytes": version.delta_bytes,
            "status": status(version.id),
        }
        for version in store.versions()
    ]


def _ledger(entries: Entries, done: Sequence[Adaptation]) -> list[dict[str, Any]]:
    number = {one.record.candidate: one.record.number for one in done}
    passed = {entry["attempt"]: entry["passed"] for entry in entries if entry["event"] == "verdict"}
    attempts = [entry for entry in entries if entry["event"] == "attempt"]
    return [
        {
            "attempt": entry["attempt"],
            "alpha": entry["alpha"],
            "spent": spent,
            "candidate": entry["candidate"],
            "adaptation": number.get(entry["candidate"]),
            "passed": passed.get(entry["attempt"]),
        }
        for entry, spent in zip(attempts, accumulate(entry["alpha"] for entry in attempts), strict=True)
    ]


def _adaptation(found: Adaptation) -> dict[str, Any]:
    document = {
        key: value for key, value in found.document.items() if key not in ("format", "kind", "domain", "options")
    }
    document["data"] = {key: value for key, value in document["data"].items() if key != "classes"}
    return {**document, "update": found.record.options.update}


def _event(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """An entry of the journal in words; None for one that says nothing new, such as the verdict before a promotion."""
    kind = "reject" if entry["event"] == "verdict" and not entry["passed"] else entry["event"]
    text = _TEXTS.get(kind)
    if text is None:
        return None
    version = entry.get("to") or entry.get("version") or entry.get("candidate")
    values = {**entry, "reasons": ", ".join(entry.get("reasons", []))}
    return {"time": entry["time"], "event": kind, "version": version, "text": text.format(**values)}


def _mean(values: np.ndarray) -> float | None:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else None


_TEXTS = {
    "create": "the store was made",
    "promote": "{to} is served instead of {from}",
    "rollback": "back to {to} from {from}",
    "reject": "the guard refused attempt {attempt}",
    "refuse": "{candidate} was refused before the guard was asked: {reason}",
    "drift": "the stream has drifted: {reasons}",
    "release": "{version} was measured on the final images",
}
