"""Operators in an external field that is held fixed: gravity, a forcing, the Coriolis parameter.

An operator that takes the field as one more typed input can be equivariant under the whole group,
F(g·u, g·f) = g·F(u, f): turning state and field together turns the result. With f held fixed,
u ↦ F(u, f) commutes with the elements that fix f, its stabiliser, and with no others; this weaker
property is called subequivariance. What a field breaks is thus broken by its value, not by the
weights.

>>> import fieldsym as fs
>>> both = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar T + vector g")
>>> model = fs.FNO(both, fs.Bundle(both.base, "scalar T"), group=fs.groups.dihedral(4),
...                n_modes=3, hidden_channels=8)
>>> fs.HeldField(model, {"g": [0.0, -9.8]}).group.elements
(Element(identity), Element(reflection x → −x))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle, as_numbers, require_operator
from fieldsym.errors import BundleError, GridError
from fieldsym.group import Group, require_group

Operator = Callable[[Tensor], Tensor]


class HeldField(nn.Module):
    """An operator with some of its typed inputs held fixed, u ↦ F(u, f).

    Parameters
    ----------
    operator : callable, sections of ``in_bundle`` to sections of ``out_bundle``
    fields : the held blocks by name: one row of numbers is a constant on every grid, a Tensor
        (channel, *grid) a field on its grid
    in_bundle, out_bundle : Bundle of all inputs, held ones included, and of the outputs; default
        those of the operator
    group : Group under which the operator is equivariant when the fields are moved along, default
        that of the operator if it has one. Give it times ``groups.translations(dim)`` to learn
        which shifts a field leaves.

    Attributes
    ----------
    in_bundle : Bundle   of the state alone
    out_bundle : Bundle
    group : Group or None   the stabiliser of the held fields

    Raises
    ------
    BundleError   if a name is no block of the input, nothing is left, or a value does not fit it.
    GridError     if a state comes on another grid than a held field.
    GroupError    if the group does not act on the base, or on the grid of a held field.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> base = fs.Torus((2.0, 3.0))
    >>> both = fs.Bundle(base, "scalar T + vector g")
    >>> def lean(u):                                            # T + g·∇T
    ...     slope = base.gradient(u[:, 0])
    ...     return u[:, :1] + (u[:, 1:] * slope).sum(1, keepdim=True)
    >>> falling = fs.HeldField(lean, {"g": [0.0, -1.0]}, both, fs.Bundle(base, "scalar T"),
    ...                        group=fs.groups.reflections(2))
    >>> falling.in_bundle.representation, falling.group.elements[1].name
    (scalar T, 'reflection x → −x')

    References
    ----------
    Han et al. 2022, arXiv:2210.06876 (subequivariance under the stabiliser of gravity).
    """

    def __init__(
        self,
        operator: Operator,
        fields: Mapping[str, Tensor | Sequence[float]],
        in_bundle: Bundle | None = None,
        out_bundle: Bundle | None = None,
        *,
        group: Group | None = None,
    ) -> None:
        super().__init__()
        require_operator(operator, "HeldField")
        if group is not None:
            require_group(group, "HeldField")
        self.operator = operator
        self.whole = _of(operator, "in_bundle", in_bundle)
        self.order = self.whole.names
        self.out_bundle = _of(operator, "out_bundle", out_bundle)
        if not isinstance(fields, Mapping):
            raise BundleError(
                f"HeldField takes the held fields by name, such as {{'g': [0.0, -9.8]}}; got "
                f"{fields!r}."
            )
        _check_names(self.whole, tuple(fields))
        self.in_bundle = _blocks(self.whole, [n for n in self.whole.names if n not in fields])
        self.held = tuple(fields)
        self.own = {name: (s.start, s.stop - s.start) for name, s in self.in_bundle.slices.items()}
        self.group = getattr(operator, "group", None) if group is None else group
        for name, field in fields.items():
            block = _blocks(self.whole, [name])
            value = as_numbers(field, f"The held field {name!r}")
            _check_value(value, name, block)
            self.register_buffer(f"held_{name}", value.clone())
            if self.group is not None:
                self.group = self.group.stabiliser(value, block)

    def extra_repr(self) -> str:
        """What is held and what is left of the group."""
        return f"'{self.in_bundle.representation}', held: {', '.join(self.held)}; {self.group}"

    def forward(self, u: Tensor) -> Tensor:
        """Map states (*batch, channel, *grid) of ``in_bundle`` to sections of ``out_bundle``."""
        return self.operator(self.join(u))

    def join(self, u: Tensor) -> Tensor:
        """The input of the operator: a state and the held fields, in the order of their blocks."""
        self.in_bundle.check(u, "HeldField")
        axis = u.ndim - self.whole.base.dim - 1
        parts = {name: u.narrow(axis, *where) for name, where in self.own.items()}
        parts |= {name: self._held_like(u, name) for name in self.held}
        return torch.cat([parts[name] for name in self.order], axis)

    def _held_like(self, u: Tensor, name: str) -> Tensor:
        """A held field for every sample of a state, (*batch, channel, *grid)."""
        dim, value = self.whole.base.dim, self.get_buffer(f"held_{name}").to(u)
        if value.ndim == 1:
            value = value.view(-1, *[1] * dim)
        elif value.shape[-dim:] != u.shape[-dim:]:
            here, there = (" × ".join(map(str, v.shape[-dim:])) for v in (value, u))
            raise GridError(
                f"The held field {name!r} has {here} points; got a state with {there}. Hold the "
                "field on the grid of the state."
            )
        return value.expand(*u.shape[: -dim - 1], len(value), *u.shape[-dim:])


def _of(operator: Operator, name: str, given: Bundle | None) -> Bundle:
    bundle = getattr(operator, name, None) if given is None else given
    if not isinstance(bundle, Bundle):
        raise BundleError(
            f"HeldField reads the {name} of the operator, which has none: give it. Its blocks name "
            'the state and the held fields, such as Bundle(base, "scalar T + vector g").'
        )
    return bundle


def _check_names(bundle: Bundle, held: tuple[str, ...]) -> None:
    unknown = [name for name in held if name not in bundle.names]
    if unknown or not 0 < len(held) < len(bundle.names):
        raise BundleError(
            f"HeldField holds some of the blocks {bundle.names} and leaves some; got "
            f"{', '.join(held) or 'none'}."
        )


def _check_value(value: Tensor, name: str, block: Bundle) -> None:
    constant = value.ndim == 1 and len(value) == block.channels
    field = value.ndim == block.base.dim + 1 and len(value) == block.channels
    if not constant and not field:
        raise BundleError(
            f"The held field {name!r} is a constant of {block.channels} numbers or a field "
            f"({block.channels}, *grid) on {block.base}; got shape {tuple(value.shape)}."
        )


# The bundle of some blocks, each under the name it has among all.
def _blocks(bundle: Bundle, names: Sequence[str]) -> Bundle:
    pairs = zip(bundle.names, bundle.blocks, strict=True)
    chosen = [str(replace(block, name=name)) for name, block in pairs if name in names]
    return Bundle(bundle.base, " + ".join(chosen), bundle.representation.group)
