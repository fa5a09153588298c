"""One version of a store: where it came from, how it was made, and what it changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...backbones import backbone_info, noted_preprocessing
from ...config import to_dict
from ...costs import count_parameters
from ...errors import ConfigError, GraftError
from ...sealing import file_hash
from ...surgery import SavedModel, classes_of, fold_note, graft_plan, uncompiled
from ...surgery.delta import Delta, count_changed
from ...surgery.stored import STORE_FORMAT, StoredVersion
from ...timestamp import timestamp


@dataclass(frozen=True)
class Version:
    """A version as it is in the store.

    Attributes:
        id: 16 hex digits of the sha256 of all that follows, `number` and `created` aside: the same content has the
            same id.
        number: 0 for the base, then in the order in which they were added.
        parent: id of the version that it was made from; None for the base.
        created: ISO time, UTC.
        classes: names in the order of the logits.
        made: how, in the words of who made it.
        changed: how many parameters have another value than in the base; BatchNorm's statistics are none.
        parameters: how many there are.
        delta_bytes: size of the file that holds the difference from the base; 0 for the base.
        tensors: names of the tensors in it.
    """

    id: str
    number: int
    parent: str | None
    created: str
    classes: tuple[str, ...]
    made: Mapping[str, Any]
    changed: int
    parameters: int
    delta_bytes: int
    tensors: tuple[str, ...]

    @classmethod
    def read(cls, stored: StoredVersion) -> Version:
        """What the manifest says."""
        says = stored.manifest
        return cls(
            id=stored.id,
            number=int(says["number"]),
            parent=says["parent"],
            created=str(says["created"]),
            classes=stored.classes,
            made=dict(says["made"]),
            changed=int(says["changed"]),
            parameters=int(says["parameters"]),
            delta_bytes=int(says["delta"]["bytes"]) if says["delta"] else 0,
            tensors=tuple(says["tensors"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "classes": list(self.classes), "tensors": list(self.tensors)}


def base_manifest(model: nn.Module, *, base_sha256: str, made: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of version 0."""
    return {
        **_about(model, base_sha256, made),
        "number": 0,
        "parent": None,
        "logits": None,
        "changed": 0,
        "tensors": [],
        "delta": None,
    }


def delta_manifest(
    model: nn.Module,
    delta: Delta,
    file: Path,
    base: Mapping[str, Tensor],
    *,
    number: int,
    parent: str,
    base_sha256: str,
    made: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a version whose delta is in a file."""
    return {
        **_about(model, base_sha256, made),
        "number": number,
        "parent": parent,
        "logits": delta.logits,
        "changed": count_changed(model, delta, base),
        "tensors": sorted(delta.tensors),
        "delta": {"sha256": file_hash(file), "bytes": file.stat().st_size},
    }


def check_same_build(model: nn.Module, base: SavedModel) -> None:
    """Raise unless the model is built as the base: the same backbone with the same grafts.

    Raises:
        GraftError: it is not.
    """
    model = uncompiled(model)
    info = backbone_info(model)
    pairs = {
        "another backbone": (info and info.spec, base.backbone and base.backbone.spec),
        "other grafts": (graft_plan(model), base.plan),
        "other parts folded away": (fold_note(model), base.folded),
    }
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            raise GraftError(
                f"the model has {what} than the base of the store: a version can differ in values and in the number "
                "of classes; make another store for this model."
            )


def plain(values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The values as JSON has them.

    Raises:
        ConfigError: there is something among them that JSON does not have.
    """
    try:
        return json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what} takes JSON values only ({error}): convert them first.") from None


def _about(model: nn.Module, base_sha256: str, made: Mapping[str, Any]) -> dict[str, Any]:
    model = uncompiled(model)
    known = noted_preprocessing(model)
    return {
        "format": STORE_FORMAT,
        "kind": "version",
        "created": timestamp(),
        "base_sha256": base_sha256,
        "classes": list(classes_of(model)),
        "preprocessing": to_dict(known) if known else None,
        "made": plain(made, "made"),
        "parameters": count_parameters(model),
    }
