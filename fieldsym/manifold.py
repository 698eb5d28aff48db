"""Base manifolds: the torus and the box, in one, two and three dimensions.

A base has lengths and says which axes are periodic and where its samples sit; it has no grid size:
the tensor brings its own. Periodic node axes are sampled at x_i = i L/N, non-periodic node axes
include both ends (h = L/(N−1)), cell axes are sampled at (i + 1/2) L/N.

>>> import fieldsym as fs
>>> fs.Torus(lengths=(2.0, 3.0)).spacing((16, 24))
(0.125, 0.125)

To add one: subclass ``Manifold`` with the same calculus (coordinates, quadrature, gradient) and the
rule ``admits`` that says which affine maps carry it to itself.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fieldsym.errors import GridError, requirer

if TYPE_CHECKING:
    from fieldsym.group import Element

LOCATIONS = ("node", "cell")
WHOLE = (Integral, torch.SymInt)  # sizes are symbols while a graph is traced


class Manifold(ABC):
    """A rectangular base; use :class:`Torus` or :class:`Box`."""

    lengths: tuple[float, ...]
    periodic: tuple[bool, ...]
    location: tuple[str, ...]
    origin: tuple[float, ...]

    def __init__(
        self,
        lengths: Sequence[float],
        periodic: Sequence[bool],
        location: str | Sequence[str],
        origin: Sequence[float] | None,
    ) -> None:
        if type(self) is Manifold:
            raise GridError("Manifold is abstract; use Torus or Box.")
        self.lengths = _numbers("A length is a number, in units of length", lengths)
        if not 1 <= self.dim <= 3:
            raise GridError(f"A base has 1, 2 or 3 axes; got lengths {tuple(lengths)}.")
        if not all(math.isfinite(length) and length > 0 for length in self.lengths):
            raise GridError(f"Lengths must be positive and finite; got {self.lengths}.")
        self.periodic = tuple(bool(wraps) for wraps in self._per_axis("periodic", periodic))
        self.location = self._per_axis(
            "location", (location,) * self.dim if isinstance(location, str) else location
        )
        if not set(self.location) <= set(LOCATIONS):
            raise GridError(f"A location is one of {LOCATIONS}; got {self.location}.")
        start = self._per_axis("origin", (0.0,) * self.dim if origin is None else origin)
        self.origin = _numbers("The origin is one number per axis", start)

    def _per_axis(self, name: str, values: Sequence) -> tuple:
        entries = tuple(values) if isinstance(values, Iterable) else ()
        if len(entries) != self.dim:
            raise GridError(
                f"{name} needs one entry per axis: {self.dim} for lengths {self.lengths}; "
                f"got {entries or values!r}."
            )
        return entries

    @property
    def dim(self) -> int:
        """Number of axes."""
        return len(self.lengths)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifold) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple:
        return (self.lengths, self.periodic, self.location, self.origin)

    def check_grid(self, grid: Sequence[int]) -> None:
        """Raise ``GridError`` unless a grid has one size per axis, each at least 2."""
        sizes = tuple(grid) if isinstance(grid, Iterable) else ()
        if len(sizes) != self.dim or not all(isinstance(n, WHOLE) and n >= 2 for n in sizes):
            raise GridError(
                f"{self} needs a grid of {self.dim} sizes, each at least 2; got {sizes or grid!r}."
            )

    def spacing(self, grid: Sequence[int]) -> tuple[float, ...]:
        """Distance between neighbouring samples along each axis."""
        self.check_grid(grid)
        return tuple(
            length / (n - 1 if where == "node" and not wraps else n)
            for length, n, wraps, where in zip(
                self.lengths, grid, self.periodic, self.location, strict=True
            )
        )

    def axes(
        self, grid: Sequence[int], dtype: torch.dtype = torch.float64, device: object = None
    ) -> list[Tensor]:
        """Coordinates of the samples along each axis, one (N,) tensor per axis."""
        offsets = [0.5 if where == "cell" else 0.0 for where in self.location]
        return [
            (x0 + (torch.arange(n, dtype=torch.float64) + offset) * h).to(device, dtype)  # type: ignore[call-overload]
            for n, h, x0, offset in zip(grid, self.spacing(grid), self.origin, offsets, strict=True)
        ]

    def coordinates(
        self,
        grid: Sequence[int],
        dtype: torch.dtype = torch.float64,
        device: object = None,
        *,
        centred: bool = False,
    ) -> Tensor:
        """Coordinates of every sample, (dim, *grid); ``centred`` measures from the centre.

        Examples
        --------
        >>> import fieldsym as fs
        >>> fs.Torus((1.0,)).coordinates((4,), centred=True)
        tensor([[-0.5000, -0.2500,  0.0000,  0.2500]], dtype=torch.float64)
        """
        axes = self.axes(grid, torch.float64, device)
        if centred:
            axes = [x - c for x, c in zip(axes, self.centre, strict=True)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).to(dtype)

    @property
    def centre(self) -> tuple[float, ...]:
        """The point that rotations and reflections leave where it is."""
        return tuple(x0 + length / 2 for x0, length in zip(self.origin, self.lengths, strict=True))

    def weights(self, grid: Sequence[int], device: object = None) -> Tensor:
        """Quadrature weights, float64, (*grid); their sum is the volume of the base."""
        total = torch.ones((), dtype=torch.float64, device=device)  # type: ignore[call-overload]
        for n, h, wraps, where in zip(
            grid, self.spacing(grid), self.periodic, self.location, strict=True
        ):
            w = torch.full((n,), h, dtype=torch.float64, device=device)  # type: ignore[call-overload]
            if where == "node" and not wraps:
                w[0], w[-1] = h / 2, h / 2
            total = total[..., None] * w
        return total

    def wavenumbers(
        self, grid: Sequence[int], axis: int, dtype: torch.dtype, device: object = None
    ) -> Tensor:
        """Angular wavenumbers of ``torch.fft.rfft`` along an axis, Nyquist set to zero."""
        n, h = grid[axis], self.spacing(grid)[axis]
        k = 2 * math.pi * torch.arange(n // 2 + 1, dtype=torch.float64) / (n * h)
        if n % 2 == 0:
            k[-1] = 0.0
        return k.to(device, dtype)  # type: ignore[call-overload]

    def derivative(self, u: Tensor, axis: int) -> Tensor:
        """Spectral derivative along one axis of (…, *grid); the Nyquist mode gives nothing.

        On a non-periodic axis the field must vanish towards both ends (use a region's window).
        """
        position = axis - self.dim
        grid = tuple(u.shape[-self.dim :])
        k = self.wavenumbers(grid, axis, u.dtype, u.device)
        spectrum = torch.fft.rfft(u, dim=position)
        shape = [1] * (self.dim - axis)
        shape[0] = -1
        return torch.fft.irfft(
            spectrum * torch.complex(torch.zeros_like(k), k).view(shape), n=grid[axis], dim=position
        )

    def gradient(self, u: Tensor) -> Tensor:
        """Spectral gradient, (…, *grid) to (…, dim, *grid).

        Examples
        --------
        >>> import torch, fieldsym as fs
        >>> base = fs.Torus((2.0, 3.0))
        >>> x, y = base.coordinates((16, 24))
        >>> dy = base.gradient(torch.sin(2 * torch.pi * y / 3.0))[1]
        >>> bool(torch.allclose(dy, 2 * torch.pi / 3.0 * torch.cos(2 * torch.pi * y / 3.0)))
        True
        """
        parts = [self.derivative(u, axis) for axis in range(self.dim)]
        return torch.stack(parts, dim=-self.dim - 1)

    def lattice(self, g: Element) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Axis permutation and signs of a map that permutes the axes, or None.

        Axis i of the image is axis ``permutation[i]`` of the source, with sign ``signs[i]``.
        """
        if np.abs(np.abs(g.matrix) - np.rint(np.abs(g.matrix))).max() > 1e-9:
            return None
        matrix = np.rint(g.matrix).astype(int)
        if not (np.abs(matrix).sum(0) == 1).all() or not (np.abs(matrix).sum(1) == 1).all():
            return None
        permutation = np.abs(matrix).argmax(1)
        return tuple(int(p) for p in permutation), tuple(int(s) for s in matrix.sum(1))

    def admits(self, g: Element, grid: Sequence[int] | None = None) -> bool:
        """Whether a map carries the base (and the grid, where one is given) to itself."""
        return g.dim == self.dim and self.reason(g, grid) == ""

    def reason(self, g: Element, grid: Sequence[int] | None = None) -> str:
        """Why a map does not carry the base or grid to itself; empty where it does."""
        lattice = self.lattice(g)
        if lattice is None:
            return " (it does not map the axes to the axes)"
        for axis, source in enumerate(lattice[0]):
            pair = f"axes {'xyz'[axis]} and {'xyz'[source]}"
            if not math.isclose(self.lengths[axis], self.lengths[source], rel_tol=1e-9):
                return f" ({pair} have lengths {self.lengths[axis]:g} and {self.lengths[source]:g})"
            if self.periodic[axis] != self.periodic[source]:
                return f" (only one of {pair} is periodic)"
            if self.location[axis] != self.location[source]:
                return f" ({pair} are sampled at different locations)"
            if grid is not None and grid[axis] != grid[source]:
                return f" ({pair} have {grid[axis]} and {grid[source]} points)"
            if abs(g.shift[axis]) > 1e-9 and not self.periodic[axis]:
                return f" (axis {'xyz'[axis]} is not periodic)"
        return ""

    def disk(self, radius: float) -> Region:
        """The disk (interval, ball) about the centre, where continuous rotations can be measured.

        Raises
        ------
        GridError   if it does not fit strictly inside the base.
        """
        if not isinstance(radius, Real) or not 0 < radius < min(self.lengths) / 2:
            raise GridError(
                f"A disk inside {self} needs 0 < radius < {min(self.lengths) / 2:g}; "
                f"got {radius!r}."
            )
        return Region(self, float(radius))


@dataclass(frozen=True)
class Region:
    """A disk about the centre of a base: where to look, and how to window what is looked at."""

    base: Manifold
    radius: float

    def _r2(self, grid: Sequence[int], device: object) -> Tensor:
        return self.base.coordinates(grid, device=device, centred=True).square().sum(0)

    def window(
        self, grid: Sequence[int], dtype: torch.dtype = torch.float64, device: object = None
    ) -> Tensor:
        """Gaussian exp(−(4 r / radius)²), (*grid): 1e-7 at the radius, so no image wraps around."""
        return torch.exp(-self._r2(grid, device) * (4 / self.radius) ** 2).to(dtype)

    def mask(self, grid: Sequence[int], device: object = None) -> Tensor:
        """Where r < radius, boolean (*grid)."""
        return self._r2(grid, device) < self.radius**2


def _count(lengths: object) -> int:
    """Number of lengths; one number alone is none."""
    if isinstance(lengths, Sequence | np.ndarray | Tensor) and not isinstance(lengths, str):
        return len(lengths)
    raise GridError(
        f"A base needs one length per axis, such as (1.0, 1.0) or (1.0,); got {lengths!r}."
    )


def _numbers(wanted: str, values: Iterable) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise GridError(f"{wanted}, such as 1.0; got {tuple(values)!r}.") from None


require_base = requirer(Manifold, GridError, "a base, such as Torus((1.0, 1.0))")


class Torus(Manifold):
    """The flat torus: every axis is periodic.

    Parameters
    ----------
    lengths : periods, in units of length
    location : "node" (x_i = i L/N) or "cell" (x_i = (i + 1/2) L/N), one for all axes or one each
    origin : coordinate of the left edge of each axis, default 0

    Raises
    ------
    GridError   if a length is not positive, or an option does not have one entry per axis.
    """

    def __init__(
        self,
        lengths: Sequence[float] = (1.0, 1.0),
        location: str | Sequence[str] = "node",
        origin: Sequence[float] | None = None,
    ) -> None:
        super().__init__(lengths, (True,) * _count(lengths), location, origin)

    def __repr__(self) -> str:
        return f"Torus({', '.join(f'{length:g}' for length in self.lengths)})"


class Box(Manifold):
    """A box, any axis of which may be periodic: longitude × latitude is ``periodic=(True, False)``.

    Parameters
    ----------
    lengths : side lengths; on a non-periodic node axis from the first sample to the last
    periodic : one entry per axis, default none periodic
    location, origin : as for :class:`Torus`

    Raises
    ------
    GridError   if a length is not positive, or an option does not have one entry per axis.
    """

    def __init__(
        self,
        lengths: Sequence[float] = (1.0, 1.0),
        periodic: Sequence[bool] | None = None,
        location: str | Sequence[str] = "cell",
        origin: Sequence[float] | None = None,
    ) -> None:
        flags = (False,) * _count(lengths) if periodic is None else periodic
        super().__init__(lengths, flags, location, origin)

    def __repr__(self) -> str:
        wraps = ", ".join(str(p) for p in self.periodic)
        return f"Box({', '.join(f'{length:g}' for length in self.lengths)}; periodic {wraps})"
