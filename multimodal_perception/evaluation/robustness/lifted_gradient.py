"""The lifting of one image of the BEV fusion detector as a function with a gradient.

The kernels of detection.bev_fusion.image_bev have none. Lifted and sampled features are means over the
images that show a cell or point, so the inputs of the first stage change by the change of the share of
one image. The functions here compute that share with torch; it equals the result of the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from multimodal_perception.detection.bev_fusion.image_bev import (
    FrameImage,
    ImageSet,
    lift_positions,
)
from multimodal_perception.detection.bev_fusion.network_config import (
    DEPTH_STRIDE,
    FEATURE_STRIDE,
    IMAGE_MODALITIES,
    BevFusionNetworkConfig,
    stage1_inputs,
)
from multimodal_perception.geometry import poses


@dataclass(frozen=True)
class _Samples:
    """Where an image samples its maps: V positions that it shows.

    rows: (V,) index of each position. uv: (V, 2) pixels. distances: (V,) from the camera, metres.
    """

    rows: NDArray[np.int64]
    uv: NDArray[np.float64]
    distances: NDArray[np.float64]


class ImageShare:
    """The share of one image in the inputs of the first stage, without the painting."""

    def __init__(
        self,
        images: ImageSet,
        index: int,
        config: BevFusionNetworkConfig,
        centroids: NDArray[np.float32],
    ) -> None:
        """images: all images of the frame. index: of the image. centroids: (P, 3) of the pillars."""
        self._config = c = config
        self._image = image = images.images[index]
        others = [i for i in images.images if i.modality == image.modality]
        self._counts, self._samples = {}, {}
        for name, points in (("image_bev", lift_positions(c)), ("pillar_images", centroids)):
            positions, masked = images.in_base(points)
            shown = [_project(i, positions, masked) for i in others]
            count = np.zeros(len(positions), np.float32)
            for samples in shown:
                count[samples.rows] += 1.0
            self._counts[name] = count
            self._samples[name] = next(s for i, s in zip(others, shown, strict=True) if i is image)

    def __call__(self, features: Tensor, ranges: Tensor) -> dict[str, Tensor]:
        """Shares by input name, with the shapes of stage1_inputs.

        features (1, h, w, C), ranges (1, h / 2, w / 2, D): outputs of the image network.
        """
        shares = {}
        if self._config.lift:
            shares["image_bev"] = self._lifted(features, ranges)
        if self._config.pillar_images:
            shares["pillar_images"] = self._sampled(features, ranges)
        return shares

    def _lifted(self, features: Tensor, ranges: Tensor) -> Tensor:
        c, samples = self._config, self._samples["image_bev"]
        heights, cells = len(c.lift_heights), c.lift_size**2
        counts = torch.from_numpy(self._counts["image_bev"]).reshape(cells, heights)
        weights, nearer = self._surface(samples, ranges)
        cell, height = (torch.from_numpy(k) for k in np.divmod(samples.rows, heights))
        weighted = weights[:, None] * _interpolated(features, samples.uv, FEATURE_STRIDE)
        total = counts.sum(1).clamp(min=1.0)[:, None]
        parts = [
            torch.zeros(cells, c.channels).index_add(0, cell, weighted) / total,
            torch.zeros(cells, heights).index_put((cell, height), weights, accumulate=True)
            / counts.clamp(min=1.0),
            torch.zeros(cells, 1).index_add(0, cell, nearer[:, None]) / total,
        ]
        return self._placed(torch.cat(parts, 1), "image_bev", c.modality_channels)

    def _sampled(self, features: Tensor, ranges: Tensor) -> Tensor:
        samples = self._samples["pillar_images"]
        rows, counts = torch.from_numpy(samples.rows), self._counts["pillar_images"]
        weights, _ = self._surface(samples, ranges)
        own = _interpolated(features, samples.uv, FEATURE_STRIDE)
        values = torch.cat([own, weights[:, None]], 1)
        sums = torch.zeros(len(counts), values.shape[1]).index_add(0, rows, values)
        share = sums / torch.from_numpy(counts).clamp(min=1.0)[:, None]
        return self._placed(share, "pillar_images", self._config.sample_channels)

    def _placed(self, share: Tensor, name: str, modality_channels: int) -> Tensor:
        """A share (N, K) in the rows and channels of its modality, with a batch dimension."""
        _, rows, channels = stage1_inputs(self._config)[name][0]
        before = IMAGE_MODALITIES.index(self._image.modality) * modality_channels
        after = channels - before - share.shape[1]
        return F.pad(share, (before, after, 0, rows - len(share)))[None]

    def _surface(self, samples: _Samples, ranges: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (V,) that the surface is at the position's range, and that it is nearer.

        See image_bev._surface.
        """
        edges, distance = self._config.range_edges.astype(np.float64), samples.distances
        half_bin = 0.5 * distance * (edges[1] / edges[0] - 1.0)
        tolerance = np.maximum(self._config.lift_cell / 2, half_bin)
        tolerance[distance - tolerance >= edges[-1]] = 0.0
        cumulative = F.pad(ranges.cumsum(3), (1, 0))
        sampled = _interpolated(cumulative, samples.uv, DEPTH_STRIDE)  # (V, D + 1)
        before, until = (
            _cumulative_at(sampled, distance + sign * tolerance, edges) for sign in (-1.0, 1.0)
        )
        return until - before, before


def _project(
    image: FrameImage, positions: NDArray[np.float32], masked: NDArray[np.bool_]
) -> _Samples:
    """The positions (N, 3) in base_link that an image shows."""
    optical = poses.transform_points(poses.inverse(image.view.base_from_optical), positions)
    uv, visible = image.view.model.project(optical)
    rows = np.flatnonzero(visible & ~masked)
    return _Samples(rows, uv[rows], np.linalg.norm(optical[rows], axis=1))


def _interpolated(maps: Tensor, uv: NDArray[np.float64], stride: int) -> Tensor:
    """Values (V, C) of maps (1, h, w, C) at pixels (V, 2), interpolated linearly."""
    _, height, width, _ = maps.shape
    grid = 2.0 * (uv + 0.5) / (stride * np.array([width, height])) - 1.0
    positions = torch.from_numpy(grid.astype(np.float32))[None, None]
    sampled = F.grid_sample(
        maps.permute(0, 3, 1, 2), positions, padding_mode="border", align_corners=False
    )
    return sampled[0, :, 0].T


def _cumulative_at(
    cumulative: Tensor, distances: NDArray[np.float64], edges: NDArray[np.float64]
) -> Tensor:
    """Probability (V,) of a range below each distance. cumulative: (V, D + 1), starting with 0."""
    last = len(edges) - 1
    bins = np.clip(np.searchsorted(edges, distances, side="right") - 1, 0, last)
    low = np.where(bins > 0, edges[bins], 0.0)
    high = edges[np.minimum(bins + 1, last)]
    fraction = np.where(bins < last, (distances - low) / np.maximum(high - low, 1e-9), 0.0)
    index = torch.from_numpy(bins)[:, None]
    start, end = (cumulative.gather(1, index + k)[:, 0] for k in (0, 1))
    return start + torch.from_numpy(fraction.astype(np.float32)) * (end - start)
