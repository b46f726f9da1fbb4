"""The two-stage fusion detector after LoGoNet (Li et al., CVPR 2023), for any subset of sensors.

Image networks, one for cameras and one for thermal images, run once per available image. The proposal
network (stage 1) encodes pillars, adds image features by Global Fusion and ultrasonic channels, and
predicts proposals with a BEV backbone and a centre head. The refinement network (stage 2) refines the
proposals by Local Fusion and Feature Dynamic Aggregation. All tensor shapes are static. NMS, the points
in each proposal and their projection into each image are computed between the stages, outside the
networks, because they depend on the proposals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from multimodal_perception.configuration import UserError, build
from multimodal_perception.detection.bev_fusion.pillars import PILLAR_CHANNELS
from multimodal_perception.detection.fusion.network_config import (
    CLASSES,
    IMAGE_MODALITIES,
    ULTRASONIC_CHANNELS,
    DetectorConfig,
)
from multimodal_perception.networks.bev_backbone import FeaturePyramid
from multimodal_perception.networks.box_residuals import apply_residuals
from multimodal_perception.networks.centre_head import (
    decode_boxes,
    select_peaks,
)
from multimodal_perception.networks.deep_interaction import BevToImageAttention
from multimodal_perception.networks.fusion_backbone import (
    BevBackbone,
    RCNetPyramid,
)
from multimodal_perception.networks.fusion_head import CentreHead
from multimodal_perception.networks.fusion_image_network import (
    ImageNeck,
    ImageNetwork,
)
from multimodal_perception.networks.global_fusion import GlobalFusion
from multimodal_perception.networks.image_encoder import ImageBackbone
from multimodal_perception.networks.local_fusion import RoiImages
from multimodal_perception.networks.pillars import PillarEncoder, scatter_to_canvas
from multimodal_perception.networks.refinement_head import (
    RefinementHead,
    RefinementOutput,
)

# By class, the fraction of the maximum score among a cell's neighbours that the cell needs to be a peak.
PEAK_RATIOS = [0.5 if name == "pedestrian" else 1.0 for name in CLASSES]


class ImageFeatures(NamedTuple):
    """Images of one modality and the projections of the pillars into them.

    feature_map, sample_uv, visible, rays: see ProposalNetwork.forward.
    """

    feature_map: Tensor
    sample_uv: Tensor
    valid: Tensor
    rays: Tensor | None = None


class ProposalNetwork(nn.Module):
    """Stage 1: pillars, image features and ultrasonic channels to proposals and a BEV map.

    In training it contains the necks of the image networks, and their backbones if these are not frozen.
    """

    def __init__(
        self,
        config: DetectorConfig,
        pretrained: bool = True,
        image_backbones: bool = True,
        necks: bool = True,
    ) -> None:
        """Build the network for a configuration.

        image_backbones, necks: whether to include these parts of the image networks, for training or to
        load the weights of a training run. pretrained: initialise the backbones with ImageNet weights.
        """
        super().__init__()
        self.config = c = config
        self.encoder = PillarEncoder(PILLAR_CHANNELS, c.channels)
        if c.global_fusion:
            self.camera_trunk = ImageBackbone(3, pretrained) if image_backbones else None
            self.thermal_trunk = ImageBackbone(1, pretrained) if image_backbones else None
            self.camera_neck = ImageNeck(c.channels, c.segmentation_classes) if necks else None
            self.thermal_neck = ImageNeck(c.channels, c.segmentation_classes) if necks else None
            self.camera_fusion = GlobalFusion(c.channels, c.channels)
            self.thermal_fusion = GlobalFusion(c.channels, c.channels)
        if c.bev_to_image_attention:
            self.camera_attention = BevToImageAttention(c.channels)
            self.thermal_attention = BevToImageAttention(c.channels)
        self.backbone = BevBackbone(c.channels + ULTRASONIC_CHANNELS, c.widths, c.depths)
        pyramid = FeaturePyramid if c.neck == "fpn" else RCNetPyramid  # "rcnet"
        self.neck = pyramid(c.widths, c.neck_channels)
        self.head = CentreHead(c.neck_channels, len(CLASSES))

    def bev_outputs(
        self,
        pillars: Tensor,
        pillar_cells: Tensor,
        ultrasonic_grid: Tensor,
        camera: ImageFeatures | None = None,
        thermal: ImageFeatures | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """BEV map (B, C, S/2, S/2), heatmap logits and box codes (see CentreHead).

        camera, thermal: None without global_fusion. Other arguments: see forward.
        """
        c = self.config
        x = self.encoder(pillars)  # (B, M, C)
        if c.global_fusion:
            assert camera is not None and thermal is not None
            cameras, thermals = camera.feature_map, thermal.feature_map
            if c.bev_to_image_attention:
                assert camera.rays is not None and thermal.rays is not None
                occupied = x.new_ones(*x.shape[:2], 1)
                both = scatter_to_canvas(torch.cat([x, occupied], -1), pillar_cells, c.pillars.size)
                bev = both[:, :-1], both[:, -1:]  # (B, C, S, S), (B, 1, S, S)
                cameras = self.camera_attention(cameras, *bev, camera.rays, c.cameras)
                thermals = self.thermal_attention(thermals, *bev, thermal.rays, c.thermal_cameras)
            x = self.camera_fusion(x, cameras, camera.sample_uv, camera.valid, c.cameras)
            x = self.thermal_fusion(
                x, thermals, thermal.sample_uv, thermal.valid, c.thermal_cameras
            )
        canvas = scatter_to_canvas(x, pillar_cells, c.pillars.size)  # (B, C, S, S)
        bev_map = self.neck(self.backbone(canvas, ultrasonic_grid.to(canvas.dtype)))
        heatmap, code = self.head(bev_map)
        return bev_map, heatmap, code

    def forward(
        self,
        pillars: Tensor,
        pillar_cells: Tensor,
        ultrasonic_grid: Tensor,
        camera_feature_map: Tensor | None = None,
        camera_uv: Tensor | None = None,
        camera_valid: Tensor | None = None,
        thermal_feature_map: Tensor | None = None,
        thermal_uv: Tensor | None = None,
        thermal_valid: Tensor | None = None,
        camera_rays: Tensor | None = None,
        thermal_rays: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Process one frame; this is the exported function.

        pillars (1, M, F) float32; pillar_cells (1, M) int64; ultrasonic_grid (1, 2, S, S) float32.
        With global_fusion: *_feature_map (1, C, N * H/4, W/4) float32, the image networks' features
        stacked vertically; *_uv (1, M, 2) float32, positions of the pillars in the stacked map, -1
        to 1; *_valid (1, M) float32, 0 or 1. With bev_to_image_attention: *_rays (1, N * H/4 * W/4,
        D, 2), positions along the rays of the map's cells in the BEV, -1 to 1.

        Returns scores (1, R), labels (1, R) int64, boxes (1, R, 7) and the BEV map (1, C, S/2, S/2).
        """
        camera = thermal = None
        if self.config.global_fusion:
            assert camera_feature_map is not None and thermal_feature_map is not None
            assert camera_uv is not None and thermal_uv is not None
            assert camera_valid is not None and thermal_valid is not None
            camera = ImageFeatures(camera_feature_map, camera_uv, camera_valid, camera_rays)
            thermal = ImageFeatures(thermal_feature_map, thermal_uv, thermal_valid, thermal_rays)
        bev_features, heatmap, code = self.bev_outputs(
            pillars, pillar_cells, ultrasonic_grid, camera, thermal
        )
        return *self.decode_proposals(heatmap, code), bev_features

    def decode_proposals(self, heatmap: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B, R), labels (B, R) and boxes (B, R, 7) at the highest peaks."""
        c = self.config.pillars
        scores, labels, cells, codes = select_peaks(
            heatmap, code, self.config.proposals, PEAK_RATIOS
        )
        return (
            scores,
            labels,
            decode_boxes(cells, codes, heatmap.shape[-1], 2 * c.cell, c.half_extent),
        )


class RefinementNetwork(nn.Module):
    """Stage 2: proposals, the BEV map and image features to confidences and refined boxes."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = c = config
        self.head = RefinementHead(
            c.neck_channels,
            c.channels,
            len(CLASSES),
            c.roi_channels,
            c.sampling_points,
            c.local_fusion,
            c.dynamic_aggregation,
        )

    def forward(
        self,
        bev_features: Tensor,
        camera_feature_map: Tensor,
        thermal_feature_map: Tensor,
        boxes: Tensor,
        proposal_features: Tensor,
        roi_bev: Tensor,
        roi_grid: Tensor,
        roi_camera_uv: Tensor,
        roi_camera_valid: Tensor,
        roi_thermal_uv: Tensor,
        roi_thermal_valid: Tensor,
        roi_profile: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Confidences (B, R, classes) and boxes (B, R, 7); this is the exported function.

        bev_features, *_feature_map: from the proposal and image networks. boxes (B, R, 7): proposals.
        proposal_features (B, R, classes + 11); roi_bev (B, R, 36, 2); roi_grid (B, R, 216, 7);
        roi_camera_uv and roi_thermal_uv (B, R, 216, 2), -1 to 1 in the stacked feature map; *_valid
        (B, R, 216); roi_profile (B, R, 107): see detection.fusion.network_inputs and roi_features.
        """
        rois = {
            "proposal_features": proposal_features,
            "roi_bev": roi_bev,
            "roi_grid": roi_grid,
            "roi_camera_uv": roi_camera_uv,
            "roi_camera_valid": roi_camera_valid,
            "roi_thermal_uv": roi_thermal_uv,
            "roi_thermal_valid": roi_thermal_valid,
            "roi_profile": roi_profile,
        }
        refined = self.refine(bev_features, (camera_feature_map, thermal_feature_map), rois)
        return refined.logits.sigmoid(), apply_residuals(boxes, refined.residuals)

    def refine(
        self, bev_features: Tensor, feature_maps: tuple[Tensor, Tensor], rois: Mapping[str, Tensor]
    ) -> RefinementOutput:
        """Refine proposals. feature_maps: camera and thermal. rois: inputs of forward by name."""
        logits, residuals = self.predict(bev_features, feature_maps, rois)
        return self.head.refine_dimensions(
            rois["proposal_features"], rois["roi_profile"], logits, residuals
        )

    def predict(
        self, bev_features: Tensor, feature_maps: tuple[Tensor, Tensor], rois: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Logits and residuals of RefinementHead.forward, before refine_dimensions."""
        c = self.config
        camera, thermal = (
            RoiImages(feature_map, rois[f"roi_{modality}_uv"], rois[f"roi_{modality}_valid"], count)
            for feature_map, modality, count in zip(
                feature_maps, ("camera", "thermal"), (c.cameras, c.thermal_cameras), strict=True
            )
        )
        output: tuple[Tensor, Tensor] = self.head(
            bev_features,
            rois["roi_bev"],
            rois["roi_grid"],
            rois["proposal_features"],
            camera,
            thermal,
        )
        return output


def build_proposals(settings: Mapping[str, Any]) -> ProposalNetwork:
    """Build the proposal network from a card's settings, without weights."""
    return ProposalNetwork(_config(settings), image_backbones=False, necks=False)


def build_image(settings: Mapping[str, Any]) -> ImageNetwork:
    """Build an image network from a card's settings, without weights."""
    c, modality = _config(settings), settings.get("image")
    if modality not in IMAGE_MODALITIES:
        raise UserError(f"model card: settings.image: allowed: {', '.join(IMAGE_MODALITIES)}")
    channels = 3 if modality == "camera" else 1
    return ImageNetwork(channels, c.channels, c.segmentation_classes, pretrained=False)


def build_refinement(settings: Mapping[str, Any]) -> RefinementNetwork:
    """Build the refinement network from a card's settings, without weights."""
    return RefinementNetwork(_config(settings))


def _config(settings: Mapping[str, Any]) -> DetectorConfig:
    return build(DetectorConfig, settings.get("network", {}), "model card", "settings.network")
