"""Row blocks: work on pieces of a field that fit in the cache.

Between two Fourier transforms an FNO works point by point: skip, nonlinearity, channel MLP, gate.
Done for the whole field at once, every one of these reads and writes main memory, and memory is
what such a network waits for. So a field is kept as a list of blocks of rows, each of which goes
through all of it while it is in the cache.

Under ``torch.compile``, ``torch.func`` transforms, forward mode and autocast there is one block.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

RowMap = Callable[[Tensor, Tensor | None], Tensor]

BLOCK_BYTES = {"cpu": 2**20}  # for every thread: what its cache holds beside weights
LINEAR_BLOCKS = 2  # times as much where a map reads and writes once
HUGE_BYTES = 2**22  # results from this size on ask for huge pages
MADV_HUGEPAGE = 14  # of Linux
CHUNK_BYTES = {"cpu": (2**22, 2**26)}  # at least and at most; elsewhere 2**31


def block_rows(x: Tensor, channels: int = 1) -> int | None:
    """How many rows (rows, ...) make a block, for work with so many channels; None for all.

    Examples
    --------
    >>> import torch
    >>> 2**18 * block_rows(torch.zeros(5, 2**15), 2) == 2**20 * torch.get_num_threads()
    True
    """
    if x.device.type not in BLOCK_BYTES or is_transformed(x):
        return None
    bytes_per_row = max(1, x[:1].numel() * channels * x.element_size())
    return max(1, BLOCK_BYTES[x.device.type] * torch.get_num_threads() // bytes_per_row)


def split(x: Tensor, size: int | None) -> list[Tensor]:
    """Pieces of a first axis; one piece without a size, which leaves no trace in a program."""
    return [x] if size is None else list(x.split(size))


def join(pieces: list[Tensor]) -> Tensor:
    """Inverse of :func:`split`."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def chunk_samples(x: Tensor, channels: int) -> int | None:
    """Samples to work on at a time: all where something is recorded, else few to save memory.

    On a CPU half of them, unless that is little or much.

    Examples
    --------
    >>> import torch
    >>> with torch.no_grad():                               # fields of 1 MiB with 64 channels
    ...     [chunk_samples(torch.zeros(n, 64, 64), 64) for n in (1, 8, 200)]
    [4, 4, 64]
    """
    if not is_unrecorded(x):
        return None
    bytes_per_sample = max(1, x[:1].numel() * channels * x.element_size())
    least, most = CHUNK_BYTES.get(x.device.type, (2**31, 2**31))
    half = -(-len(x) // 2)
    return max(1, min(max(half, least // bytes_per_sample), most // bytes_per_sample))


def is_transformed(x: Tensor) -> bool:
    """Whether a tensor is traced, mapped or differentiated in forward mode."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch.is_autocast_enabled(x.device.type)
    )


def is_unrecorded(x: Tensor) -> bool:
    """Whether results may take the place of what they are made from."""
    return not (torch.is_grad_enabled() or is_transformed(x))


def linear_by_blocks(there: RowMap, back: RowMap, x: Tensor, *, points: int) -> Tensor:
    """A linear map of rows whose transpose is ``back``, a block of rows at a time.

    Both take the rows, and a tensor to write the result to or None; ``points`` is the size of a row
    on its larger side.

    Examples
    --------
    >>> import torch
    >>> w = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    >>> x = torch.ones(1, 2, requires_grad=True)
    >>> def there(x, out): return torch.matmul(x, w, out=out)
    >>> def back(y, out): return torch.matmul(y, w.mT, out=out)
    >>> linear_by_blocks(there, back, x, points=2).sum().backward()
    >>> x.grad
    tensor([[3., 1.]])
    """
    size = block_rows(x.flatten(1)[:, 0], points)
    if size is None or (size := LINEAR_BLOCKS * size) >= x.shape[0]:
        return there(x, None)
    return _LinearByBlocks.apply(there, back, size, x)  # type: ignore[no-untyped-call]


def fresh(x: Tensor) -> Tensor:
    """A new tensor, still unwritten, in huge pages where the system has them.

    The system clears a large tensor page by page when it is first written, which takes longer than
    a transform of it; with huge pages there are 512 times fewer. Elsewhere nothing happens.
    """
    size = x.numel() * x.element_size()
    advise = _madvise()
    if advise is not None and x.device.type == "cpu" and size >= HUGE_BYTES:
        page = mmap.PAGESIZE
        start = -(-x.data_ptr() // page) * page
        advise(start, (x.data_ptr() + size - start) // page * page, MADV_HUGEPAGE)
    return x


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """The system call, where there is one."""
    if sys.platform != "linux":
        return None
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise  # type: ignore[no-any-return]


class _LinearByBlocks(torch.autograd.Function):
    """A linear map of rows; differentiating it is the transposed map."""

    @staticmethod
    def forward(ctx: Any, there: RowMap, back: RowMap, size: int, x: Tensor) -> Tensor:
        ctx.maps = back, there, size
        x = x.contiguous()  # a product of strided matrices copies them one by one
        first = there(x[:size], None)
        out = fresh(first.new_empty(len(x), *first.shape[1:]))
        out[:size] = first
        for start in range(size, len(x), size):
            there(x[start : start + size], out[start : start + size])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None, Tensor]:
        found: Tensor = _LinearByBlocks.apply(*ctx.maps, gradient)  # type: ignore[no-untyped-call]
        return None, None, None, found
