"""What a finished command said, kept beside its record, so that the same command again answers at once.

An answer holds for the same question only: the same settings, and files with the sizes and times that they had when they
were read. Where anything differs nothing is said, and the command runs as if there were no answer: it compares settings
and pixels, and refuses what does not belong together.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .checksums import read_sealed_json, write_sealed_json
from .errors import RunError, counted
from .files import to_json
from .formats import own_version
from .locking import LOCK_FILE

ANSWER_FILE = "answer.json"
PAGE = "report.html"
LIBRARIES = ("timm", "torchvision")  # whose networks are theirs: the release is in the record
MADE_HERE = ("cluttered-digits",)  # built-in data that come from no file
UNSTAMPED = (ANSWER_FILE, LOCK_FILE, PAGE, "comparison.", "combined.", ".")  # beginnings of names that come and go
RECORDS = ("run.json", "comparison.json", "combined.json", "iterate.json")


@dataclass(frozen=True)
class Stamp:
    """Names, sizes and times of the files at some places.

    Attributes:
        files: how many there are.
        digest: of their names, sizes, and times of change.
    """

    files: int
    digest: str

    @classmethod
    def of(cls, places: Iterable[Path], without: Path | None = None) -> Stamp:
        """The stamp of files, and of all below folders, which are followed where they are links.

        Args:
            places: files and folders; a missing one counts as such.
            without: a folder that is left out with all that is in it.
        """
        digest, count = blake2b(digest_size=16), 0
        for place in places:
            for path, is_folder in _below(place, without):
                digest.update(f"\0{path}\0{'folder' if is_folder else _mark(path)}".encode("utf-8", "surrogatepass"))
                count += not is_folder
        return cls(count, digest.hexdigest())


def record_files(folder: Path) -> list[str]:
    """Relative paths of what a record consists of, without what is made of it or comes and goes."""
    root = os.path.realpath(folder)
    names = (os.path.relpath(path, root) for path, is_folder in _below(folder, None) if not is_folder)
    return [name for name in names if Path(name).name in RECORDS or not Path(name).name.startswith(UNSTAMPED)]


def _below(place: Path, without: Path | None) -> Iterator[tuple[str, bool]]:
    """Paths of all folders and files below a folder in order, or of the file itself, and whether each is a folder."""
    root, left_out = os.path.realpath(place), None if without is None else os.path.realpath(without)
    if not os.path.isdir(root):
        yield root, False
        return
    seen: set[str] = set()
    for folder, names, files in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        if here == left_out or here in seen:
            names.clear()
            files = []
        if here != left_out:
            yield folder, True
        seen.add(here)
        names.sort()
        for name in sorted(files):
            yield os.path.join(folder, name), False


def _mark(path: str) -> str:
    """Size and times; a changed file changes one of them, new permissions the last."""
    try:
        status = os.stat(path)
    except OSError:
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, dict))


def _place(source: str | Path) -> str:
    path = Path(source).expanduser()
    return os.path.realpath(path) if path.exists() else str(source)


def files_of(source: str | Path) -> list[Path] | None:
    """Files and folders that images are read from; None where that is not known."""
    if str(source).partition(":")[0] in MADE_HERE:
        return []
    path = Path(source).expanduser()
    if path.is_dir():
        return [path, *(image for table in sorted(path.glob("*.[cC][sS][vV]")) for image in _listed(table))]
    listed = list(_listed(path)) if path.is_file() else []
    return [path, *listed] if listed else None


def _files_named(name: str | Path | None) -> list[Path] | None:
    """The file of a backbone or of weights, where it is one (FILE, FILE:KEY); None for code that may have changed."""
    text = str(name or "")
    parts = [Path(part).expanduser() for part in (text, text.rpartition(":")[0]) if part]
    present = [part for part in parts if part.exists()][:1]
    is_known = present or ":" not in text or text.partition(":")[0] in LIBRARIES
    return present if is_known and isinstance(name, (str, Path, type(None))) else None


def _listed(table: Path) -> Iterator[Path]:
    """The images in the column `path` of a CSV file."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if row.get("path"):
                    yield table.parent / row["path"]
    except (OSError, ValueError, csv.Error):
        return


@dataclass(frozen=True)
class Question:
    """What a command asks for.

    Attributes:
        folder: of the record.
        asked: everything that the answer depends on, as JSON values.
        inputs: files and folders that are read.
        seen: their stamp before anything is read.
    """

    folder: Path
    asked: Mapping[str, Any]
    inputs: tuple[Path, ...]
    seen: Stamp

    @classmethod
    def of(cls, verb: str, folder: Path, asked: Mapping[str, Any], inputs: Iterable[Path]) -> Question:
        """The question, with the stamp of its inputs as they are now.

        Args:
            verb: who asks.
            folder: of the record.
            asked: JSON values.
            inputs: files and folders that are read.
        """
        folder, places = folder.expanduser(), tuple(inputs)
        known = {"verb": verb, "attngraft": own_version(), "inputs": [os.path.realpath(place) for place in places]}
        return cls(folder, {**asked, **known}, places, Stamp.of(places, without=folder))

    @classmethod
    def about(
        cls, verb: str, folder: Path, data: Sequence[str | Path], *files: str | Path | None, **asked: Any
    ) -> Question | None:
        """The question of a training; None where what it reads cannot be told without opening the data.

        Args:
            verb: who asks.
            folder: of the record.
            data: sources of images.
            *files: what may be files or folders, such as a backbone or weights (FILE:KEY).
            **asked: JSON values, or what has a text.
        """
        sources = [files_of(source) for source in data]
        if None in sources or int(os.environ.get("WORLD_SIZE", "1")) > 1:
            return None
        inputs = [path for found in sources if found is not None for path in found]
        for name in files:
            found = _files_named(name)
            if found is None:
                return None
            inputs += found
        words = {name: value if _is_json(value) else str(value) for name, value in asked.items()}
        return cls.of(verb, folder, {"data": list(map(_place, data)), **words}, inputs)

    @property
    def file(self) -> Path:
        return self.folder / ANSWER_FILE

    def keep(self, said: Mapping[str, Any]) -> None:
        """Keep what was said, when everything else is in the folder; where it cannot be written there is no answer."""
        names = record_files(self.folder)
        answer = {"asked": dict(self.asked), "said": dict(said), "read": self.seen.digest, "files": names}
        answer["record"] = Stamp.of(self.folder / name for name in names).digest
        try:
            write_sealed_json(self.file, {"kind": "answers", "answers": {**self._kept(), self.asked["verb"]: answer}})
        except RunError:
            self.file.unlink(missing_ok=True)

    def answer(self) -> Mapping[str, Any] | None:
        """What was said to the same question about the same files; None where any of these differ, or nobody asked."""
        try:
            found = self._kept()[self.asked["verb"]]
            if to_json(found["asked"]) != to_json(dict(self.asked)) or found["read"] != self.seen.digest:
                return None
            record = Stamp.of(self.folder / name for name in found["files"])
            return dict(found["said"]) if record.digest == found["record"] else None
        except (KeyError, TypeError):
            return None

    def _kept(self) -> dict[str, Any]:
        """Answers by verb; none where the file is missing or damaged."""
        try:
            found, is_sealed = read_sealed_json(self.file) if self.file.is_file() else ({}, False)
        except (RunError, OSError):
            return {}
        answers = found.get("answers") if is_sealed and found.get("kind") == "answers" else None
        return answers if isinstance(answers, dict) else {}

    @property
    def told(self) -> str:
        """How an answer was checked, in one sentence."""
        count = self.seen.files
        read = f"the {counted(count, 'file')} that it read and those" if count else "the files"
        return (
            f"answered from the record in {self.folder}: the settings are the same, and {read} of the record have the "
            f"names, sizes and times of then (remove {self.file} to have everything compared again)."
        )
