"""What pages share."""

from __future__ import annotations

from markupsafe import Markup

from attngraft.reporting.page_parts import _in_parts


def test_names_break_between_their_parts_and_stay_escaped() -> None:
    found = _in_parts(Markup("cbam@decoder:kernel=7 &lt;b&gt;<small>a, b</small>"))
    assert isinstance(found, Markup)
    assert found == "cbam@<wbr>decoder:<wbr>kernel=<wbr>7 &lt;b&gt;<small>a, b</small>"
