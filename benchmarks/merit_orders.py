"""Angular orders of spectral weights: how much of R(k) turns n times with the direction of k."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import side_by_side as side
import torch
from torch import Tensor, nn

import fieldsym as fs
from fieldsym.operators.spectral import SpectralConv

ORDERS = 4
LABELS = (*map(str, range(ORDERS + 1)), "higher")
Found = dict[str, Any]


def angular_energy(table: Tensor) -> np.ndarray:
    """Share of the energy of R(k) in every angular order.

    ``table``: (2K+1, 2K+1, …), rows −K..K of both axes. Returns 0..``ORDERS`` and what no order up
    to that explains, together 1.
    """
    values = table.detach().to(torch.complex128).reshape(*table.shape[:2], -1).numpy()
    cut = len(values) // 2
    k = np.arange(-cut, cut + 1)
    radius, angle = np.hypot(k[:, None], k), np.arctan2(k, k[:, None])
    energy = np.zeros(ORDERS + 2)
    orders = np.arange(-ORDERS, ORDERS + 1)
    for ring in range(3, cut + 1):  # the first two have too few points for ten functions
        inside = np.abs(radius - ring) < 0.5
        waves = np.exp(1j * angle[inside][:, None] * orders)
        # a ring is a cell wide: the slope along the radius is of order 0
        columns = np.column_stack([waves, radius[inside] - ring])
        found = np.linalg.lstsq(columns, values[inside], rcond=None)[0]
        parts = np.square(np.abs(columns)).sum(0) * np.square(np.abs(found)).sum(1)
        np.add.at(energy, [*np.abs(orders), 0], parts)
        energy[-1] += np.square(np.abs(values[inside] - columns @ found)).sum()
    return energy / energy.sum()


@torch.no_grad()
def multipliers(operator: Callable[[Tensor], Tensor], channels: int, grid: int, cut: int) -> Tensor:
    """R(k) of an operator that commutes with shifts, from its response to impulses.

    Returns (2·cut+1, 2·cut+1, out, in), complex.
    """
    impulses = torch.zeros(channels, channels, grid, grid)
    impulses[torch.arange(channels), torch.arange(channels), 0, 0] = 1
    rows = torch.arange(-cut, cut + 1) % grid
    spectrum = torch.fft.fft2(operator(impulses).double())
    return spectrum[:, :, rows[:, None], rows].permute(2, 3, 1, 0)


def spectral_layers(model: nn.Module) -> list[nn.Module]:
    """The spectral convolutions of ours or of neuraloperator's."""
    if isinstance(model, fs.FNO):
        return [m for m in model.modules() if isinstance(m, SpectralConv)]
    return list(model.fno_blocks.convs)  # type: ignore[union-attr,arg-type]


def orders_of(model: nn.Module, n_modes: int) -> Found:
    """Angular orders of the spectral weights, mean over the layers, and of the response at rest."""
    cut = n_modes // 2
    layers = spectral_layers(model)
    shares = []
    for layer in layers:
        width = layer.rep_in.channels if isinstance(layer, SpectralConv) else layer.in_channels
        shares.append(angular_energy(multipliers(layer, width, 2 * cut + 2, cut)))
    rest = torch.zeros(1, 1, side.GRID, side.GRID)

    def response(u: Tensor) -> Tensor:
        return torch.func.jvp(model, (rest,), (u,))[1]

    at_rest = angular_energy(multipliers(response, 1, side.GRID, cut))
    return {"weights": np.mean(shares, axis=0).tolist(), "at rest": at_rest.tolist()}


# Runs ---------------------------------------------------------------------------------------------
