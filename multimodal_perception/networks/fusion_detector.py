"""The local-to-global fusion detector after LoGoNet (Li et al. 2023), for any subset of sensors.

Networks of static shapes. The image networks, one for cameras and one for thermal images: an image to
its features, for the images that are there alone. The proposal network: pillars, Global Fusion with the
images' features, ultrasonic channels, BEV backbone, centre heads. The refinement network: Local Fusion
and Feature Dynamic Aggregation in each proposal. What lies between the last two (suppression, the points
in each proposal, exact projection into each camera) depends on numbers that only the first one tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from multimodal_perception.configuration import UserError, build
from multimodal_perception.detection.fusion.network_config import (
    CLASSES,
    IMAGE_KINDS,
    ULTRASONIC_CHANNELS,
    DetectorConfig,
)
from multimodal_perception.detection.fusion.pillars import CHANNELS as PILLAR_CHANNELS
from multimodal_perception.networks.bev_backbone import BevBackbone, FeaturePyramid, ReversePyramid
from multimodal_perception.networks.centre_head import CentreHead, best_centres, boxes_of
from multimodal_perception.networks.deep_interaction import ImageExchange
from multimodal_perception.networks.global_fusion import GlobalFusion
from multimodal_perception.networks.image_encoder import ImageNeck, ImageNetwork, ImageTrunk
from multimodal_perception.networks.local_fusion import Refined, RefinementHead, refined_boxes
from multimodal_perception.networks.pillars import PillarEncoder, scatter_to_canvas

# Share of the highest score about a cell that makes it a peak, by class.
PEAKS = [0.5 if name == "pedestrian" else 1.0 for name in CLASSES]


class Images(NamedTuple):
    """Images of one kind as pillars look into them, see ProposalNetwork.forward."""

    atlas: Tensor
    places: Tensor
    seen: Tensor
    rays: Tensor | None = None

    @staticmethod
    def of(
        atlas: Tensor | None, places: Tensor | None, seen: Tensor | None, rays: Tensor | None
    ) -> Images:
        """Of inputs that a network without images would not have."""
        assert atlas is not None and places is not None and seen is not None
        return Images(atlas, places, seen, rays)


class ProposalNetwork(nn.Module):
    """Pillars, images' features and echoes to proposals and the BEV map that the refinement looks into.

    Trained together with the image networks' necks, and trunks where they are not frozen.
    """

    def __init__(
        self,
        config: DetectorConfig,
        pretrained: bool = True,
        trunks: bool = True,
        necks: bool = True,
    ) -> None:
        """trunks, necks: whether it holds these parts of the image networks, to train them or because
        weights of the whole are read. pretrained: ImageNet's weights for the trunks."""
        super().__init__()
        self.config = c = config
        self.encoder = PillarEncoder(PILLAR_CHANNELS, c.channels)
        if c.global_fusion:
            self.camera_trunk = ImageTrunk(3, pretrained) if trunks else None
            self.thermal_trunk = ImageTrunk(1, pretrained) if trunks else None
            self.camera_neck = ImageNeck(c.channels, c.segments) if necks else None
            self.thermal_neck = ImageNeck(c.channels, c.segments) if necks else None
            self.camera_fusion = GlobalFusion(c.channels, c.channels)
            self.thermal_fusion = GlobalFusion(c.channels, c.channels)
        if c.exchange:
            self.camera_exchange = ImageExchange(c.channels)
            self.thermal_exchange = ImageExchange(c.channels)
        self.backbone = BevBackbone(c.channels + ULTRASONIC_CHANNELS, c.widths, c.depths)
        pyramid = FeaturePyramid if c.neck == "fpn" else ReversePyramid
        self.neck = pyramid(c.widths, c.neck_channels)
        self.head = CentreHead(c.neck_channels, len(CLASSES))

    def maps(
        self,
        pillars: Tensor,
        cells: Tensor,
        ultrasonic: Tensor,
        camera: Images | None = None,
        thermal: Images | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """BEV map, heat logits and codes. camera, thermal: None without global_fusion."""
        c = self.config
        x = self.encoder(pillars)
        if c.global_fusion:
            assert camera is not None and thermal is not None
            cameras, thermals = camera.atlas, thermal.atlas
            if c.exchange:
                assert camera.rays is not None and thermal.rays is not None
                seen = x.new_ones(*x.shape[:2], 1)
                both = scatter_to_canvas(torch.cat([x, seen], -1), cells, c.pillars.size)
                plane = both[:, :-1], both[:, -1:]
                cameras = self.camera_exchange(cameras, *plane, camera.rays, c.cameras)
                thermals = self.thermal_exchange(thermals, *plane, thermal.rays, c.thermals)
            x = self.camera_fusion(x, cameras, camera.places, camera.seen, c.cameras)
            x = self.thermal_fusion(x, thermals, thermal.places, thermal.seen, c.thermals)
        canvas = scatter_to_canvas(x, cells, c.pillars.size)
        bev = self.neck(self.backbone(canvas, ultrasonic.to(canvas.dtype)))
        heat, code = self.head(bev)
        return bev, heat, code

    def forward(
        self,
        pillars: Tensor,
        cells: Tensor,
        ultrasonic: Tensor,
        camera_atlas: Tensor | None = None,
        camera_places: Tensor | None = None,
        camera_seen: Tensor | None = None,
        thermal_atlas: Tensor | None = None,
        thermal_places: Tensor | None = None,
        thermal_seen: Tensor | None = None,
        camera_rays: Tensor | None = None,
        thermal_rays: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One frame, as it is exported; without global_fusion, of the first three alone.

        pillars (1, M, F) float32; cells (1, M) int64; ultrasonic (1, 2, S, S) float32; *_atlas
        (1, C, N * H/4, W/4) float32, the image networks' features one below the other; *_places
        (1, M, 2) float32, -1 to 1 in the atlas; *_seen (1, M) float32, 0 or 1; with `exchange`, *_rays
        (1, N * H/4 * W/4, D, 2), -1 to 1 in the BEV. Returns scores (1, R), labels (1, R) int64, boxes
        (1, R, 7) and the BEV map (1, C, S/2, S/2).
        """
        camera = thermal = None
        if self.config.global_fusion:
            camera = Images.of(camera_atlas, camera_places, camera_seen, camera_rays)
            thermal = Images.of(thermal_atlas, thermal_places, thermal_seen, thermal_rays)
        bev, heat, code = self.maps(pillars, cells, ultrasonic, camera, thermal)
        return *self.proposals(heat, code), bev

    def proposals(self, heat: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B, R), labels (B, R) and boxes (B, R, 7) of the best centres."""
        c = self.config.pillars
        scores, labels, cells, codes = best_centres(heat, code, self.config.proposals, PEAKS)
        return scores, labels, boxes_of(cells, codes, heat.shape[-1], 2 * c.cell, c.extent)


class RefinementNetwork(nn.Module):
    """Proposals and the maps of the first network to boxes and their confidences."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = c = config
        self.head = RefinementHead(
            c.neck_channels,
            c.channels,
            len(CLASSES),
            c.roi_channels,
            c.samples,
            c.local_fusion,
            c.dynamic_aggregation,
        )

    def forward(
        self,
        bev: Tensor,
        camera_atlas: Tensor,
        thermal_atlas: Tensor,
        boxes: Tensor,
        told: Tensor,
        roi_bev: Tensor,
        roi_grid: Tensor,
        roi_camera: Tensor,
        roi_camera_seen: Tensor,
        roi_thermal: Tensor,
        roi_thermal_seen: Tensor,
        roi_outline: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Confidences (B, R, classes) and boxes (B, R, 7).

        boxes (B, R, 7): proposals; told (B, R, classes + 11); roi_bev (B, R, 36, 2); roi_grid
        (B, R, 216, 7); roi_camera and roi_thermal (B, R, 216, 2), -1 to 1 in the atlas; *_seen
        (B, R, 216); roi_outline (B, R, 107), see preprocess.proposals.
        """
        rois = {
            "told": told,
            "roi_bev": roi_bev,
            "roi_grid": roi_grid,
            "roi_camera": roi_camera,
            "roi_camera_seen": roi_camera_seen,
            "roi_thermal": roi_thermal,
            "roi_thermal_seen": roi_thermal_seen,
            "roi_outline": roi_outline,
        }
        refined = self.refined(bev, (camera_atlas, thermal_atlas), rois)
        return refined.logits.sigmoid(), refined_boxes(boxes, refined.residuals)

    def refined(
        self, bev: Tensor, atlases: tuple[Tensor, Tensor], rois: Mapping[str, Tensor]
    ) -> Refined:
        """Proposals refined. rois: by the names of forward."""
        said = self.said(bev, atlases, rois)
        return self.head.measured(rois["told"], rois["roi_outline"], *said)

    def said(
        self, bev: Tensor, atlases: tuple[Tensor, Tensor], rois: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """What RefinementHead's fused features say of them, before anything is measured."""
        c = self.config
        images = [
            (atlas, rois[f"roi_{kind}"], rois[f"roi_{kind}_seen"], count)
            for atlas, kind, count in zip(
                atlases, ("camera", "thermal"), (c.cameras, c.thermals), strict=True
            )
        ]
        own = (rois[name] for name in ("roi_bev", "roi_grid", "told"))
        said: tuple[Tensor, Tensor] = self.head(bev, *own, *images)
        return said


def build_proposals(settings: Mapping[str, Any]) -> ProposalNetwork:
    """The proposal network that a model card's settings mean, without weights."""
    return ProposalNetwork(_config(settings), trunks=False, necks=False)


def build_image(settings: Mapping[str, Any]) -> ImageNetwork:
    """The image network that a model card's settings mean, without weights."""
    c, kind = _config(settings), settings.get("image")
    if kind not in IMAGE_KINDS:
        raise UserError(f"model card: settings.image: allowed: {', '.join(IMAGE_KINDS)}")
    return ImageNetwork(3 if kind == "camera" else 1, c.channels, c.segments, pretrained=False)


def build_refinement(settings: Mapping[str, Any]) -> RefinementNetwork:
    """The refinement that a model card's settings mean, without weights."""
    return RefinementNetwork(_config(settings))


def _config(settings: Mapping[str, Any]) -> DetectorConfig:
    return build(DetectorConfig, settings.get("network", {}), "model card", "settings.network")
