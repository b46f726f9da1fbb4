"""perception_node: the lifecycle node that runs the pipeline on a vehicle's topics."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from traceback import format_exc
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from multimodal_perception import stages
from multimodal_perception.configuration import UserError
from multimodal_perception.frame import Boxes3D
from multimodal_perception.load_control import LoadController
from multimodal_perception.messages import message_types
from multimodal_perception.perception import Level
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.pipeline_builder import build_pipeline
from multimodal_perception.pipeline_changes import use_thresholds
from multimodal_perception.pointcloud.deskew import compile_kernels
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.ros import diagnostics, outputs, parameters
from multimodal_perception.ros.calibration_outputs import CalibrationOutputs
from multimodal_perception.ros.clock import NodeClock
from multimodal_perception.ros.image_conversion import image_converter
from multimodal_perception.ros.intake_worker import IntakeFrame, IntakeWorker
from multimodal_perception.ros.live_changes import LiveChanges, check_change
from multimodal_perception.ros.node_statistics import NodeStatistics
from multimodal_perception.ros.package_log import PackageLog
from multimodal_perception.ros.publishers import OutputPublishers
from multimodal_perception.ros.qos import LATCHED_QOS, MOTION_QOS, SENSOR_QOS
from multimodal_perception.ros.sensor_reports import SensorReports
from multimodal_perception.ros.services import NodeServices
from multimodal_perception.ros.spinning import spin
from multimodal_perception.ros.subscriptions import TopicSubscriptions
from multimodal_perception.ros.worker import NewestFirstWorker
from multimodal_perception.sensor_use import RigUse
from multimodal_perception.synchronization.intake import MOVING_TOPIC, STATIC_TOPIC, MessageIntake

# Period of the check whether an incomplete frame has reached its deadline, seconds.
DEADLINE_CHECK_S = 0.01
SWITCH_INTERVAL_S = 0.0005


class PerceptionNode(LifecycleNode):
    """Subscribes to a rig's topics; publishes boxes, occupancy, masks, markers, times and diagnostics.

    The executor's thread only takes messages. They are decoded and synchronized on a second thread, and
    the pipeline runs on a third one, so that no message waits for them in DDS and both overlap.
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
        self._services_owned: NodeServices | None = None
        self._changes = LiveChanges(lambda: self._worker is not None)
        self._intake_worker: IntakeWorker | None = None
        self._worker: NewestFirstWorker[IntakeFrame] | None = None
        self._load = LoadController(())
        self._calibration_monitor: CalibrationOutputs | None = None
        self._topics: TopicSubscriptions | None = None
        self._timers_owned: list[Any] = []
        self._sensor_reports: SensorReports | None = None
        self._statistics = NodeStatistics()

    # Lifecycle transitions ----------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load parameters, rig and pipeline. An error is logged; the node stays unconfigured."""
        try:
            self._log.attach()
            self._config = parameters.read(self)
            self._rig = load_rig(resolve_rig_path(self._config.rig), self.get_namespace())
            self._pipeline = build_pipeline(self._config.pipeline, self._rig)
            compile_kernels()  # of deskewing, which is not a stage of the pipeline
            self._load = LoadController(
                stages.load_levels(self._pipeline.detector), self._config.load
            )
            publishers = OutputPublishers(self, self._types, self._rig, self._config)
            self._publishers_owned = publishers
            self._services_owned = NodeServices(
                self, self._pipeline, publishers.occupancy, self._changes.submit
            )
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
        assert self._pipeline is not None and self._publishers_owned is not None
        self._publishers_owned.publish_labels(self._pipeline, self._now_ns())
        config = self._config
        rate_hz = config.frame_rate_hz or None
        self._intake = MessageIntake(
            self._rig,
            config.deadline_s,
            config.synchronization_policy,
            rate_hz,
            config.health.max_stamp_lead_s,
            image_converter(),
        )
        self._sensor_reports = SensorReports(self._types, self._rig, config, self.get_logger())
        self._statistics.last_counts = {}  # the new worker counts from 0
        self._worker = NewestFirstWorker(
            self._process, self._log_failure, on_ready=self._on_worker_ready
        )
        if config.calibration_monitor.period_s:
            self._calibration_monitor = CalibrationOutputs(
                self._types, config.calibration_monitor, self._log_failure
            )
        readings = {s.topic: s.name for s in self._rig.sensors.values()}
        self._intake_worker = IntakeWorker(
            self._intake,
            self._worker.submit,
            lambda: self._worker is not None and self._worker.is_ready,
            self._log_failure,
            readings,
        )
        self._topics = TopicSubscriptions(
            self,
            self._node_clock,
            self._receive,
            readings,
            self._intake.synchronizer.next_deadline_ns,
            self._on_lost,
        )
        for topic, name in self._intake.topics.items():
            qos = {STATIC_TOPIC: LATCHED_QOS, MOVING_TOPIC: MOTION_QOS}.get(topic, SENSOR_QOS)
            self._topics.add(topic, name, qos)
        # Publishers that are not latched do not match a latched subscription.
        self._topics.add(STATIC_TOPIC, self._intake.topics[STATIC_TOPIC], MOTION_QOS, "volatile")
        # Timers of simulated time would never fire without /clock.
        periods = {
            self._check_deadline: DEADLINE_CHECK_S,
            self._request_diagnostics: config.diagnostics_period_s,
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
        if self._topics is not None:
            self._topics.close()
        for timer in self._timers_owned:
            self.destroy_timer(timer)
        self._topics, self._timers_owned = None, []
        if self._intake_worker is not None and not self._intake_worker.stop():
            self.get_logger().error("decoding did not end within 5 s")
        if self._worker is not None and not self._worker.stop():
            self.get_logger().error("inference did not end within 5 s")
        if self._calibration_monitor is not None:
            self._calibration_monitor.stop()
        self._worker = self._intake_worker = self._intake = self._calibration_monitor = None

    def _release(self) -> None:
        self._stop()
        self._log.detach()
        if self._services_owned is not None:
            self._services_owned.close()
        if self._publishers_owned is not None:
            self._publishers_owned.close()
        self._rig = self._pipeline = self._publishers_owned = self._services_owned = None
        self._sensor_reports, self._statistics = None, NodeStatistics()

    # Messages in (on the executor's thread) -------------------------------------------------------

    def _receive(self, topic: str, msg: Any, arrival_ns: int) -> None:
        assert self._intake_worker is not None
        arrival_s = time.perf_counter()
        self._node_clock.on_message()
        self._intake_worker.receive(topic, msg, arrival_ns, arrival_s)
        elapsed_s = time.perf_counter() - arrival_s
        self._statistics.max_callback_s = max(self._statistics.max_callback_s, elapsed_s)

    def _on_lost(self, topic: str, count: int) -> None:
        assert self._intake is not None and self._intake_worker is not None
        self._intake_worker.call(partial(self._intake.count_lost, topic, count))

    def _check_deadline(self) -> None:
        """Close a frame at its deadline, after messages that have arrived by then have been taken."""
        assert self._intake is not None and self._topics is not None
        assert self._intake_worker is not None
        synchronizer = self._intake.synchronizer
        synchronizer.clock.resolution_ns = self._node_clock.resolution_ns
        deadline_ns = synchronizer.next_deadline_ns()
        if deadline_ns is None or self._now_ns() < deadline_ns:
            return
        now_ns = self._now_ns()
        self._topics.take_waiting()
        deadline_ns = synchronizer.next_deadline_ns()
        if deadline_ns is not None and now_ns >= deadline_ns:
            self._intake_worker.advance(now_ns)

    def _on_worker_ready(self) -> None:
        if self._intake_worker is not None:
            self._intake_worker.consumer_became_ready()

    def _now_ns(self) -> int:
        return self._node_clock.now_ns()

    # Results out (on the inference thread) ------------------------------------------------------

    def _process(self, job: IntakeFrame) -> None:
        pipeline, publishers, monitor = (
            self._pipeline,
            self._publishers_owned,
            self._calibration_monitor,
        )
        rig, statistics = self._rig, self._statistics
        assert pipeline is not None and publishers is not None and rig is not None
        self._changes.apply()
        started_s = time.perf_counter()
        reported = {} if self._sensor_reports is None else self._sensor_reports.health
        # Health is older than the frame: a sensor that is in the frame is not silent any more.
        health = {
            name: sensor
            for name, sensor in reported.items()
            if sensor.level in (Level.OK, Level.WARN) or name not in job.frame.present
        }
        stages.set_load_level(pipeline.detector, self._load.level)
        published_s = started_s

        def publish_boxes(boxes: Boxes3D) -> None:
            nonlocal published_s
            if statistics.has_result(rig, job.frame, len(boxes)):
                publishers.publish_objects(boxes)
            published_s = time.perf_counter()

        perception = pipeline.process(
            job.frame,
            health,
            requested=publishers.requested(),
            agreement=None if monitor is None else monitor.agreement,
            on_boxes=publish_boxes,
        )
        processed_s = time.perf_counter()
        publishers.publish_others(perception, job.frame)
        publishers.publish_labels(pipeline, perception.stamp_ns, perception)
        ended_s = time.perf_counter()
        if job.period_s:
            self._load.observe(ended_s - started_s, job.period_s)
        times = {
            "intake_queue": 1e3 * (job.started_s - job.arrival_s),
            "decode": 1e3 * (job.ready_s - job.started_s),
            "inference_queue": 1e3 * (started_s - job.ready_s),
            "until_objects": 1e3 * (published_s - started_s),
            "node": 1e3 * (published_s - job.arrival_s),
            "publish_others": 1e3 * (ended_s - processed_s),
        }
        timing = diagnostics.timing_message(self._types, perception, times, job.frame)
        publishers.publish(outputs.TIMING_TOPIC, timing)
        statistics.add(perception, published_s - job.arrival_s)
        if monitor is not None:
            monitor.offer(job.frame)

    def _log_failure(self, error: Exception) -> None:
        self.get_logger().error(
            f"a frame could not be processed: {type(error).__name__}: {error}",
            throttle_duration_sec=1.0,
        )

    # Diagnostics (on the intake's thread) ---------------------------------------------------------

    def _request_diagnostics(self) -> None:
        """Called by the executor: the intake's state is read on the thread that changes it."""
        if self._intake_worker is not None:
            self._intake_worker.call(self._publish_diagnostics)

    def _publish_diagnostics(self) -> None:
        intake, pipeline, publishers = self._intake, self._pipeline, self._publishers_owned
        reports = self._sensor_reports
        assert intake is not None and pipeline is not None and publishers is not None
        assert reports is not None
        assert self._worker is not None and self._intake_worker is not None
        now_ns, name = self._now_ns(), self.get_fully_qualified_name()
        statistics, clock_problem = self._statistics, self._node_clock.problem
        if clock_problem:
            self.get_logger().error(clock_problem, throttle_duration_sec=5.0)
        statuses = [
            statistics.pipeline_status(
                self._types,
                name,
                pipeline,
                intake,
                (self._worker, self._intake_worker),
                self._rig_use,
                self._config.warn_latency_s,
                clock_problem,
            )
        ]
        statuses += [diagnostics.stage_status(self._types, name, s) for s in pipeline.status]
        evidence = pipeline.evidence_status
        if evidence is not None:
            statuses.append(diagnostics.evidence_status(self._types, name, evidence))
        statuses.append(diagnostics.load_status(self._types, name, self._load))
        statuses.append(diagnostics.sensor_use_status(self._types, name, self._rig_use.status))
        statuses += reports.sensor_statuses(
            name, intake, now_ns, statistics.image_quality, statistics.frozen
        )
        statuses.append(reports.odometry_status(name, intake, now_ns))
        if self._calibration_monitor is not None:
            statuses += self._calibration_monitor.statuses(name)
        for notice in intake.pop_notices():
            self.get_logger().warning(notice)
        message = diagnostics.diagnostic_array(self._types, now_ns, statuses)
        publishers.publish(outputs.DIAGNOSTICS_TOPIC, message)

    # Parameters -----------------------------------------------------------------------------------

    def _check_change(self, changed: list[Parameter[Any]]) -> SetParametersResult:
        """Use changes of dynamic parameters; refuse others while the node is configured."""
        result, config = check_change(self, changed, self._pipeline is not None)
        if config is not None:
            self._use(config)
        return result

    def _use(self, config: parameters.NodeConfig) -> None:
        """Use changed dynamic parameters."""
        pipeline, publishers = self._pipeline, self._publishers_owned
        assert pipeline is not None and publishers is not None
        self._config, self._load.config = config, config.load
        publishers.use(config)
        if self._sensor_reports is not None:
            self._sensor_reports.use(config)

        def change() -> None:
            use_thresholds(pipeline, config.pipeline)
            publishers.publish_labels(pipeline, self._now_ns())

        self._changes.submit(change)


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
    # A thread that returns from a library waits for the interpreter at most this long, by default 5 ms;
    # three threads pass messages and frames to each other.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return spin(make_perception_node, sys.argv if args is None else args)


if __name__ == "__main__":
    sys.exit(main())
