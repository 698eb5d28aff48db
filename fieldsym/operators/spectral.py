"""Spectral convolutions, exactly equivariant under a finite group, in real arithmetic.

A truncated discrete Fourier transform by matrix products takes the field to its kept modes −K..K
(never the Nyquist frequency), one matrix per orbit of modes acts on them
(:mod:`fieldsym.operators.modes`), and the transposed transform leads back. Everything is real and
out of place, so it compiles, exports, differentiates in forward mode and runs in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.errors import GridError
from fieldsym.group import Group
from fieldsym.operators.modes import OrbitType, RealForm, check_modes, mode_orbits
from fieldsym.operators.pointwise import TypedWeight
from fieldsym.representation import Representation

LETTERS = "xyz"


class TruncatedFourier:
    """Transform of real fields to the modes |k_i| ≤ K_i and back, by matrix products.

    Parameters
    ----------
    grid : sizes of the axes
    n_modes : odd numbers of kept frequencies
    like : Tensor that gives dtype and device

    Raises
    ------
    GridError   if an axis has too few points for its modes.

    Examples
    --------
    >>> import torch
    >>> u = torch.cos(2 * torch.pi * torch.arange(8) / 8).expand(1, 1, 8)
    >>> TruncatedFourier((8,), (3,), u).forward(u)[:, 0, 0, 0]         # re at k = 0, 1
    tensor([0.0000, 0.5000])
    """

    def __init__(self, grid: Sequence[int], n_modes: Sequence[int], like: Tensor) -> None:
        for n, count in zip(grid, n_modes, strict=True):
            if count // 2 > (n - 1) // 2:
                raise GridError(
                    f"n_modes {tuple(n_modes)} needs more points than the grid {tuple(grid)} has: "
                    f"frequencies up to {count // 2} need at least {count} points per axis. Use at "
                    f"most n_modes = {n - 1 if n % 2 == 0 else n} there, or a finer grid."
                )
        self.dim = len(grid)
        self.matrices = [
            _fourier_matrix(n, count // 2, last=axis == self.dim - 1, like=like)
            for axis, (n, count) in enumerate(zip(grid, n_modes, strict=True))
        ]

    def forward(self, u: Tensor) -> Tensor:
        """(batch, channel, *grid) to (*modes, channel, 2, batch), normalised by 1/N."""
        last = self.matrices[-1]
        z = u @ (last / last.shape[0]).flatten(1)
        z = z.view(*u.shape[:-1], *last.shape[1:])
        # b c x y r m: contract (x, r), (y, r), … with the complex rotation of each axis
        if self.dim == 1:
            return torch.einsum("bcrm->mcrb", z)
        spaces = LETTERS[: self.dim - 1]
        for axis in reversed(range(self.dim - 1)):
            rotation = _rotation(self.matrices[axis], -1) / self.matrices[axis].shape[0]
            kept = spaces[:axis]
            done = "klm"[axis + 1 : self.dim]
            source = f"bc{kept}{spaces[axis]}r{done}"
            k = "klm"[axis]
            final = f"{k}{done}csb" if axis == 0 else f"bc{kept}s{k}{done}"
            z = torch.einsum(f"{source},{spaces[axis]}r{k}s->{final}", z, rotation)
        return z

    def inverse(self, z: Tensor) -> Tensor:
        """(*modes, channel, 2, batch), the half set with its partners counted, to the grid."""
        last = self.matrices[-1]
        if self.dim == 1:
            z = torch.einsum("mcrb->bcrm", z)
        for axis in range(self.dim - 1):
            rotation = _rotation(self.matrices[axis], +1)
            x, k, done = LETTERS[axis], "klm"[axis], "klm"[axis + 1 : self.dim]
            before = LETTERS[:axis]
            source = f"{k}{done}crb" if axis == 0 else f"bc{before}r{k}{done}"
            z = torch.einsum(f"{source},{x}r{k}s->bc{before}{x}s{done}", z, rotation)
        y = z.flatten(-2) @ last.flatten(1).mT
        return y


def _fourier_matrix(n: int, cut: int, *, last: bool, like: Tensor) -> Tensor:
    """exp(−2πi k x / n) as (n, 2, modes): k = 0..K on the last axis, −K..K on the others."""
    k = torch.arange(0 if last else -cut, cut + 1, device=like.device)
    x = torch.arange(n, device=like.device)
    angle = (torch.outer(x, k) % n).double() * (2 * math.pi / n)
    return torch.stack([angle.cos(), -angle.sin()], 1).to(like.dtype)


def _rotation(matrix: Tensor, sign: int) -> Tensor:
    """Real map of (x, re/im) to (k, re/im): multiplication by exp(∓2πi k x / n)."""
    cos, sin = matrix[:, 0], -sign * matrix[:, 1]
    # out_re = cos·re − sin·im, out_im = sin·re + cos·im with sin of the signed angle
    return torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1)


class SpectralConv(nn.Module):
    """Convolution between typed fields with one weight matrix per orbit of modes.

    Parameters
    ----------
    rep_in, rep_out : Representation of the fibres
    group : finite Group of maps that permute the axes; ``groups.trivial(d)`` ties nothing
    n_modes : odd numbers of kept frequencies, −K..K per axis
    mean : whether the mode k = 0 is kept

    Raises
    ------
    GridError   if a number of modes is even, or the grid it meets has too few points.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> flow = fs.Representation("scalar p + vector u", 2)
    >>> layer = SpectralConv(flow, flow, fs.groups.dihedral(2), n_modes=(5, 7))
    >>> layer(torch.zeros(2, 3, 16, 24)).shape
    torch.Size([2, 3, 16, 24])

    References
    ----------
    Li et al. 2021, arXiv:2010.08895 (spectral convolution); the constraint is the finite form of
    the Lie derivative of a multiplier, Otto et al. 2023, arXiv:2311.00212.
    """

    def __init__(
        self,
        rep_in: Representation,
        rep_out: Representation,
        group: Group,
        n_modes: Sequence[int],
        *,
        mean: bool = True,
    ) -> None:
        super().__init__()
        self.n_modes = check_modes(n_modes, group.dim)
        self.rep_in, self.rep_out = rep_in, rep_out
        self.types = tuple(t for t in mode_orbits(group, self.n_modes) if mean or not t.is_zero)
        form = RealForm(group)
        self.parts = form.parts
        # E|W|² = 2 / (in + out) per entry, as in neuraloperator
        std = math.sqrt(2 / (rep_in.channels + rep_out.channels) / self.parts)
        self.weights = nn.ModuleList(
            TypedWeight(len(t.modes), form.weight_blocks(rep_in, rep_out, t), rep_in.channels, std)
            for t in self.types
        )
        for i, t in enumerate(self.types):
            self.register_buffer(f"rows_{i}", self._rows(t.modes), persistent=False)
            for name, rep, tables in (("in", rep_in, form.gather), ("out", rep_out, form.scatter)):
                for j, block in enumerate(rep.blocks):
                    table = torch.from_numpy(tables(rep, block.kind, t))
                    self.register_buffer(f"{name}_{i}_{j}", table, persistent=False)
        self.register_buffer("order", self._order(), persistent=False)

    def extra_repr(self) -> str:
        """What it maps to what, and how."""
        return f"'{self.rep_in}' → '{self.rep_out}', n_modes={self.n_modes}"

    @property
    def free_dimension(self) -> int:
        """Number of free real parameters."""
        return sum(p.numel() for p in self.parameters())

    def _shape(self) -> tuple[int, ...]:
        """Sizes of the stored half spectrum: −K..K, and 0..K on the last axis."""
        return (*self.n_modes[:-1], self.n_modes[-1] // 2 + 1)

    def _rows(self, modes: np.ndarray) -> Tensor:
        """Flat position of modes in the stored half spectrum."""
        shift = [n // 2 for n in self.n_modes[:-1]] + [0]
        index = tuple(np.moveaxis(modes + np.array(shift), -1, 0))
        return torch.from_numpy(np.ravel_multi_index(index, self._shape()).ravel())

    def _order(self) -> Tensor:
        """For every stored mode its row among the results; the row past the end is zero."""
        rows = torch.cat([self.get_buffer(f"rows_{i}") for i in range(len(self.types))])
        order = torch.full((math.prod(self._shape()),), len(rows))
        order[rows] = torch.arange(len(rows))
        return order

    def forward(self, u: Tensor, fourier: TruncatedFourier | None = None) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        fourier = fourier or TruncatedFourier(u.shape[2:], self.n_modes, u)
        spectrum = fourier.forward(u).flatten(0, len(self.n_modes) - 1)
        results = [self._mix(i, t, spectrum) for i, t in enumerate(self.types)]
        results.append(results[0].new_zeros(1, *results[0].shape[1:]))
        mixed = torch.cat(results).index_select(0, self.get_buffer("order"))
        return fourier.inverse(mixed.view(*self._shape(), *mixed.shape[1:]))

    def _mix(self, i: int, t: OrbitType, spectrum: Tensor) -> Tensor:
        """Multiply the modes of one orbit type, (orbits · images, channel, 2, batch)."""
        orbits, images = t.modes.shape[:2]
        rows = spectrum.index_select(0, self.get_buffer(f"rows_{i}"))
        rows = rows.view(orbits, images, *rows.shape[1:])
        z = self._turn(f"in_{i}", self.rep_in, rows, "nmcdrb,mqsdr->ncqmsb")
        weight = self.weights[i]()
        y = torch.bmm(weight.flatten(1, 2), z.flatten(2))
        y = y.view(orbits, self.parts, -1, images, 2, z.shape[-1])
        if self.parts == 2:
            re = y[:, 0, :, :, 0] - y[:, 1, :, :, 1]
            im = y[:, 1, :, :, 0] + y[:, 0, :, :, 1]
            y = torch.stack([re, im], 3)
        else:
            y = y[:, 0]
        return self._turn(f"out_{i}", self.rep_out, y, "ncdmrb,mqsdr->nmcqsb").flatten(0, 1)

    def _turn(self, name: str, rep: Representation, x: Tensor, equation: str) -> Tensor:
        """Move the fibres of every image to the first mode of its orbit, or back."""
        axis = 2 if name.startswith("in") else 1
        parts, start = [], 0
        for j, block in enumerate(rep.blocks):
            part = x.narrow(axis, start, block.size)
            part = part.unflatten(axis, (block.copies, block.size // block.copies))
            table = self.get_buffer(f"{name}_{j}").to(x.dtype)
            out = torch.einsum(equation, part, table)
            parts.append(out.flatten(1, 2) if axis == 2 else out.flatten(2, 3))
            start += block.size
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1 if axis == 2 else 2)
