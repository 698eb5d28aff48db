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
Body = Callable[[Tensors, Shared], Tensors]

BLOCK_BYTES = {"cpu": 2**20, "cuda": 2**28}
CHUNK_BYTES = {"cpu": 2**23, "cuda": 2**30}


def by_blocks(
    body: Body, rows: Tensors, shared: Shared, *, channels: int, reuse: bool = False
) -> Tensors:
    """``body(rows, shared)``, a block of rows at a time.

    Parameters
    ----------
    body : maps tensors with equally many rows (their first axis) to such tensors, row by row
    rows : its inputs
    shared : what every row uses: weights and matrices
    channels : how many channels the body works with, which sets the size of a block
    reuse : where nothing is recorded, write the first output over the first input

    Notes
    -----
    Under ``torch.compile``, ``torch.func`` transforms, forward mode and autocast the body runs on
    the whole field at once, which gives the same values.

    Examples
    --------
    >>> import torch
    >>> x, w = torch.ones(4, 3), torch.eye(3)
    >>> by_blocks(lambda rows, shared: (rows[0] @ shared[0],), (x,), (w,), channels=3)[0].sum()
    tensor(12.)
    """
    if _is_transformed(rows[0]) or (size := _block_rows(rows[0], channels)) >= len(rows[0]):
        return body(rows, shared)
    tensors = [t for t in (*rows, *shared) if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _Blocked.apply(body, size, len(rows), *rows, *shared)  # type: ignore[no-untyped-call]
    return _run(body, size, rows, shared, reuse=reuse)


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


def _run(body: Body, size: int, rows: Tensors, shared: Shared, *, reuse: bool = False) -> Tensors:
    outs: list[Tensor] = []
    for start in range(0, len(rows[0]), size):
        block = body(tuple(r[start : start + size] for r in rows), shared)
        if not outs:
            outs = [b.new_empty(len(rows[0]), *b.shape[1:]) for b in block[reuse:]]
            outs = [rows[0], *outs] if reuse else outs
        for out, part in zip(outs, block, strict=True):
            out[start : start + size] = part
    return tuple(outs)


class _Blocked(torch.autograd.Function):
    """Forward in blocks that keeps its inputs alone; backward recomputes block by block."""

    @staticmethod
    def forward(ctx: Any, body: Body, size: int, n_rows: int, *tensors: Tensor | None) -> Tensors:
        ctx.body, ctx.size, ctx.n_rows = body, size, n_rows
        ctx.save_for_backward(*tensors)
        return _run(body, size, tensors[:n_rows], tensors[n_rows:])  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[3:]
        if torch.is_grad_enabled():  # a gradient that is differentiated again
            outs = ctx.body(tensors[: ctx.n_rows], tensors[ctx.n_rows :])
            inputs = [t for t, w in zip(tensors, wanted, strict=True) if w]
            found = iter(
                torch.autograd.grad(outs, inputs, gradients, create_graph=True, allow_unused=True)
            )
        else:
            found = iter(_accumulate(ctx.body, ctx.size, ctx.n_rows, tensors, wanted, gradients))
        return (None, None, None, *(next(found) if w else None for w in wanted))


def _accumulate(
    body: Body,
    size: int,
    n_rows: int,
    tensors: Sequence[Tensor | None],
    wanted: Sequence[bool],
    gradients: Sequence[Tensor],
) -> list[Tensor]:
    """Gradients of the wanted tensors: row by row, and summed over blocks where they are shared."""
    rows = [t for t in tensors[:n_rows] if t is not None]
    totals = [
        (torch.empty_like if i < n_rows else torch.zeros_like)(t)
        for i, (t, w) in enumerate(zip(tensors, wanted, strict=True))
        if w and t is not None
    ]
    for start in range(0, len(rows[0]), size):
        part = slice(start, start + size)
        leaves = [
            t if t is None else (t[part] if i < n_rows else t).detach().requires_grad_(w)
            for i, (t, w) in enumerate(zip(tensors, wanted, strict=True))
        ]
        with torch.enable_grad():
            outs = body(tuple(leaves[:n_rows]), tuple(leaves[n_rows:]))  # type: ignore[arg-type]
        inputs = [leaf for leaf, w in zip(leaves, wanted, strict=True) if w and leaf is not None]
        found = torch.autograd.grad(outs, inputs, [g[part] for g in gradients])
        n_own = sum(wanted[:n_rows])
        for i, (total, gradient) in enumerate(zip(totals, found, strict=True)):
            if i < n_own:
                total[part] = gradient
            else:
                total += gradient
    return totals
