"""Outputs of the frozen image networks, stored beside the samples.

Features are stored as int8 with a scale for each channel, range distributions as uint8 of their square
root: a quarter of the size of float32, with errors far below those of the networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.image_bev import FrameImage
from multimodal_perception.detection.bev_fusion.image_view import ImageView
from multimodal_perception.detection.bev_fusion.network_config import BevFusionNetworkConfig
from multimodal_perception.detection.bev_fusion.ray_features import ray_features
from multimodal_perception.files import atomic_write
from multimodal_perception.networks.bev_fusion_images import ImageEncoder
from multimodal_perception.training.bev_fusion.sample_files import (
    Arrays,
    image_views,
    read_sample,
)
from multimodal_perception.training.bev_fusion.samples import decode_image, image_keys
from multimodal_perception.training.precision import Precision, mixed_precision

SUFFIX = ".features"


def feature_path(sample: Path) -> Path:
    """The file of the image features of a sample."""
    return sample.with_suffix(SUFFIX)


def store_features(
    paths: Sequence[Path],
    encoders: Mapping[str, ImageEncoder],
    config: BevFusionNetworkConfig,
    precision: Precision = "bf16",
) -> int:
    """Compute the outputs of the image networks for all images and store them beside the samples.

    encoders: frozen networks by modality. Files with outputs of the same networks are kept. Returns the
    number of files written.
    """
    key = np.array(digest(*encoders.values()))
    for encoder in encoders.values():
        encoder.eval()
    count = 0
    for path in tqdm([p for p in paths if not _is_stored(p, key)], "image features"):
        sample = read_sample(path)
        arrays: dict[str, NDArray[Any]] = {"networks": key}
        for modality, encoder in encoders.items():
            views = image_views(sample, modality)
            for name, view in zip(image_keys(sample, modality), views, strict=True):
                arrays |= _encode(sample, name, view, path, encoder, config, precision)
        with atomic_write(feature_path(path)) as file:
            np.savez(file, allow_pickle=False, **arrays)
        count += 1
    return count


def _encode(
    sample: Mapping[str, NDArray[Any]],
    name: str,
    view: ImageView,
    path: Path,
    encoder: ImageEncoder,
    config: BevFusionNetworkConfig,
    precision: Precision,
) -> Arrays:
    size = config.image_size(name.rstrip("0123456789"))
    pixels = torch.from_numpy(decode_image(sample[f"{name}.pixels"], path)[None])
    rays = ray_features(view.model, view.base_from_optical, size, float(sample["ground_z"]))
    device = next(encoder.parameters()).device
    with torch.inference_mode(), mixed_precision(device.type, precision):
        features, ranges = encoder(pixels.to(device), torch.from_numpy(rays[None]).to(device))
    return quantise_outputs(
        name, features[0].float().cpu().numpy(), ranges[0].float().cpu().numpy()
    )


def quantise_outputs(
    name: str, features: NDArray[np.float32], ranges: NDArray[np.float32]
) -> Arrays:
    """Stored arrays of the outputs of an image network: (h, w, C) and (h / 2, w / 2, D)."""
    scale = np.maximum(np.abs(features).max(axis=(0, 1)), 1e-6) / 127
    return {
        f"{name}.features": np.rint(features / scale).astype(np.int8),
        f"{name}.scale": scale.astype(np.float32),
        f"{name}.ranges": np.rint(255 * np.sqrt(ranges)).astype(np.uint8),
    }


def read_images(
    path: Path,
    views: Mapping[str, ImageView],
    paint: Mapping[str, NDArray[np.float32]],
) -> list[FrameImage]:
    """The images of a sample with their stored outputs.

    views: by key of the image, of those that are read. paint: painting by key, see FrameImage.
    """
    names = [f"{key}.{part}" for key in views for part in ("features", "scale", "ranges")]
    stored = read_sample(feature_path(path), names)
    images = []
    for key, view in views.items():
        ranges = stored[f"{key}.ranges"].astype(np.float32) ** 2
        ranges /= np.maximum(ranges.sum(axis=2, keepdims=True), 1.0)
        features = stored[f"{key}.features"] * stored[f"{key}.scale"]
        modality = key.rstrip("0123456789")
        images.append(FrameImage(modality, view, features, ranges, paint.get(key)))
    return images


def digest(*networks: nn.Module) -> str:
    """SHA-256 of the weights of networks."""
    result = hashlib.sha256()
    for network in networks:
        for tensor in network.state_dict().values():
            result.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return result.hexdigest()


def _is_stored(path: Path, key: NDArray[np.str_]) -> bool:
    if not feature_path(path).exists():
        return False
    try:
        return bool(read_sample(feature_path(path), ("networks",))["networks"] == key)
    except UserError:  # damaged
        return False
