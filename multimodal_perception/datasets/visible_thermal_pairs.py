"""Folders of aligned visible and thermal images: `visible/` and `infrared/`, one stem a pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
HELD_OUT = 5  # each fifth pair by sorted stem is kept for testing


@dataclass(frozen=True)
class ImagePair:
    """One pair on the thermal image's grid, which is the coarser one in public collections.

    rgb: (H, W, 3) uint8. thermal: (H, W) uint8.
    """

    stem: str
    rgb: NDArray[np.uint8]
    thermal: NDArray[np.uint8]

    @property
    def grey(self) -> NDArray[np.uint8]:
        """The visible image's luma (H, W) uint8."""
        return cv2.cvtColor(self.rgb, cv2.COLOR_RGB2GRAY)


def pair_stems(root: str | Path) -> list[str]:
    """Stems of the images that both folders hold, sorted. Raises UserError when there are none."""
    folders = [Path(root) / name for name in ("visible", "infrared")]
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"{folder}: not a folder; visible/ and infrared/ are expected in {root}"
            )
        found.append({p.stem for p in folder.iterdir() if p.suffix.lower() in ENDINGS})
    stems = sorted(found[0] & found[1])
    if not stems:
        endings = ", ".join(ENDINGS)
        raise UserError(f"{root}: no stem is in both visible/ and infrared/ ({endings})")
    return stems


def held_out(stems: list[str]) -> list[str]:
    """The test split: each fifth, from the first."""
    return stems[::HELD_OUT]


def read_pair(root: str | Path, stem: str) -> ImagePair:
    """One pair; the visible image is resized to the thermal one. Raises UserError naming the file.

    A thermal image of 16 bits is stretched between its 1st and 99th percentile.
    """
    visible = _read(Path(root) / "visible", stem, cv2.IMREAD_COLOR)
    thermal = _read(Path(root) / "infrared", stem, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if thermal.dtype != np.uint8:
        low, high = np.percentile(thermal.astype(np.float32), (1.0, 99.0))
        spread = max(float(high - low), 1.0)
        thermal = np.clip((thermal - low) * (255.0 / spread), 0, 255).astype(np.uint8)
    size = thermal.shape[1], thermal.shape[0]
    shrinks = visible.shape[1] >= size[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(visible, size, interpolation=how)
    return ImagePair(stem, cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), thermal.astype(np.uint8))


def _read(folder: Path, stem: str, flags: int) -> NDArray[np.generic]:
    path = next(
        (p for p in sorted(folder.glob("*")) if p.stem == stem and p.suffix.lower() in ENDINGS),
        folder / stem,
    )
    try:
        pixels = cv2.imread(str(path), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise UserError(f"{path}: {str(error).strip()[:80]}") from error
    if pixels is None or pixels.size == 0:
        raise UserError(f"{path}: not a readable image")
    return pixels
