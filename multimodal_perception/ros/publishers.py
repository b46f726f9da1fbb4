"""The node's lifecycle publishers: results are computed and encoded only for topics with subscribers."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.messages import autoware, encoders, evidence
from multimodal_perception.messages.message_types import MessageTypes, message_class
from multimodal_perception.perception import Perception
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.pointcloud.obstacle_points import ground_points, obstacle_points
from multimodal_perception.rig import Rig
from multimodal_perception.ros import label_info, outputs
from multimodal_perception.ros.markers import MarkerEncoder
from multimodal_perception.ros.occupancy_outputs import (
    MAP_TOPIC,
    MAP_UPDATES_TOPIC,
    OccupancyOutputs,
)
from multimodal_perception.ros.parameters import NodeConfig
from multimodal_perception.ros.qos import MAP_QOS, OUTPUT_QOS
from multimodal_perception.stages import Output


def output_topics(rig: Rig, config: NodeConfig) -> dict[str, str]:
    """All topics of a rig and configuration, with their message types.

    Raises UserError for outputs whose package of messages is not installed.
    """
    topics = dict(outputs.FIXED_TOPICS)
    for optional in outputs.optional_topics(rig, config.pipeline).values():
        topics |= optional
    topics |= outputs.label_info_topics(rig, config.pipeline)
    if find_spec("map_msgs") is not None:
        topics[MAP_UPDATES_TOPIC] = "map_msgs/msg/OccupancyGridUpdate"
    if config.autoware_outputs:
        if find_spec(autoware.PACKAGE) is None:
            raise UserError(
                f"autoware_outputs: the package {autoware.PACKAGE} is not installed; install "
                f"ros-{os.environ.get('ROS_DISTRO', 'DISTRO')}-autoware-perception-msgs"
            )
        topics |= outputs.AUTOWARE_TOPICS
    return topics


class OutputPublishers:
    """Publishes one Perception on all topics of a rig and configuration.

    occupancy: the grids and the map. config: may be replaced while frames are published.
    """

    def __init__(
        self, node: LifecycleNode, types: MessageTypes, rig: Rig, config: NodeConfig
    ) -> None:
        """Raises UserError for outputs whose package of messages is not installed."""
        self._node, self._types, self._rig, self._config = node, types, rig, config
        self._markers = MarkerEncoder(types, config.marker_lifetime_s, config.marker_evidence)
        self._labels = label_info.LabelInfos(types)
        self._session = os.urandom(8)
        self._optional = outputs.optional_topics(rig, config.pipeline)
        topics = output_topics(rig, config)
        self.occupancy = OccupancyOutputs(types, config.occupancy, MAP_UPDATES_TOPIC in topics)
        self._publishers: dict[str, Any] = {
            topic: node.create_lifecycle_publisher(
                message_class(name),
                topic,
                MAP_QOS if _is_latched(topic) else OUTPUT_QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for topic, name in topics.items()
        }

    def use(self, config: NodeConfig) -> None:
        """Use changed parameters from the next message on."""
        self._config, self.occupancy.config = config, config.occupancy
        self._markers.set_lifetime(config.marker_lifetime_s)
        self._markers.show_evidence = config.marker_evidence

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}

    def has_subscribers(self, topic: str) -> bool:
        publisher = self._publishers.get(topic)
        return publisher is not None and publisher.get_subscription_count() > 0

    def requested(self) -> set[Output]:
        """Optional outputs that have a subscriber on one of their topics."""
        return {
            output
            for output, topics in self._optional.items()
            if any(self.has_subscribers(topic) for topic in topics)
        }

    def publish(self, topic: str, message: Any) -> None:
        """Publish a message; does nothing while the node is inactive."""
        publisher = self._publishers.get(topic)
        if publisher is not None and publisher.is_activated:
            publisher.publish(message)

    def publish_objects(self, boxes: Boxes3D) -> None:
        """Publish the 3D boxes. Call it first: the other messages must not delay them."""
        message = encoders.boxes_to_message(self._types, boxes)
        self.publish(outputs.OBJECTS_TOPIC, message)

    def publish_labels(self, pipeline: Pipeline, stamp_ns: int, result: Any = None) -> None:
        """Publish the names of classes that are new or have changed, also without subscribers.

        result: the Perception of a frame, for stages whose classes only their results state.
        """
        if not self._publishers[outputs.OBJECTS_TOPIC].is_activated:
            return
        if result is None:
            labels = label_info.known_labels(
                pipeline,
                outputs.OBJECTS_TOPIC,
                outputs.SEMANTIC_TOPIC,
                outputs.mask_topics(self._rig),
                list(outputs.image_box_topics(self._rig)),
            )
        else:
            prefixes = outputs.SEGMENTATION_PREFIX, outputs.IMAGE_BOXES_PREFIX
            labels = label_info.result_labels(pipeline, result, *prefixes)
        for topic, message in self._labels.changed(labels, stamp_ns).items():
            self.publish(topic, message)

    def publish_others(self, perception: Perception, frame: SensorFrame) -> None:
        """Publish everything except the 3D boxes, on topics with subscribers."""
        types = self._types
        if "detector" not in perception.disabled:
            self._publish_tracks(perception.boxes)
        self._publish_occupancy(perception, frame)
        self._publish_points(perception)
        if self.has_subscribers(outputs.MARKERS_TOPIC):
            self.publish(outputs.MARKERS_TOPIC, self._markers.encode(perception.boxes))
        if perception.boxes.evidence is not None and self.has_subscribers(outputs.EVIDENCE_TOPIC):
            message = evidence.evidence_to_message(types, perception.boxes)
            self.publish(outputs.EVIDENCE_TOPIC, message)
        for topic, message in (
            *outputs.segmentation_messages(
                types, frame, perception.segmentations, self.has_subscribers
            ),
            *outputs.fused_image_messages(
                types, self._rig, perception.fused_images, self.has_subscribers
            ),
            *outputs.image_box_messages(types, frame, perception.boxes2d, self.has_subscribers),
        ):
            self.publish(topic, message)

    def _publish_tracks(self, boxes: Boxes3D) -> None:
        types, session = self._types, self._session
        messages = {
            outputs.TRACKS_TOPIC: lambda: outputs.tracks_message(types, boxes),
            outputs.TRACKED_OBJECTS_TOPIC: lambda: encoders.boxes_to_message(
                types, outputs.tracked_boxes(boxes)
            ),
            outputs.AUTOWARE_DETECTED_TOPIC: lambda: autoware.detected_objects_message(
                types, boxes
            ),
            outputs.AUTOWARE_TRACKED_TOPIC: lambda: autoware.tracked_objects_message(
                types, boxes, session
            ),
        }
        for topic, make in messages.items():
            if self.has_subscribers(topic):
                self.publish(topic, make())

    def _publish_points(self, perception: Perception) -> None:
        cloud = perception.cloud
        if cloud is None:
            return
        for topic, select in (
            (outputs.OBSTACLE_POINTS_TOPIC, obstacle_points),
            (outputs.GROUND_POINTS_TOPIC, ground_points),
        ):
            if self.has_subscribers(topic):
                rows = select(cloud, self._config.obstacle_points)
                stamp_ns, frame_id = perception.stamp_ns, perception.frame_id
                message = encoders.points_to_message(self._types, rows, stamp_ns, frame_id)
                self.publish(topic, message)

    def _publish_occupancy(self, perception: Perception, frame: SensorFrame) -> None:
        grid, boxes = perception.occupancy, perception.boxes
        if grid is None:
            return
        if grid.frame_id != boxes.frame_id and frame.odom_from_base is not None:
            boxes = boxes.transformed(frame.odom_from_base, grid.frame_id)
        for topic, message in self.occupancy.messages(
            grid, boxes, perception.odom_occupancy, self.has_subscribers, frame.odom_from_base
        ):
            self.publish(topic, message)


def _is_latched(topic: str) -> bool:
    """Whether a late subscriber needs the last message of a topic."""
    return topic == MAP_TOPIC or topic.endswith(label_info.LABEL_INFO)
