"""Encodings of sensor_msgs/Image and their conversion to RGB."""

from __future__ import annotations

import cv2

BAYER_PATTERNS = ("rggb", "bggr", "gbrg", "grbg")
# (dtype, channels) by encoding name of sensor_msgs/image_encodings.
ENCODINGS: dict[str, tuple[str, int]] = {
    "mono8": ("u1", 1),
    "8UC1": ("u1", 1),
    "mono16": ("u2", 1),
    "16UC1": ("u2", 1),
    "16SC1": ("i2", 1),
    "32FC1": ("f4", 1),
    "64FC1": ("f8", 1),
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "8UC3": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "8UC4": ("u1", 4),
    "rgb16": ("u2", 3),
    "bgr16": ("u2", 3),
    "16UC3": ("u2", 3),
    "rgba16": ("u2", 4),
    "bgra16": ("u2", 4),
    "16UC4": ("u2", 4),
    **{f"bayer_{pattern}8": ("u1", 1) for pattern in BAYER_PATTERNS},
    **{f"bayer_{pattern}16": ("u2", 1) for pattern in BAYER_PATTERNS},
    "yuv422": ("u1", 2),
    "uyvy": ("u1", 2),
    "yuv422_yuy2": ("u1", 2),
    "yuyv": ("u1", 2),
}
# OpenCV conversion codes. OpenCV names a Bayer pattern after its second row, ROS after its first.
_BAYER_CODES = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
TO_RGB = {
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "8UC4": cv2.COLOR_BGRA2RGB,
    "rgba16": cv2.COLOR_RGBA2RGB,
    "bgra16": cv2.COLOR_BGRA2RGB,
    "16UC4": cv2.COLOR_BGRA2RGB,
    **{f"bayer_{pattern}8": code for pattern, code in _BAYER_CODES.items()},
    **{f"bayer_{pattern}16": code for pattern, code in _BAYER_CODES.items()},
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}
# Conversion codes of encodings with a luminance plane followed by chrominance planes of half the size.
PLANAR_TO_RGB = {
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
}
