"""Render a page to HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .number_format import shortened

# control characters, and those that turn the direction of all that follows: a name can hold them, a page may not
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, title: str, page: Mapping[str, Any]) -> str:
    """Fill a template of this package; every text is escaped."""
    html = _environment().get_template(template).render(title=title, page=page)
    html = CONTROLS.sub("\ufffd", html)
    return html.encode("utf-8", "replace").decode("utf-8")  # a name can hold what no encoding can


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = shortened
    return environment
