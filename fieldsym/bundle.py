"""Bundles: a base and a representation, the type of a field.

>>> import fieldsym as fs
>>> fs.Bundle(fs.Torus((2.0, 3.0)), "scalar p + vector u")
Bundle(Torus(2, 3), 'scalar p + vector u')
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from fieldsym.errors import BundleError, RepresentationError, requirer
from fieldsym.group import Group, require_group
from fieldsym.manifold import Manifold
from fieldsym.representation import Block, Representation


class Bundle:
    """How the channels of a field on a base transform.

    Parameters
    ----------
    base : Manifold
    representation : str (grammar of :mod:`fieldsym.representation`) or Representation
    group : finite Group, needed by ``regular`` blocks

    Raises
    ------
    BundleError           if the base is none.
    RepresentationError   if the string does not parse on this base, or is no text.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> flow = fs.Bundle(fs.Torus((2.0, 3.0)), "scalar p + vector u")
    >>> {name: tuple(part.shape) for name, part in flow.split(torch.zeros(8, 3, 16, 24)).items()}
    {'p': (8, 1, 16, 24), 'u': (8, 2, 16, 24)}
    """

    def __init__(
        self, base: Manifold, representation: str | Representation, group: Group | None = None
    ) -> None:
        if not isinstance(base, Manifold):
            raise BundleError(f"A bundle needs a base such as Torus((1.0, 1.0)); got {base!r}.")
        if group is not None:
            require_group(group, "The regular representation of a bundle")
        if isinstance(representation, str):
            representation = Representation(representation, base.dim, group)
        if not isinstance(representation, Representation):
            raise RepresentationError(
                "The representation of a bundle is text such as 'scalar p + vector u', or a "
                f"Representation; got {representation!r}."
            )
        if representation.dim != base.dim:
            raise BundleError(
                f"{representation} is a representation on a {representation.dim}-D base; "
                f"{base} has {base.dim} dimensions."
            )
        self.base = base
        self.representation = representation

    def __repr__(self) -> str:
        return f"Bundle({self.base}, '{self.representation}')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bundle) and (self.base, self.representation) == (
            other.base,
            other.representation,
        )

    def __hash__(self) -> int:
        return hash((self.base, self.representation))

    @property
    def channels(self) -> int:
        """Number of channels of a section."""
        return self.representation.channels

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The typed blocks, in order."""
        return self.representation.blocks

    @cached_property
    def names(self) -> tuple[str, ...]:
        """One name per block; blocks without a name are called after their type."""
        taken: list[str] = []
        for i, block in enumerate(self.blocks):
            name = block.name or block.kind.replace(" ", "_")
            taken.append(name if name not in taken else f"{name}_{i}")
        return tuple(taken)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Channels of each block."""
        ends = [0]
        for block in self.blocks:
            ends.append(ends[-1] + block.size)
        return {n: slice(a, b) for n, a, b in zip(self.names, ends[:-1], ends[1:], strict=True)}

    def check(self, u: Tensor, name: str = "This", dtype: torch.dtype | None = None) -> None:
        """Raise ``BundleError`` unless a tensor is a section: real, (*batch, channel, *grid).

        ``dtype`` is that of the parameters which the section is to meet.
        """
        d = self.base.dim
        real = isinstance(u, Tensor) and u.dtype in (torch.float32, torch.float64)
        if not real or u.ndim < d + 1 or u.shape[-d - 1] != self.channels:
            self._refuse(u, name)
        if dtype is not None and u.dtype != dtype:
            raise BundleError(
                f"{name} holds {dtype} parameters; got a section in {u.dtype}. Convert the section "
                f"with .to({dtype}), or the model with .to({u.dtype})."
            )

    def _refuse(self, u: Tensor, name: str) -> NoReturn:
        d = self.base.dim
        sizes = ", ".join(
            f"{n}: {s.start}" + (f"–{s.stop - 1}" if s.stop - s.start > 1 else "")
            for n, s in self.slices.items()
        )
        want = (
            f"{name} expects sections of '{self.representation}' on {self.base}: shape "
            f"(*batch, {self.channels}, {'*grid' if d > 1 else 'grid'}), float32 or float64"
        )
        if not isinstance(u, Tensor):
            raise BundleError(f"{want}. Got {type(u).__name__}; convert it to a torch tensor.")
        if u.dtype not in (torch.float32, torch.float64):
            raise BundleError(f"{want}. Got {u.dtype}; convert it with .to(torch.float32).")
        if u.ndim < d + 1:
            raise BundleError(f"{want}. Got shape {tuple(u.shape)}: too few axes.")
        raise BundleError(
            f"{want}. Got shape {tuple(u.shape)}: {u.shape[-d - 1]} channels where the bundle "
            f"has {self.channels} ({sizes}). Check the order of the axes, or declare the "
            "fields that the tensor holds."
        )

    def grid(self, u: Tensor) -> tuple[int, ...]:
        """Sizes of the grid axes of a section."""
        return tuple(u.shape[-self.base.dim :])

    def split(self, u: Tensor) -> dict[str, Tensor]:
        """The blocks of a section, by name."""
        self.check(u)
        axis = u.ndim - self.base.dim - 1
        return {n: u.narrow(axis, s.start, s.stop - s.start) for n, s in self.slices.items()}

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """A section from its blocks; the inverse of :meth:`split`."""
        if not isinstance(parts, Mapping) or set(parts) != set(self.names):
            got = tuple(parts) if isinstance(parts, Mapping) else repr(parts)
            raise BundleError(f"join needs the blocks {self.names}; got {got}.")
        u = torch.cat([parts[n] for n in self.names], dim=-self.base.dim - 1)
        self.check(u)
        return u

    def norm(self, u: Tensor) -> Tensor:
        """Pointwise fibre norm, (*batch, channel, *grid) to (*batch, *grid).

        It does not change when the fibre is rotated or reflected.

        Examples
        --------
        >>> import torch, fieldsym as fs
        >>> wind = fs.Bundle(fs.Torus((1.0,) * 2), "vector u")
        >>> wind.norm(torch.tensor([3.0, 4.0]).view(2, 1, 1).expand(2, 4, 6))[0, 0].item()
        5.0
        """
        return self.squared_norm(u).sqrt()

    def squared_norm(self, u: Tensor) -> Tensor:
        """Square of :meth:`norm`; smooth at zero."""
        self.check(u)
        if self.representation.is_euclidean:
            return u.square().sum(-self.base.dim - 1)
        v = u.movedim(-self.base.dim - 1, -1)
        return (v * (v @ self.representation.gram.to(u))).sum(-1)


require_bundle = requirer(
    Bundle, BundleError, "a Bundle, such as Bundle(Torus((1.0, 1.0)), 'scalar p + vector u')"
)


require_operator: Callable[[object, str], Callable] = requirer(
    Callable,  # type: ignore[arg-type]
    BundleError,
    "an operator that maps sections to sections, a module or a function",
)


def as_numbers(field: object, who: str) -> Tensor:
    """A tensor, an array or rows of numbers as a real tensor; single precision stays single.

    Raises
    ------
    BundleError   naming who needs it, if it holds no real numbers.
    """
    try:
        values = field if isinstance(field, Tensor) else torch.as_tensor(np.asarray(field))
    except (TypeError, ValueError):
        values = None
    if values is None or values.is_complex():
        raise BundleError(
            f"{who} takes real numbers: one row of them, or a tensor (channel, *grid); got "
            f"{field if values is None else values.dtype!r}."
        )
    single = values.dtype in (torch.float32, torch.float64)
    return (values if single else values.double()).detach()
