"""Random band-limited fields, the same continuous field on every grid.

Coefficients are drawn shell by shell in max |n_i|, one stream of random numbers per sample, and the
trigonometric polynomial is evaluated at the samples themselves. A finer grid, a larger batch or
more modes therefore only add to what a smaller draw contains.

>>> import fieldsym as fs
>>> base = fs.Torus((2.0, 3.0))
>>> coarse, fine = (random_polynomial(base, grid, (3, 3), seed=1) for grid in ((8, 12), (16, 24)))
>>> bool((fine[..., ::2, ::2] - coarse).abs().max() < 1e-13)
True

To add one: give ``random_polynomial`` another amplitude, a function of the mode numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fieldsym.errors import DataError
from fieldsym.manifold import Manifold
from fieldsym.simulate.linear import check_torus

__all__ = ["random_polynomial", "random_vorticity"]

Amplitude = Callable[[np.ndarray], np.ndarray]


def random_polynomial(
    base: Manifold,
    grid: Sequence[int],
    cutoffs: Sequence[int],
    *,
    channels: int = 1,
    batch: int = 1,
    seed: int = 0,
    first: int = 0,
    amplitude: Amplitude | None = None,
) -> Tensor:
    """Gaussian trigonometric polynomials Σ_n c_n exp(2πi n·x/P) sampled on a grid.

    The periods P are the lengths of periodic axes and twice the lengths of the others, where the
    field is smooth up to and across the edges.

    Parameters
    ----------
    base : Manifold
    grid : sizes of the axes
    cutoffs : largest mode number |n_i| of each axis
    channels, batch : independent fields per sample, and samples
    seed : sample b depends on ``(seed, b)`` alone
    first : number b of the first sample
    amplitude : standard deviation of c_n as a function of the mode numbers, (modes, dim) to
        (modes,); default: white, with unit variance at every point

    Returns
    -------
    Tensor (batch, channels, *grid), float64

    Raises
    ------
    DataError   if the seed is negative or the batch is empty.
    """
    if seed < 0 or batch < 1 or first < 0:
        raise DataError(
            f"A draw needs seed ≥ 0, batch ≥ 1 and first ≥ 0; got seed={seed}, batch={batch}, "
            f"first={first}."
        )
    modes = _half_space(max(cutoffs), base.dim)
    kept = (np.abs(modes) <= np.asarray(cutoffs)).all(axis=1)
    white = math.prod(2 * k + 1 for k in cutoffs) ** -0.5
    sigma = np.full(kept.sum(), white) if amplitude is None else amplitude(modes[kept])
    sigma = np.where(modes[kept].any(axis=1), math.sqrt(2.0), 1.0) * sigma
    numbers = range(first, first + batch)
    draws = np.stack([_normal(len(modes), channels, (seed, b))[kept] for b in numbers])
    coefficients = np.moveaxis(sigma[:, None] * (draws[..., 0] - 1j * draws[..., 1]), 1, -1)
    table = np.zeros((batch, channels, *(2 * k + 1 for k in cutoffs)), dtype=np.complex128)
    table[(..., *(modes[kept] + np.asarray(cutoffs)).T)] = coefficients
    return _evaluate(torch.from_numpy(table), base, grid, cutoffs)


def random_vorticity(
    base: Manifold,
    grid: Sequence[int],
    *,
    batch: int = 1,
    seed: int = 0,
    first: int = 0,
    alpha: float = 2.5,
    tau: float = 7.0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """Gaussian random vorticity with the isotropic spectrum of Li et al. and zero mean.

    The coefficient of wavenumber k has variance 2 τ^(2α−2) (k² + τ²)^(−α), in units of the box
    (its side, or √(Lx Ly)), inside the circle that the solver keeps. A finer grid shows the same
    field with more small scales: the modes that both grids hold agree.

    Parameters
    ----------
    base : Manifold, two periodic axes
    grid : (X, Y)
    batch : number of fields
    seed : sample b depends on ``(seed, b)`` alone, so a larger batch continues a smaller one
    first : number b of the first field
    alpha, tau : decay and corner of the spectrum

    Returns
    -------
    Tensor (batch, 1, X, Y)

    Raises
    ------
    GridError   if the base is not a two-dimensional torus or the grid does not fit it.
    DataError   if the seed is negative, the batch empty, or alpha ≤ 1 (infinite variance).

    Examples
    --------
    >>> import fieldsym as fs
    >>> w = fs.simulate.random_vorticity(fs.Torus((1.0, 1.0)), (32, 32), batch=3)
    >>> w.shape, bool(w.mean(dim=(-2, -1)).abs().max() < 1e-14)
    (torch.Size([3, 1, 32, 32]), True)

    References
    ----------
    Li et al. 2021, arXiv:2010.08895, section 5.3 (their generator uses α = 2.5, τ = 7).
    """
    check_torus(base, "random vorticity", dim=2)
    base.check_grid(grid)
    if not (alpha > 1 and tau > 0):
        raise DataError(
            f"The spectrum needs alpha > 1 (finite variance) and tau > 0; got {alpha}, {tau}."
        )
    side = math.sqrt(math.prod(base.lengths))
    scale = 2 * math.pi * side / np.asarray(base.lengths)
    radius2 = min(scale * np.asarray(grid) / 3) ** 2 * (1 - 1e-9)

    def amplitude(modes: np.ndarray) -> np.ndarray:
        k2 = ((modes * scale) ** 2).sum(axis=1)
        sigma = math.sqrt(2.0) * tau ** (alpha - 1) * (k2 + tau**2) ** (-alpha / 2)
        return np.where((k2 > 0) & (k2 < radius2), sigma, 0.0)

    cutoffs = [(n - 1) // 3 for n in grid]
    w = random_polynomial(
        base, grid, cutoffs, batch=batch, seed=seed, first=first, amplitude=amplitude
    )
    return w.to(device=device, dtype=dtype)


# One of each pair ±n with |n_i| ≤ cutoff, zero first, ordered by shells so that a larger cutoff
# continues the list of a smaller one.
def _half_space(cutoff: int, dim: int) -> np.ndarray:
    axis = np.arange(-cutoff, cutoff + 1)
    modes = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    half = modes[len(modes) // 2 :]  # lexicographic order is odd under n → −n about its middle
    return half[np.lexsort((*half.T[::-1], np.abs(half).max(axis=1)))]


def _normal(modes: int, channels: int, key: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(key).standard_normal((modes, channels, 2))


# Real part of the polynomial, one axis at a time: works for nodes, cells and edges alike.
def _evaluate(table: Tensor, base: Manifold, grid: Sequence[int], cutoffs: Sequence[int]) -> Tensor:
    for axis, (x, cutoff) in enumerate(zip(base.axes(grid), cutoffs, strict=True)):
        period = base.lengths[axis] * (1 if base.periodic[axis] else 2)
        n = torch.arange(-cutoff, cutoff + 1, dtype=torch.float64)
        phase = 2 * math.pi / period * n[:, None] * (x - base.origin[axis])
        waves = torch.polar(torch.ones_like(phase), phase)
        table = torch.tensordot(table, waves, dims=([2], [0]))
    return table.real.contiguous()
