"""Find sites, plan, graft, ungraft, save: everything that changes the shape of a network."""

from .graft import check_live, graft, graft_, graft_plan, grafts, reattach_, uncompiled, ungraft, ungraft_
from .interception import computing, watching
from .plan import GraftPlan, plan_graft
from .saved import SavedModel, classes_of, describe, load, note_classes_, save
from .sites import Site, find_sites, search_sites

__all__ = [
    "GraftPlan",
    "SavedModel",
    "Site",
    "check_live",
    "classes_of",
    "computing",
    "describe",
    "find_sites",
    "graft",
    "graft_",
    "graft_plan",
    "grafts",
    "load",
    "note_classes_",
    "plan_graft",
    "reattach_",
    "save",
    "search_sites",
    "uncompiled",
    "ungraft",
    "ungraft_",
    "watching",
]
