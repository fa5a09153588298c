"""Find sites, plan, graft, ungraft, save: everything that changes the shape of a network."""

from .graft import check_live, graft, graft_, graft_plan, grafts, reattach_, ungraft, ungraft_
from .plan import GraftPlan, plan_graft
from .saved import SavedModel, describe, load, save
from .sites import Site, find_sites, search_sites

__all__ = [
    "GraftPlan",
    "SavedModel",
    "Site",
    "check_live",
    "describe",
    "find_sites",
    "graft",
    "graft_",
    "graft_plan",
    "grafts",
    "load",
    "plan_graft",
    "reattach_",
    "save",
    "search_sites",
    "ungraft",
    "ungraft_",
]
