"""Training: phases, loop, checkpoints, evaluation, run folder."""

from ..settings import DataSettings, MachineSettings, Phase, Recipe, Settings, load_recipe, recipes, resolve_settings
from .distillation import Teacher
from .distributed import World, join_world
from .early_stopping import Rows, ShouldStop
from .evaluate import PREDICTIONS_FILE, Evaluation, EvaluationContext, evaluate
from .fit import FitResult, fit
from .open_data import framed, open_data, starts_pretrained
from .precision import Precision, choose_precision, parse_precision, warm_up
from .progress import Progress, Reading, Silent, Told, Whole, doing, titled, watched
from .run_folder import Resume, RunFolder
from .run_record import DataRecord, RunRecord

__all__ = [
    "PREDICTIONS_FILE",
    "DataRecord",
    "DataSettings",
    "Evaluation",
    "EvaluationContext",
    "FitResult",
    "MachineSettings",
    "Phase",
    "Precision",
    "Progress",
    "Reading",
    "Recipe",
    "Resume",
    "Rows",
    "RunFolder",
    "RunRecord",
    "Settings",
    "ShouldStop",
    "Silent",
    "Teacher",
    "Told",
    "Whole",
    "World",
    "choose_precision",
    "doing",
    "evaluate",
    "fit",
    "framed",
    "join_world",
    "load_recipe",
    "open_data",
    "parse_precision",
    "recipes",
    "resolve_settings",
    "starts_pretrained",
    "titled",
    "warm_up",
    "watched",
]
