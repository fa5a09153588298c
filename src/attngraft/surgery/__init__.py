"""Find sites, plan, graft, ungraft, save and load."""

from .compiled import is_compiled, uncompiled
from .copying import copy_model
from .encoder_decoder import decoder_start
from .fold import PartFold, fold_grafts
from .gate_hooks import computing, watching
from .graft import check_live, graft, graft_, graft_plan, grafts, reattach_, ungraft, ungraft_
from .graft_files import load_grafts_
from .heads import Head, find_head, renew_head_, replace_head_
from .model_output import main_output
from .notes import FoldNote, classes_of, fold_note, note_classes_, note_fold_, note_task_, task_note
from .own_networks import backbone_spec
from .plan import GraftPlan, Override, plan_graft
from .serialization import SavedModel, describe_saved, load, save, saved_classes
from .site import Site
from .sites import find_sites, search_sites
from .trainable import ModelDescription, describe, freeze_, parameter_groups

__all__ = [
    "FoldNote",
    "GraftPlan",
    "Head",
    "ModelDescription",
    "Override",
    "PartFold",
    "SavedModel",
    "Site",
    "backbone_spec",
    "check_live",
    "classes_of",
    "computing",
    "copy_model",
    "decoder_start",
    "describe",
    "describe_saved",
    "find_head",
    "find_sites",
    "fold_grafts",
    "fold_note",
    "freeze_",
    "graft",
    "graft_",
    "graft_plan",
    "grafts",
    "is_compiled",
    "load",
    "load_grafts_",
    "main_output",
    "note_classes_",
    "note_fold_",
    "note_task_",
    "parameter_groups",
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
