"""The node's lifecycle publishers: results are computed and encoded only for topics with subscribers."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos_overriding_options import QoSOverridingOptions

from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.messages import encoders
from multimodal_perception.messages.message_types import MessageTypes, message_class
from multimodal_perception.perception import Perception
from multimodal_perception.rig import Rig
from multimodal_perception.ros import outputs
from multimodal_perception.ros.markers import MarkerEncoder
from multimodal_perception.ros.occupancy_outputs import MAP_TOPIC, OccupancyOutputs
from multimodal_perception.ros.parameters import NodeConfig
from multimodal_perception.ros.qos import MAP_QOS, OUTPUT_QOS
from multimodal_perception.stages import Output


class OutputPublishers:
    """Publishes one Perception on all topics of a rig and configuration."""

    def __init__(
        self, node: LifecycleNode, types: MessageTypes, rig: Rig, config: NodeConfig
    ) -> None:
        self._node, self._types, self._rig = node, types, rig
        self._markers = MarkerEncoder(types, config.marker_lifetime_s)
        self._occupancy = OccupancyOutputs(types, config.occupancy)
        self._optional = outputs.optional_topics(rig, config.pipeline)
        topics = dict(outputs.FIXED_TOPICS)
        for optional in self._optional.values():
            topics |= optional
        self._publishers: dict[str, Any] = {
            topic: node.create_lifecycle_publisher(
                message_class(name),
                topic,
                MAP_QOS if topic == MAP_TOPIC else OUTPUT_QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for topic, name in topics.items()
        }

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

    def publish_others(self, perception: Perception, frame: SensorFrame) -> None:
        """Publish everything except the 3D boxes, on topics with subscribers."""
        types = self._types
        if self.has_subscribers(outputs.TRACKS_TOPIC):
            self.publish(outputs.TRACKS_TOPIC, outputs.tracks_message(types, perception.boxes))
        self._publish_occupancy(perception, frame)
        if self.has_subscribers(outputs.MARKERS_TOPIC):
            self.publish(outputs.MARKERS_TOPIC, self._markers.encode(perception.boxes))
        for topic, message in (
            *outputs.segmentation_messages(
                types, frame, perception.segmentations, self.has_subscribers
            ),
            *outputs.fused_image_messages(types, self._rig, perception.fused_images),
            *outputs.image_box_messages(types, frame, perception.boxes2d),
        ):
            self.publish(topic, message)

    def _publish_occupancy(self, perception: Perception, frame: SensorFrame) -> None:
        grid, boxes = perception.occupancy, perception.boxes
        if grid is None:
            return
        if grid.frame_id != boxes.frame_id and frame.odom_from_base is not None:
            boxes = boxes.transformed(frame.odom_from_base, grid.frame_id)
        for topic, message in self._occupancy.messages(
            grid, boxes, perception.odom_occupancy, self.has_subscribers
        ):
            self.publish(topic, message)
