"""Exactness: the worst relative equivariance error of fs.FNO with random weights.

    python benchmarks/equivariance.py

Every group, mixed types in and out, odd and even grids, both precisions, all elements of the group
and a translation by whole cells; beside it the number of free parameters of one spectral layer and
the character formula (1/|G|) Σ_g #Fix(g) χ_out(g) χ_in(g).
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from common import record, report

import fieldsym as fs
from fieldsym.operators.spectral import SpectralConv

PLANE = "scalar p + pseudoscalar w + vector u + symmetric tensor s"
SPACE = f"{PLANE} + axial vector b"
LINE = "scalar p + pseudoscalar w + vector u"
CASES = (
    (fs.Torus((1.0,)), fs.groups.reflections(1), LINE, 7, ((16,), (15,))),
    (fs.Torus((1.0, 1.0)), fs.groups.cyclic(2), PLANE, 7, ((16, 16), (15, 15))),
    (fs.Torus((2.0, 3.0)), fs.groups.dihedral(1), PLANE, 7, ((16, 24), (15, 21))),
    (fs.Torus((2.0, 3.0)), fs.groups.dihedral(2), PLANE, 7, ((16, 24), (15, 21))),
    (fs.Torus((1.0, 1.0)), fs.groups.cyclic(4), PLANE, 7, ((16, 16), (15, 15))),
    (fs.Torus((1.0, 1.0)), fs.groups.dihedral(4), PLANE, 7, ((16, 16), (15, 15))),
    (fs.Torus((1.0,) * 3), fs.groups.reflections(3), SPACE, 5, ((8, 8, 8), (7, 7, 7))),
    (fs.Torus((1.0,) * 3), fs.groups.octahedral(reflections=False), SPACE, 5,
     ((8, 8, 8), (7, 7, 7))),
    (fs.Torus((1.0,) * 3), fs.groups.octahedral(), SPACE, 5, ((8, 8, 8), (7, 7, 7))),
)  # fmt: skip


def worst_error(
    base: fs.Torus, group: fs.Group, types: str, n_modes: int, grid: tuple, dtype: torch.dtype
) -> float:
    """Largest ‖F(g·x) − g·F(x)‖ / ‖F(x)‖ over the group and a shift by whole cells."""
    torch.manual_seed(0)
    bundle = fs.Bundle(base, types)
    model = fs.FNO(bundle, bundle, group=group, n_modes=n_modes, hidden_channels=2 * group.order)
    model = model.to(dtype)
    x = torch.randn(2, bundle.channels, *grid, dtype=dtype)
    shift = fs.Element(np.eye(base.dim), np.array(base.spacing(grid)) * np.arange(1, base.dim + 1))
    with torch.no_grad():
        y = model(x)
        errors = [
            (model(fs.act(g, x, bundle)) - fs.act(g, y, bundle)).norm() / y.norm()
            for g in (*group.elements, shift)
        ]
    return float(max(errors))


def dimensions(group: fs.Group, types: str, n_modes: int) -> tuple[int, float]:
    """Free parameters of a spectral layer, and the character formula."""
    rep = fs.Representation(types, group.dim)
    layer = SpectralConv(rep, rep, group, (n_modes,) * group.dim)
    cut = n_modes // 2
    modes = np.array(list(itertools.product(range(-cut, cut + 1), repeat=group.dim)))
    total = sum(
        (modes @ np.rint(g.matrix).T == modes).all(1).sum() * float(rep.rho(g).trace()) ** 2
        for g in group.elements
    )
    return layer.free_dimension, total / group.order


def main() -> None:
    rows, facts = [], []
    for base, group, types, n_modes, grids in CASES:
        free, formula = dimensions(group, types, n_modes)
        row = [group.name, f"{base.dim}-D", f"{free} = {formula:g}"]
        for dtype in (torch.float32, torch.float64):
            error = max(worst_error(base, group, types, n_modes, grid, dtype) for grid in grids)
            row.append(f"{error:.1e}")
            facts.append((group.name, f"worst error {dtype}", error, "maximum"))
        rows.append(row)
    header = ("group", "base", "free parameters = character formula", "float32", "float64")
    report("Equivariance error of fs.FNO, random weights", header, rows)
    record("equivariance", facts)


if __name__ == "__main__":
    main()
