"""A drive through a scenario with a rig, frame by frame, with all that is true of each."""

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
    CameraImage,
    LidarSweep,
    Modality,
    SensorFrame,
    ThermalImage,
    UltrasonicReading,
)
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.pointcloud.deskew import deskew
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.simulation.sensors.camera import SimulatedCamera, View
from multimodal_perception.simulation.sensors.conditions import (
    Conditions,
    Fault,
    apply_conditions,
    check_faults,
)
from multimodal_perception.simulation.sensors.lidar import SimulatedLidar, SweepTruth
from multimodal_perception.simulation.sensors.thermal import SimulatedThermal
from multimodal_perception.simulation.sensors.ultrasonic import SimulatedUltrasonic, nearest_echoes
from multimodal_perception.simulation.truth import FrameTruth, GridLayout, true_boxes, true_grid
from multimodal_perception.simulation.world.scenarios import Scenario, load_scenario
from multimodal_perception.simulation.world.scene import Scene, World

FIRST_STAMP_NS = 1_700_000_000_000_000_000
DEFAULT_RATE_HZ = 10.0


class SimulationError(UserError):
    """A simulation that cannot be made of this rig or these numbers; the message says why."""


@dataclass(frozen=True)
class Observation:
    """One frame as the sensors tell it (sweeps not deskewed), what is true, and what it cost.

    spent_ms: by sensor name, and "scene" and "truth".
    """

    frame: SensorFrame
    truth: FrameTruth
    spent_ms: dict[str, float]


@dataclass
class _Moment:
    """What is gathered while one frame is made."""

    index: int
    seconds: float
    stamp_ns: int
    scene: Scene
    odom_from_base: NDArray[np.float64]
    lidars: dict[str, LidarSweep] = field(default_factory=dict)
    cameras: dict[str, CameraImage] = field(default_factory=dict)
    thermals: dict[str, ThermalImage] = field(default_factory=dict)
    ultrasonics: dict[str, UltrasonicReading] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    points: dict[str, SweepTruth] = field(default_factory=dict)
    echoes: dict[str, float] = field(default_factory=dict)
    spent_ms: dict[str, float] = field(default_factory=dict)


class Simulation:
    """A Dataset whose frames are made when asked for; any frame alone is the same as in a row."""

    def __init__(
        self,
        scenario: Scenario | str,
        rig: Rig,
        seed: int = 0,
        frames: int = 100,
        conditions: Sequence[str] = (),
        faults: Sequence[Fault] = (),
        grid: GridLayout | None = None,
    ) -> None:
        """conditions: modifiers such as "night" or "fog=80" on top of the scenario's own.

        Raises SimulationError for a rig or numbers that cannot be simulated, ScenarioError for an
        unknown scenario, UserError for an unknown condition.
        """
        self.scenario = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
        self.name = f"simulated {self.scenario.name}"
        self.rig = rig
        self.seed = seed
        self.grid = GridLayout() if grid is None else grid
        self.conditions: Conditions = apply_conditions(self.scenario.conditions, conditions)
        self.faults = (*self.scenario.faults, *faults)
        self._frames = frames
        if not 1 <= frames <= 1_000_000:
            raise SimulationError(f"frames: allowed: 1 to 1000000; got {frames}")
        if not 0 <= seed < 1 << 63:
            raise SimulationError(f"seed: allowed: 0 to 2^63 - 1; got {seed}")
        check_faults(self.faults, {n: s.modality.value for n, s in rig.sensors.items()})
        self._places = _places(rig)
        lidars = rig.of(Modality.LIDAR)
        self._lidars = [SimulatedLidar(s) for s in lidars.values()]
        self._cameras = [SimulatedCamera(s, _model(s)) for s in rig.of(Modality.CAMERA).values()]
        self._thermals = [SimulatedThermal(s, _model(s)) for s in rig.of(Modality.THERMAL).values()]
        self._ultrasonics = [SimulatedUltrasonic(s) for s in rig.of(Modality.ULTRASONIC).values()]
        self.rate_hz = next(iter(lidars.values())).rate_hz if lidars else DEFAULT_RATE_HZ
        self._world = World(self.scenario, seed)
        self._last: tuple[int, Observation] | None = None

    def __len__(self) -> int:
        return self._frames

    def __iter__(self) -> Iterator[SensorFrame]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> SensorFrame:
        """Make one frame, its sweeps deskewed with the true motion. Raises IndexError."""
        frame = self.observe(index).frame
        lidars = {
            name: deskew(sweep, self.odometry, frame.base_from_sensor[name])
            for name, sweep in frame.lidars.items()
        }
        return replace(frame, lidars=lidars)

    def truth(self, index: int) -> FrameTruth:
        """All that is true of one frame. Raises IndexError."""
        return self.observe(index).truth

    def stamp_ns(self, index: int) -> int:
        """The true time of a frame."""
        return FIRST_STAMP_NS + round(index * NANOSECONDS / self.rate_hz)

    def odometry(self, stamp_ns: int) -> NDArray[np.float64]:
        """odom_from_base (4, 4) at a time, exact."""
        return self.scenario.ego.odom_from_base((stamp_ns - FIRST_STAMP_NS) / NANOSECONDS)

    def observe(self, index: int) -> Observation:
        """Make one frame with its truth; the last one is kept. Raises IndexError."""
        index = range(self._frames)[index]
        if self._last is not None and self._last[0] == index:
            return self._last[1]
        stamp_ns = self.stamp_ns(index)
        seconds = (stamp_ns - FIRST_STAMP_NS) / NANOSECONDS
        start = perf_counter()
        scene = self._world.scene(seconds)
        moment = _Moment(index, seconds, stamp_ns, scene, self.odometry(stamp_ns))
        moment.spent_ms["scene"] = 1e3 * (perf_counter() - start)
        self._sweep(moment)
        self._photograph(moment)
        self._measure_heat(moment)
        self._listen(moment)
        start = perf_counter()
        truth = self._tell(moment)
        moment.spent_ms["truth"] = 1e3 * (perf_counter() - start)
        observation = Observation(self._frame(moment, truth), truth, moment.spent_ms)
        self._last = index, observation
        return observation

    def _sweep(self, m: _Moment) -> None:
        ego = self.scenario.ego
        for lidar in self._lidars:
            if self._silent(lidar.name, m):
                continue
            start = perf_counter()
            m.lidars[lidar.name], m.points[lidar.name] = lidar.sweep(
                m.scene,
                self._true_place(lidar.name, m),
                lambda offset: ego.odom_from_base(m.seconds + offset),
                self._reported_stamp(lidar.name, m),
                self._weather(),
                self._chance(lidar.name, m),
                sum(f.value for f in self._active("ring_loss", lidar.name, m)),
            )
            m.spent_ms[lidar.name] = 1e3 * (perf_counter() - start)

    def _photograph(self, m: _Moment) -> None:
        ego = m.scene.sensor_pose(m.odom_from_base, np.eye(4))
        for camera in self._cameras:
            if self._silent(camera.name, m):
                continue
            start = perf_counter()
            place = self._true_place(camera.name, m)
            pixels, m.views[camera.name] = camera.take(
                m.scene,
                m.scene.sensor_pose(m.odom_from_base, place),
                ego,
                self.conditions,
                self.scenario.indoor,
                self._chance(camera.name, m),
                partial(self._pose_after, m, place),
            )
            m.cameras[camera.name] = CameraImage(
                camera.name,
                self._reported_stamp(camera.name, m),
                self.rig.sensors[camera.name].frame_id,
                pixels,
            )
            m.spent_ms[camera.name] = 1e3 * (perf_counter() - start)

    def _pose_after(
        self, m: _Moment, place: NDArray[np.float64], seconds: float
    ) -> NDArray[np.float64]:
        """Pose (4, 4) in the scene of what sits at a place of the vehicle, a little later or before."""
        return m.scene.sensor_pose(self.scenario.ego.odom_from_base(m.seconds + seconds), place)

    def _measure_heat(self, m: _Moment) -> None:
        for thermal in self._thermals:
            if self._silent(thermal.name, m):
                continue
            start = perf_counter()
            pose = m.scene.sensor_pose(m.odom_from_base, self._true_place(thermal.name, m))
            pixels, m.views[thermal.name] = thermal.take(
                m.scene, pose, self.conditions, self.scenario.indoor, self._chance(thermal.name, m)
            )
            m.thermals[thermal.name] = ThermalImage(
                thermal.name,
                self._reported_stamp(thermal.name, m),
                self.rig.sensors[thermal.name].frame_id,
                pixels,
                thermal.kelvin if pixels.dtype == np.uint16 else None,
            )
            m.spent_ms[thermal.name] = 1e3 * (perf_counter() - start)

    def _listen(self, m: _Moment) -> None:
        start = perf_counter()
        places = {
            s.name: m.scene.sensor_pose(m.odom_from_base, self._true_place(s.name, m))
            for s in self._ultrasonics
        }
        m.echoes = nearest_echoes(self._ultrasonics, m.scene, places)
        for sensor in self._ultrasonics:
            if self._silent(sensor.name, m):
                continue
            others = [e for n, e in m.echoes.items() if n != sensor.name]
            reading = sensor.reading(
                m.echoes[sensor.name],
                others,
                self._reported_stamp(sensor.name, m),
                self._chance(sensor.name, m),
            )
            for spoof in self._active("spoofed_echo", sensor.name, m):
                reading = sensor.reported(spoof.value, reading.stamp_ns)
            m.ultrasonics[sensor.name] = reading
        if self._ultrasonics:
            m.spent_ms["ultrasonics"] = 1e3 * (perf_counter() - start)

    def _tell(self, m: _Moment) -> FrameTruth:
        names = [s.name for s in self._lidars] or [s.name for s in self._cameras]
        eyes = [m.scene.sensor_pose(m.odom_from_base, self._places[n])[:3, 3] for n in names] or [
            m.scene.sensor_pose(m.odom_from_base, poses.from_xyz_rpy((0, 0, 1.5)))[:3, 3]
        ]
        boxes, visibility = true_boxes(
            m.scene,
            m.odom_from_base,
            eyes[0],
            list(m.points.values()),
            m.stamp_ns,
            self.rig.base_frame,
        )
        grid, semantic = true_grid(
            m.scene, m.odom_from_base, eyes, self.grid, m.stamp_ns, self.rig.base_frame
        )
        return FrameTruth(
            m.stamp_ns,
            boxes,
            visibility,
            grid,
            semantic,
            m.odom_from_base,
            m.views,
            m.points,
            m.echoes,
        )

    def _frame(self, m: _Moment, truth: FrameTruth) -> SensorFrame:
        models = {s.name: s.model for s in self._cameras if s.name in m.cameras}
        models |= {s.name: s.model for s in self._thermals if s.name in m.thermals}
        present = (*m.lidars, *m.cameras, *m.thermals, *m.ultrasonics)
        return SensorFrame(
            m.stamp_ns,
            self.rig.base_frame,
            m.lidars,
            m.cameras,
            m.thermals,
            m.ultrasonics,
            {n: self._places[n] for n in present},
            models,
            odom_from_base=m.odom_from_base,
            expected=frozenset(self.rig.sensors),
            labels=truth.boxes,
            own_vehicle=self.rig.own_vehicle,
        )

    def _weather(self) -> Conditions:
        if not self.scenario.indoor:
            return self.conditions
        return replace(self.conditions, fog_visibility=0.0, rain=0.0)

    def _active(self, kind: str, sensor: str, m: _Moment) -> list[Fault]:
        return [
            f for f in self.faults if f.kind == kind and f.sensor == sensor and f.active(m.seconds)
        ]

    def _silent(self, sensor: str, m: _Moment) -> bool:
        return bool(self._active("dead", sensor, m))

    def _reported_stamp(self, sensor: str, m: _Moment) -> int:
        late = self.rig.sensors[sensor].time_offset_s
        late += sum(f.value for f in self._active("time_offset", sensor, m))
        return m.stamp_ns + round(late * NANOSECONDS)

    def _true_place(self, sensor: str, m: _Moment) -> NDArray[np.float64]:
        pose = self._places[sensor]
        for fault in self._active("extrinsic_error", sensor, m):
            pose = pose @ poses.from_xyz_rpy(fault.xyz, fault.rpy)
        return pose

    def _chance(self, sensor: str, m: _Moment) -> np.random.Generator:
        """Random numbers of one sensor in one frame, whoever asks and when."""
        entropy = (self.seed, m.index, zlib.crc32(sensor.encode()))
        return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))


def _places(rig: Rig) -> dict[str, NDArray[np.float64]]:
    if not rig.sensors:
        raise SimulationError(f"rig {rig.name}: it has no sensors")
    places = {}
    for name, sensor in rig.sensors.items():
        pose = sensor.base_from_sensor()
        if pose is None:
            raise SimulationError(
                f"rig {rig.name}: sensor {name}: needs extrinsics to be simulated"
            )
        places[name] = pose
    return places


def _model(sensor: Sensor) -> CameraModel:
    if sensor.intrinsics is None:
        raise SimulationError(f"sensor {sensor.name}: needs intrinsics to be simulated")
    return sensor.intrinsics.camera_model()
