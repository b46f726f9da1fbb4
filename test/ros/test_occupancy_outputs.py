"""Publication of the occupancy grid: rates by stamps, topics with subscribers, the latched map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from multimodal_perception.files import UserError
from multimodal_perception.frame import Boxes3D
from multimodal_perception.geometry import poses
from multimodal_perception.messages import message_types
from multimodal_perception.occupancy.map_file import MapFormat
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.ros.occupancy_outputs import (
    GRID_TOPIC,
    LAYER_TOPICS,
    MAP_TOPIC,
    MAP_UPDATES_TOPIC,
    OccupancyOutputConfig,
    OccupancyOutputs,
)

TYPES = message_types.RclpyTypes()
MS = 1_000_000


def messages(
    outputs: OccupancyOutputs,
    stamp_ns: int,
    *subscribed: str,
    odom: bool = True,
    corner: tuple[float, float] = (4.0, 5.0),
    pose: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    free, occupied = np.zeros((10, 10), np.float32), np.zeros((10, 10), np.float32)
    free[:5], occupied[7, 7] = 0.9, 0.9
    grid = OccupancyGrid(stamp_ns, "base_link", 0.2, (-1.0, -1.0), free, occupied)
    aligned = OccupancyGrid(stamp_ns, "odom", 0.2, corner, free, occupied) if odom else None
    boxes = Boxes3D.empty(stamp_ns, "base_link")
    return dict(outputs.messages(grid, boxes, aligned, lambda topic: topic in subscribed, pose))


def at(grid_map: Any, x: float, y: float) -> int:
    """Value of the cell of a map that contains a point, m."""
    info = grid_map.info
    column = int((x - info.origin.position.x) / info.resolution)
    row = int((y - info.origin.position.y) / info.resolution)
    return int(grid_map.data[row * info.width + column])


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


def test_the_map_is_coarser_keeps_its_origin_and_survives_a_loss_of_odometry() -> None:
    outputs = OccupancyOutputs(TYPES, OccupancyOutputConfig(map_size=40.0))
    without_odometry = messages(outputs, 0, odom=False)[MAP_TOPIC]
    assert without_odometry.header.frame_id == "base_link"
    first = messages(outputs, 1_000 * MS)[MAP_TOPIC]
    assert first.header.frame_id == "odom" and (first.info.width, first.info.height) == (100, 100)
    assert abs(first.info.resolution - 0.4) < 1e-6 and at(first, 5.5, 6.5) == 100
    later = messages(outputs, 2_000 * MS, corner=(8.0, 5.0))[MAP_TOPIC]
    assert later.info.origin == first.info.origin
    assert at(later, 9.5, 6.5) == 100 and at(later, 5.5, 6.5) == 100  # remembered
    # A map in another frame would be misplaced by the planner.
    assert messages(outputs, 3_000 * MS, odom=False) == {}
    assert at(messages(outputs, 4_000 * MS)[MAP_TOPIC], 9.5, 6.5) == 100


def test_a_map_without_a_size_is_the_aligned_surroundings_of_the_vehicle() -> None:
    outputs = OccupancyOutputs(TYPES, OccupancyOutputConfig(map_size=0.0))
    for k, corner in enumerate(((4.0, 5.0), (4.2, 5.2), (-7.8, 0.6))):
        rolling = messages(outputs, 1_000 * MS * k, corner=corner)[MAP_TOPIC]
        origin = rolling.info.origin.position
        assert rolling.info.width in (4, 5) and rolling.header.frame_id == "odom"
        assert abs(origin.x / 0.4 - round(origin.x / 0.4)) < 1e-5
        assert 0 <= origin.x - corner[0] < 0.4
        assert at(rolling, corner[0] + 1.5, corner[1] + 1.5) == 100


def test_changes_of_the_map_are_published_between_complete_maps_with_subscribers() -> None:
    pytest.importorskip("map_msgs", reason="changes of the map need map_msgs")
    outputs = OccupancyOutputs(TYPES, OccupancyOutputConfig(map_size=40.0), has_map_updates=True)
    assert set(messages(outputs, 0, MAP_UPDATES_TOPIC)) == {MAP_TOPIC}
    assert messages(outputs, 200 * MS) == {}
    update = messages(outputs, 400 * MS, MAP_UPDATES_TOPIC, corner=(8.0, 5.2))[MAP_UPDATES_TOPIC]
    assert set(messages(outputs, 600 * MS, MAP_UPDATES_TOPIC, corner=(8.0, 5.2))) == {
        MAP_UPDATES_TOPIC
    }
    full = messages(outputs, 1_000 * MS, MAP_UPDATES_TOPIC, corner=(8.0, 5.2))[MAP_TOPIC]
    cells = np.array(full.data).reshape(full.info.height, full.info.width)
    part = cells[update.y : update.y + update.height, update.x : update.x + update.width]
    assert (part == np.array(update.data).reshape(part.shape)).all() and (part == 100).any()
    assert update.header.frame_id == full.header.frame_id
    # An update refers to the origin of the last complete map: a new origin needs a complete map.
    moved = messages(outputs, 1_200 * MS, MAP_UPDATES_TOPIC, corner=(400.0, 5.2))
    assert set(moved) == {MAP_TOPIC}
    assert moved[MAP_TOPIC].info.origin != full.info.origin


def test_the_map_is_cleared_by_a_reset_and_by_a_jump_of_the_odometry() -> None:
    outputs = OccupancyOutputs(TYPES, OccupancyOutputConfig(map_size=40.0))
    for reset in (True, False):
        messages(outputs, 0, corner=(4.0, 5.0))
        stamp_ns = 100 * MS
        if reset:
            outputs.reset()
        else:
            stamp_ns, elsewhere = 300 * MS, poses.from_xyz_rpy((90.0, 0.0, 0.0))
            messages(outputs, 200 * MS, pose=np.eye(4))
            messages(outputs, stamp_ns, pose=elsewhere)
        cleared = messages(outputs, stamp_ns + MS, corner=(8.0, 5.0))
        if MAP_TOPIC in cleared:
            assert (
                at(cleared[MAP_TOPIC], 5.5, 6.5) == -1 and at(cleared[MAP_TOPIC], 9.5, 6.5) == 100
            )
        outputs.reset()


def test_the_saved_map_is_the_published_one(tmp_path: Path) -> None:
    outputs = OccupancyOutputs(TYPES, OccupancyOutputConfig(map_size=40.0))
    with pytest.raises(UserError, match="no map yet"):
        outputs.save(tmp_path / "map", MapFormat())
    published = messages(outputs, 0)[MAP_TOPIC]
    yaml_path, image_path = outputs.save(tmp_path / "map", MapFormat())
    image = cv2.imread(str(image_path), cv2.IMREAD_UNCHANGED)
    cells = np.flipud(np.array(published.data, np.int16).reshape(100, 100))
    assert (image[cells == 100] == 0).all() and (image[cells == 0] == 254).all()
    assert (image[cells == -1] == 205).all() and (cells == 100).any() and (cells == 0).any()
    assert yaml.safe_load(yaml_path.read_text())["origin"] == pytest.approx(
        [published.info.origin.position.x, published.info.origin.position.y, 0]
    )


def test_rates_are_kept_by_stamps_and_restart_when_a_bag_loops() -> None:
    config = OccupancyOutputConfig(rate_hz=4.0, layer_rate_hz=2.0, map_rate_hz=0.0)
    outputs = OccupancyOutputs(TYPES, config)
    assert count(outputs, GRID_TOPIC, range(0, 10_000, 100), GRID_TOPIC) == 40
    free = f"{GRID_TOPIC}/free"
    assert count(outputs, free, range(10_000, 20_000, 100), free) == 20
    assert count(outputs, MAP_TOPIC, range(20_000, 22_000, 100)) == 0
    assert GRID_TOPIC in messages(outputs, 0, GRID_TOPIC)  # time went back
    assert count(outputs, GRID_TOPIC, range(100, 1_000, 100), GRID_TOPIC) == 3
