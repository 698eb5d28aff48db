"""The Lie derivative of an operator, and the defects that evaluate reads off it.

(L_ξ F)(u) = DF(u)[ξ·u] − ξ·F(u) is zero for all u iff F commutes with exp(tξ); F is any callable
between sections. Its finite sibling compares F(g·u) with g·F(u).

>>> import fieldsym as fs
>>> base = fs.Torus((2.0, 3.0))
>>> heat, p = fs.simulate.heat_flow(base, time=0.1), fs.Bundle(base, "scalar p")
>>> u = fs.testing.random_section(p, (16, 24))
>>> bool(fs.lie_derivative(heat, fs.groups.translations(2).generators[0], u, p, p).abs().max() < 1e-10)
True
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fieldsym.action import act, act_infinitesimal
from fieldsym.bundle import Bundle, require_bundle, require_operator
from fieldsym.group import Element, Generator
from fieldsym.manifold import Region

Operator = Callable[[Tensor], Tensor]


def lie_derivative(
    F: Operator,
    xi: Generator,
    u: Tensor,
    in_bundle: Bundle,
    out_bundle: Bundle,
    *,
    region: Region | None = None,
) -> Tensor:
    """Lie derivative of an operator between sections, (L_ξ F)(u).

    (L_ξ F)(u) = DF(u)[ξ·u] − ξ·F(u); zero for all u iff F commutes with exp(tξ).

    A rotation does not act on a torus or box: for one, give a ``region``. The derivative is then
    taken at the windowed field (so that ξ·u has no seam) and returned inside the region; on a base
    with open edges it is returned times the window.

    Parameters
    ----------
    F : module or callable from sections of ``in_bundle`` to sections of ``out_bundle``
    xi : Generator, an element of ``group.generators``; units: radians, lengths of the base
    u : Tensor (*batch, channel, *grid), a section of ``in_bundle``
    region : Region, for example ``base.disk(0.4)``

    Returns
    -------
    Tensor (*batch, channel', *grid), a section of ``out_bundle``

    Raises
    ------
    BundleError   if u, or what F returns, is not a section of its bundle.

    Examples
    --------
    >>> import fieldsym as fs
    >>> base = fs.Torus((1.0, 1.0))
    >>> p = fs.Bundle(base, "scalar p")
    >>> drift = fs.simulate.advection(base, velocity=(1.0, 0.0), time=0.1)
    >>> u = fs.testing.random_section(p, (32, 32))
    >>> turn = fs.groups.so(2).generators[0]
    >>> defect = fs.lie_derivative(drift, turn, u, p, p, region=base.disk(0.4))
    >>> bool(defect.abs().max() > 0.1)                       # a wind picks out a direction
    True

    References
    ----------
    Otto et al. 2023, arXiv:2311.00212, section 3 (Lie derivative of a section).
    """
    require_operator(F, "lie_derivative")
    require_bundle(out_bundle, "lie_derivative")
    require_bundle(in_bundle, "lie_derivative").check(u, "lie_derivative")
    if region is not None:
        u = u * region.window(in_bundle.grid(u), u.dtype, u.device)
    moved = act_infinitesimal(xi, u, in_bundle)
    value, pushed = torch.func.jvp(F, (u,), (moved,))[:2]
    out_bundle.check(value, "The output bundle of lie_derivative")
    if region is None:
        return pushed - act_infinitesimal(xi, value, out_bundle)
    inside = region.mask(out_bundle.grid(value), u.device)
    if all(out_bundle.base.periodic):
        return (pushed - act_infinitesimal(xi, value, out_bundle)) * inside
    # no spectral derivative across an open edge: w ξ·v = ξ·(w v) − (ξ·w) v
    window = region.window(out_bundle.grid(value), u.dtype, u.device)
    slope = act_infinitesimal(xi, window[None], Bundle(out_bundle.base, "scalar"))
    moved = act_infinitesimal(xi, window * value, out_bundle) - slope * value
    return (window * pushed - moved) * inside


def infinitesimal_defect(
    F: Operator,
    xi: Generator,
    u: Tensor,
    in_bundle: Bundle,
    out_bundle: Bundle,
    *,
    region: Region | None = None,
) -> Tensor:
    """‖(L_ξ F)(u)‖ / ‖F(u) − mean‖ of every sample, per unit of the group parameter.

    Fibre norms, quadrature weights and float64 sums; the spatial mean of the output is removed
    because an untrained network is nearly all mean.

    Parameters
    ----------
    F, xi, u, in_bundle, out_bundle, region : as for :func:`lie_derivative`; u (batch, channel, *grid)

    Returns
    -------
    Tensor (batch,), float64

    Examples
    --------
    >>> import fieldsym as fs
    >>> p = fs.Bundle(fs.Torus((2.0, 3.0)), "scalar p")
    >>> u = fs.testing.random_section(p, (16, 24))
    >>> twice = infinitesimal_defect(lambda u: 2 * u, fs.groups.translations(2).generators[1], u, p, p)
    >>> bool(twice < 1e-12)
    True
    """  # noqa: E501
    defect = lie_derivative(F, xi, u, in_bundle, out_bundle, region=region).detach().double()
    if region is not None:
        u = u * region.window(in_bundle.grid(u), u.dtype, u.device)
    value = F(u).detach().double()
    weights = out_bundle.base.weights(out_bundle.grid(value), u.device)
    if region is not None:
        weights = weights * region.mask(out_bundle.grid(value), u.device)
        if not all(out_bundle.base.periodic):  # the derivative is windowed there, see above
            value = value * region.window(out_bundle.grid(value), device=u.device)
    return _ratio(defect, value, out_bundle, weights)


def finite_defect(
    F: Operator,
    g: Element,
    u: Tensor,
    in_bundle: Bundle,
    out_bundle: Bundle,
    *,
    region: Region | None = None,
) -> Tensor:
    """‖F(g·u) − g·F(u)‖ / ‖g·F(u) − mean‖ of every sample.

    Fields are moved and compared in float64 whatever the dtype of F. The region is used only by
    maps that do not carry the base to itself (rotations by generic angles): input and output are
    then windowed by the same Gaussian.

    Parameters
    ----------
    F, u, in_bundle, out_bundle, region : as for :func:`lie_derivative`; u (batch, channel, *grid)
    g : Element

    Returns
    -------
    Tensor (batch,), float64

    Examples
    --------
    >>> import fieldsym as fs
    >>> p = fs.Bundle(fs.Torus((2.0, 3.0)), "pseudoscalar w")
    >>> u = fs.testing.random_section(p, (16, 24))
    >>> mirror = fs.groups.dihedral(1).elements[1]
    >>> bool(finite_defect(lambda u: u**3, mirror, u, p, p) < 1e-12)       # odd functions may
    True
    >>> bool(finite_defect(lambda u: u**2, mirror, u, p, p) > 0.5)         # even ones may not
    True
    """
    in_bundle.check(u, "finite_defect")
    dtype, grid = u.dtype, in_bundle.grid(u)
    windowed = region is not None and not in_bundle.base.admits(g, grid)
    exact = u.double()
    if windowed and region is not None:
        exact = exact * region.window(grid, device=u.device)
    first = F(act(g, exact, in_bundle).to(dtype)).detach().double()
    second = F(exact.to(dtype)).detach().double()
    out_bundle.check(second, "The output bundle of finite_defect")
    weights = out_bundle.base.weights(out_bundle.grid(second), u.device)
    if windowed and region is not None:
        window = region.window(out_bundle.grid(second), device=u.device)
        first, second = first * window, second * window
    second = act(g, second, out_bundle)
    return _ratio(first - second, second, out_bundle, weights)


def _ratio(error: Tensor, value: Tensor, bundle: Bundle, weights: Tensor) -> Tensor:
    """Weighted relative norm of each sample, the spatial mean of the value removed."""
    grid = tuple(range(-bundle.base.dim, 0))
    mean = (value * weights).sum(grid, keepdim=True) / weights.sum()
    top = (bundle.squared_norm(error) * weights).sum(grid)
    bottom = (bundle.squared_norm(value - mean) * weights).sum(grid)
    return (top / bottom.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()
