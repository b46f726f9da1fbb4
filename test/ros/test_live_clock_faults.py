"""Wrong clocks and lost odometry over DDS; the fault matrix is in test/synchronization."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from tf2_msgs.msg import TFMessage

from multimodal_perception.geometry import poses
from multimodal_perception.messages import encoders
from multimodal_perception.perception import Level
from multimodal_perception.ros.qos import MOTION_QOS, OUTPUT_QOS
from test.messages.clouds import lidar, rig
from test.ros.conftest import START_S
from test.ros.test_no_silent_loss import TYPES, Client, echo, scene, sonar, started_client

# Sensors publish at 10 Hz in real time.
pytestmark = [pytest.mark.live, pytest.mark.serial]

SONARS = ("left", "right", "rear")
SENSORS = ("lidar", *SONARS)
PERIOD_S = 0.1
DAY_S = 86_400.0


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Client]]:
    with started_client() as function:
        yield function


class Vehicle:
    """Publishes a LiDAR, three ultrasonic sensors and odometry, and collects the missing sensors."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.frames: list[tuple[float, frozenset[str]]] = []
        client.node.create_subscription(
            DiagnosticArray, "/perception/timing", self._on_timing, OUTPUT_QOS
        )
        self._next_s = time.monotonic()
        self._step = 0

    def _on_timing(self, msg: Any) -> None:
        _, _, missing = msg.status[1].message.partition("missing: ")
        self.frames.append((time.monotonic(), frozenset(filter(None, missing.split(", ")))))

    def run(
        self,
        seconds: float,
        offsets_s: dict[str, float] | None = None,
        silent: tuple[str, ...] = (),
    ) -> None:
        """Publish at 10 Hz. offsets_s: error of the clock by sensor or "odometry"."""
        for _ in range(round(seconds / PERIOD_S)):
            time.sleep(max(self._next_s - time.monotonic(), 0.0))
            self._next_s = max(self._next_s + PERIOD_S, time.monotonic())
            self._step += 1
            for name in (*SENSORS, "odometry"):
                if name not in silent:
                    error_ns = round(1e9 * (offsets_s or {}).get(name, 0.0))
                    self.publish(name, self.client.now_ns() + error_ns)

    def run_until(self, condition: Callable[[], bool], what: str, **more: Any) -> None:
        """Publish at 10 Hz until a condition holds, for up to 40 s. more: see `run`."""
        for _ in range(80):
            if condition():
                return
            self.run(0.5, **more)
        raise AssertionError(f"{what}: {self.client.statuses}")

    def run_until_used(self, names: Iterable[str], **more: Any) -> None:
        """Publish until at least 80 % of the frames of 2 s contain each sensor, for up to 20 s.

        A single pause of a busy computer must not fail a test; muted sensors stay absent for ever. The
        time of the recovery is tested in simulated time, in test/synchronization.
        """
        rates = {}
        for _ in range(10):
            since_s = time.monotonic()
            self.run(2.0, **more)
            rates = {name: self.used(name, since_s + 0.3) for name in names}
            if min(rates.values()) >= 0.8:
                return
        raise AssertionError(rates)

    def publish(self, name: str, stamp_ns: int) -> None:
        if name == "lidar":
            self.client.publish("/points", scene(stamp_ns))
        elif name == "odometry":
            pose = poses.from_xyz_rpy((0.1 * self._step, 0, 0))
            entry = encoders.transform_to_message(TYPES, pose, "odom", "base_link", stamp_ns)
            self.client.publish("/tf", TFMessage(transforms=[entry]), MOTION_QOS)
        else:
            self.client.publish(f"/{name}", echo(stamp_ns, name, 1.0, 0.2, 4.0))

    def count(self, key: str) -> int:
        """A count of the pipeline's status."""
        values = dict(line.split(": ", 1) for line in self.client.values("pipeline").splitlines())
        return int(values.get(key, 0))

    def used(self, name: str, since_s: float) -> float:
        """Fraction of the frames since a time that contain a reading of a sensor."""
        frames = [missing for at_s, missing in self.frames if at_s >= since_s]
        return sum(name not in missing for missing in frames) / max(len(frames), 1)


@pytest.fixture(scope="module")
def vehicle(start: Callable[..., Client]) -> Vehicle:
    result = Vehicle(start(rig(lidar(), *map(sonar, SONARS)), deadline_s="0.09"))
    # All publishers and the node discover each other.
    end_s = time.monotonic() + START_S
    while not result.frames or result.used("rear", time.monotonic() - 2.0) < 1.0:
        assert time.monotonic() < end_s
        result.run(1.0)
    return result


@pytest.mark.parametrize(
    ("culprit", "offset_s", "gap_s"),
    [("left", 0.3, 0.7), ("lidar", 0.5, 0.0), ("rear", -3.0, 0.3)],
)
def test_wrong_clock_mutes_no_other_sensor(
    vehicle: Vehicle, culprit: str, offset_s: float, gap_s: float
) -> None:
    wrong = {culprit: offset_s}
    clock_jumps = vehicle.count("clock_jumps")
    vehicle.run(1.0, wrong)
    vehicle.run(gap_s, wrong, ("lidar",))
    vehicle.run(1.0, wrong)
    vehicle.run_until_used(set(SENSORS) - {culprit}, offsets_s=wrong)
    client = vehicle.client

    def is_blamed() -> bool:
        status = client.statuses[culprit]
        level = status.level[0]
        levels = (Level.WARN.value, Level.ERROR.value)
        return level in levels and "the clock of most sensors" in status.message

    vehicle.run_until(is_blamed, f"status of {culprit}", offsets_s=wrong)
    for name in set(SENSORS) - {culprit}:
        assert "clock of most" not in client.statuses[name].message
    # The sensor is used again after its clock is corrected.
    vehicle.run(1.0)
    vehicle.run_until_used([culprit])
    assert vehicle.count("clock_jumps") == clock_jumps


def test_odometry_is_lost_and_found(vehicle: Vehicle) -> None:
    client = vehicle.client

    def is_available() -> bool:
        return client.is_level("odometry", Level.OK)

    def is_lost() -> bool:
        return client.is_level("odometry", Level.WARN, "odometry lost")

    vehicle.run_until(is_available, "odometry")
    before = vehicle.count("dropped./tf.stamp_ahead")
    vehicle.publish("odometry", client.now_ns() + round(DAY_S * 1e9))  # a single one
    vehicle.run_until(lambda: vehicle.count("dropped./tf.stamp_ahead") != before, "dropped pose")
    vehicle.run(1.0)
    assert vehicle.count("dropped./tf.stamp_ahead") == before + 1
    vehicle.run_until(is_available, "odometry after a single wrong pose")
    vehicle.run_until(is_lost, "wrong odometry", offsets_s={"odometry": DAY_S})
    vehicle.run_until(is_available, "correct odometry")
    vehicle.run_until(is_lost, "silent odometry", silent=("odometry",))
