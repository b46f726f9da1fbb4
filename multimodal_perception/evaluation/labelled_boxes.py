"""Labelled 2D boxes of real images: COCO, KITTI, and data sets with 3D labels (nuScenes, PandaSet).

The classes are those of the image detectors: vehicle, person and cyclist. Labels that are too small,
hidden, crowds, or of a class that does not fit are ignored: a box on them is neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import Dataset, DatasetError
from multimodal_perception.datasets.file_limits import read_colour_image, read_json
from multimodal_perception.datasets.kitti import KittiDataset
from multimodal_perception.evaluation.average_precision import ImageGroundTruth
from multimodal_perception.evaluation.projected_boxes import project_labels
from multimodal_perception.evaluation.single_image import CAMERA, only_camera, single_image_frame
from multimodal_perception.frame import CLASS_NAMES, SensorFrame

BOX_CLASSES = ("vehicle", "person", "cyclist")
# Classes of the package to the classes of the image detectors; the others have no labels in images.
CLASS_OF_LABEL = {
    "car": "vehicle",
    "van": "vehicle",
    "truck": "vehicle",
    "bus": "vehicle",
    "trailer": "vehicle",
    "pedestrian": "person",
    "cyclist": "cyclist",
    "motorcyclist": "cyclist",
}
COCO_CLASSES = {"car": "vehicle", "bus": "vehicle", "truck": "vehicle", "person": "person"}
# COCO labels a rider and a bicycle as two objects, where the image detectors have one class: bicycles
# and motorcycles are ignored for it, and so are trains for vehicles.
COCO_IGNORED = {"bicycle": "cyclist", "motorcycle": "cyclist", "train": "vehicle"}
KITTI_CLASSES = {
    "Car": "vehicle",
    "Van": "vehicle",
    "Truck": "vehicle",
    "Tram": "vehicle",
    "Pedestrian": "person",
    "Cyclist": "cyclist",
}
KITTI_IGNORED = {"Person_sitting": "person"}
# KITTI's "hard" level: largest occlusion number and truncated fraction of evaluated objects.
KITTI_MAX_OCCLUSION, KITTI_MAX_TRUNCATION = 2, 0.5
# Labels of projected boxes need this fraction of the box inside the image.
MAX_TRUNCATION = 0.9
MAX_COCO_ANNOTATIONS = 5_000_000


@dataclass(frozen=True)
class BoxLimits:
    """Which labels are evaluated; the others are ignored.

    min_height: of the box in the image, pixels. min_points: visible LiDAR points of a projected object.
    """

    min_height: float = 25.0
    min_points: int = 10


@dataclass(frozen=True)
class ImageWithBoxes:
    """One image in a frame of its camera only, and its labels as indices into BOX_CLASSES."""

    name: str
    camera: str
    frame: SensorFrame
    truth: ImageGroundTruth


class GroundTruthRows:
    """Collects labelled boxes with class name and whether they are evaluated."""

    def __init__(self) -> None:
        self._rows: list[tuple[Sequence[float], str, bool]] = []

    def add(self, box: Sequence[float], name: str, evaluated: bool) -> None:
        """Add a label. name: of BOX_CLASSES."""
        self._rows.append((box, name, evaluated))

    def ignore_for_all(self, box: Sequence[float]) -> None:
        """Add a region where no box of any class counts."""
        for name in BOX_CLASSES:
            self.add(box, name, False)

    def ground_truth(self) -> ImageGroundTruth:
        """All labels that were added."""
        return ImageGroundTruth(
            np.array([box for box, *_ in self._rows], np.float32).reshape(-1, 4),
            np.array([BOX_CLASSES.index(name) for _, name, _ in self._rows], np.int64),
            np.array([e for *_, e in self._rows], np.bool_),
        )


class FrameImages:
    """The images of all (or the named) cameras of a data set with 3D labels, or of KITTI."""

    def __init__(self, dataset: Dataset, limits: BoxLimits, cameras: Sequence[str] = ()) -> None:
        """Raises DatasetError if a named camera does not exist."""
        self._dataset, self._limits = dataset, limits
        names = [n for n, s in dataset.rig.sensors.items() if s.modality.value == "camera"]
        for name in cameras:
            if name not in names:
                raise DatasetError(
                    f"--cameras: {dataset.name} has no camera {name}; cameras: {', '.join(names)}"
                )
        self._cameras = tuple(cameras) or tuple(names)

    def __len__(self) -> int:
        return len(self._dataset) * len(self._cameras)

    def __iter__(self) -> Iterator[ImageWithBoxes | None]:
        """Yield each image, or None for an image that is absent or has no labels."""
        for index in range(len(self._dataset)):
            frame = self._dataset[index]
            for camera in self._cameras:
                truth = None
                if camera in frame.cameras and camera in frame.intrinsics:
                    truth = self._truth(frame, index, camera)
                if truth is None:
                    yield None
                    continue
                name = f"{self._dataset.name} {index} {camera}"
                yield ImageWithBoxes(name, camera, only_camera(frame, camera), truth)

    def _truth(self, frame: SensorFrame, index: int, camera: str) -> ImageGroundTruth | None:
        if isinstance(self._dataset, KittiDataset):
            annotations = self._dataset.annotations(index)
            if annotations is None:
                return None
            return kitti_truth(
                annotations.types,
                annotations.image_boxes,
                annotations.truncation,
                annotations.occlusion,
                self._limits,
            )
        return None if frame.labels is None else projected_truth(frame, camera, self._limits)


def projected_truth(frame: SensorFrame, camera: str, limits: BoxLimits) -> ImageGroundTruth:
    """2D labels from the 3D labels of a frame, see projected_boxes."""
    assert frame.labels is not None
    projected, rows = project_labels(frame, camera), GroundTruthRows()
    for j, k in enumerate(projected.index):
        box = projected.boxes[j]
        name = CLASS_OF_LABEL.get(CLASS_NAMES[frame.labels.labels[k]])
        if name is None:
            if CLASS_NAMES[frame.labels.labels[k]] == "unknown":
                rows.ignore_for_all(box)
            continue
        large = box[3] - box[1] >= limits.min_height
        visible = projected.visible_points[j] >= limits.min_points
        rows.add(box, name, bool(large and visible and projected.truncation[j] <= MAX_TRUNCATION))
    return rows.ground_truth()


def kitti_truth(
    types: Sequence[str],
    boxes: NDArray[np.float64],
    truncation: NDArray[np.float64],
    occlusion: NDArray[np.int64],
    limits: BoxLimits,
) -> ImageGroundTruth:
    """2D labels of a label file of KITTI, with the "hard" level's occlusion and truncation."""
    rows = GroundTruthRows()
    for k, kind in enumerate(types):
        if kind in KITTI_CLASSES:
            evaluated = (
                occlusion[k] <= KITTI_MAX_OCCLUSION
                and truncation[k] <= KITTI_MAX_TRUNCATION
                and boxes[k, 3] - boxes[k, 1] >= limits.min_height
            )
            rows.add(boxes[k], KITTI_CLASSES[kind], bool(evaluated))
        elif kind in KITTI_IGNORED:
            rows.add(boxes[k], KITTI_IGNORED[kind], False)
        else:  # DontCare and Misc
            rows.ignore_for_all(boxes[k])
    return rows.ground_truth()


class CocoImages:
    """Images of COCO's layout: annotations/instances_*.json, and the images in a folder beside it."""

    def __init__(self, root: Path, limits: BoxLimits, split: str | None = None) -> None:
        """root: folder of the data set, or an annotation file. Raises DatasetError."""
        self._limits = limits
        self.path = _coco_file(root, split)
        content = read_json(self.path)
        base = (
            self.path.parent.parent if self.path.parent.name == "annotations" else self.path.parent
        )
        stem = self.path.stem.removeprefix("instances_")
        candidates = (base / stem, base / "images" / stem, base / "images", base)
        self._folders = [f for f in candidates if f.is_dir()]
        try:
            names = {int(c["id"]): str(c["name"]) for c in content["categories"]}
            self._images = sorted(content["images"], key=lambda i: int(i["id"]))
            by_image: dict[int, list[tuple[str, Any]]] = {}
            if len(content["annotations"]) > MAX_COCO_ANNOTATIONS:
                raise ValueError(f"more than {MAX_COCO_ANNOTATIONS} annotations")
            for row in content["annotations"]:
                entry = names[int(row["category_id"])], row
                by_image.setdefault(int(row["image_id"]), []).append(entry)
            self._truth = {i: self._rows(rows) for i, rows in by_image.items()}
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DatasetError(
                f"{self.path}: not an annotation file of COCO: {type(error).__name__}: {error}"
            ) from error
        if not self._images:
            raise DatasetError(f"{self.path}: no images")

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[ImageWithBoxes | None]:
        none = GroundTruthRows().ground_truth()
        for entry in self._images:
            path = self._image_path(str(entry.get("file_name")))
            frame = single_image_frame(read_colour_image(path))
            truth = self._truth.get(int(entry["id"]), none)
            yield ImageWithBoxes(path.name, CAMERA, frame, truth)

    def _rows(self, rows: list[tuple[str, Any]]) -> ImageGroundTruth:
        result = GroundTruthRows()
        for name, row in rows:
            x, y, width, height = (float(v) for v in row["bbox"])
            if not np.isfinite([x, y, width, height]).all() or width < 0 or height < 0:
                raise ValueError(f"annotation {row.get('id')}: bbox {row['bbox']}")
            box = (x, y, x + width, y + height)
            if name in COCO_CLASSES:
                evaluated = not row.get("iscrowd", 0) and height >= self._limits.min_height
                result.add(box, COCO_CLASSES[name], evaluated)
            elif name in COCO_IGNORED:
                result.add(box, COCO_IGNORED[name], False)
        return result.ground_truth()

    def _image_path(self, name: str) -> Path:
        for folder in self._folders:
            path = folder / name
            if path.resolve().is_relative_to(folder.resolve()) and path.is_file():
                return path
        raise DatasetError(
            f"{self.path}: no image {name!r} in {', '.join(map(str, self._folders))}"
        )


def _coco_file(root: Path, split: str | None) -> Path:
    """The annotation file. Raises DatasetError if there is none or several."""
    if root.suffix == ".json":
        return root
    pattern = f"instances_{split or ''}*.json"
    files = sorted((root / "annotations").glob(pattern)) or sorted(root.glob(pattern))
    if len(files) != 1:
        found = ", ".join(f.name for f in files) or "none"
        raise DatasetError(
            f"{root}: expected one annotations/{pattern}, found {found}; select one with --split, or "
            "give the file as --root"
        )
    return files[0]
