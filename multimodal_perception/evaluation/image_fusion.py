"""Six metrics of image fusion without a reference image, in their usual definitions.

All images are grey (H, W) with values 0 to 255. Metrics based on histograms round to uint8 first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.datasets.visible_thermal_pairs import read_pair

Image = NDArray[np.float32]
Grey = NDArray[np.uint8] | NDArray[np.floating]

METRICS = ("entropy", "mutual_information", "spatial_frequency", "qabf", "ssim", "vif")


def fusion_metrics(visible: Grey, thermal: Grey, fused: Grey) -> dict[str, float]:
    """All six metrics of one fused image; higher is better for each.

    mutual_information and vif are sums over the two source images, ssim is the mean, as in most papers
    of the field. Raises ValueError if the shapes differ.
    """
    if not visible.shape == thermal.shape == fused.shape or visible.ndim != 2:
        shapes = f"{visible.shape}, {thermal.shape}, {fused.shape}"
        raise ValueError(f"expected three images of equal shape (H, W); got {shapes}")
    sources = (visible, thermal)
    return {
        "entropy": entropy(fused),
        "mutual_information": sum(mutual_information(s, fused) for s in sources),
        "spatial_frequency": spatial_frequency(fused),
        "qabf": edge_preservation(visible, thermal, fused),
        "ssim": sum(structural_similarity(s, fused) for s in sources) / 2,
        "vif": sum(visual_information_fidelity(s, fused) for s in sources),
    }


def compare_fusions(
    root: str | Path,
    stems: Iterable[str],
    methods: Mapping[str, Callable[[Image, Image], Image]],
    perturb: Callable[[Image, Image], tuple[Image, Image]] | None = None,
) -> dict[str, Any]:
    """Mean metrics over image pairs, by fusion method.

    methods: functions from a visible and a thermal image (H, W) float32 in [0, 1] to the fused image.
    perturb: applied to both images before the fusion; the metrics compare with the unperturbed images.
    Raises UserError for files that cannot be read.
    """
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    pairs = 0
    for stem in stems:
        pair = read_pair(root, stem)
        visible, thermal = (
            i.astype(np.float32) / np.float32(255) for i in (pair.grey, pair.thermal)
        )
        if perturb is not None:
            visible, thermal = perturb(visible, thermal)
        for name, method in methods.items():
            fused = _to_uint8(255.0 * method(visible, thermal))
            rows[name].append(fusion_metrics(pair.grey, pair.thermal, fused))
        pairs += 1
    means = {
        name: {m: float(np.mean([row[m] for row in method_rows])) for m in METRICS}
        for name, method_rows in rows.items()
    }
    return {"pairs": pairs, "mean": means}


def entropy(image: Grey) -> float:
    """Shannon entropy of the grey levels, bits."""
    return _entropy_bits(np.bincount(_to_uint8(image).ravel(), minlength=256))


def mutual_information(first: Grey, second: Grey) -> float:
    """I(A; B) = H(A) + H(B) - H(A, B) of the grey levels, bits (Qu et al. 2002 add two of them)."""
    a, b = (_to_uint8(image).ravel().astype(np.int64) for image in (first, second))
    joint = np.bincount(256 * a + b, minlength=1 << 16).reshape(256, 256)
    return _entropy_bits(joint.sum(0)) + _entropy_bits(joint.sum(1)) - _entropy_bits(joint)


def spatial_frequency(image: Grey) -> float:
    """Root of the mean squared differences along rows and along columns (Eskicioglu, Fisher 1995)."""
    values = image.astype(np.float64)
    rows, columns = np.diff(values, axis=0), np.diff(values, axis=1)
    means = (float(np.mean(d**2)) if d.size else 0.0 for d in (rows, columns))
    return math.sqrt(sum(means))


def edge_preservation(first: Grey, second: Grey, fused: Grey) -> float:
    """Q^AB/F of Xydeas and Petrovic (2000): preservation of edge strength and direction, in [0, 1].

    It is zero if neither source image has an edge.
    """
    strength, angle = _edges(fused)
    preserved, total = 0.0, 0.0
    for source in (first, second):
        source_strength, source_angle = _edges(source)
        low, high = np.minimum(source_strength, strength), np.maximum(source_strength, strength)
        strength_ratio = np.divide(low, high, out=np.zeros_like(low), where=high > 0)
        # Edge directions are modulo pi: those near -pi/2 and near pi/2 are similar.
        direction_similarity = np.abs(1.0 - np.abs(source_angle - angle) / (np.pi / 2))
        quality = 0.9994 / (1.0 + np.exp(-15.0 * (strength_ratio - 0.5)))
        quality *= 0.9879 / (1.0 + np.exp(-22.0 * (direction_similarity - 0.8)))
        preserved += float(np.sum(quality * source_strength))
        total += float(np.sum(source_strength))
    return preserved / total if total > 0 else 0.0


def structural_similarity(first: Grey, second: Grey) -> float:
    """Mean SSIM (Wang et al. 2004, eq. 13) with K1 0.01 and K2 0.03.

    The Gaussian window has a size of 11 and a standard deviation of 1.5 pixels. The mean is over pixels
    whose window lies completely inside the image, as in the authors' code.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    window = cv2.getGaussianKernel(min(11, _largest_odd(min(a.shape))), 1.5)
    mean_a, mean_b = _valid(a, window), _valid(b, window)
    var_a = _valid(a * a, window) - mean_a**2
    var_b = _valid(b * b, window) - mean_b**2
    covariance = _valid(a * b, window) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (var_a + var_b + c2)))


def visual_information_fidelity(reference: Grey, image: Grey, noise: float = 2.0) -> float:
    """Pixel-domain VIF over four scales (Sheikh and Bovik 2006); 1 if both images are equal.

    noise: variance of the visual noise, as in the authors' code. The result is 0 for a reference of
    constant value. Scales for which the image is too small are skipped.
    """
    a, b = reference.astype(np.float64), image.astype(np.float64)
    preserved, total = 0.0, 0.0
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        window = cv2.getGaussianKernel(size, size / 5)
        if scale:
            if min(a.shape) < 2 * size:
                break
            a, b = _valid(a, window)[::2, ::2], _valid(b, window)[::2, ::2]
        if min(a.shape) < size:
            continue
        mean_a, mean_b = _valid(a, window), _valid(b, window)
        var_a = np.maximum(_valid(a * a, window) - mean_a**2, 0.0)
        var_b = np.maximum(_valid(b * b, window) - mean_b**2, 0.0)
        covariance = _valid(a * b, window) - mean_a * mean_b
        # Model in each window: b = gain a + additive noise; a negative gain preserves no information.
        gain = np.where((var_a < 1e-10) | (var_b < 1e-10), 0.0, covariance / (var_a + 1e-10))
        gain = np.maximum(gain, 0.0)
        additive = np.maximum(np.where(gain > 0, var_b - gain * covariance, var_b), 1e-10)
        preserved += float(np.sum(np.log1p(gain**2 * var_a / (additive + noise))))
        total += float(np.sum(np.log1p(var_a / noise)))
    return preserved / total if total > 1e-9 else 0.0


def _to_uint8(image: Grey) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _entropy_bits(counts: NDArray[np.integer]) -> float:
    probability = counts[counts > 0] / counts.sum()
    return float(-np.sum(probability * np.log2(probability)))


def _largest_odd(size: int) -> int:
    return size if size % 2 else size - 1


def _valid(image: NDArray[np.float64], window: NDArray[np.float64]) -> NDArray[np.float64]:
    """The image filtered by a separable window, without pixels whose window crosses the border."""
    half = len(window) // 2
    full = cv2.sepFilter2D(image, cv2.CV_64F, window, window)
    return full[half : image.shape[0] - half, half : image.shape[1] - half]


def _edges(image: Grey) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Strength and direction in [-pi/2, pi/2] of the Sobel gradient, (H, W) each."""
    values = image.astype(np.float64)
    x = cv2.Sobel(values, cv2.CV_64F, 1, 0)
    y = cv2.Sobel(values, cv2.CV_64F, 0, 1)
    angle = np.arctan(np.divide(y, x, out=np.full_like(x, np.inf), where=x != 0))
    return np.hypot(x, y), angle
