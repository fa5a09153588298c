"""`import attngraft` is light; every name is there all the same."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import attngraft

HEAVY = {"torch", "torchvision", "timm", "numpy", "scipy", "matplotlib", "jinja2", "sklearn", "tensorboard", "PIL"}


def modules_after(script: str) -> set[str]:
    """The top-level modules that a fresh process has imported after a script."""
    script += "\nimport sys\nprint()\nprint(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("module", ["attngraft", "attngraft.settings", "attngraft.interrupts", "attngraft.errors"])
def test_importing_the_plain_parts_imports_no_pytorch(module):
    assert not modules_after(f"import {module}") & HEAVY


def test_a_function_brings_what_it_needs_and_nothing_else():
    assert modules_after("from attngraft import create_attention") & HEAVY == {"torch", "numpy"}


def test_the_first_name_used_does_not_change_what_is_known():
    script = "import attngraft\nassert 'run' in attngraft.backbones.SOURCES\nfrom attngraft import create_backbone"
    assert "torch" in modules_after(script)


@pytest.mark.parametrize("package", sorted(attngraft._PACKAGES))
def test_every_package_can_be_imported_first(package):
    assert "attngraft" in modules_after(f"import attngraft.{package}\nfrom attngraft import {package}")


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
