"""Configuration of the training of the sensors' opinions."""

from __future__ import annotations

from dataclasses import dataclass, field

from multimodal_perception.training.bev_fusion.painting import PaintingConfig
from multimodal_perception.training.loop import LoopConfig


@dataclass(frozen=True)
class SensorOpinionsTraining:
    """Training of the network of the sensors' opinions, for a finished BEV fusion detector.

    Attributes:
        detector: Name of a shipped model, or model folder or card of the BEV fusion detector, which
            is not changed. Set it to the detector whose boxes the opinions are about.
        hidden: Number of units of each of the two hidden layers of a modality. Increase it when you
            train with more drives.
        dropout: Probability with which hidden units are dropped in training. Increase it when the
            validation figures are worse than those of the training.
        reliability: Weight (0 to 1) with which the opinions of each modality are discounted before they
            are combined. Decrease it when the combined opinions are too certain.
        min_score: Boxes of the detector with a lower score are not used. Set it below the threshold
            that the detector runs with on the vehicle, so that the training contains false boxes.
        false_boxes: Number of boxes without an object that are added in each frame. Increase it when
            sensors support too many false boxes.
        fault_probability: Fraction of the frames in which a sensor, or all sensors of a modality, have a
            fault. Increase it when opinions of faulty sensors are too certain.
        painting: Errors of the simulated 2D networks, whose class scores are features of the images.
            Change them to those of the 2D networks that you use.
        annealing: Fraction of the training steps in which the weight of the loss on evidence for wrong
            groups (its divergence from zero evidence) rises from 0 to 1. Decrease it when opinions are
            too certain.
        validation_interval: One of this number of drives is left out of the training, for the figures in
            the model card. Increase it when there are few drives.
        loop: Length, speed and precision of the training. Set the number of steps here; a sample is a
            box.
    """

    detector: str = "bev_fusion"
    hidden: int = field(default=48, metadata={"min": 4, "max": 512})
    dropout: float = field(default=0.1, metadata={"min": 0.0, "max": 0.9})
    reliability: float = field(default=0.9, metadata={"min": 0.01, "max": 1.0})
    min_score: float = field(default=0.05, metadata={"min": 0.0, "max": 1.0})
    false_boxes: int = field(default=20, metadata={"min": 0, "max": 1000})
    fault_probability: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    painting: PaintingConfig = field(default_factory=PaintingConfig)
    annealing: float = field(default=0.5, metadata={"min": 0.01, "max": 1.0})
    validation_interval: int = field(default=6, metadata={"min": 2, "max": 1000})
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=3000, batch_size=256, learning_rate=1e-3, precision="fp32", workers=0
        )
    )
