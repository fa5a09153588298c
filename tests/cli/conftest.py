from __future__ import annotations

import sys

import pytest

from attngraft.cli import main


@pytest.fixture
def columns() -> int:
    """Width of the terminal; a module that wants another one has a fixture of this name."""
    return 100


@pytest.fixture
def attngraft(monkeypatch, capsys, columns):
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attngraft", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", str(columns))
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call
