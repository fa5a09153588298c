"""Explain a trained model: gates, ablations, saliency, folding."""

from __future__ import annotations

from .decouple import decouple
from .explain import Explanation, explain
from .explanation_record import Decoupling
from .folding import Folding, fold
from .gates import GateSurvey, SiteGates, gates
from .image_source import View, view_of

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
