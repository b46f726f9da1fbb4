"""Diagnostics of the sensors and of the odometry, with the changes since the last report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.perception import ImageQuality, Level, SensorHealth
from multimodal_perception.rig import Rig
from multimodal_perception.ros import diagnostics
from multimodal_perception.ros.parameters import NodeConfig
from multimodal_perception.synchronization.intake import MessageIntake
from multimodal_perception.synchronization.sensor_health import (
    clock_statistics,
    frozen_health,
    sensor_health,
)


class SensorReports:
    """Makes the statuses of a rig's sensors. health: by sensor, replaced with each report."""

    def __init__(self, types: MessageTypes, rig: Rig, config: NodeConfig, logger: Any) -> None:
        """logger: rclpy's, for changes of the odometry."""
        self._types, self._rig, self._config, self._logger = types, rig, config, logger
        self._reported_drops: dict[str, dict[str, int]] = {name: {} for name in rig.sensors}
        self._odometry_is_lost = False
        self.health: Mapping[str, SensorHealth] = {}

    def use(self, config: NodeConfig) -> None:
        """Use changed thresholds from the next report on."""
        self._config = config

    def sensor_statuses(
        self,
        node: str,
        intake: MessageIntake,
        now_ns: int,
        image_quality: Mapping[str, ImageQuality],
        frozen: Mapping[str, float] | None = None,
    ) -> list[Any]:
        """One DiagnosticStatus for each sensor. image_quality: of the latest image of each sensor.

        frozen: by frozen sensor, the time without a change of its data, see Perception.frozen.
        """
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
            if frozen and sensor.name in frozen and health.level in (Level.OK, Level.WARN):
                health = frozen_health(health, sensor, frozen[sensor.name])
            current[sensor.name] = health
            statuses.append(
                diagnostics.sensor_status(
                    self._types,
                    node,
                    health,
                    clock_statistics(statistics),
                    image_quality.get(sensor.name),
                    self._config.pipeline.image_quality.warn_quality,
                    intake.details(sensor.name),
                )
            )
        # A new dictionary each time: the inference thread may be reading the last one.
        self.health = current
        return statuses

    def odometry_status(self, node: str, intake: MessageIntake, now_ns: int) -> Any:
        """The DiagnosticStatus of the odometry; its loss and its return are logged."""
        status = intake.odometry_status(now_ns)
        if (status.level is Level.WARN) != self._odometry_is_lost:
            self._odometry_is_lost = status.level is Level.WARN
            if self._odometry_is_lost:
                self._logger.warning(status.message)
            else:
                self._logger.info("odometry: ok again")
        return diagnostics.odometry_status(self._types, node, status)
