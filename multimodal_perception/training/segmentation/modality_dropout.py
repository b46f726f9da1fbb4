"""Removal of one image of training samples, so that the network also works with a single camera."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from multimodal_perception.training.segmentation.dataset import Batch


def with_modality_dropout(batch: Batch, rng: np.random.Generator) -> Batch:
    """The batch, followed by the same batch with one image of each sample masked out.

    A sample that has only one image keeps it.
    """
    count = len(batch.labels)
    keep_visible = torch.from_numpy((rng.random(count) < 0.5).astype(np.float32))[
        :, None, None, None
    ]
    has_visible = batch.visible_mask.amax(dim=(1, 2, 3), keepdim=True)
    has_thermal = batch.thermal_mask.amax(dim=(1, 2, 3), keepdim=True)
    keep_visible = torch.where(has_thermal > 0, keep_visible * has_visible, 1.0)

    def doubled(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b])

    return Batch(
        doubled(batch.visible, batch.visible),
        doubled(batch.thermal, batch.thermal),
        doubled(batch.visible_mask, batch.visible_mask * keep_visible),
        doubled(batch.thermal_mask, batch.thermal_mask * (1 - keep_visible)),
        doubled(batch.labels, batch.labels),
    )


def remove_modalities(batch: Batch, fraction: float, rng: np.random.Generator) -> Batch:
    """The batch with one image of about this fraction of its samples masked out.

    A sample that has only one image keeps it.
    """
    count = len(batch.labels)
    draw = rng.random(count)
    parts = draw < fraction / 2, (draw >= fraction / 2) & (draw < fraction)
    remove = [torch.from_numpy(p) for p in parts]
    masks = batch.visible_mask, batch.thermal_mask
    present = [m.flatten(1).amax(dim=1) > 0 for m in masks]
    kept = [
        torch.where((r & present[1 - i])[:, None, None, None], 0.0, m)
        for i, (r, m) in enumerate(zip(remove, masks, strict=True))
    ]
    return replace(batch, visible_mask=kept[0], thermal_mask=kept[1])
