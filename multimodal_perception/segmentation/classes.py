"""Classes of the segmentation network, and their mapping from the simulator's semantic classes."""

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
# Label of pixels that are not scored: outside the image circle of the lens, or unknown.
IGNORED = 255

# RGB colours by class, as in Cityscapes where it has the class.
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

_CLASS_FROM_SEMANTIC_NAME = {
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
    "trailer": "vehicle",
    "motorcyclist": "cyclist",
}
# Label by semantic class number of the simulator; IGNORED for classes without a label.
_LABEL_FROM_SEMANTIC = np.array(
    [
        (
            SEGMENTATION_CLASSES.index(_CLASS_FROM_SEMANTIC_NAME[name])
            if name in _CLASS_FROM_SEMANTIC_NAME
            else IGNORED
        )
        for name in SEMANTIC_NAMES
    ],
    np.uint8,
)


def labels_from_semantics(semantics: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Segmentation labels of a semantic image of the simulator, uint8 of the same shape."""
    labels: NDArray[np.uint8] = _LABEL_FROM_SEMANTIC[semantics]
    return labels
