"""The documentation says what the code does: generated tables are current, links lead somewhere, options exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import typer
from page_blocks import blocks, commands, words

import attngraft as ag
from attngraft.attention import ATTENTIONS
from attngraft.backbones import SOURCES as BACKBONES
from attngraft.cli import VERBS, app
from attngraft.data.sources import SOURCES
from attngraft.tasks import TASKS
from attngraft.training import RunFolder, load_recipe
from test_import_layers import LAYERS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


MOST_COLUMNS = 120
RETIRED = (
    "pictures?", "spoilt", "sittings?", "likeness", "dear", "lessons?", "workshops?", "deeds?", "so-manieth", "cards?"
)  # fmt: skip


def prose(text: str) -> str:
    """A page without its blocks of code and without comments."""
    return re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.DOTALL | re.MULTILINE)


def paragraphs(text: str) -> list[list[str]]:
    """The lines of every paragraph: what is no heading, list, quotation or table."""
    blocks = [block.strip("\n").split("\n") for block in re.split(r"\n\s*\n", prose(text))]
    return [lines for lines in blocks if lines[0] and not re.match(r"[#|>]|\s*(-|\d+\.)\s", lines[0])]


def anchors(text: str) -> set[str]:
    """The names by which the headings of a page are linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs/tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", tables().FILES)
def test_generated_tables_are_current(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == tables().with_tables(text), "run make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_sections_lead_to_headings(page):
    for target, section in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        found = page.parent / target if target else page
        assert section in anchors(found.read_text(encoding="utf-8")), f"{target}#{section}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paragraphs_are_short(page):
    for paragraph in paragraphs(page.read_text(encoding="utf-8")):
        assert len(paragraph) <= 6, " ".join(paragraph)
        assert max(map(len, paragraph)) <= MOST_COLUMNS or any("](" in line for line in paragraph), paragraph


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_use_the_words_of_the_field(page):
    text = re.sub(r"`[^`\n]*`", "", prose(page.read_text(encoding="utf-8")))
    assert not re.findall(rf"\b(?:{'|'.join(RETIRED)})\b", text, re.IGNORECASE)


def test_every_verb_has_a_page():
    assert all((ROOT / f"docs/{verb}.md").is_file() for verb in VERBS)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"](docs/{verb}.md) |" in readme for verb in VERBS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_two_sections_of_a_page_begin_alike(page):
    """A section that was rewritten and kept is there twice."""
    text = page.read_text(encoding="utf-8")
    openings = [" ".join(part.split()[:8]) for part in re.split(r"^## .*\n", text, flags=re.MULTILINE)[1:]]
    assert len(set(openings)) == len(openings)


@pytest.mark.parametrize("verb", VERBS)
def test_a_page_says_what_the_verb_is_for_shows_an_example_and_lists_the_options(verb):
    text = (ROOT / f"docs/{verb}.md").read_text(encoding="utf-8")
    title, purpose, *_ = text.split("\n\n")
    assert title == f"# attngraft {verb}"
    assert re.match(r"[A-Z]", purpose)
    assert f"attngraft {verb}" in text.partition("```")[2].partition("```")[0]
    assert "\n| option |" in text


def test_every_option_of_a_verb_is_on_its_page():
    everywhere = (ROOT / "docs/fit.md").read_text(encoding="utf-8")  # other pages refer to it
    commands: dict[str, Any] = typer.main.get_command(app).commands
    for verb in VERBS:
        text = (ROOT / f"docs/{verb}.md").read_text(encoding="utf-8") + everywhere
        for parameter in commands[verb].params:
            options = [option for option in parameter.opts if option.startswith("--")]
            assert not options or any(option in text for option in options), (verb, options)


def command_lines(page: Path) -> list[list[str]]:
    """The words of every command line of ours, of those too that do not run in the default tests."""
    found = [command for block in blocks(page) if block.language in ("sh", "console") for command in commands(block)]
    return [given for command in found if (given := words(command))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_have_verbs_options_and_values_that_exist(page):
    command: Any = typer.main.get_command(app)
    for given in command_lines(page):
        place = next(i for i, word in enumerate(given) if word in VERBS)
        command.make_context("attngraft", [*given[:place], "sites"])
        verb = given[place]
        command.commands[verb].make_context(verb, given[place + 1 :])


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_demo_has_options_and_recipes_that_exist_and_is_what_readme_shows():
    plan = subprocess.run(["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    verb: Any = typer.main.get_command(app).commands["compare"]  # type: ignore[attr-defined]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("<!-- demo -->")[2].partition("<!-- end of demo -->")[0]
    lines = re.findall(r"^\S*attngraft compare (.+)$", plan.replace("\\\n", " "), re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        given = verb.make_context("compare", shlex.split(line)).params
        load_recipe(ROOT / given["recipe"] if given["recipe"].endswith(".toml") else given["recipe"])
        assert all(text in shown for text in (given["backbone"], f"{given['run_dir']}/report.html"))
        assert all(
            re.search(rf"^ {re.escape(name.partition(':')[0])}", shown, re.MULTILINE)
            for name in ("none", *given["attention"].split(","))
        )


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.+)$", text, re.MULTILINE)[1] == ag.__version__


def test_every_page_is_in_the_site():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f": {page.name}\n" in text for page in PAGES if page.name != "README.md")


def test_the_layers_of_the_design_are_those_that_are_kept():
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    table = text.partition("<!-- layers")[2].partition("<!-- end of layers")[0]
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", table, re.MULTILINE)
    written = {name: int(layer) for layer, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert written == {name: layer for name, layer in LAYERS.items() if not name.startswith("__")}


def test_paths_in_the_design_exist():
    text = prose((ROOT / "docs/design.md").read_text(encoding="utf-8"))
    paths = [path for path in re.findall(r"`([\w/.]+)`", text) if path.endswith((".py", "/"))]
    assert len(paths) > 10
    for path in paths:
        assert any((root / path).exists() for root in (ROOT, ROOT / "src/attngraft")), path


def test_the_changelog_and_the_licence_are_there():
    assert "Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "MIT" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_examples_are_valid_recipes():
    recipes = sorted((ROOT / "examples").glob("*.toml"))
    assert recipes
    for path in recipes:
        assert load_recipe(path).epochs >= 1


def test_recipes_in_the_documentation_are_valid(tmp_path):
    found = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/fit.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    for number, text in enumerate(found):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        assert load_recipe(path).epochs >= 1


def test_the_examples_for_contributors_run(tmp_path, monkeypatch):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 4
    module = types.ModuleType("contributed")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where type hints are looked up
    try:
        for block in blocks:
            exec(compile(block, "CONTRIBUTING.md", "exec"), module.__dict__)
        grown = ag.graft(ag.create_backbone("small-cnn", num_classes=3), "mean-gate")
        assert len(ag.grafts(grown)) == 3
        model = ag.create_backbone("mine:tiny", num_classes=2, pretrained=False)
        trained = ag.fit(
            model, "stripes", recipe="one-cycle", epochs=1, precision="fp32", run_dir=tmp_path, task="ordinal"
        )
        assert next(iter(trained.evaluation.summary())) == "distance"
        assert RunFolder(tmp_path).read().backbone == "mine:tiny"
    finally:
        BACKBONES._entries.pop("mine", None)
        SOURCES._entries.pop("stripes", None)
        ATTENTIONS._entries.pop("mean-gate", None)
        TASKS._entries.pop("ordinal", None)
