"""The Lie derivatives of any operator along several generators, from one pass.

Column i is l_i = √w (DF(u)[ξ_i·u] − ξ_i·F(u)), with the fibre metric and the quadrature weights w,
divided by √(B |Ω|) for B samples on a base of volume |Ω|. All of them share the value F(u). Their
Gram matrix is formed in float64, whatever the dtype of F. Finite elements give the squared norm of
F(g·u) − g·F(u) in the same measure. Everything is differentiable in the parameters of F.

>>> import torch, fieldsym as fs
>>> base = fs.Torus((1.0, 1.0))
>>> p, drift = fs.Bundle(base, "scalar p"), fs.simulate.advection(base, (0.0, 1.0), time=0.1)
>>> u = fs.testing.random_section(p, (16, 24))
>>> translations = fs.groups.translations(2).generators
>>> bool(measure(lambda u: drift(u) ** 2, translations, (), u, p, p).gram.abs().max() < 1e-20)
True
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fieldsym.action import act, act_infinitesimal
from fieldsym.bundle import Bundle
from fieldsym.errors import BundleError, DataError
from fieldsym.group import Element, Generator
from fieldsym.manifold import Region

Operator = Callable[[Tensor], Tensor]
CONSTANT = 1e-10  # a fluctuation below this part of the output counts as this part


class Measured(NamedTuple):
    """What one pass gives: F(u), the Gram matrix, the squared defects and the squared size.

    ``value`` (batch, channel', *grid'); ``gram`` (k, k) and ``defects`` (m,), squared norms, in
    float64; ``size`` (), the mean square of F(u) without its spatial mean.
    """

    value: Tensor
    gram: Tensor
    defects: Tensor
    size: Tensor


def measure(
    operator: Operator,
    generators: Sequence[Generator],
    elements: Sequence[Element],
    u: Tensor,
    in_bundle: Bundle,
    out_bundle: Bundle,
    *,
    region: Region | None = None,
) -> Measured:
    """Gram matrix of the Lie derivatives, squared defects of elements and size, at some fields.

    Parameters
    ----------
    operator : module or callable from sections of ``in_bundle`` to sections of ``out_bundle``
    generators : k of them; each costs a forward pass, or less where the operator has
        ``push_forward``
    elements : m of them; each costs a forward pass
    u : Tensor (batch, channel, *grid)
    region : as for :func:`fieldsym.lie_derivative`; elements then see the windowed fields too

    Returns
    -------
    Measured   unnormalised: divide by ``size``

    Raises
    ------
    BundleError   if u, or what the operator returns, is not a section of its bundle, or it returns
                  another number of samples.
    DataError     if what it returns is not finite.

    Examples
    --------
    A factor c(x) in front of the field has L_x F(u) = −c′(x) u:

    >>> import math, torch, fieldsym as fs
    >>> p = fs.Bundle(fs.Torus((1.0,)), "scalar p")
    >>> x = 2 * math.pi * p.base.coordinates((16,))
    >>> found = measure(lambda u: x.sin() * u, fs.groups.translations(1).generators, (),
    ...                 torch.ones(1, 1, 16, dtype=torch.float64), p, p)
    >>> float(found.gram / found.size) / (2 * math.pi) ** 2
    1.0
    """
    in_bundle.check(u, "promote")
    if region is not None:
        u = u * region.window(in_bundle.grid(u), u.dtype, u.device)
    tangents = [act_infinitesimal(xi, u, in_bundle) for xi in generators]
    operator = _Checked(operator, out_bundle)
    value, slopes = push_forward(operator, u, tangents)
    operator.check(value, u)
    window, weights = _measure_of(out_bundle, value, region)
    columns = [
        _residual(xi, value, slope, out_bundle, window)
        for xi, slope in zip(generators, slopes, strict=True)
    ]
    finite = [operator(act(g, u, in_bundle)) - act(g, value, out_bundle) for g in elements]
    defects = [_squared_norm(_times(window, e), out_bundle, weights) for e in finite]
    size = _squared_size(_times(window, value), out_bundle, weights)
    _check_finite(torch.stack([size, *defects]).detach())
    empty = size.new_zeros(0)
    gram = inner_products(columns, out_bundle, weights) if columns else empty.view(0, 0)
    return Measured(value, gram, torch.stack(defects) if defects else empty, size)


class _Checked:
    """An operator whose values are sections of a bundle, one for every sample."""

    def __init__(self, operator: Operator, bundle: Bundle) -> None:
        self.operator, self.bundle = operator, bundle
        self.push_forward = getattr(operator, "push_forward", None)

    def __call__(self, u: Tensor) -> Tensor:
        value = self.operator(u)
        self.check(value, u)
        return value

    def check(self, value: Tensor, u: Tensor) -> None:
        """Shapes alone: this runs under vmap too, where nothing can depend on values."""
        self.bundle.check(value, "The output bundle of promote")
        batch = -self.bundle.base.dim - 1
        if value.shape[:batch] != u.shape[:batch]:
            raise BundleError(
                f"The model returned shape {tuple(value.shape)} for {len(u)} samples. Return one "
                "section for every sample."
            )


def flat_samples(x: Tensor, bundle: Bundle, name: str) -> Tensor:
    """Sections with one batch axis, without a graph.

    Raises
    ------
    BundleError   if x is not a section of the bundle.
    DataError     if it is empty or not finite.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> p = fs.Bundle(fs.Torus((2.0, 3.0)), "scalar p")
    >>> flat_samples(torch.zeros(2, 5, 1, 16, 24), p, "x").shape
    torch.Size([10, 1, 16, 24])
    """
    bundle.check(x, name)
    if not x.numel():
        raise DataError(
            f"{name} needs at least one sample; got shape {tuple(x.shape)}. Leave out "
            "empty batches."
        )
    if not bool(x.isfinite().all()):
        raise DataError(
            f"The fields of {name} hold NaN or infinity, from which nothing can be measured. Fill "
            "the gaps, or leave these samples out."
        )
    return x.detach().reshape(-1, *x.shape[-bundle.base.dim - 1 :])


def push_forward(
    operator: Operator, u: Tensor, tangents: Sequence[Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    """F(u) and DF(u)[v] for every tangent v, in one pass where the operator allows it.

    By the operator's own ``push_forward``, else by forward differentiation of all tangents at
    once, else one by one (where an operation has no rule for a batch of tangents).

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1, 1, 4)
    >>> value, (slope, twice) = push_forward(torch.exp, 0 * one, [one, 2 * one])
    >>> value.flatten()[0].item(), slope.flatten()[0].item(), twice.flatten()[0].item()
    (1.0, 1.0, 2.0)
    """
    if not tangents:
        return operator(u), []
    own = getattr(operator, "push_forward", None)
    if own is not None:
        value, slopes = own(u, torch.stack(list(tangents)))
        return value, tuple(slopes)

    def along(v: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(operator, (u,), (v,))[:2]

    if len(tangents) > 1:
        try:
            values, slopes = torch.vmap(along, randomness="same")(torch.stack(list(tangents)))
            return values[0], tuple(slopes)
        except RuntimeError:
            pass
    pairs = [along(v) for v in tangents]
    return pairs[0][0], [slope for _, slope in pairs]


def combined(coefficients: Sequence[float] | Tensor, generators: Sequence[Generator]) -> Generator:
    """The generator Σ c_i ξ_i.

    Examples
    --------
    >>> import fieldsym as fs
    >>> along = combined([0.6, -0.8], fs.groups.translations(2).generators)
    >>> along.name, along.shift.tolist()
    ('0.60 translation x − 0.80 translation y', [0.6, -0.8])
    """
    pairs = [(float(c), xi) for c, xi in zip(coefficients, generators, strict=True)]
    shown = ((f"{c:.2f}".replace("-", "−"), xi.name) for c, xi in pairs if abs(c) >= 0.005)
    text = " + ".join(f"{c} {name}" for c, name in shown)
    dim = generators[0].dim
    return Generator(
        text.replace("+ −", "− "),
        sum((c * xi.matrix for c, xi in pairs), np.zeros((dim, dim))),
        sum((c * xi.shift for c, xi in pairs), np.zeros(dim)),
    )


def inner_products(columns: Sequence[Tensor], bundle: Bundle, weights: Tensor) -> Tensor:
    """Mean over samples of ∫ ⟨l_i, l_j⟩ with the fibre metric, (k, k) in float64.

    Parameters
    ----------
    columns : k sections (batch, channel, *grid)
    weights : (*grid), float64; their sum is one
    """
    stack = torch.stack(list(columns)).double() * (weights / len(columns[0])).sqrt()
    other = stack
    if not bundle.representation.is_euclidean:
        channel = -bundle.base.dim - 1
        metric = bundle.representation.gram.to(stack)
        other = (stack.movedim(channel, -1) @ metric).movedim(-1, channel)
    return stack.flatten(1) @ other.flatten(1).mT


# The window of a base with open edges, or None, and normalised quadrature weights in the region.
def _measure_of(bundle: Bundle, u: Tensor, region: Region | None) -> tuple[Tensor | None, Tensor]:
    grid = bundle.grid(u)
    weights = bundle.base.weights(grid, u.device)
    if region is None:
        return None, weights / weights.sum()
    weights = weights * region.mask(grid, u.device)
    is_open = not all(bundle.base.periodic)
    window = region.window(grid, u.dtype, u.device) if is_open else None
    return window, weights / weights.sum()


# DF[ξ·u] − ξ·F(u), times the window of a base with open edges: lie_derivative says why.
def _residual(
    xi: Generator, value: Tensor, slope: Tensor, bundle: Bundle, window: Tensor | None
) -> Tensor:
    if window is None:
        return slope - act_infinitesimal(xi, value, bundle)
    steep = act_infinitesimal(xi, window[None], Bundle(bundle.base, "scalar"))
    return window * slope - act_infinitesimal(xi, window * value, bundle) + steep * value


def _times(window: Tensor | None, v: Tensor) -> Tensor:
    return v if window is None else window * v


def _squared_norm(v: Tensor, bundle: Bundle, weights: Tensor) -> Tensor:
    return inner_products([v], bundle, weights).squeeze()


# Mean square without the spatial mean; of an output that is all mean, 1e-20 of its square.
def _squared_size(value: Tensor, bundle: Bundle, weights: Tensor) -> Tensor:
    value = value.double()
    mean = (value * weights).sum(tuple(range(-bundle.base.dim, 0)), keepdim=True)
    whole, part = (_squared_norm(v, bundle, weights) for v in (value, value - mean))
    return torch.maximum(part, CONSTANT**2 * whole).clamp_min(torch.finfo(torch.float64).tiny)


# Of the size and the squared defects, which no value that is not finite leaves finite.
def _check_finite(squares: Tensor) -> None:
    if not bool(squares.isfinite().all()):
        raise DataError(
            "The output of the model is not finite for finite fields: nothing can be promoted. "
            "Check the scale of the input, or lower the learning rate."
        )
