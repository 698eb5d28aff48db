"""Aliasing told from asymmetry: the same samples on a grid twice as fine.

A pointwise nonlinearity makes wavenumbers that the grid cannot hold; folded back, they break
translations by parts of a cell and rotations, although no weight does. What the weights break stays
on any grid. The aliasing share is 1 − min(1, fine / coarse)², the part of the squared defect that
vanishes on a grid twice as fine: all of it for smooth nonlinearities and fields that the grid
resolves (gelu: 0.96 to 1 on 16 to 64 points), about half for relu, whose slope jumps alias on every
grid (0.45 to 0.57), and none for jumps, as of sign, and for resampling.

>>> import torch, fieldsym as fs
>>> line = fs.Torus((2.0,), location="cell")
>>> coarse, fine = (torch.cos(torch.pi * line.coordinates((n,))) for n in (8, 16))
>>> bool(torch.allclose(refine(coarse, line), fine))
True
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fieldsym.manifold import Manifold
from fieldsym.symmetry.evaluate_measure import Results, Setup, finite_pass, lie_pass
from fieldsym.symmetry.evaluate_parts import Probe, Ruler

Array = np.ndarray
FINE_SAMPLES = 8
BETWEEN = ("fractional shift", "rotation")  # rows that see what lies between the points


@dataclass
class Fine:
    """Defects on the finer grid, (rows, samples) and (generators, samples); NaN, and why."""

    defect: Array
    lie: Array
    reason: str = ""


def refine(u: Tensor, base: Manifold) -> Tensor:
    """The same band-limited section with twice the points along every (periodic) axis.

    Nyquist modes, whose phase the coarse grid does not tell, are left out, as they are by shifts.

    Parameters
    ----------
    u : Tensor (..., *grid), float64

    Returns
    -------
    Tensor (..., *(2 n for n in grid))
    """
    grid = tuple(u.shape[-base.dim :])
    starts = zip(base.axes(grid), base.axes([2 * n for n in grid]), strict=True)
    for axis, (coarse, fine) in enumerate(starts):
        position, n = axis - base.dim, grid[axis]
        spectrum = torch.fft.rfft(u, dim=position, norm="forward").movedim(position, -1)
        k = torch.arange(n // 2 + 1, dtype=torch.float64)
        angle = 2 * torch.pi * k * float(fine[0] - coarse[0]) / base.lengths[axis]
        phase = torch.polar((k < n / 2).double(), angle).to(spectrum)
        u = torch.fft.irfft(spectrum * phase, n=2 * n, norm="forward").movedim(-1, position)
    return u


def finer(setup: Setup) -> tuple[Setup | None, str]:
    """The same measurement on the finer grid; None where it cannot be done, and why."""
    probe, base = setup.probe, setup.probe.ins.bundle.base
    rows = [row for row in setup.rows if row.kind in BETWEEN]
    if not rows and not setup.group.generators:
        return None, "no symmetry lies between the points"
    if probe.ins.mask is not None:
        return None, "points are missing"
    if not all(base.periodic):
        return None, "an axis is not periodic"
    x = refine(setup.take(setup.x, slice(FINE_SAMPLES)), base)
    fine = replace(probe, name="the finer grid", ins=_doubled(probe.ins), outs=_doubled(probe.outs))
    reason = _refusal(fine, x[:1])
    if reason:
        return None, reason
    return Setup(setup.group, fine, x, device=setup.device, rows=rows, steps=setup.steps), ""


def _doubled(ruler: Ruler) -> Ruler:
    return replace(ruler, grid=tuple(2 * n for n in ruler.grid))


# Foreign models refuse a grid with errors of any kind.
def _refusal(fine: Probe, x: Tensor) -> str:
    grid = " × ".join(map(str, fine.ins.grid))
    try:
        found = fine.outs.bundle.grid(fine(x))
    except Exception as error:
        return f"the model does not run on {grid} points ({type(error).__name__})"
    if found != fine.outs.grid:
        return f"on {grid} points the model returns {' × '.join(map(str, found))}"
    return ""


def fine_pass(setup: Setup, fine: Setup | None, reason: str) -> Fine:
    """Defects on the finer grid, in the rows of the coarse one."""
    samples = min(FINE_SAMPLES, len(setup.x))
    found = Fine(
        np.full((len(setup.rows), samples), np.nan),
        np.full((len(setup.group.generators), samples), np.nan),
        reason,
    )
    if fine is not None:
        between = [i for i, row in enumerate(setup.rows) if row.kind in BETWEEN]
        found.defect[between] = finite_pass(fine, fine.probe).defect
        found.lie[:] = lie_pass(fine, fine.probe).defect
    return found


def aliasing_share(coarse: Array, fine: Array, least: float) -> Array:
    """1 − min(1, fine / coarse)² of medians; NaN where the coarse one is rounding already.

    Examples
    --------
    >>> aliasing_share(np.array([0.2, 0.2, 1e-9]), np.array([0.02, 0.2, 1e-9]), 1e-6)
    array([0.99, 0.  ,  nan])
    """
    known = coarse > least
    ratio = np.divide(fine, coarse, out=np.full_like(fine, np.nan), where=known)
    return 1 - np.minimum(1.0, ratio) ** 2


def aliasing_table(setup: Setup, found: Results, rounding: float) -> dict[str, tuple]:
    """The variables of the report that compare two grids."""
    fine, count = found.fine, found.fine.lie.shape[1]
    scale = np.array([value for value, _ in setup.scales])
    coarse = np.median(found.lie["model"].defect[:, :count], axis=1) * scale
    after = np.median(fine.lie, axis=1) * scale
    share = aliasing_share(coarse, after, rounding)
    return {
        "defect_fine": (
            "element",
            np.median(fine.defect, axis=1),
            "median defect on a grid twice as fine",
        ),
        "lee_fine": ("generator", after, "median local equivariance error on a grid twice as fine"),
        "aliasing_share": ("generator", share, "part of lee² that the finer grid removes"),
    }
