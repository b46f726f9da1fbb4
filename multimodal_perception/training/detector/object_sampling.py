"""Ground-truth sampling (SECOND, Yan et al. 2018, section 3.3): objects of other frames pasted in.

An object is turned about the LiDAR and keeps its distance, so that its points stay as dense as a LiDAR
there would see them, and is set on the ground. It needs ground below, nothing in its place, a free way
to the LiDAR and no ultrasonic sensor in reach, which would have to hear it. What lies behind it loses
its points. The images do not show it: within its box, and within as many boxes of the same sizes about
other points, no image sees anything, or the gap itself would give the object away.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from multimodal_perception.configuration import UserError
from multimodal_perception.detection.fusion.network_config import CLASSES
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry.boxes import iou_bev, points_in_boxes
from multimodal_perception.training.detector.samples import lidar_of, points_of, read_sample

# Objects of a class that the bank holds, the points each needs, and how near it may be, metres.
MOST, LEAST_POINTS, NEAREST = 2000, 8, 4.0
MOST_PASTED = 50
# Places tried for an object; distance that it keeps from other boxes, metres.
TRIES, APART = 16, 0.3
# Shares of its points that must be free of what stands before it.
FREE = 0.7
# Directions that the LiDAR's turn is parted into; half the height of a ray, as a slope.
COLUMNS, RAY = 720, 0.005
# Ground: so many points about the footprint, this quantile of heights, the change of height allowed.
GROUND_POINTS, GROUND_SHARE, GROUND_STEP = 3, 0.1, 0.5
# Points higher than this above the ground, more than a few, take a place.
LOW, FEW = 0.3, 2


@dataclass(frozen=True)
class ObjectBank:
    """Objects of labelled frames as their LiDAR saw them, K of them.

    points: (N, 4) float32, x y z from the LiDAR's place in base_link's axes, intensity; starts:
    (K + 1,). boxes: (K, 7), from the LiDAR too. labels: (K,) from 0, of the detector's classes.
    """

    points: NDArray[np.float32]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Pasted:
    """A frame with objects in it.

    points: (N, 4). boxes (K, 7) and labels (K,) of what was pasted. hidden: (H, 7) boxes that no
    image sees into. lost: (M,) how many points each label of the frame lost to shadows.
    """

    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    hidden: NDArray[np.float32]
    lost: NDArray[np.int64]


@dataclass(frozen=True)
class GroundTruthSampling:
    """Pastes up to so many objects of each class (by name) into every frame that has a LiDAR."""

    bank: ObjectBank
    sampled: Mapping[str, int]

    def paste(self, sample: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> Pasted:
        """A sample's points and what is pasted among them, in base_link."""
        scene = Scene(points_of(sample), lidar_of(sample), sample["boxes"], sample["ultrasonic"])
        labels, decoys = [], []
        for name, count in self.sampled.items():
            label, before = CLASSES.index(name), len(scene.pasted)
            known = rng.permutation(np.flatnonzero(self.bank.labels == label))
            for k in known[: 2 * count]:
                rows = slice(self.bank.starts[k], self.bank.starts[k + 1])
                turns = rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi, TRIES + 1)
                turns = rng.permutation(turns[:-1])
                if scene.put(self.bank.points[rows], self.bank.boxes[k], turns):
                    labels.append(label)
                    decoy = scene.pasted[-1].copy()
                    decoy[:2] = scene.points[rng.integers(len(scene.points)), :2]
                    decoys.append(decoy)
                if len(scene.pasted) - before == count:
                    break
        boxes = np.array(scene.pasted, np.float32).reshape(-1, 7)
        hidden = np.concatenate([boxes, np.array(decoys, np.float32).reshape(-1, 7)])
        lost = points_in_boxes(scene.points[~scene.kept], sample["boxes"], 0.1)
        return Pasted(scene.left(), boxes, np.array(labels, np.int64), hidden, lost)


class Scene:
    """A frame's points sorted by the LiDAR's direction, and what has been put among them."""

    def __init__(
        self,
        points: NDArray[np.float32],
        lidar: NDArray[np.float32],
        boxes: NDArray[np.float32],
        echoes: NDArray[np.float32],
    ) -> None:
        """points (N, 4), lidar (3,), boxes (K, 7) and echoes (U, 8) as samples hold them."""
        self.lidar, self.boxes, self.echoes = lidar, boxes, echoes
        self.points, self.starts = _sorted_by_column(points, lidar)
        self.kept = np.ones(len(points), np.bool_)
        self.taken = np.zeros(COLUMNS, np.bool_)
        self.pasted: list[NDArray[np.float32]] = []
        self._added: list[NDArray[np.float32]] = []

    def put(
        self,
        points: NDArray[np.float32],
        box: NDArray[np.float32],
        turns: NDArray[np.float64],
    ) -> bool:
        """Paste an object of the bank at the first of the turns (T,) about the LiDAR that has room."""
        for turn in turns:
            place = _turned_box(box, self.lidar, turn)
            if not self._free_of_others(place):
                continue
            ground = _ground(place, self.lidar, self.points, self.starts)
            lift = ground - (place[2] - place[5] / 2)
            if not abs(lift) < GROUND_STEP:  # not a number where there is no ground
                continue
            place[2] += lift
            moved = _turned_points(points, self.lidar, turn)
            moved[:, 2] += lift
            seen = _seen(moved, self.lidar, self.points, self.starts, self.taken)
            if seen.sum() < max(FREE * len(points), LEAST_POINTS):
                continue
            moved = moved[seen]
            _shadow(moved, place, self.lidar, self.points, self.starts, self.kept, self.taken)
            self.pasted.append(place)
            self._added.append(moved)
            return True
        return False

    def left(self) -> NDArray[np.float32]:
        """The frame's points that are still seen, and those of what was put there."""
        return np.concatenate([self.points[self.kept], *self._added])

    def _free_of_others(self, place: NDArray[np.float32]) -> bool:
        around = place.copy()
        around[3:5] += 2 * APART
        others = np.concatenate([self.boxes, *(b[None] for b in self.pasted)])
        if len(others) and iou_bev(around[None], others).max() > 0:
            return False
        reach = self.echoes[:, 6] + np.hypot(place[3], place[4]) / 2
        away = np.hypot(self.echoes[:, 0] - place[0], self.echoes[:, 1] - place[1])
        return bool((away > reach).all())


def sampling_of(
    paths: Sequence[Path], folder: Path, sampled: Mapping[str, int]
) -> GroundTruthSampling | None:
    """Sampling of the classes named, from a bank of these samples that is kept in FOLDER; None where
    none is named. Raises UserError when a class has no object there."""
    names = sorted(name for name, count in sampled.items() if count)
    if not names:
        return None
    told = "\n".join([*(f"{p.name} {p.stat().st_size}" for p in paths), *names])
    key = hashlib.sha256(told.encode()).hexdigest()
    path = folder / "objects.bank"
    bank = _read_bank(path, key)
    if bank is None:
        bank = build_bank(paths, names)
        _write_bank(path, key, bank)
    lacking = [n for n in names if CLASSES.index(n) not in bank.labels]
    if lacking:
        raise UserError(f"{folder}: sampled: no labelled object of class {', '.join(lacking)}")
    return GroundTruthSampling(bank, {n: sampled[n] for n in names})


def build_bank(paths: Sequence[Path], names: Sequence[str]) -> ObjectBank:
    """Objects of the classes named, up to MOST of each, of samples in an order drawn once for all."""
    wanted = {CLASS_NAMES.index(n): CLASSES.index(n) for n in names}
    found: list[tuple[int, NDArray[np.float32], NDArray[np.float32]]] = []
    counts = dict.fromkeys(wanted, 0)
    order = np.random.default_rng(0).permutation(len(paths))
    for k in tqdm(order, "objects to paste", disable=None):
        sample = read_sample(paths[k])
        some = np.isin(sample["labels"], [c for c in wanted if counts[c] < MOST])
        rows = np.flatnonzero(some & (sample["num_points"] >= LEAST_POINTS))
        lidar, points = lidar_of(sample), points_of(sample)
        boxes = sample["boxes"][rows].copy()
        owners = _owners(points, boxes)
        boxes[:, :3] -= lidar
        points[:, :3] -= lidar
        for i, row in enumerate(rows):
            label = int(sample["labels"][row])
            own = points[owners == i]
            if len(own) >= LEAST_POINTS and np.hypot(*boxes[i, :2]) > NEAREST:
                found.append((wanted[label], boxes[i], own))
                counts[label] += 1
        if all(count >= MOST for count in counts.values()):
            break
    starts = np.cumsum([0, *(len(own) for _, _, own in found)])
    return ObjectBank(
        np.concatenate([np.zeros((0, 4), np.float32), *(own for _, _, own in found)]),
        starts.astype(np.int64),
        np.array([box for _, box, _ in found], np.float32).reshape(-1, 7),
        np.array([label for label, _, _ in found], np.int64),
    )


def _read_bank(path: Path, key: str) -> ObjectBank | None:
    """The bank at `path` if it is of this key; one that is damaged or of other samples is made anew."""
    try:
        with np.load(path, allow_pickle=False) as content:
            if str(content["key"]) != key:
                return None
            return ObjectBank(*(content[n] for n in ("points", "starts", "boxes", "labels")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write_bank(path: Path, key: str, bank: ObjectBank) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")  # several ranks may write at once
    try:
        with open(partial, "wb") as file:
            np.savez(file, allow_pickle=False, key=np.array(key), **vars(bank))
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _turned_points(
    points: NDArray[np.float32], lidar: NDArray[np.float32], turn: float
) -> NDArray[np.float32]:
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    moved = points.copy()
    moved[:, 0] = c * points[:, 0] - s * points[:, 1]
    moved[:, 1] = s * points[:, 0] + c * points[:, 1]
    moved[:, :3] += lidar
    return moved


def _turned_box(
    box: NDArray[np.float32], lidar: NDArray[np.float32], turn: float
) -> NDArray[np.float32]:
    c, s = np.cos(turn), np.sin(turn)
    moved = box.copy()
    moved[0], moved[1] = c * box[0] - s * box[1], s * box[0] + c * box[1]
    moved[:3] += lidar
    moved[6] = np.arctan2(np.sin(box[6] + turn), np.cos(box[6] + turn))
    return moved


@numba.njit(cache=True, nogil=True)
def _sorted_by_column(points, lidar):  # type: ignore[no-untyped-def]
    """Points (N, 4) in order of their columns, and where each column starts, (COLUMNS + 1,)."""
    columns = _columns(points, lidar)
    starts = np.zeros(COLUMNS + 1, np.int64)
    for column in columns:
        starts[column + 1] += 1
    starts = np.cumsum(starts)
    following, ordered = starts[:-1].copy(), np.empty_like(points)
    for i in range(len(points)):
        ordered[following[columns[i]]] = points[i]
        following[columns[i]] += 1
    return ordered, starts


@numba.njit(cache=True, nogil=True)
def _columns(points, lidar):  # type: ignore[no-untyped-def]
    """Direction (N,) int16 of points from the LiDAR."""
    columns = np.empty(len(points), np.int16)
    for i in range(len(points)):
        angle = np.arctan2(points[i, 1] - lidar[1], points[i, 0] - lidar[0])
        columns[i] = int((angle + np.pi) / (2 * np.pi) * COLUMNS) % COLUMNS
    return columns


@numba.njit(cache=True, nogil=True)
def _reach(point, lidar):  # type: ignore[no-untyped-def]
    """Level distance from the LiDAR, never 0."""
    x, y = point[0] - lidar[0], point[1] - lidar[1]
    return max(np.sqrt(x * x + y * y), 1e-3)


@numba.njit(cache=True, nogil=True)
def _owners(points, boxes):  # type: ignore[no-untyped-def]
    """Of each point (N, 4) the box (K, 7) that it lies in, or -1."""
    owners = np.full(len(points), -1, np.int16)
    for k in range(len(boxes)):
        for i in range(len(points)):
            if _within(points[i], boxes[k], 0.0):
                owners[i] = k
    return owners


@numba.njit(cache=True, nogil=True)
def _within(point, box, margin):  # type: ignore[no-untyped-def]
    """Whether a point lies in a box that is grown sideways."""
    if abs(point[2] - box[2]) > box[5] / 2:
        return False
    return _above(point, box, margin)


@numba.njit(cache=True, nogil=True)
def _above(point, box, margin):  # type: ignore[no-untyped-def]
    """Whether a point lies above or below a box's footprint, grown by a margin."""
    x, y = point[0] - box[0], point[1] - box[1]
    reach = margin + 0.5 * (box[3] + box[4])
    if abs(x) > reach or abs(y) > reach:
        return False
    c, s = np.cos(box[6]), np.sin(box[6])
    return abs(c * x + s * y) <= box[3] / 2 + margin and abs(c * y - s * x) <= box[4] / 2 + margin


@numba.njit(cache=True, nogil=True)
def _span(box, lidar, margin):  # type: ignore[no-untyped-def]
    """First column of a box grown by a margin, and how many from there on."""
    x, y = box[0] - lidar[0], box[1] - lidar[1]
    away = np.sqrt(x * x + y * y)
    half = 0.5 * np.sqrt(box[3] ** 2 + box[4] ** 2) + margin
    if half >= away:
        return 0, COLUMNS
    wide = np.arcsin(half / away) / (2 * np.pi) * COLUMNS
    middle = (np.arctan2(y, x) + np.pi) / (2 * np.pi) * COLUMNS
    return int(np.floor(middle - wide)) % COLUMNS, min(int(2 * wide) + 2, COLUMNS)


@numba.njit(cache=True, nogil=True)
def _ground(box, lidar, points, starts):  # type: ignore[no-untyped-def]
    """Height of the ground about a box; not a number where none is seen or something stands there."""
    away = _reach(box, lidar)
    margin = 1.0 + 0.05 * away  # rings lie further apart there
    first, count = _span(box, lidar, margin)
    middle = (first + count // 2) % COLUMNS
    furthest = 0.0
    for i in range(starts[middle], starts[middle + 1]):
        furthest = max(furthest, _reach(points[i], lidar))
    if furthest < away - margin:  # behind a wall, as most places are that will not do
        return np.nan
    heights = np.empty(1024)
    near = 0
    for k in range(count):
        column = (first + k) % COLUMNS
        for i in range(starts[column], starts[column + 1]):
            if near < len(heights) and _above(points[i], box, margin):
                heights[near] = points[i, 2]
                near += 1
    if near < GROUND_POINTS:
        return np.nan
    ground = np.sort(heights[:near])[int(GROUND_SHARE * near)]
    standing = 0
    for k in range(count):
        column = (first + k) % COLUMNS
        for i in range(starts[column], starts[column + 1]):
            if ground + LOW < points[i, 2] < ground + box[5] + LOW:
                standing += _above(points[i], box, 0.2)
    return ground if standing <= FEW else np.nan


@numba.njit(cache=True, nogil=True)
def _seen(moved, lidar, points, starts, taken):  # type: ignore[no-untyped-def]
    """Which of an object's points (n, 4) nothing hides; none where another was pasted in its columns."""
    seen = np.zeros(len(moved), np.bool_)
    columns = _columns(moved, lidar)
    for j in range(len(moved)):
        if taken[columns[j]]:
            return seen
    # A few points tell early of a place that is hidden.
    step = max(len(moved) // 32, 1)
    hidden, tried = 0, 0
    for j in range(0, len(moved), step):
        tried += 1
        hidden += _is_hidden(moved[j], columns[j], lidar, points, starts)
    if hidden > (1.2 - FREE) * tried:
        return seen
    for j in range(len(moved)):
        seen[j] = not _is_hidden(moved[j], columns[j], lidar, points, starts)
    return seen


@numba.njit(cache=True, nogil=True)
def _is_hidden(point, column, lidar, points, starts):  # type: ignore[no-untyped-def]
    away = _reach(point, lidar)
    slope = (point[2] - lidar[2]) / away
    limit = max(away - 0.3, 0.0) ** 2
    for i in range(starts[column], starts[column + 1]):
        square = (points[i, 0] - lidar[0]) ** 2 + (points[i, 1] - lidar[1]) ** 2
        if square < limit and abs(points[i, 2] - lidar[2] - slope * np.sqrt(square)) < (
            RAY * np.sqrt(square)
        ):
            return True
    return False


@numba.njit(cache=True, nogil=True)
def _shadow(moved, box, lidar, points, starts, kept, taken):  # type: ignore[no-untyped-def]
    """Drop the points that an object's points (n, 4) hide, and those in its box; note its columns."""
    low, high = np.full(COLUMNS, np.inf), np.full(COLUMNS, -np.inf)
    near = np.full(COLUMNS, np.inf)
    columns = _columns(moved, lidar)
    for j in range(len(moved)):
        away = _reach(moved[j], lidar)
        slope, column = (moved[j, 2] - lidar[2]) / away, columns[j]
        low[column], high[column] = min(low[column], slope), max(high[column], slope)
        near[column] = min(near[column], away)
    first, count = _span(box, lidar, 0.2)
    for k in range(count):
        column = (first + k) % COLUMNS
        below, above, away = low[column], high[column], near[column]
        left, right = (column - 1) % COLUMNS, (column + 1) % COLUMNS
        if not away < np.inf and max(near[left], near[right]) < np.inf:
            # A column between two that show the object.
            below, above = min(low[left], low[right]), max(high[left], high[right])
            away = max(near[left], near[right])
        taken[column] |= away < np.inf
        for i in range(starts[column], starts[column + 1]):
            reach = _reach(points[i], lidar)
            slope = (points[i, 2] - lidar[2]) / reach
            behind = reach > away and below - RAY <= slope <= above + RAY
            if behind or (
                _within(points[i], box, 0.0) and points[i, 2] > box[2] - box[5] / 2 + LOW
            ):
                kept[i] = False
