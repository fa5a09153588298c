"""Dynamic learning: iterate until a requirement is met, adapt when the data change, never promote what is worse."""

from .adaptation.adapting import Adaptation, adapt
from .adaptation.opening import create_store
from .adaptation.releasing import release
from .adaptation.update import AdaptOptions
from .guard.judge import GuardPolicy
from .images.roles import Shares
from .search.iterating import Iteration, iterate
from .store.store import Store
from .store.version import Version
from .stream.options import WatchOptions
from .stream.watching import Watch, watch

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
