"""Labels real images with networks as teachers, for self-training of the image networks.

Segmentation: the mean of the class probabilities of one or more networks trained on Cityscapes, ONNX
files with the input (1, 3, H, W), RGB normalised with the mean and standard deviation of ImageNet, and
19 or 20 class scores. Pixels whose best class is uncertain are unlabelled. Boxes: YOLOX (Ge et al. 2021)
on the whole image, on tiles and on the mirrored image; boxes with a moderate score are regions that
are neither objects nor background. Where a data set has 3D labels, their projections are the boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.images.tiles import tile_regions
from multimodal_perception.networks.rgb_thermal_detection import CLASSES
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES
from multimodal_perception.training.real_images import RealImage

if TYPE_CHECKING:
    from multimodal_perception.frame import SensorFrame

# Widest stored image, pixels.
MAX_WIDTH = 1024
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
# Pixels are labelled if the mean probability of the best class is at least this value.
MIN_PROBABILITY = 0.5
# Our class of Cityscapes' training classes 0 to 18, and of a class 19 for everything else.
CITYSCAPES_TRAINING_CLASSES = (
    *("road", "sidewalk", "building", "building", "other", "pole", "other", "other"),
    *("vegetation", "vegetation", "sky", "person", "cyclist", "vehicle", "vehicle"),
    *("vehicle", "vehicle", "cyclist", "cyclist", "other"),
)
# Detector class of COCO's classes (numbered from 0).
COCO_PERSON, COCO_TWO_WHEELERS, COCO_VEHICLES = 0, (1, 3), (2, 5, 7)
TWO_WHEELER = -2
TILES, TILE_OVERLAP = (3, 2), 0.25
MIN_SCORE, MIN_IGNORED_SCORE, MAX_IOU = 0.4, 0.12, 0.5
# LiDAR points of a 3D label that must be visible from the camera.
MIN_VISIBLE_POINTS = 10
YOLOX_STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class ScoredBoxes:
    """boxes: (K, 4) pixels, scores: (K,), classes: (K,) of CLASSES, or TWO_WHEELER."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]


class SegmentationTeacher:
    """Class probabilities of one or more networks trained on Cityscapes."""

    def __init__(self, paths: Sequence[Path], threads: int = 0) -> None:
        """Open ONNX files. Raises UserError for a file with other inputs or outputs."""
        self._sessions = [_open(path, threads) for path in paths]
        self._merge = np.zeros((len(SEGMENTATION_CLASSES), 20), np.float32)
        for number, name in enumerate(CITYSCAPES_TRAINING_CLASSES):
            self._merge[SEGMENTATION_CLASSES.index(name), number] = 1.0
        for path, session in zip(paths, self._sessions, strict=True):
            shape = session.get_outputs()[0].shape
            if len(shape) != 4 or shape[1] not in (19, 20):
                raise UserError(f"{path}: output of shape {shape}; expected (1, 19 or 20, H, W)")

    def label(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels (H, W) of an image (H, W, 3) RGB, IGNORED where the teachers are uncertain."""
        total: NDArray[Any] = np.zeros((), np.float32)
        for session in self._sessions:
            height, width = session.get_inputs()[0].shape[2:]
            x = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
            x = (x / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
            scores = session.run(None, {session.get_inputs()[0].name: x.transpose(2, 0, 1)[None]})[
                0
            ][0]
            scores = np.exp(scores - scores.max(axis=0))
            scores /= scores.sum(axis=0)
            merged = np.tensordot(self._merge[:, : len(scores)], scores, 1)
            size = pixels.shape[1], pixels.shape[0]
            total = total + np.stack([cv2.resize(m, size) for m in merged]) / len(self._sessions)
        labels = total.argmax(axis=0).astype(np.uint8)
        labels[total.max(axis=0) < MIN_PROBABILITY] = IGNORED
        return labels


class BoxTeacher:
    """Boxes of YOLOX on the whole image and its tiles, plain and mirrored."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Open the ONNX file as published, with outputs before grid decoding. Raises UserError."""
        self._session = _open(path, threads)
        self._size = int(self._session.get_inputs()[0].shape[2])
        shape = self._session.get_outputs()[0].shape
        if len(shape) != 3 or shape[2] != 85:
            raise UserError(f"{path}: output of shape {shape}; expected (1, cells, 85)")

    def detect(self, pixels: NDArray[np.uint8]) -> ScoredBoxes:
        """Boxes of an image (H, W, 3) RGB; a rider and the two-wheeler are one box of a cyclist."""
        height, width = pixels.shape[:2]
        found = []
        for region in tile_regions(width, height, TILES, TILE_OVERLAP):
            left, top, right, bottom = region
            tile = pixels[top:bottom, left:right]
            for mirrored in (False, True):
                boxes, scores, classes = self._run(tile[:, ::-1] if mirrored else tile)
                if mirrored:
                    boxes[:, [0, 2]] = (right - left) - boxes[:, [2, 0]]
                boxes += np.array([left, top, left, top], np.float32)
                cut = ((boxes[:, 0] < left + 3) & (left > 0)) | (
                    (boxes[:, 1] < top + 3) & (top > 0)
                )
                cut |= (boxes[:, 2] > right - 3) & (right < width)
                cut |= (boxes[:, 3] > bottom - 3) & (bottom < height)
                found.append((boxes[~cut], scores[~cut], classes[~cut]))
        boxes, scores, classes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        kept = _suppress(boxes, scores, classes)
        return _riders(ScoredBoxes(boxes[kept], scores[kept], classes[kept]))

    def _run(
        self, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        size = self._size
        factor = min(size / pixels.shape[0], size / pixels.shape[1])
        target = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
        x = np.full((size, size, 3), 114, np.uint8)
        x[: target[1], : target[0]] = cv2.resize(np.ascontiguousarray(pixels[..., ::-1]), target)
        name = self._session.get_inputs()[0].name
        out = self._session.run(None, {name: x.transpose(2, 0, 1)[None].astype(np.float32)})[0][0]
        grids, strides = [], []
        for stride in YOLOX_STRIDES:
            n = size // stride
            y, x_ = np.mgrid[:n, :n]
            grids.append(np.stack([x_, y], -1).reshape(-1, 2))
            strides.append(np.full((n * n, 1), stride))
        grid, stride_of_cell = np.concatenate(grids), np.concatenate(strides)
        centre = (out[:, :2] + grid) * stride_of_cell
        half = np.exp(np.minimum(out[:, 2:4], 10.0)) * stride_of_cell / 2
        scores = out[:, 4:5] * out[:, 5:]
        coco = scores.argmax(axis=1)
        table = np.full(80, -1, np.int64)
        table[COCO_PERSON] = CLASSES.index("person")
        table[list(COCO_VEHICLES)] = CLASSES.index("vehicle")
        table[list(COCO_TWO_WHEELERS)] = TWO_WHEELER
        classes, best = table[coco], scores.max(axis=1)
        kept = (best >= MIN_IGNORED_SCORE) & (classes != -1)
        boxes = np.concatenate([centre - half, centre + half], 1)[kept] / factor
        return boxes.astype(np.float32), best[kept].astype(np.float32), classes[kept]


def _open(path: Path, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise UserError(f"{path}: {error}") from error


def overlap_matrix(
    a: NDArray[np.float32], b: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """IoU (N, M) of boxes (N, 4) and (M, 4), and the fraction (N, M) of each box of a inside b."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = (np.clip(x[:, 2:] - x[:, :2], 1e-6, None).prod(axis=1) for x in (a, b))
    return common / (area_a[:, None] + area_b[None] - common), common / area_a[:, None]


def _suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Indices of the boxes after non-maximum suppression within the classes, best first."""
    iou, inside = overlap_matrix(boxes, boxes)
    conflict = ((iou > MAX_IOU) | (inside > 0.8)) & (classes[:, None] == classes[None])
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if not conflict[i, kept].any():
            kept.append(int(i))
    return np.array(kept, np.int64)


def _riders(found: ScoredBoxes) -> ScoredBoxes:
    """A person whose lower half overlaps a two-wheeler becomes one cyclist with it."""
    boxes, scores, classes = found.boxes.copy(), found.scores.copy(), found.classes.copy()
    wheels = np.flatnonzero(classes == TWO_WHEELER)
    lower = boxes.copy()
    lower[:, 1] = (boxes[:, 1] + boxes[:, 3]) / 2
    for i in np.flatnonzero(classes == CLASSES.index("person")):
        if not len(wheels):
            break
        share = overlap_matrix(lower[i : i + 1], boxes[wheels])[1][0]
        k = wheels[int(share.argmax())]
        if share.max() > 0.35 and classes[k] == TWO_WHEELER:
            boxes[i, :2] = np.minimum(boxes[i, :2], boxes[k, :2])
            boxes[i, 2:] = np.maximum(boxes[i, 2:], boxes[k, 2:])
            scores[i] = max(scores[i], scores[k])
            classes[i], classes[k] = CLASSES.index("cyclist"), -1
    kept = classes != -1
    return ScoredBoxes(boxes[kept], scores[kept], classes[kept])


def label_image(
    name: str,
    pixels: NDArray[np.uint8],
    segmentation: SegmentationTeacher,
    detector: BoxTeacher,
    labelled: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
) -> RealImage:
    """Label an image (H, W, 3) RGB, which is reduced to MAX_WIDTH.

    labelled: boxes (K, 4) and classes (K,) of a data set, -1 for ignored regions; then the teacher's
    boxes on other objects are ignored regions.
    """
    factor = min(1.0, MAX_WIDTH / pixels.shape[1])
    size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
    reduced = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    found = detector.detect(pixels)
    classes = np.where((found.scores >= MIN_SCORE) & (found.classes >= 0), found.classes, -1)
    boxes = found.boxes
    if labelled is not None:
        new = np.ones(len(boxes), np.bool_)
        if len(labelled[0]) and len(boxes):
            iou, inside = overlap_matrix(boxes, labelled[0])
            new = (iou.max(axis=1) < 0.3) & (inside.max(axis=1) < 0.7)
        boxes = np.concatenate([labelled[0], boxes[new]])
        classes = np.concatenate([labelled[1], np.full(int(new.sum()), -1, np.int64)])
    return RealImage(
        name, reduced, segmentation.label(reduced), boxes * np.float32(factor), classes
    )


def projected_boxes(
    frame: SensorFrame, camera: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes (K, 4) and classes (K,) of the 3D labels of a frame in one image.

    Labels with too few visible points, of other classes or mostly outside the image are regions of
    class -1.
    """
    from multimodal_perception.evaluation.labelled_boxes import CLASS_OF_LABEL
    from multimodal_perception.evaluation.projected_boxes import project_labels

    labels = project_labels(frame, camera)
    assert frame.labels is not None
    names = [frame.labels.class_names[k] for k in frame.labels.labels[labels.index]]
    classes = np.array(
        [CLASSES.index(CLASS_OF_LABEL[n]) if n in CLASS_OF_LABEL else -1 for n in names], np.int64
    )
    used = (labels.visible_points >= MIN_VISIBLE_POINTS) & (labels.truncation < 0.8)
    return labels.boxes, np.where(used, classes, -1)
