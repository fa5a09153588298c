"""What the command line imports before it has to: nothing heavy. Seconds are in benchmarks/README.md."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from attngraft.attention import ATTENTIONS
from attngraft.cli import VERBS
from attngraft.cli.attentions import PACKAGED, attention_rows

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torchvision", "timm", "numpy", "scipy", "matplotlib", "PIL", "jinja2", "optuna", "numba")
CALLS = """
import sys
from attngraft.__main__ import main
for arguments in {calls}:
    sys.argv = ["attngraft", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, arguments
    loaded = [name for name in {heavy} if name in sys.modules]
    assert not loaded, (arguments, loaded)
"""


def fresh(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_help_and_the_table_of_attentions_need_no_pytorch():
    calls = [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)]
    calls += [["attentions"], ["attentions", "--json"], ["attentions", "cbam"]]
    done = fresh(CALLS.format(calls=calls, heavy=HEAVY))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == 1 + len(VERBS)


def test_a_mistake_in_the_command_line_needs_no_pytorch():
    script = "import sys\nfrom attngraft.__main__ import main\nsys.argv = ['attngraft', 'fit', '--sed', '1']\n"
    done = fresh(script + "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules")
    assert done.returncode == 2
    assert "--seed" in done.stderr


def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs/tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_packaged_table_is_current():
    packaged = (ROOT / "src/attngraft/cli" / PACKAGED).read_text(encoding="utf-8")
    assert packaged == tables().package_table(), "run make docs"


def test_the_packaged_table_says_what_the_attentions_say(attngraft):
    done = fresh(
        "import sys\nfrom attngraft.__main__ import main\nsys.argv = ['attngraft', 'attentions', '--json']\nmain()"
    )
    assert json.loads(done.stdout) == json.loads(attngraft("attentions", "--json")[1])
    assert {row["name"] for row in json.loads(done.stdout)} == set(ATTENTIONS)


def test_costs_of_another_map_are_computed(attngraft):
    rows = json.loads(attngraft("attentions", "se", "--channels", 64, "--size", 7, "--json")[1])
    assert rows == [row for row in attention_rows(64, 7) if row["name"] == "se"]


def test_an_attention_that_a_program_registered_is_listed(attngraft, monkeypatch):
    monkeypatch.setitem(ATTENTIONS._entries, "mine", replace(ATTENTIONS["se"], name="mine", summary="does nothing"))
    code, out, _ = attngraft("attentions", "mine")
    assert code == 0
    assert "does nothing" in out


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from attngraft.__main__ import main
sys.argv = ["attngraft", "sites", "small-cnn"]
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("attngraft.cli", "interrupted: nothing was begun."),
        ("torch", "interrupted: the same command begins again."),
    ],
)
def test_ctrl_c_during_imports_is_one_sentence(module, sentence):
    done = fresh(INTERRUPTED.format(module=module))
    assert done.returncode == 130
    assert done.stderr.strip() == sentence
