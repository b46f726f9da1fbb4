"""Which sensors of a rig the stages of a pipeline use, and which they have no room for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import Modality
from multimodal_perception.perception import Level, StageStatus
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.runtime.card import ModelCard

IMAGE_MODALITIES = (Modality.CAMERA, Modality.THERMAL)


@dataclass(frozen=True)
class SensorUse:
    """The sensors of a rig that one stage uses.

    used: names of sensors. surplus: reason by name of the sensors that the stage would use, but that
    exceed the inputs of its network. notes: other restrictions, and differences from the training rig.
    """

    used: frozenset[str] = frozenset()
    surplus: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RigUse:
    """The sensors of a rig that a pipeline uses.

    unused_sensors: used by no stage. unused_images: images by stage that exceed the inputs of its
    network. lines: all of it in words.
    """

    unused_sensors: tuple[str, ...] = ()
    unused_images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    @property
    def details(self) -> dict[str, str]:
        """Values for the diagnostics of the pipeline; without entries if everything is used."""
        images = ", ".join(f"{s}: {' '.join(names)}" for s, names in self.unused_images.items())
        values = {"unused_sensors": ", ".join(self.unused_sensors), "unused_images": images}
        return {key: value for key, value in values.items() if value}

    @property
    def status(self) -> StageStatus:
        """Persistent entry of the diagnostics; WARN if anything is not used."""
        level = Level.WARN if self.details else Level.OK
        message = "; ".join(f"{k}: {v}" for k, v in self.details.items()) or "all sensors are used"
        values = {f"note.{i}": line for i, line in enumerate(self.lines)}
        return StageStatus("sensor_use", level, message, {**self.details, **values})


def combine(rig: Rig, uses: Mapping[str, SensorUse]) -> RigUse:
    """Combine the use of all stages, by name of the stage."""
    used = frozenset[str]().union(*(u.used for u in uses.values()))
    unused = tuple(name for name in rig.sensors if name not in used)
    images = {stage: tuple(use.surplus) for stage, use in uses.items() if use.surplus}
    lines = [
        f"{rig.sensors[n].modality.value} {n!r} of the rig is used by no stage of the pipeline"
        for n in unused
    ]
    for stage, use in uses.items():
        lines += [f"{stage}: {name!r} is not used: {why}" for name, why in use.surplus.items()]
        lines += [f"{stage}: {note}" for note in use.notes]
    return RigUse(unused, images, tuple(lines))


def of_modalities(rig: Rig, *modalities: Modality) -> frozenset[str]:
    """Names of all sensors of modalities."""
    return frozenset(n for n, s in rig.sensors.items() if s.modality in modalities)


def limited(names: Sequence[str], limit: int, what: str) -> SensorUse:
    """The first `limit` sensors. what: their plural name in the text ("cameras")."""
    reason = f"the network takes {limit} {what}, the rig has {len(names)}"
    return SensorUse(frozenset(names[:limit]), dict.fromkeys(names[limit:], reason))


def of_view(rig: Rig, cameras: Sequence[str], uses_thermal: bool = True) -> SensorUse:
    """The sensors of a stage that processes the views of configured cameras, or one view.

    cameras: configured names; if empty, the camera whose view a thermal camera covers best.
    """
    thermals = of_modalities(rig, Modality.THERMAL) if uses_thermal else frozenset()
    if cameras:
        unknown = [n for n in cameras if n not in rig.sensors]
        notes = (f"cameras: {', '.join(unknown)} not in the rig",) if unknown else ()
        return SensorUse(frozenset(cameras) & rig.sensors.keys() | thermals, notes=notes)
    names = tuple(rig.sensors_of(Modality.CAMERA))
    if len(names) <= 1:
        return SensorUse(frozenset(names) | thermals)
    if not uses_thermal or not thermals:
        reason = (
            f"only the first of {len(names)} cameras is processed; set cameras to process others"
        )
        return SensorUse(frozenset(names[:1]), dict.fromkeys(names[1:], reason))
    note = (
        f"one of {len(names)} cameras is processed in each frame, that which a thermal camera covers "
        "best; set cameras to process others"
    )
    return SensorUse(frozenset(names) | thermals, notes=(note,))


def of_views(
    rig: Rig, cameras: Sequence[str], max_images: int = 0, uses_thermal: bool = True
) -> SensorUse:
    """The sensors of a stage that processes the images of all cameras, or of configured ones.

    cameras: configured names; empty for all. max_images: maximum number of images per frame, 0 for no
    limit. uses_thermal: whether thermal cameras are processed, too.
    """
    modalities = IMAGE_MODALITIES if uses_thermal else (Modality.CAMERA,)
    if cameras:
        return of_view(rig, cameras, uses_thermal)
    used = of_modalities(rig, *modalities)
    turns = f"at most {max_images} of {len(used)} images are processed in each frame, in turns"
    return SensorUse(used, notes=(turns,) if 0 < max_images < len(used) else ())


def merged(*uses: SensorUse) -> SensorUse:
    """The use of several inputs of one stage."""
    used = frozenset[str]().union(*(u.used for u in uses))
    surplus = {name: why for u in uses for name, why in u.surplus.items()}
    return SensorUse(used, surplus, tuple(note for u in uses for note in u.notes))


def training_rig_notes(card: ModelCard, rig: Rig, modalities: Iterable[Modality]) -> Iterator[str]:
    """Differences of a rig from the shipped rig that a model was trained with, according to its card."""
    data = "" if card.training is None else str(getattr(card.training, "data", "") or "")
    for name in dict.fromkeys(re.findall(r"\brigs? (\w+)", data)):
        try:
            trained = load_rig(resolve_rig_path(name))
        except (UserError, OSError):  # the word is not the name of a shipped rig
            continue
        counts = [(m.value, len(trained.sensors_of(m)), len(rig.sensors_of(m))) for m in modalities]
        different = [f"{there} {m} (here {here})" for m, there, here in counts if there != here]
        if different:
            yield f"{card.name} was trained with the rig {name}, which has {', '.join(different)}"
