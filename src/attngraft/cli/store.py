"""attngraft store: make a store of versions, look at it, roll back, release, check its files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD

from ..errors import ConfigError, RunError, counted
from . import options
from .options import argument, option, switch
from .output import NAME, NUMBER, TEXT, USER_ERROR, console, print_json, say, say_notes, table

if TYPE_CHECKING:
    from ..continual import Store, Version

SHOWN = 8  # lines of the journal
DIGITS = 8  # of an id in the table; enough to name a version


@options.takes("skip_broken", "root", "download", "group_by")
def run(
    store: Annotated[Path, argument("STORE", "Folder of the store.")],
    settings: dict[str, Any],
    create: Annotated[
        Path | None, option("Make the store; this run folder or saved model is its version 0.", "RUN")
    ] = None,
    data: Annotated[
        str | None,
        option("With --create: what the run was trained and tested on; by default as run.json says.", "DATA"),
    ] = None,
    rollback: Annotated[str | None, option("Serve this version again; its first digits are enough.", "VERSION")] = None,
    release: Annotated[bool, switch("--release", "Measure the served version on the final images, once.")] = False,
    verify: Annotated[bool, switch("--verify", "Read every file and compare it with its digest.")] = False,
    delta: Annotated[
        float | None, option("With --create: loss on old data that the guard must rule out, as a fraction (0.02).")
    ] = None,
    class_delta: Annotated[
        float | None, option("With --create: the same for each class (0.1); 0 ignores classes.", min=0)
    ] = None,
    alpha: Annotated[
        float | None, option("With --create: probability of any bad promotion in the store's whole life (0.05).")
    ] = None,
    latency_budget: Annotated[
        float | None, option("With --create: largest latency relative to that of the served version.")
    ] = None,
    size_budget: Annotated[
        float | None, option("With --create: largest size relative to that of the served version.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show a store of versions; make one, roll back, release, or check its files."""
    from ..continual import Store
    from ..continual.adaptation.promotion import lacking_guard_images
    from ..continual.adaptation.store_history import update_history

    budgets = {"latency_budget": latency_budget, "size_budget": size_budget}
    guard = _given(delta=delta, class_delta=class_delta, alpha=alpha, **budgets)
    _check_one(create=create, rollback=rollback, release=release or None, verify=verify or None)
    fixed = guard | _given(data=data, group_by=settings.get("group_by"))
    if create is None and fixed:
        name = next(iter(fixed)).replace("_", "-")
        raise ConfigError(f"--{name} is fixed when the store is made: give it together with --create RUN.")
    if verify:
        _verify(Store.open(store), as_json)
        return
    opened = Store.open(store) if create is None else _create(store, create, data, guard, settings)
    if rollback is not None:
        with opened.writing(settle=True):
            opened.rollback(rollback)
            update_history(opened)
    if release:
        _release(store, as_json)
    elif as_json:
        print_json(_status(opened))
    else:
        _print(opened)
        lacking = None if create is None else lacking_guard_images(opened)
        say_notes([lacking] if lacking else [])


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _check_one(**actions: object) -> None:
    given = [f"--{name}" for name in _given(**actions)]
    if len(given) > 1:
        raise ConfigError(f"got {' and '.join(given)}: expected one of them.")


def _create(store: Path, run: Path, data: str | None, guard: dict[str, Any], reading: dict[str, Any]) -> Store:
    from ..config import from_dict
    from ..continual import GuardPolicy, create_store

    if guard.get("class_delta") == 0:
        guard["class_delta"] = None
    return create_store(store, run, data=data, policy=from_dict(GuardPolicy, guard, where="the guard"), **reading)


def _release(store: Path, as_json: bool) -> None:
    from ..continual import release

    entry = release(store)
    if as_json:
        print_json(dict(entry))
        return
    rows = ((row["name"], f"{row['images']:,}", f"{row['top1']:.1%}") for row in entry["per_domain"])
    groups = f" in {counted(entry['groups'], 'group')}" if "groups" in entry else ""
    console().print(table({"final images of": TEXT, "images": NUMBER, "top-1": NUMBER}, rows))
    say(
        f"{entry['version']}: top-1 {entry['top1']:.1%} (95 % interval {entry['low']:.1%} to {entry['high']:.1%}) on "
        f"{counted(entry['images'], 'final image')}{groups}, which no decision has looked at.",
        wrap=True,
    )


def _verify(store: Store, as_json: bool) -> None:
    from ..continual.adaptation.promotion import lost_attempts
    from ..continual.images.stored_domains import Domains

    lost = lost_attempts(store)
    problems = store.verify() + ([lost] if lost else [])
    try:
        for domain in Domains(store.path).all():
            len(domain.packed.images)
    except RunError as error:
        problems.append(str(error))
    if as_json:
        print_json({"problems": problems})
    else:
        for sentence in problems or [f"all files of {store.path} are what they were when they were written."]:
            say(sentence, wrap=True)
    if problems:
        raise typer.Exit(USER_ERROR)


def _status(store: Store) -> dict[str, Any]:
    return {
        "store": str(store.path),
        "created": store.created,
        "served": store.head,
        "base": store.base,
        "classes": list(store.classes),
        "settings": store.settings,
        "versions": [version.to_dict() for version in store.versions()],
        "journal": store.journal.entries(),
    }


def _print(store: Store) -> None:
    served = store.head
    columns = {"": NAME, "version": NAME, "from": NAME, "created": TEXT, "updated": TEXT}
    columns |= {"parameters changed": {"justify": "right"}, "delta": {"justify": "right"}}
    rows = (("*" if version.id == served else "", *_row(version)) for version in store.versions())
    console().print(table(columns, rows, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True))
    say(f"* is served. {store.path} was made {_short_time(store.created)} UTC.", wrap=True)
    for entry in store.journal.entries()[-SHOWN:]:
        say(f"{_short_time(entry['time'])}  {in_words(entry)}", wrap=True)


def _row(version: Version) -> tuple[str, ...]:
    return (
        version.id[:DIGITS],
        (version.parent or "-")[:DIGITS],
        _short_time(version.created),
        str(version.made.get("update") or ("-" if version.parent else "the base")),
        f"{version.changed:,} of {version.parameters:,} ({version.changed / max(1, version.parameters):.1%})",
        f"{version.delta_bytes / 1024:,.1f} KiB",
    )


def in_words(entry: Mapping[str, Any]) -> str:
    """Describe one line of the journal; an event that is not known here is shown as it is, a missing field as "?"."""
    if entry["event"] == "verdict":
        return f"the guard's verdict on attempt {entry.get('attempt')}: {'pass' if entry.get('passed') else 'fail'}"
    sentence = _SENTENCES.get(entry["event"])
    if sentence is None:
        fields = [f"{key}={value}" for key, value in entry.items() if key not in ("seq", "time", "event", "previous")]
        return " ".join([str(entry["event"]), *fields])
    return sentence.format_map(defaultdict(lambda: "?", entry))


def _short_time(iso: str) -> str:
    return iso[:16].replace("T", " ")


_SENTENCES = {
    "create": "made, with {version} as its base",
    "promote": "{to} is served instead of {from}",
    "rollback": "rolled back from {from} to {to}",
    "attempt": "attempt {attempt} of the guard, for {candidate}, with alpha {alpha:.2g}",
    "refuse": "{candidate} was refused before the guard was asked: {reason}",
    "release": "{version} was measured on {images} final images",
}
