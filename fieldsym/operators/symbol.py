"""The symbol of a steerable convolution: weights times radial functions times harmonics.

    R(k) = Σ over n, q, a   w[n, q, a] · iⁿ · b_{n,q}(|k|/K) · Y_{n,a}(k)

with the equivariant harmonics Y of :mod:`fieldsym.operators.harmonics` and the radial functions b
of :mod:`fieldsym.operators.radial`, for every pair of fields. For any weights it obeys
R(Ak) = ρ_out(A) R(k) ρ_in(A)⁻¹, hence L_ξ R = 0; iⁿ makes R(−k) = conj R(k), a real kernel.

Fields that change sign under x ↦ −x are carried as i times themselves. In the plane, and in space
with reflections, every entry of R is then real, which halves the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.errors import GridError
from fieldsym.group import Element
from fieldsym.operators.harmonics import Harmonics, check_turns, equivariant_harmonics
from fieldsym.operators.radial import Radial
from fieldsym.representation import Block, Representation

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Term:
    """One angular order between two blocks: its harmonics and where its weights are."""

    harmonics: Harmonics
    start: int  # first of its columns among the weights of this order
    phase: int  # iⁿ between even fields and i × odd fields is i^phase

    @property
    def order(self) -> int:
        return self.harmonics.order

    @property
    def functions(self) -> int:
        return len(self.harmonics.coefficients)

    @property
    def part(self) -> int:
        """0 where it is real, 1 where it is imaginary."""
        return self.phase % 2


class Symbol(nn.Module):
    """Weights of an isotropic multiplier between typed fibres; ``weight_n`` holds angular order n.

    Parameters
    ----------
    rep_in, rep_out : Representation of the fibres
    reflections : whether the group is O(d) rather than SO(d)
    radial : Radial

    Raises
    ------
    GridError             if the radial degree is below the angular orders between the fields.
    RepresentationError   if a block has no continuous rotations.

    Examples
    --------
    >>> import fieldsym as fs
    >>> flow = fs.Representation("scalar p + vector u", 2)
    >>> symbol = Symbol(flow, flow, True, Radial("zernike", 4, 2))
    >>> {name: tuple(p.shape) for name, p in symbol.named_parameters()}
    {'weight_0': (3, 2), 'weight_1': (2, 2), 'weight_2': (2, 1)}
    """

    def __init__(
        self, rep_in: Representation, rep_out: Representation, reflections: bool, radial: Radial
    ) -> None:
        super().__init__()
        for rep in (rep_in, rep_out):
            check_turns(rep)
        self.rep_in, self.rep_out, self.radial = rep_in, rep_out, radial
        self.odd_in, self.odd_out = _odd_channels(rep_in), _odd_channels(rep_out)
        self.pairs, columns = _pairs(rep_in, rep_out, reflections)
        self.parts = 1 + any(t.part for _, _, terms in self.pairs for t in terms)
        if not radial.count(max(columns, default=0)):
            raise GridError(
                f"Symbols between '{rep_in}' and '{rep_out}' have angular orders up to "
                f"{max(columns)}, which need polynomials of that degree at least; got degree="
                f"{radial.degree}."
            )
        self.orders = sorted(columns)
        for n in self.orders:
            self.register_parameter(f"weight_{n}", nn.Parameter(self._initial(n, columns[n])))

    def _initial(self, n: int, columns: int) -> Tensor:
        """E|R|² = 2 / (in + out) per entry where nothing is cut, as in neuraloperator."""
        weight = torch.randn(self.radial.count(n), columns)
        mean_square = 2 / (self.rep_in.channels + self.rep_out.channels)
        for out_block, in_block, terms in self.pairs:
            functions = sum(t.functions * self.radial.count(t.order) for t in terms)
            for t in (t for t in terms if t.order == n):
                size = out_block.copies * in_block.copies * t.functions
                weight[:, t.start : t.start + size] *= math.sqrt(mean_square / functions)
        return weight

    def tables(self, k: Array) -> dict[str, Array]:
        """What the weights multiply at k in units of the cutoff, (points, d).

        ``radial_n`` (points, functions) for every order; ``angular_i_part`` (points, functions, pq)
        for every pair of blocks, p and q the sizes of one field.
        """
        tables = {f"radial_{n}": self.radial(n, k) for n in self.orders}
        argument = self.radial.angular_argument(k)
        for i, (_, _, terms) in enumerate(self.pairs):
            for part in range(self.parts):
                values = [
                    t.harmonics(argument) * (-1.0) ** (t.phase // 2)
                    for t in terms
                    if t.part == part
                ]
                if values:
                    joined = np.concatenate(values, 1)
                    tables[f"angular_{i}_{part}"] = joined.reshape(*joined.shape[:2], -1)
        return tables

    def forward(self, tables: Mapping[str, Tensor], points: int) -> list[Tensor]:
        """Real and, where there is one, imaginary part of R, each (points, out, in).

        They act between even fields and i × odd fields.
        """
        # getattr, not get_parameter: functional_call puts plain tensors in place of parameters
        profiles = {n: tables[f"radial_{n}"] @ getattr(self, f"weight_{n}") for n in self.orders}
        width = len(self.rep_in.blocks)
        parts = []
        for part in range(self.parts):
            blocks = [
                self._block(i, part, profiles, tables, points) for i in range(len(self.pairs))
            ]
            rows = [torch.cat(blocks[i : i + width], 2) for i in range(0, len(blocks), width)]
            parts.append(torch.cat(rows, 1))
        return parts

    def _block(
        self,
        i: int,
        part: int,
        profiles: Mapping[int, Tensor],
        tables: Mapping[str, Tensor],
        points: int,
    ) -> Tensor:
        out_block, in_block, terms = self.pairs[i]
        terms = [t for t in terms if t.part == part]
        if not terms:
            return tables["zero"].expand(points, out_block.size, in_block.size)
        copies = out_block.copies * in_block.copies
        weights = torch.cat([
            profiles[t.order].narrow(1, t.start, copies * t.functions).unflatten(1, (copies, -1))
            for t in terms
        ], 2)  # fmt: skip
        full = torch.bmm(weights, tables[f"angular_{i}_{part}"])
        p, q = out_block.size // out_block.copies, in_block.size // in_block.copies
        full = full.view(points, out_block.copies, in_block.copies, p, q).transpose(2, 3)
        return full.reshape(points, out_block.size, in_block.size)

    @torch.no_grad()
    def at(self, k: Array) -> Tensor:
        """The multiplier R at k in units of the cutoff, complex128 (points, out, in)."""
        like = torch.zeros((), dtype=torch.float64)
        tables = {name: torch.from_numpy(t) for name, t in self.tables(k).items()}
        twin = {name: p.detach().cpu().double() for name, p in self.named_parameters()}
        parts = torch.func.functional_call(self, twin, ({**tables, "zero": like}, len(k)))
        value = torch.complex(parts[0], parts[1] if self.parts == 2 else torch.zeros_like(parts[0]))
        into, out = (
            1j ** torch.tensor(odd, dtype=torch.float64) for odd in (self.odd_in, self.odd_out)
        )
        return out[:, None] * value * into.conj()


def _pairs(
    rep_in: Representation, rep_out: Representation, reflections: bool
) -> tuple[list[tuple[Block, Block, list[Term]]], dict[int, int]]:
    """The terms of every pair of blocks, row by row, and the number of weights of every order."""
    columns: dict[int, int] = {}
    pairs = []
    for out_block in rep_out.blocks:
        for in_block in rep_in.blocks:
            odd = _is_odd(in_block, rep_in) - _is_odd(out_block, rep_out)
            terms = []
            for y in equivariant_harmonics(
                out_block.kind, in_block.kind, rep_in.dim, reflections
            ):  # fmt: skip
                start = columns.get(y.order, 0)
                terms.append(Term(y, start, (y.order + odd) % 4))
                size = out_block.copies * in_block.copies * terms[-1].functions
                columns[y.order] = start + size
            pairs.append((out_block, in_block, terms))
    return pairs, columns


def _is_odd(block: Block, rep: Representation) -> bool:
    """Whether a field changes sign under x ↦ −x."""
    return bool(np.trace(rep.kind_rho(block.kind, Element(-np.eye(rep.dim)))) < 0)


def _odd_channels(rep: Representation) -> list[bool]:
    return [_is_odd(block, rep) for block in rep.blocks for _ in range(block.size)]
