"""Spectral convolutions, exactly equivariant under a finite group, in real arithmetic.

A truncated Fourier transform (:mod:`fieldsym.operators.fourier`) takes the field to its kept modes
−K..K (never the Nyquist frequency), one matrix per orbit of modes acts on them
(:mod:`fieldsym.operators.modes`), and the transposed transform leads back. Everything is real and
out of place, so it compiles, exports, differentiates in forward mode and runs in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.group import Group
from fieldsym.operators.fourier import TruncatedFourier
from fieldsym.operators.modes import OrbitType, RealForm, check_modes, mode_orbits
from fieldsym.operators.pointwise import TypedWeight
from fieldsym.representation import Representation


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
        self.partners = [1 if t.is_zero else 2 for t in self.types]  # k and −k
        form = RealForm(group)
        self.parts = form.parts
        # E|W|² = 2 / (in + out) per entry, as in neuraloperator
        std = math.sqrt(2 / (rep_in.channels + rep_out.channels) / self.parts)
        self.weights = nn.ModuleList(
            TypedWeight(
                len(t.modes), form.weight_blocks(rep_in, rep_out, t), rep_in.channels, std,
                order=(form.order(rep_out), form.order(rep_in)),
            )
            for t in self.types
        )  # fmt: skip
        self.split_in, self.split_out = (
            [form.even(rep), rep.channels - form.even(rep)] for rep in (rep_in, rep_out)
        )
        for i, t in enumerate(self.types):
            self.register_buffer(f"rows_{i}", self._rows(t.modes), persistent=False)
            for name, tables in (
                ("in", form.fibre_maps(rep_in, t)), ("out", form.fibre_maps(rep_out, t, back=True))
            ):  # fmt: skip
                known = None if tables is None else torch.from_numpy(tables)
                self.register_buffer(f"{name}_{i}", known, persistent=False)
            signs = torch.tensor([[1.0, -1.0 if c else 1.0] for _, c in t.moves])
            turned = signs if (signs < 0).any() else None
            self.register_buffer(f"conjugate_{i}", turned, persistent=False)
        self.register_buffer("order", self._order(), persistent=False)

    def extra_repr(self) -> str:
        """What it maps to what, and how."""
        return f"'{self.rep_in}' → '{self.rep_out}', n_modes={self.n_modes}"

    @property
    def free_dimension(self) -> int:
        """Number of free real parameters."""
        return sum(p.numel() for p in self.parameters())

    def _shape(self) -> tuple[int, ...]:
        """Sizes of the half spectrum: 0..K, −1..−K, and 0..K on the last axis."""
        return (*self.n_modes[:-1], self.n_modes[-1] // 2 + 1)

    def _rows(self, modes: np.ndarray) -> Tensor:
        """Flat position of (orbits, images) modes in the half spectrum, image by image."""
        sizes = np.array(self.n_modes)
        cut = sizes // 2
        place = np.where(modes < 0, cut - modes, modes).swapaxes(0, 1)
        return torch.from_numpy(np.ravel_multi_index(np.moveaxis(place, -1, 0), self._shape()))

    def _order(self) -> Tensor:
        """For every mode its row among the results; the row past the end is zero."""
        rows = torch.cat([self.get_buffer(f"rows_{i}").ravel() for i in range(len(self.types))])
        order = torch.full((math.prod(self._shape()),), len(rows))
        order[rows] = torch.arange(len(rows))
        return order

    def forward(self, u: Tensor) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        fourier = TruncatedFourier(u.shape[2:], self.n_modes, u)
        g = fourier.analyse_fields(u.flatten(0, 1)).unflatten(0, u.shape[:2])
        g = self.mix(g.movedim((0, 1), (-2, -1)), fourier).movedim((-2, -1), (0, 1))
        return fourier.synthesise_fields(g.flatten(0, 1)).unflatten(0, g.shape[:2])

    def mix(self, g: Tensor, fourier: TruncatedFourier) -> Tensor:
        """Multiply real Fourier coefficients, (*2K+1, batch, channel), by the weights."""
        spectrum = fourier.to_modes(g).flatten(0, len(self.n_modes) - 1)
        results = [self._mix(i, t, spectrum) for i, t in enumerate(self.types)]
        results.append(results[0].new_zeros(1, *results[0].shape[1:]))
        mixed = torch.cat(results).index_select(0, self.get_buffer("order"))
        return fourier.from_modes(mixed.view(*self._shape(), *mixed.shape[1:]))

    def _mix(self, i: int, t: OrbitType, spectrum: Tensor) -> Tensor:
        """Multiply the modes of one orbit type; (images · orbits, 2, batch, channel)."""
        orbits, images = t.modes.shape[:2]
        rows = spectrum.index_select(0, self.get_buffer(f"rows_{i}").ravel())
        z = self._gather(i, rows.view(images, orbits, *rows.shape[1:]))
        weight = self.weights[i]()
        y = torch.bmm(z.flatten(1, 3), weight.flatten(1, 2).mT)
        y = y.view(*z.shape[:4], self.parts, -1)
        if self.parts == 2:
            re, im = y[:, :, 0], y[:, :, 1]
            y = torch.stack([re[..., 0, :] - im[..., 1, :], im[..., 0, :] + re[..., 1, :]], 2)
        else:
            y = y[..., 0, :]
        out = self._scatter(i, y).flatten(0, 1)
        return out if self.partners[i] == 1 else self.partners[i] * out

    def _gather(self, i: int, x: Tensor) -> Tensor:
        """Move (images, orbits, 2, batch, channel) to the first mode, orbits first."""
        x, table = self._conjugate(i, x), self._table(f"in_{i}", x)
        if table is not None:
            x = torch.bmm(x.flatten(1, 3), table).view(x.shape)
        even, odd = x.transpose(0, 1).split(self.split_in, -1)
        return self._divide(even, odd, -1)

    def _scatter(self, i: int, y: Tensor) -> Tensor:
        """Transpose of the gathering."""
        even, odd = y.transpose(0, 1).split(self.split_out, -1)
        x, table = self._divide(even, odd, 1), self._table(f"out_{i}", y)
        if table is not None:
            x = torch.bmm(x.flatten(1, 3), table).view(x.shape)
        return self._conjugate(i, x)

    def _divide(self, even: Tensor, odd: Tensor, power: int) -> Tensor:
        """Even parts beside odd ones times i (or −i), (one, other, re/im, batch, channel)."""
        if odd.shape[-1] == 0:
            return even.contiguous()
        re, im = odd[:, :, :1], odd[:, :, 1:]
        turned = torch.cat([-im, re] if power == 1 else [im, -re], 2)
        return torch.cat([even, turned], -1)

    def _table(self, name: str, like: Tensor) -> Tensor | None:
        table = getattr(self, name)
        return None if table is None else table.to(like.dtype)

    def _conjugate(self, i: int, x: Tensor) -> Tensor:
        """Flip the imaginary part at the images that are met conjugated."""
        signs = getattr(self, f"conjugate_{i}")
        return x if signs is None else x * signs.to(x.dtype)[:, None, :, None, None]
