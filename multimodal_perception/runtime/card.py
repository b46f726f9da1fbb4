"""Model cards: what a network's files are, what goes in and out, and how it came to be.

A model is a folder with card.yaml and the files that it names. The hashes make a tampered or
half-copied file an error rather than wrong boxes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from multimodal_perception.configuration import ConfigurationError, UserError, build, load_yaml
from multimodal_perception.resources import share_path

DType = Literal["float32", "float16", "int32", "int64", "uint8", "bool"]
T = TypeVar("T")
CARD = "card.yaml"
MAX_ELEMENTS = 1 << 28  # of one tensor; more is a mistake in the card


@dataclass(frozen=True)
class TensorSpec:
    """Shape and type of one input or output.

    shape: static; a scalar is (). dtype: as numpy writes it. finite: whether NaN or infinity in it
    is an error (of the caller in an input, of the engine in an output).
    """

    shape: tuple[int, ...]
    dtype: DType = "float32"
    finite: bool = True

    def __post_init__(self) -> None:
        elements = 1
        for size in self.shape:
            elements *= size
            if size < 1 or elements > MAX_ELEMENTS:
                raise ValueError(f"shape {list(self.shape)}: sizes are 1 or more, all static")


@dataclass(frozen=True)
class ModelFile:
    """A file beside the card: its name and the SHA-256 of its bytes, hexadecimal."""

    file: str
    sha256: str

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file or self.file in ("", ".", ".."):
            raise ValueError(f"file {self.file!r} must be a name in the card's own folder")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError("sha256 must be 64 hexadecimal digits in lower case")


@dataclass(frozen=True)
class Training:
    """How the weights came to be: the command that makes them, its seed, how long and on what."""

    command: str
    seed: int
    hours: float = field(metadata={"min": 0.0, "max": 1e6, "unit": "h"})
    device: str
    data: str = ""


@dataclass(frozen=True)
class ModelCard:
    """A trained network.

    architecture: a key of runtime.architectures. settings: the architecture's own configuration.
    onnx, weights: the files; a card that is read has one at least. inputs, outputs: in the order of
    the network's arguments and results. licence: SPDX name. classes: names, in the order of the
    class outputs. normalisation: mean and std, or whatever the architecture reads, by input.
    range: x min, y min, z min, x max, y max, z max, metres in base_link; empty where it means
    nothing. figures: what was measured, and how. path: of the card. onnx_names: names of tensors in the
    ONNX file by the names in inputs and outputs, where they differ. weight_prefixes: first parts of
    parameter names in the weights file by those of the network's module, where they differ.
    """

    name: str
    architecture: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    licence: str
    settings: dict[str, Any] = field(default_factory=dict)
    onnx: ModelFile | None = None
    weights: ModelFile | None = None
    classes: tuple[str, ...] = ()
    normalisation: dict[str, Any] = field(default_factory=dict)
    onnx_names: dict[str, str] = field(default_factory=dict)
    weight_prefixes: dict[str, str] = field(default_factory=dict)
    range: tuple[float, ...] = ()
    training: Training | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    notes: str = ""
    path: Path | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.name):
            raise ValueError(f"name {self.name!r}: letters, digits, _, . and - alone")
        if not self.inputs or not self.outputs:
            raise ValueError("inputs and outputs must name at least one tensor each")
        unknown = set(self.onnx_names) - set(self.inputs) - set(self.outputs)
        if unknown:
            raise ValueError(f"onnx_names: {sorted(unknown)[0]!r} is neither an input nor an output")
        if len(self.range) not in (0, 6):
            raise ValueError("range must be x min, y min, z min, x max, y max, z max, or empty")

    @property
    def source(self) -> str:
        """What names this card in messages."""
        return str(self.path) if self.path is not None else self.name

    def named(self, setting: str) -> dict[str, str]:
        """Other models by their part in this one, as settings[setting] names them."""
        said = self.settings.get(setting, {})
        if not isinstance(said, Mapping):
            raise UserError(f"{self.source}: settings.{setting}: a model's name by each part")
        return {str(part): str(name) for part, name in said.items()}

    def beside(self, name: str) -> ModelCard:
        """The card of the model of this name whose folder lies beside this one's. Raises UserError."""
        if self.path is None or Path(name).name != name:
            raise UserError(
                f"{self.source}: {name!r}: must be the name of a folder beside the card's"
            )
        return load_card(self.path.parent.parent / name)

    def as_in_onnx(self) -> ModelCard:
        """This card with inputs and outputs named as in the ONNX file."""
        return dataclasses.replace(
            self,
            inputs=self.to_onnx_names(self.inputs),
            outputs=self.to_onnx_names(self.outputs),
            onnx_names={},
        )

    def to_onnx_names(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """Values by input or output name, keyed by the name in the ONNX file instead."""
        return {self.onnx_names.get(name, name): value for name, value in tensors.items()}

    def to_module_names(self, weights: Mapping[str, T]) -> dict[str, T]:
        """Values by parameter name of the weights file, keyed by the module's parameter name instead."""
        renamed = {}
        for name, value in weights.items():
            for module, stored in self.weight_prefixes.items():
                if name.startswith(stored):
                    name = module + name.removeprefix(stored)
                    break
            renamed[name] = value
        return renamed

    def read_file(self, kind: Literal["onnx", "weights"]) -> bytes:
        """Bytes of the ONNX or the weights, their hash checked.

        Raises UserError where the card names none, the file is missing or its hash is another.
        """
        entry = self.onnx if kind == "onnx" else self.weights
        if entry is None or self.path is None:
            raise UserError(f"{self.source}: {kind}: the card names no such file")
        path = self.path.parent / entry.file
        try:
            content = path.read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path}: {reason}; {self.source} names it as {kind}") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != entry.sha256:
            raise UserError(
                f"{path}: its SHA-256 is {digest[:12]}…, {self.source} says {kind}.sha256 "
                f"{entry.sha256[:12]}…: damaged, tampered with or of another training"
            )
        return content


def load_card(name_or_path: str | Path) -> ModelCard:
    """Read the card of a shipped model by name, or from a card's path or its folder.

    The hashes are checked when the files are read. Raises UserError naming file and key.
    """
    path = card_path(name_or_path)
    values = load_yaml(path)
    if isinstance(values, Mapping) and "path" in values:
        raise ConfigurationError(f"{path}: path: is not written in a card")
    card = build(ModelCard, values, str(path))
    if card.onnx is None and card.weights is None:
        raise ConfigurationError(f"{path}: onnx, weights: one of them must be there")
    return dataclasses.replace(card, path=path)


def card_path(name_or_path: str | Path) -> Path:
    """Where a model's card lies. Raises UserError that lists the shipped models."""
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path / CARD
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    shipped = {p.parent.name: p for p in shipped_cards()}
    if str(path) not in shipped:
        names = ", ".join(shipped) or "none"
        raise UserError(f"model {str(path)!r}: no such model; shipped: {names}")
    return shipped[str(path)]


def shipped_cards() -> list[Path]:
    """The cards in config/models, sorted by name."""
    try:
        return sorted(share_path("config", "models").glob(f"*/{CARD}"))
    except FileNotFoundError:
        return []


def write_card(
    folder: str | Path, card: ModelCard, onnx: str | None = None, weights: str | None = None
) -> ModelCard:
    """Write folder/card.yaml for files that already lie there, and return it with their hashes.

    onnx, weights: file names in the folder; None leaves what the card says. Raises UserError where
    a file cannot be read or the card not be written.
    """
    folder = Path(folder)
    files = {"onnx": card.onnx, "weights": card.weights}
    for kind, name in (("onnx", onnx), ("weights", weights)):
        if name is not None:
            files[kind] = hash_file(folder / name)
    card = dataclasses.replace(card, **files, path=folder / CARD)  # type: ignore[arg-type]
    content = _plain(dataclasses.replace(card, path=None))
    try:
        text = yaml.dump(content, Dumper=_CardDumper, sort_keys=False, width=100)
        build(ModelCard, yaml.safe_load(text), str(card.path))  # what is written can be read
        (folder / CARD).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{card.path}: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{card.path}: {error}") from error
    return card


def hash_file(path: Path) -> ModelFile:
    """Name and SHA-256 of a file. Raises UserError where it cannot be read."""
    try:
        return ModelFile(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


class _CardDumper(yaml.SafeDumper):
    """Short lists of numbers on one line, and no aliases, which our reader refuses."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        flat = all(isinstance(item, (int, float, str)) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and numpy numbers as what YAML knows; defaults are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {
            f.name: _plain(v)
            for f, v in items
            if v != (f.default_factory() if callable(f.default_factory) else f.default)
        }
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value) if isinstance(value, Path) else value
