"""The local-to-global fusion detector on the vehicle: a frame to boxes, by what sensors there are."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.detection.fusion.image_projection import ImageView
from multimodal_perception.detection.fusion.model_cards import (
    PROPOSALS,
    REFINEMENT,
    _blind_of,
    _images_of,
    _joined,
    _labels_of,
    _refinement_of,
    network_of,
)
from multimodal_perception.detection.fusion.network_inputs import (
    CELL_PIXELS,
    FrameImages,
    Views,
    echo_rows,
    proposal_inputs,
    refinement_inputs,
)
from multimodal_perception.detection.fusion.roi_features import PointIndex
from multimodal_perception.detection.geometric.detector import GeometricDetector
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, SensorFrame
from multimodal_perception.geometry.boxes import non_maximum_suppression
from multimodal_perception.pointcloud.ground_segmentation import Cloud, GroundModel
from multimodal_perception.runtime.card import TensorSpec, load_card
from multimodal_perception.runtime.engine import Arrays, EngineError
from multimodal_perception.runtime.open_model import open_model
from multimodal_perception.runtime.settings import RuntimeConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FusionConfig:
    """Parameters of the fusion detector.

    model: name or path of the proposal network's card. min_score: below it a box is not reported.
    overlap: of two boxes from above that is suppressed. refinement: name or path of the refinement's
    card; "card" for the one that the model's card names, if any, "none" for no refinement. seeds:
    whether boxes of an image detector, placed on the ground, are refined beside the network's own.
    """

    model: str = "detector"
    min_score: float = field(default=0.36, metadata={"min": 0.0, "max": 1.0})
    overlap: float = field(default=0.2, metadata={"min": 0.0, "max": 1.0})
    refinement: str = "card"
    seeds: bool = False


class Network(Protocol):
    """What runs one of the networks: arrays by name in, arrays by name out. Raises EngineError."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def device(self) -> str: ...

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]: ...


class FusionDetector:
    """Features of the images that are there, proposals, suppression, refinement, suppression.

    When no engine can run a frame, the geometric detector does. images, by kind, proposals, blind,
    refinement: what runs the networks; the first empty, the last two None where there is none. blind
    proposes in the place of proposals where there are no LiDAR points. counts: what happened, by reason.
    """

    name = "fusion"

    def __init__(
        self,
        config: FusionConfig | None = None,
        runtime: RuntimeConfig | None = None,
        fallback: GeometricDetector | None = None,
    ) -> None:
        """Raises UserError for a card that cannot be used, or when no engine runs it."""
        self.config = config or FusionConfig()
        card = load_card(self.config.model)
        self.network = network_of(card, PROPOSALS)
        self._labels = _labels_of(card)
        self.proposals: Network = open_model(card, runtime)
        self.images: dict[str, Network] = {
            kind: open_model(its, runtime) for kind, its in _images_of(card, self.network).items()
        }
        blind = _blind_of(card, self.network)
        self.blind: Network | None = None if blind is None else open_model(blind, runtime)
        self.refinement: Network | None = None
        second = _refinement_of(card, self.config.refinement)
        if second is not None:
            self.network = _joined(self.network, network_of(second, REFINEMENT), second, card)
            self.refinement = open_model(second, runtime)
        n = self.network
        self._frames = FrameImages(n.cameras, n.thermals, n.camera_size, n.thermal_size)
        # Scales images while the ground is looked for, makes pillars while images are looked at.
        self._beside = ThreadPoolExecutor(1, "inputs")
        self._ahead: tuple[SensorFrame, Future[tuple[Views, Arrays]]] | None = None
        self._fallback = fallback or GeometricDetector()
        self.counts: Counter[str] = Counter()

    @property
    def failures(self) -> int:
        """Frames and images so far that no engine could run."""
        return self.counts["geometric_instead"] + self.counts["images_left_out"]

    def look_ahead(self, frame: SensorFrame) -> None:
        """Begin to make the frame's images ready, which needs no cloud: detect of this frame goes on
        with them. It need not be called."""
        self._ahead = frame, self._beside.submit(self._look, frame)

    def detect(self, frame: SensorFrame, cloud: Cloud, seeds: Boxes3D | None = None) -> Boxes3D:
        """Boxes in base_link at the frame's stamp, best score first.

        seeds: proposals of another detector in base_link, which count only where FusionConfig.seeds
        says so and there is a refinement to judge them.
        """
        # What stands on a slope looks as it would on level ground.
        points = cloud.levelled
        ahead, self._ahead = self._ahead, None
        known = ahead is not None and ahead[0] is frame
        looked, pixels = ahead[1].result() if ahead and known else self._look(frame)
        looked = dataclasses.replace(looked, ground=cloud.ground)
        make = partial(
            proposal_inputs,
            points,
            echoes=echo_rows(frame),
            config=self.network.pillars,
            exchange=self.network.exchange,
        )
        made = self._beside.submit(make, views=looked)
        index = self._beside.submit(PointIndex.of, points, self.network.pillars.extent)
        views, atlases = self._seen(looked, pixels)
        arrays, overflow = made.result()
        if views.count < looked.count:
            arrays, overflow = make(views=views)
        if not len(cloud.points) and not views.count:
            self.counts["nothing_that_sees"] += 1
            return Boxes3D.empty(frame.stamp_ns, frame.base_frame)
        self.counts["pillars_left_out"] += overflow
        try:
            boxes, scores, labels = self._found(
                len(points) > 0, arrays, index, views, cloud.ground, atlases, seeds
            )
        except EngineError as error:
            self.counts["geometric_instead"] += 1
            log.warning("fusion detector: %s; the geometric detector takes this frame", error)
            return self._fallback.detect(frame, cloud)
        keep = scores >= self.config.min_score
        boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        kept = non_maximum_suppression(boxes, scores, self.config.overlap)
        return Boxes3D(
            frame.stamp_ns,
            frame.base_frame,
            _over(boxes[kept], cloud.ground, 1.0),
            scores[kept],
            self._labels[labels[kept]],
        )

    def _found(
        self,
        seen_by_lidar: bool,
        arrays: Arrays,
        index: Future[PointIndex],
        views: Views,
        ground: GroundModel,
        atlases: dict[str, NDArray[np.float32]],
        seeds: Boxes3D | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Boxes (N, 7), scores (N,) and labels (N,) of the network; z above the ground as that of the
        indexed points. arrays: of proposal_inputs. Raises EngineError."""
        n = self.network
        inputs = {name: values[None] for name, values in arrays.items()} | atlases
        first = self.proposals if seen_by_lidar or self.blind is None else self.blind
        out = first.run({k: inputs[k] for k in first.inputs})
        boxes, scores, labels = (out[k][0] for k in ("boxes", "scores", "labels"))
        if self.refinement is None:
            return boxes, scores, labels
        if seeds is not None and self.config.seeds:
            boxes, scores, labels = self._with_seeds(boxes, scores, labels, seeds, ground)
        apart = non_maximum_suppression(boxes, scores, SUPPRESSED)
        kept, rest = apart[: n.refined], apart[n.refined :]
        chosen = np.resize(kept, n.refined)  # a static shape: repeats are cut off again below
        roi = refinement_inputs(
            boxes[chosen],
            scores[chosen],
            labels[chosen],
            len(self._labels),
            index.result(),
            views,
            n.pillars.extent,
        )
        inputs = {name: values[None] for name, values in roi.items()} | atlases
        inputs["bev"] = out["bev"]
        refined = self.refinement.run({k: inputs[k] for k in self.refinement.inputs})
        count = len(kept)
        # Both networks have a say (Yin et al. 2021, section 4.2): the first one's peak, the second one's
        # class and overlap. What it had no room for ranks below what it confirms.
        confidences = refined["confidences"][0, :count]
        classes = confidences.argmax(axis=1)
        person = self._labels[classes] == CLASS_NAMES.index("pedestrian")
        share = np.where(person, PERSON_PEAK_SHARE, PEAK_SHARE)
        sure = scores[kept] ** share * confidences.max(axis=1) ** (1.0 - share)
        return (
            np.concatenate([refined["refined"][0, :count], boxes[rest]]),
            np.concatenate([sure, scores[rest] ** UNREFINED]).astype(np.float32),
            np.concatenate([classes, labels[rest]]),
        )

    def _look(self, frame: SensorFrame) -> tuple[Views, Arrays]:
        """Views and pixels of a frame, without those of images that no network here looks at."""
        views, pixels = self._frames.of(frame)
        if not self.images:
            none = [None] * len(views.cameras), [None] * len(views.thermals)
            views = dataclasses.replace(views, cameras=none[0], thermals=none[1])
        return views, pixels

    def _seen(self, views: Views, pixels: Arrays) -> tuple[Views, dict[str, NDArray[np.float32]]]:
        """Views of the images whose features are known, and these, by kind one below the other; zeros
        where there is no image. An image that no engine could run is as good as missing."""
        known: dict[str, list[ImageView | None]] = {}
        atlases = {}
        for kind, seen in (("camera", views.cameras), ("thermal", views.thermals)):
            height, width = (n // CELL_PIXELS for n in pixels[f"{kind}s"].shape[1:3])
            atlas = np.zeros((1, self.network.channels, len(seen), height, width), np.float32)
            known[kind] = [None] * len(seen)
            for k, view in enumerate(seen):
                if view is None:
                    continue
                try:
                    run = self.images[kind].run({"pixels": pixels[f"{kind}s"][k : k + 1]})
                except EngineError as error:
                    self.counts["images_left_out"] += 1
                    log.warning("fusion detector: %s; goes on without the image", error)
                    continue
                atlas[:, :, k], known[kind][k] = run["features"], view
            atlases[f"{kind}_atlas"] = atlas.reshape(1, self.network.channels, -1, width)
        views = dataclasses.replace(views, cameras=known["camera"], thermals=known["thermal"])
        return views, atlases

    def _with_seeds(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        labels: NDArray[np.int64],
        seeds: Boxes3D,
        ground: GroundModel,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Proposals and seeds of the classes that the network knows, as one list, above the ground."""
        known = np.isin(seeds.labels, self._labels)
        chosen = seeds.select(known)
        self.counts["seeds"] += len(chosen)
        order = np.argsort(self._labels)
        own = order[np.searchsorted(self._labels, chosen.labels, sorter=order)]
        return (
            np.concatenate([boxes, _over(chosen.boxes, ground, -1.0)]),
            np.concatenate([scores, chosen.scores]),
            np.concatenate([labels, own]),
        )


def _over(boxes: NDArray[np.float32], ground: GroundModel, sign: float) -> NDArray[np.float32]:
    """Boxes (N, 7) of level ground set onto the ground; the other way round with sign -1."""
    moved = boxes.copy()
    moved[:, 2] += np.float32(sign) * ground.at(boxes[:, 0], boxes[:, 1])
    return moved


# Proposals that overlap more from above are one object to the refinement.
SUPPRESSED = 0.3
# Weight of the peak in the geometric mean of peak and overlap. A person is as small as the error of a
# place, so that the overlap says less.
PEAK_SHARE, PERSON_PEAK_SHARE = 0.5, 0.8
# Power of the peak alone, where there was no room for the refinement.
UNREFINED = 1.3
