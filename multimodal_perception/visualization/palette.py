"""Colours used in every image and in RViz. RGB, 0 to 255."""

from __future__ import annotations

Colour = tuple[int, int, int]

CLASS_COLOURS: dict[str, Colour] = {
    "unknown": (170, 170, 170),
    "car": (64, 156, 255),
    "van": (0, 200, 220),
    "truck": (170, 110, 255),
    "bus": (220, 90, 220),
    "pedestrian": (255, 90, 90),
    "cyclist": (255, 170, 40),
    "cone": (255, 120, 0),
    "barrier": (180, 150, 90),
    "trailer": (120, 120, 255),
    "motorcyclist": (255, 215, 90),
}
GROUND_TRUTH: Colour = (80, 220, 100)
EGO: Colour = (245, 245, 245)
ULTRASONIC_CONE: Colour = (120, 104, 60)
ECHO: Colour = (255, 214, 90)
BACKGROUND: Colour = (22, 24, 28)
PANEL: Colour = (34, 37, 43)
GRID: Colour = (64, 68, 76)
TEXT: Colour = (228, 230, 235)
MUTED: Colour = (150, 155, 165)
FREE: Colour = (66, 110, 86)
OCCUPIED: Colour = (240, 196, 84)
UNKNOWN_CELL: Colour = (40, 43, 50)


def class_colour(name: str) -> Colour:
    """The colour of a class; grey for a name that is not in CLASS_COLOURS."""
    return CLASS_COLOURS.get(name, CLASS_COLOURS["unknown"])
