"""Model cards: files, inputs, outputs, training data and evaluation results of a trained network.

A model is a folder with card.yaml and the files that the card names. The card holds their SHA-256, so
that a modified or incompletely copied file is an error instead of a source of wrong results.
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

from multimodal_perception.configuration import (
    ConfigurationError,
    UserError,
    build,
    load_yaml,
    parse_yaml,
)
from multimodal_perception.files import FileError, read_regular_file, user_path
from multimodal_perception.resources import share_path
from multimodal_perception.yaml_reader import YamlDumper

DType = Literal["float32", "float16", "int32", "int64", "uint8", "bool"]
T = TypeVar("T")
CARD = "card.yaml"
MAX_ELEMENTS = 1 << 28  # of one tensor; a larger number is a mistake in the card
MAX_MODEL_BYTES = 2 << 30  # protocol buffers, and so ONNX files, are limited to 2 GiB
# TensorProto.external_data (field 13) with the key `location`, in the encoding of protocol buffers.
EXTERNAL_DATA = re.compile(rb"\x6a[\x00-\xff]{1,2}\n\x08location\x12")


class ModelIntegrityError(UserError):
    """A model file is not the one that its card describes. No engine may run it."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape and type of one input or output tensor.

    shape: static; () for a scalar. dtype: NumPy's name. finite: if true, NaN or infinity raises
    InputError in an input and EngineError in an output.
    """

    shape: tuple[int, ...]
    dtype: DType = "float32"
    finite: bool = True

    def __post_init__(self) -> None:
        elements = 1
        for size in self.shape:
            elements *= size
            if size < 1 or elements > MAX_ELEMENTS:
                raise ValueError(
                    f"shape {list(self.shape)}: every size must be at least 1, "
                    f"the product at most {MAX_ELEMENTS}"
                )


@dataclass(frozen=True)
class ModelFile:
    """A file in the card's folder: its name and the SHA-256 of its content, hexadecimal."""

    file: str
    sha256: str

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file or self.file in ("", ".", ".."):
            raise ValueError(f"file {self.file!r} must be the name of a file in the card's folder")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError("sha256 must be 64 lower-case hexadecimal digits")


@dataclass(frozen=True)
class Training:
    """How the weights were trained.

    command: the command line. seed: its random seed. hours: duration. device: hardware used. data:
    training data in words. recipe: name of the recipe file of `train recipe`. files: SHA-256 of the
    recipe file and of the configuration files that it names. version: git commit or version of the
    package.
    """

    command: str
    seed: int
    hours: float = field(metadata={"min": 0.0, "max": 1e6, "unit": "h"})
    device: str
    data: str = ""
    recipe: str = ""
    files: dict[str, str] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True)
class ModelCard:
    """A trained network.

    name: the model's name. architecture: a key of runtime.architectures.ARCHITECTURES. settings:
    the configuration that its build function takes. onnx, weights: the files; a card that is read
    has at least one. inputs, outputs: in the order of the network's arguments and results. licence:
    SPDX identifier. task: what the model does, one sentence. classes: names, in the order of the
    class outputs. normalisation: by input, mean and standard deviation or whatever the architecture
    reads. range: x min, y min, z min, x max, y max, z max in metres in base_link; empty if it does
    not apply. training: how the weights were trained. figures: evaluation results and how they were
    measured; `main`, if given, is the most important result as text for the model zoo. notes: free
    text. path: of the card.

    onnx_names: name of a tensor in the ONNX file by its name in inputs or outputs, for those that
    differ. weight_prefixes: prefix of parameter names in the weights file by the prefix of the module's
    parameter names, for those that differ. The longest stored prefix that matches is replaced; in both
    prefixes, `*` stands for one part of the dotted name, such as an index.
    """

    name: str
    architecture: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    licence: str
    task: str = ""
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
            raise ValueError(
                f"name {self.name!r} must consist of letters, digits, '_', '.' and '-'"
            )
        if not self.inputs or not self.outputs:
            raise ValueError("inputs and outputs must name at least one tensor each")
        unknown = set(self.onnx_names) - set(self.inputs) - set(self.outputs)
        if unknown:
            name = sorted(unknown)[0]
            raise ValueError(f"onnx_names: {name!r} is neither an input nor an output")
        if len(self.range) not in (0, 6):
            raise ValueError("range must be x min, y min, z min, x max, y max, z max, or empty")

    @property
    def source(self) -> str:
        """The card's path, or its name if it was not read from a file, for messages."""
        return str(self.path) if self.path is not None else self.name

    def linked_models(self, setting: str) -> dict[str, str]:
        """Read the names of other models, by their role, from settings[setting]. Raises UserError."""
        names = self.settings.get(setting, {})
        if not isinstance(names, Mapping):
            raise UserError(
                f"{self.source}: settings.{setting}: expected a mapping from role to model name"
            )
        return {str(role): str(name) for role, name in names.items()}

    def sibling_card(self, name: str) -> ModelCard:
        """Load the card of the model in the folder `name` next to this card's. Raises UserError."""
        if self.path is None or Path(name).name != name:
            raise UserError(
                f"{self.source}: {name!r} must be the name of a folder next to the card's folder"
            )
        return load_card(self.path.parent.parent / name)

    def with_onnx_names(self) -> ModelCard:
        """Return this card with inputs and outputs named as in the ONNX file."""
        return dataclasses.replace(
            self,
            inputs=self.to_onnx_names(self.inputs),
            outputs=self.to_onnx_names(self.outputs),
            onnx_names={},
        )

    def to_onnx_names(self, tensors: Mapping[str, T]) -> dict[str, T]:
        """Replace input and output names, the keys, by the names in the ONNX file."""
        return {self.onnx_names.get(name, name): value for name, value in tensors.items()}

    def to_module_names(self, weights: Mapping[str, T]) -> dict[str, T]:
        """Replace parameter names of the weights file, the keys, by the module's parameter names."""
        prefixes = [
            (re.compile(re.escape(stored).replace(r"\*", r"([^.]+)") + r"(?=\.|$)"), module)
            for module, stored in sorted(
                self.weight_prefixes.items(), key=lambda item: -len(item[1])
            )
        ]
        renamed = {}
        for name, value in weights.items():
            for pattern, module in prefixes:
                match = pattern.match(name)
                if match:
                    prefix = module
                    for part in match.groups():
                        prefix = prefix.replace("*", part, 1)
                    name = prefix + name[match.end() :]
                    break
            renamed[name] = value
        return renamed

    def read_file(self, kind: Literal["onnx", "weights"]) -> bytes:
        """Read the ONNX or weights file and check its hash.

        Raises UserError if the card names no such file or it cannot be read, ModelIntegrityError if its
        hash differs or it refers to data in other files, which have no hash.
        """
        entry = self.onnx if kind == "onnx" else self.weights
        if entry is None or self.path is None:
            raise UserError(f"{self.source}: {kind}: the card names no such file")
        path = self.path.parent / entry.file
        try:
            content = read_regular_file(path, MAX_MODEL_BYTES)
        except FileError as error:
            raise UserError(f"{error}; named in {self.source}, {kind}") from error
        digest = hashlib.sha256(content).hexdigest()
        if digest != entry.sha256:
            raise ModelIntegrityError(
                f"{path}: its SHA-256 is {digest[:12]}…, but {kind}.sha256 in {self.source} is "
                f"{entry.sha256[:12]}…: the file is damaged, modified or from another training run"
            )
        if kind == "onnx" and EXTERNAL_DATA.search(content):
            raise ModelIntegrityError(
                f"{path}: has tensors in other files (external data), which the card cannot verify: "
                "save the model as one file"
            )
        return content

    def check_files(self) -> None:
        """Check the hashes of all files of the card that exist. Raises ModelIntegrityError."""
        if self.path is None:
            return
        if self.onnx is not None and (self.path.parent / self.onnx.file).exists():
            self.read_file("onnx")
        if self.weights is not None and (self.path.parent / self.weights.file).exists():
            self.read_file("weights")


def load_card(name_or_path: str | Path) -> ModelCard:
    """Read a card: of a shipped model by name, or by the path of the card or its folder.

    The hashes are checked later, when the files are read. Raises UserError with file and key.
    """
    path = card_path(name_or_path)
    values = load_yaml(path)
    if isinstance(values, Mapping) and "path" in values:
        raise ConfigurationError(f"{path}: path: not allowed in a card file")
    card = build(ModelCard, values, str(path))
    if card.onnx is None and card.weights is None:
        raise ConfigurationError(f"{path}: onnx, weights: at least one of them is required")
    return dataclasses.replace(card, path=path)


def card_path(name_or_path: str | Path) -> Path:
    """Return the path of a model's card. Raises UserError that lists the shipped models."""
    path = user_path(name_or_path)
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
    """Return the paths of the cards in config/models, sorted by name."""
    try:
        return sorted(share_path("config", "models").glob(f"*/{CARD}"))
    except FileNotFoundError:
        return []


def write_card(
    folder: str | Path, card: ModelCard, onnx: str | None = None, weights: str | None = None
) -> ModelCard:
    """Write folder/card.yaml for model files in the same folder; return the card with their hashes.

    onnx, weights: file names in the folder; None keeps the card's entry. Raises UserError if a file
    cannot be read or the card cannot be written.
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
        build(
            ModelCard, parse_yaml(text, str(card.path)), str(card.path)
        )  # check that it can be read back
        (folder / CARD).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{card.path}: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{card.path}: {error}") from error
    return card


def hash_file(path: Path) -> ModelFile:
    """Return a file's name and SHA-256. Raises UserError if it cannot be read."""
    try:
        return ModelFile(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


class _CardDumper(YamlDumper):
    """Write lists of scalars on one line, and no aliases, because load_yaml rejects them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        flat = all(isinstance(item, (int, float, str)) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)


def _plain(value: Any) -> Any:
    """Convert dataclasses, tuples and NumPy values to YAML types; omit fields with default values."""
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
