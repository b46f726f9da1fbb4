"""The node's time, also when use_sim_time is set but nothing publishes /clock."""

from __future__ import annotations

import time
from typing import Any

from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND

# /clock counts as missing or stopped after this time, s.
TIMEOUT_S = 1.0


class NodeClock:
    """ROS time, continued by the steady clock while simulated time does not advance.

    Without /clock, ROS time is 0 for ever: no timer would fire, no frame would be completed and no
    problem reported. While a simulation is paused, no sensor messages arrive, and time stands still.
    """

    def __init__(self, node: Any) -> None:
        self._clock = node.get_clock()
        self._started_ns = self._changed_ns = time.monotonic_ns()
        self._ros_ns = 0
        self._is_frozen = False

    def now_ns(self) -> int:
        """Return the current time in nanoseconds."""
        ros_ns = int(self._clock.now().nanoseconds)
        if not self._clock.ros_time_is_active:
            return ros_ns
        steady_ns = time.monotonic_ns()
        if ros_ns != self._ros_ns:
            self._ros_ns, self._changed_ns, self._is_frozen = ros_ns, steady_ns, False
        if ros_ns == 0:
            return steady_ns
        return ros_ns + (steady_ns - self._changed_ns if self._is_frozen else 0)

    def on_message(self) -> None:
        """Record that a sensor message has arrived."""
        if self._clock.ros_time_is_active and self._stopped_s() > TIMEOUT_S:
            self._is_frozen = True

    @property
    def problem(self) -> str:
        """Description of a missing or stopped /clock; empty if the time is valid."""
        if not self._clock.ros_time_is_active:
            return ""
        self.now_ns()
        if self._ros_ns == 0:
            waited_s = (time.monotonic_ns() - self._started_ns) / NANOSECONDS_PER_SECOND
            text = "no /clock: use_sim_time is set, but no time has been published"
            return text if waited_s > TIMEOUT_S else ""
        if self._is_frozen:
            return f"no /clock for {self._stopped_s():.1f} s, although sensors publish"
        return ""

    def _stopped_s(self) -> float:
        self.now_ns()
        return (time.monotonic_ns() - self._changed_ns) / NANOSECONDS_PER_SECOND
