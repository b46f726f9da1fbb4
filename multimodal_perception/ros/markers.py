"""Boxes as RViz draws them."""

from __future__ import annotations

from typing import Any

import numpy as np

from multimodal_perception.frame import Boxes3D
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.messages.encoders import boxes_to_message, header
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.visualization.palette import class_colour

ARROW, CUBE, TEXT, ADD, DELETE = 0, 1, 9, 0, 2
# An arrow ends where its object is after a second; slower ones have none, m/s.
SLOWEST = 0.5


class MarkerEncoder:
    """Boxes3D to MarkerArray; deletes what the message before drew and is no longer there."""

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
        self._arrows: set[int] = set()

    def encode(self, boxes: Boxes3D) -> Any:
        """MarkerArray: a cube and a text a box, an arrow for each that moves, DELETE for what went."""
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
            markers += [self._marker(space, CUBE, i, boxes, action=DELETE) for space in SPACES]
        markers += self._velocities(boxes)
        self._drawn = len(detections)
        return self._types.new("visualization_msgs/msg/MarkerArray", markers=markers)

    def _velocities(self, boxes: Boxes3D) -> list[Any]:
        told = np.full((len(boxes), 2), np.nan) if boxes.velocities is None else boxes.velocities
        moving = np.flatnonzero(np.hypot(told[:, 0], told[:, 1]) >= SLOWEST).tolist()
        markers = []
        for i in moving:
            x, y, z = map(float, boxes.boxes[i, :3])
            ends = (x, y), (x + float(told[i, 0]), y + float(told[i, 1]))
            points = [self._types.new("geometry_msgs/msg/Point", x=u, y=v, z=z) for u, v in ends]
            shape = {"scale": self._vector(0.15, 0.4, 0.5), "points": points}
            colour = class_colour(boxes.class_names[boxes.labels[i]])
            red, green, blue = (c / 255 for c in colour)
            markers.append(
                self._marker(ARROWS, ARROW, i, boxes, colour=(red, green, blue, 1.0), **shape)
            )
        gone = sorted(self._arrows - set(moving))
        markers += [self._marker(ARROWS, ARROW, i, boxes, action=DELETE) for i in gone]
        self._arrows = set(moving)
        return markers

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


SPACES, ARROWS = ("boxes", "labels"), "velocities"
