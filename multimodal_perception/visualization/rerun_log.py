"""Frames and results as entities of a Rerun recording, for .rrd files and for the live view.

Entities: base_link/lidar/SENSOR, base_link/cameras/SENSOR (with mask, boxes2d and objects below it),
base_link/thermal/SENSOR, base_link/ultrasonic/SENSOR, base_link/objects, trails, velocities, labels and
occupied_cells, occupancy/grid and occupancy/objects, stage_ms/STAGE, health/SENSOR, health_table,
evidence_table, log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multimodal_perception.extras import import_package
from multimodal_perception.frame import Boxes3D, Modality, SensorFrame
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import corners
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.object_evidence import LETTERS, ObjectEvidence, describe_objects
from multimodal_perception.perception import (
    Boxes2D,
    Level,
    OccupancyGrid,
    Perception,
    SegmentationMask,
    SensorHealth,
)
from multimodal_perception.rig import Rig
from multimodal_perception.visualization.camera_view import (
    project_edges,
    thermal_colours,
    visible_labels,
)
from multimodal_perception.visualization.palette import (
    ECHO,
    EGO,
    GROUND_TRUTH,
    OCCUPIED,
    ULTRASONIC_CONE,
    Colour,
    class_colour,
)
from multimodal_perception.visualization.segmentation_view import mask_palette, name_colour
from multimodal_perception.visualization.top_view import (
    MIN_ARROW_SPEED,
    cone_arc,
    height_colours,
    occupancy_colours,
)
from multimodal_perception.visualization.track_trails import TrackTrails

APPLICATION = "multimodal_perception"
TIMELINE = "stamp"
JPEG_QUALITY = 85
MASK_OPACITY = 0.5
# Cells above this probability of occupied are drawn in the 3D view.
MIN_OCCUPIED = 0.7
# Length of the pyramid that shows a camera in the 3D view, metres.
IMAGE_PLANE_M = 1.0
# Entity below base_link that contains the sensors of a modality.
SENSOR_FOLDERS = {
    Modality.LIDAR: "lidar",
    Modality.CAMERA: "cameras",
    Modality.THERMAL: "thermal",
    Modality.ULTRASONIC: "ultrasonic",
}
LOG_LEVELS = {Level.OK: "INFO", Level.WARN: "WARN", Level.ERROR: "ERROR", Level.STALE: "ERROR"}


def import_rerun() -> Any:
    """The rerun package. Raises MissingPackageError with the command that installs it."""
    import_package("rerun.blueprint")
    return import_package("rerun")


class RerunLog:
    """Logs frames and results to a Rerun recording stream, on the timeline TIMELINE.

    The methods may be called from several threads: the time of a stream belongs to the thread.
    """

    def __init__(self, rerun: Any, stream: Any, rig: Rig) -> None:
        """rerun: the package. stream: rerun.RecordingStream. rig: of the frames."""
        self._rr, self._stream, self._rig = rerun, stream, rig
        self._trails = TrackTrails()
        self._frame: SensorFrame | None = None
        self._mask_classes: dict[str, tuple[str, ...]] = {}
        self._levels: dict[str, tuple[Level, str]] = {}
        stream.log("base_link", rerun.ViewCoordinates.FLU, static=True)

    def log_result(self, frame: SensorFrame, perception: Perception) -> None:
        """Log a frame with all results of the pipeline."""
        self.log_frame(frame)
        for boxes2d in perception.boxes2d.values():
            self.log_boxes2d(boxes2d)
        for mask in perception.segmentations.values():
            self.log_mask(mask)
        self.log_objects(perception.boxes, frame.odom_from_base)
        self.log_velocities(perception.boxes)
        if perception.boxes.evidence is not None:
            self.log_evidence(describe_objects(perception.boxes), perception.stamp_ns)
        if perception.occupancy is not None:
            self.log_occupancy(perception.occupancy, perception.boxes, frame.odom_from_base)
        self.log_stage_times(perception.stage_ms, perception.stamp_ns)
        self.log_health(frame_health(frame, perception), perception.stamp_ns)

    def log_frame(self, frame: SensorFrame) -> None:
        """Log the readings of all sensors, and the labels if the frame has any."""
        self._frame = frame
        self._set_time(frame.stamp_ns)
        if frame.vehicle_footprint is not None:
            self._log_vehicle(frame)
        for name, sweep in frame.lidars.items():
            pose = frame.reference_from_sensor(name)
            points = poses.transform_points(pose, sweep.points[:, :3])
            colours = height_colours(points[:, 2] - frame.ground_z)
            cloud = self._rr.Points3D(points, colors=colours, radii=0.02)
            self._stream.log(self._sensor_entity(name), cloud)
        for name, image in frame.cameras.items():
            self._log_image(name, np.ascontiguousarray(image.rgb()))
        for name, thermal in frame.thermals.items():
            self._log_image(name, np.ascontiguousarray(thermal_colours(thermal)))
        self._log_cones(frame)
        labels = visible_labels(frame)
        if labels is not None:
            self._log_boxes("labels", labels, GROUND_TRUTH)

    def log_boxes2d(self, boxes: Boxes2D) -> None:
        """Log the 2D boxes of one image."""
        names = [boxes.class_names[label] for label in boxes.labels]
        self._set_time(boxes.stamp_ns)
        self._stream.log(
            [*self._sensor_entity(boxes.sensor), "boxes2d"],
            self._rr.Boxes2D(
                array=boxes.boxes,
                array_format=self._rr.Box2DFormat.XYXY,
                labels=[f"{n} {s:.2f}" for n, s in zip(names, boxes.scores, strict=True)],
                show_labels=False,  # only under the mouse: they would cover the image
                colors=[name_colour(n) for n in names],
            ),
        )

    def log_mask(self, mask: SegmentationMask) -> None:
        """Log the mask of one image, in the size of the image."""
        entity = [*self._sensor_entity(mask.sensor), "mask"]
        if self._mask_classes.get(mask.sensor) != mask.class_names:
            self._mask_classes[mask.sensor] = mask.class_names
            colours = mask_palette(mask.class_names)
            classes = [(i, name, colours[i]) for i, name in enumerate(mask.class_names[:256])]
            self._stream.log(entity, self._rr.AnnotationContext(classes), static=True)
        labels = mask.labels
        model = None if self._frame is None else self._frame.intrinsics.get(mask.sensor)
        if model is not None and labels.shape != (model.height, model.width):
            size = model.width, model.height
            labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        self._set_time(mask.stamp_ns)
        image = self._rr.SegmentationImage(np.ascontiguousarray(labels), opacity=MASK_OPACITY)
        self._stream.log(entity, image)

    def log_objects(
        self, boxes: Boxes3D, odom_from_base: NDArray[np.float64] | None = None
    ) -> None:
        """Log 3D boxes and the trails of tracks, and the boxes projected into the latest images.

        boxes: in base_frame. odom_from_base: pose (4, 4) at their stamp, or None.
        """
        self._set_time(boxes.stamp_ns)
        self._log_boxes("objects", boxes, None)
        trails = [t for t in self._trails.update(boxes, odom_from_base) if len(t.positions) > 1]
        strips = self._rr.LineStrips3D(
            [t.positions for t in trails],
            colors=[class_colour(t.class_name) for t in trails],
            radii=0.05,
        )
        self._stream.log(["base_link", "trails"], strips)
        frame = self._frame
        if frame is None:
            return
        for name in (*frame.cameras, *frame.thermals):
            lines: list[NDArray[np.float64]] = []
            colours: list[Colour] = []
            for box, label in zip(boxes.boxes, boxes.labels, strict=True):
                parts = project_edges(frame, name, box)
                lines += parts
                colours += [class_colour(boxes.class_names[label])] * len(parts)
            entity = [*self._sensor_entity(name), "objects"]
            self._stream.log(entity, self._rr.LineStrips2D(lines, colors=colours))

    def log_velocities(self, boxes: Boxes3D) -> None:
        """Log an arrow of the displacement in one second for each moving box, in base_frame."""
        self._set_time(boxes.stamp_ns)
        unknown = np.full((len(boxes), 2), np.nan)
        velocities = unknown if boxes.velocities is None else boxes.velocities
        moving = np.flatnonzero(np.hypot(*velocities.T) >= MIN_ARROW_SPEED)
        vectors = np.column_stack([velocities[moving], np.zeros(len(moving))])
        arrows = self._rr.Arrows3D(
            origins=boxes.boxes[moving, :3],
            vectors=vectors,
            colors=[class_colour(boxes.class_names[i]) for i in boxes.labels[moving]],
            radii=0.06,
        )
        self._stream.log(["base_link", "velocities"], arrows)

    def log_evidence(self, objects: Sequence[ObjectEvidence], stamp_ns: int) -> None:
        """Log a table of the sensors' opinions about each object: belief / disbelief by modality."""
        self._set_time(stamp_ns)
        names = [*(objects[0].masses if objects else LETTERS)]
        heads = ["object", *names, "conflict", "uncertainty", "supported by", "contradicted by"]
        rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for item in objects:
            cells = [
                "-" if uncertainty >= 1.0 else f"{belief:.2f} / {disbelief:.2f}"
                for belief, disbelief, uncertainty in item.masses.values()
            ]
            cells += [f"{item.conflict:.2f}", f"{item.total_uncertainty:.2f}"]
            cells += [", ".join(n) or "-" for n in (item.supporting, item.contradicting)]
            rows.append(f"| {item.class_name} #{item.name} | {' | '.join(cells)} |")
        table = self._rr.TextDocument("\n".join(rows), media_type="text/markdown")
        self._stream.log("evidence_table", table)

    def log_occupancy(
        self,
        grid: OccupancyGrid,
        boxes: Boxes3D | None = None,
        odom_from_base: NDArray[np.float64] | None = None,
    ) -> None:
        """Log the grid as an image, with the outlines of boxes, and its occupied cells in 3D.

        boxes: in base_frame. odom_from_base: pose (4, 4) at the grid's stamp; without it, a grid
        in another frame than base_frame has neither outlines nor cells in the 3D view.
        """
        self._set_time(grid.stamp_ns)
        colours = occupancy_colours(grid.free[..., None], grid.occupied[..., None])
        # x (forward) points up and y (left) points left.
        picture = np.ascontiguousarray(colours.transpose(1, 0, 2)[::-1, ::-1])
        self._stream.log(["occupancy", "grid"], self._rr.Image(picture))
        in_base = grid.frame_id == self._rig.base_frame
        grid_from_base = np.eye(4) if in_base else odom_from_base
        if grid_from_base is None:
            return
        if boxes is not None:
            outlines = _outlines(grid, boxes, grid_from_base)
            names = [boxes.class_names[label] for label in boxes.labels]
            shapes = self._rr.LineStrips2D(outlines, colors=[class_colour(n) for n in names])
            self._stream.log(["occupancy", "objects"], shapes)
        row, column = np.nonzero(grid.probability() > MIN_OCCUPIED)
        cells = np.column_stack(
            [
                grid.origin[0] + (column + 0.5) * grid.resolution,
                grid.origin[1] + (row + 0.5) * grid.resolution,
                np.zeros(len(row)),
            ]
        )
        cells = np.asarray(poses.transform_points(poses.inverse(grid_from_base), cells))
        cells[:, 2] = self._rig.ground_z
        points = self._rr.Points3D(cells, colors=[OCCUPIED], radii=grid.resolution / 4)
        self._stream.log(["base_link", "occupied_cells"], points)

    def log_stage_times(self, stage_ms: Mapping[str, float], stamp_ns: int) -> None:
        """Log the computation time of each stage in milliseconds."""
        self._set_time(stamp_ns)
        for name, value in stage_ms.items():
            self._stream.log(["stage_ms", name], self._rr.Scalars([value]))

    def log_health(self, health: Mapping[str, SensorHealth], stamp_ns: int) -> None:
        """Log the health of sensors: level and rate over time, a table, and changes as text.

        The images and points of a sensor with an error are removed from the views.
        """
        self._set_time(stamp_ns)
        rows = ["| sensor | state | rate | image quality | dropped |", "|---|---|---|---|---|"]
        for name, sensor in health.items():
            drops = ", ".join(f"{reason} {n}" for reason, n in sensor.drops.items() if n) or "-"
            state = f"{sensor.level.name}: {sensor.message}"
            rate = f"{sensor.rate_hz:.1f} Hz" if sensor.rate_hz else "-"
            cells = f"{rate} | {sensor.image_quality:.2f} | {drops}"
            rows.append(f"| {name} | {state.replace('|', '/')} | {cells} |")
            self._stream.log(["health", name, "level"], self._rr.Scalars([sensor.level.value]))
            self._stream.log(["health", name, "rate_hz"], self._rr.Scalars([sensor.rate_hz]))
            self.log_state(name, sensor.level, sensor.message, stamp_ns)
            if sensor.level in (Level.ERROR, Level.STALE):
                clear = self._rr.Clear(recursive=True)
                self._stream.log(self._sensor_entity(name), clear)
        table = self._rr.TextDocument("\n".join(rows), media_type="text/markdown")
        self._stream.log("health_table", table)

    def log_state(self, subject: str, level: Level, message: str, stamp_ns: int) -> None:
        """Log the state of a sensor or stage as text if it has changed."""
        if self._levels.get(subject, (Level.OK, "")) == (level, message):
            return
        if subject not in self._levels and level is Level.OK:
            self._levels[subject] = level, message
            return
        self._levels[subject] = level, message
        self._set_time(stamp_ns)
        text = self._rr.TextLog(f"{subject}: {message}", level=LOG_LEVELS[level])
        self._stream.log("log", text)

    def _set_time(self, stamp_ns: int) -> None:
        self._stream.set_time(TIMELINE, timestamp=np.datetime64(stamp_ns, "ns"))

    def _sensor_entity(self, sensor: str) -> list[str]:
        return ["base_link", SENSOR_FOLDERS[self._rig.sensors[sensor].modality], sensor]

    def _log_image(self, name: str, pixels: NDArray[np.uint8]) -> None:
        assert self._frame is not None
        frame = self._frame
        entity = self._sensor_entity(name)
        translation, quaternion = poses.to_quaternion(frame.reference_from_sensor(name))
        rotation = self._rr.Quaternion(xyzw=quaternion)
        transform = self._rr.Transform3D(translation=translation, rotation=rotation)
        self._stream.log(entity, transform)
        self._stream.log(entity, self._pinhole(frame.intrinsics[name]))
        image = self._rr.Image(pixels).compress(jpeg_quality=JPEG_QUALITY)
        self._stream.log(entity, image)

    def _pinhole(self, model: CameraModel) -> Any:
        return self._rr.Pinhole(
            image_from_camera=model.matrix,
            width=model.width,
            height=model.height,
            image_plane_distance=IMAGE_PLANE_M,
        )

    def _log_cones(self, frame: SensorFrame) -> None:
        for name, reading in frame.ultrasonics.items():
            if name not in frame.base_from_sensor:
                continue
            arc, has_echo = cone_arc(reading)
            pose = frame.reference_from_sensor(name)
            outline = np.concatenate([np.zeros((1, 3)), arc, np.zeros((1, 3))])
            strips = [poses.transform_points(pose, outline)]
            if has_echo:
                strips.append(poses.transform_points(pose, arc))
            colours = [ULTRASONIC_CONE, ECHO][: len(strips)]
            lines = self._rr.LineStrips3D(strips, colors=colours, radii=[0.01, 0.03][: len(strips)])
            self._stream.log(self._sensor_entity(name), lines)

    def _log_vehicle(self, frame: SensorFrame) -> None:
        rear, front, right, left = frame.vehicle_footprint  # type: ignore[misc]
        z = frame.ground_z
        outline = [
            (front, left, z),
            (front, right, z),
            (rear, right, z),
            (rear, left, z),
            (front, left, z),
        ]
        strip = self._rr.LineStrips3D([outline], colors=[EGO], radii=0.03)
        self._stream.log(["base_link", "vehicle"], strip)

    def _log_boxes(self, entity: str, boxes: Boxes3D, colour: Colour | None) -> None:
        names = [boxes.class_names[label] for label in boxes.labels]
        ids = [-1] * len(boxes) if boxes.track_ids is None else boxes.track_ids.tolist()
        half_yaw = boxes.boxes[:, 6] / 2
        zero = np.zeros_like(half_yaw)
        quaternions = np.column_stack([zero, zero, np.sin(half_yaw), np.cos(half_yaw)])
        labels = [
            f"{name}{f' #{track_id}' if track_id >= 0 else ''} {score:.2f}"
            for name, track_id, score in zip(names, ids, boxes.scores, strict=True)
        ]
        self._stream.log(
            ["base_link", entity],
            self._rr.Boxes3D(
                centers=boxes.boxes[:, :3],
                sizes=boxes.boxes[:, 3:6],
                quaternions=quaternions,
                labels=labels,
                # The names of labels would cover those of the results.
                show_labels=colour is None,
                colors=[class_colour(n) if colour is None else colour for n in names],
            ),
        )


def frame_health(frame: SensorFrame, perception: Perception) -> dict[str, SensorHealth]:
    """Health of the sensors of a recorded frame: those without a usable reading have a warning."""
    health = {}
    for name in sorted(frame.expected | frame.present):
        quality = perception.image_quality.get(name)
        value = 1.0 if quality is None else quality.value
        level, message = Level.OK, "ok"
        if name in frame.dropped:
            level, message = Level.WARN, "the reading could not be used"
        elif name not in frame.present:
            level, message = Level.WARN, "no reading"
        elif name in perception.missing:
            level, message = Level.WARN, f"image quality {value:.2f}"
        known = perception.health.get(name)
        rate_hz = 0.0 if known is None else known.rate_hz
        health[name] = SensorHealth(name, level, message, rate_hz, image_quality=value)
    return health


def _outlines(
    grid: OccupancyGrid, boxes: Boxes3D, grid_from_base: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Footprints of boxes as closed polylines (5, 2) in pixels of the grid's image."""
    rows, columns = grid.free.shape
    outlines = []
    for corner in corners(boxes.boxes):
        xy = poses.transform_points(grid_from_base, corner[:4])[:, :2]
        column = (xy[:, 0] - grid.origin[0]) / grid.resolution
        row = (xy[:, 1] - grid.origin[1]) / grid.resolution
        pixels = np.column_stack([rows - row, columns - column])
        outlines.append(np.concatenate([pixels, pixels[:1]]))
    return outlines
