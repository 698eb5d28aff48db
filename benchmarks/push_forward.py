"""Directional derivatives: what k tangents cost, in units of one forward.

    python benchmarks/push_forward.py                   # 64², batch 4, width 64, n_modes 17

``FNO.push_forward`` against k separate ``torch.func.jvp`` and one ``vmap`` of them; medians of
interleaved rounds in one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from common import interleaved, record, report

import fieldsym as fs

COUNTS = (1, 4, 12)


def quiet(f: Callable[..., object], *arguments: object) -> object:
    """A call that records nothing."""
    with torch.no_grad():
        return f(*arguments)


def programs(model: fs.FNO, u: torch.Tensor, count: int) -> dict[str, Callable[[], object]]:
    """One forward, and three ways to the same derivatives."""
    tangents = torch.randn(count, *u.shape)

    def along(v: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(model, (u,), (v,))[1]

    return {
        "forward": partial(quiet, model, u),
        "push_forward": partial(quiet, model.push_forward, u, tangents),
        "one jvp after another": partial(quiet, lambda: [along(v) for v in tangents]),
        "vmap of jvp": partial(quiet, torch.vmap(along), tangents),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=64, help="a multiple of 8")
    parser.add_argument("--n-modes", type=int, default=17)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    flow = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p + vector u")
    model = fs.FNO(flow, flow, group=fs.groups.dihedral(4), n_modes=options.n_modes,
                   hidden_channels=options.width)  # fmt: skip
    u = torch.randn(options.batch, 3, options.grid, options.grid)
    rows, facts = [], []
    for count in COUNTS:
        found = interleaved(programs(model, u, count), rounds=options.rounds)
        one = found.pop("forward")
        cells = [str(count)]
        for name, timing in found.items():
            ratio, spread = one.times_faster_than(timing), one.spread_against(timing)
            cells.append(f"{ratio:.1f} ({spread})")
            facts.append((f"{count} tangents", f"{name} / forward", ratio, spread))
        rows.append(cells)
    record("push_forward", facts)
    size = f"{options.grid}², batch {options.batch}, width {options.width}"
    report(
        f"Directional derivatives in units of one forward, {size}, n_modes {options.n_modes}, "
        f"D4, seed 0, medians of {options.rounds} rounds",
        ("tangents", "push_forward", "one jvp after another", "vmap of jvp"),
        rows,
    )


if __name__ == "__main__":
    main()
