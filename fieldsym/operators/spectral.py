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
from fieldsym.operators.modes import (
    Images,
    RealForm,
    check_modes,
    half_set,
    mode_images,
    mode_orbits,
)
from fieldsym.operators.pointwise import TypedWeight, single
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
        self.into: Tensor | None
        self.out: Tensor | None
        self.signs_in: Tensor | None
        self.signs_out: Tensor | None
        self.n_modes = check_modes(n_modes, group.dim)
        self.rep_in, self.rep_out = rep_in, rep_out
        self.types = tuple(t for t in mode_orbits(group, self.n_modes) if mean or not t.is_zero)
        # apart from the types, whose arrays a compiler would trace
        self.sizes = [(len(t.modes), not t.is_zero) for t in self.types]
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
        images = mode_images(group, self.types)
        self.images, self.orbits = len(images.elements), images.modes.shape[1]
        into = form.fibre_maps(rep_in, images.elements)
        out = form.fibre_maps(rep_out, images.elements, back=True)
        rows, signs_in = self._rows(images.modes), np.where(images.conjugate, -1.0, 1.0)
        order, signs_out = self._order(images)
        for name, table in (
            ("into", into), ("out", out),
            ("signs_in", signs_in if images.conjugate.any() else None),
            ("signs_out", signs_out if (signs_out < 0).any() else None),
        ):  # fmt: skip
            self.register_buffer(name, None if table is None else single(table), persistent=False)
        self.register_buffer("rows", torch.from_numpy(rows.ravel()), persistent=False)
        self.register_buffer("order", torch.from_numpy(order), persistent=False)

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

    def _rows(self, modes: np.ndarray) -> np.ndarray:
        """Flat position of modes in the half spectrum."""
        place = np.where(modes < 0, np.array(self.n_modes) // 2 - modes, modes)
        return np.ravel_multi_index(tuple(np.moveaxis(place, -1, 0)), self._shape())

    def _order(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """For every stored mode its row among the results, and the sign of its imaginary part.

        Only the half set is filled, whose partners −k are counted by a factor of two. The other
        modes with last component 0 read the row of zeros at the end of the first image.
        """
        order = np.full(math.prod(self._shape()), self.orbits)
        signs = np.ones(len(order))
        left = {k: self._rows(np.array(k)) for k in half_set(self.n_modes)}
        results = np.arange(self.images * (self.orbits + 1)).reshape(self.images, -1)
        for flipped in (False, True):  # as it is, where there is such an image
            for m, o in np.ndindex(*images.conjugate.shape):
                k = images.modes[m, o] * (-1 if flipped else 1)
                row = left.pop(tuple(int(c) for c in k), None)
                if row is not None:
                    order[row] = results[m, o]
                    signs[row] = -1 if flipped != images.conjugate[m, o] else 1
        return order, signs

    def forward(self, u: Tensor) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        fourier = TruncatedFourier(u.shape[2:], self.n_modes, u)
        g = fourier.analyse_fields(u.flatten(0, 1)).movedim(0, -1).contiguous()
        g = self.mix(g.unflatten(-1, u.shape[:2]), fourier).movedim((-2, -1), (0, 1))
        return fourier.synthesise_fields(g.flatten(0, 1)).unflatten(0, g.shape[:2])

    def mix(self, g: Tensor, fourier: TruncatedFourier) -> Tensor:
        """Multiply real Fourier coefficients, (*2K+1, batch, channel), by the weights."""
        # one name: every step frees what it was made from, where nothing is recorded
        x = fourier.to_modes(g).flatten(0, len(self.n_modes) - 1)
        x = x.index_select(0, self.get_buffer("rows"))
        x = self._gather(x.view(self.images, self.orbits, *x.shape[1:]))
        x = self._multiply(x)
        x = self._scatter(x).flatten(0, 1)
        x = x.index_select(0, self.get_buffer("order"))
        if self.signs_out is not None:
            x = self._conjugate(x, self.signs_out[:, None, None])
        return fourier.from_modes(x.view(*self._shape(), *x.shape[1:]))

    def _multiply(self, z: Tensor) -> Tensor:
        """The weights of every orbit, and a row of zeros; (orbits, images, 2, batch, channel)."""
        results = []
        parts = z.split([size for size, _ in self.sizes])
        for (_, partner), part, weight in zip(self.sizes, parts, self.weights, strict=True):
            matrix = weight().flatten(1, 2).mT
            # all results are doubled later, for the partner −k that k = 0 does not have
            y = torch.bmm(part.flatten(1, 3), matrix if partner else matrix * 0.5)
            results.append(y.view(*part.shape[:4], self.parts, -1))
        results.append(torch.zeros_like(results[0][:1]))
        y = torch.cat(results)
        if self.parts == 1:
            return y[..., 0, :]
        re, im = y[:, :, 0], y[:, :, 1]
        return torch.stack([re[..., 0, :] - im[..., 1, :], im[..., 0, :] + re[..., 1, :]], 2)

    def _gather(self, x: Tensor) -> Tensor:
        """Move (images, orbits, 2, batch, channel) to the first mode, orbits first."""
        if self.signs_in is not None:
            x = self._conjugate(x, self.signs_in[:, :, None, None])
        if self.into is not None:
            x = torch.bmm(x.flatten(1, 3), self.into.to(x.dtype)).view(x.shape)
        even, odd = x.transpose(0, 1).split(self.split_in, -1)
        return self._divide(even, odd, -1)

    def _scatter(self, y: Tensor) -> Tensor:
        """Transpose of the gathering, and the factor 2."""
        even, odd = y.transpose(0, 1).split(self.split_out, -1)
        x = self._divide(even, odd, 1)
        if self.out is None:
            return 2 * x
        return torch.bmm(x.flatten(1, 3), 2 * self.out.to(x.dtype)).view(x.shape)

    def _divide(self, even: Tensor, odd: Tensor, power: int) -> Tensor:
        """Even parts beside odd ones times i (or −i), (one, other, re/im, batch, channel)."""
        if odd.shape[-1] == 0:
            return even.contiguous()
        re, im = odd[:, :, :1], odd[:, :, 1:]
        turned = torch.cat([-im, re] if power == 1 else [im, -re], 2)
        return torch.cat([even, turned], -1)

    def _conjugate(self, x: Tensor, signs: Tensor) -> Tensor:
        """Flip the imaginary part (…, re/im, batch, channel) where the sign is −1."""
        signs = signs.to(x.dtype).unsqueeze(-3)
        return x * torch.cat([torch.ones_like(signs), signs], -3)
