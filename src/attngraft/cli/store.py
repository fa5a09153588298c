"""attngraft store: make a store of versions, look at it, roll back, release, check its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..config import from_dict
from ..continual.adaptation.create_store import create_store
from ..continual.adaptation.guard_contest import lost_attempts
from ..continual.adaptation.release_test import release as make_release
from ..continual.adaptation.store_history import update_history
from ..continual.guard.guard import GuardPolicy
from ..continual.images.stored_domains import Domains
from ..errors import ConfigError, RunError
from ..surgery.version_store.store import Store
from ..surgery.version_store.version import Version
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
    data: Annotated[
        str | None,
        typer.Option(help="With --create: what the run was trained and tested on; by default what run.json says."),
    ] = None,
    rollback: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Serve this version again; the first digits are enough.")
    ] = None,
    release: Annotated[
        bool, typer.Option("--release", help="Measure the served version on the final images, once.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare it with its digest.")] = False,
    delta: Annotated[
        float | None, typer.Option(help="With --create: loss on old data that the guard must rule out, as a fraction.")
    ] = None,
    class_delta: Annotated[
        float | None, typer.Option(help="With --create: the same for each class; 0 does not look at classes.", min=0)
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="With --create: probability of any bad promotion in the store's whole life.")
    ] = None,
    latency_budget: Annotated[
        float | None, typer.Option(help="With --create: latency over that of the served version, at most.")
    ] = None,
    size_budget: Annotated[
        float | None, typer.Option(help="With --create: size over that of the served version, at most.")
    ] = None,
    root: options.Root = None,
    download: options.Download = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="With --create: leave out files that cannot be read.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show the versions of a store and what happened to it; make one, roll back, release, or check its files."""
    guard = given(
        delta=delta,
        class_delta=class_delta,
        alpha=alpha,
        latency_budget=latency_budget,
        size_budget=size_budget,
    )
    _check_one(create=create, rollback=rollback, release=release or None, verify=verify or None)
    if create is None and (guard or data is not None):
        name = next(iter(guard), "data").replace("_", "-")
        raise ConfigError(f"--{name} is fixed when the store is made: give it together with --create RUN.")
    if verify:
        _verify(Store.open(store), as_json)
        return
    if create is not None:
        policy = from_dict(GuardPolicy, guard | ({"class_delta": None} if class_delta == 0 else {}), where="the guard")
        reading = given(root=root, download=download, skip_broken=skip_broken or None)
        opened = create_store(store, create, data=data, policy=policy, **reading)
    else:
        opened = Store.open(store)
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


def given(**values: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def _release(store: Path, as_json: bool) -> None:
    entry = make_release(store)
    if as_json:
        print_json(dict(entry))
        return
    table = Table()
    table.add_column("final images of", overflow="fold")
    for name in ("images", "top-1"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in entry["per_domain"]:
        table.add_row(row["name"], f"{row['images']:,}", f"{row['top1']:.1%}")
    console().print(table)
    console().print(
        f"{entry['version']}: top-1 {entry['top1']:.1%} (95 % interval {entry['low']:.1%} to {entry['high']:.1%}) on "
        f"{entry['images']:,} final images, which no decision has looked at.",
        markup=False,
        soft_wrap=True,
    )


def _check_one(**actions: object) -> None:
    given = [f"--{name}" for name, value in actions.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"got {' and '.join(given)}: expected one of them.")


def _verify(store: Store, as_json: bool) -> None:
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
    if entry["event"] == "verdict":
        return f"the guard's answer to attempt {entry.get('attempt')}: {'pass' if entry.get('passed') else 'fail'}"
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
    "attempt": "attempt {attempt} of the guard, for {candidate}, with alpha {alpha:.2g}",
    "refuse": "{candidate} was not put to the guard: {reason}",
    "release": "{version} was measured on {images} final images",
}
