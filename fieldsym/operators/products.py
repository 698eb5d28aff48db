"""Pointwise products of a vector field with fields of every type, as in u·∇u.

A steerable symbol of angular order 1 is linear in k and equivariant. With a vector field v(x) in
the place of the wavevector the same harmonics (:mod:`fieldsym.operators.harmonics`) are all
bilinear products of v with another field: v s, v·w, w × v, the traceless part of v ⊗ w, T v, …

>>> import fieldsym as fs
>>> hidden = fs.Representation("4 scalar + 2 vector", 2)
>>> product = VectorProduct(hidden, fs.groups.o(2))            # v·w and v s, two of each
>>> product.rep_in, product.rep_out
(2 vector + 2 scalar + 2 vector, 2 scalar + 2 vector)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fieldsym.group import Group
from fieldsym.operators.harmonics import equivariant_harmonics, full_rotations
from fieldsym.operators.tables import Tabulated
from fieldsym.representation import Representation

# what comes out, what vectors are multiplied with, and the bilinear maps (products, p, q, d)
Product = tuple[str, str, np.ndarray]


class VectorProduct(Tabulated):
    """Products of vectors with fields of every type in a representation, copy by copy.

    Vectors enter as v / √(1 + |v|²), so that products grow no faster than the fields.

    Parameters
    ----------
    rep : Representation of hidden features with scalars and vectors; ``rep_in`` has as many vectors
        and as many copies of every factor, ``rep_out`` as many of every product
    group : so(d), o(d), se(d) or e(d)
    products : those of :func:`vector_products` that are wanted, by default all

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> product = VectorProduct(fs.Representation("scalar + vector", 3), fs.groups.so(3))
    >>> product.rep_out                                            # v·w, v s and w × v
    scalar + 2 vector
    >>> x, y = torch.eye(3)[:2]
    >>> u = torch.cat([9 * x, torch.zeros(1), y]).view(1, 7, 1, 1, 1)   # v = 9 x, s = 0, w = y
    >>> product(u).flatten()[-3:] / product(u).norm()                   # along w × v
    tensor([ 0.,  0., -1.])
    """

    def __init__(
        self, rep: Representation, group: Group, products: list[Product] | None = None
    ) -> None:
        super().__init__()
        self.copies = sum(b.copies for b in rep.blocks if b.kind == "vector")
        self._found = vector_products(rep, rep, group) if products is None else products
        count: dict[str, int] = {}
        for out, _, maps in self._found:
            count[out] = count.get(out, 0) + len(maps)
        self.kinds = tuple(count)
        sources = {source for _, source, _ in self._found}
        self._factors = tuple(dict.fromkeys(b.kind for b in rep.blocks if b.kind in sources))
        factors = [f"{self.copies} {kind}" for kind in ("vector", *self._factors)]
        self.rep_in = Representation(" + ".join(factors), rep.dim)
        results = [f"{self.copies * n} {kind}" for kind, n in count.items()]
        self.rep_out = Representation(" + ".join(results), rep.dim)
        self.tabulate()

    def tabulate(self) -> None:
        """Tabulate the bilinear maps, (products, p, q, d), of every pair of types."""
        for i, (_, _, coefficients) in enumerate(self._found):
            self.store(f"product_{i}", coefficients)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (batch, channel of ``rep_in``, *grid)."""
        parts = [
            part.reshape(len(x), self.copies, -1, x[0, 0].numel())
            for part in x.split([b.size for b in self.rep_in.blocks], 1)
        ]
        v, fields = parts[0], dict(zip(self._factors, parts[1:], strict=True))
        v = v * (1 + v.square().sum(2, keepdim=True)).rsqrt()
        results: dict[str, list[Tensor]] = {kind: [] for kind in self.kinds}
        for i, (out, source, _) in enumerate(self._found):
            pairs = (fields[source].unsqueeze(3) * v.unsqueeze(2)).flatten(2, 3).flatten(0, 1)
            maps = self.get_buffer(f"product_{i}").flatten(2).flatten(0, 1)
            y = torch.bmm(maps.expand(len(pairs), -1, -1), pairs)
            results[out].append(y.view(len(x), -1, y.shape[-1]))
        joined = torch.cat([y for kind in self.kinds for y in results[kind]], 1)
        return joined.view(len(x), -1, *x.shape[2:])


def vector_products(rep: Representation, targets: Representation, group: Group) -> list[Product]:
    """Products, of the types of ``targets``, of the vectors of ``rep`` with its fields.

    Examples
    --------
    >>> import fieldsym as fs
    >>> pair = fs.Representation("scalar + 2 vector", 3), fs.Representation("vector", 3)
    >>> [(out, source) for out, source, _ in vector_products(*pair, fs.groups.so(3))]
    [('vector', 'scalar'), ('vector', 'vector')]
    """
    sources, outs = (dict.fromkeys(b.kind for b in r.blocks) for r in (rep, targets))
    if "vector" not in sources:
        return []
    full = full_rotations(group, rep.dim)
    return [
        (out, source, y.coefficients)
        for out in outs
        for source in sources
        for y in equivariant_harmonics(out, source, rep.dim, full)
        if y.order == 1
    ]
