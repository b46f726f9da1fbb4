"""What the segmentation network tells apart, and what of the simulator's truth each class is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES

SEGMENTATION_CLASSES = (
    "road",
    "sidewalk",
    "vehicle",
    "person",
    "cyclist",
    "building",
    "vegetation",
    "pole",
    "sky",
    "other",
)
# Label of pixels that are not scored: outside the lens, or not known.
IGNORED = 255

# Cityscapes' colours where it has the class, RGB.
COLOURS = np.array(
    [
        (128, 64, 128),
        (244, 35, 232),
        (0, 0, 200),
        (220, 20, 60),
        (255, 120, 0),
        (110, 110, 110),
        (107, 142, 35),
        (230, 220, 120),
        (70, 130, 180),
        (190, 153, 153),
    ],
    np.uint8,
)

_CLASS_OF = {
    "car": "vehicle",
    "van": "vehicle",
    "truck": "vehicle",
    "bus": "vehicle",
    "pedestrian": "person",
    "cyclist": "cyclist",
    "cone": "other",
    "barrier": "other",
    "sky": "sky",
    "road": "road",
    "marking": "road",
    "sidewalk": "sidewalk",
    "kerb": "sidewalk",
    "terrain": "vegetation",
    "building": "building",
    "wall": "building",
    "fence": "other",
    "pole": "pole",
    "vegetation": "vegetation",
    "rack": "other",
    "furniture": "other",
}
# By the simulator's class: the segmentation's, or IGNORED.
_TABLE = np.array(
    [
        SEGMENTATION_CLASSES.index(_CLASS_OF[n]) if n in _CLASS_OF else IGNORED
        for n in SEMANTIC_NAMES
    ],
    np.uint8,
)


def labels_from_semantics(semantics: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Segmentation labels of a semantic image (any shape) of the simulator."""
    labels: NDArray[np.uint8] = _TABLE[semantics]
    return labels
