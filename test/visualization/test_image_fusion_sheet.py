"""The sheet shows what it says, a row a pair."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from multimodal_perception.evaluation.classical_fusion import maximum
from multimodal_perception.visualization.image_fusion_sheet import TILE, TITLES, draw_fusions


def test_a_row_holds_both_images_and_their_fusions(tmp_path: Path) -> None:
    for folder, level in (("visible", 40), ("thermal", 200)):
        (tmp_path / folder).mkdir()
        for stem in "ab":
            image = np.full((30, 50), level, np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{stem}.png"), image)
    sheet = draw_fusions(tmp_path, ["a", "b"], maximum)
    rows, columns = TILE
    assert sheet.shape == (24 + 2 * rows, len(TITLES) * columns, 3)
    assert sheet[:24].min() == 0 and sheet[:24].max() == 255
    for row in (24 + rows // 2, 24 + rows + rows // 2):
        levels = [int(sheet[row, columns // 2 + k * columns, 1]) for k in range(len(TITLES))]
        np.testing.assert_allclose(levels, [40, 200, 120, 120, 200], atol=2)
