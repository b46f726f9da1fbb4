"""Appearance of camera images in the profile realistic.

Each drive has other materials: the colours of roads, pavements, walls, plants, skin, hair and trousers
vary, and pavements have one of several surfaces. Each camera has another image processing, which is
constant during a drive: tone curve, white balance, saturation, sharpening or blur, noise and JPEG
compression. The positions of objects and the ground truth do not change.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.simulation.world.materials import (
    MATERIAL_TABLE,
    Material,
    MaterialProperty,
    Texture,
)

# Largest relative change of brightness (natural logarithm) and of each colour channel by material.
VARIED_MATERIALS = {
    Material.ASPHALT: (0.45, 0.06),
    Material.MARKING: (0.25, 0.04),
    Material.SLABS: (0.40, 0.12),
    Material.KERB: (0.35, 0.06),
    Material.GRASS: (0.45, 0.25),
    Material.BRICK: (0.45, 0.25),
    Material.FACADE: (0.30, 0.12),
    Material.CONCRETE: (0.35, 0.08),
    Material.ROOF: (0.50, 0.20),
    Material.BARK: (0.45, 0.15),
    Material.LEAVES: (0.50, 0.30),
    Material.STEEL: (0.50, 0.08),
    Material.TYRE: (0.40, 0.05),
    Material.RIM: (0.50, 0.05),
    Material.SKIN: (0.70, 0.10),
    Material.HAIR: (0.90, 0.30),
    Material.TROUSERS: (0.90, 0.40),
    Material.SHOE: (1.10, 0.20),
    Material.WOOD: (0.40, 0.20),
}
PAVEMENT_TEXTURES = (Texture.SLABS, Texture.SLABS, Texture.CONCRETE, Texture.ASPHALT)
KNOTS = 5  # of the tone curve


def varied_materials(seed: int) -> NDArray[np.float32]:
    """MATERIAL_TABLE with other colours and another surface of the pavements, for the camera images of a
    drive."""
    rng = np.random.default_rng((seed, 0xA11))
    table = MATERIAL_TABLE.copy()
    for material, (brightness, tint) in VARIED_MATERIALS.items():
        factor = np.exp(rng.uniform(-brightness, brightness) + rng.uniform(-tint, tint, 3))
        table[material, :3] = np.clip(table[material, :3] * factor, 0.02, 0.9)
    texture = PAVEMENT_TEXTURES[int(rng.integers(len(PAVEMENT_TEXTURES)))]
    table[Material.SLABS, MaterialProperty.TEXTURE] = float(texture)
    table.setflags(write=False)
    return table


@dataclass(frozen=True)
class CameraLook:
    """Image processing of one camera.

    curve: (256, 3) uint8, output by input value of red, green and blue. saturation: 1 keeps the colours.
    sharpness: above 0 sharpens, below 0 blurs with this standard deviation in pixels. chroma_noise:
    standard deviation of additional coloured noise, 8-bit levels. jpeg_quality: 1 to 100; 0 for no
    compression.
    """

    curve: NDArray[np.uint8]
    saturation: float
    sharpness: float
    chroma_noise: float
    jpeg_quality: int

    def apply(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """The processed image (H, W, 3) RGB."""
        image = np.asarray(cv2.LUT(image, self.curve[None]), np.uint8)
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        s = self.saturation
        image = np.asarray(cv2.addWeighted(image, s, grey, 1.0 - s, 0), np.uint8)
        if self.sharpness < 0:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), -self.sharpness), np.uint8)
        elif self.sharpness > 0:
            blurred = cv2.GaussianBlur(image, (0, 0), 1.0)
            k = self.sharpness
            image = np.asarray(cv2.addWeighted(image, 1.0 + k, blurred, -k, 0), np.uint8)
        if self.chroma_noise > 0:
            noise = self.chroma_noise * rng.standard_normal(image.shape, np.float32)
            image = np.clip(image + noise, 0, 255).astype(np.uint8)
        if self.jpeg_quality:
            options = [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality]
            encoded = cv2.imencode(".jpg", image[..., ::-1], options)[1]
            decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
            assert decoded is not None
            image = np.ascontiguousarray(decoded[..., ::-1], np.uint8)
        return image


def draw_look(seed: int, camera: str) -> CameraLook:
    """The image processing of a camera in the drive with this seed."""
    rng = np.random.default_rng((seed, 0xCA3, *camera.encode()))
    steps = np.exp(rng.normal(0.0, 0.3, KNOTS - 1))
    knots = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    curve = np.interp(np.linspace(0.0, 1.0, 256), np.linspace(0.0, 1.0, KNOTS), knots)
    low, high = rng.uniform(0.0, 0.10), rng.uniform(0.90, 1.0)
    gains = np.exp(rng.normal(0.0, 0.06, 3))
    table = np.clip(255.0 * (low + (high - low) * curve)[:, None] * gains, 0, 255)
    return CameraLook(
        table.astype(np.uint8),
        float(np.exp(rng.uniform(-0.6, 0.25))),
        float(rng.choice([rng.uniform(-0.9, -0.3), 0.0, rng.uniform(0.2, 0.8)])),
        float(rng.choice([0.0, rng.uniform(0.5, 3.0)])),
        int(rng.choice(np.array([0, int(rng.integers(40, 95))]))),
    )
