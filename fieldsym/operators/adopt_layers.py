"""The layers of torch that can be adopted: what their weights are and how they are stored.

>>> import torch
>>> conv = torch.nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular")
>>> [w.names for w in adapt_torch("conv", conv, 2).weights]
[('weight',), ('bias',)]

To add one: a function that returns its ``Layer``, entered in ``ADAPTERS``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from fieldsym.errors import GridError, GroupError

Array = np.ndarray
Nature = Literal["any", "permuted", "scalar"]  # types on which a layer is equivariant


@dataclass(frozen=True, eq=False)
class Weight:
    """One map (or diagonal, or constant) and the parameters it is stored in.

    ``place`` brings a table (out, in, sites, parts, terms) to the shapes of the parameters, real
    ones; complex parameters have a further axis of (real, imaginary) before the terms.
    """

    names: tuple[str, ...]
    role: Literal["map", "diagonal", "constant"]
    sites: Array  # (sites, dim) samples of a kernel, or modes
    place: Callable[[Array], Sequence[Array]]
    modes: bool = False
    memory: tuple[int, ...] | None = None  # order in which the layer likes the axes, real ones


@dataclass(eq=False)
class Layer:
    """A layer with weights, as adoption sees it."""

    name: str
    module: nn.Module
    weights: list[Weight]
    axis: int = 1  # of the channels
    keeps: bool = False  # whether the output has the type of the input
    adds: str | None = None  # the kind of channels that it appends to it
    nature: Nature = "any"
    free: tuple[str, ...] = ()  # parameters that every symmetry allows
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # must agree on exchanged axes
    ready: Callable[[], Callable[[], None]] | None = None  # densify; returns how to undo it
    guard: Any = None  # forward pre-hook
    needs: tuple[int, ...] = ()  # points per axis for a forward pass
    constraints: Callable | None = None  # of a registered class, see ``adopt.register``


def called(name: str) -> str:
    """The name of a part inside a sentence; that of the whole module is empty."""
    return name or "the module itself"


def title(name: str) -> str:
    """The name of a part at the start of a sentence."""
    return name or "The module itself"


def stored(parameter: Tensor) -> tuple[int, ...]:
    """Shape of the real entries of a parameter."""
    return (*parameter.shape, 2) if parameter.is_complex() else tuple(parameter.shape)


def as_stored(*parameters: Tensor) -> Callable[[Array], list[Array]]:
    """A table whose axes have the order of the parameter."""
    return lambda table: [table.reshape(*stored(p), -1) for p in parameters]


def point(dim: int) -> Array:
    """The sites of a pointwise layer."""
    return np.zeros((1, dim), dtype=int)


def bias(module: nn.Module, dim: int, name: str = "bias") -> list[Weight]:
    """The constant that a layer adds, where it does."""
    parameter = getattr(module, name, None)
    if parameter is None:
        return []
    return [Weight((name,), "constant", point(dim), as_stored(parameter))]


def gain(module: nn.Module, dim: int, name: str = "weight") -> list[Weight]:
    """The factor by which a layer multiplies each channel, where it does."""
    parameter = getattr(module, name, None)
    if parameter is None:
        return []
    return [Weight((name,), "diagonal", point(dim), as_stored(parameter))]


def _convolution(name: str, conv: Any, dim: int) -> Layer:
    size = tuple(conv.kernel_size)
    if set(conv.stride) != {1}:
        raise GroupError(
            f"{title(name)} has stride {tuple(conv.stride)}: the points it keeps single out an "
            "origin, so that shifts by one sample are lost. Use stride 1."
        )
    if conv.groups != 1:
        raise GroupError(
            f"{title(name)} is a grouped convolution (groups={conv.groups}), whose channels are "
            "split by their position, not by their type. Use groups=1."
        )
    pointwise = set(size) == {1}
    if not pointwise:
        _check_kernel(name, conv, size, dim)
    sites = point(dim)
    if not pointwise:
        offsets = itertools.product(*(range(-(n // 2), n // 2 + 1) for n in size))
        sites = np.array(list(offsets))
    reach = tuple(n * d for n, d in zip(size, conv.dilation, strict=True))
    return Layer(
        name,
        conv,
        [Weight(("weight",), "map", sites, as_stored(conv.weight)), *bias(conv, dim)],
        sizes={} if pointwise else {"kernel": size, "dilation": tuple(conv.dilation)},
        needs=() if pointwise else reach,
    )


def _check_kernel(name: str, conv: Any, size: tuple[int, ...], dim: int) -> None:
    if len(size) != dim:
        raise GroupError(
            f"{title(name)} is a {len(size)}-D convolution with a kernel of {size} samples; the "
            f"base has {dim} dimensions. Use nn.Conv{dim}d."
        )
    if any(n % 2 == 0 for n in size):
        raise GridError(
            f"{title(name)} has a kernel of {size} samples: an even one has no central sample. Use "
            "odd sizes."
        )
    padding = _padding(conv, size)
    full = tuple(d * (n // 2) for n, d in zip(size, conv.dilation, strict=True))
    if any(padding) and (conv.padding_mode != "circular" or padding != full):
        raise GroupError(
            f"{title(name)} pads by {padding} samples of '{conv.padding_mode}': only "
            f"padding_mode='circular' with {full} samples keeps translations and the grid."
        )


def _padding(conv: Any, size: tuple[int, ...]) -> tuple[int, ...]:
    if conv.padding == "same":
        return tuple(d * (n // 2) for n, d in zip(size, conv.dilation, strict=True))
    return (0,) * len(size) if conv.padding == "valid" else tuple(conv.padding)


def _linear(name: str, linear: Any, dim: int) -> Layer:
    weights = [
        Weight(("weight",), "map", point(dim), as_stored(linear.weight)),
        *bias(linear, dim),
    ]
    return Layer(name, linear, weights, axis=-1)


def _norm(name: str, norm: Any, dim: int) -> Layer:
    axis = 1
    if isinstance(norm, nn.LayerNorm):
        if len(norm.normalized_shape) != 1:
            raise GroupError(
                f"{title(name)} is a LayerNorm over {tuple(norm.normalized_shape)}, with a weight "
                "at every point of one grid: translations are lost. Normalise over channels only."
            )
        axis = -1
    shared = isinstance(norm, nn.modules.batchnorm._BatchNorm)
    shared = shared or getattr(norm, "track_running_stats", False)
    return Layer(
        name,
        norm,
        [*gain(norm, dim), *bias(norm, dim)],
        axis=axis,
        keeps=True,
        nature="scalar" if shared else "permuted",
    )


def _prelu(name: str, prelu: Any, dim: int) -> Layer:
    if prelu.num_parameters == 1:
        return Layer(name, prelu, [], keeps=True, nature="permuted", free=("weight",))
    return Layer(name, prelu, gain(prelu, dim), keeps=True, nature="permuted")


ADAPTERS: dict[type | tuple[type, ...], Callable[[str, Any, int], Layer]] = {
    (nn.Conv1d, nn.Conv2d, nn.Conv3d): _convolution,
    nn.Linear: _linear,
    (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d): _norm,
    (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d): _norm,
    nn.PReLU: _prelu,
}


def adapt_torch(name: str, module: nn.Module, dim: int) -> Layer | None:
    """The layer of a module of torch, None if it is none of these.

    Raises
    ------
    GroupError, GridError   if it cannot be equivariant: strides, padding, even kernels, groups.
    """
    for classes, adapter in ADAPTERS.items():
        if isinstance(module, classes):
            return adapter(name, module, dim)
    return None
