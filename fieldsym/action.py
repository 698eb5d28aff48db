"""The action of a group on sections: (g·u)(x) = ρ(g) u(g⁻¹x) and ξ·u = dρ(ξ)u − X·∇u.

Maps that permute the samples are index maps, exact to the last bit. Fractional shifts multiply
Fourier coefficients by a phase, with the Nyquist modes projected out (leaving them in is no group
action). Rotations by other angles are three shears, each a Fourier shift of lines; they mean
something for fields that vanish towards the edge (a region's window), since such a rotation does
not act on a torus or box. Nothing is interpolated on the grid.

>>> import torch, fieldsym as fs
>>> wind = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u")
>>> u = torch.zeros(2, 4, 4)
>>> u[0, 1, 0] = 1.0                                        # points along x, at (1/4, 0)
>>> fs.act(fs.groups.cyclic(4).elements[1], u, wind).nonzero().tolist()  # along y, at (0, 1/4)
[[1, 0, 1]]
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fieldsym.bundle import Bundle, require_bundle
from fieldsym.errors import GroupError
from fieldsym.group import AXES, Element, Generator, require_element
from fieldsym.manifold import Manifold

INTEGER = 1e-9  # a shift this close to a whole number of cells is one


def act(g: Element, u: Tensor, bundle: Bundle) -> Tensor:
    """The section g·u, (g·u)(x) = ρ(g) u(g⁻¹x).

    :func:`action_method` says how it is moved: "exact" (index map) or "spectral".

    Parameters
    ----------
    g : Element; its matrix turns about the centre of the base, its shift is in units of length
    u : Tensor (*batch, channel, *grid), a section of ``bundle``
    bundle : Bundle

    Returns
    -------
    Tensor (*batch, channel, *grid)

    Raises
    ------
    BundleError   if u is not a section of the bundle.
    GroupError    if g does not act on the base and grid: a quarter turn of a rectangle, a
                  translation along a non-periodic axis, a map that is not orthogonal.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> line = fs.Bundle(fs.Torus((1.0,)), "pseudoscalar w")
    >>> fs.act(fs.groups.reflections(1).elements[1], torch.tensor([[4.0, 1.0, 2.0, 3.0]]), line)
    tensor([[-4., -3., -2., -1.]])

    References
    ----------
    Otto et al. 2023, arXiv:2311.00212, section 2; three shears: Unser et al. 1995.
    """
    require_element(g, "act")
    require_bundle(bundle, "act").check(u, "act")
    base, grid = bundle.base, bundle.grid(u)
    _check_moves(g, base, grid)
    point = Element(g.matrix)
    move = _rotate if base.lattice(point) is None else _permute
    moved = move(point, u, base)
    for axis, step in enumerate(_steps(g, base, grid)):
        moved = _shift(moved, axis, step, base)
    return _on_fibre(bundle.representation.rho(g), moved, base.dim)


def action_method(g: Element, bundle: Bundle, grid: Sequence[int]) -> str:
    """How :func:`act` moves a field: "exact" (index map) or "spectral" (Fourier phases).

    Examples
    --------
    >>> import fieldsym as fs
    >>> wind = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u")
    >>> turn = fs.groups.so(2).exp([0.3])
    >>> fs.action_method(turn, wind, (8, 8)), fs.action_method(turn.inverse @ turn, wind, (8, 8))
    ('spectral', 'exact')
    """
    require_element(g, "action_method")
    require_bundle(bundle, "action_method")
    _check_moves(g, bundle.base, tuple(grid))
    steps = _steps(g, bundle.base, grid)
    whole = all(abs(step - round(step)) < INTEGER for step in steps)
    return "exact" if whole and bundle.base.lattice(g) is not None else "spectral"


def act_infinitesimal(xi: Generator, u: Tensor, bundle: Bundle) -> Tensor:
    """The section ξ·u = dρ(ξ)u − X·∇u with X(x) = A x + b, spectrally.

    Rotations on a torus or box need a field that vanishes towards the edge.

    Parameters
    ----------
    xi : Generator
    u : Tensor (*batch, channel, *grid), a section of ``bundle``

    Returns
    -------
    Tensor (*batch, channel, *grid), per unit of the group parameter

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> line = fs.Bundle(fs.Torus((2.0,)), "scalar p")
    >>> x = line.base.coordinates((16,))
    >>> moved = fs.act_infinitesimal(fs.groups.translations(1).generators[0], torch.sin(torch.pi * x), line)
    >>> bool(torch.allclose(moved, -torch.pi * torch.cos(torch.pi * x)))
    True
    """  # noqa: E501
    if not isinstance(xi, Generator):
        raise GroupError(
            f"act_infinitesimal needs a Generator, such as group.generators[0]; got {xi!r}."
        )
    require_bundle(bundle, "act_infinitesimal").check(u, "act_infinitesimal")
    base, grid = bundle.base, bundle.grid(u)
    x = base.coordinates(grid, u.dtype, u.device, centred=True)
    moved = _on_fibre(bundle.representation.drho(xi), u, base.dim)
    for axis in range(base.dim):
        row = xi.matrix[axis]
        if not row.any() and not xi.shift[axis]:
            continue
        speed = sum((float(row[j]) * x[j] for j in np.flatnonzero(row)), float(xi.shift[axis]))
        moved = moved - speed * base.derivative(u, axis)
    return moved


def _check_moves(g: Element, base: Manifold, grid: Sequence[int]) -> None:
    if g.dim != base.dim:
        raise GroupError(f"{g.name} acts in {g.dim} dimensions; {base} has {base.dim}.")
    where = f"{base} with {' × '.join(map(str, grid))} points"
    base.check_grid(grid)
    if base.lattice(g) is not None:
        if base.reason(g, grid):
            raise GroupError(f"{g.name} does not act on {where}{base.reason(g, grid)}.")
    elif np.abs(g.matrix @ g.matrix.T - np.eye(g.dim)).max() > 1e-9:
        raise GroupError(
            f"{g.name} does not act on {where}: only rotations, reflections and translations can "
            f"be moved here; its matrix is {g.matrix.tolist()}."
        )
    for axis in np.flatnonzero(np.abs(g.shift) > 1e-12):
        if not base.periodic[axis]:
            raise GroupError(
                f"{g.name} does not act on {where}: axis {AXES[axis]} is not periodic. Use its "
                "point part, or a periodic base."
            )


def _steps(g: Element, base: Manifold, grid: Sequence[int]) -> list[float]:
    """Shift in cells along each axis."""
    return [float(s) / h for s, h in zip(g.shift, base.spacing(grid), strict=True)]


def _on_fibre(matrix: Tensor, u: Tensor, dim: int) -> Tensor:
    if torch.equal(matrix, torch.eye(len(matrix), dtype=matrix.dtype)):
        return u
    if not matrix.any():
        return torch.zeros_like(u)
    flat = u.flatten(-dim) if dim > 1 else u
    return (matrix.to(u) @ flat).view(u.shape)


def _permute(g: Element, u: Tensor, base: Manifold) -> Tensor:
    """Index map of a signed permutation of the axes: out[i, j] = u[j, −i] for a quarter turn."""
    permutation, signs = base.lattice(g) or ((), ())
    batch = u.ndim - base.dim
    moved = u.permute(*range(batch), *(batch + p for p in permutation))
    for axis, sign in enumerate(signs):
        if sign < 0:
            moved = moved.flip(batch + axis)
            if base.periodic[axis] and base.location[axis] == "node":
                moved = moved.roll(1, batch + axis)
    return moved


def _shift(u: Tensor, axis: int, cells: float, base: Manifold) -> Tensor:
    position = axis - base.dim
    if abs(cells - round(cells)) < INTEGER:
        return u.roll(round(cells), position) if round(cells) else u
    n = u.shape[position]
    angle = -2 * torch.pi * cells / n * torch.arange(n // 2 + 1, dtype=torch.float64)
    return _phase(u, position, angle.view(-1, *[1] * (base.dim - axis - 1)))


def _phase(u: Tensor, position: int, angle: Tensor) -> Tensor:
    """Multiply Fourier coefficients along one axis by exp(i angle), Nyquist projected out."""
    phase = torch.polar(torch.ones_like(angle), angle)
    n = u.shape[position]
    if n % 2 == 0:
        phase.select(angle.ndim + position, -1).zero_()
    phase = phase.to(u.device, torch.complex64 if u.dtype == torch.float32 else torch.complex128)
    return torch.fft.irfft(torch.fft.rfft(u, dim=position) * phase, n=n, dim=position)


def _shear(u: Tensor, axis: int, along: int, amount: float, base: Manifold) -> Tensor:
    """u(x_axis + amount · x_along), as a Fourier shift of every line."""
    grid = tuple(u.shape[-base.dim :])
    n, h = grid[axis], base.spacing(grid)[axis]
    k = 2 * torch.pi / (n * h) * torch.arange(n // 2 + 1, dtype=torch.float64)
    lines = base.axes(grid)[along] - base.centre[along]
    shape_k, shape_x = [1] * base.dim, [1] * base.dim
    shape_k[axis], shape_x[along] = -1, -1
    return _phase(u, axis - base.dim, amount * k.view(shape_k) * lines.view(shape_x))


def _turn(u: Tensor, i: int, j: int, angle: float, base: Manifold) -> Tensor:
    """Rotate the plane of axes i → j by three shears; beyond 45° in two halves."""
    if abs(angle) < 1e-15:
        return u
    if abs(angle) > np.pi / 4 + 1e-9:
        return _turn(_turn(u, i, j, angle / 2, base), i, j, angle / 2, base)
    t, s = float(np.tan(angle / 2)), float(np.sin(angle))
    u = _shear(u, i, j, t, base)
    u = _shear(u, j, i, -s, base)
    return _shear(u, i, j, t, base)


def _rotate(g: Element, u: Tensor, base: Manifold) -> Tensor:
    """Nearest map of the lattice exactly, then the rest by three-shear rotations."""
    grid = tuple(u.shape[-base.dim :])
    nearest = max(
        (p for p in _lattice_points(base.dim) if _parity(p) == _parity(g)),
        key=lambda p: float(np.trace(p.matrix.T @ g.matrix)) if base.admits(p, grid) else -np.inf,
    )
    u = _permute(nearest, u, base)
    rest = g.matrix @ nearest.matrix.T
    if base.dim == 2:
        return _turn(u, 0, 1, float(np.arctan2(rest[1, 0], rest[0, 0])), base)
    # Tait-Bryan angles: rest = R_xy(a) R_zx(b) R_yz(c). At the pole b = ±90° any a will do, so c is
    # read from R_xy(−a) rest.
    a = float(np.arctan2(rest[1, 0], rest[0, 0]))
    b = float(np.arctan2(-rest[2, 0], np.hypot(rest[0, 0], rest[1, 0])))
    row = np.cos(a) * rest[1] - np.sin(a) * rest[0]
    c = float(np.arctan2(-row[2], row[1]))
    return _turn(_turn(_turn(u, 1, 2, c, base), 2, 0, b, base), 0, 1, a, base)


def _parity(g: Element) -> bool:
    return bool(np.linalg.det(g.matrix) > 0)


def _lattice_points(dim: int) -> list[Element]:
    return [
        Element(np.diag(signs) @ np.eye(dim)[list(order)])
        for order in itertools.permutations(range(dim))
        for signs in itertools.product((1.0, -1.0), repeat=dim)
    ]
