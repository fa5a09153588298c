"""Conclude a comparison from its finished runs: effects, costs, and whether to go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config import from_dict, to_dict
from ..environment import hardware, versions
from ..errors import counted
from ..statistics.effects import Effect
from ..statistics.looks import FUTILE, conditional_power
from ..timestamp import timestamp
from .analysis_plan import AnalysisPlan
from .comparison_context import ComparisonContext
from .comparison_folder import measured_once, read_comparison, write_comparison
from .contrasts import effects
from .factorial import factorial
from .robustness import robustness
from .run_all import Results
from .thumbnails import write_samples
from .tuning import Tuning
from .variant_table import price, variant_table
from .variants import BASELINE, Variant, first_family

RARE_FAILURE = 0.1


@dataclass(frozen=True)
class Conclusion:
    """Weighs the finished runs and writes `comparison.json`.

    Attributes:
        context: of the comparison.
        variants: the columns.
        request: as from `describe_request`.
        command: the command line, for the record.
        tuning: what was tried before; None without.
    """

    context: ComparisonContext
    variants: Sequence[Variant]
    request: Mapping[str, Any]
    command: str | None
    tuning: Tuning | None = None

    def __call__(self, seeds: Sequence[int], results: Results) -> Mapping[str, Any]:
        """Conclude from these seeds; the document has "stopped" where no further look is needed."""
        plan = self.context.analysis.at(len(seeds))
        context = replace(self.context, analysis=plan)
        evaluations = results.evaluations()
        rows = variant_table(context, self.variants, seeds, results)
        prices = {row["name"]: price(row, rows[0]) for row in rows}
        failed = results.failed_seeds()
        found = effects(self.variants, evaluations, context.task, plan, prices, failed)
        halves = factorial(self.variants, evaluations, plan, found)
        outcome = _look_outcome(plan, self.variants, found)
        earlier = read_comparison(context.folder)
        looks = _looks(context, seeds, earlier.get("looks", []))
        document = {
            **self.request,
            "seeds": list(seeds),
            "status": "finished",
            "command": self.command,
            "created": timestamp(),
            "precision": to_dict(context.precision),
            "variants": rows,
            "effects": found,
            **({"factorial": halves} if halves else {}),
            **({"tuning": to_dict(self.tuning)} if self.tuning else {}),
            **({"robustness": robustness(context, self.variants, results)} if plan.robustness else {}),
            "left_out": _left_out(results),
            **measured_once(earlier),
            **outcome,
            "looks": looks,
            "notes": [*_stop_notes(plan, outcome), *_notes(context, self.variants, seeds, looks, results)],
            "hardware": hardware(),
            "versions": versions(),
            "samples": write_samples(context, self.variants, evaluations),
        }
        write_comparison(context.folder, document)
        return document


def _looks(context: ComparisonContext, seeds: Sequence[int], earlier: list[list[int]]) -> list[list[int]]:
    """The sets of seeds that this comparison was concluded with, this one last."""
    plan = context.analysis
    if plan.looks is not None and plan.look is not None:
        return [list(seeds[:count]) for count in plan.looks.seeds if count <= len(seeds)]
    return with_look(earlier, seeds)


def with_look(earlier: list[list[int]], seeds: Sequence[int]) -> list[list[int]]:
    """The sets of seeds that were looked at before, and this one."""
    return earlier if earlier and earlier[-1] == list(seeds) else [*earlier, list(seeds)]


def unplanned_looks(looks: Sequence[Sequence[int]], plan: AnalysisPlan) -> list[int]:
    """How many seeds each look had that no error rate accounts for: the first one does no harm."""
    counts = [len(seeds) for seeds in looks]
    if plan.looks is not None:
        return [count for count in counts if count not in plan.looks.seeds]
    return counts[1:]


def _left_out(results: Results) -> list[dict[str, Any]]:
    """Runs that do not enter, with the reason: those that diverged, and those that have no partner."""
    found = [
        {"variant": name, "seed": seed, "reason": reason}
        for name, reasons in results.failures.items()
        for seed, reason in reasons.items()
    ]
    lost = results.failures.get(BASELINE, {})
    return found + [
        {"variant": name, "seed": seed, "reason": f"the plain backbone diverged with seed {seed}"}
        for name, runs in results.finished.items()
        for seed in runs
        if name != BASELINE and seed in lost
    ]


def _look_outcome(
    plan: AnalysisPlan, variants: Sequence[Variant], found: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What became of a planned look: its level, and whether and why the comparison stops; nothing without a plan."""
    if plan.looks is None or plan.look is None:
        return {}
    first = first_family(variants)
    primary = [entry for entry in found if entry["against"] == BASELINE and entry["variant"] in first]
    alpha = plan.alpha(len(first))
    powers = {}
    for entry in primary:
        worth = plan.worth_finding
        if worth is not None and not _is_settled(entry):
            fields = {key: entry[key] for key in Effect.__dataclass_fields__}
            effect = from_dict(Effect, fields, where="effect")
            powers[entry["variant"]] = conditional_power(effect, plan.looks, alpha, worth)
    stopped = ""
    if all(_is_settled(entry) or powers.get(entry["variant"], 1.0) < FUTILE for entry in primary):
        stopped = "futile" if powers else "settled"
    elif plan.look == plan.looks.seeds[-1]:
        stopped = "all looks taken"
    return {
        "look": {
            "seeds": plan.look,
            "level": plan.looks.level_at(plan.look, alpha),
            "conditional_power": powers,
        },
        **({"stopped": stopped} if stopped else {}),
    }


def _stop_notes(plan: AnalysisPlan, outcome: Mapping[str, Any]) -> list[str]:
    """Why a comparison with planned looks has ended."""
    if plan.looks is None or not outcome.get("stopped"):
        return []
    count, planned = outcome["look"]["seeds"], plan.looks.seeds[-1]
    if outcome["stopped"] == "all looks taken":
        return [f"All planned looks are taken ({counted(count, 'seed')}); the intervals are those over all looks."]
    why = "what was asked is settled"
    if outcome["stopped"] == "futile":
        worth = plan.metric.show_difference(plan.worth_finding or 0.0)
        why = f"to go on is futile, as an effect of {worth} would be found with a chance below {100 * FUTILE:.0f} %"
    return [f"Stopped after {count} of {planned} planned seeds: {why}; the intervals are those over all looks."]


def _is_settled(entry: Mapping[str, Any]) -> bool:
    """Whether more seeds would change nothing that was asked for."""
    margin = entry.get("margin")
    return entry["verdict"] in ("helps", "hurts", "diverged") or bool(
        margin and margin["kind"] in ("as good as", "worse")
    )


def _notes(
    context: ComparisonContext,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    looks: Sequence[Sequence[int]],
    results: Results,
) -> list[str]:
    """What holds for all verdicts: their scope, the seeds, the looks."""
    found = [scope(context)]
    if any(variant.is_again for variant in variants):
        found.append("Runs with other seeds vary more than the paired runs of a variant, which share their seeds.")
    for name, failed in results.failed_seeds().items():
        who = "the plain backbone" if name == BASELINE else name
        word = "fold" if context.folds else "seed"
        found.append(
            f"Training diverged: {who}, {word}{'' if len(failed) == 1 else 's'} {', '.join(map(str, failed))}."
        )
    planned, attentions = context.analysis.looks, len(first_family(variants))
    hopeless = () if planned is None else planned.hopeless(context.analysis.alpha(attentions))
    if hopeless:
        counts = " or ".join(map(str, hopeless))
        found.append(f"A look at {counts} seeds asks for |t| above 100: it can only stop for futility.")
    return [*found, *seed_notes(len(seeds), looks, context.analysis)]


def seed_notes(count: int, looks: Sequence[Sequence[int]], plan: AnalysisPlan) -> list[str]:
    """What so many seeds can miss, and that they were looked at before without a plan."""
    missed = 100 * (1 - RARE_FAILURE) ** count
    word = "fold" if plan.folds else "seed"
    found = [
        f"{count} {word}{'' if count == 1 else 's'} miss{'es' if count == 1 else ''} a failure that strikes 1 run in 10 "
        f"with a chance of {missed:.0f} %."
    ]
    if unplanned_looks(looks, plan):
        counts = ", then ".join(str(len(seeds)) for seeds in looks)
        found.append(
            f"This comparison was looked at {len(looks)} times (with {counts} seeds) without a plan: each look adds a "
            f"chance of a false alarm, and the intervals are not adjusted for that{'; --looks plans them' if plan.trains else ''}."
        )
    return found


def scope(context: ComparisonContext) -> str:
    """What the verdicts hold for, in one line."""
    analysis, dataset = context.analysis, context.dataset
    share = context.settings.data.resample_train
    trained = "this training set" if share == 1 else f"training sets like this one (each seed drew {100 * share:g} %)"
    images = f"images like the {counted(len(dataset.test), 'test image')}"
    if analysis.folds:
        part = 100 * (1 - 1 / analysis.folds)
        trained = f"training sets of {part:.3g} % of images like these (each fold trains on the others)"
        images = f"images like the {len(dataset.test):,} that there are"
    if dataset.test.groups is not None:
        images += ", in new groups"
    weights = "this checkpoint" if context.source.pretrained or context.source.weights else "random weights"
    return f"Scope: {trained}, these hyper-parameters, {weights}, {images}."
