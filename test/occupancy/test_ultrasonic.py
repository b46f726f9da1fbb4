"""Ultrasonic cones: free and occupied masses, confirmation, rejected readings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_perception.frame import SensorFrame, UltrasonicReading
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.occupancy.cells import GridGeometry
from multimodal_perception.occupancy.ultrasonic import UltrasonicConfig, UltrasonicModel

CELLS = GridGeometry.around_base(120, 0.1)
PERIOD = NANOSECONDS_PER_SECOND // 10
HALF = 0.5


def reading(
    range_m: float, sensor: str = "us", stamp: int = 0, **values: float
) -> UltrasonicReading:
    limits = {"min_range": 0.2, "max_range": 5.0, "field_of_view": 2 * HALF, **values}
    return UltrasonicReading(sensor, stamp, sensor, range_m, **limits)


def frame_of(
    *readings: UltrasonicReading, stamp: int = 0, yaws: dict[str, float] | None = None
) -> SensorFrame:
    yaws = yaws or {}
    mounts = {
        r.sensor: poses.from_xyz_rpy((0.05, 0.05, 0.5), (0, 0, yaws.get(r.sensor, 0.0)))
        for r in readings
    }
    return SensorFrame(stamp, ultrasonics={r.sensor: r for r in readings}, base_from_sensor=mounts)


def at(layer: np.ndarray, x: float, y: float) -> float:
    return float(layer[math.floor((y + 6.0) / 0.1), math.floor((x + 6.0) / 0.1)])


def confirmed_masses(
    range_m: float, config: UltrasonicConfig | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Free and occupied masses of the second of two equal readings."""
    model = UltrasonicModel(config)
    model.evidence(frame_of(reading(range_m)), CELLS)
    result = model.evidence(frame_of(reading(range_m, stamp=PERIOD), stamp=PERIOD), CELLS)
    assert result is not None
    return result[:2]


def test_echo_gives_free_cone_and_occupied_arc() -> None:
    free, occupied = confirmed_masses(3.0)
    c = UltrasonicConfig()
    # Along the axis: the profiles of Moravec and Elfes at the cell centres.
    inner = 3.0 - c.range_error
    for distance in (0.5, 1.0, 2.0):
        expected = c.free_mass * (1 - (distance / inner) ** 2)
        assert at(free, 0.05 + distance, 0.05) == pytest.approx(expected, abs=1e-4)
    assert at(occupied, 3.05, 0.05) == pytest.approx(c.occupied_mass, abs=1e-3)
    # The mass decreases with the square of the angle to the axis.
    y = 1.0
    x = 0.05 + math.sqrt(9 - y * y)
    column, row = math.floor((x + 6) / 0.1), math.floor((y + 6.05) / 0.1)
    dx, dy = (column + 0.5) * 0.1 - 6.05, (row + 0.5) * 0.1 - 6.05
    off = math.atan2(dy, dx) / HALF
    radial = 1 - ((math.hypot(dx, dy) - 3.0) / c.range_error) ** 2
    assert occupied[row, column] == pytest.approx(c.occupied_mass * (1 - off**2) * radial, abs=1e-4)
    # No mass behind the arc, beside the cone or behind the sensor.
    for x, y in ((3.6, 0.05), (1.0, 1.0), (-1.0, 0.05)):
        assert at(free, x, y) == 0 and at(occupied, x, y) == 0


@pytest.mark.parametrize("range_m", [math.inf, 5.0])
def test_no_echo_gives_free_mass_only(range_m: float) -> None:
    free, occupied = confirmed_masses(range_m)
    assert occupied.max() == 0
    assert at(free, 1.05, 0.05) == pytest.approx(0.3 * (1 - (1.0 / 5.0) ** 2), abs=1e-4)


def test_object_below_min_range_gives_occupied_mass_only() -> None:
    free, occupied = confirmed_masses(-math.inf)
    assert free.max() == 0
    assert at(occupied, 0.15, 0.05) == pytest.approx(0.7, abs=1e-4)
    assert at(occupied, 0.45, 0.05) == 0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (reading(math.nan), "no_range"),
        (reading(1.0, min_range=5.0, max_range=0.2), "bad_limits"),
        (reading(1.0, max_range=math.nan), "bad_limits"),
        (reading(1.0, field_of_view=0.0), "bad_field_of_view"),
        (reading(1.0, field_of_view=5e-324), "bad_field_of_view"),
        (reading(1.0, field_of_view=math.nan), "bad_field_of_view"),
        (reading(1.0, field_of_view=7.0), "bad_field_of_view"),
        (reading(0.1), "outside_limits"),
        (reading(9.0), "outside_limits"),
    ],
)
def test_invalid_reading_is_rejected_and_counted(bad: UltrasonicReading, reason: str) -> None:
    model = UltrasonicModel()
    assert model.evidence(frame_of(bad), CELLS) is None
    assert model.counts == {reason: 1}


def test_sensors_with_invalid_poses_are_counted() -> None:
    model = UltrasonicModel()
    uncalibrated = SensorFrame(0, ultrasonics={"us": reading(1.0)})
    assert model.evidence(uncalibrated, CELLS) is None
    for pose in (np.full((4, 4), np.nan), poses.from_xyz_rpy((0, 0, 0), (0, 1.4, 0))):
        frame = SensorFrame(0, ultrasonics={"us": reading(1.0)}, base_from_sensor={"us": pose})
        assert model.evidence(frame, CELLS) is None
    far = poses.from_xyz_rpy((500.0, 0, 0))
    frame = SensorFrame(0, ultrasonics={"us": reading(1.0)}, base_from_sensor={"us": far})
    assert model.evidence(frame, CELLS) is None
    assert model.counts == {"no_extrinsics": 1, "bad_pose": 1, "not_level": 1, "outside_map": 1}


def test_cross_talk_gives_free_mass_only() -> None:
    model, occupied = UltrasonicModel(), []
    for k, range_m in enumerate((4.0, 4.0, 1.5, 4.0, 4.0)):
        stamp = k * PERIOD
        result = model.evidence(frame_of(reading(range_m, stamp=stamp), stamp=stamp), CELLS)
        assert result is not None
        occupied.append(result[1].max())
        if k == 2:
            assert at(result[0], 1.0, 0.05) > 0.2
    # The first echo has no earlier one; the third one differs.
    assert [m > 0.5 for m in occupied] == [False, True, False, True, True]
    assert model.counts == {"unconfirmed": 2}


def test_echo_is_confirmed_by_a_neighbour_with_the_same_position() -> None:
    yaws = {"a": 0.2, "b": -0.2}
    together = frame_of(reading(3.0, "a"), reading(3.05, "b"), yaws=yaws)
    result = UltrasonicModel().evidence(together, CELLS)
    assert result is not None and result[1].max() > 0.5
    different = frame_of(reading(3.0, "a"), reading(1.0, "b"), yaws=yaws)
    result = UltrasonicModel().evidence(different, CELLS)
    assert result is not None and result[1].max() == 0
    opposite = frame_of(reading(3.0, "a"), reading(3.0, "b"), yaws={"a": 0.0, "b": 2.5})
    result = UltrasonicModel().evidence(opposite, CELLS)
    assert result is not None and result[1].max() == 0


def test_repeated_reading_does_not_confirm_itself() -> None:
    model = UltrasonicModel()
    for _ in range(3):
        result = model.evidence(frame_of(reading(2.0)), CELLS)
        assert result is not None and result[1].max() == 0


def test_arc_in_a_neighbours_free_cone_has_less_mass() -> None:
    single = confirmed_masses(3.0)[1]
    model = UltrasonicModel()
    for k in range(2):
        both = frame_of(
            reading(3.0, "us", k * PERIOD), reading(4.5, "b", k * PERIOD), stamp=k * PERIOD
        )
        result = model.evidence(both, CELLS)
    assert result is not None
    assert 0 < at(result[1], 3.05, 0.05) < 0.8 * at(single, 3.05, 0.05)


def test_silent_sensor_is_reported_until_it_publishes_again() -> None:
    model = UltrasonicModel()
    model.evidence(frame_of(reading(2.0, "a"), reading(2.0, "b")), CELLS)
    assert model.silent == frozenset()
    stamp = 2 * NANOSECONDS_PER_SECOND
    invalid = reading(math.nan, "b", stamp)
    model.evidence(frame_of(reading(2.0, "a", stamp), invalid, stamp=stamp), CELLS)
    assert model.silent == {"b"}
    stamp += PERIOD
    model.evidence(frame_of(reading(2.0, "a", stamp), reading(2.0, "b", stamp), stamp=stamp), CELLS)
    assert model.silent == frozenset()


def test_number_of_sensors_in_memory_is_limited() -> None:
    model = UltrasonicModel()
    for k in range(500):
        model.evidence(frame_of(reading(2.0, f"us{k}", k), stamp=k), CELLS)
    assert len(model._history) <= 64 and len(model._last_ns) <= 64


@settings(max_examples=100)
@given(
    st.floats(width=64) | st.floats(0.2, 5.0),
    st.floats(-1, 10),
    st.floats(-1, 10),
    st.floats(-1, 4) | st.just(math.nan),
    st.floats(-4, 4),
)
def test_masses_are_valid_for_any_reading(
    range_m: float, low: float, high: float, view: float, yaw: float
) -> None:
    model = UltrasonicModel()
    for k in range(2):
        measurement = reading(
            range_m, stamp=k * PERIOD, min_range=low, max_range=high, field_of_view=view
        )
        frame = frame_of(measurement, stamp=k * PERIOD, yaws={"us": yaw})
        result = model.evidence(frame, CELLS)
    if result is not None:
        free, occupied, _ = result
        assert free.min() >= 0 and occupied.min() >= 0
        assert (free + occupied).max() <= 1 + 1e-6
