"""Which studies a report consists of: the standard set, or all of them.

Standard: severities 1, 3 and 5; of each modality the first two sensors individually, and all of them
together if there are more; the ultrasonic sensors together; weather on all sensors at once; pairs of
sensors of different modalities with severity 5 of PAIR_CORRUPTIONS; attacks with three sizes. Full: all
severities, every sensor, all pairs with all corruptions that both can have. Sensors that none of the
tasks uses are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.robustness.catalogue import (
    CORRUPTIONS,
    check_names,
    check_severities,
)
from multimodal_perception.evaluation.robustness.corruption import SEVERITIES, Corruption
from multimodal_perception.evaluation.robustness.study import Study
from multimodal_perception.frame import Modality
from multimodal_perception.rig import Rig

STANDARD_SEVERITIES = (1, 3, 5)
STANDARD_SENSORS = 2
PAIR_CORRUPTIONS = ("missing", "frozen", "extrinsic_rotation", "fog")
PAIR_SEVERITY = 5
WEATHER = ("fog", "rain", "snow")
PATCH = "adversarial_patch"
ULTRASONICS, ALL_SENSORS = "ultrasonics", "all sensors"
GROUP_NAMES = {
    Modality.LIDAR: "all LiDARs",
    Modality.CAMERA: "all cameras",
    Modality.THERMAL: "all thermal cameras",
}


@dataclass(frozen=True)
class PlanOptions:
    """Selection of the studies.

    corruptions, severities, sensors: None for those of the set (standard or full); no corruptions leaves
    the attacks.
    """

    full: bool = False
    corruptions: tuple[str, ...] | None = None
    severities: tuple[int, ...] | None = None
    sensors: tuple[str, ...] | None = None
    pairs: bool = True
    attacks: bool = True

    def __post_init__(self) -> None:
        """Raises UserError for a corruption or severity that does not exist."""
        check_names("--corruptions", self.corruptions or (), tuple(CORRUPTIONS))
        check_severities("--severities", self.severities or ())

    @property
    def used_severities(self) -> tuple[int, ...]:
        """Severities in ascending order."""
        standard = SEVERITIES if self.full else STANDARD_SEVERITIES
        return tuple(sorted(set(self.severities or standard)))


@dataclass(frozen=True)
class Target:
    """Sensors that are changed together. modality: None if they differ."""

    name: str
    sensors: tuple[str, ...]
    modality: Modality | None


def plan_studies(
    rig: Rig, used: Mapping[str, Collection[str]], options: PlanOptions, simulated: bool
) -> list[Study]:
    """The studies of a rig.

    used: names of the sensors that each task uses. simulated: whether the drives can be rendered under
    other conditions. Raises UserError for a sensor that the rig does not have.
    """
    anything = set().union(*used.values())
    targets = [t for t in select_targets(rig, options) if anything & set(t.sensors)]
    names = tuple(CORRUPTIONS) if options.corruptions is None else options.corruptions
    corruptions = [CORRUPTIONS[n] for n in names]
    studies = [
        Study("corruption", c.name, t.name, t.sensors, options.used_severities)
        for t in targets
        for c in corruptions
        if t.modality in c.modalities and c.name != PATCH
    ]
    studies += _group_studies(rig, anything, corruptions, options, simulated)
    if options.pairs:
        studies += _pair_studies(targets, corruptions, options)
    if options.attacks:
        studies += _attack_studies(targets, used, options)
    return [replace(s, tasks=_affected_tasks(s, used)) for s in studies]


def _affected_tasks(study: Study, used: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The tasks that a study is about."""
    if study.task:
        return (study.task,)
    return tuple(task for task, sensors in used.items() if set(study.sensors) & set(sensors))


def select_targets(rig: Rig, options: PlanOptions) -> list[Target]:
    """The sensors and groups of sensors that are changed. Raises UserError for an unknown sensor."""
    ultrasonics = tuple(rig.sensors_of(Modality.ULTRASONIC))
    if options.sensors is not None:
        groups = (ULTRASONICS,) if len(ultrasonics) > 1 else ()
        check_names("--sensors", options.sensors, (*rig.sensors, *groups))
        return [
            Target(name, ultrasonics, Modality.ULTRASONIC)
            if name not in rig.sensors
            else Target(name, (name,), rig.sensors[name].modality)
            for name in options.sensors
        ]
    targets = []
    for modality, group in GROUP_NAMES.items():
        names = tuple(rig.sensors_of(modality))
        alone = names if options.full else names[:STANDARD_SENSORS]
        targets += [Target(name, (name,), modality) for name in alone]
        if len(names) > len(alone):
            targets.append(Target(group, names, modality))
    if ultrasonics:
        name = ULTRASONICS if len(ultrasonics) > 1 else ultrasonics[0]
        targets.append(Target(name, ultrasonics, Modality.ULTRASONIC))
    return targets


def check_sensors(rig: Rig, options: PlanOptions) -> None:
    """Raise UserError for a sensor of the options that the rig does not have."""
    select_targets(rig, options)
    if options.sensors is not None and not options.sensors:
        raise UserError("--sensors: at least one sensor")


def _group_studies(
    rig: Rig,
    used: Collection[str],
    corruptions: Sequence[Corruption],
    options: PlanOptions,
    simulated: bool,
) -> list[Study]:
    """Weather on all sensors at once, and the printed patch in all cameras."""
    studies = []
    cameras = tuple(rig.sensors_of(Modality.CAMERA))
    for corruption in corruptions:
        if corruption.name == PATCH and simulated and set(cameras) & set(used):
            target = GROUP_NAMES[Modality.CAMERA]
            studies.append(Study("corruption", PATCH, target, cameras, options.used_severities))
        if corruption.name in WEATHER and options.sensors is None:
            sensors = tuple(
                n for n, s in rig.sensors.items() if s.modality in corruption.modalities
            )
            if len(sensors) > 1:
                studies.append(
                    Study(
                        "corruption", corruption.name, ALL_SENSORS, sensors, options.used_severities
                    )
                )
    return studies


def _pair_studies(
    targets: Sequence[Target], corruptions: Sequence[Corruption], options: PlanOptions
) -> list[Study]:
    """Both sensors of a pair with the same corruption."""
    severities = options.used_severities if options.full else (PAIR_SEVERITY,)
    studies = []
    for a, b in itertools.combinations(targets, 2):
        if not options.full and a.modality == b.modality:
            continue
        if set(a.sensors) & set(b.sensors):
            continue
        for c in corruptions:
            if c.name == PATCH or not {a.modality, b.modality} <= set(c.modalities):
                continue
            if options.full or options.corruptions or c.name in PAIR_CORRUPTIONS:
                name = f"{a.name} + {b.name}"
                studies.append(Study("corruption", c.name, name, a.sensors + b.sensors, severities))
    return studies


def _attack_studies(
    targets: Sequence[Target], used: Mapping[str, Collection[str]], options: PlanOptions
) -> list[Study]:
    """Attacks on single images against detection and segmentation, and on sweeps against detection.

    Sweeps are attacked against occupancy if detection is not evaluated.
    """
    points = "detection" if "detection" in used else "occupancy"
    studies = []
    for target in targets:
        if len(target.sensors) != 1 or target.modality is None:
            continue
        if target.modality is Modality.LIDAR:
            attacks = [("point_attack", points)]
        elif target.modality is Modality.ULTRASONIC:
            continue
        else:
            attacks = [("image_attack", task) for task in ("detection", "segmentation")]
        studies += [
            Study("attack", name, target.name, target.sensors, options.used_severities, task)
            for name, task in attacks
            if target.sensors[0] in used.get(task, ())
        ]
    return studies
