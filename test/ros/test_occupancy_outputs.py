"""Publication of the occupancy grid: rates by stamps, topics with subscribers, the latched map."""

from __future__ import annotations

from typing import Any

import numpy as np

from multimodal_perception.frame import Boxes3D
from multimodal_perception.messages import message_types
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.ros.occupancy_outputs import (
    GRID_TOPIC,
    LAYER_TOPICS,
    MAP_TOPIC,
    OccupancyOutputConfig,
    OccupancyOutputs,
)

TYPES = message_types.RclpyTypes()
MS = 1_000_000


def messages(
    outputs: OccupancyOutputs, stamp_ns: int, *subscribed: str, odom: bool = True
) -> dict[str, Any]:
    free, occupied = np.zeros((10, 10), np.float32), np.zeros((10, 10), np.float32)
    free[:5], occupied[7, 7] = 0.9, 0.9
    grid = OccupancyGrid(stamp_ns, "base_link", 0.2, (-1.0, -1.0), free, occupied)
    aligned = OccupancyGrid(stamp_ns, "odom", 0.2, (4.0, 5.0), free, occupied) if odom else None
    boxes = Boxes3D.empty(stamp_ns, "base_link")
    return dict(outputs.messages(grid, boxes, aligned, lambda topic: topic in subscribed))


def count(outputs: OccupancyOutputs, topic: str, stamps: range, *subscribed: str) -> int:
    return sum(topic in messages(outputs, stamp * MS, *subscribed) for stamp in stamps)


def test_the_grid_and_its_layers_are_published_only_with_subscribers() -> None:
    outputs = OccupancyOutputs(TYPES, OccupancyOutputConfig(layer_rate_hz=0.0))
    assert set(messages(outputs, 0)) == {MAP_TOPIC}
    assert set(messages(outputs, 50 * MS, GRID_TOPIC)) == {GRID_TOPIC}
    layers = messages(outputs, 100 * MS, *LAYER_TOPICS)
    assert set(layers) == {*LAYER_TOPICS}
    data = {LAYER_TOPICS[t]: np.array(layers[t].data).reshape(10, 10) for t in LAYER_TOPICS}
    assert data["free"][0, 0] == 90 and data["occupied"][7, 7] == 90
    assert data["unknown"][9, 9] == 100 and data["conflict"].max() == 0
    assert data["semantic"][0, 0] == 0 and data["semantic"][7, 7] == 1
    assert data["semantic"][9, 9] == -1


def test_the_map_is_coarser_and_in_odom_or_in_base_link_without_odometry() -> None:
    outputs = OccupancyOutputs(TYPES, OccupancyOutputConfig())
    grid_map = messages(outputs, 0)[MAP_TOPIC]
    assert grid_map.header.frame_id == "odom" and (grid_map.info.width, grid_map.info.height) == (
        5,
        5,
    )
    assert abs(grid_map.info.resolution - 0.4) < 1e-6
    assert (grid_map.info.origin.position.x, grid_map.info.origin.position.y) == (4.0, 5.0)
    assert np.array(grid_map.data).reshape(5, 5)[3, 3] == 100
    without_odometry = messages(outputs, 10_000 * MS, odom=False)[MAP_TOPIC]
    assert without_odometry.header.frame_id == "base_link"


def test_rates_are_kept_by_stamps_and_restart_when_a_bag_loops() -> None:
    config = OccupancyOutputConfig(rate_hz=4.0, layer_rate_hz=2.0, map_rate_hz=0.0)
    outputs = OccupancyOutputs(TYPES, config)
    assert count(outputs, GRID_TOPIC, range(0, 10_000, 100), GRID_TOPIC) == 40
    free = f"{GRID_TOPIC}/free"
    assert count(outputs, free, range(10_000, 20_000, 100), free) == 20
    assert count(outputs, MAP_TOPIC, range(20_000, 22_000, 100)) == 0
    assert GRID_TOPIC in messages(outputs, 0, GRID_TOPIC)  # time went back
    assert count(outputs, GRID_TOPIC, range(100, 1_000, 100), GRID_TOPIC) == 3
