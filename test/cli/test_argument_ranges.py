"""Numbers and paths on the command line are checked before anything runs."""

from __future__ import annotations

import argparse
import importlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.cli.argument_ranges import RANGES, check_values
from multimodal_perception.cli.main import COMMANDS, Command, main
from multimodal_perception.configuration import UserError


def commands(prefix: str = "", tree: dict[str, Command] | None = None) -> Iterator[tuple[str, str]]:
    for name, command in (COMMANDS if tree is None else tree).items():
        if command.subcommands:
            yield from commands(f"{prefix}{name} ", dict(command.subcommands))
        else:
            yield f"{prefix}{name}", command.module


@pytest.mark.parametrize(("name", "module"), list(commands()))
def test_every_numeric_option_of_a_command_has_a_range(name: str, module: str) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(module, "multimodal_perception.cli").add_arguments(parser)
    for action in parser._actions:
        if action.type in (int, float):
            assert RANGES.keys() & set(action.option_strings), f"{name}: {action.option_strings}"
    check_values(parser)
    for action in parser._actions:
        assert action.type not in (int, float, Path), f"{name}: {action.option_strings}"
        for option in set(action.option_strings) & RANGES.keys():
            if isinstance(action.default, (int, float)) and not isinstance(action.default, bool):
                low, high = RANGES[option]
                assert low <= action.default <= high, f"{name} {option}"


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(exit_on_error=False)
    result.add_argument("--seed", type=int)
    result.add_argument("--rate", type=float)
    result.add_argument("--out", type=Path)
    check_values(result)
    return result


@given(st.one_of(st.integers().map(str), st.floats().map(repr), st.text(max_size=10)))
def test_accepted_numbers_are_within_the_range(text: str) -> None:
    for option, kind in (("--seed", int), ("--rate", float)):
        try:
            value = vars(parser().parse_args([f"{option}={text}"]))[option[2:]]
        except UserError as error:
            assert str(error).startswith(f"{option}: allowed: ")
            continue
        low, high = RANGES[option]
        assert type(value) is kind and low <= value <= high and math.isfinite(value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench", "sync", "--seconds", "inf"],
        ["bench", "sync", "--seconds", "1e-9"],
        ["simulate", "--out", "x", "--seed", "99999999999999999999"],
        ["simulate", "--out", "x", "--seed", "-1"],
        ["simulate", "--out", "x", "--frames", "0"],
        ["simulate", "--out", "x", "--workers", "1e3"],
        ["simulate", "--out", "a\0b"],
        ["draw", "synthetic", "--out", "~no_such_user_/x.png"],
        ["replay", "synthetic", "--rate", "nan"],
    ],
)
def test_values_out_of_range_end_with_one_line_and_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --") and error.count("\n") == 1


def test_a_rig_of_an_unknown_user_is_an_error_of_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["rig", "check", "~no_such_user_/rig.yaml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
