"""Hidden features of irreducible types: pointwise maps, gates and norms that rotations leave alone.

A pointwise linear map that commutes with every rotation mixes copies of one type only (Schur), a
constant can be added along invariant directions only, and a nonlinear function may act on scalars
only: every other field is multiplied by a sigmoid of a scalar of its own, its gate. Norms of fields
feed scalars and gates, so that squares of vectors and tensors, and of pseudoscalars, reach them.

>>> import fieldsym as fs
>>> w, u = (fs.Representation(text, 3) for text in ("2 scalar + pseudoscalar", "scalar + vector"))
>>> SchurMap(w, u, fs.groups.o(3)).weight.numel(), Gate(u).rep_in             # one gate, for u
(2, scalar + vector + scalar)

To add a type: write its ρ and dρ in :mod:`fieldsym.representation`; nothing here lists types.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldsym.group import Group
from fieldsym.operators.harmonics import equivariant_harmonics, full_rotations
from fieldsym.operators.tables import Tabulated
from fieldsym.representation import Block, Representation


class SchurMap(Tabulated):
    """Linear map of the fibres that commutes with SO(d) or O(d), the same at every point.

    Parameters
    ----------
    rep_in, rep_out : Representation of the fibres
    group : so(d), o(d), se(d) or e(d)
    bias : whether to add a constant along the invariant directions of ``rep_out``

    Examples
    --------
    >>> import fieldsym as fs
    >>> flow = fs.Representation("scalar p + vector u", 2)
    >>> layer = SchurMap(flow, flow, fs.groups.so(2))      # p ← p, u ← a u + b Ju and a bias of p
    >>> {name: p.numel() for name, p in layer.named_parameters()}
    {'weight': 3, 'bias': 1}
    """

    def __init__(
        self, rep_in: Representation, rep_out: Representation, group: Group, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.rep_in, self.rep_out = rep_in, rep_out
        constant = Representation("scalar", rep_in.dim)
        self._maps = _commutants(rep_in, rep_out, group)
        self._constants = _commutants(constant, rep_out, group) if bias else []
        self.weight = _parameter(_initial(self._maps))
        self.bias = _parameter([torch.zeros(block.weights) for block in self._constants])
        self.tabulate()

    def extra_repr(self) -> str:
        """What it maps to what."""
        return f"'{self.rep_in}' → '{self.rep_out}'"

    def tabulate(self) -> None:
        """Tabulate the maps between every pair of blocks."""
        for name, pairs in (("weight", self._maps), ("bias", self._constants)):
            for i, pair in enumerate(pairs):
                self.store(f"{name}_basis_{i}", pair.basis)

    def _matrix(self, name: str, pairs: list[Commutant], weights: Tensor) -> Tensor:
        """The matrix (out, in) from its weights."""
        parts = weights.split([pair.weights for pair in pairs])
        blocks = [
            self._block(self.get_buffer(f"{name}_basis_{i}"), pair, part)
            for i, (pair, part) in enumerate(zip(pairs, parts, strict=True))
        ]
        width = len(pairs) // len(self.rep_out.blocks)
        return torch.cat([torch.cat(blocks[i : i + width], 1) for i in range(0, len(pairs), width)])

    def _block(self, basis: Tensor, pair: Commutant, weights: Tensor) -> Tensor:
        if not pair.weights:
            return self.get_buffer("zero").expand(pair.out_block.size, pair.in_block.size)
        full = weights.view(pair.out_block.copies, pair.in_block.copies, -1) @ basis.flatten(1)
        full = full.unflatten(2, basis.shape[1:]).transpose(1, 2)
        return full.reshape(pair.out_block.size, pair.in_block.size)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        # attributes, not get_parameter: functional_call puts plain tensors in place of parameters
        weight, bias = self.weight, self.bias
        if weight is None:
            y = x.new_zeros(len(x), self.rep_out.channels, x[0, 0].numel())
        else:
            matrix = self._matrix("weight", self._maps, weight)
            y = torch.bmm(matrix.expand(len(x), -1, -1), x.flatten(2))
        if bias is not None:
            y = y + self._matrix("bias", self._constants, bias)
        return y.view(x.shape[0], -1, *x.shape[2:])


def gated(rep: Representation, rep_out: Representation) -> Representation:
    """Types of fields and of the gates of those of ``rep_out``, one scalar each."""
    gates = _others(rep_out)
    return Representation(f"{rep} + {gates} scalar", rep.dim) if gates else rep


class Gate(nn.Module):
    """Nonlinearity on typed fields: a function of scalars, a sigmoid of its gate on any other.

    Scalars and gates first receive a learned combination of the norms √(1 + |v|²) − 1 of the
    others.

    Parameters
    ----------
    rep : Representation of the fields; the input ``rep_in`` has one more scalar per gated field
    non_linearity : pointwise function of one number
    rep_out : Representation of the result, some of the blocks of ``rep`` and by default all; of the
        others the norms count

    Examples
    --------
    >>> import fieldsym as fs
    >>> Gate(fs.Representation("2 scalar + vector + pseudoscalar", 2)).rep_in
    2 scalar + vector + pseudoscalar + 2 scalar

    References
    ----------
    Weiler et al. 2018, arXiv:1807.02547, section 4 (gated nonlinearities).
    """

    def __init__(
        self,
        rep: Representation,
        non_linearity: Callable[[Tensor], Tensor] = functional.gelu,
        rep_out: Representation | None = None,
    ) -> None:
        super().__init__()
        self.rep, self.non_linearity = rep, non_linearity
        self.rep_out = rep_out or rep
        self.gates, self.scalars = _others(self.rep_out), _scalars(self.rep_out)
        self.rep_in, norms = gated(rep, self.rep_out), _others(rep)
        if norms:
            mix = torch.randn(self.scalars + self.gates, norms) / math.sqrt(norms)
            self.mix = nn.Parameter(mix)
        _register_grams(self, rep)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (batch, channel of ``rep_in``, *grid)."""
        if not _others(self.rep):
            return self.non_linearity(x)
        fields, gates = x.split([self.rep.channels, self.gates], 1)
        parts = fields.split([b.size for b in self.rep.blocks], 1)
        kinds = [b.kind for b in self.rep.blocks]
        scalars = [part for part, kind in zip(parts, kinds, strict=True) if kind == "scalar"]
        norms = [
            _soft_norm(_energy(self, i, part))
            for i, (part, kind) in enumerate(zip(parts, kinds, strict=True))
            if kind != "scalar"
        ]
        heard = torch.bmm(self.mix.expand(len(x), -1, -1), torch.cat(norms, 1).flatten(2))
        driven = torch.cat([*scalars, gates], 1) + heard.view(len(x), -1, *x.shape[2:])
        moved, opened = driven.split([self.scalars, self.gates], 1)
        return self._assemble(parts, self.non_linearity(moved), opened.sigmoid())

    def _assemble(self, parts: tuple[Tensor, ...], scalars: Tensor, gates: Tensor) -> Tensor:
        """Scalars in their places, every other field times its gate."""
        results, scalar, gate = [], 0, 0
        kept = {b.kind for b in self.rep_out.blocks}
        for block, part in zip(self.rep.blocks, parts, strict=True):
            if block.kind not in kept:
                continue
            if block.kind == "scalar":
                results.append(scalars.narrow(1, scalar, block.copies))
                scalar += block.copies
            else:
                factor = gates.narrow(1, gate, block.copies).unsqueeze(2)
                results.append((part.unflatten(1, (block.copies, -1)) * factor).flatten(1, 2))
                gate += block.copies
        return torch.cat(results, 1)


class FibreNorm(nn.Module):
    """Scale every field to a root mean square over space of its fibre norm that is learned.

    Parameters
    ----------
    rep : Representation of the fibres

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> wind = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 4, 6)
    >>> FibreNorm(fs.Representation("vector u", 2))(wind)[0, :, 0, 0]
    tensor([0.6000, 0.8000], grad_fn=<SelectBackward0>)
    """

    def __init__(self, rep: Representation) -> None:
        super().__init__()
        self.rep = rep
        self.scale = nn.Parameter(torch.ones(sum(b.copies for b in rep.blocks)))
        _register_grams(self, rep)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (batch, channel, *grid)."""
        results = []
        scales = self.scale.split([b.copies for b in self.rep.blocks])
        parts = x.split([b.size for b in self.rep.blocks], 1)
        for i, (block, part) in enumerate(zip(self.rep.blocks, parts, strict=True)):
            square = _energy(self, i, part).flatten(2).mean(2)
            factor = scales[i] * (square + 1e-5).rsqrt()
            factor = factor.view(len(x), block.copies, 1, *[1] * (x.ndim - 2))
            results.append((part.unflatten(1, (block.copies, -1)) * factor).flatten(1, 2))
        return torch.cat(results, 1)


@dataclass(frozen=True, eq=False)
class Commutant:
    """The maps from one block to another that commute with all rotations, (dimension, p, q)."""

    out_block: Block
    in_block: Block
    basis: np.ndarray

    @property
    def weights(self) -> int:
        """Number of weights: one per map and pair of copies."""
        return len(self.basis) * self.out_block.copies * self.in_block.copies


def _commutants(rep_in: Representation, rep_out: Representation, group: Group) -> list[Commutant]:
    """The maps of every pair of blocks, row by row: the harmonics of order 0."""
    reflections, pairs = full_rotations(group, rep_in.dim), []
    for out_block in rep_out.blocks:
        for in_block in rep_in.blocks:
            found = equivariant_harmonics(out_block.kind, in_block.kind, rep_in.dim, reflections)
            sizes = out_block.size // out_block.copies, in_block.size // in_block.copies
            constant = [y.coefficients[..., 0] for y in found if y.order == 0]
            basis = constant[0] if constant else np.zeros((0, *sizes))
            pairs.append(Commutant(out_block, in_block, basis))
    return pairs


def _initial(pairs: list[Commutant]) -> list[Tensor]:
    """Weights that keep the variance: the inputs of a field are those that can reach it."""
    weights = []
    for pair in pairs:
        inputs = sum(
            other.in_block.size * len(other.basis)
            for other in pairs
            if other.out_block is pair.out_block
        )
        weights.append(torch.randn(pair.weights) / math.sqrt(max(1, inputs)))
    return weights


# √(1 + e) − 1, in the form that keeps small e.
def _soft_norm(energy: Tensor) -> Tensor:
    return energy / ((1 + energy).sqrt() + 1)


def _scalars(rep: Representation) -> int:
    return sum(b.copies for b in rep.blocks if b.kind == "scalar")


def _others(rep: Representation) -> int:
    return sum(b.copies for b in rep.blocks) - _scalars(rep)


def _parameter(parts: list[Tensor]) -> nn.Parameter | None:
    joined = torch.cat([*parts, torch.zeros(0)])
    return nn.Parameter(joined) if len(joined) else None


def _register_grams(module: nn.Module, rep: Representation) -> None:
    for i, block in enumerate(rep.blocks):
        gram = torch.from_numpy(rep.kind_gram(block.kind)).to(torch.get_default_dtype())
        module.register_buffer(f"gram_{i}", gram, persistent=False)


def _energy(module: nn.Module, i: int, part: Tensor) -> Tensor:
    """Squared fibre norm of every copy in block i, (batch, copies, *grid)."""
    gram = module.get_buffer(f"gram_{i}")
    fields = part.unflatten(1, (-1, len(gram)))
    if len(gram) == 1:
        return fields.squeeze(2).square()
    return (fields * torch.tensordot(fields, gram, ([2], [0])).movedim(-1, 2)).sum(2)
