"""Topics of the occupancy grid, and the rates at which they are published."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.files import UserError
from multimodal_perception.frame import Boxes3D
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.messages.encoders import (
    occupancy_to_message,
    occupancy_update_to_message,
)
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.occupancy.accumulated_map import (
    AccumulatedMap,
    Window,
    align_and_coarsen,
)
from multimodal_perception.occupancy.layers import (
    LAYERS,
    OccupancyValuesConfig,
    layer_percent,
    occupancy_percent,
    semantic_percent,
)
from multimodal_perception.occupancy.map_file import MapFormat, write_map
from multimodal_perception.perception import OccupancyGrid

GRID_TOPIC = "perception/occupancy"
MAP_TOPIC = "perception/map"
# The name that Nav2's static layer, its costmap publishers and RViz use for changes of MAP_TOPIC.
MAP_UPDATES_TOPIC = f"{MAP_TOPIC}_updates"
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
        map_update_rate_hz: Rate at which changes of the map are published on perception/map_updates
            between complete maps, while this topic has a subscriber. Increase it for costmaps with
            subscribe_to_updates that must react faster than map_rate_hz; 0 disables it.
        map_resolution: Cell size of the map, rounded to a multiple of the grid's cell size; a map
            cell takes the value of its most occupied grid cell. Increase it for planners that need
            a coarse map.
        map_size: Side of the map, which keeps its origin in the odometry frame and the cells that
            the vehicle has passed. Set it to 0 to publish only the surroundings of the vehicle, with
            an origin that moves with it, for costmaps with a rolling window.
        map_folder: Folder in which the service save_map writes maps; if empty, `maps` in ROS_HOME or
            in ~/.ros. Set it to a folder that is kept after a restart of the container; files
            outside of it are refused.
        map_name: Name of the file that the service save_map writes, without extension. Change it
            before a call to keep earlier maps.
        values: Conversion of evidence to the values of nav_msgs/OccupancyGrid.
    """

    rate_hz: float = field(
        default=0.0, metadata={"min": 0.0, "max": 100.0, "unit": "Hz", "dynamic": True}
    )
    layer_rate_hz: float = field(
        default=2.0, metadata={"min": 0.0, "max": 100.0, "unit": "Hz", "dynamic": True}
    )
    map_rate_hz: float = field(
        default=1.0, metadata={"min": 0.0, "max": 20.0, "unit": "Hz", "dynamic": True}
    )
    map_update_rate_hz: float = field(
        default=5.0, metadata={"min": 0.0, "max": 100.0, "unit": "Hz", "dynamic": True}
    )
    map_resolution: float = field(default=0.4, metadata={"min": 0.05, "max": 10.0, "unit": "m"})
    map_size: float = field(default=200.0, metadata={"min": 0.0, "max": 2000.0, "unit": "m"})
    map_folder: str = ""
    map_name: str = field(default="map", metadata={"dynamic": True})
    values: OccupancyValuesConfig = field(default_factory=OccupancyValuesConfig)


class OccupancyOutputs:
    """Converts grids to messages at the configured rates, measured by the stamps of the frames.

    config: may be replaced while frames are processed. `reset` and `save` may be called from another
    thread.
    """

    def __init__(
        self, types: MessageTypes, config: OccupancyOutputConfig, has_map_updates: bool = False
    ) -> None:
        """has_map_updates: whether map_msgs, the package of the map's updates, is installed."""
        self.config = config
        self._types, self._has_map_updates = types, has_map_updates
        self._due_ns: dict[str, int] = {}
        self._map = AccumulatedMap(config.map_size, config.map_resolution)
        self._last: OccupancyGrid | None = None
        self._published_origin = 0
        self._lock = threading.Lock()

    def messages(
        self,
        grid: OccupancyGrid,
        boxes: Boxes3D,
        odom_grid: OccupancyGrid | None,
        has_subscribers: Callable[[str], bool],
        odom_from_base: NDArray[np.float64] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Topic and message of everything that is due at the grid's stamp.

        boxes: in the grid's frame, for the semantic layer. odom_grid: the same evidence aligned with the
        odometry frame, for the map; if None (no odometry), the map is in the grid's frame.
        odom_from_base: pose (4, 4) of the vehicle. has_subscribers: of a topic; without them only the
        latched map is published.
        """
        c, stamp_ns = self.config, grid.stamp_ns
        if has_subscribers(GRID_TOPIC) and self._due(GRID_TOPIC, c.rate_hz, stamp_ns):
            yield GRID_TOPIC, self._message(grid)
        for topic, name in LAYER_TOPICS.items():
            if has_subscribers(topic) and self._due(topic, c.layer_rate_hz, stamp_ns):
                semantic = name == "semantic"
                cells = semantic_percent(grid, boxes) if semantic else layer_percent(grid, name)
                yield topic, occupancy_to_message(self._types, grid, cells)
        with self._lock:
            if self._map.observe_motion(stamp_ns, odom_from_base):
                self._due_ns.pop(MAP_TOPIC, None)
        last = self._last
        if c.map_rate_hz <= 0:
            return
        if odom_grid is None:
            # While odometry is lost, planners keep the last map instead of one in another frame.
            if last is None or last.frame_id == grid.frame_id:
                yield from self._rolling_map(grid)
        elif c.map_size > 0:
            yield from self._map_messages(odom_grid, has_subscribers)
        else:
            yield from self._rolling_map(odom_grid)

    def reset(self) -> None:
        """Delete the map. It starts again with the next frame."""
        with self._lock:
            self._map.clear()
            self._last = None
            self._due_ns.pop(MAP_TOPIC, None)

    def save(self, path: Path, map_format: MapFormat) -> tuple[Path, Path]:
        """Write the map as files of map_server; returns their paths. Raises UserError without a map."""
        with self._lock:
            grid = self._last if self._last is None else self._map.snapshot(self._last.stamp_ns)
            grid = grid or self._last
        if grid is None:
            raise UserError(
                "there is no map yet; it needs a frame, and occupancy.map_rate_hz above 0"
            )
        cells = occupancy_percent(grid, self.config.values)
        return write_map(path, cells, grid.resolution, grid.origin, map_format)

    def _map_messages(
        self, grid: OccupancyGrid, has_subscribers: Callable[[str], bool]
    ) -> Iterator[tuple[str, Any]]:
        """The complete map when it is due or its origin has changed, otherwise its window if due."""
        c, stamp_ns = self.config, grid.stamp_ns
        updates = self._has_map_updates and has_subscribers(MAP_UPDATES_TOPIC)
        full_due = self._due(MAP_TOPIC, c.map_rate_hz, stamp_ns)
        update_due = c.map_update_rate_hz > 0 and self._due(
            MAP_UPDATES_TOPIC, c.map_update_rate_hz, stamp_ns
        )
        if not (full_due or (updates and update_due)):
            return
        with self._lock:
            window = self._map.add(grid)
            # An update refers to the origin of the last complete map.
            full_due = full_due or self._map.origins != self._published_origin
            copy = self._map.snapshot(stamp_ns, None if full_due else window)
            self._published_origin = self._map.origins
            self._last = copy if full_due else self._last
        assert copy is not None
        yield self._full_map(copy) if full_due else self._update(copy, window)

    def _rolling_map(self, grid: OccupancyGrid) -> Iterator[tuple[str, Any]]:
        """The surroundings of the vehicle, aligned with multiples of the map's cell size."""
        if not self._due(MAP_TOPIC, self.config.map_rate_hz, grid.stamp_ns):
            return
        coarse = align_and_coarsen(grid, self.config.map_resolution)[0]
        with self._lock:
            self._last = coarse
        yield self._full_map(coarse)

    def _full_map(self, grid: OccupancyGrid) -> tuple[str, Any]:
        return MAP_TOPIC, self._message(grid)

    def _update(self, grid: OccupancyGrid, window: Window) -> tuple[str, Any]:
        cells = occupancy_percent(grid, self.config.values)
        corner = window.column, window.row
        return MAP_UPDATES_TOPIC, occupancy_update_to_message(self._types, grid, cells, corner)

    def _message(self, grid: OccupancyGrid) -> Any:
        return occupancy_to_message(self._types, grid, occupancy_percent(grid, self.config.values))

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
