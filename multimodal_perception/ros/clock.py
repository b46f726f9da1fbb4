"""The node's time, also when use_sim_time is set but nothing publishes /clock."""

from __future__ import annotations

import time
from typing import Any

from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND

# /clock counts as missing or stopped after this time, s.
TIMEOUT_S = 1.0
# Larger steps of /clock are jumps, not its resolution. The resolution decreases by this factor per step.
MAX_STEP_NS = NANOSECONDS_PER_SECOND // 2
RESOLUTION_DECAY = 0.98
# A time of reception that differs by more than this from the present time is not valid.
MAX_RECEPTION_AGE_NS = 60 * NANOSECONDS_PER_SECOND


class NodeClock:
    """ROS time, continued by the steady clock while simulated time does not advance.

    Without /clock, ROS time is 0 for ever: no timer would fire, no frame would be completed and no
    problem reported. While a simulation is paused, no sensor messages arrive, and time stands still.

    resolution_ns: largest of the latest steps of simulated time; 0 without it.
    """

    def __init__(self, node: Any) -> None:
        self._clock = node.get_clock()
        self._started_ns = self._changed_ns = time.monotonic_ns()
        self._ros_ns = 0
        self._is_frozen = False
        self.resolution_ns = 0

    def arrival_ns(self, info: Any) -> int:
        """Return the time at which DDS received a message, in nanoseconds of the node's time.

        info: MessageInfo of the message, or None. Without it, and with simulated time, the arrival is
        now.
        """
        now_ns = self.now_ns()
        if info is None or self._clock.ros_time_is_active:
            return now_ns
        received_ns = int(info["received_timestamp"])
        is_valid = 0 <= now_ns - received_ns <= MAX_RECEPTION_AGE_NS
        return received_ns if is_valid else now_ns

    def now_ns(self) -> int:
        """Return the current time in nanoseconds."""
        ros_ns = int(self._clock.now().nanoseconds)
        if not self._clock.ros_time_is_active:
            return ros_ns
        steady_ns = time.monotonic_ns()
        if ros_ns != self._ros_ns:
            if self._ros_ns and 0 < ros_ns - self._ros_ns <= MAX_STEP_NS:
                decayed_ns = round(RESOLUTION_DECAY * self.resolution_ns)
                self.resolution_ns = max(ros_ns - self._ros_ns, decayed_ns)
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
