"""A simulated drive of a rig through a scenario, frame by frame, with ground truth."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import (
    Boxes3D,
    CameraImage,
    LidarSweep,
    Modality,
    SensorFrame,
    ThermalImage,
    UltrasonicReading,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.pointcloud.deskew import deskew
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.simulation.image_truth import ImageObjects, image_objects
from multimodal_perception.simulation.measurement_times import MeasurementTimes
from multimodal_perception.simulation.profile import Profile, check_profile
from multimodal_perception.simulation.sensors.appearance import draw_look, varied_materials
from multimodal_perception.simulation.sensors.camera import ImageTruth, SimulatedCamera
from multimodal_perception.simulation.sensors.conditions import (
    Conditions,
    Fault,
    apply_conditions,
    check_faults,
)
from multimodal_perception.simulation.sensors.lidar import SimulatedLidar, SweepTruth
from multimodal_perception.simulation.sensors.thermal import SimulatedThermal
from multimodal_perception.simulation.sensors.ultrasonic import (
    SimulatedUltrasonic,
    nearest_echo_ranges,
)
from multimodal_perception.simulation.truth import (
    FrameTruth,
    GridLayout,
    box_directions,
    ground_truth_boxes,
    ground_truth_grid,
)
from multimodal_perception.simulation.world.materials import MATERIAL_TABLE
from multimodal_perception.simulation.world.realistic import realistic_scenario
from multimodal_perception.simulation.world.scenarios import Scenario, load_scenario
from multimodal_perception.simulation.world.scene import Scene, World

FIRST_STAMP_NS = 1_700_000_000_000_000_000
DEFAULT_RATE_HZ = 10.0


class SimulationError(UserError):
    """The rig or the arguments do not allow a simulation; the message gives the reason."""


@dataclass(frozen=True)
class Observation:
    """One simulated frame (with sweeps that are not deskewed), its ground truth and computing time.

    elapsed_ms: by sensor name, and for "ultrasonics" (all of them), "scene" and "truth".
    """

    frame: SensorFrame
    truth: FrameTruth
    elapsed_ms: dict[str, float]


@dataclass
class _FrameRecord:
    """Collects the readings and the ground truth of one frame.

    moments: by sensor that measures at another time than the frame's, a record with the number of its
    measurement, its time, and the scene and pose at this time.
    """

    index: int
    seconds: float
    stamp_ns: int
    scene: Scene
    odom_from_base: NDArray[np.float64]
    lidars: dict[str, LidarSweep] = field(default_factory=dict)
    cameras: dict[str, CameraImage] = field(default_factory=dict)
    thermals: dict[str, ThermalImage] = field(default_factory=dict)
    ultrasonics: dict[str, UltrasonicReading] = field(default_factory=dict)
    views: dict[str, ImageTruth] = field(default_factory=dict)
    points: dict[str, SweepTruth] = field(default_factory=dict)
    ultrasonic_ranges: dict[str, float] = field(default_factory=dict)
    elapsed_ms: dict[str, float] = field(default_factory=dict)
    moments: dict[str, _FrameRecord] = field(default_factory=dict)


class Simulation:
    """A Dataset whose frames are simulated on demand; the result does not depend on their order."""

    def __init__(
        self,
        scenario: Scenario | str,
        rig: Rig,
        seed: int = 0,
        frames: int = 100,
        conditions: Sequence[str] = (),
        faults: Sequence[Fault] = (),
        grid: GridLayout | None = None,
        profile: Profile = "basic",
        sensor_rates: bool = False,
    ) -> None:
        """Prepare a drive.

        scenario: a scenario, the name of an installed one or a file. frames: length of the drive.
        conditions: modifiers such as "night" or "fog=80", applied to the scenario's conditions. faults:
        sensor faults in addition to the scenario's. grid: size of the ground-truth grids. profile: see
        simulation.profile. sensor_rates: whether sensors measure at the rates of the rig, each with its
        own stamps (see MeasurementTimes); without it, all sensors measure at the time of each frame.

        Raises SimulationError for a rig, seed or number of frames that cannot be simulated,
        ScenarioError for an unknown scenario, UserError for an unknown condition.
        """
        self.scenario = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
        self.name = f"simulated {self.scenario.name}"
        self.rig = rig
        self.seed = seed
        self.profile = check_profile(profile)
        self.grid = GridLayout() if grid is None else grid
        if self.profile == "realistic":
            self.scenario = realistic_scenario(self.scenario, seed)
        self.conditions: Conditions = apply_conditions(self.scenario.conditions, conditions)
        self.faults = (*self.scenario.faults, *faults)
        self._frames = frames
        if not 1 <= frames <= 1_000_000:
            raise SimulationError(f"frames: allowed: 1 to 1000000; got {frames}")
        if not 0 <= seed < 1 << 63:
            raise SimulationError(f"seed: allowed: 0 to 2^63 - 1; got {seed}")
        check_faults(self.faults, {n: s.modality.value for n, s in rig.sensors.items()})
        self._extrinsics = _extrinsics(rig)
        lidars = rig.sensors_of(Modality.LIDAR)
        self._lidars = [SimulatedLidar(s, self.profile) for s in lidars.values()]
        realistic = self.profile == "realistic"
        materials = varied_materials(seed) if realistic else MATERIAL_TABLE
        self._cameras = [
            SimulatedCamera(
                s, _camera_model(s), materials, draw_look(seed, s.name) if realistic else None
            )
            for s in rig.sensors_of(Modality.CAMERA).values()
        ]
        self._thermals = [
            SimulatedThermal(s, _camera_model(s)) for s in rig.sensors_of(Modality.THERMAL).values()
        ]
        self._ultrasonics = [
            SimulatedUltrasonic(s) for s in rig.sensors_of(Modality.ULTRASONIC).values()
        ]
        self.rate_hz = next(iter(lidars.values())).rate_hz if lidars else DEFAULT_RATE_HZ
        self._times = MeasurementTimes.of_rig(rig, seed, self.rate_hz) if sensor_rates else None
        self._world = World(self.scenario, seed)
        self._cached: tuple[int, Observation] | None = None

    def __len__(self) -> int:
        return self._frames

    def __iter__(self) -> Iterator[SensorFrame]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> SensorFrame:
        """Simulate one frame, with its sweeps deskewed by the true motion. Raises IndexError."""
        frame = self.observe(index).frame
        lidars = {
            name: deskew(sweep, self.odometry, frame.base_from_sensor[name])
            for name, sweep in frame.lidars.items()
        }
        return replace(frame, lidars=lidars)

    def sweeps(self, index: int) -> SensorFrame:
        """One frame with only its LiDARs, deskewed, without labels and ground truth. Raises IndexError.

        The sweeps are those of simulation[index]. This takes much less time, for example for the past
        sweeps of a frame.
        """
        record = self._record(range(self._frames)[index])
        self._scan_lidars(record)
        lidars = {
            name: deskew(sweep, self.odometry, self._extrinsics[name])
            for name, sweep in record.lidars.items()
        }
        return replace(self._frame(record, None), lidars=lidars)

    def truth(self, index: int) -> FrameTruth:
        """The ground truth of one frame. Raises IndexError."""
        return self.observe(index).truth

    def stamp_ns(self, index: int) -> int:
        """The time of a frame, without the sensors' time offsets."""
        return FIRST_STAMP_NS + round(index * NANOSECONDS_PER_SECOND / self.rate_hz)

    def odometry(self, stamp_ns: int) -> NDArray[np.float64]:
        """The exact pose odom_from_base (4, 4) at a time."""
        return self._world.ego_pose((stamp_ns - FIRST_STAMP_NS) / NANOSECONDS_PER_SECOND)

    def observe(self, index: int) -> Observation:
        """Simulate one frame with its ground truth; the last one is cached. Raises IndexError."""
        index = range(self._frames)[index]
        if self._cached is not None and self._cached[0] == index:
            return self._cached[1]
        record = self._record(index)
        self._scan_lidars(record)
        self._render_cameras(record)
        self._render_thermal(record)
        self._measure_ultrasonics(record)
        start = perf_counter()
        truth = self._ground_truth(record)
        record.elapsed_ms["truth"] = 1e3 * (perf_counter() - start)
        observation = Observation(self._frame(record, truth), truth, record.elapsed_ms)
        self._cached = index, observation
        return observation

    def _record(self, index: int) -> _FrameRecord:
        """The scene of a frame, without readings."""
        stamp_ns = self.stamp_ns(index)
        seconds = (stamp_ns - FIRST_STAMP_NS) / NANOSECONDS_PER_SECOND
        start = perf_counter()
        scene = self._world.scene(seconds)
        record = _FrameRecord(index, seconds, stamp_ns, scene, self.odometry(stamp_ns))
        record.elapsed_ms["scene"] = 1e3 * (perf_counter() - start)
        return record

    def _moment(self, sensor: str, record: _FrameRecord) -> _FrameRecord | None:
        """The scene at the time of a sensor's measurement in a frame.

        None if the sensor has no measurement in this frame, because of its rate or of an outage.
        """
        moment: _FrameRecord | None = record
        if self._times is not None:
            moment = self._own_moment(self._times, sensor, record)
        return None if moment is None or self._has_outage(sensor, moment) else moment

    def _own_moment(
        self, times: MeasurementTimes, sensor: str, record: _FrameRecord
    ) -> _FrameRecord | None:
        measurement = times.measurement(sensor, record.stamp_ns - FIRST_STAMP_NS)
        if measurement is None:
            return None
        number, time_ns = measurement
        stamp_ns = FIRST_STAMP_NS + time_ns
        for other in (record, *record.moments.values()):
            if other.stamp_ns == stamp_ns:
                moment = replace(other, index=number)
                break
        else:
            seconds = time_ns / NANOSECONDS_PER_SECOND
            start = perf_counter()
            scene, pose = self._world.scene(seconds), self._world.ego_pose(seconds)
            record.elapsed_ms["scene"] += 1e3 * (perf_counter() - start)
            moment = _FrameRecord(number, seconds, stamp_ns, scene, pose)
        if stamp_ns != record.stamp_ns:
            record.moments[sensor] = moment
        return moment

    def _scan_lidars(self, record: _FrameRecord) -> None:
        """Add the sweeps of all LiDARs to the record."""
        for lidar in self._lidars:
            moment = self._moment(lidar.name, record)
            if moment is None:
                continue
            start = perf_counter()
            record.lidars[lidar.name], record.points[lidar.name] = lidar.sweep(
                moment.scene,
                self._true_extrinsics(lidar.name, moment),
                partial(self._ego_pose_after, moment.seconds),
                self._reported_stamp(lidar.name, moment),
                self._lidar_conditions(),
                self._random_generator(lidar.name, moment),
                sum(f.value for f in self._active_faults("ring_loss", lidar.name, moment)),
            )
            record.elapsed_ms[lidar.name] = 1e3 * (perf_counter() - start)

    def _render_cameras(self, record: _FrameRecord) -> None:
        """Add the images of all cameras to the record."""
        for camera in self._cameras:
            moment = self._moment(camera.name, record)
            if moment is None:
                continue
            start = perf_counter()
            base_from_sensor = self._true_extrinsics(camera.name, moment)
            pixels, record.views[camera.name] = camera.render(
                moment.scene,
                moment.scene.sensor_pose(moment.odom_from_base, base_from_sensor),
                moment.scene.sensor_pose(moment.odom_from_base, np.eye(4)),
                self.conditions,
                self.scenario.indoor,
                self._random_generator(camera.name, moment),
                partial(self._pose_after, moment, base_from_sensor),
            )
            record.cameras[camera.name] = CameraImage(
                camera.name,
                self._reported_stamp(camera.name, moment),
                self.rig.sensors[camera.name].frame_id,
                pixels,
            )
            record.elapsed_ms[camera.name] = 1e3 * (perf_counter() - start)

    def _ego_pose_after(self, seconds: float, offset: float) -> NDArray[np.float64]:
        """The pose odom_from_base (4, 4) at a time after `seconds`."""
        return self._world.ego_pose(seconds + offset)

    def _pose_after(
        self, record: _FrameRecord, base_from_sensor: NDArray[np.float64], seconds: float
    ) -> NDArray[np.float64]:
        """A sensor's pose (4, 4) in the scene's frame, at a time relative to the frame's."""
        odom_from_base = self._world.ego_pose(record.seconds + seconds)
        return record.scene.sensor_pose(odom_from_base, base_from_sensor)

    def _render_thermal(self, record: _FrameRecord) -> None:
        """Add the images of all thermal cameras to the record."""
        for thermal in self._thermals:
            moment = self._moment(thermal.name, record)
            if moment is None:
                continue
            start = perf_counter()
            pixels, record.views[thermal.name] = thermal.render(
                moment.scene,
                self._true_pose(thermal.name, moment),
                self.conditions,
                self.scenario.indoor,
                self._random_generator(thermal.name, moment),
            )
            record.thermals[thermal.name] = ThermalImage(
                thermal.name,
                self._reported_stamp(thermal.name, moment),
                self.rig.sensors[thermal.name].frame_id,
                pixels,
                thermal.kelvin if pixels.dtype == np.uint16 else None,
            )
            record.elapsed_ms[thermal.name] = 1e3 * (perf_counter() - start)

    def _measure_ultrasonics(self, record: _FrameRecord) -> None:
        """Add the readings of all ultrasonic sensors to the record."""
        start = perf_counter()
        groups: dict[int, tuple[_FrameRecord, list[SimulatedUltrasonic]]] = {}
        for sensor in self._ultrasonics:
            moment: _FrameRecord | None = record
            if self._times is not None:
                moment = self._own_moment(self._times, sensor.name, record)
            if moment is not None:
                groups.setdefault(moment.stamp_ns, (moment, []))[1].append(sensor)
        for moment, sensors in groups.values():
            self._measure_together(moment, sensors, record)
        if self._ultrasonics:
            record.elapsed_ms["ultrasonics"] = 1e3 * (perf_counter() - start)

    def _measure_together(
        self, moment: _FrameRecord, sensors: list[SimulatedUltrasonic], record: _FrameRecord
    ) -> None:
        """Add the readings of sensors that measure at the same time and receive each other's echoes."""
        sensor_poses = {s.name: self._true_pose(s.name, moment) for s in sensors}
        ranges = nearest_echo_ranges(sensors, moment.scene, sensor_poses)
        record.ultrasonic_ranges |= ranges
        for sensor in sensors:
            if self._has_outage(sensor.name, moment):
                continue
            reading = sensor.measure(
                ranges[sensor.name],
                [e for n, e in ranges.items() if n != sensor.name],
                self._reported_stamp(sensor.name, moment),
                self._random_generator(sensor.name, moment),
            )
            for fault in self._active_faults("ultrasonic_spoofing", sensor.name, moment):
                reading = sensor.to_reading(fault.value, reading.stamp_ns)
            record.ultrasonics[sensor.name] = reading

    def _ground_truth(self, record: _FrameRecord) -> FrameTruth:
        """Compute the boxes and grids and combine them with the recorded ground truth."""
        # Visibility is that from the LiDARs, else from the cameras, else from 1.5 m above base_link.
        names = [s.name for s in self._lidars] or [s.name for s in self._cameras]
        extrinsics = [self._extrinsics[n] for n in names] or [poses.from_xyz_rpy((0, 0, 1.5))]
        viewpoints = [record.scene.sensor_pose(record.odom_from_base, e)[:3, 3] for e in extrinsics]
        boxes, visibility = ground_truth_boxes(
            record.scene,
            record.odom_from_base,
            viewpoints[0],
            list(record.points.values()),
            record.stamp_ns,
            self.rig.base_frame,
        )
        grid, semantic = ground_truth_grid(
            record.scene,
            record.odom_from_base,
            viewpoints,
            self.grid,
            record.stamp_ns,
            self.rig.base_frame,
        )
        return FrameTruth(
            record.stamp_ns,
            boxes,
            visibility,
            grid,
            semantic,
            record.odom_from_base,
            record.views,
            record.points,
            record.ultrasonic_ranges,
            self._objects_in_images(record),
            self._box_pitch(record, boxes),
        )

    def _objects_in_images(self, record: _FrameRecord) -> dict[str, ImageObjects]:
        """The objects in each image, projected with the true extrinsics of the cameras."""
        models = {s.name: s.model for s in self._cameras}
        models |= {s.name: s.model for s in self._thermals}
        result = {}
        for name, view in record.views.items():
            moment = record.moments.get(name, record)
            pose = self._true_pose(name, moment)
            result[name] = image_objects(moment.scene, view, models[name], pose)
        return result

    def _box_pitch(self, record: _FrameRecord, boxes: Boxes3D) -> NDArray[np.float32]:
        """Pitch (N,) of the labelled objects relative to base_link, radians."""
        assert boxes.track_ids is not None
        forward = box_directions(record.scene, record.odom_from_base)
        pitch = np.arcsin(np.clip(forward[:, 2], -1.0, 1.0))
        tracks = record.scene.tracks[record.scene.labelled]
        order = np.argsort(tracks, kind="stable")
        index = order[np.searchsorted(tracks[order], boxes.track_ids)]
        return np.asarray(pitch[index], np.float32)

    def _frame(self, record: _FrameRecord, truth: FrameTruth | None) -> SensorFrame:
        models = {s.name: s.model for s in self._cameras if s.name in record.cameras}
        models |= {s.name: s.model for s in self._thermals if s.name in record.thermals}
        present = (*record.lidars, *record.cameras, *record.thermals, *record.ultrasonics)
        return SensorFrame(
            record.stamp_ns,
            self.rig.base_frame,
            record.lidars,
            record.cameras,
            record.thermals,
            record.ultrasonics,
            {n: self._extrinsics[n] for n in present},
            models,
            {
                n: poses.inverse(record.odom_from_base) @ record.moments[n].odom_from_base
                for n in present
                if n in record.moments
            },
            odom_from_base=record.odom_from_base,
            expected=frozenset(self.rig.sensors),
            labels=None if truth is None else truth.boxes,
            vehicle_footprint=self.rig.vehicle_footprint,
            odom_frame=self.rig.odom_frame,
            ground_z=self.rig.ground_z,
        )

    def _lidar_conditions(self) -> Conditions:
        """The conditions, without fog and rain indoors."""
        if not self.scenario.indoor:
            return self.conditions
        return replace(self.conditions, fog_visibility=0.0, rain=0.0)

    def _active_faults(self, fault_type: str, sensor: str, record: _FrameRecord) -> list[Fault]:
        matching = (f for f in self.faults if f.type == fault_type and f.sensor == sensor)
        return [f for f in matching if f.active(record.seconds)]

    def _has_outage(self, sensor: str, record: _FrameRecord) -> bool:
        return bool(self._active_faults("outage", sensor, record))

    def _reported_stamp(self, sensor: str, record: _FrameRecord) -> int:
        """The stamp of a sensor's reading, with the rig's time offset and simulated time offsets."""
        offset = self.rig.sensors[sensor].time_offset_s
        offset += sum(f.value for f in self._active_faults("time_offset", sensor, record))
        return record.stamp_ns + round(offset * NANOSECONDS_PER_SECOND)

    def _true_extrinsics(self, sensor: str, record: _FrameRecord) -> NDArray[np.float64]:
        """base_from_sensor (4, 4) with simulated extrinsic errors; the published ones are without."""
        pose = self._extrinsics[sensor]
        for fault in self._active_faults("extrinsic_error", sensor, record):
            pose = pose @ poses.from_xyz_rpy(fault.xyz, fault.rpy)
        return pose

    def _true_pose(self, sensor: str, record: _FrameRecord) -> NDArray[np.float64]:
        """A sensor's pose (4, 4) in the scene's frame."""
        return record.scene.sensor_pose(
            record.odom_from_base, self._true_extrinsics(sensor, record)
        )

    def _random_generator(self, sensor: str, record: _FrameRecord) -> np.random.Generator:
        """A random generator for one sensor in one frame, seeded independently of all others."""
        entropy = (self.seed, record.index, zlib.crc32(sensor.encode()))
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))


def _extrinsics(rig: Rig) -> dict[str, NDArray[np.float64]]:
    """base_from_sensor (4, 4) of each sensor. Raises SimulationError."""
    if not rig.sensors:
        raise SimulationError(f"rig {rig.name}: a simulation needs at least one sensor")
    extrinsics = {}
    for name, sensor in rig.sensors.items():
        pose = sensor.base_from_sensor()
        if pose is None:
            raise SimulationError(
                f"rig {rig.name}: sensor {name}: needs extrinsics to be simulated"
            )
        extrinsics[name] = pose
    return extrinsics


def _camera_model(sensor: Sensor) -> CameraModel:
    if sensor.intrinsics is None:
        raise SimulationError(f"sensor {sensor.name}: needs intrinsics to be simulated")
    return sensor.intrinsics.camera_model()
