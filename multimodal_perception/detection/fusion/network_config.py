"""Sizes and switches of the fusion detector; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from multimodal_perception.detection.fusion.pillars import PillarConfig

CLASSES = ("car", "van", "truck", "bus", "pedestrian", "cyclist")
ULTRASONIC_CHANNELS = 2
# Images of one kind share a network and an atlas.
IMAGE_KINDS = ("camera", "thermal")


@dataclass(frozen=True)
class DetectorConfig:
    """Sizes and switches of the networks.

    pillars: grid. cameras, thermals: places for images; a frame may fill fewer. camera_size,
    thermal_size: height and width, pixels. channels: of pillars and images. widths, depths: of the
    BEV backbone. neck_channels: of the BEV map. neck: FPN or RCNet's. proposals: of the first network.
    global_fusion: images enter the pillars. refined: proposals that the refinement takes, roi_channels:
    its width, samples: places a head in an image for each of its grid points; local_fusion and
    dynamic_aggregation: its parts. exchange: images take up the BEV along their cells' rays before the
    pillars look into them (DeepInteraction).
    segments: classes of the images' auxiliary task.
    """

    pillars: PillarConfig = field(default_factory=PillarConfig)
    cameras: int = field(default=2, metadata={"min": 0, "max": 12})
    thermals: int = field(default=1, metadata={"min": 0, "max": 6})
    camera_size: tuple[int, int] = (288, 512)
    thermal_size: tuple[int, int] = (256, 320)
    channels: int = field(default=32, metadata={"min": 8, "max": 512})
    widths: tuple[int, int, int] = (48, 80, 128)
    depths: tuple[int, int, int] = (1, 2, 2)
    neck_channels: int = field(default=48, metadata={"min": 8, "max": 512})
    neck: Literal["fpn", "reverse"] = "fpn"
    proposals: int = field(default=128, metadata={"min": 1, "max": 2000})
    refined: int = field(default=64, metadata={"min": 1, "max": 1000})
    roi_channels: int = field(default=64, metadata={"min": 16, "max": 512})
    samples: int = field(default=4, metadata={"min": 1, "max": 16})
    global_fusion: bool = True
    local_fusion: bool = True
    dynamic_aggregation: bool = True
    exchange: bool = False
    segments: int = 9

    def __post_init__(self) -> None:
        if self.exchange and not self.global_fusion:
            raise ValueError("exchange needs global_fusion")
