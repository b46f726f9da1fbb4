"""Share of labelled person regions that a person box covers, for data sets with pixel labels only.

CamVid has no boxes. The regions are the connected components of the class person in the label image. A
group of people that touch each other in the image is one region.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.image_boxes import iou
from multimodal_perception.perception import Boxes2D
from multimodal_perception.segmentation.classes import SEGMENTATION_CLASSES

# A region counts from this height, and is covered by a box with at least this IoU.
MIN_REGION_HEIGHT, COVERING_IOU = 40, 0.4
# Names of the class of people in the detectors.
PERSON_CLASSES = ("person", "pedestrian")
# A person box is supported if at least this fraction of it is labelled person or cyclist.
SUPPORTED_FRACTION = 0.1


def person_regions(
    labels: NDArray[np.uint8], min_height: float = MIN_REGION_HEIGHT
) -> NDArray[np.float32]:
    """Boxes (R, 4) around the 8-connected regions of the class person of at least a height, pixels.

    labels: (H, W) indices into SEGMENTATION_CLASSES.
    """
    mask = (labels == SEGMENTATION_CLASSES.index("person")).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    left, top, width, height = (
        stats[1:, k]
        for k in (cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP, cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT)
    )
    boxes = np.stack([left, top, left + width, top + height], axis=1).astype(np.float32)
    return boxes[height >= min_height]


@dataclass
class PersonRegionScore:
    """Counts covered person regions, and person boxes without labelled person pixels.

    min_height: of the regions, pixels.
    """

    min_height: float = MIN_REGION_HEIGHT
    images: int = 0
    regions: int = 0
    covered: int = 0
    boxes: int = 0
    supported: int = 0

    def merge(self, other: PersonRegionScore) -> None:
        """Add the counts of another score with the same min_height."""
        for name in ("images", "regions", "covered", "boxes", "supported"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def add(self, labels: NDArray[np.uint8], detections: Boxes2D | None) -> None:
        """Add one image. labels: as for person_regions. detections: None if there is no result."""
        regions = person_regions(labels, self.min_height)
        boxes = np.zeros((0, 4), np.float32)
        if detections is not None:
            people = [k for k, n in enumerate(detections.class_names) if n in PERSON_CLASSES]
            boxes = detections.boxes[np.isin(detections.labels, people)]
        self.images += 1
        self.regions += len(regions)
        self.boxes += len(boxes)
        if len(boxes) and len(regions):
            self.covered += int((iou(regions, boxes) >= COVERING_IOU).any(axis=1).sum())
        on_people = np.isin(
            labels, [SEGMENTATION_CLASSES.index(name) for name in ("person", "cyclist")]
        )
        for box in boxes:
            x1, y1 = np.floor(box[:2]).astype(int)
            x2, y2 = np.ceil(box[2:]).astype(int)
            part = on_people[max(y1, 0) : y2, max(x1, 0) : x2]
            self.supported += bool(part.size and part.mean() >= SUPPORTED_FRACTION)

    def summary(self) -> dict[str, Any]:
        """regions, covered, their share `coverage`; person boxes and the share on labelled people."""
        return {
            "images": self.images,
            "min_height": self.min_height,
            "iou": COVERING_IOU,
            "regions": self.regions,
            "covered": self.covered,
            "coverage": self.covered / self.regions if self.regions else float("nan"),
            "person_boxes": self.boxes,
            "supported_share": self.supported / self.boxes if self.boxes else float("nan"),
        }
