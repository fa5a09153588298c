"""Look into a trained model: its gates, what each part is worth, where it looks, and what can be folded away."""

from __future__ import annotations

from .decouple import decouple
from .decoupling import Decoupling
from .explain import Explanation, explain
from .folded import Folding
from .folding import fold
from .gates import gates
from .survey import GateSurvey, SiteGates
from .view import View, view_of

__all__ = [
    "Decoupling",
    "Explanation",
    "Folding",
    "GateSurvey",
    "SiteGates",
    "View",
    "decouple",
    "explain",
    "fold",
    "gates",
    "view_of",
]
