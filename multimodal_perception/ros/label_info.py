"""Names of classes and score thresholds as latched vision_msgs/LabelInfo messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.messages.encoders import make_header
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.occupancy.layers import SEMANTIC_LAYER
from multimodal_perception.perception import Perception
from multimodal_perception.pipeline import Pipeline

LABEL_INFO = "/label_info"
LABEL_INFO_TYPE = "vision_msgs/msg/LabelInfo"


class LabelInfos:
    """The LabelInfo of each topic, with the names and thresholds that were published last."""

    def __init__(self, types: MessageTypes) -> None:
        self._types = types
        self._published: dict[str, tuple[tuple[str, ...], float]] = {}

    def changed(
        self, labels: Mapping[str, tuple[Sequence[str], float]], stamp_ns: int
    ) -> dict[str, Any]:
        """Messages by topic, for those whose names or threshold differ from the published ones.

        labels: names of the classes and score threshold by the topic of the results.
        """
        messages = {}
        for topic, (names, threshold) in labels.items():
            current = tuple(names), float(threshold)
            if names and self._published.get(topic) != current:
                self._published[topic] = current
                messages[topic + LABEL_INFO] = self._message(*current, stamp_ns)
        return messages

    def _message(self, names: tuple[str, ...], threshold: float, stamp_ns: int) -> Any:
        class_map = [
            self._types.new("vision_msgs/msg/VisionClass", class_id=i, class_name=name)
            for i, name in enumerate(names)
        ]
        header = make_header(self._types, stamp_ns, "")
        return self._types.new(
            LABEL_INFO_TYPE, header=header, class_map=class_map, threshold=threshold
        )


def known_labels(
    pipeline: Pipeline, objects: str, semantic: str, masks: Sequence[str], boxes2d: Sequence[str]
) -> dict[str, tuple[Sequence[str], float]]:
    """Names and thresholds by topic that are known before the first frame.

    objects, semantic: topics of the 3D boxes and of the semantic layer. masks, boxes2d: topics of the
    masks and 2D boxes of each sensor. A plug-in without `class_names` has no entry.
    """
    labels: dict[str, tuple[Sequence[str], float]] = {
        objects: (CLASS_NAMES, _min_score(pipeline.detector)),
        semantic: (SEMANTIC_LAYER, 0.0),
    }
    for stage, topics in ((pipeline.segmenter, masks), (pipeline.image_detector, boxes2d)):
        names = getattr(stage, "class_names", ())
        labels |= {topic: (names, _min_score(stage)) for topic in topics if names}
    return labels


def result_labels(
    pipeline: Pipeline, perception: Perception, masks_prefix: str, boxes2d_prefix: str
) -> dict[str, tuple[Sequence[str], float]]:
    """Names and thresholds by topic of the masks and 2D boxes of one frame."""
    masks = {
        f"{masks_prefix}/{name}": (mask.class_names, 0.0)
        for name, mask in perception.segmentations.items()
    }
    threshold = _min_score(pipeline.image_detector)
    boxes = {
        f"{boxes2d_prefix}/{name}": (boxes.class_names, threshold)
        for name, boxes in perception.boxes2d.items()
    }
    return {**masks, **boxes}


def _min_score(stage: Any) -> float:
    """Score below which a stage reports nothing; 0 for stages without such a threshold."""
    min_score = float(getattr(getattr(stage, "config", None), "min_score", 0.0))
    thresholds = getattr(stage, "score_thresholds", None)
    return min_score if thresholds is None else thresholds.lowest(min_score)
