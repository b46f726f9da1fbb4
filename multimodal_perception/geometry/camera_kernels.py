"""Projection of single points by compiled kernels; the same camera models as CameraModel.

Kernels that project every cell or point of a frame into every image call `project_point`, which avoids
arrays of intermediate results.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.cameras import MIN_DEPTH, CameraModel
from multimodal_perception.kernels import njit

# Layout of the parameters of a camera: model, width, height, fx, skew, cx, fy, cy, limit, 12 distortion
# coefficients (k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4; equidistant: k1 k2 k3 k4), 3 x 3 tilt, cosine of the
# largest angle to the optical axis in the image (equidistant).
PARAMETERS = 31
PINHOLE, DISTORTED, EQUIDISTANT = 0.0, 1.0, 2.0
COEFFICIENTS, TILT, COSINE = 9, 21, 30


def camera_parameters(model: CameraModel) -> NDArray[np.float64]:
    """Parameters (PARAMETERS,) of a camera model for `project_point`."""
    result = np.zeros(PARAMETERS)
    coefficients = model.coefficients
    kind = EQUIDISTANT if model.model == "equidistant" else DISTORTED
    if kind == DISTORTED and (model.model == "pinhole" or not coefficients.any()):
        kind = PINHOLE
    m = model.matrix
    result[:8] = kind, model.width, model.height, m[0, 0], m[0, 1], m[0, 2], m[1, 1], m[1, 2]
    # Beyond the limit the projection is not one-to-one: squared radius, or angle to the optical axis.
    result[8] = model.max_theta() if kind == EQUIDISTANT else model.max_radius() ** 2
    result[COEFFICIENTS : COEFFICIENTS + min(coefficients.size, 12)] = coefficients[:12]
    if kind == EQUIDISTANT:
        result[COSINE] = np.cos(_largest_angle(model))
    result[TILT : TILT + 9] = (
        _tilt(*coefficients[12:14]).ravel() if coefficients.size > 12 else np.eye(3).ravel()
    )
    return result


def _largest_angle(model: CameraModel) -> float:
    """Angle to the optical axis beyond which a fisheye image shows nothing, radians."""
    right, bottom = model.width - 0.5, model.height - 0.5
    corners = model.unproject([(-0.5, -0.5), (right, -0.5), (-0.5, bottom), (right, bottom)])
    angles = np.arccos(np.clip(corners[:, 2], -1.0, 1.0))
    largest = float(angles.max())  # NaN if a corner has no ray
    margin = 1e-6
    return min(largest, model.max_theta()) + margin if np.isfinite(largest) else np.pi


def _tilt(tau_x: float, tau_y: float) -> NDArray[np.float64]:
    """Matrix (3, 3) of a tilted sensor (OpenCV's tilted camera model)."""
    cx, sx, cy, sy = np.cos(tau_x), np.sin(tau_x), np.cos(tau_y), np.sin(tau_y)
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    rotation = about_y @ about_x
    onto_plane = np.array(
        [[rotation[2, 2], 0, -rotation[0, 2]], [0, rotation[2, 2], -rotation[1, 2]], [0, 0, 1]]
    )
    return np.asarray(onto_plane @ rotation)


@njit(nogil=True)
def project_point(p, x, y, z):  # type: ignore[no-untyped-def]
    """Pixel coordinates u, v of a point in the optical frame, and whether the image shows it.

    p: (PARAMETERS,), see camera_parameters. x, y, z: metres.
    """
    kind = p[0]
    if kind == EQUIDISTANT:
        radius = np.sqrt(x * x + y * y)
        # Most points are outside of the image; this is faster than computing their angles.
        if not z >= p[COSINE] * np.sqrt(radius * radius + z * z):
            return 0.0, 0.0, False
        theta = np.arctan2(radius, z)
        if not theta <= p[8] or (radius == 0.0 and z <= 0.0):
            return 0.0, 0.0, False
        t2 = theta * theta
        k = COEFFICIENTS
        distorted = theta * (1.0 + t2 * (p[k] + t2 * (p[k + 1] + t2 * (p[k + 2] + t2 * p[k + 3]))))
        scale = distorted / radius if radius > 0.0 else 1.0
        a, b = x * scale, y * scale
    else:
        if not z > MIN_DEPTH:
            return 0.0, 0.0, False
        a, b = x / z, y / z
        if kind == DISTORTED:
            r2 = a * a + b * b
            if not r2 <= p[8]:
                return 0.0, 0.0, False
            a, b = _distort(p, a, b, r2)
    u = p[3] * a + p[4] * b + p[5]
    v = p[6] * b + p[7]
    inside = -0.5 <= u < p[1] - 0.5 and -0.5 <= v < p[2] - 0.5
    return u, v, inside


@njit(nogil=True)
def _distort(p, a, b, r2):  # type: ignore[no-untyped-def]
    """Distorted normalised coordinates (OpenCV: rational polynomial, thin prism, tilt)."""
    k = COEFFICIENTS
    top = 1.0 + r2 * (p[k] + r2 * (p[k + 1] + r2 * p[k + 4]))
    bottom = 1.0 + r2 * (p[k + 5] + r2 * (p[k + 6] + r2 * p[k + 7]))
    radial, ab = top / bottom, 2.0 * a * b
    x = a * radial + p[k + 2] * ab + p[k + 3] * (r2 + 2.0 * a * a) + r2 * (p[k + 8] + r2 * p[k + 9])
    y = (
        b * radial
        + p[k + 2] * (r2 + 2.0 * b * b)
        + p[k + 3] * ab
        + r2 * (p[k + 10] + r2 * p[k + 11])
    )
    t = TILT
    w = p[t + 6] * x + p[t + 7] * y + p[t + 8]
    return (p[t] * x + p[t + 1] * y + p[t + 2]) / w, (p[t + 3] * x + p[t + 4] * y + p[t + 5]) / w
