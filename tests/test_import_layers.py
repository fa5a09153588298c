"""The layers of the design, read from the import statements: each module uses only what lies below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import attngraft

ROOT = Path(attngraft.__file__).parent
PACKAGE = "attngraft"
LAYERS = {
    **dict.fromkeys(["errors", "registry", "config", "files", "locking", "connectivity", "environment", "costs"], 1),
    **dict.fromkeys(
        [
            "timestamp",
            "formats",
            "checksums",
            "safetensors_files",
            "statistics",
            "interrupts",
            "settings",
            "terminal",
            "whole_table",
            "option_names",
            "data_frames",
        ],
        1,
    ),
    **dict.fromkeys(["console_log", "answers", "inventory"], 1),
    "kernels": 2,
    **dict.fromkeys(["attention", "backbones", "data"], 3),
    "surgery": 4,
    "tasks": 5,
    "training": 6,
    **dict.fromkeys(["comparison", "deployment", "benchmarking"], 7),
    **dict.fromkeys(["explanation", "continual"], 8),
    "reporting": 9,
    "cli": 10,
    "testing": 10,
    "__init__": 11,
    "__main__": 11,
}
# Within `continual` the way of the data: a package imports from those of a lower number.
CONTINUAL = {"images": 1, "stream_log": 1, "guard": 1, "drift": 1, "search": 1, "adaptation": 2, "stream": 3}
# Within layer 1 the plain files build on each other: errors below all, then registry, config, ...
SHARED_LAYER = 1
PICKLING = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


class Source:
    """One module of the library: its dotted name and its syntax tree."""

    def __init__(self, name: str, text: str, modules: set[str]) -> None:
        self.name = name
        self.is_package = name in {module.rpartition(".")[0] for module in modules} or name == PACKAGE
        self.modules = modules
        self.tree = ast.parse(text)

    @property
    def unit(self) -> str:
        return unit_of(self.name)

    def imports(self) -> Iterator[str]:
        """Every module of this library that an import statement names, wherever it stands in the file."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
            elif isinstance(node, ast.ImportFrom):
                base = self.base_of(node)
                if base.split(".")[0] == PACKAGE:
                    for alias in node.names:  # `from . import x` means the module x where there is one
                        inner = f"{base}.{alias.name}"
                        yield inner if inner in self.modules else base

    def base_of(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        parts = self.name.split(".")
        parts = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])


def unit_of(name: str) -> str:
    """attngraft.surgery.plan -> surgery; the package itself -> __init__."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def layer_problems(source: Source) -> list[str]:
    if source.unit not in LAYERS:
        return [f"{source.name}: '{source.unit}' has no layer"]
    problems = []
    for target in source.imports():
        unit = unit_of(target)
        if unit == source.unit:
            continue
        own, other = LAYERS[source.unit], LAYERS.get(unit, 99)
        if other > own or (other == own and own != SHARED_LAYER):
            problems.append(f"{source.name} (layer {own}) imports {target} (layer {other})")
    return problems


def inner_problems(source: Source) -> list[str]:
    """The same among the packages of `continual`."""
    own = source.name.split(".")[2:3]
    if source.unit != "continual" or not own:
        return []
    others = {target: target.split(".")[2:3] for target in source.imports() if unit_of(target) == "continual"}
    return [
        f"{source.name} imports {target}"
        for target, other in others.items()
        if other and other != own and CONTINUAL.get(other[0], 99) >= CONTINUAL[own[0]]
    ]


def habit_problems(source: Source) -> list[str]:
    """Star imports, printing, pickles, and loading that could run code."""
    problems = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            problems.append("star import")
        if isinstance(node, (ast.Import, ast.ImportFrom)) and PICKLING & set(roots(node)):
            problems.append("pickle")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "print" and source.unit != "cli":
                problems.append("print")
            if called in {"torch.load", "load_state_dict_from_url"} and options.get("weights_only") != "True":
                problems.append(f"{called} without weights_only=True")
            if options.get("allow_pickle", "False") != "False":
                problems.append(f"{called} with allow_pickle")
    return [f"{source.name}: {problem}" for problem in problems]


def roots(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [] if node.level else [(node.module or "").split(".")[0]]
    return [alias.name.split(".")[0] for alias in node.names]


def cycles(sources: list[Source]) -> list[list[str]]:
    """Import cycles between modules. A package's __init__ that gathers its own modules is not one."""
    graph = {source.name: {target for target in source.imports() if target != source.name} for source in sources}
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


@cache
def library() -> list[Source]:
    files = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
    return [Source(name, path.read_text(encoding="utf-8"), set(files)) for name, path in files.items()]


def module_name(path: Path) -> str:
    parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("unit", LAYERS)
def test_each_module_imports_only_from_below_and_keeps_the_house_rules(unit):
    sources = [source for source in library() if source.unit == unit]
    assert sources
    for look in (layer_problems, inner_problems, habit_problems):
        assert [problem for source in sources for problem in look(source)] == []


def test_every_module_has_a_layer():
    assert {source.unit for source in library()} == set(LAYERS)


def test_there_are_no_import_cycles():
    assert cycles(library()) == []


def test_the_whole_library_is_read():
    names = {source.name for source in library()}
    assert {"attngraft", "attngraft.errors", "attngraft.surgery.plan", "attngraft.cli"} <= names
    (plan,) = (source for source in library() if source.name == "attngraft.surgery.plan")
    assert {"attngraft.attention", "attngraft.config", "attngraft.surgery.sites"} <= set(plan.imports())


MODULES = {
    "attngraft",
    "attngraft.errors",
    "attngraft.kernels",
    "attngraft.kernels.reference",
    "attngraft.surgery",
    "attngraft.surgery.plan",
    "attngraft.surgery.sites",
    "attngraft.training",
    "attngraft.backbones",
    "attngraft.backbones.create",
    "attngraft.data",
    "attngraft.data.folders",
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("attngraft.surgery.plan", "from ..training import fit"),
        ("attngraft.surgery.plan", "from attngraft.training import fit"),
        ("attngraft.surgery.plan", "import attngraft.training.trainer"),
        ("attngraft.surgery.plan", "def f():\n    from .. import training"),
        ("attngraft.surgery.plan", "from .. import __version__"),
        ("attngraft.surgery", "from ..training import fit"),
        ("attngraft.errors", "from .kernels import reference"),
        ("attngraft.backbones", "from ..data import load_data"),
        ("attngraft.data.folders", "from ..backbones.create import create_backbone"),
        ("attngraft.surgery.plan", "from ..newcomer import something"),
        ("attngraft.newcomer", "x = 1"),
    ],
)
def test_the_checker_sees_an_import_from_above_or_beside(name, text):
    assert len(layer_problems(Source(name, text, MODULES | {"attngraft.newcomer"}))) == 1


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("from ..stream.watch import watch", 1),
        ("from ..search.search_space import build_space", 1),
        ("from ..guard.guard import judge\nfrom .sites import Site\nfrom ...errors import DataError", 0),
    ],
)
def test_the_checker_sees_an_import_against_the_way_of_the_data(text, count):
    name = (
        "attngraft.continual.guard.alpha_spending"
        if count and "space" in text
        else "attngraft.continual.adaptation.adapt"
    )
    others = {f"attngraft.continual.{name}" for name in ("stream.watch", "search.search_space", "guard.guard")}
    assert len(inner_problems(Source(name, text, MODULES | others))) == count


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("attngraft.surgery.plan", "from ..errors import GraftError\nfrom .sites import Site\nimport torch"),
        ("attngraft.surgery.plan", "from .. import kernels"),
        ("attngraft", "from .training import fit\nfrom .surgery import plan_graft"),
        ("attngraft.errors", "from .registry import Registry"),
    ],
)
def test_the_checker_lets_imports_from_below_pass(name, text):
    assert layer_problems(Source(name, text, MODULES)) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("from .sites import *", "star import"),
        ("print('done')", "print"),
        ("def f():\n    import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import torch\ntorch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(path, allow_pickle=True)", "np.load with allow_pickle"),
    ],
)
def test_the_checker_sees_bad_habits(text, problem):
    found = habit_problems(Source("attngraft.surgery.plan", text, MODULES))
    assert found == [f"attngraft.surgery.plan: {problem}"]


def test_the_checker_lets_good_habits_pass():
    text = "torch.load(path, weights_only=True)\nself.print(1)\nnp.load(path, allow_pickle=False)"
    assert habit_problems(Source("attngraft.surgery.plan", text, MODULES)) == []
    assert habit_problems(Source("attngraft.cli.sites", "print('x')", MODULES)) == []


def test_the_checker_sees_cycles():
    texts = {
        "attngraft.surgery.plan": "from .sites import Site",
        "attngraft.surgery.sites": "def f():\n    from . import plan",
        "attngraft.surgery": "from .plan import GraftPlan",
    }
    found = cycles([Source(name, text, MODULES) for name, text in texts.items()])
    assert found == [["attngraft.surgery.plan", "attngraft.surgery.sites", "attngraft.surgery.plan"]]
    through_the_package = {
        "attngraft.surgery": "from .plan import GraftPlan",
        "attngraft.surgery.plan": "from . import load",
    }
    assert len(cycles([Source(name, text, MODULES) for name, text in through_the_package.items()])) == 1
