"""Names from files are text: on every page, and on the terminal."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_bench import document as bench_document
from fake_explanation import write_explanation
from fake_folders import write_comparison, write_single_run
from fake_search import search
from fake_store import write_history
from hypothesis import given
from hypothesis import strategies as st
from outing import CLASSES
from pages import assert_harmless
from rich.table import Table

from attngraft.errors import AttngraftError, DataError, one_line
from attngraft.reporting import write_report
from attngraft.terminal import SafeConsole, shown
from attngraft.training.progress import Bar

pytestmark = pytest.mark.draws
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}\x1b[31m\u202e\x00[/bold] $\\frac$"
# what is a word of the format rather than text from elsewhere
WORDS = re.compile(
    r"[a-z_0-9. -]*(json|safetensors|jpg|png)|[0-9T:+-]{10,}.*|[0-9a-f]{8,}|samples/.*|runs/.*|images/.*|maps/.*|trials/.*"
    r"|comparison|run|bench|explanation|iteration|store|finished|partial|running|searching|pruned|cut|failed|infeasible"
    r"|baseline|control|attention|helps|hurts|no evidence|one seed|none|met|not met|fp32|test|train|val|>=|<=|>|<"
)


def poisoned(value: Any, key: str = "") -> Any:
    """The document with EVIL behind every text that is not a word of the format; equal texts stay equal."""
    if isinstance(value, dict):
        return {name: poisoned(entry, name) for name, entry in value.items()}
    if isinstance(value, list):
        return [poisoned(entry, key) for entry in value]
    if isinstance(value, str) and not WORDS.fullmatch(value) and key not in STRUCTURE:
        return value + EVIL
    return value


STRUCTURE = {
    "kind",
    *("dtype", "interpolation", "layout", "method", "optimizer", "train"),  # of a few values
    "direction",
    "mode",
    "status",
    "verdict",
    "event",
    "slug",
    "role",
    "metric",
    "operator",
    "primary",
    "image",
    "file",
    "run",
}


def write_bench(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(bench_document().to_dict()))


def write_search(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "iterate.json").write_text(json.dumps(search()))


def write_small_comparison(folder: Path) -> None:
    write_comparison(folder, seeds=2, images=12, variants=("none", "cbam"), samples=1)


PAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "run": (lambda folder: write_single_run(folder, images=12, epochs=2), "run.json"),
    "comparison": (write_small_comparison, "comparison.json"),
    "bench": (write_bench, "bench.json"),
    "search": (write_search, "iterate.json"),
    "explanation": (write_explanation, "explanation.json"),
    "store": (write_history, "history.json"),
}


@pytest.mark.parametrize("name", PAGES)
def test_hostile_text_anywhere_in_a_document_is_text_on_its_page(tmp_path, name):
    write, file = PAGES[name]
    write(tmp_path)
    document = poisoned(json.loads((tmp_path / file).read_text()))
    count = json.dumps(document).count("alert(2)")
    assert count > 5, "the document is poisoned"
    (tmp_path / file).write_text(json.dumps(document))
    html = write_report(tmp_path).read_text(encoding="utf-8")
    page = assert_harmless(html)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e]", html)


def test_the_check_of_pages_finds_what_it_looks_for():
    for hostile in ("<script>x</script>", "<img src=http://x>", "<p onclick=x>", "<a href='javascript:x'>", "<iframe>"):
        with pytest.raises(AssertionError):
            assert_harmless(f"<p>{hostile}</p>")
    assert_harmless("<p title='&lt;script&gt;'>&lt;script&gt;</p><img src='data:image/png;base64,x'>")


def test_the_pages_of_a_real_run_show_hostile_names_as_text(outing):
    pages = {page.parent.name: page.read_text(encoding="utf-8") for page in outing.folder.rglob("*.html")}
    assert {"run", "cmp", "explanation"} <= pages.keys()
    for name, html in pages.items():
        text = assert_harmless(html).text
        assert "<script>alert(1)<" in text, name
        assert "<img src=x onerror=alert(2)>" in text, name
        assert "{{ 7*7 }}" in text, name
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", html.replace("\r", "")), name


# --- the terminal ----------------------------------------------------------------------------------------------------
STEERING = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"


def test_no_verb_sends_steering_characters_of_names_to_people(outing):
    for verb in ("fit", "compare", "explain", "report", "sites", "store"):
        assert outing.said[verb].strip(), verb
        assert not re.search(STEERING, outing.said[verb]), verb
    assert "[red]broken\\x1b[2J.png" in outing.said["fit"]


def test_what_is_for_programs_has_the_names_as_they_are(outing):
    assert "a\x1b]0;title\x07[" in outing.said["predict"]
    start = outing.said["predict json"]
    rows, _ = json.JSONDecoder().raw_decode(start)
    assert {top["class"] for row in rows for top in row["top"]} <= set(CLASSES)
    assert len(rows) == 24


def console_text(item: object) -> str:
    console = SafeConsole(file=io.StringIO(), width=200, highlight=False, markup=False, emoji=False)
    console.print(item)
    return console.file.getvalue()


def test_markup_in_names_stays_where_it_is():
    table = Table()
    table.add_column("[bold]name[/]")
    table.add_row("[red]x[/red] [/] :smile: [link=http://x]y")
    text = console_text(table)
    assert "[bold]name[/]" in text
    assert "[red]x[/red] [/] :smile: [link=http://x]y" in text
    assert "[/] [bold]" in console_text("[/] [bold]")


@given(st.text(max_size=60))
def test_any_text_reaches_the_terminal_without_steering_it(text):
    said = console_text(text)
    assert not re.search(STEERING, said)
    left = re.sub("[\x07\x08\x0b\x0c\r]", "", text)  # rich itself drops these
    assert "".join(shown(left).split()) == "".join(said.split())


@given(st.text(max_size=3000))
def test_any_error_is_one_line(text):
    said = str(DataError(text))
    assert said.isprintable()
    assert len(said) <= 10 * 2100
    assert one_line(said) == said or len(said) > 2000
    assert isinstance(DataError(text), AttngraftError)


def test_a_name_with_markup_does_not_break_the_progress_bar(capsys):
    bar = Bar()
    bar.start("run 1 of 2: cbam@[/]*[bold]", total=2)
    bar.note({"[/]": "[/x]"})
    bar.advance()
    bar.stop()
    assert "Markup" not in capsys.readouterr().err
