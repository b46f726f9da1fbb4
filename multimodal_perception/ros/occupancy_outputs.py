"""Topics of the occupancy grid, and the rates at which they are published."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from multimodal_perception.frame import Boxes3D
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.messages.encoders import occupancy_to_message
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.occupancy.layers import (
    LAYERS,
    OccupancyValuesConfig,
    coarsen,
    layer_percent,
    occupancy_percent,
    semantic_percent,
)
from multimodal_perception.perception import OccupancyGrid

GRID_TOPIC = "perception/occupancy"
MAP_TOPIC = "perception/map"
LAYER_TOPICS = {f"{GRID_TOPIC}/{name}": name for name in LAYERS}


@dataclass(frozen=True)
class OccupancyOutputConfig:
    """Publication of the occupancy grid.

    Attributes:
        rate_hz: Rate of the grid on perception/occupancy; 0 publishes it with every frame. Decrease
            it to reduce network traffic.
        layer_rate_hz: Rate of each layer (free, occupied, ...), which is published only while it
            has a subscriber; 0 publishes it with every frame. Decrease it to save computing time.
        map_rate_hz: Rate of the latched map on perception/map; 0 disables it. Set it to 0 if no
            planner uses the map.
        map_resolution: Cell size of the map, rounded to a multiple of the grid's cell size; a map
            cell takes the value of its most occupied grid cell. Increase it for planners that need
            a coarse map.
        values: Conversion of evidence to the values of nav_msgs/OccupancyGrid.
    """

    rate_hz: float = field(default=0.0, metadata={"min": 0.0, "max": 100.0, "unit": "Hz"})
    layer_rate_hz: float = field(default=2.0, metadata={"min": 0.0, "max": 100.0, "unit": "Hz"})
    map_rate_hz: float = field(default=1.0, metadata={"min": 0.0, "max": 20.0, "unit": "Hz"})
    map_resolution: float = field(default=0.4, metadata={"min": 0.05, "max": 10.0, "unit": "m"})
    values: OccupancyValuesConfig = field(default_factory=OccupancyValuesConfig)


class OccupancyOutputs:
    """Converts grids to messages at the configured rates, measured by the stamps of the frames."""

    def __init__(self, types: MessageTypes, config: OccupancyOutputConfig) -> None:
        self._types, self._config = types, config
        self._due_ns: dict[str, int] = {}

    def messages(
        self,
        grid: OccupancyGrid,
        boxes: Boxes3D,
        odom_grid: OccupancyGrid | None,
        has_subscribers: Callable[[str], bool],
    ) -> Iterator[tuple[str, Any]]:
        """Topic and message of everything that is due at the grid's stamp.

        boxes: in the grid's frame, for the semantic layer. odom_grid: the same evidence aligned with the
        odometry frame, for the map; if None (no odometry), the map is in the grid's frame.
        has_subscribers: of a topic; without them only the latched map is published.
        """
        c, stamp_ns = self._config, grid.stamp_ns
        if has_subscribers(GRID_TOPIC) and self._due(GRID_TOPIC, c.rate_hz, stamp_ns):
            yield (
                GRID_TOPIC,
                occupancy_to_message(self._types, grid, occupancy_percent(grid, c.values)),
            )
        for topic, name in LAYER_TOPICS.items():
            if has_subscribers(topic) and self._due(topic, c.layer_rate_hz, stamp_ns):
                semantic = name == "semantic"
                cells = semantic_percent(grid, boxes) if semantic else layer_percent(grid, name)
                yield topic, occupancy_to_message(self._types, grid, cells)
        if c.map_rate_hz > 0 and self._due(MAP_TOPIC, c.map_rate_hz, stamp_ns):
            source = grid if odom_grid is None else odom_grid
            rows, columns = source.free.shape
            factor = min(max(round(c.map_resolution / source.resolution), 1), rows, columns)
            reduced = coarsen(source, factor)
            yield (
                MAP_TOPIC,
                occupancy_to_message(self._types, reduced, occupancy_percent(reduced, c.values)),
            )

    def _due(self, topic: str, rate_hz: float, stamp_ns: int) -> bool:
        """Whether a topic's next message is due. A stamp far before the last one restarts the rate."""
        if rate_hz <= 0:
            return True
        period_ns = math.ceil(NANOSECONDS_PER_SECOND / rate_hz)
        due_ns = self._due_ns.get(topic)
        if due_ns is not None and due_ns - period_ns <= stamp_ns < due_ns:
            return False
        # The period starts at the due time, not at the stamp: 10 Hz frames give 4 Hz instead of 3.3.
        late = due_ns is not None and due_ns <= stamp_ns < due_ns + period_ns
        self._due_ns[topic] = (due_ns if late and due_ns is not None else stamp_ns) + period_ns
        return True
