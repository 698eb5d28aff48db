"""A weight whose entries are tied, for ``torch.nn.utils.parametrize``.

>>> import numpy as np, torch
>>> from torch.nn.utils import parametrize
>>> layer = torch.nn.Linear(2, 2, bias=False)
>>> tied = TiedWeight(np.array([[1, 2], [2, 1]])[..., None], None, free=2)
>>> layer = parametrize.register_parametrization(layer, "weight", tied, unsafe=True)
>>> layer.parametrizations.weight.original0.shape, bool((layer.weight == layer.weight.T).all())
(torch.Size([2]), True)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

ENOUGH = 100  # steps of conjugate gradients; the normal matrix has a few distinct eigenvalues


def in_memory(table: np.ndarray, memory: tuple[int, ...] | None) -> np.ndarray:
    """A table (*shape, terms) with its axes in the order of the memory, None for their own."""
    if memory is None:
        return np.ascontiguousarray(table)
    return np.ascontiguousarray(table.transpose(*memory, table.ndim - 1))


class TiedWeight(nn.Module):
    """Weight whose entries are ± free numbers (or short sums of them), as one gather.

    Initial weights are projected: each free number is the mean of its entries, with their signs.
    Without a free number of its own, ``forward`` takes none and the weight is no parameter.

    Parameters
    ----------
    code : (*shape, terms) integers, ±(f + 1) for the f-th free number and 0 for zero; the shape is
        that of the real weight, complex ones have a last axis of (real, imaginary)
    values : coefficients of the terms, None where all are one
    free : number of free numbers, those of the partners included
    is_complex : whether the weight is complex
    memory : order of the axes of the real weight in memory; the axis of (real, imaginary) is last
    partners : parametrizations that hold the first of the free numbers: one map may be stored in
        several parameters
    like : the parameter that it replaces; tells the precision and whether :func:`release` makes it
        trainable, where there is no free number of its own
    """

    index: Tensor
    nothing: Tensor
    values: Tensor | None

    def __init__(
        self,
        code: np.ndarray,
        values: np.ndarray | None,
        free: int,
        *,
        is_complex: bool = False,
        memory: tuple[int, ...] | None = None,
        partners: tuple[ParametrizationList, ...] = (),
        like: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shape = tuple(code.shape[:-1])
        self.free, self.is_complex = free, is_complex
        self.memory = tuple(range(len(self.shape))) if memory is None else memory
        self.back = tuple(self.memory.index(axis) for axis in range(len(self.shape)))
        # in a tuple: their parameters are not registered twice
        self.partners = tuple(p for p in partners if p.ntensors)
        self.own = free - sum(z.numel() for z in self._before())
        self.trained = like is None or like.requires_grad
        kind = torch.get_default_dtype() if like is None else like.dtype.to_real()
        self.register_buffer("nothing", torch.zeros(0, dtype=kind), persistent=False)
        # position in (0, z, −z)
        index = in_memory(np.where(code < 0, free - code, code).astype(np.int32), memory)
        self.register_buffer("index", torch.from_numpy(index).flatten(), persistent=False)
        terms = (
            None if values is None else torch.from_numpy(in_memory(values, memory)).flatten(0, -2)
        )
        self.register_buffer("values", terms, persistent=False)

    def extra_repr(self) -> str:
        """How many free numbers make which shape."""
        return f"{self.free} → {self.shape}"

    def forward(self, *z: Tensor) -> Tensor:
        """The weight of the free numbers (own,); of none where there are none."""
        parts = [*self._before(), *z]
        if len(parts) != 1:
            parts = [torch.cat(parts) if parts else self.nothing]
        weight = self.expand(parts[0]).view([self.shape[axis] for axis in self.memory])
        weight = weight.permute(self.back)
        return torch.view_as_complex(weight) if self.is_complex else weight

    def _before(self) -> list[Tensor]:
        """The free numbers that partners hold."""
        return [p.get_parameter("original0") for p in self.partners]

    def expand(self, z: Tensor) -> Tensor:
        """The real entries of all free numbers, in one axis and the order of the memory."""
        entries = torch.cat([z.new_zeros(1), z, -z]).index_select(0, self.index)
        if self.values is None:
            return entries
        return (entries.view(self.values.shape) * self.values.to(z.dtype)).sum(1)

    def _gather(self, entries: Tensor) -> Tensor:
        """Transpose of ``expand``."""
        if self.values is not None:
            entries = (entries[:, None] * self.values.to(entries.dtype)).flatten()
        sums = entries.new_zeros(2 * self.free + 1).index_add(0, self.index, entries)
        return sums[1 : self.free + 1] - sums[self.free + 1 :]

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The own free numbers of the nearest allowed weight; empty where there are none."""
        if not self.own:
            return ()
        real = torch.view_as_real(weight) if self.is_complex else weight
        stored = real.detach().double().permute(*self.memory)
        nearest = self.nearest(stored.reshape(-1))
        return (nearest[self.free - self.own :].to(real.dtype),)

    def nearest(self, entries: Tensor, measure: Tensor | None = None) -> Tensor:
        """Free numbers of least squares, float64, for entries in the order of the memory.

        ``measure`` says how often each entry counts.
        """
        measure = torch.ones_like(entries) if measure is None else measure
        sums = self._gather(measure * entries)
        if self.values is None:
            counts = sums.new_zeros(2 * self.free + 1).index_add(0, self.index, measure)[1:]
            return sums / counts.view(2, self.free).sum(0).clamp_min(1)
        z, rest = torch.zeros_like(sums), sums
        way = rest
        for _ in range(ENOUGH):
            size = rest.square().sum()
            if size <= 1e-30 * sums.square().sum():
                break
            image = self._gather(measure * self.expand(way))
            step = size / (way * image).sum()
            z, rest = z + step * way, rest - step * image
            way = rest + rest.square().sum() / size * way
        return z
