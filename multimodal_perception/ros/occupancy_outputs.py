"""The occupancy grid's topics: which message goes out when."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from multimodal_perception.frame import Boxes3D
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.messages.encoders import occupancy_to_message
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.occupancy.layers import (
    LAYERS,
    PercentConfig,
    coarser,
    layer_percent,
    percent,
    semantic_percent,
)
from multimodal_perception.perception import OccupancyGrid

GRID_TOPIC = "perception/occupancy"
MAP_TOPIC = "perception/map"
LAYER_TOPICS = {f"{GRID_TOPIC}/{name}": name for name in LAYERS}


@dataclass(frozen=True)
class OccupancyOutputConfig:
    """How often and how fine occupancy is published.

    rate_hz: of the grid; 0 is every frame. layer_rate_hz: of each layer, while someone listens to it;
    0 is every frame. map_rate_hz: of the latched map; 0 is never. map_cell: its cells, a whole
    multiple of the grid's; the worst of the cells inside counts.
    """

    rate_hz: float = field(default=0.0, metadata={"min": 0.0, "max": 100.0, "unit": "Hz"})
    layer_rate_hz: float = field(default=2.0, metadata={"min": 0.0, "max": 100.0, "unit": "Hz"})
    map_rate_hz: float = field(default=1.0, metadata={"min": 0.0, "max": 20.0, "unit": "Hz"})
    map_cell: float = field(default=0.4, metadata={"min": 0.05, "max": 10.0, "unit": "m"})
    percent: PercentConfig = field(default_factory=PercentConfig)


class OccupancyOutputs:
    """Grids to messages at the configured rates, by the frames' stamps."""

    def __init__(self, types: MessageTypes, config: OccupancyOutputConfig) -> None:
        self._types, self._config = types, config
        self._due_ns: dict[str, int] = {}

    def messages(
        self,
        grid: OccupancyGrid,
        boxes: Boxes3D,
        odom_grid: OccupancyGrid | None,
        heard: Callable[[str], bool],
    ) -> Iterator[tuple[str, Any]]:
        """(topic, message) of what is due now.

        boxes: in the grid's frame, for the semantic layer. odom_grid: the same evidence along odom's
        axes, for the map; without it (no odometry) the map is in the grid's frame. heard: whether
        anyone listens to a topic, asked for the layers alone.
        """
        c, stamp_ns = self._config, grid.stamp_ns
        if self._due(GRID_TOPIC, c.rate_hz, stamp_ns):
            yield GRID_TOPIC, occupancy_to_message(self._types, grid, percent(grid, c.percent))
        for topic, name in LAYER_TOPICS.items():
            if heard(topic) and self._due(topic, c.layer_rate_hz, stamp_ns):
                semantic = name == "semantic"
                cells = semantic_percent(grid, boxes) if semantic else layer_percent(grid, name)
                yield topic, occupancy_to_message(self._types, grid, cells)
        if c.map_rate_hz > 0 and self._due(MAP_TOPIC, c.map_rate_hz, stamp_ns):
            fine = grid if odom_grid is None else odom_grid
            rows, columns = fine.free.shape
            factor = min(max(round(c.map_cell / fine.resolution), 1), rows, columns)
            small = coarser(fine, factor)
            yield MAP_TOPIC, occupancy_to_message(self._types, small, percent(small, c.percent))

    def _due(self, topic: str, rate_hz: float, stamp_ns: int) -> bool:
        """Whether a topic's next message is due; a stamp far before the last one starts anew."""
        if rate_hz <= 0:
            return True
        period_ns = math.ceil(NANOSECONDS / rate_hz)
        due_ns = self._due_ns.get(topic)
        if due_ns is not None and due_ns - period_ns <= stamp_ns < due_ns:
            return False
        # Counted on from when it was due, so that 10 Hz frames give 4 Hz and not 3.3.
        late = due_ns is not None and due_ns <= stamp_ns < due_ns + period_ns
        self._due_ns[topic] = (due_ns if late and due_ns is not None else stamp_ns) + period_ns
        return True
