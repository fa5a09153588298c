"""Explain a trained model: gates, ablations, saliency, folding."""

from __future__ import annotations

from .decouple import decouple
from .explain import Explanation, explain
from .explanation_record import Decoupling
from .folding import fold
from .folding_result import Folding
from .gate_report import GateSurvey, SiteGates
from .gates import gates
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
