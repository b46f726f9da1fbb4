"""Boxes as RViz draws them."""

from __future__ import annotations

from typing import Any

from multimodal_perception.frame import NANOSECONDS, Boxes3D
from multimodal_perception.ros.messages import MessageTypes, boxes_to_message, header
from multimodal_perception.visualization.palette import class_colour

CUBE, TEXT, ADD, DELETE = 1, 9, 0, 2


class MarkerEncoder:
    """Boxes3D to MarkerArray; deletes the boxes of the message before that are no longer there."""

    def __init__(self, types: MessageTypes, lifetime_s: float = 1.0) -> None:
        self._types = types
        # Should the node stop, RViz forgets the boxes by itself.
        seconds = int(lifetime_s)
        self._lifetime = types.new(
            "builtin_interfaces/msg/Duration",
            sec=seconds,
            nanosec=int((lifetime_s - seconds) * NANOSECONDS),
        )
        self._drawn = 0

    def encode(self, boxes: Boxes3D) -> Any:
        """MarkerArray: a cube and a text a box, and a DELETE for each one that went."""
        detections = boxes_to_message(self._types, boxes).detections
        markers = []
        for i, detection in enumerate(detections):
            hypothesis = detection.results[0].hypothesis
            red, green, blue = class_colour(hypothesis.class_id)
            common = {"index": i, "boxes": boxes, "pose": detection.bbox.center}
            size, colour = detection.bbox.size, (red / 255, green / 255, blue / 255, 0.45)
            markers.append(self._marker("boxes", CUBE, scale=size, colour=colour, **common))
            text = f"{hypothesis.class_id} {hypothesis.score:.2f}"
            letters = self._vector(0.0, 0.0, 0.6)
            white = (1.0, 1.0, 1.0, 1.0)
            markers.append(
                self._marker("labels", TEXT, scale=letters, colour=white, text=text, **common)
            )
        for i in range(len(detections), self._drawn):
            markers += [self._marker(space, CUBE, i, boxes, action=DELETE) for space in SPACES]
        self._drawn = len(detections)
        return self._types.new("visualization_msgs/msg/MarkerArray", markers=markers)

    def _vector(self, x: float, y: float, z: float) -> Any:
        return self._types.new("geometry_msgs/msg/Vector3", x=x, y=y, z=z)

    def _marker(
        self,
        namespace: str,
        kind: int,
        index: int,
        boxes: Boxes3D,
        pose: Any = None,
        scale: Any = None,
        colour: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
        text: str = "",
        action: int = ADD,
    ) -> Any:
        red, green, blue, alpha = colour
        optional = {} if pose is None else {"pose": pose, "scale": scale}
        return self._types.new(
            "visualization_msgs/msg/Marker",
            header=header(self._types, boxes.stamp_ns, boxes.frame_id),
            ns=namespace,
            id=index,
            type=kind,
            action=action,
            color=self._types.new("std_msgs/msg/ColorRGBA", r=red, g=green, b=blue, a=alpha),
            lifetime=self._lifetime,
            text=text,
            **optional,
        )


SPACES = ("boxes", "labels")
