"""Find sites, plan, graft, ungraft, save and load."""

from .compiled import is_compiled, uncompiled
from .copying import copy_model
from .fold import PartFold, fold_grafts
from .gate_hooks import computing, watching
from .graft import check_live, graft, graft_, graft_plan, grafts, reattach_, ungraft, ungraft_
from .heads import Head, find_head, renew_head_, replace_head_
from .model_output import main_output
from .notes import FoldNote, classes_of, fold_note, note_classes_, note_fold_, note_task_, task_note
from .plan import GraftPlan, Override, plan_graft
from .serialization import SavedModel, describe, load, save, saved_classes
from .sites import Site, find_sites, search_sites

__all__ = [
    "FoldNote",
    "GraftPlan",
    "Head",
    "Override",
    "PartFold",
    "SavedModel",
    "Site",
    "check_live",
    "classes_of",
    "computing",
    "copy_model",
    "describe",
    "find_head",
    "find_sites",
    "fold_grafts",
    "fold_note",
    "graft",
    "graft_",
    "graft_plan",
    "grafts",
    "is_compiled",
    "load",
    "main_output",
    "note_classes_",
    "note_fold_",
    "note_task_",
    "plan_graft",
    "reattach_",
    "renew_head_",
    "replace_head_",
    "save",
    "saved_classes",
    "search_sites",
    "task_note",
    "uncompiled",
    "ungraft",
    "ungraft_",
    "watching",
]
