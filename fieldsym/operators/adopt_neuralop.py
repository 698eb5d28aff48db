"""The layers of neuraloperator 2.0.0: FNO and TFNO with dense reconstruction.

Rows of its spectral weights are k = −K..K on all axes but the last, columns k = 0..K; only odd
numbers of rows are closed under −1. The layers are known by the names of their classes, so nothing
is imported before one is met.

Three faults of the released version are met here. Odd grids: it shifts the spectrum by ``fftshift``
where ``ifftshift`` is needed (neuraloperator #688); that is detected by behaviour. Grids below
n_modes: an even number of modes is kept. Its buffer is complex64, so there is no float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.errors import GridError, GroupError
from fieldsym.operators.adopt_layers import Layer, Weight, bias, gain, title

PROBE = 33  # points of an odd grid


def is_neuralop(module: nn.Module, *names: str) -> bool:
    """Whether a module is of one of these classes of neuraloperator, or a subclass."""
    return any(
        c.__name__ in names and c.__module__.partition(".")[0] == "neuralop"
        for c in type(module).__mro__
    )


class SpectralGuard:
    """Refuses grids on which a spectral convolution keeps no symmetric set of modes.

    Parameters
    ----------
    name : of the layer
    odd_fault : whether odd grids are shifted wrongly
    """

    def __init__(self, name: str, odd_fault: bool) -> None:
        self.name, self.odd_fault = name, odd_fault

    def __call__(self, conv: Any, args: tuple[Tensor, ...]) -> None:
        grid, modes = tuple(args[0].shape[2:]), list(conv.n_modes)
        modes[-1] = 2 * modes[-1] - 1
        if self.odd_fault and any(n % 2 for n in grid[:-1]):
            raise GridError(
                f"{title(self.name)} met a grid of {grid} points: the installed neuraloperator "
                "shifts the spectrum of odd axes wrongly (all but the last axis), which breaks "
                "every symmetry. Use even numbers of points there, or a version with the fix #688."
            )
        if any(n < m for n, m in zip(grid, modes, strict=True)):
            raise GridError(
                f"{title(self.name)} keeps {tuple(modes)} modes and met a grid of {grid} points: "
                "there it would keep −n/2 without +n/2. Use a finer grid or fewer modes."
            )
        _check_rows(self.name, "n_modes", tuple(modes[:-1]))


def refuse_neuralop(name: str, module: nn.Module) -> None:
    """Raise for parts of neuraloperator that break a symmetry.

    Raises
    ------
    GroupError   naming the part and the reason.
    """
    where = name or type(module).__name__
    if is_neuralop(module, "SinusoidalEmbedding"):
        raise GroupError(
            f"{where} is a SinusoidalEmbedding: waves of the channels are no fields of a known "
            "type. Build the module with positional_embedding=None or 'grid'."
        )
    if is_neuralop(module, "DomainPadding"):
        raise GroupError(
            f"{where} is a DomainPadding: zeros around the domain break translations, and a "
            "periodic field needs none. Build the module with domain_padding=None."
        )
    if is_neuralop(module, "UNO") or _scales(module):
        raise GroupError(
            f"{where} changes the resolution inside (resolution_scaling_factor): its skip "
            "connections resample bicubically, which is not even equivariant to shifts. Use a "
            "model of one resolution."
        )
    if getattr(module, "complex_data", False) and is_neuralop(module, "FNO", "SpectralConv"):
        raise GroupError(
            f"{where} has complex_data=True, which the released version transforms back wrongly; "
            "sections are real. Use complex_data=False."
        )
    if is_neuralop(module, "AdaIN"):
        raise GroupError(
            f"{where} is an AdaIN: its scales come from an embedding, channel by channel. Use "
            "norm='instance_norm' or 'group_norm'."
        )


def _scales(module: nn.Module) -> bool:
    factor = getattr(module, "resolution_scaling_factor", None)
    return is_neuralop(module, "FNO", "SpectralConv") and factor is not None


def adapt_neuralop(name: str, module: nn.Module, dim: int) -> Layer | None:
    """The layer of a module of neuraloperator, None if it is none of these."""
    if is_neuralop(module, "SoftGating"):
        return Layer(name, module, [*gain(module, dim), *bias(module, dim)], keeps=True)
    if is_neuralop(module, "SpectralConv"):
        return _spectral(name, module, dim)
    return None


def _spectral(name: str, conv: Any, dim: int) -> Layer:
    weight = conv.weight
    sizes = tuple(weight.shape[-conv.order :])
    if conv.order != dim:
        raise GroupError(f"{title(name)} transforms {conv.order} axes; the base has {dim}.")
    kept = (*conv.n_modes[:-1], 2 * conv.n_modes[-1] - 1)
    _check_rows(name, "n_modes", kept[:-1])
    _check_rows(name, "max_n_modes", sizes[:-1])
    ranges = [range(-(n // 2), n // 2 + 1) for n in sizes[:-1]] + [range(sizes[-1])]
    modes = np.array(list(itertools.product(*ranges)))
    complex_shape = (*weight.shape, 2)

    def place(table: np.ndarray) -> list[np.ndarray]:
        swapped = table if conv.separable else table.swapaxes(0, 1)
        return [swapped.reshape(*complex_shape, -1)]

    # Its contraction is a batch of matrix products over the modes: with the modes first in memory
    # it copies neither the weight nor its gradient, which pays for the gather.
    memory = None if conv.separable else (*range(2, dim + 2), 0, 1, dim + 2)
    role: Literal["map", "diagonal"] = "diagonal" if conv.separable else "map"
    return Layer(
        name,
        conv,
        [
            Weight(("weight",), role, modes, place, modes=True, memory=memory),
            *bias(conv, dim),
        ],
        sizes={"n_modes": kept},
        ready=lambda: densify(conv),
        guard=SpectralGuard(name, has_odd_fault(conv)),
        needs=kept,
    )


def _check_rows(name: str, what: str, rows: tuple[int, ...]) -> None:
    for n in rows:
        if n % 2 == 0:
            raise GridError(
                f"{title(name)} has {what}={n} along an axis: an even number keeps the mode "
                f"−{n // 2} without +{n // 2} and breaks every reflection and quarter turn. Use "
                f"{n - 1} or {n + 1}."
            )


def densify(conv: Any) -> Callable[[], None]:
    """Put a plain complex parameter in the place of a factorised tensor; returns the way back.

    The dense weight is trained: a projected Tucker tensor would have to be reconstructed and
    averaged at every step.
    """
    from neuralop.layers.spectral_convolution import get_contract_fun

    factorised, contract = conv.weight, conv._contract
    dense = factorised.to_tensor().detach().clone()
    trained = next(factorised.parameters()).requires_grad
    del conv.weight
    conv.weight = nn.Parameter(dense, requires_grad=trained)
    conv._contract = get_contract_fun(conv.weight, "reconstructed", conv.separable)

    def undo() -> None:
        del conv.weight
        conv.weight, conv._contract = factorised, contract

    return undo


def wrap_again(conv: Any) -> None:
    """Put a plain weight back into the dense tensor class, under its upstream name."""
    from tltorch.factorized_tensors.core import FactorizedTensor

    plain = conv.weight
    del conv.weight
    shape = plain.shape
    conv.weight = FactorizedTensor.new(shape, rank=None, factorization="Dense", dtype=plain.dtype)
    conv.weight.tensor = plain


def has_odd_fault(conv: Any) -> bool:
    """Whether unit weights fail to be the identity on band-limited fields of an odd grid.

    Examples
    --------
    >>> from neuralop.layers.spectral_convolution import SpectralConv
    >>> has_odd_fault(SpectralConv(1, 1, (5,)))                    # one axis is never shifted
    False
    """
    modes = (5,) * conv.order
    with torch.random.fork_rng(devices=[]):
        probe = _spectral_class(conv)(1, 1, modes, bias=False)
    del probe.weight
    shape = (1, 1, *modes[:-1], modes[-1] // 2 + 1)
    probe.weight = nn.Parameter(torch.ones(shape, dtype=torch.complex64))
    angle = 2 * torch.pi * torch.arange(PROBE) / PROBE
    u = torch.zeros(1, 1, *(PROBE,) * conv.order)
    for axis in range(conv.order):
        line = torch.cos(2 * angle) + torch.sin(angle)
        u = u + line.view(-1, *[1] * (conv.order - 1 - axis))
    with torch.no_grad():
        return bool((probe(u) - u).abs().max() > 1e-3)


def _spectral_class(conv: Any) -> Any:
    return next(c for c in type(conv).__mro__ if c.__name__ == "SpectralConv")
