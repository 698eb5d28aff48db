"""Programs in processes of their own, which are asked in turn.

Two operators in one process disturb each other: huge pages that one has asked for serve the other,
and memory that one gives back to the system has to be cleared for the other. Who uses an operator
has one in a process, so every one is timed in its own, in turns with the others, while these sleep.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from common import Timing, interleaved, wall_clock

Build = Callable[..., Mapping[str, Callable[[], Any]]]


class Apart:
    """The programs that ``build(*arguments)`` makes, in a process of their own."""

    def __init__(self, build: Build, arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")  # a copy would share the memory of this one
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other, torch.get_num_threads(), build, arguments), daemon=True
        )
        self._process.start()
        other.close()

    def answer(self) -> Any:
        """What the process says next."""
        try:
            found = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"a process of the measurement ended with exit code {self._process.exitcode}; its "
                "error is above"
            ) from None
        return found

    def ask(self, program: str, *, timed: bool = False) -> Any:
        """The result of a program, or the seconds that its second call in a row takes."""
        self._pipe.send((program, timed))
        return self.answer()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


@contextmanager
def apart(build: Build, arguments: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Apart]]:
    """One process for every name, all of them ready."""
    processes = {name: Apart(build, given) for name, given in arguments.items()}
    try:
        for process in processes.values():
            process.answer()
        yield processes
    finally:
        for process in processes.values():
            process.close()


def in_turn(processes: Mapping[str, Apart], program: str, rounds: int) -> dict[str, Timing]:
    """Interleaved seconds of a program in all processes."""
    asked = {name: partial(one.ask, program, timed=True) for name, one in processes.items()}
    return interleaved(asked, rounds=rounds, warm_up=1, clock=lambda ask: float(ask()))  # type: ignore[arg-type]


def _serve(pipe: Connection, threads: int, build: Build, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    programs = build(*arguments)
    pipe.send("ready")
    while True:
        try:
            program, timed = pipe.recv()
        except EOFError:
            return
        found = programs[program]()
        pipe.send(wall_clock(programs[program]) if timed else found)
