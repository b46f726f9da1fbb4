"""Parameters of the fusion detector."""

from __future__ import annotations

from dataclasses import dataclass, field

# Default of FusionConfig.min_score. Scores are calibrated: the probability that the centre of a box is
# within 2 m of an object of its class. At 0.5 the F1 score is highest on the PandaSet development
# frames; on simulated drives 520 to 528 and 1760 to 1768 it changes by 0.03 between 0.45 and 0.65.
DEFAULT_MIN_SCORE = 0.5


@dataclass(frozen=True)
class FusionConfig:
    """Parameters of the fusion detector.

    Attributes:
        model: Name of a shipped model, or path of the model card of the first stage (architecture
            bev_fusion). Set it to use your own networks.
        min_score: Boxes with a lower score are not reported; the score is the calibrated probability
            that the centre of the box is within 2 m of an object of its class. Increase it to get fewer
            false detections, decrease it to miss fewer objects.
        nms_iou: Boxes whose bird's-eye-view IoU is larger are considered the same object, and the
            one with the lower score is dropped. Decrease it if objects are reported twice.
        refinement: Second stage: the name or path of the model card of a refinement network, "card"
            for the one that the model's card names, or "none". Set it to none to save time on slow
            computers.
        opinions: Network that computes to what extent each sensor supports or contradicts each box: the
            name or path of its model card, "card" for the one that the detector's card names, if any, or
            "none". Set it to none to save time where nothing uses the
            opinions.
        external_proposals: Whether boxes of the image detector, projected onto the ground, are
            refined together with the network's own proposals. Enable it to find objects with few
            LiDAR points; it needs an image detector and a refinement network.
        geometric_check: Whether the geometric detector processes each frame in addition to the networks.
            Vehicles that it detects with a high score and that the networks missed are then reported as
            well.
            Disable it to save about 15 ms of CPU time a frame where a missed vehicle is acceptable.
        geometric_check_min_score: Minimum score of a geometric detection that the check adds.
            Decrease it to add more vehicles; below about 0.85 false detections become frequent.
        max_cameras: Maximum number of camera images of a frame that the detector processes; images
            beyond it are not used and are counted, and their sensors are listed at the start. Increase
            it for vehicles with more cameras; each image takes time.
        max_thermal_cameras: Maximum number of thermal images of a frame that the detector processes;
            images beyond it are not used and are counted, and their sensors are listed at the start.
            Increase it for vehicles with more thermal cameras; each image takes time.
    """

    model: str = "bev_fusion"
    min_score: float = field(
        default=DEFAULT_MIN_SCORE, metadata={"min": 0.0, "max": 1.0, "dynamic": True}
    )
    nms_iou: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    refinement: str = "card"
    opinions: str = "card"
    external_proposals: bool = False
    geometric_check: bool = True
    geometric_check_min_score: float = field(
        default=0.9, metadata={"min": 0.0, "max": 1.0, "dynamic": True}
    )
    max_cameras: int = field(default=8, metadata={"min": 0, "max": 64})
    max_thermal_cameras: int = field(default=4, metadata={"min": 0, "max": 64})
