"""Speed against G-FNO, the group-equivariant FNO of Helwig et al. 2023 (arXiv:2306.05697).

    python benchmarks/gfno.py --path ../AIRS        # a checkout of github.com/divelab/AIRS

Its two published sizes, p4 of width 10 and p4m of width 7 (ten input frames, 12 modes, batch 4),
beside fs.FNO with cyclic(4) and dihedral(4), matched twice: by real parameters and by
activation channels. neuraloperator's FNO of width 20 is the anchor that both can be compared with.
A training step is forward, loss, backward and Adam. Inference is measured in evaluation mode, where
G-FNO keeps its rotated weights. Medians of interleaved rounds, every operator in a process of its
own, smallest and largest in brackets.

G-FNO is under the GPL: it is loaded from the path that is given, and none of it is here.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from apart import apart, in_turn
from common import (
    neuralop_fno,
    real_parameters,
    record,
    report,
    training_step,
)
from speed import inference
from torch import Tensor, nn

import fieldsym as fs

ANCHOR, OURS = "neuraloperator FNO", "fs.FNO"
Subject = tuple[str, int]  # kind of operator, activation channels
PEERS = {
    "p4": (10, False, fs.groups.cyclic(4), 6),
    "p4m": (7, True, fs.groups.dihedral(4), 12),
}  # width, reflections, our group, how many times faster a training step is asked to be


class Frames(nn.Module):
    """Adapter: (batch, frame, X, Y) for a model on (batch, X, Y, frame)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """The next frame, (batch, 1, X, Y)."""
        return self.model(x.movedim(1, -1)).flatten(3).movedim(-1, 1)


def load_gfno(path: Path) -> Callable[..., nn.Module]:
    """The class of the two-dimensional G-FNO, from a checkout of AIRS or its folder G-FNO."""
    folders = (path / "OpenPDE" / "G-FNO", path)
    folder = next((f for f in folders if (f / "models" / "GFNO.py").is_file()), None)
    if folder is None:
        sys.exit(
            f"There is no G-FNO below {path}: expected OpenPDE/G-FNO/models/GFNO.py there. Get it "
            "with `git clone https://github.com/divelab/AIRS` and give the folder as --path."
        )
    before = sys.modules.get("utils")
    sys.modules["utils"] = _module("utils", folder / "utils.py")  # what its models import
    try:
        return _module("gfno_models", folder / "models" / "GFNO.py").GFNO2d
    finally:
        del sys.modules["utils"]
        if before is not None:
            sys.modules["utils"] = before


def _module(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        sys.exit(f"{file} cannot be loaded as a Python module.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ours(group: fs.Group, width: int, n_modes: int, frames: int) -> nn.Module:
    base = fs.Torus((1.0, 1.0))
    source, target = (fs.Bundle(base, f"{n} pseudoscalar w") for n in (frames, 1))
    return fs.FNO(source, target, group=group, n_modes=n_modes, hidden_channels=width)


def matched(peer: nn.Module, group: fs.Group, channels: int, n_modes: int, frames: int) -> int:
    """The width whose number of real parameters is closest to the peer's."""
    # almost all parameters grow with the square of the width
    share = (real_parameters(peer) / real_parameters(ours(group, channels, n_modes, frames))) ** 0.5
    guess = max(1, round(share * channels / group.order))
    widths = [group.order * copies for copies in (guess - 1, guess, guess + 1) if copies]
    sizes = {w: real_parameters(ours(group, w, n_modes, frames)) for w in widths}
    return min(sizes, key=lambda w: abs(sizes[w] - real_parameters(peer)))


def candidates(peer: nn.Module, name: str, options: argparse.Namespace) -> dict[str, Subject]:
    """Our operators beside one G-FNO, by name."""
    width, _, group, _ = PEERS[name]
    channels = width * group.order
    equal = matched(peer, group, channels, 2 * options.modes - 1, options.frames)
    matches = {channels: "by channels"}
    matches[equal] = "by parameters and channels" if equal == channels else "by parameters"
    return {f"fs.FNO {group.name} w{w} (matched {how})": (OURS, w) for w, how in matches.items()}


def operator(subject: Subject, name: str, options: argparse.Namespace) -> nn.Module:
    """An operator beside the G-FNO of this name."""
    kind, channels = subject
    width, reflections, group, _ = PEERS[name]
    modes, frames = options.modes, options.frames
    if kind == ANCHOR:
        return neuralop_fno(channels, 2 * modes - 1, (frames, 1))
    if kind == OURS:
        return ours(group, channels, 2 * modes - 1, frames)
    published = load_gfno(options.path)(1, modes, width, frames, reflections, "symmetric")
    return Frames(published)


def programs(
    kind: str, subject: Subject, name: str, grid: int, options: argparse.Namespace
) -> dict[str, Callable[[], object]]:
    """A training step or inference of one operator."""
    torch.manual_seed(0)
    model = operator(subject, name, options).train(kind == "training step")
    x = torch.randn(options.batch, options.frames, grid, grid)
    y = torch.randn(options.batch, 1, grid, grid)
    if kind == "inference":
        return {kind: partial(inference, model, x)}
    return {kind: partial(training_step, model, torch.optim.Adam(model.parameters()), x, y)}


def compare(name: str, grid: int, options: argparse.Namespace) -> None:
    """Measure, print and record one G-FNO beside ours."""
    width, _, group, asked = PEERS[name]
    label = f"G-FNO {name} w{width}"
    subjects: dict[str, Subject] = {label: ("G-FNO", width * group.order)}
    subjects |= candidates(operator(subjects[label], name, options), name, options)
    subjects[f"{ANCHOR} w20"] = (ANCHOR, 20)
    times = {}
    for kind in ("training step", "inference"):
        given = {row: (kind, one, name, grid, options) for row, one in subjects.items()}
        with apart(programs, given) as processes:
            times[kind] = in_turn(processes, kind, options.rounds)
    rows, facts = [], []
    for row, one in subjects.items():
        cells = [row, f"{real_parameters(operator(one, name, options)):,}", str(one[1])]
        for kind, found in times.items():
            ratio = found[row].times_faster_than(found[label])
            spread = found[row].spread_against(found[label])
            cells += [str(found[row]), f"{ratio:.2f} ({spread})"]
            facts.append((row, f"{kind}, times faster than {label}", ratio, spread))
        rows.append(cells)
    title = (
        f"{label}, {grid}², batch {options.batch}, {options.frames} frames, {options.modes} modes; "
        f"asked: a training step {asked} times faster; {options.rounds} rounds, seed 0"
    )
    header = ("model", "real parameters", "channels", "training step", "times faster", "inference",
              "times faster")  # fmt: skip
    report(title, header, rows)
    record(f"gfno, {name}, {grid}²", facts)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--path", type=Path, help="a checkout of github.com/divelab/AIRS")
    options.add_argument("--groups", nargs="+", choices=list(PEERS), default=list(PEERS))
    options.add_argument("--grids", type=int, nargs="+", default=[64, 128, 256])
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--frames", type=int, default=10)
    options.add_argument("--modes", type=int, default=12, help="n_modes = 2 modes − 1")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if options.path is None:
        sys.exit(
            "G-FNO is not part of this repository (GPL). Get it with "
            "`git clone https://github.com/divelab/AIRS` and give the folder as --path."
        )
    torch.set_num_threads(options.threads)
    load_gfno(options.path)  # says so if it is not there
    for name in options.groups:
        for grid in options.grids:
            compare(name, grid, options)


if __name__ == "__main__":
    main()
