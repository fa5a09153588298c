"""Follow a page in a new folder and put what its commands print into its `console` blocks:

python tests/helpers/rewrite_page.py docs/first-day.md FOLDER
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from page_blocks import Block, blocks, commands, programs


def printed(line: str, folder: Path) -> str:
    """What a command prints, without its messages."""
    surroundings = {**os.environ, "COLUMNS": "400", "PATH": programs(os.environ["PATH"])}
    done = subprocess.run(["bash", "-ec", line], cwd=folder, env=surroundings, stdout=subprocess.PIPE, text=True)
    print(f"{line}\n  ended with {done.returncode}", file=sys.stderr)
    return done.stdout.rstrip()


def rewritten(block: Block, folder: Path) -> str:
    """The block with the output that its commands have now."""
    if block.language == "python":
        printed(f"python - <<'THIS'\n{block.text}THIS", folder)
        return block.text
    if block.language == "sh":
        for command in commands(block):
            printed(command.line, folder)
        return block.text
    parts = []
    for asked in block.text.replace("\\\n", "\\\0").splitlines():
        if asked.startswith("$ "):
            line = asked[2:].replace("\0", "\n")
            parts.append(f"$ {line}\n{printed(line, folder)}".rstrip() + "\n")
    return "".join(parts)


def rewrite(page: Path, folder: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        if block.runs:
            text = text.replace(
                f"```{block.language}\n{block.text}```", f"```{block.language}\n{rewritten(block, folder)}```", 1
            )
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.mkdir(parents=True)
    rewrite(Path(sys.argv[1]), target)
