"""Single images with their targets, for the training of the image networks.

Beside ranges and segments, the targets are properties of the object that each pixel shows: its
orientation and size, and the position of its centre relative to the surface. A linear layer predicts
them from the features, so that the features contain the information that the detector needs in the
bird's-eye view.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.bev_fusion.network_config import (
    DEPTH_STRIDE,
    FEATURE_STRIDE,
    IMAGE_MODALITIES,
    BevFusionNetworkConfig,
)
from multimodal_perception.detection.bev_fusion.ray_features import ray_features
from multimodal_perception.training.bev_fusion.image_augmentation import (
    ImageAugmentationConfig,
    augment_image,
)
from multimodal_perception.training.bev_fusion.sample_files import (
    Arrays,
    image_views,
    read_sample,
)
from multimodal_perception.training.bev_fusion.samples import (
    FAR,
    RANGE_STEP,
    UNKNOWN_SEGMENT,
    decode_image,
    image_keys,
)

# Properties of the object at a pixel: sine and cosine of the yaw relative to the ray and of twice that
# angle, log length, width and height, and the offset of the centre from the surface along the ray, to
# its left and up, in units of OFFSET_SCALE metres.
OBJECT_PROPERTIES, OFFSET_SCALE = 10, 2.0
# Sign of each property in a mirrored image.
MIRROR_SIGNS = np.array([-1, 1, -1, 1, 1, 1, 1, 1, -1, 1], np.float32)


class ImageDataset(Dataset[dict[str, Arrays]]):
    """All camera images of samples, with a proportional number of thermal images.

    An item has the arrays of a camera image and, as often as there are thermal images, those of one. It
    depends on (seed, epoch, index) only.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        config: BevFusionNetworkConfig,
        augmentation: ImageAugmentationConfig | None,
        seed: int = 0,
    ) -> None:
        """augmentation: None for unchanged images. Raises UserError without camera images."""
        self.config, self.augmentation, self.seed, self.epoch = config, augmentation, seed, 0
        self.images: dict[str, list[tuple[Path, str]]] = {m: [] for m in IMAGE_MODALITIES}
        for path in paths:
            with np.load(path, allow_pickle=False) as content:
                keys = [n.removesuffix(".pixels") for n in content.files if n.endswith(".pixels")]
            for key in keys:
                self.images[key.rstrip("0123456789")].append((path, key))
        if not self.images["camera"]:
            raise UserError(f"{paths[0].parent if paths else 'samples'}: no camera images")

    def __len__(self) -> int:
        return len(self.images["camera"])

    def __getitem__(self, index: int) -> dict[str, Arrays]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        item = {"camera": self._image(*self.images["camera"][index], rng)}
        thermals, count = self.images["thermal"], len(self)
        # Thermal images are spread evenly over the camera images.
        first, last = (k * len(thermals) // count for k in (index, index + 1))
        if last > first:
            item["thermal"] = self._image(*thermals[int(rng.integers(first, last))], rng)
        return item

    def _image(self, path: Path, key: str, rng: np.random.Generator) -> Arrays:
        sample = read_sample(path)
        modality = key.rstrip("0123456789")
        view = image_views(sample, modality)[image_keys(sample, modality).index(key)]
        pixels = decode_image(sample[f"{key}.pixels"], path)
        mirror = False
        if self.augmentation is not None:
            mirror = bool(rng.random() < self.augmentation.mirror)
            pixels = augment_image(pixels, self.augmentation, rng)
        size = self.config.image_size(modality)
        arrays = image_targets(sample, key, view, self.config)
        arrays["pixels"] = pixels
        arrays["ray_features"] = ray_features(
            view.model, view.base_from_optical, size, float(sample["ground_z"])
        )
        return mirror_arrays(arrays) if mirror else arrays


def image_targets(
    sample: Arrays, key: str, view: ImageView, config: BevFusionNetworkConfig
) -> Arrays:
    """Targets of one image.

    bins (h / 8, w / 8) int64: of the ranges, -1 outside of the image. segments (h / 4, w / 4) uint8.
    properties (OBJECT_PROPERTIES, h / 8, w / 8) float32 and has_object (h / 8, w / 8).
    """
    ranges = sample[f"{key}.ranges"]
    metres = np.where(ranges == FAR, np.inf, ranges * RANGE_STEP)
    bins = np.where(ranges == 0, -1, config.range_bin(metres))
    segments = sample[f"{key}.semantics"]
    step = DEPTH_STRIDE // FEATURE_STRIDE
    objects = sample[f"{key}.objects"][::step, ::step].astype(np.int64)
    known = (objects > 0) & np.isfinite(metres) & (ranges > 0)
    properties = _object_properties(sample, view, objects, np.where(known, metres, 0.0))
    known &= np.isfinite(properties).all(axis=0)
    properties[:, ~known] = 0.0
    return {
        "bins": bins.astype(np.int64),
        "segments": segments,
        "properties": properties.astype(np.float32),
        "has_object": known.astype(np.float32),
    }


def _object_properties(
    sample: Arrays, view: ImageView, objects: NDArray[np.int64], metres: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Properties (OBJECT_PROPERTIES, h, w) of the object at each cell; NaN without a ray."""
    rows, columns = objects.shape
    v, u = np.divmod(np.arange(rows * columns), columns)
    pixels = (np.column_stack([u, v]) + 0.5) * DEPTH_STRIDE - 0.5
    rays = view.model.unproject(pixels) @ view.base_from_optical[:3, :3].T
    surface = view.base_from_optical[:3, 3] + rays * metres.reshape(-1, 1)
    empty = np.ones((1, 7), np.float32)
    box = np.concatenate([empty, sample["boxes"]])[objects.ravel()].astype(np.float64)
    azimuth = np.arctan2(rays[:, 1], rays[:, 0])
    yaw = box[:, 6] - azimuth
    offset = box[:, :3] - surface
    c, s = np.cos(azimuth), np.sin(azimuth)
    along, left = c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0]
    values = [
        np.sin(yaw), np.cos(yaw), np.sin(2 * yaw), np.cos(2 * yaw), *np.log(box[:, 3:6]).T,
        along / OFFSET_SCALE, left / OFFSET_SCALE, offset[:, 2] / OFFSET_SCALE,
    ]  # fmt: skip
    return np.stack(values).reshape(OBJECT_PROPERTIES, rows, columns)


def mirror_arrays(arrays: Arrays) -> Arrays:
    """The arrays of the image mirrored left to right. An image that is padded moves to the right."""
    mirrored = {}
    for name, values in arrays.items():
        axis = 1 if name == "pixels" else values.ndim - 1
        mirrored[name] = np.ascontiguousarray(np.flip(values, axis))
    mirrored["properties"] *= MIRROR_SIGNS[:, None, None]
    return mirrored


ImageBatch = dict[str, dict[str, Tensor]]


def collate_images(items: Sequence[dict[str, Arrays]]) -> ImageBatch:
    """Stacked arrays by modality; a modality without images is absent."""
    batch: ImageBatch = {}
    for modality in IMAGE_MODALITIES:
        own = [item[modality] for item in items if modality in item]
        if own:
            batch[modality] = {
                name: torch.from_numpy(np.stack([arrays[name] for arrays in own]))
                for name in own[0]
            }
    return batch


def segment_cells(segments: Tensor) -> Tensor:
    """Segments (N, h / 8, w / 8) from (N, h / 4, w / 4): the highest class of the 2 x 2 cells.

    Classes of small objects are above those of large ones. A cell that is partly outside of the image
    has the class inside.
    """
    known = torch.where(segments == UNKNOWN_SEGMENT, -1, segments.to(torch.int64)).float()
    highest = torch.nn.functional.max_pool2d(known[:, None], 2)[:, 0]
    return torch.where(highest < 0, UNKNOWN_SEGMENT, highest.to(torch.int64)).to(torch.uint8)
