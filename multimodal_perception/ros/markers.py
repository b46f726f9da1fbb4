"""3D boxes as RViz markers."""

from __future__ import annotations

from typing import Any

import numpy as np

from multimodal_perception.frame import Boxes3D
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.messages.encoders import boxes_to_message, make_header
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.object_evidence import describe_objects
from multimodal_perception.visualization.palette import class_colour

ARROW, CUBE, TEXT, ADD, DELETE = 0, 1, 9, 0, 2
# Slower objects have no velocity arrow, m/s. The arrow shows the displacement in one second.
MIN_ARROW_SPEED = 0.5
# Distance of the text with the opinions below a box, metres, and its colour.
EVIDENCE_OFFSET, YELLOW = 0.3, (1.0, 0.9, 0.3, 1.0)


class MarkerEncoder:
    """Boxes3D to MarkerArray; deletes the markers of earlier boxes that are gone."""

    def __init__(
        self, types: MessageTypes, lifetime_s: float = 1.0, show_evidence: bool = False
    ) -> None:
        """show_evidence: whether boxes with opinions of the sensors have a text with them."""
        self._types = types
        self.show_evidence = show_evidence
        self._texts: set[int] = set()
        self._drawn = 0
        self._arrows: set[int] = set()
        self.set_lifetime(lifetime_s)

    def set_lifetime(self, lifetime_s: float) -> None:
        """Set the time after which RViz removes the boxes if the node stops."""
        seconds = int(lifetime_s)
        self._lifetime = self._types.new(
            "builtin_interfaces/msg/Duration",
            sec=seconds,
            nanosec=int((lifetime_s - seconds) * NANOSECONDS_PER_SECOND),
        )

    def encode(self, boxes: Boxes3D) -> Any:
        """MarkerArray: a cube and a label per box, an arrow per moving object, DELETE for old ones."""
        detections = boxes_to_message(self._types, boxes).detections
        markers = []
        for i, detection in enumerate(detections):
            hypothesis = detection.results[0].hypothesis
            red, green, blue = class_colour(hypothesis.class_id)
            common = {"index": i, "boxes": boxes, "pose": detection.bbox.center}
            size, colour = detection.bbox.size, (red / 255, green / 255, blue / 255, 0.45)
            markers.append(self._marker("boxes", CUBE, scale=size, colour=colour, **common))
            number = f" #{detection.id}" if detection.id else ""
            text = f"{hypothesis.class_id}{number} {hypothesis.score:.2f}"
            letters = self._vector(0.0, 0.0, 0.6)
            white = (1.0, 1.0, 1.0, 1.0)
            markers.append(
                self._marker("labels", TEXT, scale=letters, colour=white, text=text, **common)
            )
        for i in range(len(detections), self._drawn):
            markers += [
                self._marker(namespace, CUBE, i, boxes, action=DELETE) for namespace in NAMESPACES
            ]
        markers += self._velocities(boxes)
        markers += self._evidence(boxes)
        self._drawn = len(detections)
        return self._types.new("visualization_msgs/msg/MarkerArray", markers=markers)

    def _velocities(self, boxes: Boxes3D) -> list[Any]:
        unknown = np.full((len(boxes), 2), np.nan)
        velocities = unknown if boxes.velocities is None else boxes.velocities
        moving = np.flatnonzero(np.hypot(*velocities.T) >= MIN_ARROW_SPEED).tolist()
        markers = []
        for i in moving:
            x, y, z = map(float, boxes.boxes[i, :3])
            vx, vy = map(float, velocities[i])
            ends = (x, y), (x + vx, y + vy)
            points = [self._types.new("geometry_msgs/msg/Point", x=u, y=v, z=z) for u, v in ends]
            shape = {"scale": self._vector(0.15, 0.4, 0.5), "points": points}
            colour = class_colour(boxes.class_names[boxes.labels[i]])
            red, green, blue = (c / 255 for c in colour)
            markers.append(
                self._marker(
                    ARROW_NAMESPACE, ARROW, i, boxes, colour=(red, green, blue, 1.0), **shape
                )
            )
        removed = sorted(self._arrows - set(moving))
        markers += [self._marker(ARROW_NAMESPACE, ARROW, i, boxes, action=DELETE) for i in removed]
        self._arrows = set(moving)
        return markers

    def _evidence(self, boxes: Boxes3D) -> list[Any]:
        """A text below the bottom of each box, and DELETE for earlier ones."""
        items = describe_objects(boxes) if self.show_evidence else []
        markers = []
        for i, item in enumerate(items):
            x, y, z, _, _, height, _ = map(float, boxes.boxes[i])
            point = self._types.new(
                "geometry_msgs/msg/Point", x=x, y=y, z=z - height / 2 - EVIDENCE_OFFSET
            )
            orientation = self._types.new(
                "geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0
            )
            pose = self._types.new(
                "geometry_msgs/msg/Pose", position=point, orientation=orientation
            )
            size = self._vector(0.0, 0.0, 0.4)
            markers.append(
                self._marker(
                    EVIDENCE_NAMESPACE, TEXT, i, boxes, pose, size, colour=YELLOW, text=item.text
                )
            )
        removed = sorted(self._texts - set(range(len(items))))
        markers += [
            self._marker(EVIDENCE_NAMESPACE, TEXT, i, boxes, action=DELETE) for i in removed
        ]
        self._texts = set(range(len(items)))
        return markers

    def _vector(self, x: float, y: float, z: float) -> Any:
        return self._types.new("geometry_msgs/msg/Vector3", x=x, y=y, z=z)

    def _marker(
        self,
        namespace: str,
        marker_type: int,
        index: int,
        boxes: Boxes3D,
        pose: Any = None,
        scale: Any = None,
        points: Any = None,
        colour: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
        text: str = "",
        action: int = ADD,
    ) -> Any:
        red, green, blue, alpha = colour
        given = {"pose": pose, "scale": scale, "points": points}
        optional = {name: value for name, value in given.items() if value is not None}
        return self._types.new(
            "visualization_msgs/msg/Marker",
            header=make_header(self._types, boxes.stamp_ns, boxes.frame_id),
            ns=namespace,
            id=index,
            type=marker_type,
            action=action,
            color=self._types.new("std_msgs/msg/ColorRGBA", r=red, g=green, b=blue, a=alpha),
            lifetime=self._lifetime,
            text=text,
            **optional,
        )


NAMESPACES, ARROW_NAMESPACE, EVIDENCE_NAMESPACE = ("boxes", "labels"), "velocities", "evidence"
