"""Sizes and switches of the BEV fusion detector's networks; does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.pillars import (
    PILLAR_CHANNELS,
    PillarConfig,
)

# All images of one modality share an image network.
IMAGE_MODALITIES = ("camera", "thermal")
CLASSES = (
    "car", "van", "truck", "bus", "trailer",
    "motorcyclist", "cyclist", "pedestrian", "cone", "barrier",
)  # fmt: skip
ULTRASONIC_CHANNELS = 2
# Groups of classes that 2D networks distinguish; painted points have a score for each (see painting).
PAINT_GROUPS = (
    "small_vehicle", "large_vehicle", "rider", "pedestrian", "obstacle", "background",
)  # fmt: skip
# The scores of all groups and the fraction of the points that a 2D network covers.
PAINT_CHANNELS = len(PAINT_GROUPS) + 1
# Image pixels per cell of the feature map, and per cell of the range distribution and ray features.
FEATURE_STRIDE, DEPTH_STRIDE = 4, 8
# Features of the ray of a pixel that do not depend on the image (see ray_features).
RAY_CHANNELS = 4
# Channels of one past sweep in a pillar: log count, mean offset along x and along y.
SWEEP_CHANNELS = 3
# Components of a box with a predicted variance: x y z, length width height, yaw, velocity x and y.
VARIANCES = 9
# Cells of the BEV canvas per cell of the lift grid and of the feature map of the first stage.
BEV_STRIDE = 2


@dataclass(frozen=True)
class BevFusionNetworkConfig:
    """Architecture of the BEV fusion detector. The weights of a model only fit the values of its card.

    No value limits the number of images: each image is processed independently, and the contributions
    of all images are averaged. The limits of the node are max_cameras and max_thermal_cameras of
    FusionConfig.

    Attributes:
        pillars: Bird's-eye-view grid of the pillars. Change it when you train for another range or
            another resolution.
        past_sweeps: Number of earlier sweeps beside the current one, aligned by odometry; a frame may
            have fewer. Decrease it to save time where velocities of objects are not needed.
        camera_size: Height and width in pixels that camera images are scaled to. Increase it to detect
            smaller or more distant objects; the time of the image network grows with the area.
        thermal_size: Height and width in pixels that thermal images are scaled to. Increase it for
            thermal cameras of higher resolution.
        channels: Number of channels of the pillar features and of the image feature maps. Increase it
            for a more accurate but slower network.
        range_bins: Number of bins of the predicted range of each pixel, of which the last one means
            beyond max_range. Increase it for a finer resolution when you train with more data.
        min_range: Euclidean range of the end of the first bin, from the camera. Decrease it for small
            vehicles, whose cameras may be close to objects.
        max_range: Euclidean range of the beginning of the last bin. Increase it together with the
            half extent of the pillars when you train for a longer range.
        lift_heights: Heights above the ground at which the cells of the lift grid are projected into
            the images. Change them when you train for other objects than road users.
        widths: Numbers of channels of the three stages of the BEV backbone. Increase them for a more
            accurate but slower network.
        depths: Numbers of convolutions after the strided one in the three stages of the BEV backbone.
            Increase them for a larger receptive field; the time grows with them.
        neck_channels: Number of channels of the BEV feature map after the neck. Increase it for a more
            accurate but slower network.
        proposals: Number of proposals of the first stage. Increase it for scenes with many objects.
        refined_proposals: Number of proposals that the second stage refines, the ones with the highest
            scores first. Decrease it to save time in the second stage.
        roi_channels: Number of channels of the second stage. Decrease it to save time.
        lift: Whether image features are lifted into the bird's-eye view with their predicted ranges.
            Disable it for an ablation; without it, the first stage does not use images in frames without
            LiDAR points.
        pillar_images: Whether pillars are fused with the image features at their points (LoGoNet's
            Global Fusion). Disable it for an ablation or to save time.
        bev_exchange: Whether image and LiDAR features attend to each other in the bird's-eye view before
            they are added (after DeepInteraction). Enable it for an ablation; it costs time.
        local_fusion: Whether RoI grid points are fused with image features (LoGoNet's Local Fusion).
            Disable it for an ablation.
        dynamic_aggregation: Whether the second stage has LoGoNet's Feature Dynamic Aggregation. Disable
            it to save time.
        painting: Whether class scores of 2D networks are features of points and of lifted images
            (PointPainting). Disable it where no segmentation and no image detector is used.
        segment_classes: Number of classes of the image networks' auxiliary segmentation task in
            training. Change it together with the training data's classes.
    """

    pillars: PillarConfig = field(default_factory=PillarConfig)
    past_sweeps: int = field(default=5, metadata={"min": 0, "max": 5})
    camera_size: tuple[int, int] = field(default=(288, 512), metadata={"unit": "px"})
    thermal_size: tuple[int, int] = field(default=(256, 320), metadata={"unit": "px"})
    channels: int = field(default=32, metadata={"min": 8, "max": 512})
    range_bins: int = field(default=48, metadata={"min": 4, "max": 256})
    min_range: float = field(default=1.5, metadata={"min": 0.1, "max": 20.0, "unit": "m"})
    max_range: float = field(default=60.0, metadata={"min": 5.0, "max": 300.0, "unit": "m"})
    lift_heights: tuple[float, ...] = field(default=(0.4, 1.1, 2.0, 3.2), metadata={"unit": "m"})
    widths: tuple[int, int, int] = (48, 80, 128)
    depths: tuple[int, int, int] = (1, 2, 2)
    neck_channels: int = field(default=48, metadata={"min": 8, "max": 512})
    proposals: int = field(default=128, metadata={"min": 1, "max": 2000})
    refined_proposals: int = field(default=64, metadata={"min": 1, "max": 1000})
    roi_channels: int = field(default=48, metadata={"min": 16, "max": 512})
    lift: bool = True
    pillar_images: bool = True
    bev_exchange: bool = False
    local_fusion: bool = True
    dynamic_aggregation: bool = True
    painting: bool = True
    segment_classes: int = field(default=13, metadata={"min": 1, "max": 255})

    def __post_init__(self) -> None:
        for name in ("camera_size", "thermal_size"):
            if any(size <= 0 or size % 16 for size in getattr(self, name)):
                raise ValueError(f"{name}: height and width must be multiples of 16")
        if not self.lift_heights or any(np.diff(self.lift_heights) <= 0):
            raise ValueError("lift_heights must have at least one height and ascend")
        if self.min_range >= self.max_range:
            raise ValueError("min_range must be smaller than max_range")
        if self.bev_exchange and not self.lift:
            raise ValueError("bev_exchange needs lift")

    @property
    def pillar_channels(self) -> int:
        """Channels of a pillar: current sweep, past sweeps with their ages, painting."""
        past = self.past_sweeps * (SWEEP_CHANNELS + 1)
        return PILLAR_CHANNELS + past + (PAINT_CHANNELS if self.painting else 0)

    @property
    def lift_size(self) -> int:
        """Number of cells along each side of the lift grid and of the BEV feature map."""
        return self.pillars.size // BEV_STRIDE

    @property
    def lift_cell(self) -> float:
        """Side length of a cell of the lift grid, metres."""
        return self.pillars.cell * BEV_STRIDE

    @property
    def modality_channels(self) -> int:
        """Channels of one modality in the lift grid (see lift_images)."""
        return self.channels + len(self.lift_heights) + 2

    @property
    def lift_channels(self) -> int:
        """Channels of the lift grid: all modalities, then the lifted painting."""
        painting = PAINT_CHANNELS if self.painting else 0
        return len(IMAGE_MODALITIES) * self.modality_channels + painting

    @property
    def sample_channels(self) -> int:
        """Channels of image features at a point (see sample_images)."""
        return self.channels + 2

    def image_size(self, modality: str) -> tuple[int, int]:
        """Height and width of the network's images of a modality."""
        return self.camera_size if modality == "camera" else self.thermal_size

    @property
    def range_edges(self) -> NDArray[np.float32]:
        """Edges (range_bins,) of the bins, metres.

        Bin k covers the ranges from edge k to edge k + 1, bin 0 also smaller ones; the last bin has no
        upper edge. The ratio of consecutive edges is constant.
        """
        return np.geomspace(self.min_range, self.max_range, self.range_bins).astype(np.float32)

    def range_bin(self, ranges: NDArray[np.floating]) -> NDArray[np.int64]:
        """Index of the bin of each Euclidean range from the camera, metres, of any shape.

        Infinite ranges (sky) belong to the last bin.
        """
        bins = np.searchsorted(self.range_edges, ranges, side="right") - 1
        return np.clip(bins, 0, self.range_bins - 1).astype(np.int64)


def stage1_inputs(config: BevFusionNetworkConfig) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype by name of the inputs of the first stage for one frame."""
    c, count = config, config.pillars.max_pillars
    size = c.pillars.size
    inputs: dict[str, tuple[tuple[int, ...], str]] = {
        "pillars": ((1, count, c.pillar_channels), "float32"),
        "pillar_cells": ((1, count), "int64"),
        "ultrasonic_grid": ((1, ULTRASONIC_CHANNELS, size, size), "float32"),
    }
    if c.pillar_images:
        channels = len(IMAGE_MODALITIES) * c.sample_channels
        inputs["pillar_images"] = ((1, count, channels), "float32")
    if c.lift:
        inputs["image_bev"] = ((1, c.lift_size**2, c.lift_channels), "float32")
    return inputs
