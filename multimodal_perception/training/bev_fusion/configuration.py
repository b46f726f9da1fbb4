"""Configuration of one stage of the training of the BEV fusion detector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from multimodal_perception.detection.bev_fusion.network_config import (
    CLASSES,
    BevFusionNetworkConfig,
)
from multimodal_perception.training.bev_fusion.augmentation import AugmentationConfig
from multimodal_perception.training.bev_fusion.image_augmentation import ImageAugmentationConfig
from multimodal_perception.training.bev_fusion.object_sampling import MAX_PASTED
from multimodal_perception.training.bev_fusion.painting import PaintingConfig
from multimodal_perception.training.bev_fusion.sensor_dropout import SensorDropoutConfig
from multimodal_perception.training.loop import LoopConfig

Stage = Literal["image_encoder", "lidar", "fusion", "refinement", "calibration"]


@dataclass(frozen=True)
class BevFusionTraining:
    """Training of one stage of the BEV fusion detector.

    Attributes:
        stage: What is trained: image_encoder is the image networks, lidar the first stage without
            images, fusion the first stage with all sensors, refinement the second stage, calibration
            the scores and variances. Set it in each stage.
        network: Architecture of the detector. Use the same values in all stages of one detector, except
            for switches of parts that a stage does not train.
        augmentation: Random changes of the points, boxes and poses of training frames. Increase them
            when the detector fails on other sensors than it was trained on.
        image_augmentation: Random changes of images, in the stage image_encoder. Increase them when the
            detector fails on images of other cameras.
        sensor_dropout: Fractions of training frames with missing sensors. Increase them for robustness
            against failing sensors.
        painting: Errors of the simulated 2D networks that paint points. Change them to those of the 2D
            networks that you use.
        loop: Length, speed and precision of the training. Set the number of steps here.
        pretrained: Whether the image networks start from ImageNet weights. Disable it only for tests
            without these weights.
        repeat_threshold: Frames with a class that occurs in a smaller fraction of the frames than this
            are repeated (repeat factor sampling, Gupta et al. 2019). Increase it when rare classes are
            missed, set 0 for no repetition.
        gt_sampling: Number of objects by class that are pasted into each frame with a LiDAR
            (ground-truth sampling, Yan et al. 2018). Increase it for classes that are rare in the data.
        distillation: Weight of the distillation losses, in the stage fusion: the outputs for a frame
            without LiDAR are compared with the outputs of the same network for the frame with all
            sensors. Set it to 0 to train without these losses.
        rois_per_frame: Number of proposals of each frame that the stage refinement is trained on.
            Decrease it when memory runs out.
    """

    stage: Stage = "lidar"
    network: BevFusionNetworkConfig = field(default_factory=BevFusionNetworkConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    image_augmentation: ImageAugmentationConfig = field(default_factory=ImageAugmentationConfig)
    sensor_dropout: SensorDropoutConfig = field(default_factory=SensorDropoutConfig)
    painting: PaintingConfig = field(default_factory=PaintingConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    pretrained: bool = True
    repeat_threshold: float = field(default=0.0, metadata={"min": 0.0, "max": 100.0})
    gt_sampling: dict[str, int] = field(default_factory=dict)
    distillation: float = field(default=1.0, metadata={"min": 0.0, "max": 100.0})
    rois_per_frame: int = field(default=32, metadata={"min": 2, "max": 1000})

    def __post_init__(self) -> None:
        for name, count in self.gt_sampling.items():
            if name not in CLASSES:
                raise ValueError(f"gt_sampling: allowed: {', '.join(CLASSES)}; got {name!r}")
            if not 0 <= count <= MAX_PASTED:
                raise ValueError(f"gt_sampling.{name}: allowed: 0 to {MAX_PASTED}; got {count}")
