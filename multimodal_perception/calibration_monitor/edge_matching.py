"""Matching of images from different sensors by the position and orientation of their edges.

The features are unsigned oriented gradients, smoothed over a few pixels, as in CFOG (Ye et al. 2019,
"Fast and robust matching for multimodal remote sensing image registration", sec. III). A local contrast
normalisation comes first, so that a street lamp or a hot engine has the same weight as a kerb.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

ORIENTATIONS = 6
# Standard deviations of the Gaussian filters, px: for the gradient, the local contrast and the features.
GRADIENT_SIGMA, CONTRAST_SIGMA, FEATURE_SIGMA = 1.0, 8.0, 1.5
# Gradients below this fraction of the image's mean are noise; normalisation does not amplify them.
NOISE_FRACTION = 0.3
# Minimum fraction of valid pixels of a block in the first and in the second image.
MIN_VALID_FIRST, MIN_VALID_SECOND = 0.7, 0.6

Mask = NDArray[np.bool_]


def edge_channels(
    image: NDArray[np.generic], valid: Mask | None = None
) -> tuple[NDArray[np.float32], Mask]:
    """Edge features (ORIENTATIONS, H, W) float32 of an image (H, W) of any dtype, and their mask (H, W).

    valid: (H, W), valid pixels of the image. The returned mask excludes a margin around invalid pixels,
    where the gradient would be that of the border.
    """
    values = np.asarray(image, np.float32)
    mask = np.ones(values.shape, np.bool_)
    if valid is not None and not valid.all():
        # The gradient filters extend over four pixels.
        mask = cv2.erode(valid.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        values = np.where(valid, values, values[valid].mean() if valid.any() else np.float32(0.0))
    smooth = cv2.GaussianBlur(values, (0, 0), GRADIENT_SIGMA)
    gradients = [cv2.Sobel(smooth, cv2.CV_32F, *order) * mask for order in ((1, 0), (0, 1))]
    energy = gradients[0] ** 2 + gradients[1] ** 2
    floor = NOISE_FRACTION * float(np.sqrt(energy.mean())) + 1e-6
    scale = 1.0 / (np.sqrt(cv2.GaussianBlur(energy, (0, 0), CONTRAST_SIGMA)) + floor)
    gx, gy = (g * scale for g in gradients)
    angles = np.pi * np.arange(ORIENTATIONS) / ORIENTATIONS
    channels = np.stack(
        [
            cv2.GaussianBlur(np.abs(np.cos(a) * gx + np.sin(a) * gy), (0, 0), FEATURE_SIGMA)
            for a in angles
        ]
    )
    smoothed = 0.5 * channels + 0.25 * (np.roll(channels, 1, 0) + np.roll(channels, -1, 0))
    return np.asarray(smoothed * mask, np.float32), mask


@dataclass(frozen=True)
class BlockScores:
    """Correlation of blocks of one image with a second image, by displacement.

    scores: (K, 2 R + 1, 2 R + 1) float32, correlation in [-1, 1]; the row is the displacement in y from
    -R, the column that in x. centres: (K, 2) float64, x y of the block centres, px.
    """

    scores: NDArray[np.float32]
    centres: NDArray[np.float64]

    @property
    def max_displacement(self) -> int:
        """R, the largest displacement, px."""
        return self.scores.shape[-1] // 2


def match_blocks(
    first: tuple[NDArray[np.float32], Mask],
    second: tuple[NDArray[np.float32], Mask],
    size: int = 64,
    step: int = 48,
    max_displacement: int = 28,
    cancelled: Callable[[], bool] = lambda: False,
) -> BlockScores:
    """Correlate each block of `first` with `second`, both (features, mask) from edge_channels.

    size, step: block size and distance between blocks, px. max_displacement: px. cancelled: polled
    before each block; once it returns true, only the blocks so far are returned.

    The correlation is normalised over the pixels that are valid in both images (Padfield 2012, "Masked
    object registration in the Fourier domain", eq. 5). Otherwise the image border would bias it towards
    zero displacement.
    """
    features, valid = first
    window_size = size + 2 * max_displacement
    length = fft.next_fast_len(window_size, True)
    padding = (max_displacement, max_displacement), (max_displacement, max_displacement)
    padded = np.pad(second[0], ((0, 0), *padding))
    # Number of valid pixels in each box of the second image, and the sum of squared deviations.
    count = _box_sums(np.pad(second[1].astype(np.float32), padding), size)
    deviation = _box_sums((padded * padded).sum(0), size)
    for channel in padded:
        deviation -= _box_sums(channel, size) ** 2 / np.maximum(count, 1.0)
    width = 2 * max_displacement + 1
    scores, centres = [], []
    for y, x in _block_corners(valid.shape, size, step):
        mask = valid[y : y + size, x : x + size]
        if cancelled():
            break
        if mask.mean() < MIN_VALID_FIRST:
            continue
        block = features[:, y : y + size, x : x + size]
        mean = block.sum((1, 2)) / mask.sum()
        block = (block - mean[:, None, None]) * mask
        window = padded[:, y : y + window_size, x : x + window_size]
        spectrum = fft.rfft2(block, (length, length)).conj() * fft.rfft2(window, (length, length))
        correlation = fft.irfft2(spectrum.sum(0), (length, length))[:width, :width]
        box = slice(y, y + width), slice(x, x + width)
        norm = np.sqrt(np.maximum(deviation[box], 1e-3) * max(float((block * block).sum()), 1e-3))
        scores.append(
            np.where(count[box] < MIN_VALID_SECOND * size * size, 0.0, correlation / norm)
        )
        centres.append((x + (size - 1) / 2, y + (size - 1) / 2))
    return BlockScores(
        np.array(scores, np.float32).reshape(-1, width, width),
        np.array(centres, np.float64).reshape(-1, 2),
    )


def _block_corners(shape: tuple[int, ...], size: int, step: int) -> Iterator[tuple[int, int]]:
    """Row and column of the first pixel of each block."""
    for y in range(0, shape[0] - size + 1, step):
        for x in range(0, shape[1] - size + 1, step):
            yield y, x


def _box_sums(values: NDArray[np.floating], size: int) -> NDArray[np.float64]:
    """Sums over all size x size boxes inside an array (H, W)."""
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(0, np.float64).cumsum(1)
    return total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
