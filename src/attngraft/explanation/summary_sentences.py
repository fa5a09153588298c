"""Summary sentences from the numbers of an explanation."""

from __future__ import annotations

from ..statistics.bootstrap import Interval
from ..surgery.fold import KEPT
from .explanation_record import Decoupling, ExplanationRecord, FoldingRecord, Pointing
from .saliency_report import GATE as GATE_MAP


def sentences(record: ExplanationRecord) -> list[str]:
    """What an explanation found, most important first; every sentence carries its numbers."""
    if record.attention is None:
        found = ["The model has no grafts, so there is no attention to take apart: it is explained as a plain network."]
    elif record.decoupling is None:
        found = [_dynamics(record), "The images have no labels, so nothing is said about accuracy."]
    else:
        found = [_worth(record.decoupling), *_halves(record.decoupling), _dynamics(record)]
    if record.folding is not None:
        found.append(_folding(record.folding))
    if record.looks is not None and record.looks.pointing is not None:
        found.append(_pointing(record.looks.pointing))
    if record.looks is not None and record.looks.faithfulness is not None:
        found.append(record.looks.faithfulness.sentence)
    return found


def _worth(decoupling: Decoupling) -> str:
    total, loss = decoupling.total.accuracy, decoupling.total.loss
    taken = Interval(-total.mean, -total.high, -total.low)
    measured = f"{_points(taken.mean)} points of top-1 ({_interval(taken)}; n = {decoupling.images:,} images)"
    if total.low > 0:
        return f"The trained model rests on its attention: with all of it switched off accuracy changes by {measured}."
    if total.high < 0:
        return f"The trained model does better without its attention: switched off, accuracy changes by {measured}."
    shown = "no evidence that its predictions rest on its attention"
    if loss.low > 0 or loss.high < 0:
        better = "surer of the right class" if loss.low > 0 else "less sure of the right class"
        shown = f"accuracy does not tell, but with attention it is {better} (loss {-loss.mean:+.3f} nats)"
    return f"With all attention switched off accuracy changes by {measured}: {shown}."


def _halves(decoupling: Decoupling) -> list[str]:
    """Which part carries how much, where there is something to divide."""
    shares = {half.part: half.share for half in decoupling.halves if half.share is not None}
    if len(shares) < 2:
        return []
    first = max((half for half in decoupling.halves if half.part in shares), key=lambda half: shares[half.part])
    others = sorted((part for part in shares if part != first.part), key=lambda part: -shares[part])
    rest = ", ".join(f"{part} {100 * shares[part]:.0f} %" for part in others)
    more_than_all = ", more than all of it, as the rest takes away" if shares[first.part] > 1 else ""
    within = f"95 % interval {100 * (first.share_low or 0):.0f} to {100 * (first.share_high or 0):.0f}"
    name = first.part[:1].upper() + first.part[1:]
    carried = f"{100 * shares[first.part]:.0f} %"
    return [f"{name} attention carries {carried} of that ({within}{more_than_all}), {rest}."]


def _dynamics(record: ExplanationRecord) -> str:
    sites, images = (record.gates.sites, record.gates.images) if record.gates else ((), 0)
    if images < 2:
        return "One image does not tell how the gates differ between images."
    parts: dict[str, list[float]] = {}
    for site in sites:
        for part, numbers in site.parts.items():
            parts.setdefault(part, []).append(numbers.swing)
    told = [
        f"{part} gates swing by {_range(swings)} between images" if max(swings) > 1e-6 else f"{part} gates never change"
        for part, swings in parts.items()
    ]
    plural = "" if len(sites) == 1 else "s"
    return f"At {len(sites)} site{plural} the {', the '.join(told)} (standard deviation, n = {images:,} images)."


def _folding(folding: FoldingRecord) -> str:
    gone, total, effect = folding.sites_gone, folding.sites_in_all, folding.effect
    if not any(site.action != KEPT for site in folding.sites):
        return (
            f"Nothing folds away within {100 * folding.tolerance:.1f} points: all {total} sites are needed as they are."
        )
    change = 100 * (folding.latency_ms.after.median / folding.latency_ms.before.median - 1)
    reduced = sum(site.action.startswith(("reduced", "left")) for site in folding.sites)
    cheaper = f"{reduced} {'becomes' if reduced == 1 else 'become'} cheaper"
    what = f"{gone} of {total} sites fold away" + (f" and {cheaper}" if reduced else "")
    return (
        f"{what if gone else f'Of {total} sites {cheaper}'}, as constants do as well as their gates: "
        f"latency {change:+.0f} %, accuracy {_points(effect.mean)} points ({_interval(effect)}; n = {folding.images:,} "
        f"images; {100 * folding.tolerance:.1f} were allowed to be lost on these)."
    )


def _pointing(pointing: Pointing) -> str:
    row = next((row for row in pointing.maps if row.map == GATE_MAP), pointing.maps[0])
    centre, hits = row.hits_against_centre, row.hits
    verdict = "no more and no less often than a guess at the centre, as far as can be told"
    if centre is not None and centre.low > 0:
        verdict = "more often than a guess at the centre"
    elif centre is not None and centre.high < 0:
        verdict = "less often than a guess at the centre"
    return (
        f"The {row.map} points at the object in {100 * hits.mean:.0f} % of {pointing.n:,} images "
        f"({100 * hits.low:.0f} to {100 * hits.high:.0f}), {verdict}."
    )


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f}" if round(abs(fraction), 3) else "0.0"


def _interval(effect: Interval) -> str:
    return f"95 % interval {_points(effect.low)} to {_points(effect.high)}"


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g}"
