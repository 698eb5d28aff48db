"""Row blocks: pointwise work on blocks of a field that fit in the cache, in both directions.

Between two Fourier transforms an FNO works point by point: skip, nonlinearity, channel MLP, gate.
Done for the whole field at once, every one of these reads and writes main memory, and memory is
what such a network waits for. Done for a block of rows, all but the first read and the last write
stay in the cache. The backward pass recomputes a block before it differentiates it, so that only
the input of a layer is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Shared = tuple[Tensor | None, ...]
Body = Callable[[Tensors, Shared], Tensor]
RowMap = Callable[[Tensor], Tensor]
Linear = tuple[RowMap, RowMap]

BLOCK_BYTES = {"cpu": 2**20, "cuda": 2**28}
CHUNK_BYTES = {"cpu": 2**26, "cuda": 2**31}


def by_blocks(
    body: Body,
    rows: Tensors,
    shared: Shared,
    *,
    channels: int,
    tail: Linear | None = None,
    reuse: bool = False,
) -> Tensors:
    """``y = body(rows, shared)`` and ``tail(y)``, a block of rows at a time.

    Parameters
    ----------
    body : maps tensors with equally many rows (their first axis) to such a tensor, row by row
    rows : its inputs
    shared : what every row uses: weights and matrices
    channels : how many channels the body works with, which sets the size of a block
    tail : a linear map of rows, and its transpose
    reuse : where nothing is recorded, write the result over the first input

    Returns
    -------
    (y,) or (y, tail(y))

    Notes
    -----
    Under ``torch.compile``, ``torch.func`` transforms, forward mode and autocast the body runs on
    the whole field at once, which gives the same values.

    Examples
    --------
    >>> import torch
    >>> x, w = torch.ones(4, 3), torch.eye(3)
    >>> by_blocks(lambda rows, shared: rows[0] @ shared[0], (x,), (w,), channels=3)[0].sum()
    tensor(12.)
    """
    if _is_transformed(rows[0]) or (size := _block_rows(rows[0], channels)) >= len(rows[0]):
        return _with_tail(body(rows, shared), tail)
    tensors = [t for t in (*rows, *shared) if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        fixed = (body, tail, size, len(rows))
        return _Blocked.apply(*fixed, *rows, *shared)  # type: ignore[no-untyped-call]
    return _run(body, tail, size, rows, shared, reuse=reuse)


def linear_by_blocks(there: RowMap, back: RowMap, x: Tensor, *, points: int) -> Tensor:
    """A linear map of rows whose transpose is ``back``, a block of rows at a time.

    ``points`` is the size of a row on its larger side.

    Examples
    --------
    >>> import torch
    >>> w = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> linear_by_blocks(lambda x: x @ w, lambda y: y @ w.mT, x, points=2).sum().backward()
    >>> x.grad
    tensor([[3., 1.]])
    """
    if _is_transformed(x):
        return there(x)
    size = max(1, BLOCK_BYTES.get(x.device.type, 2**28) // (points * x.element_size()))
    if size >= len(x):
        return there(x)
    return _LinearBlocked.apply(there, back, size, x)  # type: ignore[no-untyped-call]


def chunk_samples(x: Tensor, channels: int) -> int:
    """Samples to work on at a time: few where nothing is recorded, so that memory stays small."""
    if torch.is_grad_enabled() or _is_transformed(x):
        return x.shape[0]  # len(x) would fix the batch size of an exported program
    bytes_per_sample = max(1, x[0].numel() * channels * x.element_size()) if len(x) else 1
    return max(1, CHUNK_BYTES.get(x.device.type, 2**31) // bytes_per_sample)


def _is_transformed(x: Tensor) -> bool:
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.is_autocast_enabled(x.device.type)
    )


def _block_rows(x: Tensor, channels: int) -> int:
    """Rows (..., channel) of one block."""
    bytes_per_row = max(1, x[:1, ..., 0].numel() * channels * x.element_size())
    return max(1, BLOCK_BYTES.get(x.device.type, 2**28) // bytes_per_row)


def _with_tail(y: Tensor, tail: Linear | None) -> Tensors:
    return (y,) if tail is None else (y, tail[0](y))


def _run(
    body: Body,
    tail: Linear | None,
    size: int,
    rows: Tensors,
    shared: Shared,
    *,
    reuse: bool = False,
) -> Tensors:
    outs: list[Tensor] = []
    for start in range(0, len(rows[0]), size):
        block = _with_tail(body(tuple(r[start : start + size] for r in rows), shared), tail)
        if not outs:
            outs = [b.new_empty(len(rows[0]), *b.shape[1:]) for b in block[reuse:]]
            outs = [rows[0], *outs] if reuse else outs
        for out, part in zip(outs, block, strict=True):
            out[start : start + size] = part
    return tuple(outs)


class _LinearBlocked(torch.autograd.Function):
    """A linear map of rows; differentiating it is the transposed map."""

    @staticmethod
    def forward(ctx: Any, there: RowMap, back: RowMap, size: int, x: Tensor) -> Tensor:
        ctx.maps = back, there, size
        return _run(lambda rows, shared: there(rows[0]), None, size, (x,), ())[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None, Tensor]:
        found: Tensor = _LinearBlocked.apply(*ctx.maps, gradient)  # type: ignore[no-untyped-call]
        return None, None, None, found


class _Blocked(torch.autograd.Function):
    """Forward in blocks that keeps its inputs alone; backward recomputes block by block."""

    @staticmethod
    def forward(
        ctx: Any, body: Body, tail: Linear | None, size: int, n_rows: int, *tensors: Tensor | None
    ) -> Tensors:
        ctx.fixed = body, tail, size, n_rows
        ctx.save_for_backward(*tensors)
        return _run(body, tail, size, tensors[:n_rows], tensors[n_rows:])  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        body, tail, size, n_rows = ctx.fixed
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():  # a gradient that is differentiated again
            outs = _with_tail(body(tensors[:n_rows], tensors[n_rows:]), tail)
            inputs = [t for t, w in zip(tensors, wanted, strict=True) if w]
            found = iter(torch.autograd.grad(outs, inputs, gradients, create_graph=True))
        else:
            found = iter(_accumulate(body, tail, size, n_rows, tensors, wanted, gradients))
        return (None,) * 4 + tuple(next(found) if w else None for w in wanted)


def _accumulate(
    body: Body,
    tail: Linear | None,
    size: int,
    n_rows: int,
    tensors: Sequence[Tensor | None],
    wanted: Sequence[bool],
    gradients: Sequence[Tensor],
) -> list[Tensor]:
    """Gradients of the wanted tensors: row by row, and summed over blocks where they are shared."""
    totals = [
        (torch.empty_like if i < n_rows else torch.zeros_like)(t)
        for i, (t, w) in enumerate(zip(tensors, wanted, strict=True))
        if w and t is not None
    ]
    n_own = sum(wanted[:n_rows])
    for start in range(0, len(gradients[0]), size):
        part = slice(start, start + size)
        leaves = [
            t if t is None else (t[part] if i < n_rows else t).detach().requires_grad_(w)
            for i, (t, w) in enumerate(zip(tensors, wanted, strict=True))
        ]
        with torch.enable_grad():
            y = body(tuple(leaves[:n_rows]), tuple(leaves[n_rows:]))  # type: ignore[arg-type]
        gradient = gradients[0][part]
        if tail is not None:
            gradient = gradient + tail[1](gradients[1][part])
        inputs = [leaf for leaf, w in zip(leaves, wanted, strict=True) if w and leaf is not None]
        found = torch.autograd.grad(y, inputs, gradient)
        for i, (total, one) in enumerate(zip(totals, found, strict=True)):
            if i < n_own:
                total[part] = one
            else:
                total += one
    return totals
