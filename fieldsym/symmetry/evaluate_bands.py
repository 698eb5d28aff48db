"""Where a defect sits: in which field of the output, and at which wavenumbers.

A spectrum is that of the fibre norm, so it does not change when a field is turned. Its bands are
octaves of the Nyquist frequency, in waves along the longest axis: a band holds lo < |k| ≤ hi, the
first one the mean as well. Non-periodic axes are continued evenly. A rotation about the centre is
seen through the window of its region.

>>> import torch, fieldsym as fs
>>> line = fs.Bundle(fs.Torus((2.0,)), "scalar p")
>>> bands = Bands.of(line.base, (32,))
>>> bands.labels
['0-2 waves', '2-4 waves', '4-8 waves', '8-16 waves', 'beyond 16 waves']
>>> wave = torch.cos(3 * torch.pi * line.base.coordinates((32,)))[None]      # three waves
>>> bands.energies(line, wave)
tensor([[0.0000, 1.0000, 0.0000, 0.0000, 0.0000]], dtype=torch.float64)
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fieldsym.bundle import Bundle
from fieldsym.manifold import Manifold
from fieldsym.symmetry.evaluate_parts import Defect, Ruler, array, mirrored, mirrored_base

if TYPE_CHECKING:
    from fieldsym.symmetry.evaluate_measure import Results, Setup

Array = np.ndarray
OCTAVES = (1 / 8, 1 / 4, 1 / 2, 1.0)
NO_ENERGY = 1e-12  # of the output: a band with less says nothing about the model
FLAT = 1e-20  # of the square of a field: a fluctuation below this, or rounding, is none


@dataclass(frozen=True)
class Bands:
    """Bands of wavenumbers of a base, between edges in waves along its longest axis."""

    base: Manifold
    edges: tuple[float, ...]

    @classmethod
    def of(cls, base: Manifold, grid: Sequence[int]) -> Bands:
        """Octaves of the smallest Nyquist frequency of the axes of a grid."""
        nyquist = max(base.lengths) / (2 * max(base.spacing(grid)))
        return cls(base, tuple(nyquist * part for part in OCTAVES))

    @property
    def labels(self) -> list[str]:
        """One name per band, such as "4-8 waves"."""
        names = [f"{edge:.3g}" for edge in (0.0, *self.edges)]
        between = [f"{low}-{high} waves" for low, high in itertools.pairwise(names)]
        return [*between, f"beyond {names[-1]} waves"]

    def energies(self, bundle: Bundle, u: Tensor) -> Tensor:
        """Integral of the squared fibre norm by bands, (batch, channel, *grid) to (batch, band)."""
        wide, dim = mirrored(u, self.base), self.base.dim
        spectrum = torch.fft.fftn(wide, dim=tuple(range(-dim, 0)), norm="forward")
        density = bundle.squared_norm(spectrum.real) + bundle.squared_norm(spectrum.imag)
        member = torch.nn.functional.one_hot(self._index(density), len(self.edges) + 1)
        volume = float(np.prod(self.base.lengths))
        return volume * density.flatten(1) @ member.to(density)

    # The band of every mode of a transform, (modes,).
    def _index(self, like: Tensor) -> Tensor:
        grid = tuple(like.shape[1:])
        steps = mirrored_base(self.base).spacing(grid)
        axes = [
            torch.fft.fftfreq(n, h, dtype=torch.float64) for n, h in zip(grid, steps, strict=True)
        ]
        squares = sum(k.square() for k in torch.meshgrid(*axes, indexing="ij"))
        waves = max(self.base.lengths) * torch.as_tensor(squares).sqrt().flatten()
        edges = torch.tensor(self.edges, dtype=torch.float64) * (1 + 1e-9)
        return torch.bucketize(waves, edges).to(like.device)


@dataclass
class Parts:
    """How the defects of some rows are spread, (rows, fields or bands, samples).

    ``field``: of every block, relative to the fluctuation of that block; ``band``: of every band,
    relative to what the fluctuation of the output has in it; ``share``: the part of the squared
    defect that is in the band. NaN where the output has nothing there, and bands behind a mask.
    """

    field: Array
    band: Array
    share: Array

    @classmethod
    def empty(cls, rows: int, fields: int, samples: int) -> Parts:
        """Nothing measured yet."""
        bands = np.full((rows, len(OCTAVES) + 1, samples), np.nan)
        return cls(np.full((rows, fields, samples), np.nan), bands, bands.copy())

    def enter(self, row: int, s: slice, ruler: Ruler, bands: Bands, defect: Defect) -> None:
        """Measure the parts of one defect of some samples."""
        centred = ruler.fluctuation(defect.value, defect.weights)
        size, error, energy = (
            ruler.squares(v, defect.weights) for v in (defect.value, defect.error, centred)
        )
        flat = max(FLAT, ruler.rounding**2)
        self.field[row, :, s] = _roots(error, energy, energy > flat * size)
        if ruler.mask is not None:
            return
        view = 1.0 if defect.window is None else defect.window
        error, energy = (bands.energies(ruler.bundle, v * view) for v in (defect.error, centred))
        least = torch.maximum(NO_ENERGY * energy.sum(1), flat * size.sum(1))
        self.band[row, :, s] = _roots(error, energy, energy > least[:, None])
        total = error.sum(1, keepdim=True)
        self.share[row, :, s] = array(torch.where(total > 0, error / total, torch.nan).T)


# √(error / energy), (batch, part) to (part, batch), where the energy is known to be some.
def _roots(error: Tensor, energy: Tensor, known: Tensor) -> Array:
    return array(torch.where(known, (error / energy).sqrt(), torch.nan).T)


def middle(values: Array, mean: bool = False) -> Array:
    """Median over samples, the last axis, of what is known (or its mean); NaN where nothing is.

    Examples
    --------
    >>> middle(np.array([[1.0, np.nan, 5.0], [np.nan, np.nan, np.nan]]))
    array([ 3., nan])
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows without numbers
        return np.nanmean(values, axis=-1) if mean else np.nanmedian(values, axis=-1)


def part_table(setup: Setup, found: Results) -> dict[str, tuple]:
    """The variables of the report that say where defects sit."""
    finite = {who: one.parts for who, one in found.finite.items()}
    lie = {who: one.parts for who, one in found.lie.items()}
    scale = np.array([[value] for value, _ in setup.scales]).reshape(-1, 1)
    energy = middle(found.finite["model"].energy, mean=True)
    return {
        "energy_band": ("band", energy, "part of the squared fluctuation of the output"),
        **_parts("element", "defect_", "", finite, np.ones((1, 1))),
        **_parts("generator", "lee_", "lee_", lie, scale),
    }


def _parts(
    axis: str, name: str, stem: str, tables: Mapping[str, Parts], scale: Array
) -> dict[str, tuple]:
    model, floor = tables["model"], tables["floor"]
    rows, fields = model.field.shape[:2]
    truth = tables.get("truth", Parts.empty(rows, fields, 1))
    medians = (
        (f"{name}field", "field", model.field, "relative to the fluctuation of the field"),
        (f"{stem}truth_field", "field", truth.field, "the same for the reference operator"),
        (f"{name}band", "band", model.band, "relative to the output in the band"),
        (f"{stem}floor_band", "band", floor.band, "the same for a heat flow"),
        (f"{stem}truth_band", "band", truth.band, "the same for the reference operator"),
    )
    shares = middle(model.share, mean=True), "part of the squared defect in the band"
    return {
        key: ((axis, dim), middle(values) * scale, f"median defect, {meaning}")
        for key, dim, values, meaning in medians
    } | {f"{name}band_share": ((axis, "band"), *shares)}
