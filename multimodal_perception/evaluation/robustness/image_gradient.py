"""Projected gradient attacks on the image of one sensor, through the torch networks of the pipeline.

The attacked values are the sensor's own pixels (levels of a camera, counts of a thermal camera).
Scaling, contrast and the warp into the view of another camera are part of the gradient. The attack needs
no labels: it moves the results away from those of the clean frame (Madry et al. 2018; on both modalities
of a segmentation network as in PAIF, Liu et al. 2023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.bev_fusion.detector import BevFusionDetector
from multimodal_perception.detection.bev_fusion.frame_images import ImagePreprocessor
from multimodal_perception.detection.bev_fusion.image_bev import FrameImage, ImageSet
from multimodal_perception.detection.bev_fusion.network_inputs import image_arrays, point_arrays
from multimodal_perception.detection.bev_fusion.ultrasonic_channels import ultrasonic_readings
from multimodal_perception.detection.images.rgb_thermal import RgbThermalDetector
from multimodal_perception.evaluation.robustness.attacked_pixels import (
    contrast_limits,
    image_pixels,
    pixel_bound,
)
from multimodal_perception.evaluation.robustness.lifted_gradient import ImageShare
from multimodal_perception.frame import CameraImage, SensorFrame, ThermalImage
from multimodal_perception.images.resize import fit_scale
from multimodal_perception.images.rgb_thermal_inputs import (
    RgbThermalInputBuilder,
    RgbThermalSegmenterConfig,
    trained_second_input,
)
from multimodal_perception.images.thermal_normalization import quartile_gamma
from multimodal_perception.images.view_warp import warp_between
from multimodal_perception.pointcloud.ground_segmentation import Cloud
from multimodal_perception.runtime.architectures import resolve
from multimodal_perception.runtime.card import ModelCard, load_card
from multimodal_perception.segmentation.rgb_thermal import RgbThermalSegmenter

# What the attack increases: a scalar tensor from the sensor's pixels (H, W[, 3]) as float32.
Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GradientTarget:
    """What the gradient of a task needs. pixels: of the clean image. objective: see Objective.

    level: change of the pixels for one level, see attacked_pixels.image_pixels.
    """

    pixels: NDArray[np.float32]
    objective: Objective
    level: float


def gradient_target(
    stage: Any, frame: SensorFrame, sensor: str, cloud: Cloud
) -> GradientTarget | None:
    """The target for a stage with a torch network; None if it has none or does not use the sensor.

    stage: a segmenter, image detector or 3D detector. cloud: of the frame, for 3D detectors.
    """
    if isinstance(stage, (RgbThermalSegmenter, RgbThermalDetector)):
        card = load_card(stage.config.model)
        return None if card.weights is None else _view_target(stage, card, frame, sensor)
    if isinstance(stage, BevFusionDetector):
        return _fusion_target(stage, frame, sensor, cloud)
    return None


def projected_gradient(
    target: GradientTarget, levels: float, steps: int, maximum: float, seed: int
) -> NDArray[np.float32]:
    """Pixels that differ by at most `levels` of the contrast and increase the objective.

    Steps along the sign of the gradient from a random start, projected onto the bound and onto the range
    0 to `maximum`; the result is rounded to whole numbers. Bounds below one count are one count.
    """
    bound = pixel_bound(levels, target.level)
    clean = torch.from_numpy(target.pixels)
    low, high = (clean - bound).clamp(min=0.0), (clean + bound).clamp(max=maximum)
    noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(seed))
    pixels = torch.minimum(torch.maximum(clean + bound * (2.0 * noise - 1.0), low), high)
    step = 2.5 * bound / steps
    for _ in range(steps):
        pixels = pixels.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(target.objective(pixels), pixels)
        moved = pixels.detach() + step * gradient.sign()
        pixels = torch.minimum(torch.maximum(moved, low), high)
    return np.asarray(torch.round(pixels).numpy(), np.float32)


def load_network(card: ModelCard) -> nn.Module:
    """The torch network of a card with its weights, without gradients of the weights.

    Raises UserError if the weights do not match the network.
    """
    from safetensors.torch import load

    module: nn.Module = resolve(card, "build")(card.settings)
    try:
        module.load_state_dict(card.to_module_names(load(card.read_file("weights"))))
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{card.source}: weights do not match the network: {error}") from error
    return module.eval().requires_grad_(False)


def _view_target(
    stage: RgbThermalSegmenter | RgbThermalDetector,
    card: ModelCard,
    frame: SensorFrame,
    sensor: str,
) -> GradientTarget | None:
    """The target of a network of visible and thermal images."""
    config = RgbThermalSegmenterConfig(
        cameras=stage.config.cameras, second_input=trained_second_input(card)
    )
    builder = RgbThermalInputBuilder(card, config, Counter())
    chosen = None
    for view in builder.select_views(frame):
        arrays = builder.build(frame, view)
        mask = "visible_mask" if sensor in frame.cameras else "thermal_mask"
        uses = arrays is not None and arrays[mask].any()
        if uses and view == (sensor if sensor in frame.cameras else view):
            area = float(arrays[mask].mean())  # type: ignore[index]
            if chosen is None or area > chosen[2]:
                chosen = view, arrays, area
    if chosen is None:
        return None
    view, arrays, _ = chosen
    assert arrays is not None
    network = load_network(card)
    pixels, _, level = image_pixels(frame, sensor)
    if sensor in frame.cameras:
        key, make_input = (
            "visible",
            visible_input(card, builder.scale(frame.intrinsics[view]), arrays),
        )
    else:
        key, make_input = "thermal", thermal_input(card, builder, frame, view, sensor, arrays)
    fixed = {name: torch.from_numpy(values) for name, values in arrays.items()}

    def outputs(values: Tensor) -> Tensor:
        inputs = [make_input(values) if n == key else fixed[n] for n in card.inputs]
        if isinstance(stage, RgbThermalDetector):
            logits: Tensor = network.predict_logits(*inputs)[0]  # type: ignore[operator]
            return logits
        result: Tensor = network(*inputs)
        return result

    with torch.no_grad():
        clean = outputs(torch.from_numpy(pixels))
    if isinstance(stage, RgbThermalDetector):
        weights = clean.sigmoid()  # objects vanish: the logits of confident cells decrease
        return GradientTarget(pixels, lambda x: -(weights * outputs(x)).sum(), level)
    classes = clean.argmax(1)
    return GradientTarget(pixels, lambda x: F.cross_entropy(outputs(x), classes), level)


def visible_input(
    card: ModelCard, scale: float, arrays: dict[str, NDArray[np.float32]]
) -> Callable[[Tensor], Tensor]:
    """The network's input `visible` from RGB levels (H, W, 3), as RgbThermalInputBuilder computes it."""
    values = card.normalisation.get("visible", {})
    mean, std = float(values.get("mean", 127.0)), float(values.get("std", 128.0))
    height, width = arrays["visible"].shape[-2:]

    def convert(pixels: Tensor) -> Tensor:
        rows, columns = (round(n * scale) for n in pixels.shape[:2])
        small = area_resize(pixels.permute(2, 0, 1), (rows, columns))
        small = (small - mean) / std
        return F.pad(small, (0, width - columns, 0, height - rows))[None]

    return convert


def thermal_input(
    card: ModelCard,
    builder: RgbThermalInputBuilder,
    frame: SensorFrame,
    view: str,
    sensor: str,
    arrays: dict[str, NDArray[np.float32]],
) -> Callable[[Tensor], Tensor]:
    """The network's input `thermal` in a view from the counts (H, W) of a thermal image."""
    image, model = frame.thermals[sensor], frame.intrinsics[view]
    low, high = contrast_limits(image)
    grey = np.clip((image.filled_pixels().astype(np.float32) - low) / (high - low), 0.0, 1.0)
    level = card.settings.get("thermal_quartile")
    gamma = 1.0 if level is None else float(quartile_gamma(grey, float(level)))
    scale = builder.scale(model)
    rows, columns = round(model.height * scale), round(model.width * scale)
    scaled = model.scaled(columns / model.width, rows / model.height)
    height, width = arrays["thermal"].shape[-2:]
    padding = (0, width - columns, 0, height - rows)
    source = frame.intrinsics[sensor]
    shrink = min(1.0, scaled.matrix[0, 0] / source.matrix[0, 0])
    size = (source.height, source.width)
    if view != sensor and shrink < 0.67:
        size = round(source.height * shrink), round(source.width * shrink)
        source = source.scaled(size[1] / source.width, size[0] / source.height)
    grid = valid = None
    if view != sensor:
        cameras = [frame.reference_from_sensor(n) for n in (view, sensor)]
        warp = warp_between(scaled, cameras[0], source, cameras[1], frame.ground_z)
        u = (2.0 * warp.columns + 1.0) / size[1] - 1.0
        v = (2.0 * warp.rows + 1.0) / size[0] - 1.0
        grid = torch.from_numpy(np.stack([u, v], -1).astype(np.float32))[None]
        valid = torch.from_numpy(warp.valid)

    def convert(counts: Tensor) -> Tensor:
        values = ((counts - low) / (high - low)).clamp(1e-6, 1.0) ** gamma
        if grid is None:
            small = area_resize(values[None], (rows, columns))[0]
        else:
            values = area_resize(values[None], size)
            sampled = F.grid_sample(values[None], grid, align_corners=False)[0, 0]
            small = torch.where(valid, sampled, 0.0)  # type: ignore[arg-type]
        return F.pad(small, padding)[None, None]

    return convert


def area_resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images (N, H, W) as cv2.resize with INTER_AREA does; linear, so that it has a gradient."""
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    rows, columns = _area_matrix(height, size[0]), _area_matrix(width, size[1])
    return rows @ images @ columns.T


def _area_matrix(length: int, target: int) -> Tensor:
    """The matrix (target, length) of a resize in one direction."""
    identity = np.eye(length, dtype=np.float32)
    if length == target:
        return torch.from_numpy(identity)
    method = cv2.INTER_AREA if target < length else cv2.INTER_LINEAR
    resized = cv2.resize(identity, (length, target), interpolation=method)
    return torch.from_numpy(np.ascontiguousarray(resized))


def _fusion_target(
    detector: BevFusionDetector, frame: SensorFrame, sensor: str, cloud: Cloud
) -> GradientTarget | None:
    """The target of the BEV fusion detector: image network and first stage, without past sweeps."""
    n, cards = detector.network_config, detector.cards
    limits = {"camera": detector.config.max_cameras, "thermal": detector.config.max_thermal_cameras}
    scaled = [i for i in ImagePreprocessor(n, limits).process(frame) if i.modality in cards.images]
    index = next((k for k, image in enumerate(scaled) if image.sensor == sensor), None)
    if index is None or any(c.weights is None for c in (cards.stage1, *cards.images.values())):
        return None
    networks = {modality: load_network(card) for modality, card in cards.images.items()}
    stage1: Any = load_network(cards.stage1)
    with torch.no_grad():
        encoded = [networks[i.modality](*map(torch.from_numpy, i.arrays.values())) for i in scaled]
    images = ImageSet(
        [
            FrameImage(i.modality, i.view, features[0].numpy(), ranges[0].numpy())
            for i, (features, ranges) in zip(scaled, encoded, strict=True)
        ],
        cloud.ground,
    )
    arrays, pillars = point_arrays(
        cloud.ground_relative_points, [], None, ultrasonic_readings(frame), n
    )
    arrays |= image_arrays(images, pillars, n)
    fixed = {name: torch.from_numpy(values)[None] for name, values in arrays.items()}
    share = ImageShare(images, index, n, pillars.centroids)
    clean = share(*encoded[index])
    attacked = scaled[index]
    rays = torch.from_numpy(attacked.arrays["ray_features"])
    to_input = _fitted(frame.readings[sensor], n.image_size(attacked.modality))

    def objective(values: Tensor) -> Tensor:
        changed = share(*networks[attacked.modality](to_input(values), rays))
        moved = {name: fixed[name] + changed[name] - clean[name] for name in changed}
        inputs = fixed | moved
        scores = stage1(*(inputs[name] for name in cards.stage1.inputs))[0]
        return -(scores * scores.detach()).sum()

    values, _, level = image_pixels(frame, sensor)
    return GradientTarget(values, objective, level)


def _fitted(
    image: CameraImage | ThermalImage | Any, size: tuple[int, int]
) -> Callable[[Tensor], Tensor]:
    """From the pixels of a sensor to the input of an image network of the fusion detector."""
    limits = contrast_limits(image) if isinstance(image, ThermalImage) else None

    def convert(values: Tensor) -> Tensor:
        if limits is not None:
            values = 255.0 * ((values - limits[0]) / (limits[1] - limits[0])).clamp(0.0, 1.0)
        planes = values.permute(2, 0, 1) if values.dim() == 3 else values[None]
        scale = fit_scale(tuple(planes.shape[-2:]), size)
        rows, columns = (round(k * scale) for k in planes.shape[-2:])
        small = area_resize(planes, (rows, columns))
        padded = F.pad(small, (0, size[1] - columns, 0, size[0] - rows))
        return padded.permute(1, 2, 0)[None] if values.dim() == 3 else padded

    return convert
