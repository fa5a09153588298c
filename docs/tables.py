"""Write what is generated from the registry: the tables of attentions in the documentation and in the package.

Run it with `make docs`; a test fails where a table in the files is not the one that this script makes.
"""

from __future__ import annotations

import re
from pathlib import Path

from attngraft.cli.attentions import CHANNELS, PACKAGED, SIZE, attention_rows
from attngraft.files import to_json

ROOT = Path(__file__).resolve().parent.parent
FILES = ("README.md", "docs/attention.md")
PACKAGE_TABLE = ROOT / "src/attngraft/cli" / PACKAGED


def attention_table() -> str:
    """The table of attentions in Markdown."""
    lines = ["| name | what it does | parameters | MACs | source |\n|---|---|---:|---:|---|"]
    for row in attention_rows(CHANNELS, SIZE):
        paper = row["source"].partition(";")[0]
        source = "" if row["control"] else re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)
        lines.append(f"| `{row['name']}` | {row['summary']} | {row['parameters']:,} | {row['macs']:,} | {source} |")
    return "\n".join(lines)


def option_table() -> str:
    """The options of every attention in Markdown."""
    lines = ["| name | options with their defaults | code that the paper form reproduces |\n|---|---|---|"]
    for row in attention_rows(CHANNELS, SIZE):
        options = ", ".join(f"`{key}={_plain(value)}`" for key, value in row["options"].items()) or "none"
        code = row["source"].partition(";")[2].strip()
        lines.append(f"| `{row['name']}` | {options} | {code} |")
    return "\n".join(lines)


def package_table() -> str:
    """The rows that `attngraft attentions` prints without importing PyTorch."""
    return to_json(attention_rows(CHANNELS, SIZE))


def with_tables(text: str) -> str:
    """The text with each generated part between its markers replaced."""
    for name, make in (("attentions", attention_table), ("options", option_table)):
        start, end = f"<!-- {name}: made by docs/tables.py -->", f"<!-- end of {name} -->"
        if start in text:
            before, _, rest = text.partition(start)
            text = f"{before}{start}\n{make()}\n{end}{rest.partition(end)[2]}"
    return text


def _plain(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


if __name__ == "__main__":
    PACKAGE_TABLE.write_text(package_table(), encoding="utf-8")
    for name in FILES:
        path = ROOT / name
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
