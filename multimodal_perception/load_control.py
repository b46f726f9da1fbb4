"""Selects how much a detector reduces its computing time while the load of the computer is too high.

The controller receives measured times and reads no clock. Its level is an index into the detector's
load_levels (see stages.LoadAdaptive): 0 is normal operation.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class LoadConfig:
    """Reaction of the node to a load at which it cannot process every frame.

    Attributes:
        adapt: Whether the node raises the load level of the detector while frames take longer than
            their period, and lowers it afterwards. Disable it if a dropped frame is preferable to a less
            accurate result.
        high_fraction: Median processing time of recent frames, as a fraction of the frame period, above
            which the load level is raised. Decrease it to keep a larger reserve for other programs;
            values above 1 allow frames to be dropped before the load is reduced.
        low_fraction: Median processing time, as a fraction of the frame period, below which the load
            level is lowered. Increase it to return to full accuracy sooner; a value close to
            high_fraction makes the level change more often.
        window_frames: Number of recent frames whose median counts. Increase it to ignore longer peaks of
            the load; the node then also reacts later.
        recovery_s: Time that the load has to stay below low_fraction before the load level is lowered.
            It doubles, up to eight times, after each attempt that ended in the higher load within this
            time. Increase it if the level changes too often.
    """

    adapt: bool = field(default=True, metadata={"dynamic": True})
    high_fraction: float = field(default=0.95, metadata={"min": 0.1, "max": 10.0, "dynamic": True})
    low_fraction: float = field(default=0.6, metadata={"min": 0.01, "max": 10.0, "dynamic": True})
    window_frames: int = field(default=10, metadata={"min": 1, "max": 1000})
    recovery_s: float = field(
        default=5.0, metadata={"min": 0.1, "max": 3600.0, "unit": "s", "dynamic": True}
    )

    def __post_init__(self) -> None:
        if self.low_fraction >= self.high_fraction:
            raise ValueError("low_fraction must be below high_fraction")


class LoadController:
    """The load level of a detector, with hysteresis.

    level: index into `levels`. counts: `raised.LEVEL` and `lowered.LEVEL`, number of changes to a level
    with more or less reduction; `frames.LEVEL`, number of frames at each level. reason: why
    the level is not 0, empty at level 0.
    """

    MAX_BACKOFF = 8

    def __init__(self, levels: Sequence[str], config: LoadConfig | None = None) -> None:
        """levels: names of the load levels, see stages.LoadAdaptive.load_levels."""
        self.config = config or LoadConfig()
        self.levels = tuple(levels)
        self.level = 0
        self.reason = ""
        self.counts: Counter[str] = Counter()
        self._fractions: deque[float] = deque(maxlen=self.config.window_frames)
        self._below_s = 0.0  # for how long the load has been low
        self._since_lowered_s = np.inf
        self._backoff = 1

    @property
    def level_name(self) -> str:
        """Name of the present load level."""
        return self.levels[self.level] if self.levels else "full"

    def observe(self, busy_s: float, period_s: float) -> int:
        """Record that a frame was processed, and return the level for the next frame.

        busy_s: processing time of the frame, including publication. period_s: time since the previous
        frame was completed by its readings, or the nominal period; must be positive.
        """
        self.counts[f"frames.{self.level_name}"] += 1
        if not self.config.adapt or len(self.levels) < 2:
            return self.level
        self._fractions.append(busy_s / period_s)
        elapsed_s = max(busy_s, period_s)
        self._since_lowered_s += elapsed_s
        load = float(np.median(self._fractions))
        enough = 2 * len(self._fractions) >= self.config.window_frames
        if load > self.config.high_fraction and enough:
            self._below_s = 0.0
            if self.level + 1 < len(self.levels):
                self._raise(load, period_s)
        elif load < self.config.low_fraction and enough:
            self._below_s += elapsed_s
            if self.level and self._below_s >= self._backoff * self.config.recovery_s:
                self._lower()
        else:
            self._below_s = 0.0
        return self.level

    def _raise(self, load: float, period_s: float) -> None:
        if self._since_lowered_s <= self.config.recovery_s:  # the last attempt to recover failed
            self._backoff = min(2 * self._backoff, self.MAX_BACKOFF)
        elif self.level == 0:
            self._backoff = 1
        self._change(self.level + 1, "raised")
        used_ms, period_ms = 1e3 * load * period_s, 1e3 * period_s
        self.reason = f"frames took {used_ms:.0f} ms of {period_ms:.0f} ms: {self.level_name}"

    def _lower(self) -> None:
        self._change(self.level - 1, "lowered")
        self._since_lowered_s = 0.0
        if self.level == 0:
            self.reason = ""

    def _change(self, level: int, direction: str) -> None:
        self.level = level
        self.counts[f"{direction}.{self.level_name}"] += 1
        self._fractions.clear()  # times of another level
        self._below_s = 0.0
