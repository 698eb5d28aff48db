"""For tests: random sections, and assertions that an operator has a symmetry.

>>> import fieldsym as fs
>>> base = fs.Torus((1.0, 1.0))
>>> p = fs.Bundle(base, "scalar p")
>>> errors = assert_equivariant(
...     fs.simulate.heat_flow(base, 0.01), fs.groups.dihedral(4), p, p, (16, 16)
... )
>>> len(errors), errors["rotation 90°"] < 1e-14                # 7 elements and 3 shifts by cells
(10, True)

To add one: name it ``assert_…``, raise ``AssertionError`` with the worst case and the bound, and
return the measured numbers by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fieldsym.bundle import Bundle, require_bundle
from fieldsym.errors import GridError
from fieldsym.group import Element, Group
from fieldsym.lie import finite_defect, infinitesimal_defect
from fieldsym.manifold import Region
from fieldsym.simulate.random_fields import random_polynomial

__all__ = ["assert_equivariant", "assert_infinitesimally_equivariant", "random_section"]

FINITE = {torch.float32: 1e-4, torch.float64: 1e-10}
INFINITESIMAL = {torch.float32: 1e-3, torch.float64: 1e-6}


def random_section(
    bundle: Bundle,
    grid: Sequence[int],
    *,
    batch: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    kmax: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """A smooth random section: white noise in the modes |k_i| ≤ kmax, unit variance per channel.

    With the same seed and ``kmax`` a finer grid samples the same continuous field. Non-periodic
    axes carry half waves, so the field is smooth but not periodic there.

    Parameters
    ----------
    bundle : Bundle
    grid : sizes of the axes
    batch : number of sections; section b depends on ``(seed, b)`` alone
    kmax : largest mode number; default an eighth of the smallest axis, at least 2 where it fits

    Returns
    -------
    Tensor (batch, channel, *grid)

    Raises
    ------
    GridError   if the grid does not fit the base or cannot resolve ``kmax``.

    Examples
    --------
    >>> import fieldsym as fs
    >>> flow = fs.Bundle(fs.Torus((2.0, 3.0)), "scalar p + vector u")
    >>> fs.testing.random_section(flow, (16, 24), batch=2).shape
    torch.Size([2, 3, 16, 24])
    """
    require_bundle(bundle, "random_section").base.check_grid(grid)
    most = (min(grid) - 1) // 2
    kmax = min(max(2, min(grid) // 8), most) if kmax is None else kmax
    if not 0 <= kmax <= most:
        raise GridError(
            f"A grid of {' × '.join(map(str, grid))} points resolves mode numbers 0 to {most}; got "
            f"kmax={kmax}. Use a finer grid or a smaller kmax."
        )
    cutoffs = (kmax,) * bundle.base.dim
    u = random_polynomial(
        bundle.base, grid, cutoffs, channels=bundle.channels, batch=batch, seed=seed
    )
    return u.to(device=device, dtype=dtype)


def assert_equivariant(
    F: Callable[[Tensor], Tensor],
    group: Group,
    in_bundle: Bundle,
    out_bundle: Bundle,
    grid: Sequence[int],
    *,
    tol: float | None = None,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
    seed: int = 0,
    kmax: int | None = None,
    u: Tensor | None = None,
    translations: bool = True,
) -> dict[str, float]:
    """Assert F(g·u) = g·F(u) for the elements of a group and for shifts by whole cells.

    A continuous group is tested on one element of each further component; its generators are for
    :func:`assert_infinitesimally_equivariant`.

    Parameters
    ----------
    F : module or callable from sections of ``in_bundle`` to sections of ``out_bundle``
    group : Group
    grid : sizes of the axes of the random sections
    tol : bound on ‖F(g·u) − g·F(u)‖ / ‖F(u) − mean‖; default 1e-10 in float64, 1e-4 in float32
    dtype, batch, seed, kmax : of :func:`random_section`
    u : sections (batch, channel, *grid) to use instead of random ones
    translations : whether to test shifts by whole cells along the periodic axes too

    Returns
    -------
    dict   largest relative error of each element, by name

    Raises
    ------
    AssertionError   naming the elements that fail and their errors, worst first.
    GroupError       if the group does not act on the base or grid.

    Examples
    --------
    >>> import fieldsym as fs
    >>> base = fs.Torus((2.0, 3.0))
    >>> p = fs.Bundle(base, "scalar p")
    >>> wind = fs.simulate.advection(base, (1.0, 0.0), time=0.1)
    >>> assert_equivariant(wind, fs.groups.reflections(2), p, p, (16, 24))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: ... not equivariant under ...
    """
    if u is None:
        u = random_section(in_bundle, grid, batch=batch, seed=seed, dtype=dtype, kmax=kmax)
    grid = in_bundle.grid(u)
    if group.is_finite:
        group.check(in_bundle.base, grid)
    elements = [g for g in group.elements or group.components if not g.is_identity]
    if translations:
        elements += _cell_shifts(in_bundle, grid)
    errors = {g.name: _worst(finite_defect(F, g, u, in_bundle, out_bundle)) for g in elements}
    _compare(errors, FINITE[u.dtype] if tol is None else tol, F)
    return errors


def assert_infinitesimally_equivariant(
    F: Callable[[Tensor], Tensor],
    group: Group,
    in_bundle: Bundle,
    out_bundle: Bundle,
    grid: Sequence[int],
    *,
    region: Region | None = None,
    tol: float | None = None,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
    seed: int = 0,
    kmax: int | None = None,
    u: Tensor | None = None,
) -> dict[str, float]:
    """Assert that the Lie derivative of F along every generator of a group vanishes.

    Parameters
    ----------
    F : module or callable, differentiable in the forward direction
    group : Group with generators
    region : where rotations are measured; translations of a torus need none
    tol : bound on the relative defect; default 1e-6 in float64, 1e-3 in float32
    grid, dtype, batch, seed, kmax, u : as for :func:`assert_equivariant`

    Returns
    -------
    dict   largest relative defect of each generator, by name

    Raises
    ------
    AssertionError   naming the generators that fail and their defects, worst first.

    Examples
    --------
    >>> import fieldsym as fs
    >>> base = fs.Torus((2.0, 3.0))
    >>> p = fs.Bundle(base, "scalar p")
    >>> heat = fs.simulate.heat_flow(base, time=0.01)
    >>> list(assert_infinitesimally_equivariant(heat, fs.groups.translations(2), p, p, (16, 24)))
    ['translation x', 'translation y']
    """
    if u is None:
        u = random_section(in_bundle, grid, batch=batch, seed=seed, dtype=dtype, kmax=kmax)
    errors = {
        xi.name: _worst(infinitesimal_defect(F, xi, u, in_bundle, out_bundle, region=region))
        for xi in group.generators
    }
    _compare(errors, INFINITESIMAL[u.dtype] if tol is None else tol, F)
    return errors


# One cell along each periodic axis, and a longer step along all of them.
def _cell_shifts(bundle: Bundle, grid: Sequence[int]) -> list[Element]:
    base = bundle.base
    cell = np.array(base.spacing(grid)) * np.array(base.periodic)
    steps = [cell * axis for axis in np.eye(base.dim)] + [cell * np.arange(3, 3 + base.dim)]
    return [Element(np.eye(base.dim), shift) for shift in steps if shift.any()]


def _worst(defect: Tensor) -> float:
    return float(defect.max())


# ``not error <= tol`` so that NaN fails.
def _compare(errors: Mapping[str, float], tol: float, F: object) -> None:
    failed = sorted((name for name in errors if not errors[name] <= tol), key=lambda n: -errors[n])
    if failed:
        listed = ", ".join(f"{name} (relative error {errors[name]:.2e})" for name in failed[:6])
        more = f" and {len(failed) - 6} more" if len(failed) > 6 else ""
        name = getattr(F, "__name__", type(F).__name__)
        raise AssertionError(
            f"{name} is not equivariant under {listed}{more}: {len(failed)} of {len(errors)} "
            f"exceed the tolerance {tol:.1e}."
        )
