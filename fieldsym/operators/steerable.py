"""Steerable spectral convolutions: multipliers that commute with rotations by every angle.

The symbol (:mod:`fieldsym.operators.symbol`) is isotropic in the continuous wavevector k for any
weights. Wavenumbers are physical, k = 2πn/L, so that holds on boxes of unequal lengths and grids of
unequal spacing too. Sampled on the modes of a box, the convolution commutes exactly with
translations and with the rotations and reflections that map the box to itself, and with rotations
by any angle as far as field and kernel do not reach around the box.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from fieldsym.errors import BundleError, GridError, RepresentationError
from fieldsym.group import Group
from fieldsym.operators.fourier import TruncatedFourier
from fieldsym.operators.harmonics import full_rotations
from fieldsym.operators.lattice import check_pair
from fieldsym.operators.modes import check_modes, half_set
from fieldsym.operators.radial import EDGE, Radial
from fieldsym.operators.symbol import Symbol
from fieldsym.operators.tables import Tabulated
from fieldsym.representation import Representation

Array = np.ndarray


def inscribed_disc(
    n_modes: int | Sequence[int], lengths: Sequence[float]
) -> tuple[float, tuple[int, ...]]:
    """Cutoff of the largest disc |k| ≤ K inside the kept modes, and the modes that it needs.

    Returns
    -------
    K in radians per unit of length, and the odd numbers of modes of the axes

    Raises
    ------
    GridError   if a number of modes is even or below 3.

    Examples
    --------
    >>> cutoff, modes = inscribed_disc((9, 13), (1.0, 2.0))
    >>> round(cutoff / torch.pi, 12), modes
    (6.0, (7, 13))
    """
    checked = check_modes(per_axis(n_modes, len(lengths)), len(lengths))
    if min(checked) < 3:
        raise GridError(
            "A steerable convolution needs at least 3 modes per axis, a disc that is more than "
            f"k = 0; got {checked}."
        )
    cutoff = min(2 * math.pi * (n // 2) / size for n, size in zip(checked, lengths, strict=True))
    inside = (math.floor(cutoff * size / (2 * math.pi) * EDGE) for size in lengths)
    return cutoff, tuple(2 * n + 1 for n in inside)


class SteerableConv(Tabulated):
    """Convolution between typed fields that commutes with SO(d) or O(d).

    Parameters
    ----------
    rep_in, rep_out : Representation of the fibres, without ``regular`` blocks
    group : so(d), o(d), se(d) or e(d), d = 2 or 3
    lengths : periods of the torus, in units of length
    n_modes : odd numbers of kept frequencies, one per axis or one for all; the symbol lives on the
        largest disc inside
    radial : "zernike" (analytic symbols, local kernels) or "bspline" (symbols of degree 0 too)
    degree : richness of the radial functions, see :class:`fieldsym.operators.radial.Radial`
    taper : whether the symbol falls off smoothly towards the edge of the disc; default for zernike

    Raises
    ------
    GroupError            if the group is finite or not all of SO(d) or O(d), or d = 1.
    BundleError           if what it is called on is no field of ``rep_in`` in its dtype.
    GridError             if a length is not positive, a number of modes is even or too small, the
                          degree is below the angular orders between the fields, or the grid it
                          meets has too few points.
    RepresentationError   if a block has no continuous rotations, or lives in another dimension.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> flow = fs.Representation("scalar p + vector u", 2)
    >>> layer = SteerableConv(flow, flow, fs.groups.o(2), (1.0, 1.5), (17, 25))
    >>> layer(torch.zeros(2, 3, 32, 48)).shape
    torch.Size([2, 3, 32, 48])

    References
    ----------
    Steerable kernels: Weiler & Cesa 2019, arXiv:1911.08251; spectral convolution: Li et al. 2021,
    arXiv:2010.08895; the constraint L_ξ R = 0: Otto et al. 2023, arXiv:2311.00212.
    """

    def __init__(
        self,
        rep_in: Representation,
        rep_out: Representation,
        group: Group,
        lengths: Sequence[float],
        n_modes: int | Sequence[int],
        radial: str = "zernike",
        degree: int = 8,
        taper: bool | None = None,
    ) -> None:
        super().__init__()
        check_pair("SteerableConv", rep_in, rep_out)
        self.rep_in, self.rep_out, self.group = rep_in, rep_out, group
        self.lengths = _check_lengths(lengths)
        reflections = full_rotations(group, len(self.lengths))
        if rep_in.dim != group.dim:
            raise RepresentationError(
                f"SteerableConv on {group.dim} lengths needs fields on a {group.dim}-D base; got "
                f"'{rep_in}' on a {rep_in.dim}-D one."
            )
        self.cutoff, self.n_modes = inscribed_disc(n_modes, self.lengths)
        family = Radial(radial, degree, group.dim, taper)
        self.symbol = Symbol(rep_in, rep_out, reflections, family)
        modes = np.array(half_set(self.n_modes))
        self._modes = modes[np.linalg.norm(self._scaled(modes), axis=1) <= EDGE]
        rows = self._rows()
        order = torch.full((math.prod(self._shape()),), len(rows))  # the row past the end is zero
        order[rows] = torch.arange(len(rows))
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("order", order, persistent=False)
        for name, odd in (("odd_in", self.symbol.odd_in), ("odd_out", self.symbol.odd_out)):
            self.register_buffer(name, torch.tensor(odd).view(-1, 1, 1), persistent=False)
        self.tabulate()

    def extra_repr(self) -> str:
        """What it maps to what, and how."""
        radial = self.symbol.radial
        return (
            f"'{self.rep_in}' → '{self.rep_out}', group={self.group}, n_modes={self.n_modes}, "
            f"radial='{radial.family}', degree={radial.degree}, taper={radial.taper}"
        )

    @property
    def free_dimension(self) -> int:
        """Number of free real parameters."""
        return sum(p.numel() for p in self.parameters())

    def multiplier(self, k: Tensor) -> Tensor:
        """The symbol R(k) at any wavevectors, in radians per unit of length.

        Parameters
        ----------
        k : Tensor (points, d)

        Returns
        -------
        Tensor (points, out, in), complex128, without a graph

        Examples
        --------
        >>> import torch, fieldsym as fs
        >>> p, u = fs.Representation("scalar p", 2), fs.Representation("vector u", 2)
        >>> R = SteerableConv(p, u, fs.groups.o(2), (1.0, 1.0), (9, 9)).multiplier
        >>> r = R(torch.tensor([[3.0, 4.0]]))[0, :, 0].imag     # s → v: i k times a function of |k|
        >>> bool(torch.isclose(4 * r[0], 3 * r[1]))
        True
        """
        return self.symbol.at(k.detach().cpu().double().numpy() / self.cutoff)

    def _scaled(self, modes: Array) -> Array:
        """Physical wavevectors of mode numbers, in units of the cutoff."""
        return 2 * math.pi / self.cutoff * modes / np.array(self.lengths)

    def _shape(self) -> tuple[int, ...]:
        """Sizes of the stored half spectrum: −K..K, and 0..K on the last axis."""
        return (*self.n_modes[:-1], self.n_modes[-1] // 2 + 1)

    def _rows(self) -> Tensor:
        """Flat positions of the modes of the disc in the stored half spectrum."""
        shift = np.array([n // 2 for n in self.n_modes[:-1]] + [0])
        index = tuple((self._modes + shift).T)
        return torch.from_numpy(np.ravel_multi_index(index, self._shape()).ravel())

    def tabulate(self) -> None:
        """Tabulate the functions of the symbol at the modes of the disc."""
        tables = self.symbol.tables(self._scaled(self._modes))
        partners = np.where(self._modes.any(1), 2.0, 1.0)  # all modes but k = 0 stand for −k too
        for name, table in tables.items():
            self.store(name, table * partners[:, None] if name.startswith("radial") else table)
        self._names = (*tables, "zero")

    def _check(self, u: Tensor) -> None:
        dim, like = len(self.lengths), self.get_buffer("zero")
        channels = self.rep_in.channels
        fits = isinstance(u, Tensor) and u.ndim == dim + 2 and u.shape[1] == channels
        if not fits or u.dtype != like.dtype:
            got = f"{tuple(u.shape)}, {u.dtype}" if isinstance(u, Tensor) else type(u).__name__
            raise BundleError(
                f"SteerableConv expects fields '{self.rep_in}': shape (batch, {channels}, *grid) "
                f"with {dim} grid axes, in the {like.dtype} of its parameters; got {got}. Convert "
                f"fields with .to({like.dtype}), or the layer."
            )

    def forward(self, u: Tensor, fourier: TruncatedFourier | None = None) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        self._check(u)
        fourier = fourier or TruncatedFourier(u.shape[2:], self.n_modes, u)
        z = fourier.forward(u).flatten(0, len(self.n_modes) - 1)
        z = z.index_select(0, self.get_buffer("rows"))
        z = torch.where(self.get_buffer("odd_in"), -_times_i(z), z)
        tables = {name: self.get_buffer(name) for name in self._names}
        parts = [
            torch.bmm(part, z.flatten(2)).view(len(z), -1, *z.shape[2:])
            for part in self.symbol(tables, len(z))
        ]
        y = parts[0] if len(parts) == 1 else parts[0] + _times_i(parts[1])
        y = torch.where(self.get_buffer("odd_out"), _times_i(y), y)
        y = torch.cat([y, y.new_zeros(1, *y.shape[1:])]).index_select(0, self.get_buffer("order"))
        return fourier.inverse(y.view(*self._shape(), *y.shape[1:]))


def per_axis(n_modes: int | Sequence[int], dim: int) -> tuple[int, ...]:
    """One number of modes per axis, from one for all or one each."""
    modes = n_modes if isinstance(n_modes, Sequence) else (n_modes,) * dim
    if not all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in modes):
        raise GridError(
            f"n_modes is an odd whole number, or one for each of the {dim} axes; got {n_modes!r}."
        )
    return tuple(int(n) for n in modes)


def _check_lengths(lengths: Sequence[float]) -> tuple[float, ...]:
    given = list(lengths) if isinstance(lengths, Iterable) else []
    if not all(isinstance(n, Real) and 0 < n < math.inf for n in given) or not given:
        raise GridError(
            "lengths are the periods of the torus, positive and finite, one per axis, such as "
            f"(1.0, 1.5); got {lengths!r}."
        )
    return tuple(float(length) for length in given)


def _times_i(z: Tensor) -> Tensor:
    """i z of (modes, channel, re/im, batch)."""
    re, im = z.unbind(2)
    return torch.stack([-im, re], 2)
