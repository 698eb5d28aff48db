"""Shifts of fields, each sample by its own distance, differentiable in the distance.

>>> import torch, fieldsym as fs
>>> from fieldsym.operators.shift import shift
>>> line = fs.Torus((2.0,))
>>> x = line.coordinates((16,))
>>> moved = shift(torch.sin(torch.pi * x), torch.tensor([0.3], dtype=torch.float64), line)
>>> bool(torch.allclose(moved, torch.sin(torch.pi * (x - 0.3))))
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fieldsym.errors import GridError
from fieldsym.manifold import Manifold


def shift(u: Tensor, amount: Tensor, base: Manifold, *, nyquist: float = 1.0) -> Tensor:
    """The sections u(x − a), each by its own amount, along the periodic axes.

    Differentiable in both arguments. The Nyquist modes of an even grid are multiplied by
    ``nyquist``: 1 leaves them where they are, 0 projects them out as ``fs.act`` does.

    Parameters
    ----------
    u : Tensor (*batch, channel, *grid)
    amount : Tensor (*batch, dim), float64, in units of length

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> line = fs.Torus((2.0,))
    >>> x = line.coordinates((16,))
    >>> moved = shift(torch.sin(torch.pi * x), torch.tensor([0.3], dtype=torch.float64), line)
    >>> bool(torch.allclose(moved, torch.sin(torch.pi * (x - 0.3))))
    True
    """
    grid = tuple(u.shape[-base.dim :])
    axes = [axis for axis in range(base.dim) if base.periodic[axis]]
    positions = tuple(axis - base.dim for axis in axes)
    angle = torch.zeros((), dtype=torch.float64, device=u.device)
    keep = torch.ones((), dtype=torch.float64, device=u.device)
    for axis in axes:
        k, inside = _frequencies(base, grid, axis, half=axis == axes[-1], device=u.device)
        shape = [1] * (base.dim - axis)
        shape[0] = -1
        step = amount[..., axis].to(torch.float64)
        angle = angle - step.view(*step.shape, *[1] * (base.dim + 1)) * k.view(shape)
        keep = keep * torch.where(inside, 1.0, nyquist).view(shape)
    phase = torch.complex((keep * angle.cos()).to(u.dtype), (keep * angle.sin()).to(u.dtype))
    spectrum = torch.fft.rfftn(u, dim=positions) * phase
    return torch.fft.irfftn(spectrum, s=[grid[axis] for axis in axes], dim=positions)


# Angular wavenumbers along an axis, zero at Nyquist, and where they are not Nyquist.
def _frequencies(
    base: Manifold, grid: Sequence[int], axis: int, *, half: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    n = grid[axis]
    mode = torch.arange(n // 2 + 1 if half else n, device=device)
    mode = torch.where(mode > n // 2, mode - n, mode)
    inside = 2 * mode != n
    return torch.where(inside, mode, 0).double() * (2 * math.pi / base.lengths[axis]), inside


def check_periodic(base: Manifold, what: str) -> None:
    if not any(base.periodic):
        raise GridError(f"{what} shifts fields along periodic axes; {base} has none.")
