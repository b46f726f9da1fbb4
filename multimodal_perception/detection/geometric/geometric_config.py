"""Parameters of the geometric detector."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class GeometricConfig:
    """Parameters of the geometric detector.

    Attributes:
        half_extent: Half the side length of the square around the vehicle in which objects are
            detected. Increase it for long-range LiDARs; larger values cost time.
        cluster_resolution: Cell size of the clustering grid. Decrease it to separate objects that
            are close to each other; smaller values cost time.
        height_range: Minimum and maximum height above the ground of the points that are clustered.
            Raise the minimum if grass or kerbs become objects; lower the maximum if trees are merged
            with objects.
        max_gap: Maximum gap between points of one object, at distance 0. Increase it if objects are
            split into several clusters; decrease it if neighbouring objects become one cluster.
        max_gap_growth: Increase of max_gap per metre of distance, because the spacing of a LiDAR's
            points grows with the distance. Increase it for LiDARs with a low resolution.
        min_points: Minimum number of points of a cluster. Decrease it to detect distant objects;
            smaller values give more false detections.
        min_score: Boxes with a lower score are not reported. Increase it to get fewer false
            detections, decrease it to miss fewer objects.
        nms_overlap_of_smaller: Maximum overlap of two boxes, as a fraction of the smaller
            footprint; of boxes that overlap more, the one with the lower score is dropped. Increase
            it if objects that touch each other are missed.
        image_classes: Whether 2D boxes of the image detector determine the class of the clusters in
            them and change their scores; without an image detector it has no effect. Disable it to run
            the image detector only for frames without LiDAR and for its own topics.
    """

    half_extent: float = field(default=64.0, metadata={"min": 5.0, "max": 200.0, "unit": "m"})
    cluster_resolution: float = field(default=0.15, metadata={"min": 0.05, "max": 1.0, "unit": "m"})
    height_range: tuple[float, float] = field(default=(0.25, 2.3), metadata={"unit": "m"})
    max_gap: float = field(default=0.3, metadata={"min": 0.1, "max": 2.0, "unit": "m"})
    max_gap_growth: float = field(default=0.012, metadata={"min": 0.0, "max": 0.1, "unit": "m/m"})
    min_points: int = field(default=5, metadata={"min": 1, "max": 1000, "dynamic": True})
    min_score: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    nms_overlap_of_smaller: float = field(
        default=0.3, metadata={"min": 0.0, "max": 1.0, "dynamic": True}
    )
    image_classes: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.height_range[0] < self.height_range[1]:
            raise ValueError("height_range must be two increasing heights above 0")
