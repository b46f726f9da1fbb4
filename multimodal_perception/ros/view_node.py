"""The node of the live view: shows the sensors of a rig and the outputs of a running perception_node.

Every subscription is best effort with a short queue, so that a slow viewer loses messages instead of
delaying the publishers.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import rclpy
from numpy.typing import NDArray
from rcl_interfaces.srv import GetParameters
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import Boxes3D
from multimodal_perception.messages import message_types
from multimodal_perception.messages.decoders import (
    boxes_from_message,
    occupancy_from_message,
    stamp_ns_of,
)
from multimodal_perception.messages.errors import MessageError
from multimodal_perception.messages.evidence import evidence_from_message
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.ros import outputs, result_decoders
from multimodal_perception.ros.clock import NodeClock
from multimodal_perception.ros.intake_worker import IntakeFrame, IntakeWorker
from multimodal_perception.ros.occupancy_outputs import GRID_TOPIC
from multimodal_perception.ros.qos import LATCHED_QOS, MOTION_QOS, SENSOR_QOS
from multimodal_perception.ros.subscriptions import TopicSubscriptions
from multimodal_perception.ros.worker import NewestFirstWorker
from multimodal_perception.synchronization.intake import MOVING_TOPIC, STATIC_TOPIC, MessageIntake
from multimodal_perception.visualization.rerun_log import RerunLog

PERCEPTION_NODE = "perception"
RIG_TIMEOUT_S = 10.0
ADVANCE_PERIOD_S = 0.05
CHECK_PERIOD_S = 0.5
# Poses of the vehicle by stamp that are kept for results, which arrive after the readings.
MAX_POSES = 100


class ViewNode(Node):
    """Logs messages to a RerunLog.

    counts: logged messages by kind (`frames` for sets of readings), and dropped ones by reason.
    """

    def __init__(
        self,
        rig_name: str | None,
        open_log: Callable[[Rig], RerunLog],
        check: Callable[[ViewNode], None] = lambda node: None,
        on_end: Callable[[ViewNode], None] = lambda node: None,
        skip: Collection[str] = (),
        max_rate_hz: float = 10.0,
        **node_arguments: Any,
    ) -> None:
        """rig_name: as of `run`; None takes the rig of the running node. open_log: for that rig.

        check: called twice a second; it may raise UserError or shut down rclpy. on_end: called when the
        threads have ended. skip: inputs of live_view.OPTIONAL_INPUTS that are not subscribed to.
        max_rate_hz: maximum rate of the readings by their stamps. Raises UserError without a rig.
        """
        super().__init__("view", **node_arguments)
        namespace = self.get_namespace()
        self._source = f"{namespace.rstrip('/')}/{PERCEPTION_NODE}"
        path = self._running_rig() if rig_name is None else rig_name
        self.rig = load_rig(resolve_rig_path(path), namespace)
        self.counts: Counter[str] = Counter()
        self._on_end, self._is_destroyed = on_end, False
        self._log = open_log(self.rig)
        self._min_period_ns = round(0.9e9 / max_rate_hz)
        self._last_frame_ns = 0
        self._poses: OrderedDict[int, NDArray[Any] | None] = OrderedDict()
        self._boxes: Boxes3D | None = None
        self._clock_of_node = NodeClock(self)
        self._intake = MessageIntake(self.rig)
        self._worker: NewestFirstWorker[IntakeFrame] = NewestFirstWorker(
            self._log_frame, self._on_error, "view", self._on_ready
        )
        readings = {s.topic: s.name for s in self.rig.sensors.values()}
        self._intake_worker = IntakeWorker(
            self._intake, self._submit, lambda: self._worker.is_ready, self._on_error, readings
        )
        self._subscriptions_owned = TopicSubscriptions(
            self,
            self._clock_of_node,
            self._receive,
            readings,
            self._intake.synchronizer.next_deadline_ns,
            lambda topic, count: None,
        )
        if "sensors" not in skip:
            self._subscribe_sensors()
        self._subscribe_results(skip)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(ADVANCE_PERIOD_S, self._advance, clock=steady)
        self.create_timer(CHECK_PERIOD_S, lambda: check(self), clock=steady)

    def destroy_node(self) -> None:
        """End the threads and destroy the node."""
        if self._is_destroyed:  # rclpy destroys the nodes of a context again
            return
        self._is_destroyed = True
        self._subscriptions_owned.close()
        self._intake_worker.stop()
        self._worker.stop()
        self._on_end(self)
        super().destroy_node()

    def _running_rig(self) -> str:
        """The parameter `rig` of the running node. Raises UserError if it does not answer."""
        client: Any = self.create_client(GetParameters, f"{self._source}/get_parameters")
        executor = SingleThreadedExecutor()
        executor.add_node(self)
        end = time.monotonic() + RIG_TIMEOUT_S
        try:
            while time.monotonic() < end and rclpy.ok():
                if client.wait_for_service(timeout_sec=0.2):
                    future = client.call_async(GetParameters.Request(names=["rig"]))
                    executor.spin_until_future_complete(future, timeout_sec=2.0)
                    if future.done() and (answer := future.result()) and answer.values:
                        return str(answer.values[0].string_value)
        finally:
            executor.remove_node(self)
            executor.shutdown()
            self.destroy_client(client)
        raise UserError(
            f"no node {self._source} within {RIG_TIMEOUT_S:.0f} s; start it, set --namespace, or "
            "name the rig by --rig"
        )

    # Sensors --------------------------------------------------------------------------------------

    def _subscribe_sensors(self) -> None:
        for topic, name in self._intake.topics.items():
            qos = {STATIC_TOPIC: LATCHED_QOS, MOVING_TOPIC: MOTION_QOS}.get(topic, SENSOR_QOS)
            self._subscriptions_owned.add(topic, name, qos)
        name = self._intake.topics[STATIC_TOPIC]
        self._subscriptions_owned.add(STATIC_TOPIC, name, MOTION_QOS, "volatile")

    def _receive(self, topic: str, msg: Any, arrival_ns: int) -> None:
        self._clock_of_node.on_message()
        self._intake_worker.receive(topic, msg, arrival_ns, time.perf_counter())

    def _advance(self) -> None:
        self._intake_worker.advance(self._clock_of_node.now_ns())

    def _on_ready(self) -> None:
        self._intake_worker.consumer_became_ready()

    def _submit(self, job: IntakeFrame) -> None:
        """On the intake's thread: keep the pose, and drop frames above the maximum rate."""
        frame = job.frame
        self._poses[frame.stamp_ns] = frame.odom_from_base
        while len(self._poses) > MAX_POSES:
            self._poses.popitem(last=False)
        if 0 <= frame.stamp_ns - self._last_frame_ns < self._min_period_ns:
            self.counts["dropped.rate"] += 1
            return
        self._last_frame_ns = frame.stamp_ns
        self._worker.submit(job)

    def _log_frame(self, job: IntakeFrame) -> None:
        self._log.log_frame(job.frame)
        self.counts["frames"] += 1

    def _on_error(self, error: Exception) -> None:
        self.counts["failed"] += 1
        text = f"a message could not be shown: {type(error).__name__}: {error}"
        self.get_logger().error(text, throttle_duration_sec=5.0)

    # Results (on the executor's thread) -----------------------------------------------------------

    def _subscribe_results(self, skip: Collection[str]) -> None:
        topics = outputs.FIXED_TOPICS
        handlers: dict[str, tuple[str, Callable[[Any], None]]] = {
            outputs.OBJECTS_TOPIC: (topics[outputs.OBJECTS_TOPIC], self._on_objects),
            outputs.TRACKS_TOPIC: (topics[outputs.TRACKS_TOPIC], self._on_tracks),
            outputs.TIMING_TOPIC: (topics[outputs.TIMING_TOPIC], self._on_timing),
            outputs.DIAGNOSTICS_TOPIC: (topics[outputs.DIAGNOSTICS_TOPIC], self._on_diagnostics),
            outputs.EVIDENCE_TOPIC: (topics[outputs.EVIDENCE_TOPIC], self._on_evidence),
        }
        if "occupancy" not in skip:
            handlers[GRID_TOPIC] = topics[GRID_TOPIC], self._on_grid
        if "masks" not in skip:
            for topic, name in outputs.segmentation_topics(self.rig).items():
                if not topic.endswith("/colour"):
                    sensor = topic.rpartition("/")[2]
                    handlers[topic] = name, partial(self._on_mask, sensor)
        if "boxes2d" not in skip:
            for topic, name in outputs.image_box_topics(self.rig).items():
                handlers[topic] = name, partial(self._on_boxes2d, topic.rpartition("/")[2])
        for topic, (name, handler) in handlers.items():
            kind = topic.strip("/").removeprefix("perception/").partition("/")[0]
            receive = partial(self._handle, kind, handler)
            message_class = message_types.message_class(name)
            self.create_subscription(message_class, topic, receive, SENSOR_QOS)

    def _handle(self, kind: str, handler: Callable[[Any], None], msg: Any) -> None:
        try:
            handler(msg)
        except MessageError as error:
            self.counts[f"dropped.{kind}.{error.reason}"] += 1
            self.get_logger().warning(f"{kind}: {error}", throttle_duration_sec=5.0)
            return
        self.counts[kind] += 1

    def _on_objects(self, msg: Any) -> None:
        self._boxes = boxes_from_message(msg)
        self._log.log_objects(self._boxes, self._pose(self._boxes.stamp_ns))

    def _on_tracks(self, msg: Any) -> None:
        self._log.log_velocities(result_decoders.tracks_from_message(msg))

    def _on_grid(self, msg: Any) -> None:
        grid = occupancy_from_message(msg)
        boxes = self._boxes
        if boxes is not None and boxes.stamp_ns != grid.stamp_ns:
            boxes = None
        self._log.log_occupancy(grid, boxes, self._pose(grid.stamp_ns))

    def _on_mask(self, sensor: str, msg: Any) -> None:
        self._log.log_mask(result_decoders.mask_from_message(msg, sensor))

    def _on_boxes2d(self, sensor: str, msg: Any) -> None:
        model = self._intake.assembler.calibrations.get(sensor)
        size = (0, 0) if model is None else (model.model.width, model.model.height)
        self._log.log_boxes2d(result_decoders.boxes2d_from_message(msg, sensor, size))

    def _on_timing(self, msg: Any) -> None:
        times = result_decoders.stage_times_from_message(msg)
        self._log.log_stage_times(times, stamp_ns_of(msg))

    def _on_evidence(self, msg: Any) -> None:
        self._log.log_evidence(evidence_from_message(msg), stamp_ns_of(msg))

    def _on_diagnostics(self, msg: Any) -> None:
        prefix = f"{self._source}: "
        statuses = [s for s in msg.status if s.name.startswith(prefix)]
        if not statuses:
            return  # of another node
        stamp_ns = stamp_ns_of(msg)
        health = result_decoders.sensor_health_from_statuses(
            statuses, self._source, self.rig.sensors
        )
        self._log.log_health(health, stamp_ns)
        for status in statuses:
            subject = status.name.removeprefix(prefix)
            if subject not in health:
                level = result_decoders.status_level(status)
                self._log.log_state(subject, level, status.message, stamp_ns)
        self.counts["health"] += bool(health)

    def _pose(self, stamp_ns: int) -> Any:
        """Pose of the vehicle in the odometry frame at a stamp, or None."""
        return self._poses.get(stamp_ns)
