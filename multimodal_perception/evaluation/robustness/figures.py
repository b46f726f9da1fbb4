"""Figures of a robustness report, from the results of all studies on all drives.

Corruption error CE of a study: mean over the severities of 1 - quality. mCE: mean over the studies of
single sensors. With another result as the reference, CE and mCE are relative to it, as in ImageNet-C
(Hendrycks and Dietterich 2019, equation 1; there the reference is AlexNet): the sum of the errors
divided by that of the reference. Relative robustness: quality divided by that of the clean run
(resistance ability of MultiCorrupt). Empirical margin of a sensor: the smallest size of a change of this
sensor at which a given fraction of the decisions changes (CRMT, Yang et al. 2024, where it is a bound
for each sample).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol
from multimodal_perception.evaluation.robustness.catalogue import CORRUPTIONS
from multimodal_perception.evaluation.robustness.scores import SettingResult, merged
from multimodal_perception.evaluation.robustness.study import ATTACKS, CLEAN, Study, StudyResult

# Fractions of changed decisions at which margins are given.
MARGIN_RATES = (0.1, 0.5)
# Part of the names of pairs, and start of the names of groups such as "all cameras".
PAIR, GROUP = " + ", "all "


def combine(
    drives: Sequence[Sequence[StudyResult]],
    protocol: NuScenesProtocol,
    reference: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The figures. drives: results of each drive. reference: another result, see the module.

    Keys: tasks (by task: see _task_figures), not_applicable (reasons by study), frames, and seconds (per
    frame of the clean run).
    """
    clean = [next(r for r in results if r.study.name == CLEAN) for results in drives]
    by_study: dict[Study, list[tuple[int, StudyResult]]] = {}
    skipped: dict[str, str] = {}
    for k, results in enumerate(drives):
        for result in results:
            if result.study.name == CLEAN:
                continue
            if result.reason:
                skipped[result.study.title] = result.reason
            else:
                by_study.setdefault(result.study, []).append((k, result))
    total = merged([c.settings[0] for c in clean])
    rows = [_study_row(study, results, clean, protocol) for study, results in by_study.items()]
    tasks = {
        task: _task_figures(task, figures, total, rows, reference)
        for task, figures in total.figures(protocol).items()
    }
    return {
        "frames": total.frames,
        "seconds_per_frame": total.seconds / max(total.frames, 1),
        "tasks": tasks,
        "not_applicable": skipped,
    }


def margin(sizes: Sequence[float], rates: Sequence[float], level: float) -> float:
    """Smallest size at which the fraction of changed decisions reaches a level; inf if none does.

    sizes: of the changes, ascending. rates: fraction of changed decisions. Between two sizes, and from
    no change at size 0, the fraction is interpolated linearly.
    """
    size_before, rate_before = 0.0, 0.0
    for size, rate in zip(sizes, rates, strict=True):
        if rate >= level:
            if rate <= rate_before:
                return size
            part = max(level - rate_before, 0.0) / (rate - rate_before)
            return size_before + part * (size - size_before)
        size_before, rate_before = size, rate
    return math.inf


def _study_row(
    study: Study,
    results: Sequence[tuple[int, StudyResult]],
    clean: Sequence[StudyResult],
    protocol: NuScenesProtocol,
) -> dict[str, Any]:
    """The figures of a study in all tasks.

    Keys: name, target, kind, unit, method, attacked_task, values (by severity), baseline and settings
    (figures by task; settings by severity).
    """
    parts: dict[int, list[SettingResult]] = {}
    for _, result in results:
        for setting in result.settings:
            parts.setdefault(setting.severity, []).append(setting)
    if 0 not in parts:  # the clean run of the same drives
        parts[0] = [clean[k].settings[0] for k, _ in results]
    figures = {s: merged(p).figures(protocol) for s, p in sorted(parts.items())}
    unit, values = _sizes(study)
    return {
        "name": study.name,
        "target": study.target,
        "kind": study.kind,
        "unit": unit,
        "attacked_task": study.task,
        "method": results[0][1].method,
        "values": {str(s): values[s - 1] for s in figures if s},
        "baseline": figures.pop(0),
        "settings": {str(s): f for s, f in figures.items()},
    }


def _sizes(study: Study) -> tuple[str, Sequence[float]]:
    if study.kind == "attack":
        return ATTACKS[study.name]
    corruption = CORRUPTIONS[study.name]
    return corruption.unit, corruption.values


def _task_figures(
    task: str,
    clean: Mapping[str, Any],
    total: SettingResult,
    rows: Sequence[Mapping[str, Any]],
    reference: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Figures of one task.

    clean: of the clean run. reference: "labels" or "clean run". studies: name, target, kind, unit,
    method, ce, relative_robustness, margins by MARGIN_RATES, and severities with value, quality,
    relative and changed_decisions. sensors: of single sensors: ce, relative_robustness, worst corruption
    and attack margin. mce, mean_relative_robustness: over the corruptions of single sensors.
    weakest_sensor: that with the lowest relative robustness. relative_mce: with a reference.
    """
    studies = [
        _task_study(task, row)
        for row in rows
        if task in row["baseline"] and all(task in f for f in row["settings"].values())
    ]
    single = [s for s in studies if s["kind"] == "corruption" and is_single(s["target"])]
    names = list(dict.fromkeys(s["target"] for s in single))
    sensors = {n: _sensor_figures(n, studies) for n in names}
    ranked = [
        n for n in names if sensors[n]["relative_robustness"] == sensors[n]["relative_robustness"]
    ]
    weakest = min(ranked, key=lambda n: sensors[n]["relative_robustness"], default=None)
    result = {
        "clean": dict(clean),
        "reference": "labels" if total.labelled.get(task) else "clean run",
        "mce": _mean(s["ce"] for s in single),
        "mean_relative_robustness": _mean(s["relative_robustness"] for s in single),
        "weakest_sensor": weakest,
        "sensors": sensors,
        "studies": studies,
    }
    if reference is not None:
        result["relative_mce"] = _relative_mce(single, reference, task)
    return result


def is_single(target: str) -> bool:
    """Whether a target is one sensor, or the ultrasonic sensors, and no pair or other group."""
    return PAIR not in target and not target.startswith(GROUP)


def _task_study(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    baseline = row["baseline"][task]["quality"]
    severities = {}
    for severity, figures in row["settings"].items():
        own = figures[task]
        relative = own["quality"] / baseline if baseline else float("nan")
        severities[severity] = {"value": row["values"][severity], "relative": relative, **own}
    sizes = [s["value"] for s in severities.values()]
    rates = [s["changed_decisions"] for s in severities.values()]
    ascending = sizes == sorted(sizes) and len(set(sizes)) == len(sizes)
    return {
        **{k: row[k] for k in ("name", "target", "kind", "unit", "method")},
        "baseline": baseline,
        "ce": _mean(1.0 - s["quality"] for s in severities.values()),
        "relative_robustness": _mean(s["relative"] for s in severities.values()),
        "margins": {
            f"{100 * level:g}%": margin(sizes, rates, level) if ascending else float("nan")
            for level in MARGIN_RATES
        },
        "severities": severities,
    }


def _sensor_figures(name: str, studies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = [s for s in studies if s["target"] == name]
    corruptions = [s for s in own if s["kind"] == "corruption"]
    known = [s for s in corruptions if s["relative_robustness"] == s["relative_robustness"]]
    worst = min(known, key=lambda s: s["relative_robustness"], default=None)
    attacks = [s for s in own if s["kind"] == "attack"]
    return {
        "ce": _mean(s["ce"] for s in corruptions),
        "relative_robustness": _mean(s["relative_robustness"] for s in corruptions),
        "worst_corruption": None if worst is None else worst["name"],
        "attack_margins": {f"{s['name']}, {s['unit']}": dict(s["margins"]) for s in attacks},
    }


def _relative_mce(
    single: Sequence[Mapping[str, Any]], reference: Mapping[str, Any], task: str
) -> float:
    """Mean over the studies that both results have: sum of the errors relative to the reference's."""
    others = reference.get("tasks", {}).get(task, {}).get("studies", [])
    by_name = {(s["name"], s["target"]): s for s in others if s.get("kind") == "corruption"}
    ratios = []
    for study in single:
        other = by_name.get((study["name"], study["target"]))
        if other is None or set(other["severities"]) != set(study["severities"]):
            continue
        mine = sum(1.0 - s["quality"] for s in study["severities"].values())
        theirs = sum(1.0 - _number(s["quality"]) for s in other["severities"].values())
        if theirs > 0:
            ratios.append(mine / theirs)
    return _mean(ratios)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if v == v]
    return float(np.mean(known)) if known else float("nan")
