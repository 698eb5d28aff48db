"""Spectral weights in blocks, as PhysicsNeMo, PDEArena and the first FNO store them.

``weights1`` holds the rows k = 0..m−1 of an axis and ``weights2`` the rows −m..−1 (in space also
``weights3`` and ``weights4`` for the second axis), columns k = 0..m−1 of the last one, complex or
with a last axis of (real, imaginary). Row −m has no partner +m: wherever the symmetry needs one it
is set to zero. One map lies in several parameters, so later blocks read the numbers of earlier ones.
"""  # noqa: E501

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from fieldsym.errors import GridError
from fieldsym.operators.adopt_layers import Layer, Weight, bias, stored, title

Array = np.ndarray


class BlockGuard:
    """Refuses grids on which the blocks overlap.

    Parameters
    ----------
    name : of the layer
    modes : stored frequencies per axis
    """

    def __init__(self, name: str, modes: tuple[int, ...]) -> None:
        self.name, self.modes = name, modes

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        grid = tuple(args[0].shape[2:])
        if any(n < 2 * m for n, m in zip(grid, self.modes, strict=True)):
            raise GridError(
                f"{title(self.name)} stores {self.modes} frequencies of each sign and met a grid "
                f"of {grid} points, where the blocks overlap. Use at least "
                f"{tuple(2 * m for m in self.modes)} points."
            )


def adapt_blocks(name: str, module: nn.Module, dim: int) -> Layer | None:
    """The layer of a module with ``weights1``, …, ``weights{2^(dim−1)}``; None if it has none.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Module()
    >>> layer.weights1 = torch.nn.Parameter(torch.randn(3, 4, 5, 6, dtype=torch.complex64))
    >>> layer.weights2 = torch.nn.Parameter(torch.randn(3, 4, 5, 6, dtype=torch.complex64))
    >>> rows = adapt_blocks("conv", layer, 2).weights[0].sites[:, 0]
    >>> sorted(set(rows.tolist()))
    [-5, -4, -3, -2, -1, 0, 1, 2, 3, 4]
    """
    names = tuple(f"weights{i + 1}" for i in range(2 ** (dim - 1)))
    found: list[Any] = [getattr(module, n, None) for n in names]
    if not all(isinstance(p, nn.Parameter) and _fits(p, dim) for p in found):
        return None
    sizes = tuple(found[0].shape[2 : 2 + dim])
    weight = Weight(names, "map", _modes(sizes), _Blocks(found), modes=True)
    return Layer(
        name,
        module,
        [weight, *bias(module, dim)],
        sizes={"modes": sizes},
        guard=BlockGuard(name, sizes),
        needs=tuple(2 * m for m in sizes),
    )


def _fits(parameter: Tensor, dim: int) -> bool:
    shape = stored(parameter)
    return len(shape) == dim + 3 and shape[-1] == 2


def _modes(sizes: Sequence[int]) -> Array:
    """Modes of all blocks; the first axis changes its sign first."""
    blocks = []
    for signs in itertools.product((1, -1), repeat=len(sizes) - 1):
        rows = [
            range(m) if sign > 0 else range(-m, 0)
            for m, sign in zip(sizes[:-1], reversed(signs), strict=True)
        ]
        blocks += list(itertools.product(*rows, range(sizes[-1])))
    return np.array(blocks)


class _Blocks:
    """Cuts a table into the shapes of the parameters."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.shapes = [stored(p) for p in parameters]

    def __call__(self, table: Array) -> list[Array]:
        parts = np.split(table.swapaxes(0, 1), len(self.shapes), axis=2)
        return [part.reshape(*shape, -1) for part, shape in zip(parts, self.shapes, strict=True)]
