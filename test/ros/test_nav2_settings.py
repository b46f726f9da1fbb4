"""config/nav2/costmaps.yaml against the parameters that Nav2's sources declare."""

from __future__ import annotations

from typing import Any

import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from multimodal_perception.resources import share_path
from multimodal_perception.ros.occupancy_outputs import MAP_TOPIC, OccupancyOutputConfig
from multimodal_perception.ros.outputs import FIXED_TOPICS
from multimodal_perception.ros.qos import MAP_QOS

PATH = share_path("config", "nav2", "costmaps.yaml")
# Parameters that all of Nav2 1.1.20 (Humble), 1.3.13 (Jazzy), 1.4.2 (Kilted) and 1.5.1 declare:
# nav2_costmap_2d/plugins/*_layer.cpp, src/costmap_2d_ros.cpp; nav2_lifecycle_manager.
COSTMAP = {
    "always_send_full_costmap",
    "filters",
    "footprint",
    "footprint_padding",
    "global_frame",
    "height",
    "lethal_cost_threshold",
    "origin_x",
    "origin_y",
    "plugins",
    "publish_frequency",
    "resolution",
    "robot_base_frame",
    "robot_radius",
    "rolling_window",
    "track_unknown_space",
    "transform_tolerance",
    "trinary_costmap",
    "unknown_cost_value",
    "update_frequency",
    "use_maximum",
    "width",
}
STATIC = {
    "enabled",
    "footprint_clearing_enabled",
    "map_subscribe_transient_local",
    "map_topic",
    "subscribe_to_updates",
}
OBSTACLE = {
    "combination_method",
    "enabled",
    "footprint_clearing_enabled",
    "max_obstacle_height",
    "min_obstacle_height",
    "observation_sources",
}
# min_obstacle_height of the voxel layer exists since 1.3; earlier versions ignore it.
VOXEL = OBSTACLE | {
    "mark_threshold",
    "origin_z",
    "publish_voxel_map",
    "unknown_threshold",
    "z_resolution",
    "z_voxels",
}
INFLATION = {
    "cost_scaling_factor",
    "enabled",
    "inflate_around_unknown",
    "inflate_unknown",
    "inflation_radius",
}
SOURCE = {
    "clearing",
    "data_type",
    "expected_update_rate",
    "inf_is_valid",
    "marking",
    "max_obstacle_height",
    "min_obstacle_height",
    "observation_persistence",
    "obstacle_max_range",
    "obstacle_min_range",
    "raytrace_max_range",
    "raytrace_min_range",
    "sensor_frame",
    "topic",
}
LAYERS = {
    "nav2_costmap_2d::StaticLayer": STATIC,
    "nav2_costmap_2d::ObstacleLayer": OBSTACLE,
    "nav2_costmap_2d::VoxelLayer": VOXEL,
    "nav2_costmap_2d::InflationLayer": INFLATION,
}
LIFECYCLE_MANAGER = {
    "attempt_respawn_reconnection",
    "autostart",
    "bond_respawn_max_duration",
    "bond_timeout",
    "node_names",
}


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(PATH.read_text())
    return content


def layers(costmap: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: costmap[name] for name in costmap["plugins"]}


def costmaps(settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [settings[n][n]["ros__parameters"] for n in ("global_costmap", "local_costmap")]


def test_nav2_declares_every_parameter(settings: dict[str, Any]) -> None:
    for costmap in costmaps(settings):
        own = layers(costmap)
        assert costmap.keys() - own.keys() <= COSTMAP
        for layer in own.values():
            sources = layer.get("observation_sources", "").split()
            assert layer.keys() - {"plugin", *sources} <= LAYERS[layer["plugin"]]
            for source in sources:
                assert layer[source].keys() <= SOURCE
    manager = settings["lifecycle_manager_perception"]["ros__parameters"]
    assert manager.keys() <= LIFECYCLE_MANAGER
    assert manager["bond_timeout"] == 0.0 and manager["node_names"] == ["perception"]


def test_topics_types_and_qualities_of_service_are_those_of_the_node(
    settings: dict[str, Any],
) -> None:
    for costmap in costmaps(settings):
        for layer in layers(costmap).values():
            for source in layer.get("observation_sources", "").split():
                kind = FIXED_TOPICS[layer[source]["topic"].removeprefix("/")]
                assert kind.endswith("/" + layer[source]["data_type"])
                # Nav2's default of 0 for a source would drop every point.
                assert layer[source]["max_obstacle_height"] > 0
                # The layer's limits, by default 0 to 2 m, are used besides those of the source.
                assert layer["min_obstacle_height"] <= layer[source]["min_obstacle_height"]
                assert layer["max_obstacle_height"] >= layer[source]["max_obstacle_height"]
    static = costmaps(settings)[0]["static_layer"]
    assert static["map_topic"] == f"/{MAP_TOPIC}" and static["map_subscribe_transient_local"]
    assert MAP_QOS.durability is DurabilityPolicy.TRANSIENT_LOCAL
    assert MAP_QOS.reliability is ReliabilityPolicy.RELIABLE


def test_the_static_layer_keeps_unknown_cells_and_costs_between_free_and_lethal(
    settings: dict[str, Any],
) -> None:
    costmap = costmaps(settings)[0]
    lethal, unknown = costmap["lethal_cost_threshold"], costmap["unknown_cost_value"]

    def cost(value: int) -> int:
        """StaticLayer::interpretValue of Nav2 1.3 for a value of nav_msgs/OccupancyGrid."""
        byte = value & 0xFF
        if byte == unknown:
            return 255 if costmap["track_unknown_space"] else 0
        if byte >= lethal:
            return 254
        return 0 if costmap["trinary_costmap"] else int(byte / lethal * 254)

    assert [cost(v) for v in (-1, 0, 100)] == [255, 0, 254]
    assert 0 < cost(30) < cost(60) < 254
    # Without a rolling window, the layer does not transform the map.
    assert not costmap["rolling_window"] and costmap["global_frame"] == "odom"
    assert OccupancyOutputConfig().map_size > 0


def test_rcl_reads_the_file(settings: dict[str, Any]) -> None:
    context = Context()
    rclpy.init(args=["--ros-args", "--params-file", str(PATH)], context=context)
    node = rclpy.create_node(
        "lifecycle_manager_perception",
        context=context,
        automatically_declare_parameters_from_overrides=True,
    )
    assert node.get_parameter("bond_timeout").value == 0.0
    node.destroy_node()
    rclpy.shutdown(context=context)
