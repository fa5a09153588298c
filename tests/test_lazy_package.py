"""`import attngraft` is light; every name is there all the same."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import attngraft

HEAVY = {"torch", "torchvision", "timm", "numpy", "scipy", "matplotlib", "jinja2", "sklearn", "tensorboard", "PIL"}


def loaded_after(*scripts: str, first: str = "") -> list[set[str]]:
    """The top-level modules that are there after each of some scripts, each in a fork of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", FORKS, first, *scripts], capture_output=True, text=True, check=True)
    loaded = [set(line.split()) for line in done.stdout.splitlines()]
    assert len(loaded) == len(scripts), done.stderr
    return loaded


FORKS = """
import os, sys
exec(sys.argv[1])
for script in sys.argv[2:]:
    if os.fork() == 0:
        exec(script)
        print(*{name.partition(".")[0] for name in sys.modules}, flush=True)
        os._exit(0)
    os.wait()
"""


def test_importing_the_plain_parts_imports_no_pytorch():
    plain = ["attngraft", "attngraft.settings", "attngraft.interrupts", "attngraft.errors"]
    for loaded in loaded_after(*(f"import {module}" for module in plain)):
        assert not loaded & HEAVY


def test_a_function_brings_what_it_needs_and_nothing_else():
    functions = ["create_attention", "create_backbone"]
    for loaded in loaded_after(*(f"from attngraft import {name}" for name in functions), first="import torch"):
        assert loaded & HEAVY == {"torch", "numpy"}


def test_every_package_can_be_imported_first():
    packages = sorted(attngraft._PACKAGES)
    scripts = [f"import attngraft.{package}\nfrom attngraft import {package}" for package in packages]
    scripts.append(
        "import attngraft\nassert 'run' in attngraft.backbones.SOURCES\nfrom attngraft import create_backbone"
    )
    heavy = "import torch, torchvision, timm, scipy.stats\nassert 'attngraft' not in sys.modules"
    assert all("attngraft" in loaded for loaded in loaded_after(*scripts, first=heavy))


def test_every_name_of_the_face_can_be_had():
    for name in dir(attngraft):
        assert getattr(attngraft, name) is not None
    assert set(attngraft.__all__) <= set(dir(attngraft))
    assert attngraft.report is attngraft.reporting.write_report
    with pytest.raises(AttributeError, match="'attngraft' has no attribute 'graff'"):
        _ = attngraft.graff


def test_type_checkers_and_programs_see_the_same_names():
    tree = ast.parse(Path(attngraft.__file__).read_text(encoding="utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If)).body
    imported = {
        alias.asname or alias.name for node in typed if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == set(attngraft._LAZY) - set(attngraft._PACKAGES)
    assert set(attngraft.__all__) <= imported | {"AttngraftError"}
