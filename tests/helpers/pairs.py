"""Tests over many circumstances of which every two meet, as most faults need no third; all combinations are slow tests.

`@over(layout=LAYOUTS)` stands above a test once for each circumstance, `@only_where(...)` says which combinations make
sense, and `tests/conftest.py` hands both to `parametrize_in_pairs`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, groupby, product
from typing import Any

import pytest

Case = tuple[int, ...]  # which value of each circumstance


def over(**values: Iterable[Any]) -> pytest.MarkDecorator:
    """Circumstances of a test, each with its values, some of them perhaps in `pytest.param` with marks."""
    return pytest.mark.over(**{name: [_param(value) for value in these] for name, these in values.items()})


def _param(value: Any) -> Any:
    return value if isinstance(value, type(pytest.param())) else pytest.param(value)


def only_where(allowed: Callable[..., bool]) -> pytest.MarkDecorator:
    """Leave out combinations that make no sense; the function takes one value of each circumstance by its name."""
    return pytest.mark.only_where.with_args(allowed)


def parametrize_in_pairs(metafunc: pytest.Metafunc) -> None:
    """Give a test the combinations of its circumstances; those beyond the pairs only where slow tests may run."""
    marks = [mark.kwargs for mark in metafunc.definition.iter_markers("over")]
    values = {name: these for mark in reversed(marks) for name, these in mark.items()}
    rules = [mark.args[0] for mark in metafunc.definition.iter_markers("only_where")]

    if not values:
        return

    def allowed(case: Case) -> bool:
        named = {name: these[at].values[0] for (name, these), at in zip(values.items(), case, strict=True)}
        return all(rule(**named) for rule in rules)

    cases = [case for case in product(*(range(len(these)) for these in values.values())) if allowed(case)]
    few = set(every_pair(cases))
    if "not slow" in metafunc.config.option.markexpr:
        cases = sorted(few)
    parameters = [
        _joined([these[at] for these, at in zip(values.values(), case, strict=True)], case not in few) for case in cases
    ]
    metafunc.parametrize(tuple(values), parameters)


def _joined(parts: list[Any], slow: bool) -> Any:
    marks = [mark for part in parts for mark in part.marks] + [pytest.mark.slow] * slow
    return pytest.param(
        *(part.values[0] for part in parts), id="-".join(str(part.values[0]) for part in parts), marks=marks
    )


def every_pair(cases: Sequence[Case]) -> list[Case]:
    """Few of the combinations, in their order, in which any two values meet that meet in one of them."""
    met: Counter[Any] = Counter()
    chosen = []
    for group in _that_share_the_longest_two(cases):
        best = max(group, key=lambda case: _worth(case, met))
        if _worth(best, met)[0]:
            chosen.append(best)
            met.update(_pairs(best))
    for case in cases:  # what the best of each group have left over
        if _worth(case, met)[0]:
            chosen.append(case)
            met.update(_pairs(case))
    return sorted(chosen)


def _that_share_the_longest_two(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    """Groups of combinations that differ only in the circumstances with the fewest values."""
    if not cases:
        return
    lengths = [len(set(values)) for values in zip(*cases, strict=True)]
    longest = sorted(range(len(lengths)), key=lengths.__getitem__)[-2:]

    def shared(case: Case) -> list[int]:
        return [case[position] for position in longest]

    for _, group in groupby(sorted(cases, key=shared), key=shared):
        yield list(group)


def _pairs(case: Case) -> list[Any]:
    return list(combinations(enumerate(case), 2)) or [case]


def _worth(case: Case, met: Counter[Any]) -> tuple[int, int]:
    """How many pairs it brings that have not met, and how rarely the others have."""
    times = [met[pair] for pair in _pairs(case)]
    return times.count(0), -sum(times)
