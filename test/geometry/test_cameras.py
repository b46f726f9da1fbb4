"""Camera models compared with OpenCV and closed forms; unprojection inverts projection."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multimodal_perception.geometry.cameras import CameraModel

MATRIX = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
COEFFICIENTS = {
    "pinhole": [],
    "plumb_bob": [-0.28, 0.09, 0.0007, -0.0004, -0.012],
    "rational_polynomial": [0.4, -0.2, 0.0003, -0.0002, 0.01, 0.65, -0.15, 0.02],
    "equidistant": [-0.02, 0.006, -0.004, 0.0006],
}
MODELS = list(COEFFICIENTS)


def make_camera(model="pinhole", coefficients=None, width=640, height=480):
    values = COEFFICIENTS[model] if coefficients is None else coefficients
    return CameraModel(width, height, MATRIX, model, np.array(values))


def points_before(seed=0, n=200, spread=0.5):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 60, (n, 1))
    return np.column_stack([rng.uniform(-spread, spread, (n, 2)) * depth, depth])


def test_pinhole_projection_in_closed_form():
    pixels, visible = make_camera().project([[0, 0, 2], [1, -0.5, 4], [0, 0, 1e5]])
    np.testing.assert_allclose(pixels, [[320, 240], [445, 176.25], [320, 240]])
    assert visible.all()


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("plumb_bob", [-0.28, 0.09, 0.0007, -0.0004]),
        ("plumb_bob", COEFFICIENTS["plumb_bob"]),
        ("rational_polynomial", COEFFICIENTS["rational_polynomial"]),
        ("rational_polynomial", [*COEFFICIENTS["rational_polynomial"], 1e-3, 2e-3, -1e-3, 1e-4]),
        (
            "rational_polynomial",
            [*COEFFICIENTS["rational_polynomial"], 1e-3, 2e-3, -1e-3, 1e-4, 0.01, -0.02],
        ),
    ],
)
def test_perspective_projection_matches_opencv(model, coefficients):
    camera, points = make_camera(model, coefficients), points_before()
    zero = np.zeros(3)
    expected = cv2.projectPoints(points, zero, zero, MATRIX, np.array(coefficients))[0][:, 0]
    pixels, visible = camera.project(points)
    assert visible.sum() > 100
    np.testing.assert_allclose(pixels[visible], expected[visible], atol=1e-9)


def test_fisheye_projection_matches_opencv():
    points = points_before(spread=2.0)
    zero, coefficients = np.zeros(3), np.array(COEFFICIENTS["equidistant"])
    expected = cv2.fisheye.projectPoints(points[:, None], zero, zero, MATRIX, coefficients)[0]
    pixels, visible = make_camera("equidistant").project(points)
    assert visible.sum() > 20
    np.testing.assert_allclose(pixels[visible], expected[:, 0][visible], atol=1e-6)


def test_fisheye_projects_points_beyond_90_degrees():
    # Ideal equidistant lens: the pixel's distance from the image centre is f times the angle.
    camera = CameraModel(
        4000,
        4000,
        np.array([[500.0, 0, 2000], [0, 500, 2000], [0, 0, 1]]),
        "equidistant",
        np.zeros(4),
    )
    angles = np.array([0.3, 1.0, math.pi / 2, 2.0, 3.0])
    points = np.column_stack([np.sin(angles), np.zeros(5), np.cos(angles)]) * 7
    pixels, visible = camera.project(points)
    assert visible.all()
    np.testing.assert_allclose(pixels[:, 0], 2000 + 500 * angles)
    np.testing.assert_allclose(camera.unproject(pixels), points / 7, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_unproject_inverts_project(model, seed):
    camera, points = make_camera(model), points_before(seed, 50)
    pixels, visible = camera.project(points)
    rays = camera.unproject(pixels[visible])
    directions = points[visible] / np.linalg.norm(points[visible], axis=1, keepdims=True)
    np.testing.assert_allclose(rays, directions, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_project_inverts_unproject(model):
    camera = make_camera(model)
    u, v = np.meshgrid(np.arange(0, 640, 13), np.arange(0, 480, 11))
    pixels = np.column_stack([u.ravel(), v.ravel()])
    rays = camera.unproject(pixels)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1)
    reprojected, visible = camera.project(rays * 5)
    assert visible.all()
    np.testing.assert_allclose(reprojected, pixels, atol=1e-4)


@settings(max_examples=100)
@given(
    st.sampled_from(["plumb_bob", "equidistant"]),
    st.lists(st.floats(-0.6, 0.6), min_size=2, max_size=2),
)
@example("plumb_bob", [-0.5625, 0.125])
def test_unproject_returns_rays_only_where_projection_is_invertible(model, radial):
    camera = make_camera(model, [*radial, 0.0, 0.0])
    u, v = np.meshgrid(np.arange(0, 640, 31), np.arange(0, 480, 29))
    pixels = np.column_stack([u.ravel(), v.ravel()])
    rays = camera.unproject(pixels)
    given_rays = np.isfinite(rays).all(axis=1)
    reprojected, visible = camera.project(rays[given_rays] * 3)
    assert visible.all()
    np.testing.assert_allclose(reprojected, pixels[given_rays], atol=1e-3)


@pytest.mark.parametrize("model", ["plumb_bob", "equidistant"])
def test_points_beyond_the_monotonic_range_of_the_distortion_are_outside(model):
    # r (1 - 0.3 r^2) grows up to 0.703 at r = 1.054 and decreases beyond. r is the angle for a fisheye
    # camera, otherwise its tangent.
    camera = make_camera(model, [-0.3, 0, 0, 0])
    r = np.array([0.2, 0.5, 1.1, 1.5, 1.8])
    angle = r if model == "equidistant" else np.arctan(r)
    points = np.column_stack([np.sin(angle), np.zeros(5), np.cos(angle)]) * 4
    _, visible = camera.project(points)
    np.testing.assert_array_equal(visible, [True, True, False, False, False])
    inner, outer = camera.unproject([[320 + 500 * 0.6, 240], [320 + 500 * 0.71, 240]])
    assert np.isfinite(inner).all() and np.isnan(outer).all()


@pytest.mark.parametrize("model", MODELS)
def test_points_behind_the_camera_are_outside(model):
    points = [[0, 0, -1], [0.1, 0.1, -5], [0, 0, 0], [0, 0, -1e-9]]
    assert not make_camera(model).project(points)[1].any()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_non_finite_points_are_outside(model):
    points = np.array([[np.nan, 0, 1], [0, np.nan, 1], [0, 0, np.nan], [np.inf, 0, 1]])
    visible = make_camera(model).project(np.vstack([points, [[0, 0, 1]]]))[1]
    np.testing.assert_array_equal(visible, [False] * 4 + [True])


@pytest.mark.parametrize("model", MODELS)
def test_empty_points_and_pixels(model):
    camera = make_camera(model)
    pixels, visible = camera.project(np.zeros((0, 3)))
    assert pixels.shape == (0, 2) and visible.shape == (0,)
    assert camera.unproject(np.zeros((0, 2))).shape == (0, 3)


def test_image_border_is_half_a_pixel_beyond_the_outer_pixel_centres():
    camera = make_camera()
    edges = [[-0.49, 0], [-0.51, 0], [639.49, 479.49], [639.51, 0], [0, 479.51], [0, -0.51]]
    rays = np.array([[(u - 320) / 500, (v - 240) / 510, 1] for u, v in edges])
    visible = camera.project(rays)[1]
    np.testing.assert_array_equal(visible, [True, False, True, False, False, False])


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=20)
@given(factors=st.tuples(st.sampled_from([0.25, 0.5, 1.0, 2.0]), st.sampled_from([0.5, 1.0, 3.0])))
def test_scaled_camera_scales_pixel_coordinates(model, factors):
    camera, points = make_camera(model), points_before(1)
    scaled = camera.scaled(*factors)
    assert (scaled.width, scaled.height) == (640 * factors[0], 480 * factors[1])
    pixels, visible = camera.project(points)
    expected = (pixels + 0.5) * factors - 0.5
    reprojected, scaled_visible = scaled.project(points)
    np.testing.assert_allclose(reprojected[visible], expected[visible], atol=1e-6)
    np.testing.assert_array_equal(scaled_visible, visible)


def test_scaled_camera_matches_a_resized_image():
    # Centre of mass of a bright square, in an image of half the size.
    image = np.zeros((480, 640), np.float32)
    image[100:140, 300:380] = 1
    small = cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA)
    v, u = np.nonzero(small)
    ray = make_camera().unproject([[339.5, 119.5]])
    pixel = make_camera().scaled(0.5, 0.5).project(ray)[0][0]
    np.testing.assert_allclose(pixel, [u.mean(), v.mean()], atol=1e-9)


def test_pinhole_principal_point_is_the_image_centre():
    camera = CameraModel.pinhole(640, 480, 300.0)
    pixels, visible = camera.project([[0, 0, 5], [1, 0, 1]])
    np.testing.assert_allclose(pixels, [[319.5, 239.5], [619.5, 239.5]])
    assert visible.all()


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0},
        {"height": -1},
        {"matrix": np.zeros((3, 3))},
        {"matrix": np.eye(4)},
        {"matrix": np.diag([500, -500, 1])},
        {"matrix": np.diag([np.nan, 500, 1])},
        {"matrix": np.diag([500, 500, 0.0])},
        {"matrix": np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])},
        {"model": "fisheye"},
        {"model": ""},
        {"coefficients": np.zeros(1)},
        {"model": "plumb_bob", "coefficients": np.zeros(3)},
        {"model": "plumb_bob", "coefficients": np.full(5, np.nan)},
        {"model": "equidistant", "coefficients": np.zeros(5)},
        {"model": "equidistant", "coefficients": None},
        {"model": "rational_polynomial", "coefficients": np.zeros(5)},
    ],
)
def test_invalid_camera_model_raises_error(changes):
    values = {"width": 640, "height": 480, "matrix": MATRIX, "model": "pinhole", **changes}
    with pytest.raises(ValueError, match=r"\w"):
        CameraModel(**values)


def test_camera_model_copies_and_protects_its_arrays():
    matrix, coefficients = MATRIX.copy(), np.zeros(4)
    camera = CameraModel(640, 480, matrix, "equidistant", coefficients)
    matrix[0, 0], coefficients[0] = 1.0, 9.0
    assert camera.matrix[0, 0] == 500.0 and camera.coefficients[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        camera.matrix[0, 0] = 2.0
