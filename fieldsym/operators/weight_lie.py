"""The exact Lie derivative of weights along generators, and their difference under elements.

With K_g F = g⁻¹ F g and L_ξ its derivative at the identity, matrices W(s) between two fibres go to

* W dρ_in − dρ_out W for a pointwise map, and −dρ_out b for a constant;
* R dρ_in − dρ_out R − (ξᵀk)·∇_k R for a multiplier R(k), or the samples of a kernel;
* W H_ξ − dρ_out W, H_ξ = [[Λ A Λ⁻¹, Λ b], [0, 0]], for a map of the coordinates Λ x = 2 x/L,

and under an element to ρ_out(g)⁻¹ W(g s) ρ_in(g). Translations move coordinates alone. On the
lattice k = 2πn/L the gradient is a centred difference, R being zero beyond the kept modes: the Lie
derivative of the kernel along the smooth periodic field X_i = Σ_j A_ij L_j/2π sin(2πx_j/L_j), which
is A x near the centre, to rounding. Its outer ring is kept, so that Gram matrices are exact.

>>> import fieldsym as fs
>>> from fieldsym.operators.typed_parameters import typed_parameters
>>> wind, turn = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u"), fs.groups.so(2)
>>> matrix, _ = typed_parameters(torch.nn.Conv2d(2, 2, 1), turn, wind, wind)
>>> L = WeightLie(matrix, turn.generators, ()).columns[0]
>>> stretch = torch.diag(torch.tensor([1.0, 2.0]))
>>> L(stretch[None, None])                                                # W J − J W
tensor([[[[0., 1.],
          [1., 0.]]]])

To add a kind of weight: its sites in :mod:`fieldsym.operators.weight_sites`, its case in WeightLie;
those of kernels, which need no lattice of modes, are :mod:`fieldsym.operators.weight_kernels`.

References
----------
Otto et al. 2023, arXiv:2311.00212 (Lie derivatives of sections).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fieldsym.group import Element, Generator
from fieldsym.operators.typed_parameters import TypedParameter
from fieldsym.operators.weight_kernels import KernelSites
from fieldsym.operators.weight_orbits import Moves, Orbits, products, signed
from fieldsym.operators.weight_sites import Coordinates, ModeSites, SiteMap
from fieldsym.representation import Representation

Array = np.ndarray
Term = tuple[SiteMap | None, Tensor | None, Tensor | None]  # on the sites, on out, on in


@dataclass(frozen=True, eq=False)
class WeightMap:
    """A linear map of weights, Σ over terms of sites(left W right), in orthonormal frames.

    None stands for one everywhere; ``signs`` has one number per term.
    """

    terms: Sequence[tuple[SiteMap | None, Tensor | None, Tensor | None]]
    signs: Sequence[float]
    frames: tuple[Tensor | None, Tensor | None]

    def __call__(self, w: Tensor) -> Tensor:
        """(sites, parts, out, in) to (rows, parts, out, in)."""
        total: Tensor | None = None
        for (sites, left, right), sign in zip(self.terms, self.signs, strict=True):
            image = _times(w, left, right)
            image = image if sites is None else sites(image)
            total = sign * image if total is None else total.add(image, alpha=sign)
        return _times(total, *self.frames)  # type: ignore[arg-type]

    def adjoint(self, v: Tensor) -> Tensor:
        """The transpose, (rows, parts, out, in) to (sites, parts, out, in)."""
        v, total = _times(v, *map(_transposed, self.frames)), None
        for (sites, left, right), sign in zip(self.terms, self.signs, strict=True):
            image = v if sites is None else sites(v, back=True)
            image = _times(image, _transposed(left), _transposed(right))
            total = sign * image if total is None else total.add(image, alpha=sign)
        return total  # type: ignore[return-value]


def kind_drho(rep: Representation, kind: str, xi: Generator) -> Array:
    """dρ(ξ) of one copy of a kind; zero on regular features, which no generator moves."""
    if kind == "regular":
        return np.zeros_like(rep.kind_gram(kind))
    return rep.kind_drho(kind, xi)


def fibre_drho(rep: Representation, xi: Generator) -> Tensor:
    """dρ(ξ) of a representation that may have regular blocks, float64 (channels, channels)."""
    blocks = [np.kron(np.eye(b.copies), kind_drho(rep, b.kind, xi)) for b in rep.blocks]
    return torch.block_diag(*map(torch.from_numpy, blocks))


class WeightLie:
    """Lie derivatives and differences of one typed parameter, their tables made once.

    ``columns`` holds L_ξ by the number of the generator, without those that cannot change the
    weight; ``differences`` K_g − 1 of every element; ``whole`` is W itself. All are maps of what
    ``open`` gives to (rows, parts, out, in) in orthonormal frames, ready to be squared.

    Parameters
    ----------
    parameter : TypedParameter
    generators, elements : the candidates
    cell : sides of a cell of the grid on which kernels act, None for equal ones

    Raises
    ------
    GroupError   if an element does not permute the axes.
    """

    def __init__(
        self,
        parameter: TypedParameter,
        generators: Sequence[Generator],
        elements: Sequence[Element],
        cell: Sequence[float] | None = None,
    ) -> None:
        self.parameter = p = parameter
        self.sites: ModeSites | KernelSites | None = None
        if p.lattice == "modes":
            self.sites = ModeSites(p.sites, p.lengths, elements)
        elif p.lattice == "kernel":
            dilation = getattr(p.module, "dilation", 1)
            self.sites = KernelSites(p.sites, dilation, cell, generators)
        self.embed = Coordinates(p.axes, p.lengths) if p.role == "position" else None
        into = None if self.embed else _frame(p.rep_in)
        self.frames = _frame(p.rep_out), None if into is None else torch.linalg.inv(into)
        self._start = None if self.sites is None else self.sites.whole()
        self.whole = self._map([(self._start, None, None)])
        made = {i: self._derivative(xi) for i, xi in enumerate(generators)}
        self.columns = {i: column for i, column in made.items() if column is not None}
        self.differences = [self._difference(g) for g in elements]

    def open(self, value: Tensor) -> Tensor:
        """What ``parameter.read`` gives as (sites, parts, out, in), a position in full."""
        w = value.movedim(3, 1)
        return w if self.embed is None else w @ self.embed.inside().to(w)

    def orbits(self, elements: Sequence[Element]) -> Orbits | None:
        """All squares at once, where the elements are a group that permutes entries up to sign."""
        if self.frames != (None, None) or products(elements) is None:
            return None
        closed = self.sites is None or self.sites.closed(elements).all()
        one = Element(np.eye(self.parameter.sites.shape[1]))
        moves = [self._moves(g) for g in (one, *elements)] if closed else [None]
        known = [m for m in moves if m is not None]
        if len(known) < len(moves):
            return None
        if self.sites is None:
            return Orbits(elements, known, np.ones((1, 1)))
        return Orbits(elements, known, self.sites.measure, self._visible())

    def _moves(self, g: Element) -> Moves | None:
        p = self.parameter
        into = p.rep_in.rho(g) if self.embed is None else self.embed.rho(g)
        row, column = signed(p.rep_out.rho(g.inverse), 1), signed(into, 0)
        if row is None or column is None:
            return None
        site, sign = np.zeros(1, dtype=int), np.ones((1, 1))
        if self.sites is not None:
            site, sign = self.sites.images(g)
        return Moves(site, sign, row[0], column[0], row[1], column[1])

    def _visible(self) -> SiteMap | None:
        """What fields see of both k and −k, where both are stored."""
        if not isinstance(self.sites, ModeSites) or not self.sites.paired:
            return None
        one = Element(np.eye(len(self.sites.lengths)))
        return self.sites.back(one, np.ones(len(self.sites.sites), dtype=bool))

    def _map(self, terms: list[Term], signs: Sequence[float] | None = None) -> WeightMap:
        return WeightMap(terms, signs or [1.0] * len(terms), self.frames)

    def _derivative(self, xi: Generator) -> WeightMap | None:
        p = self.parameter
        if p.isotropic and not (xi.matrix + xi.matrix.T).any():
            return None
        into = fibre_drho(p.rep_in, xi) if self.embed is None else self.embed.drho(xi)
        out = fibre_drho(p.rep_out, xi)
        terms: list[Term] = []
        if self.sites and xi.matrix.any():
            terms.append((self.sites.derivative(xi), None, None))
        if into.any():
            terms.append((self._start, None, into))
        if out.any():
            terms.append((self._start, -out, None))
        return self._map(terms) if terms else None

    def _difference(self, g: Element) -> WeightMap:
        p = self.parameter
        into = p.rep_in.rho(g) if self.embed is None else self.embed.rho(g)
        sites = self.sites.moved(g) if self.sites else None
        moved = (sites, _unless_one(p.rep_out.rho(g.inverse)), _unless_one(into))
        return self._map([moved, (self._start, None, None)], [1.0, -1.0])


def affine_pairs(
    lies: Sequence[WeightLie], elements: Sequence[Element]
) -> list[tuple[WeightLie, WeightLie]]:
    """Maps of coordinates and the constants beside them, where something moves both."""
    shifted = any(g.shift.any() for g in elements)
    constants = {_layer(lie): lie for lie in lies
                 if lie.parameter.role == "constant" and (lie.columns or shifted)}  # fmt: skip
    places = [lie for lie in lies if lie.embed is not None and _layer(lie) in constants]
    return [(lie, constants[_layer(lie)]) for lie in places]


def _layer(lie: WeightLie) -> str:
    return lie.parameter.name.removesuffix(".position").rpartition(".")[0]


def affine_products(place: WeightLie, constant: WeightLie, k: int) -> tuple[Tensor, Tensor]:
    """What squares of x ↦ W x + b hold besides those of W and of b: both make a constant.

    Parameters
    ----------
    place, constant : of one layer
    k : number of generators

    Returns
    -------
    Tensor (k, k) for a Gram matrix, Tensor (1 + m,) for the squares of the size and of m elements
    """
    cross = _constants(place, k) @ _constants(constant, k).mT
    squares = torch.cat([cross.new_zeros(1), 2 * cross.diagonal()[k:]])
    return cross[:k, :k] + cross[:k, :k].mT, squares


def _constants(lie: WeightLie, k: int) -> Tensor:
    """The constants that generators and elements make of a weight, (k + m, out)."""
    w = lie.open(lie.parameter.read())
    maps = [*map(lie.columns.get, range(k)), *lie.differences]
    images = [torch.zeros_like(w) if f is None else f(w) for f in maps]
    return torch.stack([image[0, 0, :, -1] for image in images]).double()


def _frame(rep: Representation) -> Tensor | None:
    """C with CᵀC the fibre Gram matrix, so that C v has orthonormal coordinates."""
    return None if rep.is_euclidean else torch.linalg.cholesky(rep.gram).mT


def _times(w: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """Left W right of matrices (…, out, in); None is one."""
    w = w if right is None else w @ right.to(w)
    return w if left is None else left.to(w) @ w


def _transposed(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else matrix.mT


def _unless_one(matrix: Tensor) -> Tensor | None:
    return None if (matrix == torch.eye(len(matrix), dtype=matrix.dtype)).all() else matrix


def steerable_lie(
    coefficients: Tensor,
    n: Sequence[int],
    rep_in: Representation,
    rep_out: Representation,
    xi: Generator,
) -> Tensor:
    """L_ξ of R(k) = Σ W_qn b_q(|k|) e^{inφ} along a rotation, in its coefficients.

    (L_ξ R)_qn = i n W_qn − dρ_out W_qn + W_qn dρ_in, without a derivative in k.

    Parameters
    ----------
    coefficients : Tensor (orders, radial functions, out, in), complex
    n : angular orders
    xi : the rotation of the plane, ``groups.so(2).generators[0]``

    Returns
    -------
    Tensor   like ``coefficients``; the squared norm of L_ξ R weights it by the Gram matrix of b_q

    Examples
    --------
    The gradient i k of a scalar commutes with rotations:

    >>> import fieldsym as fs
    >>> p, u = fs.Representation("scalar p", 2), fs.Representation("vector u", 2)
    >>> W = torch.tensor([[[1j], [1.0]], [[1j], [-1.0]]])[:, None]      # i (cos φ, sin φ)
    >>> steerable_lie(W, (1, -1), p, u, fs.groups.so(2).generators[0]).abs().max()
    tensor(0.)
    """
    orders = torch.as_tensor(n, device=coefficients.device)[:, None, None, None]
    out, into = (rep.drho(xi).to(coefficients) for rep in (rep_out, rep_in))
    return 1j * orders * coefficients - out @ coefficients + coefficients @ into
