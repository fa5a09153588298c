"""Dynamic learning: iterate until a requirement is met, adapt when the data change, never promote what is worse."""

from .adapt import Adaptation, adapt
from .guard import GuardPolicy
from .iterate import Iteration, iterate
from .opening import create_store
from .release import release
from .roles import Shares
from .store import Store
from .update import AdaptOptions
from .version import Version
from .watch import Watch, WatchOptions, watch

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
