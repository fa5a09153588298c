"""attngraft cache: show and clear the decoded images that commands share."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..errors import counted
from . import options
from .options import option, switch
from .output import NAME, NUMBER, console, print_json, say, table

if TYPE_CHECKING:
    from ..data.pixel_cache import CachedImages


def run(
    folder: Annotated[
        Path | None, option("Another folder than the usual one, as in --set cache_dir=.", "FOLDER")
    ] = None,
    clear: Annotated[bool, switch("--clear", "Remove all of it; it is made again when it is needed.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show the decoded images that commands share, and remove them."""
    from ..data.pixel_cache import cached_images, most_shared, remove_cached
    from ..data.sources import data_root

    place = folder.expanduser() if folder is not None else data_root() / "decoded"
    entries = cached_images(place)
    if clear:
        remove_cached(place, entries)
    total = sum(entry.size_bytes for entry in entries)
    if as_json:
        print_json({"folder": str(place), "entries": list(map(vars, entries)), "bytes": total, "cleared": clear})
        return
    shown = f"{counted(len(entries), 'set')} of images, {total / (1 << 20):,.1f} MiB"
    if clear:
        say(f"removed {shown} from {place}")
        return
    if entries:
        rows = [
            (
                entry.key[:8],
                f"{entry.images:,}",
                f"{entry.size_bytes / (1 << 20):,.1f}",
                _time(entry.used),
                _kind(entry),
            )
            for entry in entries
        ]
        columns = {"set": NAME, "images": NUMBER, "MiB": NUMBER, "last used": NAME, "kind": NAME}
        console().print(table(columns, rows))
    say(
        f"{place}: {shown}; shared copies are kept to {most_shared() / (1 << 30):g} GiB (ATTNGRAFT_CACHE_GIB).",
        wrap=True,
    )


def _time(used: float) -> str:
    return f"{datetime.fromtimestamp(used):%Y-%m-%d %H:%M}"


def _kind(entry: CachedImages) -> str:
    return "shared copy" if entry.shared else "larger than memory"
