"""The comparison sheet has one row per pair with the images named in its title."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from multimodal_perception.evaluation.classical_fusion import laplacian_pyramid, maximum, mean
from multimodal_perception.visualization.image_fusion_sheet import TILE, draw_fusion_sheet


def test_row_contains_both_images_and_their_fusions(tmp_path: Path) -> None:
    for folder, level in (("visible", 40), ("infrared", 200)):
        (tmp_path / folder).mkdir()
        for stem in "ab":
            image = np.full((30, 50), level, np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{stem}.png"), image)
    methods = {"mean": mean, "Laplacian pyramid": laplacian_pyramid, "maximum": maximum}
    sheet = draw_fusion_sheet(tmp_path, ["a", "b"], methods)
    rows, columns = TILE
    assert sheet.shape == (24 + 2 * rows, 5 * columns, 3)
    assert sheet[:24].min() == 0 and sheet[:24].max() == 255
    for row in (24 + rows // 2, 24 + rows + rows // 2):
        levels = [int(sheet[row, columns // 2 + k * columns, 1]) for k in range(5)]
        np.testing.assert_allclose(levels, [40, 200, 120, 120, 200], atol=2)
