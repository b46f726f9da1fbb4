"""What images of unlike sensors share: where edges lie and how they run, not which side is bright.

Orientated gradients without their sign, spread over a few pixels, as CFOG has them (Ye et al. 2019,
"Fast and robust matching for multimodal remote sensing image registration", sec. III), after a local
contrast normalisation, so that a street lamp or a hot engine counts no more than a kerb.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

ORIENTATIONS = 6
# Standard deviations in pixels: of the gradient, of the contrast's surroundings, of the spreading.
GRADIENT, SURROUNDINGS, SPREADING = 1.0, 8.0, 1.5
# A gradient far below the image's mean is noise, and is not made as strong as the others.
NOISE_SHARE = 0.3
# Of a block's pixels so many must be seen, in the one image and in the other.
LEAST_SEEN, LEAST_FOUND = 0.7, 0.6

Mask = NDArray[np.bool_]


def structure(
    image: NDArray[np.generic], seen: Mask | None = None
) -> tuple[NDArray[np.float32], Mask]:
    """Channels (ORIENTATIONS, H, W) float32 of an image (H, W) of any dtype, and where they hold.

    seen: (H, W), which pixels the image has; near the others gradients are those of the border.
    """
    values = np.asarray(image, np.float32)
    held = np.ones(values.shape, np.bool_)
    if seen is not None and not seen.all():
        # Four pixels are what the gradient's kernels reach.
        held = cv2.erode(seen.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        values = np.where(seen, values, values[seen].mean() if seen.any() else np.float32(0.0))
    smooth = cv2.GaussianBlur(values, (0, 0), GRADIENT)
    gradients = [cv2.Sobel(smooth, cv2.CV_32F, *order) * held for order in ((1, 0), (0, 1))]
    energy = gradients[0] ** 2 + gradients[1] ** 2
    floor = NOISE_SHARE * float(np.sqrt(energy.mean())) + 1e-6
    scale = 1.0 / (np.sqrt(cv2.GaussianBlur(energy, (0, 0), SURROUNDINGS)) + floor)
    gx, gy = (g * scale for g in gradients)
    angles = np.pi * np.arange(ORIENTATIONS) / ORIENTATIONS
    channels = np.stack(
        [
            cv2.GaussianBlur(np.abs(np.cos(a) * gx + np.sin(a) * gy), (0, 0), SPREADING)
            for a in angles
        ]
    )
    mixed = 0.5 * channels + 0.25 * (np.roll(channels, 1, 0) + np.roll(channels, -1, 0))
    return np.asarray(mixed * held, np.float32), held


@dataclass(frozen=True)
class BlockScores:
    """How well each block of one image fits another one, by displacement.

    scores: (K, 2 R + 1, 2 R + 1) float32, correlation in [-1, 1]; row is the displacement in y from
    -R, column that in x. centres: (K, 2) float64, x y of each block's middle, pixels.
    """

    scores: NDArray[np.float32]
    centres: NDArray[np.float64]

    @property
    def reach(self) -> int:
        """R, pixels."""
        return self.scores.shape[-1] // 2


def match_blocks(
    first: tuple[NDArray[np.float32], Mask],
    second: tuple[NDArray[np.float32], Mask],
    size: int = 64,
    step: int = 48,
    reach: int = 28,
    cancelled: Callable[[], bool] = lambda: False,
) -> BlockScores:
    """Correlation of each block of `first` with `second`, both as `structure` gives them.

    cancelled: asked at each block; once it is true, the blocks so far come back.

    It is normalised over the pixels that both have (as Padfield 2012, "Masked object registration in
    the Fourier domain", eq. 5), without which a border would pull towards no displacement.
    """
    features, held = first
    span = size + 2 * reach
    length = fft.next_fast_len(span, True)
    edges = (reach, reach), (reach, reach)
    padded = np.pad(second[0], ((0, 0), *edges))
    # Pixels that each box of the second image has, and its variance summed over them.
    count = _box_sums(np.pad(second[1].astype(np.float32), edges), size)
    spread = _box_sums((padded * padded).sum(0), size)
    for channel in padded:
        spread -= _box_sums(channel, size) ** 2 / np.maximum(count, 1.0)
    wide = 2 * reach + 1
    scores, centres = [], []
    for y, x in _places(held.shape, size, step):
        mask = held[y : y + size, x : x + size]
        if cancelled():
            break
        if mask.mean() < LEAST_SEEN:
            continue
        block = features[:, y : y + size, x : x + size]
        mean = block.sum((1, 2)) / mask.sum()
        block = (block - mean[:, None, None]) * mask
        window = padded[:, y : y + span, x : x + span]
        spectrum = fft.rfft2(block, (length, length)).conj() * fft.rfft2(window, (length, length))
        joint = fft.irfft2(spectrum.sum(0), (length, length))[:wide, :wide]
        here = slice(y, y + wide), slice(x, x + wide)
        both = np.sqrt(np.maximum(spread[here], 1e-3) * max(float((block * block).sum()), 1e-3))
        scores.append(np.where(count[here] < LEAST_FOUND * size * size, 0.0, joint / both))
        centres.append((x + (size - 1) / 2, y + (size - 1) / 2))
    return BlockScores(
        np.array(scores, np.float32).reshape(-1, wide, wide),
        np.array(centres, np.float64).reshape(-1, 2),
    )


def _places(shape: tuple[int, ...], size: int, step: int) -> Iterator[tuple[int, int]]:
    for y in range(0, shape[0] - size + 1, step):
        for x in range(0, shape[1] - size + 1, step):
            yield y, x


def _box_sums(values: NDArray[np.floating], size: int) -> NDArray[np.float64]:
    """Sums over each size x size box that lies inside."""
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(0, np.float64).cumsum(1)
    return total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
