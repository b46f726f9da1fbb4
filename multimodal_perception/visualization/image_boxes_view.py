"""2D boxes drawn over their image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.perception import Boxes2D
from multimodal_perception.visualization.canvas import write_text
from multimodal_perception.visualization.palette import class_colour


def draw_image_boxes(rgb: NDArray[np.uint8], boxes: Boxes2D) -> NDArray[np.uint8]:
    """RGB image (H, W, 3) uint8 with the boxes, their classes and scores."""
    image = np.ascontiguousarray(rgb).copy()
    for i in range(len(boxes) - 1, -1, -1):  # the highest score last, on top
        x1, y1, x2, y2 = (round(float(v)) for v in boxes.boxes[i])
        name = boxes.class_names[boxes.labels[i]]
        colour = class_colour(name)
        cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), colour, 2)
        write_text(image, f"{name} {boxes.scores[i]:.2f}", (x1, max(y1 - 4, 12)), colour, 0.45)
    return image
