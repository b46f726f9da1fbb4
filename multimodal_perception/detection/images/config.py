"""Parameters of the image detectors."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_TILES = 32


@dataclass(frozen=True)
class ImageDetectorConfig:
    """Object detection in images.

    Attributes:
        model: Name of a shipped model, or folder of a model; for the detector `imported`, the folder
            that `import detector` wrote. Set it to use your own network.
        cameras: Names of the cameras and thermal cameras whose images are processed; empty processes
            all of them. Set it to leave out cameras that show nothing of interest, which saves time.
        max_images_per_frame: Maximum number of images that are processed in one frame; 0 processes all.
            Set it on slow computers: the images are then processed in turns, those that have waited
            longest first.
        tiles: Columns and rows of the overlapping tiles that each image is cut into, in addition to the
            whole image. Increase them to detect distant objects in large images; every tile costs a run
            of the network.
        tile_overlap: Overlap of neighbouring tiles as a fraction of their size. Increase it if large
            objects at the borders of tiles are missed.
        min_score: Boxes with a lower score are not reported. The model's card may have other thresholds
            for some classes, which change in proportion. Increase it to get fewer false detections,
            decrease it to miss fewer objects.
        nms_iou: Of two boxes of one class whose IoU is larger, the one with the lower score is dropped
            as a second detection of the same object. Increase it for crowds, where objects overlap in
            the image.
        nms_containment: Of two boxes of one kind of object, the one with the lower score is dropped if
            a larger fraction of the smaller box is inside of the other one. Increase it if objects in
            front of larger ones are missed; 1 keeps all nested boxes.
    """

    model: str = "image_detector"
    cameras: tuple[str, ...] = ()
    max_images_per_frame: int = field(default=0, metadata={"min": 0, "max": 64})
    tiles: tuple[int, int] = (1, 1)
    tile_overlap: float = field(default=0.2, metadata={"min": 0.0, "max": 0.8})
    min_score: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    nms_iou: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0, "dynamic": True})
    nms_containment: float = field(default=0.8, metadata={"min": 0.0, "max": 1.0, "dynamic": True})

    def __post_init__(self) -> None:
        if min(self.tiles) < 1 or self.tiles[0] * self.tiles[1] > MAX_TILES:
            raise ValueError(f"tiles: allowed: at least 1, together at most {MAX_TILES} tiles")
