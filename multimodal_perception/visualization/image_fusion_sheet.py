"""Comparison sheet of image fusion: one row per visible and thermal pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.visible_thermal_pairs import read_pair
from multimodal_perception.image_fusion.stage import replace_luma

TILE = (240, 400)
Image = NDArray[np.float32]


def draw_fusion_sheet(
    root: str | Path,
    stems: Sequence[str],
    methods: Mapping[str, Callable[[Image, Image], Image]],
) -> NDArray[np.uint8]:
    """RGB image (H, W, 3) uint8 with one row per pair: visible, thermal, and one column per method.

    root: folder of a pair dataset. stems: file names without extension. methods: by column title,
    functions that fuse a visible and a thermal image, both (H, W) float32 in [0, 1], to a luma image.
    """
    rows = [_title_row(("visible", "thermal", *methods))]
    for stem in stems:
        pair = read_pair(root, stem)
        visible, thermal = (
            i.astype(np.float32) / np.float32(255) for i in (pair.grey, pair.thermal)
        )
        fused = [replace_luma(pair.rgb, fuse(visible, thermal)) for fuse in methods.values()]
        tiles = [pair.rgb, np.repeat(pair.thermal[..., None], 3, axis=2), *fused]
        resized = [cv2.resize(t, TILE[::-1], interpolation=cv2.INTER_AREA) for t in tiles]
        rows.append(np.hstack(resized))
    return np.vstack(rows)


def _title_row(titles: Sequence[str]) -> NDArray[np.uint8]:
    row = np.full((24, TILE[1] * len(titles), 3), 255, np.uint8)
    for k, title in enumerate(titles):
        at = (TILE[1] * k + 6, 17)
        cv2.putText(row, title, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return row
