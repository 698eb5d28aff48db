"""The truncated Fourier transform of real fields, axis by axis and all real.

Each axis is a matrix product with cos and −sin rows (or an FFT where most frequencies are kept), so
a transform of few modes costs little more than reading the field, and differentiates, compiles and
exports like any matrix product. Only after the last axis, on the few kept modes, sums and
differences of the products cos·cos, cos·sin, … give the complex coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional

from fieldsym.errors import GridError
from fieldsym.operators.blocks import linear_by_blocks

FFT_MODES = 97  # kept frequencies from which an FFT beats the matrix product, on any axis


class TruncatedFourier:
    """Transform of real fields to the modes |k_i| ≤ K_i and back.

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
        self.grid, self.dim = tuple(grid), len(grid)
        self.cuts = [count // 2 for count in n_modes]
        self.matrices = [
            None if count >= FFT_MODES else _fourier_matrix(n, count // 2, like)
            for n, count in zip(grid, n_modes, strict=True)
        ]

    def analyse(self, x: Tensor, axis: int, dim: int, out: Tensor | None = None) -> Tensor:
        """Coefficients (re of 0..K, im of 1..K) along dimension ``dim``, which is grid ``axis``."""
        matrix, n = self.matrices[axis], self.grid[axis]
        if matrix is not None:
            return _multiply(matrix / n, x, dim, out)
        z = torch.fft.rfft(x, dim=dim, norm="forward").narrow(dim, 0, self.cuts[axis] + 1)
        return torch.cat([z.real, z.imag.narrow(dim, 1, self.cuts[axis])], dim, out=out)

    def synthesise(self, z: Tensor, axis: int, dim: int, out: Tensor | None = None) -> Tensor:
        """The sum of re cos − im sin, from 2K+1 coefficients to the points of an axis."""
        matrix, cut = self.matrices[axis], self.cuts[axis]
        if matrix is not None:
            return _multiply(matrix.mT, z, dim, out)
        re, im = self._split(z, axis, dim)
        half = torch.complex(re, im) * 0.5
        half = torch.cat([2 * half.narrow(dim, 0, 1), half.narrow(dim, 1, cut)], dim)
        field = torch.fft.irfft(half, n=self.grid[axis], dim=dim, norm="forward", out=out)
        return field.contiguous()  # a transform may leave its axis last in memory

    def analyse_fields(self, u: Tensor) -> Tensor:
        """(fields, *grid) to real coefficients (fields, *2K+1), a few fields at a time."""
        n = math.prod(self.grid)
        return linear_by_blocks(
            self._analyse, lambda g, out: self._synthesise(g / n, out), u, points=n
        )

    def synthesise_fields(self, g: Tensor) -> Tensor:
        """(fields, *2K+1) to the grid."""
        n = math.prod(self.grid)
        return linear_by_blocks(
            self._synthesise, lambda u, out: self._analyse(u, out, n), g, points=n
        )

    def _analyse(self, u: Tensor, out: Tensor | None = None, scale: float = 1.0) -> Tensor:
        # the second to last axis first: its rows are long
        for axis in (*reversed(range(self.dim - 1)), self.dim - 1):
            u = self.analyse(u, axis, axis + 1)
        return u if out is None and scale == 1 else torch.mul(u, scale, out=out)

    def _synthesise(self, g: Tensor, out: Tensor | None = None) -> Tensor:
        *others, last = (self.dim - 1, *range(self.dim - 1))
        for axis in others:
            g = self.synthesise(g, axis, axis + 1)
        return self.synthesise(g, last, last + 1, out)

    def _split(self, z: Tensor, axis: int, dim: int) -> tuple[Tensor, Tensor]:
        """(re, im) of k = 0..K; the imaginary part at k = 0 is zero."""
        cut = self.cuts[axis]
        re = z.narrow(dim, 0, cut + 1)
        im = z.narrow(dim, cut + 1, cut)
        return re, torch.cat([torch.zeros_like(re.narrow(dim, 0, 1)), im], dim)

    def to_modes(self, g: Tensor) -> Tensor:
        """Real coefficients (*2K+1, …) to complex ones, (*modes, re/im, …).

        The modes of an axis are 0..K, −1..−K; of the last axis 0..K.
        """
        re, im = self._split(g, self.dim - 1, self.dim - 1)
        for axis in reversed(range(self.dim - 1)):
            (c_re, s_re), (c_im, s_im) = self._split(re, axis, axis), self._split(im, axis, axis)
            re = torch.cat([c_re - s_im, (c_re + s_im).narrow(axis, 1, self.cuts[axis])], axis)
            im = torch.cat([c_im + s_re, (c_im - s_re).narrow(axis, 1, self.cuts[axis])], axis)
        return torch.stack([re, im], self.dim)

    def from_modes(self, z: Tensor) -> Tensor:
        """Transpose of :meth:`to_modes`: Re Σ z exp(i k·x) in real coefficients."""
        re, im = z.unbind(self.dim)
        for axis in range(self.dim - 1):
            cut = self.cuts[axis]
            (re_p, re_m), (im_p, im_m) = _pair(re, axis, cut), _pair(im, axis, cut)
            zero, pairs = re.narrow(axis, 0, 1), im.narrow(axis, 0, 1)
            re = torch.cat([zero, re_p + re_m, im_p - im_m], axis)
            im = torch.cat([pairs, im_p + im_m, re_m - re_p], axis)
        last = self.dim - 1
        return torch.cat([re, im.narrow(last, 1, self.cuts[last])], last)

    def forward(self, u: Tensor) -> Tensor:
        """(batch, channel, *grid) to (*modes, channel, 2, batch): −K..K, 0..K on the last axis."""
        g = self.analyse_fields(u.flatten(0, 1)).unflatten(0, u.shape[:2])
        z = self.to_modes(g.movedim((0, 1), (-2, -1)))
        for axis, cut in enumerate(self.cuts[:-1]):
            z = torch.cat(
                [z.narrow(axis, cut + 1, cut).flip(axis), z.narrow(axis, 0, cut + 1)], axis
            )
        return z.movedim(-2, -1).movedim(self.dim, self.dim + 1)

    def inverse(self, z: Tensor) -> Tensor:
        """(*modes, channel, 2, batch), the half set with its partners counted, to the grid."""
        z = z.movedim(self.dim + 1, self.dim)
        for axis, cut in enumerate(self.cuts[:-1]):
            z = torch.cat([z.narrow(axis, cut, cut + 1), z.narrow(axis, 0, cut).flip(axis)], axis)
        g = self.from_modes(z).movedim((-1, -2), (0, 1))
        return self.synthesise_fields(g.flatten(0, 1)).unflatten(0, g.shape[:2])


def _pair(z: Tensor, axis: int, cut: int) -> tuple[Tensor, Tensor]:
    """The parts at k = 1..K and −1..−K."""
    return z.narrow(axis, 1, cut), z.narrow(axis, cut + 1, cut)


def _fourier_matrix(n: int, cut: int, like: Tensor) -> Tensor:
    """Rows cos(2πkx/n) for k = 0..K and −sin(2πkx/n) for k = 1..K, (2K+1, n)."""
    k, x = torch.arange(cut + 1, device=like.device), torch.arange(n, device=like.device)
    angle = (torch.outer(k, x) % n).double() * (2 * math.pi / n)
    return torch.cat([angle.cos(), -angle[1:].sin()]).to(like.dtype)


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """All 24 bits of float32 in matrix products, whatever a user allows his own on a GPU.

    With TF32 the transforms would be exact to 1e-3 only.
    """
    flags = torch.backends.cuda.matmul
    if device.type != "cuda" or torch.compiler.is_compiling():
        yield
        return
    before = flags.fp32_precision
    flags.fp32_precision = "ieee"
    try:
        yield
    finally:
        flags.fp32_precision = before


def _multiply(matrix: Tensor, x: Tensor, dim: int, out: Tensor | None = None) -> Tensor:
    """Apply a matrix along one dimension."""
    with full_float32(x.device):
        return _product(matrix, x, dim, out)


def _product(matrix: Tensor, x: Tensor, dim: int, out: Tensor | None) -> Tensor:
    if dim == x.ndim - 1:
        y = functional.linear(x, matrix)
        return y if out is None else out.copy_(y)
    before, after = x.shape[:dim], x.shape[dim + 1 :]
    rows = x.reshape(math.prod(before), x.shape[dim], math.prod(after))
    flat = None if out is None else out.view(rows.shape[0], -1, rows.shape[2])
    y = torch.bmm(matrix.expand(rows.shape[0], -1, -1), rows, out=flat)
    return y.view(*before, matrix.shape[0], *after) if out is None else out
