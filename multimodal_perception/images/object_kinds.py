"""Kinds of objects: groups of the classes of image and 3D detectors that can be one object."""

from __future__ import annotations

VEHICLES, PEOPLE, OTHERS = range(3)
# Kind by class of an image detector or 3D detector.
KINDS = {
    **dict.fromkeys(("vehicle", "car", "van", "truck", "bus", "trailer"), VEHICLES),
    **dict.fromkeys(("person", "pedestrian", "cyclist", "motorcyclist"), PEOPLE),
}


def kind_of(name: str) -> int:
    """Kind of a class; OTHERS for a class that is not listed."""
    return KINDS.get(name, OTHERS)
