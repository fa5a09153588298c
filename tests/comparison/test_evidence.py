"""What the project's own comparisons recommend."""

from __future__ import annotations

import pytest

from attngraft.comparison import evidence
from attngraft.comparison.evidence import MeanEffect, Regime, evidence_for, regimes

GAIN = MeanEffect("coord", 0.09, 0.02, 0.16, 0.01, 1.2)
LARGER_BUT_UNSURE = MeanEffect("cbam", 0.12, -0.01, 0.25, 0.2)
NOT_AFTER_CORRECTION = MeanEffect("eca", 0.10, 0.001, 0.199, 0.3)


def regime(*effects: MeanEffect, pretrained: bool = False, most_parameters: int | None = None) -> Regime:
    return Regime("training so", pretrained, most_parameters, ("a", "b", "c"), 5, effects)


def test_only_what_gained_after_correction_is_recommended() -> None:
    found = regime(LARGER_BUT_UNSURE, NOT_AFTER_CORRECTION, GAIN)
    assert found.recommended is GAIN
    assert str(found) == (
        "recommended when training so: coord +9.0 points top-1 (95 % interval +2.0 to +16.0), 1.20 times the training time "
        "(3 data sets, 5 seeds each: docs/evidence.md)."
    )


def test_where_nothing_gained_the_plain_network_is_recommended() -> None:
    found = regime(NOT_AFTER_CORRECTION, LARGER_BUT_UNSURE)
    assert found.recommended is None
    assert "no attention, as none gained; the best was cbam +12.0 points" in str(found)


def test_a_regime_speaks_for_its_networks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    small, tuned = regime(GAIN, most_parameters=1000), regime(GAIN, pretrained=True)
    monkeypatch.setattr(evidence, "regimes", lambda: (tuned, small))
    assert evidence_for(1000, pretrained=False) is small
    assert evidence_for(1001, pretrained=False) is None
    assert evidence_for(10**9, pretrained=True) is tuned


def test_the_packaged_evidence_is_whole() -> None:
    """Its attentions can be grafted, and nothing is recommended against its own interval."""
    from attngraft.comparison import parse_variant

    for found in regimes():
        assert len(found.data_sets) >= 3
        assert found.seeds >= 3
        for effect in found.effects:
            assert not parse_variant(effect.variant).is_plain
            assert effect.low <= effect.mean <= effect.high
        assert found.recommended is None or found.recommended.low > 0
