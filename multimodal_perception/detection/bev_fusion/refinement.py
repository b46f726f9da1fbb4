"""The second stage: refines the best proposals of the first stage."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.bev_fusion.boxes import BevDetections
from multimodal_perception.detection.bev_fusion.image_bev import ImageSet
from multimodal_perception.detection.bev_fusion.network_config import BevFusionNetworkConfig
from multimodal_perception.detection.bev_fusion.network_inputs import refinement_arrays
from multimodal_perception.detection.bev_fusion.proposals import (
    UNREFINED_SCORE_EXPONENT,
    combine_scores,
)
from multimodal_perception.detection.bev_fusion.roi_features import PointIndex
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry.boxes import non_maximum_suppression
from multimodal_perception.runtime.engine import Arrays

# Proposals whose BEV overlap (IoU) is larger are considered the same object before refinement.
PROPOSAL_NMS_IOU = 0.3


class RefinementNetwork(Protocol):
    """Runs the refinement network. inputs: by name."""

    @property
    def inputs(self) -> Any: ...

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]: ...


def refine_proposals(
    network: RefinementNetwork,
    found: BevDetections,
    bev_features: NDArray[np.float32],
    index: PointIndex,
    images: ImageSet,
    config: BevFusionNetworkConfig,
    classes: NDArray[np.int64],
    executor: Executor | None = None,
) -> BevDetections:
    """Refined proposals, followed by those beyond config.refined_proposals, which are not refined.

    bev_features: map of the first stage. index: points of the frame, z above the ground. classes: (K,)
    index into CLASS_NAMES of each class. executor: threads of the kernels. Raises EngineError.
    """
    order = non_maximum_suppression(found.boxes, found.scores, PROPOSAL_NMS_IOU)
    chosen = found.select(order[: config.refined_proposals])
    rest = found.select(order[config.refined_proposals :])
    # The input has a fixed size: proposals are repeated, and the repetitions are cut off below.
    repeated = chosen.select(np.resize(np.arange(len(chosen)), config.refined_proposals))
    arrays = refinement_arrays(
        repeated.boxes,
        repeated.scores,
        repeated.labels,
        repeated.velocities,
        repeated.log_variances,
        len(classes),
        index,
        images,
        config,
        executor,
    )
    inputs = {name: values[None] for name, values in arrays.items()}
    inputs["bev_features"] = bev_features
    outputs = network.run({name: inputs[name] for name in network.inputs})
    count = len(chosen)
    confidences = outputs["confidences"][0, :count]
    labels = confidences.argmax(axis=1)
    is_pedestrian = classes[labels] == CLASS_NAMES.index("pedestrian")
    scores = combine_scores(chosen.scores, confidences.max(axis=1), is_pedestrian)
    refined = BevDetections(
        outputs["refined_boxes"][0, :count],
        scores.astype(np.float32),
        labels,
        outputs["refined_velocities"][0, :count],
        outputs["refined_variances"][0, :count],
        chosen.log_variances,
    )
    lowered = (rest.scores**UNREFINED_SCORE_EXPONENT).astype(np.float32)
    return refined.concatenate(rest.with_scores(lowered))
