"""Space axes: their coordinates, how the file stores them, and quadrature weights.

>>> axis = make_axis("lat", "latitude", np.linspace(-40.0, -30.0, 41))
>>> axis.length, axis.spacing, axis.periodic
(10.0, 0.25, False)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fieldsym.errors import GridError

Array = np.ndarray
IRREGULAR = 0.02
GAUSS = 1e-4


@dataclass(frozen=True)
class Axis:
    """A space axis: increasing coordinates, and how the file stores them.

    ``values`` are the coordinates of the samples that are kept; ``flipped`` says that the file
    stores them decreasing, ``seam`` that it repeats the first one at the end.
    """

    name: str
    role: str
    values: Array
    units: str = ""
    periodic: bool = False
    gauss: bool = False
    flipped: bool = False
    seam: bool = False

    @property
    def spacing(self) -> float:
        """Mean distance between neighbours."""
        return float(self.values[-1] - self.values[0]) / (len(self.values) - 1)

    @property
    def length(self) -> float:
        """Period of a periodic axis, else the distance between the first and the last sample."""
        return self.spacing * (len(self.values) - (0 if self.periodic else 1))

    @property
    def poles(self) -> bool:
        """Whether a latitude axis has a row on a pole."""
        return self.role == "latitude" and bool(np.abs(self.values).max() > 90 - 1e-3)

    def __str__(self) -> str:
        return (
            f"{len(self.values)} points of {self.name} from {self.values[0]:g} to "
            f"{self.values[-1]:g}"
        )

    def weights(self) -> Array:
        """Quadrature weights along the axis, (N,): sphere for a latitude, length otherwise."""
        n = len(self.values)
        if self.role == "latitude":
            return latitude_weights(self.values)
        w = np.full(n, self.spacing)
        if not self.periodic and n > 1:
            w[[0, -1]] /= 2
        return w


def latitude_weights(latitudes: Array) -> Array:
    """Weights of the integral over sin(latitude), for increasing latitudes in degrees.

    Gauss nodes get Gauss weights (of the exact nodes), equal steps from pole to pole get
    Clenshaw–Curtiss weights, anything else the area between the midpoints. Never negative.

    Examples
    --------
    >>> latitude_weights(np.linspace(-90.0, 90.0, 7)).sum().round(12)
    np.float64(2.0)
    """
    n = len(latitudes)
    if is_gauss(latitudes):
        return np.polynomial.legendre.leggauss(n)[1]
    uniform = np.allclose(latitudes, np.linspace(-90, 90, n), rtol=0, atol=1e-3)
    if uniform and n > 2:
        theta = np.radians(90.0 - latitudes)
        k = np.arange(1, (n - 1) // 2 + 1)
        half = np.where(2 * k == n - 1, 1.0, 2.0) / (4.0 * k**2 - 1)
        w = (1 - (half[:, None] * np.cos(2 * k[:, None] * theta)).sum(0)) * 2 / (n - 1)
        w[[0, -1]] /= 2
        return np.clip(w, 0, None)
    middle = (latitudes[1:] + latitudes[:-1]) / 2
    first, last = latitudes[0] * 2 - middle[0], latitudes[-1] * 2 - middle[-1]
    edges = np.clip(np.concatenate([[first], middle, [last]]), -90, 90)
    return np.diff(np.sin(np.radians(edges)))


def is_gauss(latitudes: Array) -> bool:
    """Whether increasing latitudes are Gauss–Legendre nodes, to 1e-4 degrees (float32 files)."""
    nodes = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(len(latitudes))[0]))
    return len(latitudes) > 3 and float(np.abs(latitudes - nodes).max()) < GAUSS


def make_axis(name: str, role: str, stored: Array, units: str = "") -> Axis:
    """An axis from its stored coordinates: wrapped, flipped, its repeated seam dropped.

    Raises
    ------
    GridError   if the coordinates are not monotonic, not regular (nor Gauss), or out of range.
    """
    values = np.asarray(stored, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise GridError(f"The axis '{name}' needs at least two finite coordinates; got {values}.")
    if role == "longitude":
        values = np.unwrap(values, period=360.0)
    steps = np.diff(values)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise GridError(
            f"The coordinates of '{name}' must increase or decrease all along; got {values[:3]} … "
            f"{values[-3:]}. Sort the dataset by it: ds.sortby('{name}')."
        )
    flipped = bool(steps[0] < 0)
    values = values[::-1].copy() if flipped else values
    if role == "latitude" and np.abs(values).max() > 90 + 1e-3:
        raise GridError(f"Latitudes must lie in -90 … 90 degrees; '{name}' reaches {values[-1]:g}.")
    gauss = role == "latitude" and is_gauss(values)
    seam = role == "longitude" and len(values) > 2 and abs(values[-1] - values[0] - 360) < 1e-3
    values = values[:-1] if seam else values
    h = (values[-1] - values[0]) / (len(values) - 1)
    periodic = role == "longitude" and abs(h * len(values) - 360) < IRREGULAR * h
    if not gauss:
        _check_regular(name, values, h)
    return Axis(name, role, values, units, periodic, gauss, flipped, seam)


def _check_regular(name: str, values: Array, h: float) -> None:
    deviation = np.abs(values - (values[0] + h * np.arange(len(values))))
    if deviation.max() > IRREGULAR * h:
        raise GridError(
            f"The axis '{name}' must have equal steps (or be Gauss latitudes); it deviates by up "
            f"to {deviation.max():.3g} from steps of {h:.4g} at {values[deviation.argmax()]:g}. "
            "Interpolate it to equal steps, for example with ds.interp."
        )


def index_axis(name: str, role: str, n: int) -> Axis:
    """An axis without coordinates, in units of grid cells."""
    return Axis(name, role, np.arange(n, dtype=np.float64), "cells")


def pole_residual(u: Array, axes: Sequence[Axis]) -> float:
    """How far the rows of (…, 2, longitude, latitude) at the poles are from one tangent vector.

    East and north turn with the longitude; in a fixed frame all entries of a pole row are equal.
    """
    turn = np.exp(1j * np.radians(axes[0].values))
    worst = 0.0
    for row, sign in ((0, 1.0), (-1, -1.0)):
        if abs(abs(axes[1].values[row]) - 90) > 1e-3:
            continue
        fixed = (sign * u[..., 1, :, row] + 1j * u[..., 0, :, row]) * turn
        rest = float(np.linalg.norm(fixed - fixed.mean(-1, keepdims=True)))
        worst = max(worst, rest / max(float(np.linalg.norm(fixed)), 1e-30))
    return worst
