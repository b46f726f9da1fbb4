"""Opinions: closed-form values, and properties of Dempster's rule for any opinions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.opinions import (
    Opinions,
    ReliabilityConfig,
    SourceReliability,
    combine,
    contradiction,
    discount,
    from_evidence,
    source_errors,
    vacuous,
)

TENTH = 100_000_000


def opinion(*belief: float) -> Opinions:
    return Opinions(np.array([belief]), np.array([1.0 - sum(belief)]))


@st.composite
def opinions(draw: st.DrawFn) -> Opinions:
    """Opinions about two objects and three classes, some of them certain or vacuous."""
    rows = []
    for _ in range(2):
        masses = draw(st.lists(st.sampled_from([0.0, 1e-8, 0.1, 1.0, 7.0]), min_size=4, max_size=4))
        masses[3] += 0.0 if any(masses) else 1.0
        rows.append(np.array(masses) / sum(masses))
    values = np.array(rows)
    return Opinions(values[:, :3], values[:, 3])


def assert_equal(first: Opinions, second: Opinions) -> None:
    assert first.belief == pytest.approx(second.belief, abs=1e-7)
    assert first.uncertainty == pytest.approx(second.uncertainty, abs=1e-7)


def test_opinion_of_evidence() -> None:
    found = from_evidence(np.array([[8.0, 0.0], [0.0, 0.0]]))
    assert found.belief == pytest.approx(np.array([[0.8, 0.0], [0.0, 0.0]]))
    assert found.uncertainty == pytest.approx([0.2, 1.0])
    assert found.probability() == pytest.approx(np.array([[0.9, 0.1], [0.5, 0.5]]))
    assert found.evidence() == pytest.approx(np.array([[8.0, 0.0], [0.0, 0.0]]))


def test_combination_of_two_opinions_is_that_of_the_paper() -> None:
    first, second = opinion(0.6, 0.1), opinion(0.3, 0.5)
    conflict = 0.6 * 0.5 + 0.1 * 0.3
    found = combine([first, second])
    assert found.conflict == pytest.approx([conflict])
    assert contradiction(first, second) == pytest.approx([conflict])
    expected = np.array([0.6 * 0.3 + 0.6 * 0.2 + 0.3 * 0.3, 0.1 * 0.5 + 0.1 * 0.2 + 0.5 * 0.3])
    assert found.opinions.belief[0] == pytest.approx(expected / (1 - conflict))
    assert found.opinions.uncertainty == pytest.approx([0.3 * 0.2 / (1 - conflict)])


@given(opinions(), opinions(), opinions())
def test_combination_is_commutative_and_masses_have_the_sum_one(
    a: Opinions, b: Opinions, c: Opinions
) -> None:
    found = combine([a, b, c])
    assert_equal(found.opinions, combine([c, a, b]).opinions)
    assert ((found.conflict >= 0) & (found.conflict <= 1)).all()
    total = found.opinions.belief.sum(axis=1) + found.opinions.uncertainty
    assert total == pytest.approx([1.0, 1.0])


@given(opinions(), opinions(), opinions())
def test_combination_is_associative_without_total_contradiction(
    a: Opinions, b: Opinions, c: Opinions
) -> None:
    left, right = combine([a, b]), combine([b, c])
    if max(left.conflict.max(), right.conflict.max(), combine([a, b, c]).conflict.max()) > 0.999:
        return
    assert_equal(combine([left.opinions, c]).opinions, combine([a, right.opinions]).opinions)
    assert_equal(combine([left.opinions, c]).opinions, combine([a, b, c]).opinions)


@given(opinions())
def test_missing_source_changes_nothing(a: Opinions) -> None:
    found = combine([a, vacuous(2, 3), vacuous(2, 3)])
    assert_equal(found.opinions, a)
    assert found.conflict == pytest.approx([0.0, 0.0], abs=1e-12)
    assert_equal(combine([a]).opinions, a)


@given(opinions(), st.floats(0, 1))
def test_discounting_moves_belief_to_uncertainty(a: Opinions, reliability: float) -> None:
    found = discount(a, reliability)
    assert found.belief == pytest.approx(reliability * a.belief)
    assert_equal(discount(a, 1.0), a)
    assert_equal(discount(a, 0.0), vacuous(2, 3))


def test_total_contradiction_is_vacuous_with_conflict_one() -> None:
    found = combine([opinion(1.0, 0.0), opinion(0.0, 1.0)])
    assert_equal(found.opinions, vacuous(1, 2))
    assert found.conflict == pytest.approx([1.0])


def test_many_sources_do_not_underflow() -> None:
    found = combine([opinion(0.4, 0.3)] * 5000)
    assert np.isfinite(found.opinions.belief).all()
    assert found.opinions.belief[0] == pytest.approx([1.0, 0.0], abs=1e-6)
    agreeing = combine([opinion(0.001, 0.0)] * 2000)
    assert agreeing.opinions.uncertainty == pytest.approx([0.999**2000])


def test_no_objects_are_combined_too() -> None:
    assert len(combine([vacuous(0, 3), vacuous(0, 3)]).opinions) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Opinions(np.zeros((2, 3)), np.zeros(2)), "sum 1"),
        (lambda: Opinions(np.array([[1.5, -0.5]]), np.zeros(1)), "sum 1"),
        (lambda: Opinions(np.array([[np.nan, 0.5]]), np.zeros(1)), "sum 1"),
        (lambda: Opinions(np.zeros(3), np.ones(3)), "must be"),
        (lambda: from_evidence(np.array([[-1.0, 0.0]])), "not negative"),
        (lambda: from_evidence(np.array([[np.inf, 0.0]])), "finite"),
        (lambda: combine([]), "at least one"),
        (lambda: combine([vacuous(1, 2), vacuous(1, 3)]), "same objects"),
        (lambda: discount(vacuous(1, 2), 1.1), "in \\[0, 1\\]"),
    ],
)
def test_invalid_opinions_are_errors(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


def test_source_with_wrong_opinions_loses_its_weight_within_two_seconds_and_recovers() -> None:
    reliability = SourceReliability(ReliabilityConfig(1.0, 0.2, 0.5))
    sources = {"lidar": opinion(0.8, 0.0), "camera": opinion(0.0, 0.9), "thermal": vacuous(1, 2)}
    for step in range(21):
        reliability.update(step * TENTH, source_errors(sources, {0: 0}))
    assert reliability.unreliable() == ["camera"] and reliability.reliability("lidar") == 1.0
    assert reliability.reliability("camera") < 0.2 and reliability.reliability("thermal") == 1.0
    right = {"lidar": opinion(0.8, 0.0), "camera": opinion(0.9, 0.0)}
    for step in range(21, 61):
        reliability.update(step * TENTH, source_errors(right, np.array([0])))
    assert reliability.unreliable() == [] and reliability.reliability("camera") == 1.0


def test_unconfirmed_objects_are_no_errors_and_stamps_that_go_back_clear_the_errors() -> None:
    reliability = SourceReliability(ReliabilityConfig(0.1))
    sources = {"camera": opinion(0.0, 0.9)}
    assert source_errors(sources, np.array([-1])) == {"camera": (0.0, 0.0)}
    for step in range(10):
        reliability.update(step * TENTH, source_errors(sources, {0: 0}))
    assert reliability.unreliable() == ["camera"]
    reliability.update(0, {})
    assert reliability.unreliable() == []
