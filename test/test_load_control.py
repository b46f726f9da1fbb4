"""The load level rises while frames are too slow, falls with hysteresis, and is counted."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.load_control import LoadConfig, LoadController

LEVELS = ("full", "half_images", "no_refinement", "geometric")
PERIOD_S = 0.1


def run(controller: LoadController, times_s: tuple[float, ...], frames: int) -> list[int]:
    """Levels over frames whose time depends on the level: times_s[level]."""
    return [controller.observe(times_s[controller.level], PERIOD_S) for _ in range(frames)]


def test_level_stays_at_0_while_frames_fit() -> None:
    controller = LoadController(LEVELS)
    assert set(run(controller, (0.09,) * 4, 200)) == {0}
    assert controller.reason == "" and controller.counts == {"frames.full": 200}


def test_a_single_slow_frame_does_not_change_the_level() -> None:
    controller = LoadController(LEVELS)
    for k in range(100):
        assert controller.observe(0.5 if k % 20 == 19 else 0.08, PERIOD_S) == 0


def test_levels_are_raised_one_by_one_until_the_load_fits_and_are_counted() -> None:
    controller = LoadController(LEVELS)
    levels = run(controller, (0.3, 0.2, 0.08, 0.03), 30)
    assert levels[-1] == 2 and sorted(set(levels)) == [0, 1, 2]
    assert controller.counts["raised.half_images"] == controller.counts["raised.no_refinement"] == 1
    assert controller.level_name == "no_refinement"
    assert controller.reason == "frames took 200 ms of 100 ms: no_refinement"


def test_the_last_level_is_kept_if_even_it_is_too_slow() -> None:
    controller = LoadController(LEVELS)
    assert run(controller, (0.3,) * 4, 100)[-1] == 3


def test_full_operation_returns_after_the_load_has_been_low_for_long_enough() -> None:
    controller = LoadController(LEVELS, LoadConfig(recovery_s=2.0))
    run(controller, (0.3, 0.2, 0.15, 0.03), 20)
    assert controller.level == 3
    levels = run(controller, (0.04,) * 4, 200)
    assert levels[-1] == 0 and controller.reason == ""
    # 2 s (20 frames) for each level; some frames with a low load preceded these.
    assert levels.index(2) >= 15 and levels.index(0) >= 3 * 15
    assert controller.counts["lowered.full"] == 1


def test_failed_recoveries_become_rarer() -> None:
    """The load of a level cannot be known in advance: each failed attempt doubles the waiting time."""
    controller = LoadController(LEVELS, LoadConfig(recovery_s=2.0))
    levels = run(controller, (0.3, 0.2, 0.15, 0.03), 3000)
    attempts = [k for k in range(1, len(levels)) if levels[k] < levels[k - 1]]
    gaps = [b - a for a, b in itertools.pairwise(attempts)]
    assert 5 <= len(attempts) <= 40 and gaps[4] > 2 * gaps[0]
    assert max(gaps) <= 8 * 20 + 100  # at most eight times the recovery time


def test_a_level_between_the_limits_is_kept() -> None:
    controller = LoadController(LEVELS)
    run(controller, (0.3, 0.08, 0.08, 0.08), 10)
    assert set(run(controller, (0.3, 0.08, 0.08, 0.08), 1000)) == {1}


def test_slow_playback_is_no_load() -> None:
    controller = LoadController(LEVELS)
    assert {controller.observe(0.3, 0.5) for _ in range(100)} == {0}


@pytest.mark.parametrize(
    ("levels", "config"), [((), LoadConfig()), (LEVELS, LoadConfig(adapt=False))]
)
def test_the_level_is_not_raised_without_levels_or_if_disabled(
    levels: tuple, config: LoadConfig
) -> None:
    controller = LoadController(levels, config)
    assert {controller.observe(1.0, PERIOD_S) for _ in range(50)} == {0}
    assert sum(n for name, n in controller.counts.items() if name.startswith("frames.")) == 50


def test_limits_must_leave_a_hysteresis() -> None:
    with pytest.raises(ValueError, match="low_fraction must be below high_fraction"):
        LoadConfig(low_fraction=0.95)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.01, 2.0)), max_size=300))
def test_the_level_changes_by_one_at_a_time_and_every_change_is_counted(
    frames: list[tuple[float, float]],
) -> None:
    controller, levels = LoadController(LEVELS), [0]
    for busy_s, period_s in frames:
        levels.append(controller.observe(busy_s, period_s))
    changes = [b - a for a, b in itertools.pairwise(levels)]
    assert set(changes) <= {-1, 0, 1}
    counted = dict.fromkeys(("raised", "lowered"), 0)
    for name, n in controller.counts.items():
        if not name.startswith("frames."):
            counted[name.split(".")[0]] += n
    assert counted == {"raised": changes.count(1), "lowered": changes.count(-1)}
