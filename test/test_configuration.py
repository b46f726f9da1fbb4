"""Typed configuration from untrusted YAML: errors name the cause, other exceptions do not occur."""

from __future__ import annotations

import enum
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.configuration import (
    MAX_YAML_BYTES,
    ConfigurationError,
    UserError,
    build,
    load,
    load_yaml,
    parse_yaml,
)
from multimodal_perception.yaml_reader import YamlDumper


class Shape(enum.Enum):
    ROUND = "round"
    FLAT = "flat"


@dataclass(frozen=True)
class Inner:
    size: int
    weight: float = field(default=1.0, metadata={"min": 0.0, "max": 10.0, "unit": "kg"})


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=lambda: Inner(1))
    shape: Shape = Shape.ROUND
    mode: Literal["fast", "slow"] = "fast"
    pair: tuple[float, float] = (0.0, 0.0)
    many: tuple[int, ...] = ()
    words: list[str] = field(default_factory=list)
    table: dict[str, Inner] = field(default_factory=dict)
    folder: Path | None = None
    either: int | str = 0
    enabled: bool = False
    anything: Any = None
    derived: int = field(default=7, init=False)

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise ValueError("name must not be forbidden")


def make(**values):
    return build(Outer, {"name": "n", **values}, "file.yaml")


def error_of(**values):
    with pytest.raises(ConfigurationError) as caught:
        make(**values)
    return str(caught.value)


def test_build_supports_all_field_types():
    text = """
    name: robot
    inner: {size: 3, weight: 2}
    shape: flat
    mode: slow
    pair: [1, 2.5]
    many: [1, 2, 3]
    words: [a, b]
    table: {first: {size: 1}, second: {size: 2, weight: 0.5}}
    folder: some/where
    either: text
    enabled: true
    anything: {free: [1, two]}
    """
    outer = build(Outer, parse_yaml(text, "file.yaml"), "file.yaml")
    assert outer == Outer(
        "robot",
        Inner(3, 2.0),
        Shape.FLAT,
        "slow",
        (1.0, 2.5),
        (1, 2, 3),
        ["a", "b"],
        {"first": Inner(1), "second": Inner(2, 0.5)},
        Path("some/where"),
        "text",
        True,
        {"free": [1, "two"]},
    )
    assert isinstance(outer.inner.weight, float) and isinstance(outer.pair[0], float)


def test_missing_keys_use_defaults():
    assert make() == Outer("n")


@pytest.mark.parametrize(
    ("values", "key", "hint"),
    [
        ({"nmae": "x"}, "nmae", "unknown key; allowed: anything, either, enabled, folder"),
        ({"derived": 3}, "derived", "unknown key"),
        ({"inner": {"size": 1, "wieght": 2}}, "inner.wieght", "allowed: size, weight"),
        ({"inner": {}}, "inner.size", "missing"),
        ({"inner": [1]}, "inner", "expected a mapping, got list"),
        ({"inner": None}, "inner", "expected a mapping"),
        ({"inner": {"size": 1.0}}, "inner.size", "expected int, got float 1.0"),
        ({"inner": {"size": True}}, "inner.size", "expected int"),
        ({"inner": {"size": 1, "weight": 11}}, "inner.weight", "allowed: 0.0 to 10.0 kg; got 11"),
        ({"inner": {"size": 1, "weight": -1}}, "inner.weight", "allowed: 0.0 to 10.0 kg"),
        ({"inner": {"size": 1, "weight": True}}, "inner.weight", "expected float"),
        ({"inner": {"size": 1, "weight": "1"}}, "inner.weight", "expected float, got str '1'"),
        ({"inner": {"size": 1, "weight": math.nan}}, "inner.weight", "must be finite"),
        ({"inner": {"size": 1, "weight": math.inf}}, "inner.weight", "must be finite"),
        ({"inner": {"size": 1, "weight": 10**400}}, "inner.weight", "must be finite"),
        ({"shape": "square"}, "shape", "allowed: round, flat; got 'square'"),
        ({"shape": ["round"]}, "shape", "allowed: round, flat"),
        ({"mode": "medium"}, "mode", "allowed: fast, slow; got 'medium'"),
        ({"mode": {}}, "mode", "allowed: fast, slow"),
        ({"pair": [1.0]}, "pair", "expected 2 values, got 1"),
        ({"pair": [1.0, 2.0, 3.0]}, "pair", "expected 2 values, got 3"),
        ({"pair": "ab"}, "pair", "expected a list, got str 'ab'"),
        ({"pair": [1.0, None]}, "pair[1]", "expected float"),
        ({"many": [1, "2"]}, "many[1]", "expected int"),
        ({"words": "word"}, "words", "expected a list"),
        ({"table": []}, "table", "expected a mapping"),
        ({"table": {1: {"size": 1}}}, "table", "expected str, got int 1"),
        ({"table": {"a": {"size": "x"}}}, "table.a.size", "expected int"),
        ({"folder": 3}, "folder", "expected Path"),
        ({"either": 1.5}, "either", "expected str, got float"),
        ({"enabled": "yes"}, "enabled", "expected bool"),
        ({"enabled": 1}, "enabled", "expected bool"),
        ({"name": 3}, "name", "expected str, got int 3"),
        ({"name": "x", 7: 1}, "7", "unknown key"),
    ],
)
def test_error_names_file_key_and_allowed_values(values, key, hint):
    values = {"name": "n", **values}
    with pytest.raises(ConfigurationError) as caught:
        build(Outer, values, "file.yaml")
    message = str(caught.value)
    assert message.startswith(f"file.yaml: {key}: ")
    assert hint in message


@pytest.mark.parametrize("values", [None, [], "name: x", 3, [{"name": "x"}]])
def test_values_without_mapping_raise_error(values):
    with pytest.raises(ConfigurationError, match=r"^file\.yaml: expected a mapping, got"):
        build(Outer, values, "file.yaml")


def test_value_error_of_post_init_is_reported_with_its_key():
    assert error_of(name="forbidden") == "file.yaml: name must not be forbidden"


def test_error_truncates_long_values():
    assert len(error_of(enabled="x" * 100_000)) < 200


def test_limits_are_inclusive():
    for weight in (0, 0.0, 10, 10.0):
        assert make(inner={"size": 1, "weight": weight}).inner.weight == weight


word = st.text(st.sampled_from("abyn01.-~:é "), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | word,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(word, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["name", "inner", "many", "table", "mode", "x"]), values))
def test_arbitrary_values_raise_only_configuration_errors(mapping):
    try:
        outer = build(Outer, mapping, "f")
    except ConfigurationError:
        return
    assert isinstance(outer, Outer) and isinstance(outer.name, str)


@given(values)
def test_yaml_round_trip(value):
    assert parse_yaml(yaml.dump(value, Dumper=YamlDumper), "f") == value


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a: 1\na: 2", "key 'a' appears twice"),
        ("a: {b: 1, c: 2, b: 3}", "key 'b' appears twice"),
        ("1: a\n1: b", "key '1' appears twice"),
        ("a: &x 1\nb: *x", "aliases are not allowed"),
        ("a: &x [1]\nb: {<<: *x}", "aliases are not allowed"),
        ("&x [*x]", "aliases are not allowed"),
        ("a: [1", "file.yaml"),
        ("a: b: c", "file.yaml"),
        ("\ta: 1", "file.yaml"),
        ("a: 1\n---\nb: 2", "single document"),
        ("a: \x00", "file.yaml"),
        ("? [a]\n: b", "a key must be a scalar"),
        ("!!python/object/apply:os.system [ls]", "is not allowed"),
        ("!!python/name:os.system", "is not allowed"),
        ("!anything x", "is not allowed"),
        ("[" * 5000, "nested more than 40 levels deep"),
        ("{a: " * 5000, "nested more than 40 levels deep"),
        ("a: " + "9" * 5000, "too many digits"),
        ("- 1\n" * 200_000, "more than 100000 values"),
        ("a: " + "b" * (1 << 20), "larger than 1048576 characters"),
    ],
)
def test_invalid_yaml_error_names_the_cause(text, hint):
    with pytest.raises(ConfigurationError, match=r"^file\.yaml: ") as caught:
        parse_yaml(text, "file.yaml")
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "!!map [1]",
        "!!set [a]",
        "!!map word",
        '!!int ""',
        '!!float ""',
        "!!bool maybe",
        "!!timestamp never",
        "!!omap [1]",
        "!!binary é",
        "a: !!int x",
    ],
)
def test_yaml_tag_that_does_not_match_its_value_raises_error(text):
    with pytest.raises(ConfigurationError, match=r"^file\.yaml: "):
        parse_yaml(text, "file.yaml")


@pytest.mark.parametrize("text", ["{1: a, 0x1: b}", "{True: a, true: b}", "{1: a, 1.0: b}"])
def test_equal_keys_in_different_spelling_are_duplicates(text):
    with pytest.raises(ConfigurationError, match="appears twice"):
        parse_yaml(text, "file.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("off", "off"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2001-01-01", "2001-01-01"),
        ("=", "="),
        ("TRUE", True),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        (".inf", math.inf),
        ("~", None),
        ("'1'", "1"),
        ("!!str 1", "1"),
    ],
)
def test_scalars_have_the_types_of_yaml_1_2(text, value):
    parsed = parse_yaml(f"a: {text}", "f")["a"]
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("text", ["yes", "12e4", "1:30", "0o7", "null", "1_0", "=", "<<"])
def test_dumped_strings_stay_strings(text):
    assert parse_yaml(yaml.dump({"a": text}, Dumper=YamlDumper), "f") == {"a": text}


def test_extreme_numbers_are_read_in_bounded_time():
    """YAML 1.1 reads base-60 integers in quadratic time; here they are strings."""
    text = ":".join(["59"] * 100_000)
    assert parse_yaml(f"a: {text}", "f") == {"a": text}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigurationError, match=r"pipe\.yaml: not a regular file"):
        load_yaml(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigurationError, match="/dev/zero: not a regular file"):
        load_yaml("/dev/zero")
    with pytest.raises(ConfigurationError, match="irectory"):
        load_yaml(tmp_path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\udc80", "~nobody_here/x.yaml"])
def test_unusual_paths_are_errors_of_one_line(name):
    with pytest.raises(ConfigurationError) as caught:
        load_yaml(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_nested_aliases_raise_error():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(ConfigurationError, match="aliases are not allowed"):
        parse_yaml("\n".join(lines), "bomb.yaml")


@given(st.text(st.sampled_from("ab:{}[],-?!&*|>'\"% \n#\t01~<="), max_size=40))
def test_arbitrary_text_raises_only_configuration_errors(text):
    try:
        parse_yaml(text, "f")
    except ConfigurationError as error:
        assert str(error).startswith("f: ")


def test_load_reads_a_file_and_names_it_in_errors(tmp_path):
    path = tmp_path / "outer.yaml"
    path.write_text("name: Straße\npair: [1, 2]\n", encoding="utf-8")
    assert load(Outer, path) == Outer("Straße", pair=(1.0, 2.0))
    path.write_text("name: 3\n")
    with pytest.raises(ConfigurationError) as caught:
        load(Outer, path)
    assert str(caught.value) == f"{path}: name: expected str, got int 3"


def test_unreadable_file_raises_error_with_its_name(tmp_path):
    path = tmp_path / "x.yaml"
    with pytest.raises(ConfigurationError, match=r"x\.yaml: No such file"):
        load_yaml(path)
    with pytest.raises(ConfigurationError, match="directory"):
        load_yaml(tmp_path)
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigurationError, match=r"x\.yaml: not UTF-8"):
        load_yaml(path)
    path.write_bytes(b"#" * (MAX_YAML_BYTES + 1))
    with pytest.raises(ConfigurationError, match=r"x\.yaml: larger than 1048576 bytes"):
        load_yaml(path)
    path.write_bytes(b"#" * MAX_YAML_BYTES)
    assert load_yaml(path) is None


def test_configuration_error_is_a_user_error():
    assert issubclass(ConfigurationError, UserError)
