"""A detector that is too slow for 2 Hz at full accuracy, and has one faster load level."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from multimodal_perception.frame import Boxes3D, SensorFrame

SLOW_FRAMES, SLOW_S = 10, 0.6


class SlowDetector:
    """Takes SLOW_S per frame at level 0 for the first SLOW_FRAMES frames, as on a loaded computer."""

    name = "slow"
    uses_proposals = uses_masks = False
    load_levels = ("full", "quick")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._level = self._frames = 0

    def set_load_level(self, level: int) -> None:
        self._level = level

    def prepare(self, frame: SensorFrame) -> None:
        pass

    def detect(self, frame: SensorFrame, *_: Any) -> Boxes3D:
        self._frames += 1
        if self._level == 0 and self._frames <= SLOW_FRAMES:
            time.sleep(SLOW_S)
        return Boxes3D.empty(frame.stamp_ns, frame.base_frame)
