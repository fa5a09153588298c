"""Read what is grafted from text: NAME[@WHERE][:option=value,...], in Python as on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..config import parse_named
from ..errors import ConfigError


@dataclass(frozen=True)
class PlanText:
    """The parts of such a text.

    Attributes:
        attention: its name; whether there is one is not checked here.
        where: placement, glob or path; None where the text names none.
        options: of the attention, and `init`.
    """

    attention: str
    where: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def parse_plan_text(text: str) -> PlanText:
    """Take the text apart.

    >>> parse_plan_text("cbam@stage:reduction=8")
    PlanText(attention='cbam', where='stage', options={'reduction': 8})

    Raises:
        ConfigError: no place after "@", or an option without a value.
    """
    head, options = parse_named(text)
    name, separator, where = head.partition("@")
    if separator and not where:
        raise ConfigError(f"'{text}' names no place after '@': write for example {name}@stage.")
    return PlanText(name, where or None, options)
