"""The blocks of code of a page, and what runs them one after the other as a reader would."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUN = ("sh", "console", "python")
SHOWN = ("text", "toml", "csv")
NO = 1  # the answer of `power`, `iterate` and others is no; a mistake is 2
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: what stands behind the fence.
        text: what is in it.
        line: where it begins in the page.
        why_not: why it cannot run in the tests, from a comment `<!-- not run: REASON -->` above it.
    """

    language: str
    text: str
    line: int
    why_not: str | None = None

    @property
    def runs(self) -> bool:
        return self.language in RUN and self.why_not is None


@dataclass(frozen=True)
class Command:
    """A command line, and what the page shows of its output."""

    line: str
    shown: str = ""


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["text"], text.count("\n", 0, found.start("language")) + 1, found["why"])
        for found in FENCE.finditer(text)
    ]


def commands(block: Block) -> list[Command]:
    """The commands of a block of `sh`, or those behind `$` in one of `console`; what is below these is their output."""
    if block.language == "console":
        parts = re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.MULTILINE)[1:]
        return [Command(line, shown) for line, _, shown in (part.partition("\n") for part in parts)]
    if "<<" in block.text:
        return [Command(block.text)]
    lines = (line.strip() for line in block.text.replace("\\\n", " ").splitlines())
    return [Command(line) for line in lines if line and not line.startswith("#")]


def words(command: Command) -> list[str] | None:
    """What is behind `attngraft`; None for programs of others."""
    first, *rest = shlex.split(command.line, comments=True)
    return rest if first == "attngraft" and "|" not in rest and ">" not in rest else None


def kinds(output: str) -> set[tuple[str, ...]]:
    """What an output is made of, whatever its numbers say: the columns of its tables, and how its sentences begin."""
    found, above, in_table = set(), "", False
    for line in output.splitlines():
        if re.fullmatch(r"\s*─{5,}\s*", line):  # the header of a table is above, its rows are below
            found.discard(kind_of(above))
            found.add(tuple(re.split(r"\s{2,}", above.strip())))
            in_table = True
        elif not line.strip():
            in_table = False
        elif not in_table:
            found.add(kind_of(line))
        above = line
    return found - {()}


def kind_of(line: str) -> tuple[str, ...]:
    line = line.strip()
    if "┃" in line:
        return tuple(cell.strip() for cell in line.strip("┃").split("┃"))
    if "│" in line:
        return ("row", str(line.count("│") - 1))
    if not re.search(r"[A-Za-z]", line):
        return ()
    plain = [word for word in line.split() if not re.search(r"[\d…]", word)][:2]
    return tuple(plain[:1] if plain and plain[0].endswith(":") else plain)


@dataclass
class Reader:
    """Who follows a page: types its command lines and its Python, in one folder.

    Attributes:
        attngraft: runs our command line: (exit code, output, messages).
        names: what the Python of the page has defined so far.
    """

    attngraft: Callable[..., tuple[int, str, str]]
    names: dict[str, Any] = field(default_factory=dict)

    def follow(self, page: Path) -> None:
        for block in blocks(page):
            if block.runs:
                self.run(block, f"{page.name}:{block.line}")

    def run(self, block: Block, place: str) -> None:
        if block.language == "python":
            # line numbers of a traceback are those of the page
            exec(compile("\n" * block.line + block.text, place.rpartition(":")[0], "exec"), self.names)
            return
        for command in commands(block):
            code, output = self.call(command)
            allowed = (130,) if "until Ctrl-C" in command.line else (0, NO)
            assert code in allowed, f"{place}: {command.line}\nends with {code}:\n{output}"
            missing = kinds(command.shown) - kinds(output)
            assert not missing, f"{place}: {command.line}\nshows {sorted(missing)}, but prints:\n{output}"

    def call(self, command: Command) -> tuple[int, str]:
        ours = words(command)
        if ours is not None:
            code, output, messages = self.attngraft(*ours)
            return code, output + messages
        done = subprocess.run(["bash", "-ec", command.line], capture_output=True, text=True, timeout=600)
        return done.returncode, done.stdout + done.stderr


def programs(path: str) -> str:
    """A search path on which `python` is the one that runs the tests."""
    return f"{Path(sys.executable).parent}:{path}"
