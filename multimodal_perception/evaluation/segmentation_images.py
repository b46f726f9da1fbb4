"""Segmentation of labelled real images: readers of CamVid and Cityscapes, and IoU by class.

CAMVID_CLASSES, CAMVID_COLOURS and CITYSCAPES_CLASSES state how the classes of the data sets map to
SEGMENTATION_CLASSES. Pixels of classes without an equivalent are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.file_limits import read_colour_image, read_label_image
from multimodal_perception.evaluation.confidence import ConfidenceScore
from multimodal_perception.evaluation.segmentation import ConfusionMatrix, add_confidence
from multimodal_perception.evaluation.single_image import single_image_frame
from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES
from multimodal_perception.stages import Segmenter

# CamVid's 11 classes as label numbers 0 to 10 (SegNet, Badrinarayanan et al. 2017); 11 is unlabelled.
CAMVID_CLASSES = (
    ("sky", "sky"),
    ("building", "building"),
    ("pole", "pole"),
    ("road", "road"),
    ("pavement", "sidewalk"),
    ("tree", "vegetation"),
    ("sign", "other"),
    ("fence", "other"),
    ("car", "vehicle"),
    ("pedestrian", "person"),
    ("bicyclist", "cyclist"),
)
# The 32 colours (R, G, B) of CamVid's original label images (Brostow et al. 2009).
CAMVID_COLOURS = {
    (128, 128, 128): "sky",
    (128, 0, 0): "building",
    (64, 192, 0): "building",  # wall
    (0, 128, 64): "building",  # bridge
    (64, 0, 64): "building",  # tunnel
    (192, 0, 128): "building",  # archway
    (192, 192, 128): "pole",  # column or pole
    (0, 0, 64): "other",  # traffic cone
    (128, 64, 128): "road",
    (128, 0, 192): "road",  # lane markings, driving
    (192, 0, 64): "road",  # lane markings, other
    (64, 192, 128): "road",  # shoulder
    (0, 0, 192): "sidewalk",
    (128, 128, 192): "sidewalk",  # parking block
    (128, 128, 0): "vegetation",  # tree
    (192, 192, 0): "vegetation",  # other vegetation
    (192, 128, 128): "other",  # sign
    (128, 128, 64): "other",  # misc text
    (0, 64, 64): "other",  # traffic light
    (64, 64, 128): "other",  # fence
    (64, 0, 128): "vehicle",  # car
    (64, 128, 192): "vehicle",  # SUV, pickup, van
    (192, 128, 192): "vehicle",  # truck, bus
    (192, 64, 128): "vehicle",  # train
    (128, 64, 64): "vehicle",  # other moving
    (64, 64, 0): "person",
    (192, 128, 64): "person",  # child
    (64, 0, 192): "person",  # cart, luggage, pram
    (0, 128, 192): "cyclist",
    (192, 0, 192): "cyclist",  # motorcycle or scooter
    (64, 128, 64): None,  # animal
    (0, 0, 0): None,  # void
}
# Cityscapes' label numbers (labelIds, Cordts et al. 2016). All others are not counted.
CITYSCAPES_CLASSES = {
    7: "road",
    8: "sidewalk",
    9: "road",  # parking
    11: "building",
    12: "building",  # wall
    13: "other",  # fence
    17: "pole",
    18: "pole",  # pole group
    19: "other",  # traffic light
    20: "other",  # traffic sign
    21: "vegetation",
    22: "vegetation",  # terrain
    23: "sky",
    24: "person",
    25: "cyclist",  # rider
    26: "vehicle",  # car
    27: "vehicle",  # truck
    28: "vehicle",  # bus
    29: "vehicle",  # caravan
    30: "vehicle",  # trailer
    31: "vehicle",  # train
    32: "cyclist",  # motorcycle
    33: "cyclist",  # bicycle
}
SPLITS = ("train", "val", "test")
SEGMENTATION_DATASETS = ("camvid", "cityscapes")


@dataclass(frozen=True)
class LabelledImage:
    """Paths of an image and of its label image, and a name for messages."""

    name: str
    image: Path
    label: Path


def list_images(dataset: str, root: Path, split: str | None = None) -> list[LabelledImage]:
    """Images with labels of a data set, sorted by name. Raises DatasetError if there are none.

    dataset: camvid, as images/ and labels/, as SegNet's train/ and trainannot/ (val, test), or as the
    original 701_StillsRaw_full/ and LabeledApproved_full/; or cityscapes, as leftImg8bit/ and gtFine/.
    split: of data sets that are divided into folders; None selects all of them but test.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    pairs = _camvid(root, split) if dataset == "camvid" else _cityscapes(root, split)
    if not pairs:
        expected = {
            "camvid": "images/*.png with labels/*.png, or train/ with trainannot/, or "
            "701_StillsRaw_full/ with LabeledApproved_full/",
            "cityscapes": "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with "
            "gtFine/SPLIT/CITY/*_gtFine_labelIds.png",
        }[dataset]
        where = f" of the split {split}" if split else ""
        raise DatasetError(f"{root}: no labelled images{where}; expected {expected}")
    return sorted(pairs, key=lambda p: p.name)


def _camvid(root: Path, split: str | None) -> list[LabelledImage]:
    folders = [(root / "images", root / "labels", "")] if split is None else []
    folders += [(root / s, root / f"{s}annot", "") for s in _selected(split)]
    if split is None:
        folders.append((root / "701_StillsRaw_full", root / "LabeledApproved_full", "_L"))
    pairs = []
    for images, labels, suffix in folders:
        for path in sorted(p for e in ("png", "jpg") for p in images.glob(f"*.{e}")):
            label = labels / f"{path.stem}{suffix}.png"
            if label.exists():
                pairs.append(LabelledImage(path.stem, path, label))
    return pairs


def _cityscapes(root: Path, split: str | None) -> list[LabelledImage]:
    pairs = []
    for s in _selected(split):
        for path in (root / "leftImg8bit" / s).glob("*/*_leftImg8bit.png"):
            stem = path.name.removesuffix("_leftImg8bit.png")
            label = root / "gtFine" / s / path.parent.name / f"{stem}_gtFine_labelIds.png"
            if label.exists():
                pairs.append(LabelledImage(stem, path, label))
    return pairs


def _selected(split: str | None) -> Sequence[str]:
    return ("train", "val") if split is None else (split,)


def read_labels(dataset: str, path: Path) -> NDArray[np.uint8]:
    """Indices (H, W) uint8 into SEGMENTATION_CLASSES, IGNORED where not counted. Raises DatasetError."""
    pixels = read_label_image(path)
    if dataset == "camvid" and pixels.ndim == 3 and pixels.dtype == np.uint8:
        return _from_colours(pixels, path)
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise DatasetError(
            f"{path}: {pixels.dtype} pixels of shape {pixels.shape}; expected label numbers (H, W) uint8"
        )
    table = np.full(256, IGNORED, np.uint8)
    highest = 33 if dataset == "cityscapes" else len(CAMVID_CLASSES)
    numbers = CITYSCAPES_CLASSES if dataset == "cityscapes" else _numbers(CAMVID_CLASSES)
    for number, name in numbers.items():
        table[number] = SEGMENTATION_CLASSES.index(name)
    unknown = pixels[(pixels > highest) & (pixels != 255)]
    if unknown.size:
        raise DatasetError(
            f"{path}: label number {int(unknown.flat[0])}; allowed: 0 to {highest} and 255 ({dataset})"
        )
    labels: NDArray[np.uint8] = table[pixels]
    return labels


def _numbers(classes: Sequence[tuple[str, str]]) -> dict[int, str]:
    return {k: name for k, (_, name) in enumerate(classes)}


def _from_colours(pixels: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    b, g, r = (pixels[..., k].astype(np.uint32) for k in range(3))
    colours, inverse = np.unique((r << 16) | (g << 8) | b, return_inverse=True)
    if len(colours) > 4 * len(CAMVID_COLOURS):
        raise DatasetError(f"{path}: {len(colours)} colours; not a label image of CamVid")
    table = np.full(len(colours), IGNORED, np.uint8)
    for k, colour in enumerate(colours.tolist()):
        name = CAMVID_COLOURS.get((colour >> 16, (colour >> 8) & 255, colour & 255))
        if name is not None:
            table[k] = SEGMENTATION_CLASSES.index(name)
    labels: NDArray[np.uint8] = table[inverse.reshape(pixels.shape[:2])]
    return labels


def open_segmenter(model: str) -> Segmenter:
    """Open a shipped or imported segmentation model by its name or folder. Raises UserError."""
    from multimodal_perception.images.rgb_thermal_inputs import RgbThermalSegmenterConfig
    from multimodal_perception.runtime.card import load_card
    from multimodal_perception.segmentation import imported
    from multimodal_perception.segmentation.rgb_thermal import RgbThermalSegmenter

    card = load_card(model)
    if card.architecture == imported.ARCHITECTURE:
        return imported.ImportedSegmenter(imported.ImportedSegmenterConfig(model=model), card=card)
    return RgbThermalSegmenter(RgbThermalSegmenterConfig(model=model), card=card)


@dataclass
class SegmentationImagesScore:
    """Pixel counts and confidences of a segmenter on the images of a data set."""

    dataset: str
    images: int = 0
    images_without_mask: int = 0
    confusion: ConfusionMatrix = field(
        default_factory=lambda: ConfusionMatrix(SEGMENTATION_CLASSES)
    )
    confidence: ConfidenceScore = field(
        default_factory=lambda: ConfidenceScore(SEGMENTATION_CLASSES)
    )

    def merge(self, other: SegmentationImagesScore) -> None:
        """Add the images of another score of the same data set."""
        self.images += other.images
        self.images_without_mask += other.images_without_mask
        self.confusion.counts += other.confusion.counts
        self.confidence.merge(other.confidence)

    def summary(self) -> dict[str, Any]:
        """IoU by class, the confusion matrix and the figures of the confidence."""
        return {
            "dataset": self.dataset,
            "images": self.images,
            "images_without_mask": self.images_without_mask,
            **self.confusion.summary(),
            "confidence": self.confidence.summary(),
            "classes": list(SEGMENTATION_CLASSES),
            "confusion": self.confusion.counts.tolist(),
        }


def score_images(
    segmenter: Segmenter,
    dataset: str,
    images: Sequence[LabelledImage],
    on_image: Callable[[], Any] = lambda: None,
    on_result: Callable[[str, Any, Any, Any, float], None] = lambda *_: None,
) -> SegmentationImagesScore:
    """Compare the masks of a segmenter on visible images with the labels.

    on_result: called with the image's name, its pixels (BGR), true and predicted labels, and the time
    of the segmenter in milliseconds.

    A class that the segmenter does not have counts as never predicted, and classes of the segmenter
    that are not in SEGMENTATION_CLASSES as "other". An image without a mask counts as "other".
    """
    score = SegmentationImagesScore(dataset, len(images))
    for image, pixels, labels in read_images(dataset, images):
        start = time.perf_counter()
        masks = segmenter.segment(single_image_frame(pixels))
        milliseconds = 1000.0 * (time.perf_counter() - start)
        mask = next(iter(masks.values()), None)
        predicted = np.full(labels.shape, SEGMENTATION_CLASSES.index("other"), np.uint8)
        if mask is None:
            score.images_without_mask += 1
        else:
            predicted = _to_segmentation_classes(mask.class_names)[mask.labels]
            if mask.class_names == SEGMENTATION_CLASSES:
                add_confidence(score.confidence, labels, mask)
        score.confusion.add(labels, predicted)
        on_result(image.name, pixels, labels, predicted, milliseconds)
        on_image()
    return score


def read_images(
    dataset: str, images: Sequence[LabelledImage]
) -> Iterator[tuple[LabelledImage, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield each image with its pixels (BGR) and labels. Raises DatasetError if the sizes differ."""
    for image in images:
        pixels, labels = read_colour_image(image.image), read_labels(dataset, image.label)
        if pixels.shape[:2] != labels.shape:
            raise DatasetError(
                f"{image.label}: {labels.shape[1]}x{labels.shape[0]} pixels, but {image.image.name} has "
                f"{pixels.shape[1]}x{pixels.shape[0]}"
            )
        yield image, pixels, labels


def _to_segmentation_classes(names: Sequence[str]) -> NDArray[np.uint8]:
    other = SEGMENTATION_CLASSES.index("other")
    index = [SEGMENTATION_CLASSES.index(n) if n in SEGMENTATION_CLASSES else other for n in names]
    table = np.full(256, other, np.uint8)
    table[: len(index)] = index
    return table
