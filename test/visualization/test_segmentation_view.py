import numpy as np

from multimodal_perception.frame import CameraImage, SensorFrame, ThermalImage
from multimodal_perception.perception import SegmentationMask
from multimodal_perception.segmentation.classes import COLOURS, SEGMENTATION_CLASSES
from multimodal_perception.visualization.segmentation_view import draw_segmentation

LABELS = np.array([[0, 8], [2, 255]], np.uint8)


def mask(sensor: str) -> SegmentationMask:
    return SegmentationMask(sensor, 0, LABELS, SEGMENTATION_CLASSES)


def test_mask_is_blended_with_the_image_or_drawn_without_it() -> None:
    grey = CameraImage("c", 0, "c", np.full((4, 4, 3), 100, np.uint8))
    drawn = draw_segmentation(SensorFrame(0, cameras={"c": grey}), mask("c"))
    np.testing.assert_allclose(drawn[0, 1].astype(int), (COLOURS[8].astype(int) + 100) // 2, atol=1)
    without_image = draw_segmentation(SensorFrame(0), mask("c"))
    np.testing.assert_array_equal(without_image[1, 0], COLOURS[2])
    assert not without_image[1, 1].any()


def test_thermal_image_is_drawn_in_grey_below_the_mask() -> None:
    pixels = np.array([[29_000, 29_000], [31_000, 31_000]], np.uint16)
    frame = SensorFrame(0, thermals={"t": ThermalImage("t", 0, "t", pixels)})
    drawn = draw_segmentation(frame, mask("t"))
    assert (drawn[1, 1] > 100).all() and (drawn[0, 0] <= (COLOURS[0] // 2 + 2)).all()
