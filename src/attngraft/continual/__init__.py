"""Search until a requirement is met; adapt a served model when the data change."""

from ..settings.serving import AdaptOptions, WatchOptions
from ..surgery.version_store.store import Store
from ..surgery.version_store.version import Version
from .adaptation.adapt import adapt
from .adaptation.adaptation_record import Adaptation
from .adaptation.create_store import create_store
from .adaptation.release_test import release
from .guard.guard import GuardPolicy
from .images.split_assignment import Shares
from .search.iterate import iterate
from .search.search_record import Iteration
from .stream.watch import Watch, watch

__all__ = [
    "AdaptOptions",
    "Adaptation",
    "GuardPolicy",
    "Iteration",
    "Shares",
    "Store",
    "Version",
    "Watch",
    "WatchOptions",
    "adapt",
    "create_store",
    "iterate",
    "release",
    "watch",
]
