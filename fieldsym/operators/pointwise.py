"""Pointwise linear maps between typed fields, equivariant under a finite group.

The weight is stored once per orbit of its entries: W ρ_in(g) = ρ_out(g) W holds by construction,
and a bias exists only along invariant directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from fieldsym.group import Group
from fieldsym.operators.intertwiner import Equation, allowed_maps
from fieldsym.operators.tangents import VALUES, Values
from fieldsym.representation import Block, Representation


def single(table: np.ndarray) -> Tensor:
    """A constant of a module, in the dtype its parameters start with."""
    return torch.from_numpy(table).to(torch.get_default_dtype())


class TypedWeight(nn.Module):
    """A stack of matrices between typed fibres, one coefficient array per pair of blocks.

    Parameters
    ----------
    stack : number of matrices
    blocks : (output block, input block, basis) of every pair, row by row; a basis has shape
        (dimension, parts, d_out, d_in), parts being 2 for complex matrices
    columns : width of the matrices
    std : standard deviation of the initial coefficients
    order : positions of rows and of columns, if the matrices are wanted in another order
    """

    def __init__(
        self,
        stack: int,
        blocks: list[tuple[Block, Block, np.ndarray]],
        columns: int,
        std: float,
        *,
        order: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        self.stack, self.parts = stack, blocks[0][2].shape[1]
        rows = sum(out.size for out, into, _ in blocks if into is blocks[0][1])
        self.shape = (stack, self.parts, rows, columns)
        # where nothing is tied the matrices themselves are stored
        self.free = all(len(basis) and len(basis) == basis[0].size for _, _, basis in blocks)
        if self.free:
            self.matrices = nn.Parameter(torch.randn(self.shape) * std)
            return
        for i, (out_block, in_block, basis) in enumerate(blocks):
            if len(basis):
                shape = (stack, out_block.copies, in_block.copies, len(basis))
                self.register_parameter(f"pair_{i}", nn.Parameter(torch.randn(shape) * std))
        self.pairs = [i for i, (_, _, basis) in enumerate(blocks) if len(basis)]
        places, factors = _terms(blocks, rows, columns)
        if order is not None:
            places, factors = (t[..., order[0], :][..., order[1]] for t in (places, factors))
        self.terms = len(places)
        self.unit = bool((factors == 1).all())
        # also has the dtype and device of the parameters where the symmetry forbids every map
        self.register_buffer("factors", single(factors), persistent=False)
        self.register_buffer("places", torch.from_numpy(places), persistent=False)

    def forward(self) -> Tensor:
        """The matrices, (stack, parts, rows, columns)."""
        if self.free:
            return self.matrices
        if not self.pairs:
            return self.get_buffer("factors").expand(self.shape)
        # getattr, not get_parameter: functional_call puts plain tensors in place of parameters
        free = [getattr(self, f"pair_{i}").flatten(1) for i in self.pairs]
        coefficients = free[0] if len(free) == 1 else torch.cat(free, 1)
        picked = coefficients.index_select(1, self.get_buffer("places").flatten())
        picked = picked.view(self.stack, self.terms, *self.shape[1:])
        if not self.unit:
            picked = picked * self.get_buffer("factors").to(picked.dtype)
        return picked[:, 0] if self.terms == 1 else picked.sum(1)


def _terms(
    blocks: list[tuple[Block, Block, np.ndarray]], rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which coefficients every entry is a sum of, and their factors.

    (terms, parts, rows, columns) each; positions count the coefficients of all pairs in a row. A
    basis with disjoint supports, as that of every group that permutes components, needs one term.
    """
    parts = blocks[0][2].shape[1]
    terms = max([1, *(int((basis != 0).sum(0).max()) for _, _, basis in blocks if len(basis))])
    places = np.zeros((terms, parts, rows, columns), dtype=np.int64)
    factors = np.zeros(places.shape)
    top = left = start = 0
    for out_block, in_block, basis in blocks:
        if len(basis):
            # the terms that are there first, (terms, parts, p, q)
            which = np.argsort(basis == 0, axis=0, kind="stable")[:terms]
            factor = np.take_along_axis(basis, which, 0)
            missing = terms - len(which)
            which, factor = (np.pad(t, [(0, missing), *[(0, 0)] * 3]) for t in (which, factor))
            copies = np.arange(out_block.copies * in_block.copies) * len(basis) + start
            grid = copies.reshape(out_block.copies, 1, in_block.copies, 1)
            place = which[:, :, None, :, None, :] + grid
            place = rearrange(place, "term part o p i q -> term part (o p) (i q)")
            window = np.s_[:, :, top : top + out_block.size, left : left + in_block.size]
            places[window] = place
            factors[window] = np.tile(factor, (1, 1, out_block.copies, in_block.copies))
            start += out_block.copies * in_block.copies * len(basis)
        left += in_block.size
        if left == columns:
            top, left = top + out_block.size, 0
    return places, factors


def point_blocks(
    rep_in: Representation, rep_out: Representation, group: Group
) -> list[tuple[Block, Block, np.ndarray]]:
    """Bases of the equivariant pointwise maps, for every pair of blocks."""
    known: dict[tuple[str, str], np.ndarray] = {}
    blocks = []
    for out_block in rep_out.blocks:
        for in_block in rep_in.blocks:
            pair = (out_block.kind, in_block.kind)
            if pair not in known:
                known[pair] = _point_basis(rep_in, rep_out, group, pair)
            blocks.append((out_block, in_block, known[pair]))
    return blocks


def _point_basis(
    rep_in: Representation, rep_out: Representation, group: Group, pair: tuple[str, str]
) -> np.ndarray:
    equations = [
        Equation(rep_out.kind_rho(pair[0], g), rep_in.kind_rho(pair[1], g.inverse))
        for g in group.elements[1:]
    ]
    shape = (
        len(rep_out.kind_rho(pair[0], group.elements[0])),
        len(rep_in.kind_rho(pair[1], group.elements[0])),
    )
    return allowed_maps(equations, shape, parts=1)


class Pointwise(nn.Module):
    """Equivariant linear map of the fibres, the same at every point.

    Parameters
    ----------
    rep_in, rep_out : Representation of the fibres
    group : finite Group
    bias : whether to add a constant along the invariant directions of ``rep_out``

    Examples
    --------
    >>> import fieldsym as fs
    >>> d4 = fs.groups.dihedral(4)
    >>> flow = fs.Representation("scalar p + vector u", 2)
    >>> layer = Pointwise(flow, flow, d4)                   # p ← p, u ← u and a bias of p
    >>> sum(p.numel() for p in layer.parameters())
    3
    """

    def __init__(
        self, rep_in: Representation, rep_out: Representation, group: Group, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.rep_in, self.rep_out = rep_in, rep_out
        bound = 1 / math.sqrt(rep_in.channels)
        blocks = point_blocks(rep_in, rep_out, group)
        self.weight = TypedWeight(1, blocks, rep_in.channels, bound / math.sqrt(3))
        constant = Representation("scalar", rep_in.dim)
        invariant = point_blocks(constant, rep_out, group)
        some = bias and any(len(basis) for _, _, basis in invariant)
        # Zero at first: constants that all group images share would drown outputs without a mean
        # (pseudoscalars, vectors) in rounding.
        self.bias = TypedWeight(1, invariant, 1, 0.0) if some else None

    def extra_repr(self) -> str:
        """What it maps to what."""
        return f"'{self.rep_in}' → '{self.rep_out}'"

    n_tensors = 2

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """The dense matrix, (out, in), and the bias."""
        return self.weight()[0, 0], None if self.bias is None else self.bias()[0, 0, :, 0]

    def points(
        self, x: Tensor, tensors: Sequence[Tensor | None], calculus: Values = VALUES
    ) -> Tensor:
        """Apply ``tensors`` to (..., channel)."""
        matrix, bias = tensors
        return calculus.linear(x, matrix, bias)  # type: ignore[arg-type]

    def added(
        self, y: Tensor, x: Tensor, tensors: Sequence[Tensor | None], calculus: Values
    ) -> Tensor:
        """y + the map of x, (..., channel)."""
        matrix, bias = tensors
        return calculus.add_linear(y, x, matrix, bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        weight, bias = self.tensors()
        y = functional.conv1d(x.flatten(2), weight.unsqueeze(-1), bias)
        return y.view(x.shape[0], -1, *x.shape[2:])
