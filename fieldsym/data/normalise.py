"""Normalisation that respects the type: one scale per irreducible block, a mean only for scalars.

Scaling u and v apart, or subtracting a mean velocity, is not equivariant: a quarter turn of a wind
with s_u/s_v = 1.38 is then wrong by a third before anything is learned. The scale of a block is the
weighted rms of its fibre norm; with it N(g·u) = g·N(u) for every g that keeps the mask.

>>> import torch, fieldsym as fs
>>> flow = fs.Bundle(fs.Torus((2.0, 3.0)), "scalar p + vector u")
>>> u = torch.ones(5, 3, 16, 24) * torch.tensor([7.0, 3.0, 4.0]).view(3, 1, 1)
>>> u[0, 0] = 2.0
>>> norm = Normaliser.fit(u, flow)
>>> [round(float(m), 6) for m in norm.mean], [round(float(s), 6) for s in norm.scale]
([6.0, 0.0, 0.0], [2.0, 5.0, 5.0])

Symmetric tensors and regular blocks have one scale per copy and no mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle
from fieldsym.errors import BundleError, DataError

if TYPE_CHECKING:
    from fieldsym.data.fields import Fields


class Normaliser(nn.Module):
    """Typed normalisation, a module so that it is stored with the model and moves with it.

    Parameters
    ----------
    bundle : Bundle
    mean, scale : float64 Tensor (channels,)
    mask : bool Tensor (*grid) or None; points outside it are set to 0 by ``encode`` and ``decode``
    units : units of each block, by name

    Raises
    ------
    DataError   if a mean or scale is not finite, or a scale is not positive.

    Notes
    -----
    ``encode`` and ``decode`` also take several steps stacked along the channels, as
    :class:`fieldsym.data.windows.Windows` makes them: k copies of the bundle one after the other.
    """

    mean: Tensor
    scale: Tensor
    mask: Tensor | None

    def __init__(
        self,
        bundle: Bundle,
        mean: Tensor,
        scale: Tensor,
        mask: Tensor | None = None,
        units: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.bundle = bundle
        self.units = dict(units or {})
        self.register_buffer("mean", mean.to(torch.float64))
        self.register_buffer("scale", scale.to(torch.float64))
        self.register_buffer("mask", None if mask is None else mask.to(torch.bool))
        for name, where in bundle.slices.items():
            _check_statistics(name, self.mean[where], self.scale[where])

    @classmethod
    def fit(
        cls,
        fields: Fields | Tensor,
        bundle: Bundle | None = None,
        *,
        mask: Tensor | None = None,
        weights: Tensor | None = None,
        units: Mapping[str, str] | None = None,
    ) -> Normaliser:
        """Statistics of some sections.

        Parameters
        ----------
        fields : Fields, or a Tensor (*batch, channel, *grid) with its ``bundle``
        mask : bool (*grid), True where valid; default that of the fields
        weights : quadrature weights (*grid); default those of the fields' axes (area on the
            sphere), or of the base

        Raises
        ------
        DataError   if a block has a zero scale or holds values that are not finite.
        """
        if not isinstance(fields, Tensor):
            bundle, values, units = fields.bundle, fields.values, units or fields.units
            mask = fields.mask if mask is None else mask
            weights = fields.weights if weights is None else weights
        elif bundle is None:
            raise BundleError("Normaliser.fit needs the bundle of a tensor; pass bundle=.")
        else:
            values = fields
        bundle.check(values, "Normaliser.fit")
        grid = bundle.grid(values)
        weights = bundle.base.weights(grid) if weights is None else weights
        weights = weights.to(values.device, torch.float64)
        if mask is not None:
            weights = weights * mask.to(weights)
        values = values.reshape(-1, *values.shape[-bundle.base.dim - 1 :])
        mean = _mean(values, weights) * _scalars(bundle).to(values.device)
        square = _second_moment(values, weights, mean)
        size = _second_moment(values, weights, torch.zeros_like(mean)).diagonal()
        scale = torch.ones_like(mean)
        for name, part in _irreducible(bundle):
            _check_finite(name, square[part])
            gram = bundle.representation.gram.to(square)[part, part]
            scale[part] = (gram * square[part, part]).sum().sqrt()
            _check_varies(name, scale[part], size[part].sum().sqrt())
        return cls(bundle, mean, scale, mask, units)

    def encode(self, u: Tensor) -> Tensor:
        """Physical to normalised values, (*batch, k·channels, *grid); 0 outside the mask."""
        mean, scale = self._statistics(u)
        return self._masked((u - mean) / scale)

    def decode(self, u: Tensor) -> Tensor:
        """Normalised to physical values, the inverse of :meth:`encode` inside the mask."""
        mean, scale = self._statistics(u)
        return self._masked(u * scale + mean)

    def _statistics(self, u: Tensor) -> tuple[Tensor, Tensor]:
        dim, channels = self.bundle.base.dim, self.bundle.channels
        if u.ndim < dim + 1 or u.shape[-dim - 1] % channels:
            raise BundleError(
                f"The normaliser expects sections of '{self.bundle.representation}' (or several "
                f"stacked): shape (*batch, k × {channels}, *grid); got {tuple(u.shape)}."
            )
        copies = u.shape[-dim - 1] // channels
        shape = (-1, *(1,) * dim)
        mean, scale = (s.to(u).repeat(copies).view(shape) for s in (self.mean, self.scale))
        return mean, scale

    def _masked(self, u: Tensor) -> Tensor:
        return u if self.mask is None else u * self.mask.to(u)

    def extra_repr(self) -> str:
        """Types and scales, for ``repr``."""
        parts = [
            f"{name}: {self.scale[where.start]:.4g} {self.units.get(name, '')}".strip()
            for name, where in self.bundle.slices.items()
        ]
        return f"'{self.bundle.representation}', {', '.join(parts)}"

    def to_dict(self) -> dict[str, object]:
        """Everything as plain numbers and strings, for JSON."""
        return {
            "types": str(self.bundle.representation),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "units": self.units,
            "mask": None if self.mask is None else self.mask.int().tolist(),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, object], bundle: Bundle) -> Normaliser:
        """The normaliser of :meth:`to_dict`, for the bundle it was made for.

        Raises
        ------
        DataError   if an entry is missing, or the types are those of another bundle.

        Examples
        --------
        >>> import torch, fieldsym as fs
        >>> wind = fs.Bundle(fs.Torus((2.0, 3.0)), "vector u")
        >>> norm = Normaliser.fit(torch.ones(1, 2, 16, 24), wind)
        >>> bool(torch.equal(Normaliser.from_dict(norm.to_dict(), wind).scale, norm.scale))
        True
        """
        missing = {"types", "mean", "scale", "units", "mask"} - set(state)
        if missing:
            raise DataError(f"The state of a normaliser lacks {sorted(missing)}; see to_dict.")
        if state["types"] != str(bundle.representation):
            raise DataError(
                f"This normaliser was fitted to '{state['types']}'; the bundle is "
                f"'{bundle.representation}'. Use the bundle it was fitted to, or fit it again."
            )
        mask = state["mask"]
        return cls(
            bundle,
            torch.tensor(state["mean"], dtype=torch.float64),
            torch.tensor(state["scale"], dtype=torch.float64),
            None if mask is None else torch.tensor(mask, dtype=torch.bool),
            dict(state["units"]),  # type: ignore[call-overload]
        )


def _flat(values: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    # step by step in float64, with normalised weights; what is masked may hold anything
    w = (weights / weights.sum() / len(values)).flatten()
    for step in values:
        yield torch.where(w > 0, step.to(torch.float64).flatten(1), 0.0), w


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return torch.stack([flat @ w for flat, w in _flat(values, weights)]).sum(0)


def _second_moment(values: Tensor, weights: Tensor, mean: Tensor) -> Tensor:
    total = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=values.device)
    for flat, w in _flat(values, weights):
        centred = flat - mean[:, None]
        total += (centred * w) @ centred.T
    return total


def _irreducible(bundle: Bundle) -> list[tuple[str, slice]]:
    """The channels of each copy of each block."""
    parts = []
    for block, (name, where) in zip(bundle.blocks, bundle.slices.items(), strict=True):
        size = block.size // block.copies
        parts += [(name, slice(a, a + size)) for a in range(where.start, where.stop, size)]
    return parts


def _scalars(bundle: Bundle) -> Tensor:
    flags = torch.zeros(bundle.channels, dtype=torch.float64)
    for block, where in zip(bundle.blocks, bundle.slices.values(), strict=True):
        flags[where] = float(block.kind == "scalar")
    return flags


def _check_finite(name: str, square: Tensor) -> None:
    if not bool(torch.isfinite(square).all()):
        raise DataError(
            f"The field '{name}' holds values that are not finite inside the mask; fill or mask "
            "them before fitting a normaliser."
        )


def _check_varies(name: str, scale: Tensor, size: Tensor) -> None:
    # a constant leaves only rounding
    if float(scale.max()) <= 1e-12 * float(size) or float(size) == 0.0:
        raise DataError(
            f"The field '{name}' is constant, so it has no scale; leave it out of the variables."
        )


def _check_statistics(name: str, mean: Tensor, scale: Tensor) -> None:
    fine = all(math.isfinite(x) for x in (*mean.tolist(), *scale.tolist()))
    if not fine or float(scale.min()) <= 0:
        raise DataError(
            f"The scale of '{name}' must be positive and finite; got scale {scale.tolist()}, mean "
            f"{mean.tolist()}. Leave out fields that are constant, and fill missing values."
        )
