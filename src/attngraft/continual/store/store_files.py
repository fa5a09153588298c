"""Write the folder of a store, and the folder of a version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ...environment import versions as library_versions
from ...files import install_folder, write_json, write_text
from ...sealing import file_hash
from ...surgery import save
from ...surgery.stored import (
    BASE_FOLDER,
    HEAD_FILE,
    MANIFEST_FILE,
    STORE_FILE,
    STORE_FORMAT,
    VERSIONS_FOLDER,
    id_of,
    version_folder,
)
from .journal import JOURNAL_FILE, Journal
from .version import base_manifest

NEW_VERSION = ".new.part"


def build_store(folder: Path, model: nn.Module, settings: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    """Write all files of a new store into a folder that nobody looks at yet."""
    base_sha256 = file_hash(save(model, folder / BASE_FOLDER))
    manifest = base_manifest(model, base_sha256=base_sha256, made=made)
    base = id_of(manifest)
    install_version(folder, manifest)
    write_json(
        folder / STORE_FILE,
        {
            "format": STORE_FORMAT,
            "kind": "store",
            "created": manifest["created"],
            "base": base,
            "base_sha256": base_sha256,
            "classes": manifest["classes"],
            "settings": dict(settings),
            "versions": library_versions(),
        },
    )
    Journal(folder / JOURNAL_FILE).append("create", {"version": base})
    write_text(folder / HEAD_FILE, f"{base}\n")


def install_version(store: Path, manifest: dict[str, Any]) -> None:
    """Complete the folder of a new version with its manifest and give it its name."""
    part = store / VERSIONS_FOLDER / NEW_VERSION
    write_json(part / MANIFEST_FILE, manifest)
    install_folder(part, version_folder(store, id_of(manifest)))
