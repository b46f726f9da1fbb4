"""Fit of 3D boxes on the ground to 2D boxes in one image: maximum a posteriori, with covariance.

The unknowns of one object are the distance and bearing of its centre, its heading and size, and two
errors of the view: the pitch of the camera and the height of the ground below the object. The
measurements are the four edges of the 2D box, which must equal those around the projected corners of the
3D box (Mousavian et al. 2017, section 3.2), and priors of size, pitch and ground height. Edges at the
image border limit the object from one side only. The minimum is found by Levenberg-Marquardt from
several headings and distances; the covariance of each minimum is the inverse of its Gauss-Newton matrix,
and the minima are combined by their probabilities.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.geometry.camera_kernels import (
    DISTORTED,
    EQUIDISTANT,
    camera_parameters,
    project_point,
)
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.kernels import njit

# Unknowns: log of the distance, bearing, yaw, log of length, width and height, pitch, ground height.
UNKNOWNS = 8
LOG_DISTANCE, BEARING, YAW, LOG_LENGTH, LOG_WIDTH, LOG_HEIGHT, PITCH, GROUND = range(UNKNOWNS)
# Residuals: left, top, right, bottom edge; the priors of the distance, of the three sizes, of the pitch,
# of the ground height, and two of the heading.
RESIDUALS = 4 + 8
# The prior of the distance is wide: about 1 to 100 m.
MEAN_LOG_DISTANCE, LOG_DISTANCE_STD = np.log(15.0), 1.5
# Most vehicles are parallel to the ego vehicle or perpendicular to it, and more are parallel: standard
# deviations of the sines of the heading and of twice the heading.
PARALLEL_STD, RIGHT_ANGLE_STD = 1.0, 0.6
# Limits the covariance of the heading where nothing else determines it, radians.
YAW_STD = 1.2
# Headings of the starts, and the number of starts from which the minimum is searched.
START_YAWS, STARTS = 6, 5
ITERATIONS = 14
STEPS = np.array([1e-4, 1e-5, 1e-4, 1e-4, 1e-4, 1e-4, 1e-6, 1e-4])
# The edges (left, top, right, bottom) of a 2D box may be inside of the object's true outline by more
# than outside of it: factors on their standard deviations.
HIDDEN_STD_FACTORS = np.array([4.0, 2.0, 4.0, 2.0])
# A point beside or behind the camera is moved to this depth, as a fraction of its distance.
MIN_DEPTH_FRACTION = 0.03
# Columns of a fit: x, y, yaw, length, width, height, variances of x, y, covariance of x and y, variance
# of the height of the centre, of yaw, cost, index of the prior.
FIT_COLUMNS = 13


def fit_boxes(
    boxes: NDArray[np.floating],
    edge_stds: NDArray[np.floating],
    priors: list[NDArray[np.float64]],
    model: CameraModel,
    base_from_camera: NDArray[np.float64],
    ground_z: float,
    pitch_std: float,
    ground_std: float,
    max_range: float,
) -> NDArray[np.float64]:
    """Fits (N, FIT_COLUMNS) of 3D boxes to 2D boxes; NaN where no fit was found.

    boxes: (N, 4), x1 y1 x2 y2, pixels from the image's upper left corner; an edge at the image border
    means that the object may extend beyond it. edge_stds: (N, 4), pixels. priors: for each box the rows
    (K, 8) of its possible sizes (see SizePrior.row). pitch_std: radians. ground_std: metres. The cost
    of a fit is the sum of its squared residuals. Metres, radians, in the frame of base_from_camera.
    """
    result = np.full((len(boxes), FIT_COLUMNS), np.nan)
    parameters = camera_parameters(model)
    pose = np.ascontiguousarray(base_from_camera, np.float64)
    for i in range(len(boxes)):
        _fit_box(
            np.asarray(boxes[i], np.float64),
            np.asarray(edge_stds[i], np.float64),
            priors[i],
            parameters,
            pose,
            float(ground_z),
            np.array([max(pitch_std, 1e-4), max(ground_std, 1e-3), max_range]),
            result[i],
        )
    return result


@njit(nogil=True)
def _fit_box(box, stds, priors, camera, pose, ground_z, limits, result):  # type: ignore[no-untyped-def]
    """Write the fit of one box into result (FIT_COLUMNS,); unchanged if there is none."""
    modes = np.full((len(priors) * STARTS, UNKNOWNS), np.nan)
    costs = np.full(len(modes), np.inf)
    found = np.zeros((len(modes), 5))  # variances of x, y, their covariance, of z and of yaw
    for k in range(len(priors)):
        starts, start_costs = _starts(box, stds, priors[k], camera, pose, ground_z, limits)
        for s in range(STARTS):
            if not np.isfinite(start_costs[s]):
                continue
            state = starts[s]
            cost, information = _minimise(
                state, box, stds, priors[k], camera, pose, ground_z, limits
            )
            if not np.isfinite(cost) or np.exp(state[LOG_DISTANCE]) > limits[2]:
                continue
            index = k * STARTS + s
            if _moments(state, information, found[index]):
                modes[index] = state
                sizes = 2.0 * np.log(priors[k, 3] * priors[k, 4] * priors[k, 5])
                costs[index] = cost + 2.0 * priors[k, 6] + sizes
    best = np.argmin(costs)
    if not np.isfinite(costs[best]):
        return
    _combine(modes, costs, found, best, priors, pose, result)
    result[11] = 0.0
    prior = priors[best // STARTS]
    residuals = _residuals(modes[best], box, stds, prior, camera, pose, ground_z, limits)
    for r in range(RESIDUALS):
        result[11] += residuals[r] ** 2
    result[12] = best // STARTS


@njit(nogil=True)
def _combine(modes, costs, found, best, priors, pose, result):  # type: ignore[no-untyped-def]
    """Write the best mode, with the moments of all of them around it, into result."""
    d, bearing = np.exp(modes[best, LOG_DISTANCE]), modes[best, BEARING]
    x, y = d * np.cos(bearing), d * np.sin(bearing)
    result[0], result[1] = pose[0, 3] + x, pose[1, 3] + y
    result[2] = modes[best, YAW]
    result[3:6] = np.exp(modes[best, LOG_LENGTH : LOG_HEIGHT + 1])
    result[6:11] = 0.0
    total = 0.0
    for m in range(len(modes)):
        if not np.isfinite(costs[m]):
            continue
        weight = np.exp(-0.5 * (costs[m] - costs[best]))
        total += weight
        other = np.exp(modes[m, LOG_DISTANCE])
        dx, dy = other * np.cos(modes[m, BEARING]) - x, other * np.sin(modes[m, BEARING]) - y
        turn = (modes[m, YAW] - modes[best, YAW] + np.pi / 2) % np.pi - np.pi / 2
        rise = (
            0.5 * (np.exp(modes[m, LOG_HEIGHT]) - result[5])
            + modes[m, GROUND]
            - modes[best, GROUND]
        )
        result[6] += weight * (found[m, 0] + dx * dx)
        result[7] += weight * (found[m, 1] + dy * dy)
        result[8] += weight * (found[m, 2] + dx * dy)
        result[9] += weight * (found[m, 3] + rise * rise)
        result[10] += weight * (found[m, 4] + turn * turn)
    result[6:11] /= total


@njit(nogil=True)
def _moments(state, information, moments):  # type: ignore[no-untyped-def]
    """Write the variances of x and y, their covariance, and those of z and yaw; False if singular."""
    covariance = np.linalg.inv(information)
    for i in range(UNKNOWNS):
        if not covariance[i, i] > 0.0:
            return False
    d, c, s = np.exp(state[LOG_DISTANCE]), np.cos(state[BEARING]), np.sin(state[BEARING])
    rr, rb, bb = covariance[0, 0], covariance[0, 1], covariance[1, 1]
    moments[0] = d * d * (c * c * rr - 2 * c * s * rb + s * s * bb)
    moments[1] = d * d * (s * s * rr + 2 * c * s * rb + c * c * bb)
    moments[2] = d * d * (c * s * rr + (c * c - s * s) * rb - c * s * bb)
    height = np.exp(state[LOG_HEIGHT])
    moments[3] = (
        0.25 * height * height * covariance[LOG_HEIGHT, LOG_HEIGHT] + covariance[GROUND, GROUND]
    )
    moments[4] = covariance[YAW, YAW]
    return True


@njit(nogil=True)
def _starts(box, stds, prior, camera, pose, ground_z, limits):  # type: ignore[no-untyped-def]
    """States (STARTS, UNKNOWNS) of least cost among headings and distances, and their costs."""
    distances = np.array([3.0, 5.0, 8.0, 12.0, 18.0, 26.0, 38.0, 55.0, 80.0])
    distances = distances[distances <= max(1.2 * limits[2], distances[0])]
    yaws = 1 if prior[7] > 0 else START_YAWS
    starts = np.zeros((STARTS, UNKNOWNS))
    costs = np.full(STARTS, np.inf)
    states = np.zeros((len(distances), UNKNOWNS))
    tried = np.empty(len(distances))
    for a in range(yaws):
        for k in range(len(distances)):
            states[k, LOG_DISTANCE] = np.log(distances[k])
            states[k, BEARING] = _centre_bearing(box, distances[k], camera, pose, ground_z, prior)
            states[k, YAW] = np.pi * a / yaws
            states[k, LOG_LENGTH : LOG_HEIGHT + 1] = prior[:3]
            residuals = _residuals(states[k], box, stds, prior, camera, pose, ground_z, limits)
            tried[k] = (residuals**2).sum()
        # Two distances of each heading: size and contact with the ground can contradict each other.
        for k in np.argsort(tried)[:2]:
            worst = np.argmax(costs)
            if tried[k] < costs[worst]:
                costs[worst] = tried[k]
                starts[worst] = states[k]
    return starts, costs


@njit(nogil=True)
def _centre_bearing(box, distance, camera, pose, ground_z, prior):  # type: ignore[no-untyped-def]
    """Bearing at which a point at half the object's height has the column of the box's centre.

    Found by bisection of the angle to the optical axis, which the image shows monotonically.
    """
    forward = np.arctan2(pose[1, 2], pose[0, 2])
    target = 0.5 * (box[0] + box[2]) - 0.5
    z = ground_z + 0.5 * np.exp(prior[2])
    low, high = forward - 1.7, forward + 1.7
    for _ in range(18):
        middle = 0.5 * (low + high)
        x, y = pose[0, 3] + distance * np.cos(middle), pose[1, 3] + distance * np.sin(middle)
        u, _ = _pixel(x, y, z, 0.0, camera, pose)
        if u > target:  # right of the target: turn left, to larger bearings
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


@njit(nogil=True)
def _minimise(state, box, stds, prior, camera, pose, ground_z, limits):  # type: ignore[no-untyped-def]
    """Minimise the cost from a state, in place. Returns the cost and the Gauss-Newton matrix."""
    residuals = _residuals(state, box, stds, prior, camera, pose, ground_z, limits)
    cost = (residuals**2).sum()
    damping = 1e-2
    jacobian = np.zeros((RESIDUALS, UNKNOWNS))
    information = np.eye(UNKNOWNS)
    for _ in range(ITERATIONS):
        for k in range(UNKNOWNS):
            moved = state.copy()
            moved[k] += STEPS[k]
            plus = _residuals(moved, box, stds, prior, camera, pose, ground_z, limits)
            jacobian[:, k] = (plus - residuals) / STEPS[k]
        information = jacobian.T @ jacobian + 1e-9 * np.eye(UNKNOWNS)
        information[YAW, YAW] += 1.0 / YAW_STD**2
        gradient = jacobian.T @ residuals
        improved = False
        for _ in range(5):
            damped = information + damping * np.diag(np.diag(information))
            step = np.linalg.solve(damped, gradient)
            # The distance changes by a third at most, so that the edges stay nearly linear.
            step /= max(1.0, abs(step[LOG_DISTANCE]) / 0.3, abs(step[YAW]) / 0.4)
            moved = state - step
            tried = _residuals(moved, box, stds, prior, camera, pose, ground_z, limits)
            new_cost = (tried**2).sum()
            if new_cost < cost:
                improved = True
                damping = max(damping * 0.3, 1e-6)
                break
            damping *= 6.0
        if not improved:
            break
        gain = cost - new_cost
        state[:] = moved
        residuals, cost = tried, new_cost
        if gain < 1e-4:
            break
    return cost, information


@njit(nogil=True)
def _residuals(state, box, stds, prior, camera, pose, ground_z, limits):  # type: ignore[no-untyped-def]
    """Residuals (RESIDUALS,) in standard deviations."""
    result = np.empty(RESIDUALS)
    valid, edges = _edges(state, camera, pose, ground_z)
    for i in range(4):
        result[i] = (edges[i] - box[i]) / stds[i]
        # Parts of an object that another one hides are outside of its 2D box, never inside.
        if (result[i] < 0.0) == (i < 2):
            result[i] *= 1.0 / HIDDEN_STD_FACTORS[i]
    if not valid:
        result[:4] = 1e3
    result[4] = (state[LOG_DISTANCE] - MEAN_LOG_DISTANCE) / LOG_DISTANCE_STD
    for i in range(3):
        result[5 + i] = (state[LOG_LENGTH + i] - prior[i]) / prior[3 + i]
    result[8] = state[PITCH] / limits[0]
    result[9] = state[GROUND] / limits[1]
    result[10] = np.sin(state[YAW]) / PARALLEL_STD
    result[11] = np.sin(2.0 * state[YAW]) / RIGHT_ANGLE_STD
    return result


@njit(nogil=True)
def _edges(state, camera, pose, ground_z):  # type: ignore[no-untyped-def]
    """Whether the box is in view, and the edges (4,) around its corners, clipped to the image."""
    d, c, s = np.exp(state[LOG_DISTANCE]), np.cos(state[YAW]), np.sin(state[YAW])
    x, y = pose[0, 3] + d * np.cos(state[BEARING]), pose[1, 3] + d * np.sin(state[BEARING])
    half_length, half_width = 0.5 * np.exp(state[LOG_LENGTH]), 0.5 * np.exp(state[LOG_WIDTH])
    bottom = ground_z + state[GROUND]
    top = bottom + np.exp(state[LOG_HEIGHT])
    edges = np.array([np.inf, np.inf, -np.inf, -np.inf])
    for i in range(8):
        u = half_length if i & 1 else -half_length
        v = half_width if i & 2 else -half_width
        z = top if i & 4 else bottom
        column, row = _pixel(x + c * u - s * v, y + s * u + c * v, z, state[PITCH], camera, pose)
        edges[0], edges[2] = min(edges[0], column), max(edges[2], column)
        edges[1], edges[3] = min(edges[1], row), max(edges[3], row)
    width, height = camera[1], camera[2]
    edges += 0.5  # from pixel centres to the image's upper left corner
    in_view = edges[2] > 0 and edges[0] < width and edges[3] > 0 and edges[1] < height
    for i in range(4):
        edges[i] = min(max(edges[i], 0.0), width if i % 2 == 0 else height)
    return in_view, edges


@njit(nogil=True)
def _pixel(x, y, z, pitch, camera, pose):  # type: ignore[no-untyped-def]
    """Column and row of a point, also outside of the image; points behind the camera are far outside."""
    dx, dy, dz = x - pose[0, 3], y - pose[1, 3], z - pose[2, 3]
    a = pose[0, 0] * dx + pose[1, 0] * dy + pose[2, 0] * dz
    b = pose[0, 1] * dx + pose[1, 1] * dy + pose[2, 1] * dz
    e = pose[0, 2] * dx + pose[1, 2] * dy + pose[2, 2] * dz
    b, e = b - pitch * e, e + pitch * b
    if camera[0] == EQUIDISTANT:
        radius = np.sqrt(a * a + b * b)
        if np.arctan2(radius, e) > camera[8] and radius > 0:
            scale = np.sin(camera[8] * 0.9999) / radius
            a, b, e = a * scale, b * scale, np.cos(camera[8] * 0.9999)
    else:
        e = max(e, MIN_DEPTH_FRACTION * np.sqrt(a * a + b * b + e * e))
        squared = (a * a + b * b) / (e * e)
        if camera[0] == DISTORTED and squared > camera[8]:
            scale = 0.9999 * np.sqrt(camera[8] / squared)
            a, b = a * scale, b * scale
    u, v, _ = project_point(camera, a, b, e)
    return u, v
