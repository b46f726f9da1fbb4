"""Surface materials: one table row per material with its properties for every sensor modality."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from multimodal_perception.frame import CLASS_NAMES

# Semantic classes of image pixels, LiDAR points and grid cells: the object classes of frame.CLASS_NAMES
# and the classes of scenery. New classes are appended, because stored data contain the indices.
SEMANTIC_NAMES = (
    "unknown",
    "car",
    "van",
    "truck",
    "bus",
    "pedestrian",
    "cyclist",
    "cone",
    "barrier",
    "sky",
    "road",
    "marking",
    "sidewalk",
    "kerb",
    "terrain",
    "building",
    "wall",
    "fence",
    "pole",
    "vegetation",
    "rack",
    "furniture",
    "trailer",
    "motorcyclist",
)
SKY_CLASS = SEMANTIC_NAMES.index("sky")
# Index into frame.CLASS_NAMES of each semantic class; 0 (unknown) for scenery.
CLASS_OF_SEMANTIC = np.array(
    [CLASS_NAMES.index(name) if name in CLASS_NAMES else 0 for name in SEMANTIC_NAMES], np.int64
)
# Classes of ground that a vehicle can drive on.
DRIVABLE_CLASS_NAMES = ("road", "marking", "sidewalk", "kerb", "terrain")


class Texture(IntEnum):
    """Procedural colour patterns, see sensors.shading.albedo."""

    PLAIN = 0
    PAINT = 1  # the object's paint_colour
    CLOTH = 2  # the object's clothing_colour
    ASPHALT = 3
    SLABS = 4
    GRASS = 5
    BRICK = 6
    FACADE = 7
    LEAVES = 8
    CONCRETE = 9
    BARK = 10
    SHEET = 11  # corrugated metal


class MaterialProperty(IntEnum):
    """Columns of MATERIAL_TABLE, all float32."""

    RED = 0
    GREEN = 1
    BLUE = 2
    TEXTURE = 3
    REFLECTIVITY = 4  # diffuse reflectivity at 905 nm (LiDAR), 0 to 1
    TRANSMISSION = 5  # fraction of LiDAR power that is transmitted or specularly reflected
    RETROREFLECTION = 6  # retro-reflective gain
    EMISSIVITY = 7  # in the thermal band of 8 to 14 um, 0 to 1
    TEMPERATURE_OFFSET = 8  # temperature above the air in the shade, kelvin
    SOLAR_HEATING = 9  # additional temperature with the sun at normal incidence, kelvin
    ENGINE_HEATING = 10  # additional temperature on an object with a running engine, kelvin
    ULTRASONIC_REFLECTION = 11  # reflected fraction of ultrasound, 0 to 1
    SPECULAR = 12  # specular reflectance of visible light at normal incidence, 0 to 1
    EMISSION = 13  # emitted light of lamps at night


class Material(IntEnum):
    """Rows of MATERIAL_TABLE."""

    ASPHALT = 0
    MARKING = 1
    SLABS = 2
    KERB = 3
    GRASS = 4
    BRICK = 5
    FACADE = 6
    CONCRETE = 7
    ROOF = 8
    BARK = 9
    LEAVES = 10
    STEEL = 11
    PAINT = 12
    GLASS = 13
    TYRE = 14
    RIM = 15
    TRIM = 16
    HEADLAMP = 17
    TAIL_LAMP = 18
    PLATE = 19
    BONNET = 20
    SKIN = 21
    HAIR = 22
    CLOTH = 23
    TROUSERS = 24
    SHOE = 25
    CONE = 26
    REFLECTOR = 27
    WOOD = 28
    CARDBOARD = 29
    SHEET = 30
    STREET_LAMP = 31
    SIGN = 32
    FLOOR = 33
    DARK_PAINT = 34


# Sources of the values:
# Reflectivity: calibration targets of Velodyne's HDL-64E manual, ASPRS/ECOSTRESS spectra at 0.9 um.
# Emissivity: ECOSTRESS (Meerdink et al. 2019) and Rees, Physical Principles of Remote Sensing, table 2.
# Temperature: on clear days asphalt is about 20 K above the air (Asaeda et al. 1996); skin is at about
# 33 deg C and clothes are between skin and air (Havenith 2002); when driving, tyres are 15 to 25 K and
# bonnets 20 to 30 K above the air.
# Ultrasound: solids reflect nearly all of it; cloth, leaves and grass absorb or scatter it (Kuc 1990).
#    red  green blue  texture       refl transm retro emis  off  solar run  echo spec emission
_ROWS = {
    "ASPHALT": (0.20, 0.20, 0.21, Texture.ASPHALT, 0.17, 0, 0, 0.95, 1, 18, 0, 0.8, 0.0, 0),
    "MARKING": (0.74, 0.74, 0.70, Texture.ASPHALT, 0.45, 0, 3, 0.94, 1, 13, 0, 0.8, 0.0, 0),
    "SLABS": (0.46, 0.44, 0.41, Texture.SLABS, 0.28, 0, 0, 0.94, 1, 13, 0, 0.8, 0.0, 0),
    "KERB": (0.56, 0.55, 0.52, Texture.CONCRETE, 0.32, 0, 0, 0.93, 1, 12, 0, 0.9, 0.0, 0),
    "GRASS": (0.21, 0.31, 0.10, Texture.GRASS, 0.45, 0, 0, 0.98, -2, 6, 0, 0.3, 0.0, 0),
    "BRICK": (0.48, 0.27, 0.20, Texture.BRICK, 0.32, 0, 0, 0.93, 2, 13, 0, 1, 0.0, 0),
    "FACADE": (0.62, 0.58, 0.50, Texture.FACADE, 0.38, 0, 0, 0.92, 2, 11, 0, 1, 0.0, 0),
    "CONCRETE": (0.52, 0.51, 0.49, Texture.CONCRETE, 0.33, 0, 0, 0.93, 1, 11, 0, 1, 0.0, 0),
    "ROOF": (0.36, 0.20, 0.16, Texture.PLAIN, 0.25, 0, 0, 0.93, 1, 20, 0, 1, 0.0, 0),
    "BARK": (0.24, 0.18, 0.13, Texture.BARK, 0.30, 0, 0, 0.95, 0, 5, 0, 0.7, 0.0, 0),
    "LEAVES": (0.15, 0.27, 0.07, Texture.LEAVES, 0.45, 0.10, 0, 0.98, -1, 2, 0, 0.3, 0.0, 0),
    "STEEL": (0.42, 0.43, 0.44, Texture.PLAIN, 0.30, 0.05, 0, 0.80, 1, 9, 0, 1, 0.06, 0),
    "PAINT": (0.50, 0.50, 0.50, Texture.PAINT, 0.30, 0.08, 0, 0.90, 1, 14, 2, 1, 0.05, 0),
    "GLASS": (0.05, 0.06, 0.07, Texture.PLAIN, 0.08, 0.80, 0, 0.86, 0, 3, 3, 1, 0.10, 0),
    "TYRE": (0.035, 0.035, 0.04, Texture.PLAIN, 0.07, 0.05, 0, 0.95, 0, 8, 20, 0.8, 0.0, 0),
    "RIM": (0.50, 0.51, 0.53, Texture.PLAIN, 0.35, 0.15, 0, 0.60, 0, 6, 26, 1, 0.10, 0),
    "TRIM": (0.045, 0.045, 0.05, Texture.PLAIN, 0.09, 0.05, 0, 0.93, 1, 10, 6, 1, 0.02, 0),
    "HEADLAMP": (0.80, 0.82, 0.86, Texture.PLAIN, 0.30, 0.30, 4, 0.88, 1, 5, 12, 1, 0.12, 6),
    "TAIL_LAMP": (0.55, 0.05, 0.05, Texture.PLAIN, 0.25, 0.10, 12, 0.90, 1, 5, 5, 1, 0.08, 1.5),
    "PLATE": (0.85, 0.85, 0.78, Texture.PLAIN, 0.60, 0, 20, 0.90, 0, 6, 1, 1, 0.02, 0),
    "BONNET": (0.50, 0.50, 0.50, Texture.PAINT, 0.30, 0.08, 0, 0.90, 1, 14, 17, 1, 0.05, 0),
    "SKIN": (0.72, 0.50, 0.40, Texture.PLAIN, 0.50, 0, 0, 0.98, 17, 1, 0, 0.4, 0.0, 0),
    "HAIR": (0.14, 0.10, 0.08, Texture.PLAIN, 0.25, 0, 0, 0.96, 10, 2, 0, 0.3, 0.0, 0),
    "CLOTH": (0.50, 0.50, 0.50, Texture.CLOTH, 0.40, 0, 0, 0.95, 9, 4, 0, 0.4, 0.0, 0),
    "TROUSERS": (0.13, 0.16, 0.25, Texture.PLAIN, 0.30, 0, 0, 0.95, 8, 4, 0, 0.4, 0.0, 0),
    "SHOE": (0.10, 0.09, 0.08, Texture.PLAIN, 0.20, 0, 0, 0.95, 3, 4, 0, 0.5, 0.0, 0),
    "CONE": (0.90, 0.30, 0.06, Texture.PLAIN, 0.55, 0, 0, 0.93, 0, 7, 0, 0.8, 0.0, 0),
    "REFLECTOR": (0.90, 0.90, 0.88, Texture.PLAIN, 0.70, 0, 25, 0.92, 0, 5, 0, 0.8, 0.0, 0),
    "WOOD": (0.52, 0.37, 0.22, Texture.BARK, 0.45, 0, 0, 0.92, 0, 6, 0, 0.9, 0.0, 0),
    "CARDBOARD": (0.60, 0.45, 0.28, Texture.PLAIN, 0.50, 0, 0, 0.91, 0, 5, 0, 0.9, 0.0, 0),
    "SHEET": (0.60, 0.62, 0.64, Texture.SHEET, 0.35, 0.05, 0, 0.85, 1, 9, 0, 1, 0.03, 0),
    "STREET_LAMP": (0.90, 0.88, 0.80, Texture.PLAIN, 0.30, 0, 0, 0.90, 2, 4, 0, 1, 0.0, 8),
    "SIGN": (0.10, 0.25, 0.65, Texture.PLAIN, 0.50, 0, 25, 0.92, 0, 6, 0, 1, 0.0, 0),
    "FLOOR": (0.44, 0.45, 0.46, Texture.CONCRETE, 0.30, 0, 0, 0.94, 0, 0, 0, 0.9, 0.04, 0),
    "DARK_PAINT": (0.06, 0.09, 0.30, Texture.PLAIN, 0.12, 0.05, 0, 0.92, 0, 10, 0, 1, 0.03, 0),
}

# (materials, columns) float32.
MATERIAL_TABLE = np.array([[float(v) for v in _ROWS[m.name]] for m in Material], np.float32)
MATERIAL_TABLE.setflags(write=False)
