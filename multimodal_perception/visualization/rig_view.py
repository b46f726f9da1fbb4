"""Top view of a vehicle's sensors: positions and fields of view."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Modality, VehicleFootprint
from multimodal_perception.geometry import poses
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.visualization.canvas import Canvas, write_text
from multimodal_perception.visualization.palette import EGO, MUTED, TEXT, Colour

COLOURS: dict[Modality, Colour] = {
    Modality.LIDAR: (120, 130, 150),
    Modality.CAMERA: (64, 156, 255),
    Modality.THERMAL: (255, 110, 70),
    Modality.ULTRASONIC: (240, 196, 84),
}
# Drawn length of the field of view of a sensor without a configured range, as a ratio of the extent.
DEFAULT_RANGE_RATIO = {Modality.LIDAR: 0.95, Modality.CAMERA: 0.8, Modality.THERMAL: 0.62}
ARC_POINTS = 49


def field_of_view(sensor: Sensor) -> NDArray[np.float64] | None:
    """Azimuths (N,) in base_link, radians, of a sensor's horizontal field of view; unwrapped and
    increasing.

    None if the rig does not define it: extrinsics, intrinsics or range limits are missing.
    """
    pose = sensor.base_from_sensor()
    if pose is None:
        return None
    if sensor.modality is Modality.LIDAR:
        return np.linspace(-np.pi, np.pi, 4 * ARC_POINTS)
    if sensor.modality is Modality.ULTRASONIC:
        if sensor.limits is None:
            return None
        half = sensor.limits.field_of_view / 2
        return poses.to_yaw(pose) + np.linspace(-half, half, ARC_POINTS)
    if sensor.intrinsics is None:
        return None
    camera = sensor.intrinsics.camera_model()
    columns = np.linspace(-0.5, camera.width - 0.5, ARC_POINTS)
    rays = camera.unproject(np.column_stack([columns, np.full(ARC_POINTS, camera.matrix[1, 2])]))
    visible = rays[np.isfinite(rays).all(axis=1)] @ pose[:3, :3].T
    if len(visible) < 2:
        return None
    azimuths = np.unwrap(np.arctan2(visible[:, 1], visible[:, 0]))
    return azimuths[::-1] if azimuths[-1] < azimuths[0] else azimuths


def coverage(rig: Rig, modality: Modality) -> float | None:
    """Fraction of the 360 degrees that the sensors of one modality cover; None if no field of view
    is known."""
    views = [field_of_view(s) for s in rig.sensors_of(modality).values()]
    known = [v for v in views if v is not None]
    if not known:
        return None
    degrees: set[int] = set()
    for view in known:
        first, last = np.degrees(view[[0, -1]])
        degrees |= {int(d) % 360 for d in range(int(np.ceil(first)), int(np.floor(last)) + 1)}
    return len(degrees) / 360


def draw_rig(rig: Rig, extent: float, size: int = 900) -> NDArray[np.uint8]:
    """RGB image (size, size, 3) uint8: fields of view coloured by modality, the vehicle footprint,
    and the names of sensors whose field of view is not known.

    extent: distance from base_link to each edge in metres.
    """
    canvas = Canvas.blank(extent, size)
    default_range = {modality: ratio * extent for modality, ratio in DEFAULT_RANGE_RATIO.items()}
    for modality in COLOURS:  # modalities with a long range are drawn first
        layer = canvas.image.copy()
        for sensor in rig.sensors_of(modality).values():
            outline = _outline(sensor, default_range)
            if outline is not None:
                cv2.fillPoly(layer, [canvas.to_pixels(outline).astype(np.int32)], COLOURS[modality])
        opacity = 0.12 if modality is Modality.LIDAR else 0.3
        cv2.addWeighted(layer, opacity, canvas.image, 1 - opacity, 0, canvas.image)
        for sensor in rig.sensors_of(modality).values():
            outline = _outline(sensor, default_range)
            if outline is not None:
                canvas.draw_polygon(outline, COLOURS[modality], 1)
    canvas.draw_range_rings(1.0 if extent <= 8 else 5.0 if extent <= 40 else 10.0)
    if rig.vehicle_footprint is not None:
        _draw_vehicle(canvas, rig.vehicle_footprint)
    _draw_sensor_positions(canvas, rig)
    _write_legend(canvas, rig)
    return canvas.image


def _outline(sensor: Sensor, default_range: dict[Modality, float]) -> NDArray[np.float64] | None:
    """Corners (N, 2) of a sensor's field of view in base_link, metres; None if it is not known."""
    azimuths, pose = field_of_view(sensor), sensor.base_from_sensor()
    if azimuths is None or pose is None:
        return None
    distance = (
        sensor.limits.max_range if sensor.limits is not None else default_range[sensor.modality]
    )
    arc = pose[:2, 3] + distance * np.column_stack([np.cos(azimuths), np.sin(azimuths)])
    return arc if sensor.modality is Modality.LIDAR else np.vstack([pose[:2, 3], arc])


def _draw_vehicle(canvas: Canvas, vehicle: VehicleFootprint) -> None:
    rear, front, right, left = vehicle
    canvas.draw_polygon(
        np.array([[front, left], [front, right], [rear, right], [rear, left]]), EGO, 2
    )


def _draw_sensor_positions(canvas: Canvas, rig: Rig) -> None:
    for sensor in rig.sensors.values():
        pose = sensor.base_from_sensor()
        if pose is not None:
            column, row = canvas.to_pixels(pose[None, :2, 3])[0].tolist()
            cv2.circle(canvas.image, (column, row), 4, COLOURS[sensor.modality], -1, cv2.LINE_AA)
            cv2.circle(canvas.image, (column, row), 4, (0, 0, 0), 1, cv2.LINE_AA)


def _write_legend(canvas: Canvas, rig: Rig) -> None:
    write_text(canvas.image, f"rig {rig.name}", (12, 24), TEXT, 0.6)
    row = 48
    for modality, colour in COLOURS.items():
        count = len(rig.sensors_of(modality))
        if not count:
            continue
        covered = coverage(rig, modality)
        text = "" if covered is None else f", covers {100 * covered:.0f} % of 360 deg"
        write_text(canvas.image, f"{count} {modality.value}{text}", (12, row), colour, 0.45)
        row += 20
    unknown = [n for n, s in rig.sensors.items() if field_of_view(s) is None]
    if unknown:
        text = f"not drawn, field of view not configured: {', '.join(unknown)}"
        write_text(canvas.image, text[:110], (12, canvas.image.shape[0] - 14), MUTED, 0.42)
