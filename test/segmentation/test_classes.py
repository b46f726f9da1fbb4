import numpy as np

from multimodal_perception.segmentation.classes import (
    COLOURS,
    IGNORED,
    SEGMENTATION_CLASSES,
    labels_from_semantics,
)
from multimodal_perception.simulation.world.materials import SEMANTIC_NAMES


def test_every_semantic_name_except_unknown_has_a_class() -> None:
    labels = labels_from_semantics(np.arange(len(SEMANTIC_NAMES), dtype=np.uint8))
    named = dict(zip(SEMANTIC_NAMES, labels.tolist(), strict=True))
    assert named.pop("unknown") == IGNORED
    assert set(named.values()) == set(range(len(SEGMENTATION_CLASSES)))
    for name, expected in (("bus", "vehicle"), ("kerb", "sidewalk"), ("marking", "road")):
        assert SEGMENTATION_CLASSES[named[name]] == expected


def test_every_class_has_its_own_colour() -> None:
    assert len({tuple(c) for c in COLOURS.tolist()}) == len(SEGMENTATION_CLASSES)
