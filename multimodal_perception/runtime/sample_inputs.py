"""Deterministic inputs of a network for timing engines and comparing their outputs."""

from __future__ import annotations

import logging

import cv2
import numpy as np

from multimodal_perception.configuration import UserError
from multimodal_perception.rig import load_rig, resolve_rig_path
from multimodal_perception.runtime.architectures import ARCHITECTURES, resolve
from multimodal_perception.runtime.card import ModelCard, TensorSpec
from multimodal_perception.runtime.engine import Arrays, EngineError, check_inputs
from multimodal_perception.sample_frame import sample_frame

log = logging.getLogger(__name__)
# A rig with cameras (one of them with a fisheye lens), a thermal camera, LiDAR and ultrasonic sensors.
SAMPLE_RIG = "simulation"
# Smoothing of the random values along the last two image axes, in pixels.
BLUR_PIXELS = 4.0


def sample_inputs(card: ModelCard, seed: int = 0) -> Arrays:
    """Return inputs of a card's network: those of a synthetic frame, or random values.

    The frame (see sample_frame) has the sensors of SAMPLE_RIG; the architecture's frame_inputs function
    converts it. Without such a function, or where it cannot use the frame, values are random: uniform in
    [0, 1] (floats), smoothed noise (uint8), true (flags) and 0 (integers).
    """
    architecture = ARCHITECTURES.get(card.architecture)
    if architecture is not None and architecture.frame_inputs:
        try:
            frame = sample_frame(load_rig(resolve_rig_path(SAMPLE_RIG)), seed)
            arrays: Arrays = resolve(card, "frame_inputs")(card)(frame)
            check_inputs(card.inputs, arrays)
            return arrays
        except (UserError, EngineError, FileNotFoundError) as error:
            log.info("%s: random inputs are used: %s", card.name, error)
    rng = np.random.default_rng(seed)
    return {name: _random(spec, rng) for name, spec in card.inputs.items()}


def _random(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    if spec.dtype == "bool":
        return np.ones(spec.shape, bool)
    if spec.dtype.startswith("int"):
        return np.zeros(spec.shape, spec.dtype)
    values = rng.random(spec.shape, np.float32)
    if spec.dtype == "uint8":
        flat = values.reshape(spec.shape[0], spec.shape[1], -1) if len(spec.shape) > 2 else values
        smooth = np.stack([cv2.GaussianBlur(image, (0, 0), BLUR_PIXELS) for image in flat])
        smooth = (smooth - smooth.min()) / max(float(np.ptp(smooth)), 1e-6)
        return (255 * smooth).astype(np.uint8).reshape(spec.shape)
    return values.astype(spec.dtype)
