"""Camera models with the distortion models of ROS.

pinhole (no distortion), plumb_bob, rational_polynomial and equidistant (fisheye). The optical frame is
x right, y down, z forward (REP 103). Pixel coordinate (0, 0) is the centre of the top left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Distortion = Literal["pinhole", "plumb_bob", "rational_polynomial", "equidistant"]
# Allowed numbers of distortion coefficients of each model.
DISTORTION_COUNTS: dict[str, tuple[int, ...]] = {
    "pinhole": (0,),
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
# Points closer than this to the camera's image plane are not projected, metres.
MIN_DEPTH = 1e-3


@dataclass(frozen=True)
class CameraModel:
    """Intrinsics of one camera.

    width, height: image size in pixels. matrix: (3, 3) float64 camera matrix, pixels. coefficients:
    (n,) float64 distortion coefficients in the order of OpenCV (k1 k2 p1 p2 k3 ..., or k1 k2 k3 k4 for
    equidistant).

    Raises ValueError if the size, the matrix or the coefficients are invalid.
    """

    width: int
    height: int
    matrix: NDArray[np.float64]
    model: Distortion = "pinhole"
    coefficients: NDArray[np.float64] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, np.float64)
        coefficients = np.array([] if self.coefficients is None else self.coefficients, np.float64)
        if self.model not in DISTORTION_COUNTS:
            allowed = ", ".join(DISTORTION_COUNTS)
            raise ValueError(f"distortion model {self.model!r}; allowed: {allowed}")
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"image size {self.width}x{self.height} is not positive")
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise ValueError("camera matrix must be 3x3 and finite")
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise ValueError("focal lengths must be positive (is the camera calibrated?)")
        if matrix[1, 0] != 0 or tuple(matrix[2]) != (0, 0, 1):
            raise ValueError("camera matrix must be [fx s cx; 0 fy cy; 0 0 1]")
        if coefficients.size not in DISTORTION_COUNTS[self.model]:
            allowed = " or ".join(map(str, DISTORTION_COUNTS[self.model]))
            raise ValueError(f"{self.model} takes {allowed} coefficients, got {coefficients.size}")
        if not np.isfinite(coefficients).all():
            raise ValueError("distortion coefficients must be finite")
        matrix.setflags(write=False)
        coefficients.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "coefficients", coefficients)

    @classmethod
    def pinhole(cls, width: int, height: int, focal: float) -> CameraModel:
        """Return a camera without distortion, its principal point in the image centre.

        focal: focal length in pixels.
        """
        matrix = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
        return cls(width, height, matrix)

    def project(self, points: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Project points (N, 3), in the optical frame and in metres, into the image.

        Returns pixel coordinates (N, 2) and a mask (N,). The mask is true where the point is in front
        of the camera, inside the image, and in the range where the distortion model is one-to-one.
        Elsewhere the pixel coordinates are NaN or outside the image.
        """
        p = np.asarray(points, np.float64).reshape(-1, 3)
        distort = (
            self._distort_equidistant if self.model == "equidistant" else self._distort_perspective
        )
        normalised, usable = distort(p)
        # Computed per column: numpy reductions over rows of two elements are slow.
        x, y = normalised[:, 0], normalised[:, 1]
        u = self.matrix[0, 0] * x + self.matrix[0, 1] * y + self.matrix[0, 2]
        v = self.matrix[1, 1] * y + self.matrix[1, 2]
        with np.errstate(invalid="ignore"):
            inside = (u >= -0.5) & (u < self.width - 0.5) & (v >= -0.5) & (v < self.height - 0.5)
        pixels = np.stack([u, v], axis=1)
        pixels[~usable] = np.nan
        return pixels, usable & inside

    def unproject(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Return unit rays (N, 3) in the optical frame through pixels (N, 2); NaN where undefined."""
        uv = np.asarray(pixels, np.float64).reshape(-1, 2)
        if not len(uv):
            return np.zeros((0, 3))
        distorted = (uv - self.matrix[:2, 2]) @ np.linalg.inv(self.matrix[:2, :2]).T
        if self.model == "equidistant":
            return self._undistort_equidistant(distorted)
        if self.model == "pinhole":
            undistorted = distorted
        else:
            criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-12)
            # OpenCV 4 accepts criteria in undistortPointsIter only, OpenCV 5 in undistortPoints.
            undistort = getattr(cv2, "undistortPointsIter", cv2.undistortPoints)
            eye = np.eye(3)
            undistorted = undistort(
                distorted[:, None], eye, self.coefficients, R=eye, P=eye, criteria=criteria
            )[:, 0]
        rays = np.column_stack([undistorted, np.ones(len(undistorted))])
        if self.model != "pinhole":
            # OpenCV's iteration does not converge where the distortion polynomial is not monotonic, so
            # the result is distorted again and compared.
            again, usable = self._distort_perspective(rays)
            error = np.linalg.norm(again - distorted, axis=1)
            rays[~(usable & (error * self.matrix[0, 0] < 1e-5))] = np.nan
        return rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def scaled(self, factor_x: float, factor_y: float) -> CameraModel:
        """Return the model of the same camera for an image resized by the factors."""
        scale = np.diag([factor_x, factor_y, 1.0])
        scale[:2, 2] = (factor_x - 1) / 2, (factor_y - 1) / 2
        size = round(self.width * factor_x), round(self.height * factor_y)
        return CameraModel(*size, scale @ self.matrix, self.model, self.coefficients)

    def _distort_perspective(
        self, points: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        with np.errstate(invalid="ignore"):
            usable = points[:, 2] > MIN_DEPTH
        depth = np.where(usable, points[:, 2], 1.0)
        ideal = np.where(usable[:, None], points[:, :2], 0.0) / depth[:, None]
        if self.model == "pinhole" or not self.coefficients.any() or not len(ideal):
            return ideal, usable
        rays = np.column_stack([ideal, np.ones(len(ideal))])
        zero = np.zeros(3)
        distorted = cv2.projectPoints(rays, zero, zero, np.eye(3), self.coefficients)[0][:, 0]
        # Beyond the radius where the polynomial stops growing, points outside the field of view would
        # be projected into the image.
        usable &= np.linalg.norm(ideal, axis=1) <= self.max_radius()
        return distorted, usable

    def max_radius(self) -> float:
        """Undistorted radius (tangent of the angle) up to which the distorted radius grows."""
        radius = np.linspace(0.0, 10.0, 2001)
        k = np.zeros(8)
        given = self.coefficients[:8]
        k[: len(given)] = given
        r2 = radius**2
        top = 1 + r2 * (k[0] + r2 * (k[1] + r2 * k[4]))
        bottom = 1 + r2 * (k[5] + r2 * (k[6] + r2 * k[7]))
        with np.errstate(divide="ignore", invalid="ignore"):
            distorted = radius * top / bottom
        decreasing = np.flatnonzero(~(np.diff(distorted) > 0))
        return float(radius[decreasing[0]]) if len(decreasing) else float("inf")

    def _distort_equidistant(
        self, points: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        # Kannala and Brandt (2006), eq. 6, with cv2.fisheye's coefficients; valid beyond 90 degrees.
        radius = np.hypot(points[:, 0], points[:, 1])
        theta = np.arctan2(radius, points[:, 2])
        scale = np.divide(
            self._theta_distorted(theta), radius, out=np.ones_like(radius), where=radius > 0
        )
        with np.errstate(invalid="ignore"):
            # The image direction of a point on the optical axis behind the camera is undefined.
            usable = (theta <= self.max_theta()) & ((radius > 0) | (points[:, 2] > 0))
        return points[:, :2] * scale[:, None], usable

    def _undistort_equidistant(self, distorted: NDArray[np.float64]) -> NDArray[np.float64]:
        radius = np.linalg.norm(distorted, axis=1)
        max_theta = self.max_theta()
        low, high = np.zeros_like(radius), np.full_like(radius, max_theta)
        theta = np.clip(radius, 0.0, max_theta)
        for _ in range(60):  # Newton steps; bisection where a step leaves the bracket
            value = self._theta_distorted(theta) - radius
            low, high = np.where(value < 0, theta, low), np.where(value < 0, high, theta)
            slope = self._theta_slope(theta)
            step = theta - np.divide(value, slope, out=np.zeros_like(value), where=slope > 1e-9)
            inside = (step >= low) & (step <= high)
            theta = np.where(inside, step, (low + high) / 2)
            if np.max(np.abs(value), initial=0.0) < 1e-14:
                break
        theta[radius > self._theta_distorted(np.array([max_theta]))[0] + 1e-12] = np.nan
        direction = np.divide(
            distorted, radius[:, None], out=np.zeros_like(distorted), where=radius[:, None] > 0
        )
        return np.column_stack([direction * np.sin(theta)[:, None], np.cos(theta)])

    def _theta_distorted(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        t2, (k1, k2, k3, k4) = theta**2, self.coefficients
        return theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))

    def _theta_slope(self, theta: NDArray[np.float64]) -> NDArray[np.float64]:
        t2, (k1, k2, k3, k4) = theta**2, self.coefficients
        return 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))

    def max_theta(self) -> float:
        """Angle to the optical axis up to which the distorted angle grows, radians."""
        theta = np.linspace(0.0, np.pi, 1001)
        decreasing = np.flatnonzero(self._theta_slope(theta) <= 0)
        return float(theta[max(decreasing[0] - 1, 0)]) if len(decreasing) else float(np.pi)
