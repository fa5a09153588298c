"""Append-only JSON lines; those of a store are each chained to the one before by a hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...errors import ConfigError, RunError
from ...timestamp import timestamp

JOURNAL_FILE = "journal.jsonl"
CHAIN = ("seq", "time", "event", "previous")
BEGINNING = "0" * 64  # what the first line has as the sha256 of the line before
TORN_SUFFIX = ".torn"


class Journal:
    """An append-only file.

    Args:
        path: of the file.
        chained: number the lines and let each hold the digest of the line before, so that lost lines are noticed.
    """

    def __init__(self, path: Path, *, chained: bool = True) -> None:
        self.path, self.is_chained = path, chained

    def entries(self) -> list[dict[str, Any]]:
        """All entries, oldest first. The beginning of a line that is just being written is none.

        Raises:
            RunError: a line is damaged; of a chained one also where it is missing or empty, or a line was altered.
        """
        if not self.is_chained:
            return self._parsed(self._lines() if self.path.exists() else [])
        lines = self._lines()
        if not lines:
            raise RunError(f"{self.path} is empty: restore it from a copy.")
        return self._chained(lines)

    def append(self, event: str, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Add one entry; when this returns, it is on the disk. A failure leaves the file as it was.

        Args:
            event: what happened.
            fields: JSON values that say more.

        Raises:
            ConfigError: a field has a name that every line has, or is no JSON value.
            RunError: the disk is full, or a line was altered.
        """
        fields = dict(fields or {})
        taken = [name for name in fields if name in CHAIN]
        if taken:
            raise ConfigError(f"'{taken[0]}' is what every line of the journal has: choose another name.")
        self.recover()
        entry: dict[str, Any] = {"time": timestamp(), "event": event, **fields}
        if self.is_chained:
            lines = self._lines() if self.path.exists() else []
            entry = {"seq": len(self._chained(lines)), **entry, "previous": _digest(lines[-1]) if lines else BEGINNING}
        self._write(_line(entry))
        return json.loads(_line(entry))

    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def cut(self, size: int) -> None:
        """Take back what was appended to a file of this size.

        Raises:
            RunError: the file cannot be written.
        """
        try:
            handle = os.open(self.path, os.O_WRONLY | _BINARY)
            try:
                os.ftruncate(handle, size)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise self._unwritable(error) from error

    def recover(self) -> None:
        """Cut off a last line that was not written to its end; it is kept in journal.torn beside it.

        Raises:
            RunError: the disk is full.
        """
        content = self._read() if self.path.exists() else b""
        whole = _whole(content)
        if whole == len(content):
            return
        try:
            with self.path.with_suffix(TORN_SUFFIX).open("ab") as aside:
                aside.write(content[whole:] + b"\n")
        except OSError as error:
            raise self._unwritable(error) from error
        self.cut(whole)

    def _parsed(self, lines: list[bytes]) -> list[dict[str, Any]]:
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError):
                raise RunError(f"line {number} of {self.path} is damaged: restore it from a copy.") from None
        return found

    def _chained(self, lines: list[bytes]) -> list[dict[str, Any]]:
        """The entries of the lines, where each continues the one before."""
        found = []
        previous = BEGINNING
        for number, line in enumerate(lines):
            try:
                entry = json.loads(line)
                chained = entry["seq"] == number and entry["previous"] == previous and bool(entry["event"])
            except (ValueError, KeyError, TypeError, RecursionError):
                chained = False
            if not chained:
                raise RunError(
                    f"line {number + 1} of {self.path} does not continue the line before it: one of the two was "
                    "altered, or lines are missing; restore the file from a copy."
                )
            found.append(entry)
            previous = _digest(line)
        return found

    def _lines(self) -> list[bytes]:
        content = self._read()
        return content[: _whole(content)].split(b"\n")[:-1]

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise RunError(f"{self.path} cannot be read ({error.strerror or error}): restore it from a copy.") from None

    def _write(self, line: bytes) -> None:
        before = self.size() if self.path.exists() else 0
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _BINARY, 0o666)
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(handle, rest) :]
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            with suppress(RunError):  # where even this fails, the next writer finds a torn line or a whole one
                self.cut(before)
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(f"{self.path} cannot be written ({error.strerror or error}): free space and try again.")


def _line(entry: Mapping[str, Any]) -> bytes:
    """One line without line breaks inside.

    Raises:
        ConfigError: a value that JSON does not have.
    """
    try:
        return json.dumps(entry, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the journal takes JSON values only ({error}): convert them first.") from None


def _whole(content: bytes) -> int:
    """Bytes up to the end of the last line that was written to its end.

    A file that was extended before its bytes arrived, as after a power cut, ends in a line with zeros.
    """
    end = content.rfind(b"\n") + 1
    start = content.rfind(b"\n", 0, max(0, end - 1)) + 1
    return start if b"\0" in content[start:end] else end


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


_BINARY = getattr(os, "O_BINARY", 0)
