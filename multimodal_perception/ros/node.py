"""perception_node: the lifecycle node that runs the pipeline on a vehicle's topics."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from traceback import format_exc
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos_overriding_options import QoSOverridingOptions

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.messages import encoders, message_types
from multimodal_perception.messages.intake import MOVING_TOPIC, STATIC_TOPIC, Intake
from multimodal_perception.perception import ImageTrust, Level, Perception, SensorHealth
from multimodal_perception.pipeline import Pipeline, build_pipeline
from multimodal_perception.pointcloud.deskew import compile_kernels
from multimodal_perception.rig import Rig, load_rig, rig_path
from multimodal_perception.ros import diagnostics, parameters
from multimodal_perception.ros.calibration_outputs import RegistrationOutputs
from multimodal_perception.ros.fused_outputs import fused_messages, fused_topics
from multimodal_perception.ros.image_box_outputs import image_box_messages, image_box_topics
from multimodal_perception.ros.markers import MarkerEncoder
from multimodal_perception.ros.mask_outputs import mask_messages, mask_topics
from multimodal_perception.ros.occupancy_outputs import (
    GRID_TOPIC,
    LAYER_TOPICS,
    MAP_TOPIC,
    OccupancyOutputs,
)
from multimodal_perception.ros.package_log import PackageLog
from multimodal_perception.ros.qos import (
    LATCHED_QOS,
    MAP_QOS,
    MOTION_QOS,
    OUTPUT_QOS,
    SENSOR_QOS,
)
from multimodal_perception.ros.spinning import spin
from multimodal_perception.ros.track_outputs import TRACKS_TOPIC, tracks_message
from multimodal_perception.ros.worker import NewestFirstWorker
from multimodal_perception.synchronization.sensor_health import clock_figures, sensor_health

OUTPUTS = {
    "perception/objects": "vision_msgs/msg/Detection3DArray",
    TRACKS_TOPIC: "sensor_msgs/msg/PointCloud2",
    **dict.fromkeys((GRID_TOPIC, MAP_TOPIC, *LAYER_TOPICS), "nav_msgs/msg/OccupancyGrid"),
    "perception/markers": "visualization_msgs/msg/MarkerArray",
    "perception/timing": "diagnostic_msgs/msg/DiagnosticArray",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
}
# Between looks at the deadline of a frame that is still waiting.
TICK_S = 0.01


@dataclass(frozen=True)
class _Job:
    """A frame, when its last message came and what its synchronising took."""

    frame: SensorFrame
    arrival_s: float


class PerceptionNode(LifecycleNode):
    """Rig topics in; boxes, occupancy, masks, markers, stage times and diagnostics out."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("perception", **node_arguments)
        parameters.declare(self)
        self.add_on_set_parameters_callback(self._check_change)
        self._log = PackageLog(self.get_logger())
        self._types = message_types.RclpyTypes()
        self._config = parameters.NodeConfig()
        self._rig: Rig | None = None
        self._pipeline: Pipeline | None = None
        self._intake: Intake | None = None
        self._markers: MarkerEncoder | None = None
        self._occupancy: OccupancyOutputs | None = None
        self._worker: NewestFirstWorker[_Job] | None = None
        self._registration: RegistrationOutputs | None = None
        self._outputs: dict[str, Any] = {}
        self._subscriptions_owned: list[Any] = []
        self._timers_owned: list[Any] = []
        self._reported: dict[str, dict[str, int]] = {}
        self._health: dict[str, SensorHealth] = {}
        self._trust: Mapping[str, ImageTrust] = {}
        self._frames, self._worst_s = 0, 0.0
        self._last_counts: dict[str, int] = {}

    # Transitions ------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load parameters, rig and pipeline. What is wrong is logged; the node stays unconfigured."""
        try:
            self._log.attach()
            self._config = parameters.read(self)
            self._rig = load_rig(rig_path(self._config.rig))
            self._pipeline = build_pipeline(self._config.pipeline)
            compile_kernels()  # of deskewing, which happens on the executor's thread
            self._markers = MarkerEncoder(self._types, self._config.marker_lifetime_s)
            self._occupancy = OccupancyOutputs(self._types, self._config.occupancy)
            pictures = mask_topics(self._rig) if self._config.pipeline.segmenter != "none" else {}
            if self._config.pipeline.image_fusion.model:
                pictures |= fused_topics(self._rig)
            pictures |= image_box_topics(self._rig, self._config.pipeline)
            for topic, name in {**OUTPUTS, **pictures}.items():
                self._outputs[topic] = self.create_lifecycle_publisher(
                    message_types.message_class(name),
                    topic,
                    MAP_QOS if topic == MAP_TOPIC else OUTPUT_QOS,
                    qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                )
        except Exception as error:  # rclpy would keep it to itself
            known = isinstance(error, UserError)
            self.get_logger().error(f"cannot configure: {error if known else format_exc()}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        sensors = ", ".join(self._rig.sensors)
        self.get_logger().info(f"configured: rig {self._rig.name} with {sensors}")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, and start to publish."""
        assert self._rig is not None
        result = super().on_activate(state)
        config = self._config
        rate_hz = config.frame_rate_hz or None
        self._intake = Intake(self._rig, config.deadline_s, config.policy, rate_hz)
        self._reported = {name: {} for name in self._rig.sensors}
        self._last_counts = {}  # the new worker counts from 0
        self._worker = NewestFirstWorker(self._process, self._report_failure)
        if config.registration.period_s:
            self._registration = RegistrationOutputs(
                self._types, config.registration, self._report_failure
            )
        for topic, name in self._intake.topics.items():
            self._subscribe(topic, name)
        self._timers_owned = [
            self.create_timer(TICK_S, self._tick),
            self.create_timer(self._config.diagnostics_period_s, self._publish_diagnostics),
        ]
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back subscriptions, timers and the inference thread."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back everything that configure made."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back everything, from any state."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back everything, so that the node can be configured again."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    # Messages in ------------------------------------------------------------------------------

    def _subscribe(self, topic: str, name: str) -> None:
        """Through message_filters where a robot has it, else plainly."""
        qos = {STATIC_TOPIC: LATCHED_QOS, MOVING_TOPIC: MOTION_QOS}.get(topic, SENSOR_QOS)
        overriding = QoSOverridingOptions.with_default_policies()
        kind = message_types.message_class(name)

        def receive(msg: Any) -> None:
            self._receive(topic, msg)

        filters = message_filters()
        if filters is not None:
            subscriber = filters.Subscriber(
                self, kind, topic, qos_profile=qos, qos_overriding_options=overriding
            )
            subscriber.registerCallback(receive)
            self._subscriptions_owned.append(subscriber.sub)
            return
        self._subscriptions_owned.append(
            self.create_subscription(kind, topic, receive, qos, qos_overriding_options=overriding)
        )

    def _receive(self, topic: str, msg: Any) -> None:
        assert self._intake is not None
        arrival_s = time.perf_counter()
        self._submit(self._intake.receive(topic, msg, self._now_ns()), arrival_s)

    def _tick(self) -> None:
        assert self._intake is not None
        now_ns = self._now_ns()
        closes_ns = self._intake.synchronizer.next_deadline_ns()
        if closes_ns is not None and now_ns >= closes_ns:
            self._submit(self._intake.advance(now_ns), time.perf_counter())

    def _submit(self, frames: Sequence[SensorFrame], arrival_s: float) -> None:
        for frame in frames:
            if self._worker is not None:
                self._worker.submit(_Job(frame, arrival_s))

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    # Results out (on the inference thread) ------------------------------------------------------

    def _process(self, job: _Job) -> None:
        pipeline = self._pipeline
        assert pipeline is not None and self._markers is not None
        started_s = time.perf_counter()
        # Who speaks in this frame is not silent, whatever was judged before it came.
        health = {
            name: judged
            for name, judged in self._health.items()
            if judged.level in (Level.OK, Level.WARN) or name not in job.frame.present
        }
        if self._registration is not None:
            pipeline.trust.agreement = self._registration.agreement
        perception = pipeline.process(job.frame, health)
        self._trust = {**self._trust, **perception.trust}
        done_s = time.perf_counter()
        self._publish(
            "perception/objects", encoders.boxes_to_message(self._types, perception.boxes)
        )
        answered_s = time.perf_counter()
        if self._is_heard(TRACKS_TOPIC):
            self._publish(TRACKS_TOPIC, tracks_message(self._types, perception.boxes))
        # The boxes go first: what only pictures need must not delay them.
        self._publish_occupancy(perception, job.frame)
        self._publish("perception/markers", self._markers.encode(perception.boxes))
        masks = perception.segmentations
        for topic, msg in mask_messages(self._types, job.frame, masks, self._is_heard):
            self._publish(topic, msg)
        assert self._rig is not None
        for topic, msg in fused_messages(self._types, self._rig, perception.fused_images):
            self._publish(topic, msg)
        for topic, msg in image_box_messages(self._types, job.frame, perception.boxes2d):
            self._publish(topic, msg)
        extra = {
            "intake": 1e3 * (started_s - job.arrival_s),
            "publish_objects": 1e3 * (answered_s - done_s),
            "publish_others": 1e3 * (time.perf_counter() - answered_s),
        }
        timing = diagnostics.timing_message(self._types, perception, extra, job.frame)
        self._publish("perception/timing", timing)
        self._frames += 1
        self._worst_s = max(self._worst_s, answered_s - job.arrival_s)
        if self._registration is not None:
            self._registration.offer(job.frame)

    def _publish_occupancy(self, perception: Perception, frame: SensorFrame) -> None:
        grid, boxes, outputs = perception.occupancy, perception.boxes, self._occupancy
        if grid is None or outputs is None:
            return
        if grid.frame_id != boxes.frame_id and frame.odom_from_base is not None:
            boxes = boxes.transformed(frame.odom_from_base, grid.frame_id)
        for topic, msg in outputs.messages(grid, boxes, perception.odom_occupancy, self._is_heard):
            self._publish(topic, msg)

    def _is_heard(self, topic: str) -> bool:
        publisher = self._outputs.get(topic)
        return publisher is not None and publisher.get_subscription_count() > 0

    def _publish(self, topic: str, msg: Any) -> None:
        publisher = self._outputs.get(topic)
        if publisher is not None and publisher.is_activated:
            publisher.publish(msg)

    def _report_failure(self, error: Exception) -> None:
        self.get_logger().error(
            f"a frame could not be processed: {type(error).__name__}: {error}",
            throttle_duration_sec=1.0,
        )

    def _publish_diagnostics(self) -> None:
        assert self._intake is not None and self._rig is not None and self._worker is not None
        now_ns = self._now_ns()
        name = self.get_fully_qualified_name()
        statuses = [self._pipeline_status(name)]
        judged: dict[str, SensorHealth] = {}
        for sensor in self._rig.sensors.values():
            drops = self._intake.drops_of(sensor.name)
            statistics = self._intake.statistics()[sensor.name]
            health = sensor_health(
                sensor, statistics, drops, self._reported[sensor.name], now_ns, self._config.health
            )
            self._reported[sensor.name] = drops
            judged[sensor.name] = health
            clock = clock_figures(statistics)
            statuses.append(
                diagnostics.sensor_status(
                    self._types,
                    name,
                    health,
                    clock,
                    self._trust.get(sensor.name),
                    self._config.pipeline.trust.warn_below,
                )
            )
        if self._registration is not None:
            statuses += self._registration.statuses(name)
        # Replaced whole: the inference thread reads it at any moment.
        self._health = judged
        for notice in self._intake.take_notices():
            self.get_logger().warning(notice)
        self._publish("/diagnostics", diagnostics.diagnostic_array(self._types, now_ns, statuses))

    def _pipeline_status(self, name: str) -> Any:
        intake, worker = self._intake, self._worker
        assert intake is not None and worker is not None and self._pipeline is not None
        synchronizer = intake.synchronizer
        others = {
            f"dropped.{topic}.{reason}": n
            for (topic, reason), n in sorted(intake.drops.items())
            if self._rig is not None and topic not in self._rig.sensors
        }
        counts = {
            "frames_synchronized": synchronizer.sets,
            "frames_incomplete": synchronizer.incomplete,
            "frames_processed": self._frames,
            "frames_dropped_busy": worker.dropped,
            "frames_failed": worker.failed,
            "clock_jumps": synchronizer.clock_jumps,
            **self._pipeline.counts,
            **others,
        }
        last, self._last_counts = self._last_counts, counts
        worst_s, self._worst_s = self._worst_s, 0.0
        detector, slow_s = self._pipeline.detector.name, self._config.warn_latency_s
        return diagnostics.pipeline_status(
            self._types, name, detector, counts, last, worst_s, slow_s
        )

    # Ownership ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        for subscription in self._subscriptions_owned:
            self.destroy_subscription(subscription)
        for timer in self._timers_owned:
            self.destroy_timer(timer)
        self._subscriptions_owned, self._timers_owned = [], []
        if self._worker is not None and not self._worker.stop():
            self.get_logger().error("inference did not end within 5 s")
        if self._registration is not None:
            self._registration.stop()
        self._worker = self._intake = self._registration = None

    def _release(self) -> None:
        self._stop()
        self._log.detach()
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs = {}
        self._rig = self._pipeline = self._markers = self._occupancy = None
        self._trust = {}
        self._frames, self._worst_s, self._last_counts = 0, 0.0, {}

    def _check_change(self, changed: list[Parameter[Any]]) -> SetParametersResult:
        """Parameters are read by configure; a change that would not act is refused."""
        ours = {entry.name for entry in parameters.entries()} - {"autostart"}
        named = [p.name for p in changed if p.name in ours]
        if named and self._pipeline is not None:
            reason = f"{', '.join(named)}: deactivate and clean up the node first"
            return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)


def message_filters() -> Any:
    """The message_filters package, or None where it is not installed."""
    try:
        import message_filters as module
    except ImportError:
        return None
    return module


def make_perception_node() -> PerceptionNode:
    """The node, configured and activated where `autostart` says so. Raises UserError if it cannot."""
    node = PerceptionNode()
    if node.get_parameter("autostart").value:
        success = TransitionCallbackReturn.SUCCESS
        if node.trigger_configure() != success or node.trigger_activate() != success:
            node.destroy_node()
            raise UserError("the node could not be started; see its log")
    return node


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of perception_node."""
    return spin(make_perception_node, sys.argv if args is None else args)


if __name__ == "__main__":
    sys.exit(main())
