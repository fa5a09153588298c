"""Write the generated parts of the documentation: the table of attentions.

Run it with `make docs`; a test fails where a table in the files is not the one that this script makes.
"""

from __future__ import annotations

import re
from pathlib import Path

from attngraft.cli.attentions import attention_rows

ROOT = Path(__file__).resolve().parent.parent
FILES = ("README.md", "docs/attention.md")
CHANNELS, SIZE = 256, 14


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
    for name in FILES:
        path = ROOT / name
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
