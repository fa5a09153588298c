"""Summary sentences from the numbers of an explanation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]


def sentences(document: Document) -> list[str]:
    """What an explanation found, most important first; every sentence carries its numbers.

    Args:
        document: the content of `explanation.json`.
    """
    if document["attention"] is None:
        found = ["The model has no grafts, so there is no attention to take apart: it is explained as a plain network."]
    elif document["decoupling"] is None:
        found = [_dynamics(document), "The images have no labels, so nothing is said about accuracy."]
    else:
        found = [_worth(document["decoupling"]), *_halves(document["decoupling"]), _dynamics(document)]
    if document["folding"] is not None:
        found.append(_folding(document["folding"]))
    looks = document["looks"]
    if looks["pointing"] is not None:
        found.append(_pointing(looks["pointing"]))
    if looks["faithfulness"] is not None:
        found.append(looks["faithfulness"]["sentence"])
    return found


def _worth(decoupling: Document) -> str:
    total, images = decoupling["total"]["accuracy"], decoupling["images"]
    measured = f"{_points(-total['mean'])} points of top-1 ({_interval(_negated(total))}; n = {images:,} images)"
    if total["low"] > 0:
        return f"The trained model rests on its attention: with all of it switched off accuracy changes by {measured}."
    if total["high"] < 0:
        return f"The trained model answers better without its attention: switched off, accuracy changes by {measured}."
    loss = decoupling["total"]["loss"]
    shown = "no evidence that its answers rest on its attention"
    if loss["low"] > 0 or loss["high"] < 0:
        better = "surer of the right class" if loss["low"] > 0 else "less sure of the right class"
        shown = f"accuracy does not tell, but with attention it is {better} (loss {-loss['mean']:+.3f} nats)"
    return f"With all attention switched off accuracy changes by {measured}: {shown}."


def _halves(decoupling: Document) -> list[str]:
    """Who carries how much, where there is something to divide."""
    halves = [half for half in decoupling["halves"] if half["share"] is not None]
    if len(halves) < 2:
        return []
    first, *others = sorted(halves, key=lambda half: -half["share"])
    rest = ", ".join(f"{half['part']} {100 * half['share']:.0f} %" for half in others)
    more_than_all = ", more than all of it, as the rest takes away" if first["share"] > 1 else ""
    within = f"95 % interval {100 * first['share_low']:.0f} to {100 * first['share_high']:.0f}"
    return [
        f"{_name(first['part'])} attention carries {100 * first['share']:.0f} % of that ({within}{more_than_all}), {rest}."
    ]


def _dynamics(document: Document) -> str:
    images = document["gates"]["images"]
    if images < 2:
        return "One image does not tell how the gates differ between images."
    parts: dict[str, list[float]] = {}
    for site in document["gates"]["sites"]:
        for part, numbers in site["parts"].items():
            parts.setdefault(part, []).append(numbers["swing"])
    told = [
        f"{part} gates swing by {_range(swings)} between images" if max(swings) > 1e-6 else f"{part} gates never change"
        for part, swings in parts.items()
    ]
    number = len(document["gates"]["sites"])
    return f"At {number} site{'' if number == 1 else 's'} the {', the '.join(told)} (standard deviation, n = {images:,} images)."


def _folding(folding: Document) -> str:
    gone, total, images = folding["sites_gone"], folding["sites_in_all"], folding["images"]
    effect, latency = folding["effect"], folding.get("latency_ms") or {}
    if not any(site["action"] != "kept" for site in folding["sites"]):
        return f"Nothing folds away within {100 * folding['tolerance']:.1f} points: all {total} sites are needed as they are."
    faster = ""
    if latency.get("before") and latency.get("after"):
        change = 100 * (latency["after"]["median"] / latency["before"]["median"] - 1)
        faster = f"latency {change:+.0f} %, "
    reduced = sum(
        site["action"].startswith("reduced") or site["action"].startswith("left") for site in folding["sites"]
    )
    cheaper = f"{reduced} {'becomes' if reduced == 1 else 'become'} cheaper"
    what = f"{gone} of {total} sites fold away" + (f" and {cheaper}" if reduced else "")
    return (
        f"{what if gone else f'Of {total} sites {cheaper}'}, as constants do as well as their gates: "
        f"{faster}accuracy {_points(effect['mean'])} points ({_interval(effect)}; n = {images:,} images; "
        f"{100 * folding['tolerance']:.1f} were allowed to be lost on these)."
    )


def _pointing(pointing: Document) -> str:
    by_name = {entry["map"]: entry for entry in pointing["maps"]}
    named = by_name.get("spatial gate") or next(iter(by_name.values()))
    centre = named["hits_against_centre"]
    if centre["low"] > 0:
        verdict = "more often than a guess at the centre"
    elif centre["high"] < 0:
        verdict = "less often than a guess at the centre"
    else:
        verdict = "no more and no less often than a guess at the centre, as far as can be told"
    return (
        f"The {named['map']} points at the object in {100 * named['hits']['mean']:.0f} % of {pointing['n']:,} images "
        f"({100 * named['hits']['low']:.0f} to {100 * named['hits']['high']:.0f}), {verdict}."
    )


def _name(part: str) -> str:
    return part[:1].upper() + part[1:]


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f}" if round(abs(fraction), 3) else "0.0"


def _interval(effect: Mapping[str, float]) -> str:
    return f"95 % interval {_points(effect['low'])} to {_points(effect['high'])}"


def _negated(effect: Mapping[str, float]) -> dict[str, float]:
    return {"mean": -effect["mean"], "low": -effect["high"], "high": -effect["low"]}


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g}"
