"""perception_node: the lifecycle node that runs the pipeline on a vehicle's topics."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from traceback import format_exc
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.messages import message_types
from multimodal_perception.perception import ImageQuality, Level, SensorHealth
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.pipeline_builder import build_pipeline
from multimodal_perception.pointcloud.deskew import compile_kernels
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.ros import diagnostics, outputs, parameters
from multimodal_perception.ros.calibration_outputs import CalibrationOutputs
from multimodal_perception.ros.clock import NodeClock
from multimodal_perception.ros.package_log import PackageLog
from multimodal_perception.ros.publishers import OutputPublishers
from multimodal_perception.ros.qos import LATCHED_QOS, MOTION_QOS, SENSOR_QOS
from multimodal_perception.ros.spinning import spin
from multimodal_perception.ros.worker import NewestFirstWorker
from multimodal_perception.sensor_use import RigUse
from multimodal_perception.synchronization.intake import MOVING_TOPIC, STATIC_TOPIC, MessageIntake
from multimodal_perception.synchronization.sensor_health import clock_statistics, sensor_health

# Period of the check whether an incomplete frame has reached its deadline, seconds.
DEADLINE_CHECK_S = 0.01


@dataclass(frozen=True)
class _Job:
    """A frame, and the time (time.perf_counter) at which the message that completed it arrived."""

    frame: SensorFrame
    arrival_s: float


class PerceptionNode(LifecycleNode):
    """Subscribes to a rig's topics; publishes boxes, occupancy, masks, markers, times and diagnostics.

    Messages are decoded and synchronized on the executor's thread. Inference runs on a thread of its
    own: it takes longer than the interval between messages, which would otherwise be lost.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("perception", **node_arguments)
        parameters.declare(self)
        self.add_on_set_parameters_callback(self._check_change)
        self._log = PackageLog(self.get_logger())
        self._node_clock = NodeClock(self)
        self._steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._types = message_types.RclpyTypes()
        self._config = parameters.NodeConfig()
        self._rig: Rig | None = None
        self._rig_use = RigUse()
        self._pipeline: Pipeline | None = None
        self._intake: MessageIntake | None = None
        self._publishers_owned: OutputPublishers | None = None
        self._worker: NewestFirstWorker[_Job] | None = None
        self._calibration_monitor: CalibrationOutputs | None = None
        self._subscriptions_owned: list[Any] = []
        self._timers_owned: list[Any] = []
        self._reset_statistics()

    def _reset_statistics(self) -> None:
        self._reported_drops: dict[str, dict[str, int]] = {}
        self._health: dict[str, SensorHealth] = {}
        self._image_quality: Mapping[str, ImageQuality] = {}
        self._frames_processed, self._max_latency_s = 0, 0.0
        self._frames_withheld, self._frames_without_required = 0, 0
        self._last_counts: dict[str, int] = {}

    # Lifecycle transitions ----------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load parameters, rig and pipeline. An error is logged; the node stays unconfigured."""
        try:
            self._log.attach()
            self._config = parameters.read(self)
            self._rig = load_rig(resolve_rig_path(self._config.rig))
            self._pipeline = build_pipeline(self._config.pipeline)
            compile_kernels()  # of deskewing, which runs on the executor's thread
            self._publishers_owned = OutputPublishers(self, self._types, self._rig, self._config)
        except Exception as error:  # rclpy would not print it
            expected = isinstance(error, UserError)
            self.get_logger().error(f"cannot configure: {error if expected else format_exc()}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        self._rig_use = self._pipeline.sensor_use(self._rig)
        for line in self._rig_use.lines:
            self.get_logger().warning(line)
        sensors = ", ".join(self._rig.sensors)
        self.get_logger().info(f"configured: rig {self._rig.name} with {sensors}")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start to publish."""
        assert self._rig is not None
        result = super().on_activate(state)
        config = self._config
        rate_hz = config.frame_rate_hz or None
        self._intake = MessageIntake(
            self._rig, config.deadline_s, config.synchronization_policy, rate_hz
        )
        self._reported_drops = {name: {} for name in self._rig.sensors}
        self._last_counts = {}  # the new worker counts from 0
        self._worker = NewestFirstWorker(self._process, self._log_failure)
        if config.calibration_monitor.period_s:
            self._calibration_monitor = CalibrationOutputs(
                self._types, config.calibration_monitor, self._log_failure
            )
        for topic, name in self._intake.topics.items():
            self._subscribe(topic, name)
        # Publishers that are not latched do not match a latched subscription.
        self._subscribe(STATIC_TOPIC, self._intake.topics[STATIC_TOPIC], MOTION_QOS, "volatile")
        # Timers of simulated time would never fire without /clock.
        periods = {
            self._check_deadline: DEADLINE_CHECK_S,
            self._publish_diagnostics: config.diagnostics_period_s,
        }
        self._timers_owned = [
            self.create_timer(period_s, callback, clock=self._steady_clock)
            for callback, period_s in periods.items()
        ]
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Destroy subscriptions and timers, and end the threads."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything that on_configure created."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, from any state."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, so that the node can be configured again."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _stop(self) -> None:
        for subscription in self._subscriptions_owned:
            self.destroy_subscription(subscription)
        for timer in self._timers_owned:
            self.destroy_timer(timer)
        self._subscriptions_owned, self._timers_owned = [], []
        if self._worker is not None and not self._worker.stop():
            self.get_logger().error("inference did not end within 5 s")
        if self._calibration_monitor is not None:
            self._calibration_monitor.stop()
        self._worker = self._intake = self._calibration_monitor = None

    def _release(self) -> None:
        self._stop()
        self._log.detach()
        if self._publishers_owned is not None:
            self._publishers_owned.close()
        self._rig = self._pipeline = self._publishers_owned = None
        self._reset_statistics()

    # Messages in (on the executor's thread) -------------------------------------------------------

    def _subscribe(
        self, topic: str, name: str, qos: QoSProfile | None = None, entity: str = ""
    ) -> None:
        """Subscribe through message_filters if it is installed, otherwise directly.

        entity: name of a second subscription to the same topic in the QoS parameters.
        """
        if qos is None:
            qos = {STATIC_TOPIC: LATCHED_QOS, MOVING_TOPIC: MOTION_QOS}.get(topic, SENSOR_QOS)
        overriding = QoSOverridingOptions.with_default_policies(entity_id=entity or None)
        message_class = message_types.message_class(name)

        def receive(msg: Any) -> None:
            self._receive(topic, msg)

        filters = message_filters()
        if filters is not None:
            subscriber = filters.Subscriber(
                self, message_class, topic, qos_profile=qos, qos_overriding_options=overriding
            )
            subscriber.registerCallback(receive)
            self._subscriptions_owned.append(subscriber.sub)
            return
        subscription = self.create_subscription(
            message_class, topic, receive, qos, qos_overriding_options=overriding
        )
        self._subscriptions_owned.append(subscription)

    def _receive(self, topic: str, msg: Any) -> None:
        assert self._intake is not None
        arrival_s = time.perf_counter()
        self._node_clock.on_message()
        self._submit(self._intake.receive(topic, msg, self._now_ns()), arrival_s)

    def _check_deadline(self) -> None:
        assert self._intake is not None
        now_ns = self._now_ns()
        deadline_ns = self._intake.synchronizer.next_deadline_ns()
        if deadline_ns is not None and now_ns >= deadline_ns:
            self._submit(self._intake.advance(now_ns), time.perf_counter())

    def _submit(self, frames: Sequence[SensorFrame], arrival_s: float) -> None:
        for frame in frames:
            if self._worker is not None:
                self._worker.submit(_Job(frame, arrival_s))

    def _now_ns(self) -> int:
        return self._node_clock.now_ns()

    # Results out (on the inference thread) ------------------------------------------------------

    def _process(self, job: _Job) -> None:
        pipeline, publishers, monitor = (
            self._pipeline,
            self._publishers_owned,
            self._calibration_monitor,
        )
        assert pipeline is not None and publishers is not None
        started_s = time.perf_counter()
        # Health is older than the frame: a sensor that is in the frame is not silent any more.
        health = {
            name: sensor
            for name, sensor in self._health.items()
            if sensor.level in (Level.OK, Level.WARN) or name not in job.frame.present
        }
        perception = pipeline.process(
            job.frame,
            health,
            requested=publishers.requested(),
            agreement=None if monitor is None else monitor.agreement,
        )
        self._image_quality = {**self._image_quality, **perception.image_quality}
        processed_s = time.perf_counter()
        if self._has_result(job.frame, len(perception.boxes)):
            publishers.publish_objects(perception)
        published_s = time.perf_counter()
        publishers.publish_others(perception, job.frame)
        times = {
            "intake": 1e3 * (started_s - job.arrival_s),
            "publish_objects": 1e3 * (published_s - processed_s),
            "publish_others": 1e3 * (time.perf_counter() - published_s),
        }
        timing = diagnostics.timing_message(self._types, perception, times, job.frame)
        publishers.publish(outputs.TIMING_TOPIC, timing)
        self._frames_processed += 1
        self._max_latency_s = max(self._max_latency_s, published_s - job.arrival_s)
        if monitor is not None:
            monitor.offer(job.frame)

    def _has_result(self, frame: SensorFrame, boxes: int) -> bool:
        """Return whether the boxes are a result: none without a required sensor is not "no objects"."""
        assert self._rig is not None
        if not any(self._rig.sensors[name].required for name in frame.dropped):
            return True
        self._frames_without_required += 1
        self._frames_withheld += not boxes
        return boxes > 0

    def _log_failure(self, error: Exception) -> None:
        self.get_logger().error(
            f"a frame could not be processed: {type(error).__name__}: {error}",
            throttle_duration_sec=1.0,
        )

    # Diagnostics (on the executor's thread) -----------------------------------------------------

    def _publish_diagnostics(self) -> None:
        intake, pipeline, publishers = self._intake, self._pipeline, self._publishers_owned
        assert intake is not None and pipeline is not None and publishers is not None
        now_ns, name = self._now_ns(), self.get_fully_qualified_name()
        statuses = [self._pipeline_status(name, intake, pipeline)]
        statuses += [diagnostics.stage_status(self._types, name, s) for s in pipeline.status]
        statuses.append(diagnostics.sensor_use_status(self._types, name, self._rig_use.status))
        statuses += self._sensor_statuses(name, intake, now_ns)
        if self._calibration_monitor is not None:
            statuses += self._calibration_monitor.statuses(name)
        for notice in intake.pop_notices():
            self.get_logger().warning(notice)
        message = diagnostics.diagnostic_array(self._types, now_ns, statuses)
        publishers.publish(outputs.DIAGNOSTICS_TOPIC, message)

    def _sensor_statuses(self, node: str, intake: MessageIntake, now_ns: int) -> list[Any]:
        assert self._rig is not None
        statuses: list[Any] = []
        current: dict[str, SensorHealth] = {}
        for sensor in self._rig.sensors.values():
            drops = intake.drop_counts(sensor.name)
            statistics = intake.statistics()[sensor.name]
            last = self._reported_drops[sensor.name]
            streak = intake.assembler.unusable_streaks[sensor.name]
            health = sensor_health(
                sensor, statistics, drops, last, now_ns, self._config.health, streak
            )
            self._reported_drops[sensor.name] = drops
            current[sensor.name] = health
            statuses.append(
                diagnostics.sensor_status(
                    self._types,
                    node,
                    health,
                    clock_statistics(statistics),
                    self._image_quality.get(sensor.name),
                    self._config.pipeline.image_quality.warn_quality,
                    intake.details(sensor.name),
                )
            )
        # A new dictionary each time: the inference thread may be reading the last one.
        self._health = current
        return statuses

    def _pipeline_status(self, node: str, intake: MessageIntake, pipeline: Pipeline) -> Any:
        assert self._rig is not None and self._worker is not None
        synchronizer = intake.synchronizer
        other_drops = {
            f"dropped.{topic}.{reason}": n
            for (topic, reason), n in sorted(intake.drops.items())
            if topic not in self._rig.sensors
        }
        counts = {
            "frames_synchronized": synchronizer.sets,
            "frames_incomplete": synchronizer.incomplete,
            "frames_processed": self._frames_processed,
            "frames_dropped_busy": self._worker.dropped,
            "frames_failed": self._worker.failed,
            "frames_withheld": self._frames_withheld,
            "frames_without_required": self._frames_without_required,
            "clock_jumps": synchronizer.clock_jumps,
            **pipeline.counts,
            **other_drops,
        }
        clock_problem = self._node_clock.problem
        if clock_problem:
            self.get_logger().error(clock_problem, throttle_duration_sec=5.0)
        last, self._last_counts = self._last_counts, counts
        latency_s, self._max_latency_s = self._max_latency_s, 0.0
        return diagnostics.pipeline_status(
            self._types,
            node,
            pipeline.detector.name,
            counts,
            last,
            latency_s,
            self._config.warn_latency_s,
            clock_problem,
            {**intake.details("odometry"), **self._rig_use.details},
        )

    # Parameters -----------------------------------------------------------------------------------

    def _check_change(self, changed: list[Parameter[Any]]) -> SetParametersResult:
        """Refuse changes while configured: parameters are read by on_configure only."""
        ours = {entry.name for entry in parameters.entries()} - {"autostart"}
        names = [p.name for p in changed if p.name in ours]
        if names and self._pipeline is not None:
            reason = f"{', '.join(names)}: deactivate and clean up the node first"
            return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)


def message_filters() -> Any:
    """The message_filters package, or None if it is not installed."""
    try:
        import message_filters as module
    except ImportError:
        return None
    return module


def make_perception_node() -> PerceptionNode:
    """The node, configured and activated if the parameter `autostart` is set.

    Raises UserError if that fails.
    """
    node = PerceptionNode()
    if node.get_parameter("autostart").value:
        success = TransitionCallbackReturn.SUCCESS
        if node.trigger_configure() != success or node.trigger_activate() != success:
            node.destroy_node()
            raise UserError("the node could not be started; the reason is in its log")
    return node


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of perception_node."""
    return spin(make_perception_node, sys.argv if args is None else args)


if __name__ == "__main__":
    sys.exit(main())
