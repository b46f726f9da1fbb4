"""Sizes and switches of the fusion detector's networks; does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from multimodal_perception.detection.bev_fusion.pillars import PillarConfig

CLASSES = ("car", "van", "truck", "bus", "pedestrian", "cyclist")
ULTRASONIC_CHANNELS = 2
# All images of one modality share an image network and a stacked feature map.
IMAGE_MODALITIES = ("camera", "thermal")


@dataclass(frozen=True)
class DetectorConfig:
    """Architecture of the fusion detector. The weights of a model only fit the values of its card.

    Attributes:
        pillars: Bird's-eye-view grid of the pillars. Change it when you train for another range or
            another resolution.
        cameras: Maximum number of camera images per frame; a frame may have fewer. Increase it for
            vehicles with more cameras; memory and time grow with the number of images.
        thermal_cameras: Maximum number of thermal images per frame; a frame may have fewer. Increase
            it for vehicles with more thermal cameras.
        camera_size: Height and width in pixels that camera images are scaled to. Increase it to detect
            smaller or more distant objects; the time of the image network grows with the area.
        thermal_size: Height and width in pixels that thermal images are scaled to. Increase it for
            thermal cameras of higher resolution.
        channels: Number of channels of the pillar features and of the image feature maps. Increase it
            for a more accurate but slower network.
        widths: Numbers of channels of the three stages of the BEV backbone. Increase them for a more
            accurate but slower network.
        depths: Numbers of convolutions after the strided one in the three stages of the BEV backbone.
            Increase them for a larger receptive field; the time grows with them.
        neck_channels: Number of channels of the BEV feature map behind the neck. Increase it for a more
            accurate but slower network.
        neck: Feature pyramid behind the BEV backbone: "fpn" or "rcnet" (see networks.bev_backbone).
            Keep "fpn" unless you want to compare the two.
        proposals: Number of proposals of the first stage. Increase it for scenes with many objects.
        refined_proposals: Number of proposals that the second stage refines, the ones with the highest
            scores first. Decrease it to save time in the second stage.
        roi_channels: Number of channels of the second stage. Decrease it to save time.
        sampling_points: Number of image positions that each attention head of Local Fusion samples for
            each RoI grid point. Decrease it to save time.
        global_fusion: Whether pillars are fused with image features (LoGoNet's Global Fusion). Disable
            it to train a first stage for LiDAR only.
        local_fusion: Whether RoI grid points are fused with image features (LoGoNet's Local Fusion).
            Disable it for an ablation.
        dynamic_aggregation: Whether the second stage has LoGoNet's Feature Dynamic Aggregation. Disable
            it to save time.
        bev_to_image_attention: Whether image features attend to the BEV features along the rays of their
            pixels before Global Fusion (after DeepInteraction). Enable it only together with
            global_fusion; it costs time.
        segmentation_classes: Number of classes of the image networks' auxiliary segmentation task in
            training. Change it together with the training data's classes.
    """

    pillars: PillarConfig = field(default_factory=PillarConfig)
    cameras: int = field(default=2, metadata={"min": 0, "max": 12})
    thermal_cameras: int = field(default=1, metadata={"min": 0, "max": 6})
    camera_size: tuple[int, int] = field(default=(288, 512), metadata={"unit": "px"})
    thermal_size: tuple[int, int] = field(default=(256, 320), metadata={"unit": "px"})
    channels: int = field(default=32, metadata={"min": 8, "max": 512})
    widths: tuple[int, int, int] = (48, 80, 128)
    depths: tuple[int, int, int] = (1, 2, 2)
    neck_channels: int = field(default=48, metadata={"min": 8, "max": 512})
    neck: Literal["fpn", "rcnet"] = "fpn"
    proposals: int = field(default=128, metadata={"min": 1, "max": 2000})
    refined_proposals: int = field(default=64, metadata={"min": 1, "max": 1000})
    roi_channels: int = field(default=64, metadata={"min": 16, "max": 512})
    sampling_points: int = field(default=4, metadata={"min": 1, "max": 16})
    global_fusion: bool = True
    local_fusion: bool = True
    dynamic_aggregation: bool = True
    bev_to_image_attention: bool = False
    segmentation_classes: int = 9

    def __post_init__(self) -> None:
        if self.bev_to_image_attention and not self.global_fusion:
            raise ValueError("bev_to_image_attention needs global_fusion")
