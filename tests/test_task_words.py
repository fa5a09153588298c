"""Nothing above the tasks names a metric or a loss of classification, with a short list of exceptions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import attngraft

ROOT = Path(attngraft.__file__).parent
WORDS = re.compile(r"\btop1\b|argmax|cross_entropy|softmax")
BELOW = {"attention", "backbones", "data", "kernels", "statistics", "surgery", "tasks"}
# file or folder -> why it may
EXCEPTIONS = {
    "explanation": "explains classifiers: other tasks are refused (supports 'explain' and 'fold')",
    "continual/adaptation": "adapts classifiers (supports 'store')",
    "continual/drift": "tests class probabilities for drift (supports 'store')",
    "continual/stream": "watches classifiers (supports 'store')",
    "continual/search/requirement.py": "gives an example in its errors",
    "cli/compare.py": "lists metrics in its help",
    "cli/iterate.py": "gives an example in its help",
    "cli/runs.py": "gives an example in its errors",
    "inventory.py": "shows the metrics of all tasks without importing them, which would take PyTorch",
    "cli/store.py": "shows the releases of classifiers",
    "reporting/store_page.py": "shows stores of classifiers",
    "reporting/explanation_page.py": "shows explanations of classifiers",
    "reporting/read_folder.py": "counts confusions of classes",
    "reporting/schema.py": "knows the documents of stores of classifiers",
    "reporting/iterate_page.py": "searches of version 0.1.0 do not say their metric",
    "continual/search/search_record.py": "searches of version 0.1.0 do not say their metric",
    "training/distillation.py": "teaches class probabilities (supports 'teacher')",
    "training/fit.py": "FitResult.top1, the accuracy by its usual name",
    "benchmarking/timed_steps.py": "times ImageNet classifiers",
}
FILES = [
    path.relative_to(ROOT).as_posix()
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] not in BELOW
]


def reason(name: str) -> str | None:
    return next((why for place, why in EXCEPTIONS.items() if name == place or name.startswith(f"{place}/")), None)


def code(text: str) -> str:
    """Without docstrings and comments, which may give examples."""
    return re.sub(r"#.*", "", re.sub(r'"""(?:.|\n)*?"""', "", text))


@pytest.mark.parametrize("name", [name for name in FILES if reason(name) is None])
def test_no_metric_is_named_above_the_tasks(name: str) -> None:
    assert WORDS.findall(code((ROOT / name).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("place", EXCEPTIONS)
def test_exceptions_are_needed(place: str) -> None:
    files = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    assert any(WORDS.search(path.read_text(encoding="utf-8")) for path in files if path.is_file())


def test_the_check_sees_a_metric() -> None:
    assert WORDS.findall(code("accuracy = logits.argmax(1)")) == ["argmax"]
    assert WORDS.findall(code('"""top1"""\nx = 1  # argmax')) == []
