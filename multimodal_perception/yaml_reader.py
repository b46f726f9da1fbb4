"""Read YAML text of unknown origin with bounded size, depth, number of values and time.

Scalars follow the core schema of YAML 1.2.2 (section 10.3.2): `yes`, `on` and `1:30` are strings,
`1e3` is a number. Anchors, aliases, merge keys and tags of other types are refused.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

try:  # libyaml is about ten times faster; both parsers accept the same documents
    from yaml.cyaml import CParser as _Parser  # type: ignore[attr-defined]
except ImportError:  # pragma: no cover - depends on how PyYAML was built

    class _Parser(  # type: ignore[no-redef]
        yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser, yaml.composer.Composer
    ):
        def __init__(self, stream: Any) -> None:
            yaml.reader.Reader.__init__(self, stream)
            yaml.scanner.Scanner.__init__(self)
            yaml.parser.Parser.__init__(self)
            yaml.composer.Composer.__init__(self)


# Configuration files are written by hand; a document beyond these limits is a mistake or an attack.
MAX_YAML_CHARACTERS = 1 << 20
MAX_DEPTH = 40
MAX_VALUES = 100_000
MAX_NUMBER_CHARACTERS = 64
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = {_TAG + name for name in ("null", "bool", "int", "float", "str")}


class YamlError(ValueError):
    """A text is not YAML, or exceeds a limit. The message has one line."""


def read_yaml_text(text: str) -> Any:
    """Parse one YAML document. Raises YamlError."""
    if len(text) > MAX_YAML_CHARACTERS:
        raise YamlError(f"larger than {MAX_YAML_CHARACTERS} characters")
    try:
        _check_structure(text)
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise YamlError(_describe(error)) from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise YamlError(" ".join(str(error).split())) from error


def _check_structure(text: str) -> None:
    """Refuse aliases, other types, deep nesting and too many values before anything is built."""
    depth = values = 0
    for event in yaml.parse(text, Loader=_Parser):  # type: ignore[arg-type]
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            _refuse("anchors and aliases are not allowed", event)
        if not isinstance(event, yaml.NodeEvent):
            continue
        values += 1
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        tag = getattr(event, "tag", None)
        if tag not in (None, "!") and tag not in _allowed_tags(event):
            _refuse(f"the tag {tag[:60]!r} is not allowed here", event)
        if depth > MAX_DEPTH:
            _refuse(f"nested more than {MAX_DEPTH} levels deep", event)
        if values > MAX_VALUES:
            _refuse(f"more than {MAX_VALUES} values", event)


def _allowed_tags(event: yaml.Event) -> set[str]:
    if isinstance(event, yaml.ScalarEvent):
        return _SCALAR_TAGS
    return {_TAG + ("seq" if isinstance(event, yaml.SequenceStartEvent) else "map")}


def _refuse(problem: str, event: yaml.Event) -> None:
    mark: Any = event.start_mark
    raise yaml.composer.ComposerError(None, None, problem, mark)


def _describe(error: yaml.MarkedYAMLError) -> str:
    """The problem with its line and column, in one line."""
    parts = [part for part in (error.context, error.problem) if part]
    text = " ".join(" ".join(parts).split())[:300]
    mark = error.problem_mark or error.context_mark
    return text if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {text}"


class _Resolver(yaml.resolver.BaseResolver):
    """Types of plain scalars by the core schema of YAML 1.2."""


class YamlDumper(yaml.SafeDumper):
    """Quotes strings that YAML 1.1 or 1.2 would read as another type, as `yes` and `12e4`."""


for _name, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
):
    for _class in (_Resolver, YamlDumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^{_pattern}\Z"), _first)


class _Constructor(yaml.constructor.SafeConstructor):
    """Builds values of the core types; a mapping must not repeat a key."""

    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def construct_boolean(self, node: yaml.ScalarNode) -> bool:
        if node.value.lower() not in ("true", "false"):
            raise yaml.constructor.ConstructorError(
                None, None, f"not a boolean: {node.value[:60]!r}", node.start_mark
            )
        return bool(node.value.lower() == "true")

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = self._number_text(node)
        try:
            if text.startswith(("0o", "0x")):
                return int(text[2:], 8 if text[1] == "o" else 16)
            return int(text)
        except ValueError:
            raise yaml.constructor.ConstructorError(
                None, None, f"not an integer: {text!r}", node.start_mark
            ) from None

    def construct_number(self, node: yaml.ScalarNode) -> float:
        text = self._number_text(node)
        try:
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise yaml.constructor.ConstructorError(
                None, None, f"not a number: {text!r}", node.start_mark
            ) from None

    @staticmethod
    def _number_text(node: yaml.ScalarNode) -> str:
        if len(node.value) > MAX_NUMBER_CHARACTERS:
            raise yaml.constructor.ConstructorError(
                None, None, "a number with too many digits", node.start_mark
            )
        return str(node.value)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        known_names: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a scalar", key_node.start_mark
                )
            # Compare the text and the parsed value: 0x1 equals 1, and 1 equals true.
            names = {key_node.value, self.construct_object(key_node)}
            if names & known_names:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value[:60]!r} appears twice", key_node.start_mark
                )
            known_names |= names
        return yaml.constructor.BaseConstructor.construct_mapping(self, node, deep)


_construct: Any = _Constructor.add_constructor
_construct(_TAG + "null", lambda loader, node: None)
_construct(_TAG + "bool", _Constructor.construct_boolean)
_construct(_TAG + "int", _Constructor.construct_integer)
_construct(_TAG + "float", _Constructor.construct_number)
_construct(_TAG + "str", yaml.constructor.SafeConstructor.construct_yaml_str)
_construct(_TAG + "seq", yaml.constructor.SafeConstructor.construct_yaml_seq)
_construct(_TAG + "map", yaml.constructor.SafeConstructor.construct_yaml_map)
_construct(None, yaml.constructor.SafeConstructor.construct_undefined)


class _Loader(_Parser, _Constructor, _Resolver):
    def __init__(self, text: str) -> None:
        _Parser.__init__(self, text)
        _Constructor.__init__(self)
        _Resolver.__init__(self)
