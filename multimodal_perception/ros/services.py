"""Services of the node: reset and save the map, switch stages off and on."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import SetBool, Trigger

from multimodal_perception import stages
from multimodal_perception.configuration import UserError
from multimodal_perception.occupancy.map_file import MapFormat, resolve_map_path
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.rig_topics import resolve_topic
from multimodal_perception.ros.occupancy_outputs import MAP_TOPIC, OccupancyOutputs

RESET_MAP, SAVE_MAP, SAVE_MAP_AS = "~/reset_map", "~/save_map", "~/save_map_as"


def set_enabled_service(stage: str) -> str:
    """Name of the service that switches a stage (a key of stages.ATTRIBUTES) off and on."""
    return f"~/{stage}/set_enabled"


def maps_folder(configured: str) -> Path:
    """The configured folder of maps, or `maps` in ROS_HOME or in ~/.ros."""
    if configured:
        return Path(configured)
    return Path(os.environ.get("ROS_HOME") or "~/.ros") / "maps"


class NodeServices:
    """Creates the services of a configured pipeline; `close` destroys them.

    The callbacks run on the executor's thread. Changes of the pipeline are made between two frames.
    """

    def __init__(
        self,
        node: LifecycleNode,
        pipeline: Pipeline,
        occupancy: OccupancyOutputs,
        between_frames: Callable[[Callable[[], None]], None],
    ) -> None:
        """between_frames: runs a function when no frame is being processed."""
        self._node, self._pipeline, self._occupancy = node, pipeline, occupancy
        self._between_frames = between_frames
        self._services = [
            node.create_service(Trigger, RESET_MAP, self._on_reset_map),
            node.create_service(Trigger, SAVE_MAP, self._on_save_map),
            *(
                node.create_service(
                    SetBool, set_enabled_service(s), partial(self._on_set_enabled, s)
                )
                for s in stages.ATTRIBUTES
            ),
        ]
        if find_spec("nav2_msgs") is not None:
            from nav2_msgs.srv import SaveMap

            self._services.append(node.create_service(SaveMap, SAVE_MAP_AS, self._on_save_map_as))

    def close(self) -> None:
        """Destroy the services."""
        for service in self._services:
            self._node.destroy_service(service)
        self._services = []

    def _on_reset_map(self, request: Any, response: Any) -> Any:
        self._between_frames(self._reset_map)
        response.success = True
        response.message = "the map and the grid start again with the next frame"
        if self._pipeline.occupancy is None:
            response.success, response.message = False, "pipeline.occupancy is none: no map"
        return response

    def _reset_map(self) -> None:
        self._pipeline.reset_occupancy()
        self._occupancy.reset()

    def _on_save_map(self, request: Any, response: Any) -> Any:
        try:
            response.message = self._save(self._occupancy.config.map_name, MapFormat())
            response.success = True
        except UserError as error:
            response.success, response.message = False, str(error)
        return response

    def _on_save_map_as(self, request: Any, response: Any) -> Any:
        """SaveMap has no field for a reason: it is in the log."""
        try:
            self._check_map_topic(request.map_topic)
            mode = request.map_mode.lower() or "trinary"
            map_format = MapFormat(
                request.image_format.lower() or ("png" if mode == "scale" else "pgm"),
                mode,
                request.free_thresh or MapFormat.free_threshold,
                request.occupied_thresh or MapFormat.occupied_threshold,
            )
            name = request.map_url or self._occupancy.config.map_name
            self._node.get_logger().info(self._save(name, map_format))
            response.result = True
        except UserError as error:
            self._node.get_logger().error(f"save_map_as: {error}")
            response.result = False
        return response

    def _check_map_topic(self, topic: str) -> None:
        """Raise UserError for another topic than that of the map. An empty name is allowed."""
        namespace = self._node.get_namespace()
        own = resolve_topic(MAP_TOPIC, namespace)
        if topic and resolve_topic(topic, namespace) != own:
            raise UserError(f"map_topic {topic[:100]!r}: allowed: {own}, or empty")

    def _save(self, name: str, map_format: MapFormat) -> str:
        folder = maps_folder(self._occupancy.config.map_folder)
        yaml_path, _ = self._occupancy.save(resolve_map_path(name, folder), map_format)
        return f"map saved to {yaml_path}"

    def _on_set_enabled(self, stage: str, request: Any, response: Any) -> Any:
        if stage not in self._pipeline.configured:
            response.success = False
            response.message = f"{stage}: the configured pipeline does not have this stage"
            return response
        disabled = self._pipeline.disabled
        self._pipeline.disabled = disabled - {stage} if request.data else disabled | {stage}
        response.success = True
        response.message = f"{stage}: {'enabled' if request.data else 'disabled'}"
        self._node.get_logger().info(response.message)
        return response
