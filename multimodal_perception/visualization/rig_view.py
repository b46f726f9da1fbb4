"""A vehicle's sensors from above: where each sits and what it can see."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.frame import Modality, OwnVehicle
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
# How far a sensor's view is drawn where it has no range of its own, as a share of the extent.
REACH = {Modality.LIDAR: 0.95, Modality.CAMERA: 0.8, Modality.THERMAL: 0.62}
STEPS = 49


def field_of_view(sensor: Sensor) -> NDArray[np.float64] | None:
    """Azimuths (N,) radians in base_link, rising by unwrapping, that a sensor sees at its height.

    None where the file does not say: no extrinsics, intrinsics or limits.
    """
    pose = sensor.base_from_sensor()
    if pose is None:
        return None
    if sensor.modality is Modality.LIDAR:
        return np.linspace(-np.pi, np.pi, 4 * STEPS)
    if sensor.modality is Modality.ULTRASONIC:
        if sensor.limits is None:
            return None
        half = sensor.limits.field_of_view / 2
        return poses.yaw_of(pose) + np.linspace(-half, half, STEPS)
    if sensor.intrinsics is None:
        return None
    camera = sensor.intrinsics.camera_model()
    columns = np.linspace(-0.5, camera.width - 0.5, STEPS)
    rays = camera.unproject(np.column_stack([columns, np.full(STEPS, camera.matrix[1, 2])]))
    seen = rays[np.isfinite(rays).all(axis=1)] @ pose[:3, :3].T
    if len(seen) < 2:
        return None
    azimuths = np.unwrap(np.arctan2(seen[:, 1], seen[:, 0]))
    return azimuths[::-1] if azimuths[-1] < azimuths[0] else azimuths


def coverage(rig: Rig, modality: Modality) -> float | None:
    """Share of the directions around that sensors of one kind see; None where nothing is known."""
    views = [field_of_view(s) for s in rig.of(modality).values()]
    known = [v for v in views if v is not None]
    if not known:
        return None
    degrees: set[int] = set()
    for view in known:
        first, last = np.degrees(view[[0, -1]])
        degrees |= {int(d) % 360 for d in range(int(np.ceil(first)), int(np.floor(last)) + 1)}
    return len(degrees) / 360


def draw_rig(rig: Rig, extent: float, size: int = 900) -> NDArray[np.uint8]:
    """RGB image (size, size, 3): each sensor's view by kind, the footprint, names of what is missing.

    extent: metres from base_link to each side.
    """
    canvas = Canvas.blank(extent, size)
    reach = {kind: share * extent for kind, share in REACH.items()}
    for kind in COLOURS:  # what reaches far lies below what is near
        layer = canvas.image.copy()
        for sensor in rig.of(kind).values():
            outline = _outline(sensor, reach)
            if outline is not None:
                cv2.fillPoly(layer, [canvas.pixels(outline).astype(np.int32)], COLOURS[kind])
        share = 0.12 if kind is Modality.LIDAR else 0.3
        cv2.addWeighted(layer, share, canvas.image, 1 - share, 0, canvas.image)
        for sensor in rig.of(kind).values():
            outline = _outline(sensor, reach)
            if outline is not None:
                canvas.polygon(outline, COLOURS[kind], 1)
    canvas.rings(1.0 if extent <= 8 else 5.0 if extent <= 40 else 10.0)
    if rig.own_vehicle is not None:
        _draw_vehicle(canvas, rig.own_vehicle)
    _draw_places(canvas, rig)
    _write_legend(canvas, rig)
    return canvas.image


def _outline(sensor: Sensor, reach: dict[Modality, float]) -> NDArray[np.float64] | None:
    """Corners (N, 2) of what a sensor sees, metres in base_link."""
    azimuths, pose = field_of_view(sensor), sensor.base_from_sensor()
    if azimuths is None or pose is None:
        return None
    far = sensor.limits.max_range if sensor.limits is not None else reach[sensor.modality]
    arc = pose[:2, 3] + far * np.column_stack([np.cos(azimuths), np.sin(azimuths)])
    return arc if sensor.modality is Modality.LIDAR else np.vstack([pose[:2, 3], arc])


def _draw_vehicle(canvas: Canvas, vehicle: OwnVehicle) -> None:
    rear, front, right, left = vehicle
    canvas.polygon(np.array([[front, left], [front, right], [rear, right], [rear, left]]), EGO, 2)


def _draw_places(canvas: Canvas, rig: Rig) -> None:
    for sensor in rig.sensors.values():
        pose = sensor.base_from_sensor()
        if pose is not None:
            column, row = canvas.pixels(pose[None, :2, 3])[0].tolist()
            cv2.circle(canvas.image, (column, row), 4, COLOURS[sensor.modality], -1, cv2.LINE_AA)
            cv2.circle(canvas.image, (column, row), 4, (0, 0, 0), 1, cv2.LINE_AA)


def _write_legend(canvas: Canvas, rig: Rig) -> None:
    write_text(canvas.image, f"rig {rig.name}", (12, 24), TEXT, 0.6)
    row = 48
    for kind, colour in COLOURS.items():
        count = len(rig.of(kind))
        if not count:
            continue
        share = coverage(rig, kind)
        seen = "" if share is None else f", {100 * share:.0f} % of all directions"
        write_text(canvas.image, f"{count} {kind.value}{seen}", (12, row), colour, 0.45)
        row += 20
    unknown = [n for n, s in rig.sensors.items() if field_of_view(s) is None]
    if unknown:
        text = f"not drawn, the file does not say: {', '.join(unknown)}"
        write_text(canvas.image, text[:110], (12, canvas.image.shape[0] - 14), MUTED, 0.42)
