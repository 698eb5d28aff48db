"""The README runs: its Python blocks are executed, its commands are parsed."""

import re
import shlex
from pathlib import Path

import pytest

from fieldsym.cli import _parser

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = [
    line.partition("  #")[0]
    for block in re.findall(r"```console\n(.*?)```", README, re.S)
    for line in block.splitlines()
]


def test_python_blocks_run():
    """All in one session, in their order, as one reads them."""
    session = {}
    for code in PYTHON:
        exec(compile(code, "README.md", "exec"), session)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("fieldsym")])
def test_commands_parse(line):
    _parser().parse_args(shlex.split(line)[1:])


def test_there_is_something_to_run():
    assert PYTHON
    assert any(line.startswith("fieldsym train") for line in COMMANDS)


@pytest.mark.parametrize("script", re.findall(r"python (benchmarks/\w+\.py)", README))
def test_benchmark_commands_exist(script):
    assert (Path(__file__).parents[1] / script).is_file()
