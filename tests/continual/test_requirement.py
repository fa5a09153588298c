"""Requirements and budgets are read as they were meant, or refused in one sentence that says where and why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngraft.continual.search.budget import Clock, parse_budget
from attngraft.continual.search.requirement import Clause, Requirement, quantities_of
from attngraft.continual.search.requirement import parse_requirement as parse
from attngraft.errors import ConfigError, RunError
from attngraft.tasks import Classification

KNOWN = quantities_of(Classification(tuple("abcdefg")))


def parse_requirement(text: str) -> Requirement:
    return parse(text, KNOWN)


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    names = draw(st.lists(st.sampled_from(sorted(KNOWN)), min_size=1, unique=True))
    clauses = []
    for name in names:
        kind = KNOWN[name]
        top = min(0.999 * kind.bounds[1], 1e12)
        number = draw(st.floats(0.0 if kind.higher_is_better else 1e-9, top))
        operators = [">=", ">"] if kind.higher_is_better else ["<=", "<"]
        clauses.append(Clause(kind, draw(st.sampled_from(operators)), number))
    return Requirement(tuple(clauses))


@given(requirements())
def test_what_is_written_reads_back_as_the_same(requirement: Requirement) -> None:
    assert parse_requirement(str(requirement)) == requirement


@given(requirements(), st.text(" \t", max_size=3))
def test_blanks_do_not_matter(requirement: Requirement, blank: str) -> None:
    parts = [str(c).replace(c.operator, f"{blank}{c.operator}{blank}") for c in requirement.clauses]
    text = f"{blank} and {blank}".join(parts)
    assert parse_requirement(f"{blank}{text}{blank}") == requirement


@given(st.text("top1ece loss<>=.5%and", max_size=20) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_requirement(text)
    except ConfigError:
        return
    assert parse_requirement(str(found)) == found


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("top1>=0.93", [("top1", ">=", 0.93)]),
        ("top1>=93%", [("top1", ">=", 0.93)]),
        ("top1 > 93.1 %", [("top1", ">", 0.931)]),
        ("TOP1>=.5", [("top1", ">=", 0.5)]),
        ("worst-class>=80% and latency_ms<5", [("worst_class", ">=", 0.8), ("latency_ms", "<", 5.0)]),
        ("parameters<=5e6 and macs<=1E9", [("parameters", "<=", 5e6), ("macs", "<=", 1e9)]),
        ("ece<=5%", [("ece", "<=", 0.05)]),
    ],
)
def test_readable_requirements(text: str, clauses: list[tuple[str, str, float]]) -> None:
    assert [(c.metric, c.operator, c.number) for c in parse_requirement(text).clauses] == clauses


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read at its end: expected a metric"),
        ("top1", "cannot be read at its end: expected one of >=, >, <=, <"),
        ("top1>=", "at its end: expected a number"),
        ("top1>=many", "at 'many': expected a number"),
        ("top1>=0.9 or top5>=0.9", "at 'or top5>=0.9': expected 'and' or the end"),
        ("top1>=0.9 and", "expected"),
        ("top1==0.9", "at '==0.9': expected one of"),
        ("topp1>=0.9", "unknown metric 'topp1' in the requirement: did you mean 'top1'?"),
        ("top1>=93", "cannot be: top1 is a fraction, expected 0 to below 1; write 93% for percent"),
        ("top1>1", "cannot be shown with any number of images"),
        ("top1>=1", "cannot be shown with any number of images"),
        ("loss<0", "never below 0"),
        ("ece<=0", "never below 0"),
        ("latency_ms<=-1", "never below 0"),
        ("top1>=1e999", "too large"),
        ("loss<=5%", "loss is not a fraction, so leave out the '%'"),
        ("top1<=0.5", "asks for worse, as higher top1 is better: write top1>="),
        ("parameters>1e6", "asks for worse, as lower parameters is better"),
        ("top1>=0.9 and top1<=0.8", "'top1>=0.9' and 'top1<=0.8' contradict each other"),
        ("loss<0.3 and loss>0.3", "contradict"),
        ("top1>=0.9 and top1>=0.95", "asked for twice"),
        ("top1>=0.5 and top1<=0.8", "asks for worse"),
    ],
)
def test_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_requirement(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value", "holds", "margin"),
    [
        ("top1>=0.9", 0.9, True, 0.0),
        ("top1>0.9", 0.9, False, 0.0),
        ("loss<=0.5", 0.25, True, 0.5),
        ("latency_ms<4", 5.0, False, -0.25),
    ],
)
def test_margin_and_verdict_of_a_clause(text: str, value: float, holds: bool, margin: float) -> None:
    clause = parse_requirement(text).clauses[0]
    assert clause.holds(value) is holds
    assert clause.margin(value) == pytest.approx(margin)


def test_what_was_asked_is_not_rounded() -> None:
    assert parse_requirement("top1>=93.125%").clauses[0].required() == "at least 93.125 %"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("45m", 2700),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1h 30m 5s", 5405),
        ("0.5h", 1800),
        ("12", 12),
        (7, 7),
    ],
)
def test_budgets(text: str | int, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5d", "30m1h", "-5m", "0s", 0, -1, float("nan"), float("inf")])
def test_budgets_that_are_none(text: str | float) -> None:
    with pytest.raises(ConfigError, match="budget"):
        parse_budget(text)


def test_time_counts_over_sittings(tmp_path) -> None:
    first = Clock(tmp_path / "clock.json", 100.0, started=-1e3)
    assert first.used_s > 1e3
    first.write()
    second = Clock(tmp_path / "clock.json", 5000.0)
    assert second.used_s >= 1e3
    assert second.left_s <= 4000.0
    (tmp_path / "clock.json").write_text('{"used_s": -3}')
    with pytest.raises(RunError, match="how much time was used"):
        Clock(tmp_path / "clock.json", 100.0)
