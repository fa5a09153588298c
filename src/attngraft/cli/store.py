"""attngraft store: make a store of versions, look at it, roll back, check its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..continual.store import Store
from ..continual.version import Version
from ..errors import ConfigError
from . import options
from .output import USER_ERROR, console, print_json

SHOWN = 8  # lines of the journal
DIGITS = 8  # of an id in the table; enough to name a version


def run(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the store.")],
    create: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Make the store; this run folder or saved model is its version 0."),
    ] = None,
    rollback: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Serve this version again; the first digits are enough.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare it with its digest.")] = False,
    delta: Annotated[
        float | None, typer.Option(help="With --create: loss on old data that the guard must rule out, as a fraction.")
    ] = None,
    class_delta: Annotated[float | None, typer.Option(help="With --create: the same for each class.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="With --create: probability of any bad promotion in the store's whole life.")
    ] = None,
    latency_budget: Annotated[
        float | None, typer.Option(help="With --create: latency over that of the served version, at most.")
    ] = None,
    size_budget: Annotated[
        float | None, typer.Option(help="With --create: size over that of the served version, at most.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show the versions of a store and what happened to it; make one, roll back, or check its files."""
    settings = settings_from(
        delta=delta,
        class_delta=class_delta,
        alpha=alpha,
        latency_budget=latency_budget,
        size_budget=size_budget,
    )
    _check_one(create=create, rollback=rollback, verify=verify or None)
    if create is None and settings["guard"]:
        name = next(iter(settings["guard"])).replace("_", "-")
        raise ConfigError(f"--{name} is fixed when the store is made: give it together with --create RUN.")
    if verify:
        _verify(Store.open(store), as_json)
        return
    if create is not None:
        opened = Store.create(store, create, settings=settings, made={"by": "create", "source": str(create)})
    else:
        opened = Store.open(store)
    if rollback is not None:
        with opened.writing():
            opened.rollback(rollback)
    if as_json:
        print_json(_status(opened))
    else:
        _print(opened)


def settings_from(**guard: float | None) -> dict[str, Any]:
    """The settings of a new store: the options of the guard that were given."""
    return {"guard": {name: value for name, value in guard.items() if value is not None}}


def _check_one(**actions: object) -> None:
    given = [f"--{name}" for name, value in actions.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"got {' and '.join(given)}: expected one of them.")


def _verify(store: Store, as_json: bool) -> None:
    problems = store.verify()
    if as_json:
        print_json({"problems": problems})
    else:
        for sentence in problems or [f"all files of {store.path} are what they were when they were written."]:
            console().print(sentence, markup=False, soft_wrap=True)
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
    served, out = store.head, console()
    table = Table()
    for name in ("", "version", "from"):
        table.add_column(name, no_wrap=True)
    for name in ("created", "updated"):
        table.add_column(name, overflow="fold")
    for name in ("parameters changed", "delta"):
        table.add_column(name, justify="right")
    for version in store.versions():
        table.add_row("*" if version.id == served else "", *_row(version))
    out.print(table)
    out.print(f"* is served. {store.path} was made {_short_time(store.created)} UTC.", markup=False, soft_wrap=True)
    for entry in store.journal.entries()[-SHOWN:]:
        out.print(f"{_short_time(entry['time'])}  {in_words(entry)}", markup=False, soft_wrap=True)


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
    """One line of the journal for people; an event that is not known here is shown as it is."""
    sentence = _SENTENCES.get(entry["event"])
    if sentence is None:
        fields = [f"{key}={value}" for key, value in entry.items() if key not in ("seq", "time", "event", "previous")]
        return " ".join([str(entry["event"]), *fields])
    return sentence.format_map(_Known(entry))


class _Known(dict[str, Any]):
    """What is missing is shown as a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"


def _short_time(iso: str) -> str:
    return iso[:16].replace("T", " ")


_SENTENCES = {
    "create": "made, with {version} as its base",
    "promote": "{to} is served instead of {from}",
    "rollback": "rolled back from {from} to {to}",
    "attempt": "attempt {attempt} of the guard, for {candidate}, with alpha {alpha}",
    "refuse": "{candidate} was not put to the guard: {reason}",
}
