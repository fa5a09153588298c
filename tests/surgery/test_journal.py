"""The journal is append-only, chained and flushed; a torn last line is none, an altered one is named."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngraft.errors import ConfigError, RunError
from attngraft.surgery.version_store.journal import Journal

EVENTS = ("create", "attempt", "verdict", "promote")


@pytest.fixture
def journal(tmp_path):
    found = Journal(tmp_path / "journal.jsonl")
    for number, event in enumerate(EVENTS):
        found.append(event, {"number": number, "name": "Käfer\n<b>"})
    return found


def events(journal):
    return [entry["event"] for entry in journal.entries()]


def test_each_line_holds_the_digest_of_the_one_before(journal):
    lines = journal.path.read_bytes().splitlines()
    assert len(lines) == len(EVENTS)
    previous = "0" * 64
    for number, line in enumerate(lines):
        entry = json.loads(line)
        assert (entry["seq"], entry["event"], entry["number"]) == (number, EVENTS[number], number)
        assert entry["name"] == "Käfer\n<b>"
        assert entry["time"].endswith("+00:00")
        assert entry["previous"] == previous
        previous = hashlib.sha256(line).hexdigest()
    assert journal.entries() == [json.loads(line) for line in lines]


def test_what_was_appended_is_returned(journal):
    entry = journal.append("drift", {"reasons": ("a", "b")})
    assert entry == journal.entries()[-1]
    assert entry["reasons"] == ["a", "b"]


@pytest.mark.parametrize("line", range(len(EVENTS) - 1))
def test_an_altered_line_is_named(journal, line):
    lines = journal.path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"number":', b'"number": ')  # the same JSON
    journal.path.write_bytes(b"".join(lines))
    with pytest.raises(RunError, match=rf"line {line + 2} of .*journal\.jsonl does not continue the line before it"):
        journal.entries()
    before = journal.path.read_bytes()
    with pytest.raises(RunError, match="does not continue"):
        journal.append("promote")
    assert journal.path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[1:],
        lambda lines: lines[:1] + lines[2:],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines, b"{}\n"],
        lambda lines: [*lines, b"3\n"],
        lambda lines: [*lines, b"no JSON\n"],
        lambda lines: [*lines, b"[" * 100_000 + b"\n"],
        lambda lines: [*lines, b"\xff\n"],
    ],
)
def test_lines_that_are_missing_moved_or_foreign_are_seen(journal, change):
    journal.path.write_bytes(b"".join(change(journal.path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(RunError, match=r"line \d of .* restore the file from a copy\.$"):
        journal.entries()


@given(data=st.data())
def test_cut_anywhere_the_whole_lines_are_left_and_it_goes_on(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "journal.jsonl"
    journal = Journal(path)
    for event in EVENTS:
        journal.append(event)
    content = path.read_bytes()
    kept = data.draw(st.integers(min_value=content.index(b"\n") + 1, max_value=len(content)))
    zeros = data.draw(st.integers(min_value=0, max_value=3))  # a file may have grown before its bytes arrived
    path.write_bytes(content[:kept] + b"\0" * zeros)
    whole = content[:kept].count(b"\n")
    assert events(journal) == list(EVENTS[:whole])
    journal.append("drift")
    assert events(journal) == [*EVENTS[:whole], "drift"]
    torn = content[content[:kept].rfind(b"\n") + 1 : kept] + b"\0" * zeros
    aside = path.with_name("journal.torn")
    assert (aside.read_bytes() if aside.exists() else b"") == (torn + b"\n" if torn else b"")


def test_a_last_line_of_zeros_is_torn_and_zeros_before_it_are_damage(journal):
    content = journal.path.read_bytes()
    last = content.rfind(b"\n", 0, -1) + 1
    journal.path.write_bytes(content[:last] + b"\0" * 20 + content[last + 20 :])
    assert events(journal) == list(EVENTS[:-1])
    journal.path.write_bytes(content[:20] + b"\0" * 20 + content[40:])
    with pytest.raises(RunError, match="line 1 of"):
        journal.entries()


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_full_disk_leaves_the_journal_as_it_was(journal, monkeypatch, step):
    before = journal.path.read_bytes()
    real = getattr(os, step)
    calls = []

    def full(handle, *rest):
        calls.append(step)
        if step == "write" and len(calls) == 1:
            return real(handle, rest[0][:7])  # the beginning still fits
        if len(calls) > 2:  # taking it back needs no space
            return real(handle, *rest)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    if step == "fsync":
        calls.append("the cut flushes as well")
    with pytest.raises(RunError, match=r"journal\.jsonl cannot be written \(No space left on device\): free space"):
        journal.append("drift")
    monkeypatch.undo()
    assert journal.path.read_bytes() == before
    journal.append("drift")
    assert events(journal)[-1] == "drift"


def test_what_was_appended_can_be_taken_back(journal):
    size = journal.size()
    journal.append("promote")
    journal.cut(size)
    assert events(journal) == list(EVENTS)


@pytest.mark.parametrize("name", ["seq", "time", "event", "previous"])
def test_names_that_every_line_has_are_taken(journal, name):
    with pytest.raises(ConfigError, match=f"'{name}' is what every line of the journal has"):
        journal.append("drift", {name: 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32(1), {1, 2}, object()])
def test_only_json_values_are_taken(journal, value):
    with pytest.raises(ConfigError, match="the journal takes JSON values only"):
        journal.append("drift", {"value": value})
    assert events(journal) == list(EVENTS)


def test_a_journal_that_is_missing_or_empty_is_refused(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(RunError, match=r"cannot be read \(No such file or directory\): restore it from a copy"):
        journal.entries()
    journal.path.write_bytes(b"")
    with pytest.raises(RunError, match="is empty: restore it from a copy"):
        journal.entries()
