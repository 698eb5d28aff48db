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
from fieldsym.operators.tangents import Values
from fieldsym.representation import Block, Representation

VALUES = Values()


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
        self.width = columns
        self.stack = stack
        self.parts = blocks[0][2].shape[1]
        self.layout: list[tuple[int, int, bool]] = []
        rows = sum(out.size for out, into, _ in blocks if into is blocks[0][1])
        # where nothing is tied the matrices themselves are stored
        self.free = all(len(basis) == basis[0].size for _, _, basis in blocks if len(basis))
        self.free = self.free and all(len(basis) for _, _, basis in blocks)
        if self.free:
            shape = (stack, self.parts, rows, columns)
            self.matrices = nn.Parameter(torch.randn(shape) * std)
            return
        for name, places in zip(("rows", "columns"), order or (None, None), strict=True):
            moved = places is not None and (places != np.arange(len(places))).any()
            table = torch.from_numpy(places) if moved else None
            self.register_buffer(f"order_{name}", table, persistent=False)
        # has the dtype and device of the parameters, also where the symmetry forbids every map
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        for i, (out_block, in_block, basis) in enumerate(blocks):
            self.layout.append((out_block.size, in_block.size, len(basis) > 0))
            self.register_buffer(f"basis_{i}", single(basis), persistent=False)
            if len(basis):
                shape = (stack, out_block.copies, in_block.copies, len(basis))
                self.register_parameter(f"pair_{i}", nn.Parameter(torch.randn(shape) * std))

    def forward(self) -> Tensor:
        """The matrices, (stack, parts, rows, columns)."""
        if self.free:
            return self.matrices
        rows: list[Tensor] = []
        row: list[Tensor] = []
        for i, (height, width, allowed) in enumerate(self.layout):
            shape = (self.stack, self.parts, height, width)
            row.append(
                self._pair(i).reshape(shape) if allowed else self.get_buffer("zero").expand(shape)
            )
            if sum(block.shape[-1] for block in row) == self.width:
                rows.append(torch.cat(row, -1) if len(row) > 1 else row[0])
                row = []
        whole = torch.cat(rows, -2) if len(rows) > 1 else rows[0]
        for dim, name in ((-2, "rows"), (-1, "columns")):
            order: Tensor | None = getattr(self, f"order_{name}")
            whole = whole if order is None else whole.index_select(dim, order)
        return whole

    def _pair(self, i: int) -> Tensor:
        """(stack, out, in, n) and (n, parts, p, q) to (stack, parts, out, p, in, q)."""
        # getattr, not get_parameter: functional_call puts plain tensors in place of parameters
        coefficients, basis = getattr(self, f"pair_{i}"), self.get_buffer(f"basis_{i}")
        _, parts, p, q = basis.shape
        full = coefficients @ basis.flatten(1).to(coefficients.dtype)
        return rearrange(full, "s o i (part p q) -> s part o p i q", part=parts, p=p, q=q)


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

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        weight, bias = self.tensors()
        y = functional.conv1d(x.flatten(2), weight.unsqueeze(-1), bias)
        return y.view(x.shape[0], -1, *x.shape[2:])
