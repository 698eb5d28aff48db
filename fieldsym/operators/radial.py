"""Radial profiles of isotropic symbols on the disc (or ball) |k| ≤ K.

A symbol of angular order n is b(|k|/K) Y_n, b out of a small family of functions. Two families:

* ``zernike``: Y_n is the harmonic polynomial of k/K itself (it falls off like |k|^n) and b a
  polynomial of |k|², so the symbol is analytic and its kernel local: a rotation of a localised
  field by any angle then commutes with the convolution to 1e-6 and better. The b are orthogonal on
  the disc, the Zernike polynomials where nothing tapers.
* ``bspline``: Y_n of the direction k/|k| and b a spline. Symbols of degree 0 such as the projector
  1 − kkᵀ/|k|² are in it; they are not smooth at k = 0, their kernels reach far, and on a periodic
  box rotations by angles off the lattice are 5–10 % off for the true operator too.

A taper exp(−(|k|/(0.65 K))⁸/2) takes the symbol smoothly to 1e-7 at the edge; without it the edge
is sharp, which rings and costs three digits or more under rotations. Higher degrees reach farther
in space: with 41 modes the error of a rotation is 2e-8 for D = 4, 1e-7 for D = 8, 6e-7 for D = 12.

>>> profile = Radial("zernike", degree=6, dim=2)
>>> [profile.count(n) for n in (0, 1, 2, 3)]
[4, 3, 3, 2]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fieldsym.errors import GridError

Array = np.ndarray
FAMILIES = ("zernike", "bspline")
TAPER_RADIUS = 0.65  # of the cutoff; exp(−(1/0.65)⁸/2) = 1.5e-7
EDGE = 1 + 1e-9  # modes on the edge of the disc belong to it


@dataclass(frozen=True)
class Radial:
    """A family of radial functions, for all angular orders.

    Parameters
    ----------
    family : "zernike" or "bspline"
    degree : total degree D of the polynomials in k, floor((D − n)/2) + 1 functions of order n; of
        splines there are floor(D/2) + 1 for every order
    dim : 2 or 3
    taper : whether the functions fall off smoothly; None: for "zernike" they do

    Raises
    ------
    GridError   if the family is unknown or the degree is negative or no whole number.

    References
    ----------
    Zernike polynomials and their generalisation to balls: Dunkl & Xu 2014, Orthogonal Polynomials
    of Several Variables, section 5.2.
    """

    family: str
    degree: int
    dim: int
    taper: bool | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise GridError(f"radial is one of {FAMILIES}; got {self.family!r}.")
        if not isinstance(self.degree, int) or self.degree < 0:
            raise GridError(
                f"degree is the total degree of the radial polynomials, a whole number ≥ 0; got "
                f"{self.degree!r}."
            )
        if self.taper is None:
            object.__setattr__(self, "taper", self.family == "zernike")

    def count(self, n: int) -> int:
        """Number of radial functions of angular order n."""
        free = self.degree - n if self.family == "zernike" else self.degree
        return max(0, free // 2 + 1)

    def angular_argument(self, k: Array) -> Array:
        """Where the harmonics are evaluated, for k in units of the cutoff, (points, d)."""
        if self.family == "zernike":
            return k
        r = np.linalg.norm(k, axis=1, keepdims=True)
        return np.divide(k, r, out=np.zeros_like(k), where=r > 0)

    def __call__(self, n: int, k: Array) -> Array:
        """Values of the functions of order n at k in units of the cutoff, (points, functions).

        Examples
        --------
        >>> k = np.array([[0.0, 0.0], [0.6, 0.8], [1.2, 1.6]])
        >>> Radial("zernike", 2, 2, taper=False)(0, k)      # 1 and √3 (2 |k|² − 1) on the disc
        array([[ 1.        , -1.73205081],
               [ 1.        ,  1.73205081],
               [ 0.        ,  0.        ]])
        """
        r2 = np.square(k).sum(1)
        inside = self._envelope(r2) * (r2 <= EDGE)
        r2 = np.minimum(r2, 1.0)
        b = self._polynomials(n, r2) if self.family == "zernike" else _splines(r2, self.count(n))
        return b * inside[:, None]

    def _envelope(self, r2: Array) -> Array:
        if not self.taper:
            return np.ones_like(r2)
        return np.exp(-0.5 * np.minimum(r2 / TAPER_RADIUS**2, 4.0) ** 4)

    def _polynomials(self, n: int, r2: Array) -> Array:
        """Polynomials of r² that are orthogonal with the weight r^{2n} times the squared envelope.

        They come from a QR decomposition of Legendre polynomials at quadrature nodes.
        """
        count = self.count(n)
        if not count:
            return np.zeros((len(r2), 0))
        nodes, weights = np.polynomial.legendre.leggauss(2 * self.degree + 48)
        s = ((nodes + 1) / 2) ** 2
        measure = weights * s ** ((self.dim - 1) / 2) * self._envelope(s) ** 2
        scaled = np.sqrt(measure * s**n / measure.sum())[:, None]
        upper = np.linalg.qr(scaled * _legendre(s, count), mode="r")
        upper *= np.sign(np.diag(upper))[:, None]
        return np.linalg.solve(upper.T, _legendre(r2, count).T).T


def _legendre(r2: Array, count: int) -> Array:
    return np.polynomial.legendre.legvander(2 * r2 - 1, count - 1)


def _splines(r2: Array, count: int) -> Array:
    """B-splines of r on [0, 1] with evenly spaced knots, cubic where there are enough of them.

    They sum to one (Cox–de Boor recursion on clamped knots).
    """
    degree = min(3, count - 1)
    inner = np.linspace(0.0, 1.0, count - degree + 1)
    knots = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    r = np.minimum(np.sqrt(r2), 1.0)[:, None]
    last = inner[-2]  # the last interval is closed: r = 1 belongs to it
    b = ((knots[:-1] <= r) & (r < knots[1:])) | ((knots[:-1] == last) & (knots[1:] == 1) & (r == 1))
    b = b.astype(np.float64)
    for p in range(1, degree + 1):
        rise, fall = knots[p:-1] - knots[: -p - 1], knots[p + 1 :] - knots[1:-p]
        up = np.divide(r - knots[: -p - 1], rise, out=np.zeros((len(r), len(rise))), where=rise > 0)
        down = np.divide(
            knots[p + 1 :] - r, fall, out=np.zeros((len(r), len(fall))), where=fall > 0
        )
        b = up * b[:, :-1] + down * b[:, 1:]
    return b
