"""Reader of aligned visible and thermal images: `visible/` and `infrared/` with equal file stems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
HELD_OUT_INTERVAL = 5  # every fifth pair, by sorted stem, belongs to the test split


@dataclass(frozen=True)
class ImagePair:
    """One pair at the resolution of the thermal image, the lower one in public data sets.

    rgb: (H, W, 3) uint8. thermal: (H, W) uint8.
    """

    stem: str
    rgb: NDArray[np.uint8]
    thermal: NDArray[np.uint8]

    @property
    def grey(self) -> NDArray[np.uint8]:
        """Luma of the visible image (H, W) uint8."""
        return cv2.cvtColor(self.rgb, cv2.COLOR_RGB2GRAY)


def list_pair_stems(root: str | Path) -> list[str]:
    """Sorted stems of the images that both folders contain. Raises UserError if there are none."""
    folders = [Path(root) / name for name in ("visible", "infrared")]
    stems_by_folder = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: not a folder; {root} must contain visible/ and infrared/")
        stems_by_folder.append(
            {p.stem for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES}
        )
    stems = sorted(stems_by_folder[0] & stems_by_folder[1])
    if not stems:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        raise UserError(
            f"{root}: visible/ and infrared/ have no image file stem in common (allowed suffixes: "
            f"{suffixes})"
        )
    return stems


def held_out_stems(stems: list[str]) -> list[str]:
    """The test split: every fifth stem, starting with the first."""
    return stems[::HELD_OUT_INTERVAL]


def read_pair(root: str | Path, stem: str) -> ImagePair:
    """Read one pair and resize the visible image to the size of the thermal one.

    A 16-bit thermal image is scaled linearly from its 1st and 99th percentile to 0 and 255. Raises
    UserError, which names the file.
    """
    visible = _read(Path(root) / "visible", stem, cv2.IMREAD_COLOR)
    thermal = _read(Path(root) / "infrared", stem, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if thermal.dtype != np.uint8:
        low, high = np.percentile(thermal.astype(np.float32), (1.0, 99.0))
        spread = max(float(high - low), 1.0)
        thermal = np.clip((thermal - low) * (255.0 / spread), 0, 255).astype(np.uint8)
    size = thermal.shape[1], thermal.shape[0]
    interpolation = cv2.INTER_AREA if visible.shape[1] >= size[0] else cv2.INTER_LINEAR
    resized = cv2.resize(visible, size, interpolation=interpolation)
    return ImagePair(stem, cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), thermal.astype(np.uint8))


def _read(folder: Path, stem: str, flags: int) -> NDArray[np.generic]:
    path = next(
        (
            p
            for p in sorted(folder.glob("*"))
            if p.stem == stem and p.suffix.lower() in IMAGE_SUFFIXES
        ),
        folder / stem,
    )
    try:
        pixels = cv2.imread(str(path), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise UserError(f"{path}: {str(error).strip()[:80]}") from error
    if pixels is None or pixels.size == 0:
        raise UserError(f"{path}: not a readable image")
    return pixels
