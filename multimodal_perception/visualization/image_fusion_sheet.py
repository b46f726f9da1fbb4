"""Pairs and what fusion makes of them, one below the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.visible_thermal_pairs import read_pair
from multimodal_perception.evaluation.classical_fusion import laplacian_pyramid, mean
from multimodal_perception.image_fusion.colour import with_luma

TILE = (240, 400)
TITLES = ("visible", "thermal", "mean", "Laplacian pyramid", "ours")
Image = NDArray[np.float32]


def draw_fusions(
    root: str | Path, stems: Sequence[str], fuse: Callable[[Image, Image], Image]
) -> NDArray[np.uint8]:
    """A row a pair: visible, thermal, mean, pyramid and fused, in colour; (H, W, 3) uint8 RGB."""
    rows = [_titles()]
    for stem in stems:
        pair = read_pair(root, stem)
        visible, thermal = (
            i.astype(np.float32) / np.float32(255) for i in (pair.grey, pair.thermal)
        )
        lumas = (mean(visible, thermal), laplacian_pyramid(visible, thermal))
        fused = [with_luma(pair.rgb, luma) for luma in (*lumas, fuse(visible, thermal))]
        tiles = [pair.rgb, np.repeat(pair.thermal[..., None], 3, axis=2), *fused]
        resized = [cv2.resize(t, TILE[::-1], interpolation=cv2.INTER_AREA) for t in tiles]
        rows.append(np.hstack(resized))
    return np.vstack(rows)


def _titles() -> NDArray[np.uint8]:
    row = np.full((24, TILE[1] * len(TITLES), 3), 255, np.uint8)
    for k, title in enumerate(TITLES):
        at = (TILE[1] * k + 6, 17)
        cv2.putText(row, title, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return row
