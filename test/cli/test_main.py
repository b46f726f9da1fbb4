"""The command line: exit codes, and errors without a traceback."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from multimodal_perception import __version__
from multimodal_perception.cli import main as cli
from multimodal_perception.configuration import UserError

COMMAND = """
    from multimodal_perception.configuration import UserError

    def add_arguments(parser):
        parser.add_argument("--code", type=int, default=0)
        parser.add_argument("--fail", default="")

    def run(arguments):
        if arguments.fail == "user":
            raise UserError("rig.yaml: sensors: missing")
        if arguments.fail == "interrupt":
            raise KeyboardInterrupt
        if arguments.fail == "bug":
            raise RuntimeError("a defect")
        return arguments.code
"""


@pytest.fixture
def made_command(tmp_path, monkeypatch):
    """Replaces all commands by one, and returns its name."""
    name = "made_for_a_test"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(COMMAND))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli, "COMMANDS", {name: cli.Command("made for a test", name)})
    yield name
    sys.modules.pop(name, None)


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


def test_an_unknown_command_is_refused_with_the_known_ones(made_command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["no_such_command"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "no_such_command" in error and made_command in error


def test_without_a_command_the_help_lists_them(made_command, capsys):
    assert cli.main([]) == 2
    out = capsys.readouterr().out
    assert made_command in out and "made for a test" in out


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_return_value_of_a_command_is_the_exit_code(made_command, code):
    assert cli.main([made_command, "--code", str(code)]) == code


def test_a_user_error_is_one_line_and_exit_code_2(made_command, capsys):
    assert cli.main([made_command, "--fail", "user"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: rig.yaml: sensors: missing\n"
    assert captured.out == ""


def test_an_interrupted_command_has_exit_code_130(made_command, capsys):
    assert cli.main([made_command, "--fail", "interrupt"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_other_exceptions_are_not_caught(made_command):
    with pytest.raises(RuntimeError, match="a defect"):
        cli.main([made_command, "--fail", "bug"])


def test_the_module_runs_as_a_program():
    command = [sys.executable, "-m", "multimodal_perception.cli.main", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, __version__)


def test_user_errors_are_exceptions():
    assert issubclass(UserError, Exception)
