"""Drift of the calibration over many looks: how large, how sure, and whether it is worth a warning."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.calibration_monitor.sensor_pairs import Look, Pair, look, pairs_of
from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import Level

# Looks at a pair that tell whether its sensors see the same thing at all, and the share of agreeing
# blocks, their mean, of sensors that do not and that do: 0.13 to 0.42 where each saw another street,
# 0.4 to 0.84 where both saw the same (simulated drives).
AGREEING_LOOKS, AGREEING = 4, (0.25, 0.4)
# Mahalanobis distance (chi of three degrees) at which a look counts for half, so that one that found
# something else hardly counts.
HALF = 3.0
ROUNDS = 10


@dataclass(frozen=True)
class WatchConfig:
    """How often the calibration is looked at, and when its drift is worth a warning.

    period_s: from one look to the next of the node, each at one pair of sensors in turn; 0 is never.
    window: looks at a pair that are judged together, the newest ones. systematic_px: error that is no
    chance (parallax, edges that lie elsewhere to each sensor), pixels of a view 640 wide at most. sure:
    how many standard deviations a drift must be from none; 2.8 is one false alarm in twenty by chance
    alone. warn_deg, error_deg: angle from which a sure drift is a warning or an error. least_support:
    share of the blocks that must agree for a look to count. least_distinct: by how many standard
    deviations its best motion must stand out.
    """

    period_s: float = field(default=5.0, metadata={"min": 0.0, "max": 3600.0, "unit": "s"})
    window: int = field(default=12, metadata={"min": 1, "max": 1000})
    systematic_px: float = field(default=0.7, metadata={"min": 0.0, "max": 50.0, "unit": "px"})
    sure: float = field(default=3.0, metadata={"min": 0.0, "max": 100.0})
    warn_deg: float = field(default=0.3, metadata={"min": 0.0, "max": 45.0, "unit": "deg"})
    error_deg: float = field(default=1.0, metadata={"min": 0.0, "max": 45.0, "unit": "deg"})
    least_support: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    least_distinct: float = field(default=0.2, metadata={"min": 0.0, "max": 100.0})


@dataclass(frozen=True)
class Drift:
    """What the looks at a pair say together.

    turn: (3,), see pairs.Look, radians. covariance: (3, 3), with what is systematic. shift, shift_sd:
    (2,) x y, by how many pixels of its own image this moves the middle of the sensor's view, and one
    standard deviation. sureness: standard deviations from no drift. looks: how many were usable.
    """

    pair: Pair
    turn: NDArray[np.float64]
    covariance: NDArray[np.float64]
    shift: NDArray[np.float64]
    shift_sd: NDArray[np.float64]
    sureness: float
    looks: int
    level: Level
    message: str

    @property
    def degrees(self) -> float:
        """The whole angle."""
        return float(np.degrees(np.linalg.norm(self.turn)))

    @property
    def degrees_sd(self) -> float:
        """One standard deviation of the angle, along the turn (the largest one where there is none)."""
        length = float(np.linalg.norm(self.turn))
        if length < 1e-9:
            return float(np.degrees(np.sqrt(np.linalg.eigvalsh(self.covariance)[-1])))
        axis = self.turn / length
        return float(np.degrees(np.sqrt(axis @ self.covariance @ axis)))


def judge(looks: Sequence[Look], config: WatchConfig | None = None) -> Drift | None:
    """One verdict on looks at one pair; None while none of them is usable.

    The mean is weighted by each look's covariance and, as some look finds a false match, by Cauchy's
    weights of its distance from the mean. The larger of what the looks say of their uncertainty and of
    how they scatter counts; looks at one scene repeat their error, which systematic_px stands for.
    """
    config = config or WatchConfig()
    usable = [k for k in looks if usable_look(k, config)]
    if not usable:
        return None
    turns = np.array([k.turn for k in usable])
    floor = np.diag((config.systematic_px * usable[-1].pixel) ** 2)
    each = [np.linalg.inv(k.covariance + floor) for k in usable]
    mean = np.median(turns, 0)
    for _ in range(ROUNDS):
        apart = turns - mean
        squared = np.einsum("ki,kij,kj->k", apart, each, apart)
        weights = 1.0 / (1.0 + squared / HALF**2)
        information = np.einsum("k,kij->ij", weights, each)
        pull = np.einsum("k,kij,kj->i", weights, each, turns)
        mean = np.linalg.solve(information, pull)
    share = weights / weights.sum()
    chance = np.einsum("k,kij->ij", share**2, np.array([k.covariance for k in usable]))
    scatter = np.einsum("k,ki,kj->ij", share**2, turns - mean, turns - mean)
    larger = chance if np.trace(chance) > np.trace(scatter) else scatter
    covariance = larger + floor
    sureness = float(np.sqrt(mean @ np.linalg.solve(covariance, mean)))
    angle = float(np.degrees(np.linalg.norm(mean)))
    focal = usable[-1].focal
    shift = np.array([focal[0] * mean[1], -focal[1] * mean[0]])
    shift_sd = focal * np.sqrt(np.diag(covariance))[[1, 0]]
    level, message = Level.OK, "ok"
    if sureness > config.sure and angle > config.warn_deg:
        level = Level.ERROR if angle > config.error_deg else Level.WARN
        message = f"turned by {angle:.2f} deg against {usable[-1].pair.reference}"
    return Drift(
        usable[-1].pair, mean, covariance, shift, shift_sd, sureness, len(usable), level, message
    )


def usable_look(seen: Look, config: WatchConfig) -> bool:
    """Whether a look found something that stands out."""
    return seen.support >= config.least_support and seen.distinct >= config.least_distinct


class RegistrationWatch:
    """Looks at one pair of sensors at a time, in turn, and keeps what the last ones said.

    drifts: by pair, replaced whole, so that another thread may read it at any moment. counts: looks,
    and those that could not be used, by `pair.reason`. cancelled: ends a look early, when replaced by
    something that turns true. Nothing is ever corrected here.
    """

    def __init__(self, config: WatchConfig | None = None) -> None:
        self.config = config or WatchConfig()
        self.drifts: Mapping[Pair, Drift] = {}
        self.counts: Counter[str] = Counter()
        self.cancelled: Callable[[], bool] = lambda: False
        self._looks: dict[Pair, deque[Look]] = {}
        self._turns: Counter[Pair] = Counter()
        self._agreed: dict[Pair, bool] = {}
        self._stamp_ns: int | None = None

    @property
    def agreement(self) -> dict[str, float]:
        """By image sensor, 0 to 1, how far what it shows is found in another sensor's data too.

        Of several pairs the best counts: one that agrees shows that the sensor is right. Sensors
        without enough looks, and those that never agreed (nothing to be seen there), are left out.
        """
        result: dict[str, float] = {}
        for pair, looks in list(self._looks.items()):
            supports = [k.support for k in list(looks)]
            if len(supports) < AGREEING_LOOKS or not self._agreed.get(pair, False):
                continue
            mean = float(np.mean(supports[-AGREEING_LOOKS:]))
            low, high = AGREEING
            factor = float(np.clip((mean - low) / (high - low), 0.0, 1.0))
            sensors = [pair.sensor]
            if pair.kind == "thermal-camera":
                sensors.append(pair.reference)
            for sensor in sensors:
                result[sensor] = max(result.get(sensor, 0.0), factor)
        return result

    def observe(self, frame: SensorFrame) -> Look | None:
        """Look at the pair of this frame that was looked at least often; None where it says nothing."""
        if self._stamp_ns is not None and frame.stamp_ns < self._stamp_ns:
            # Another recording, or the same one again.
            self._looks, self.drifts = {}, {}
        self._stamp_ns = frame.stamp_ns
        pairs = list(pairs_of(frame))
        if not pairs:
            return None
        pair = min(pairs, key=lambda p: self._turns[p])
        self._turns[pair] += 1
        self.counts[f"{pair}.looks"] += 1
        seen = look(frame, pair, self.cancelled)
        if seen is None and self.cancelled():
            return None
        if seen is None:
            self.counts[f"{pair}.too_little_in_common"] += 1
            return None
        if not usable_look(seen, self.config):
            self.counts[f"{pair}.not_distinct"] += 1
        looks = self._looks.setdefault(pair, deque(maxlen=self.config.window))
        looks.append(seen)
        recent = [k.support for k in looks][-AGREEING_LOOKS:]
        if len(recent) == AGREEING_LOOKS and np.mean(recent) >= AGREEING[1]:
            self._agreed[pair] = True
        drift = judge(looks, self.config)
        if drift is not None:
            self.drifts = {**self.drifts, pair: drift}
        return seen
