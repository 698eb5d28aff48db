"""Averages over a finite group: any operator made exactly equivariant, at a price in evaluations.

    N(u) = Σ_g w_g(u) g·M(g⁻¹·u),      w_{hg}(h·u) = w_g(u),      Σ_g w_g = 1.

Equal weights are the average over the group; weights on few elements, read off the field, are a
frame. Moments of the gradient bring a field to a canonical order here: they see no position, so
translations that M commutes with are kept.

>>> import torch, fieldsym as fs
>>> p = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p")
>>> d4, upwind = fs.groups.dihedral(4), lambda u: u - u.roll(1, -1)
>>> frame = fs.frames.FrameAverage(upwind, d4, p, p, frames="minimal")
>>> u = fs.testing.random_section(p, (8, 8), kmax=3)
>>> g = d4.elements[5]
>>> bool((frame(fs.act(g, u, p)) - fs.act(g, frame(u), p)).abs().max() < 1e-14)
True

To add one: another rule for the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle, require_bundle, require_operator
from fieldsym.errors import BundleError, GroupError
from fieldsym.group import Group, require_group
from fieldsym.operators.moves import Moves

Operator = Callable[[Tensor], Tensor]
FRAMES = ("stochastic", "minimal", "all")
TIE = 1e-6  # moments closer than this, in units of their bound, count as equal


class GroupAverage(nn.Module):
    """The average of an operator over a finite group, exactly equivariant.

    Differentiable; one call of the operator on |G| times the batch.

    Parameters
    ----------
    operator : callable, (batch, channel, *grid) of ``in_bundle`` to the same of ``out_bundle``
    group : finite Group that acts on the base; its elements may hold shifts
    in_bundle, out_bundle : Bundle, on one base

    Raises
    ------
    GroupError    if the group is not finite, or does not act on the base or grid.
    BundleError   if the bases differ, or input or output are not sections.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> base = fs.Torus((2.0, 3.0))
    >>> w, u = fs.Bundle(base, "pseudoscalar w"), fs.Bundle(base, "vector u")
    >>> mean = GroupAverage(lambda w: torch.cat([w, w], 1), fs.groups.reflections(2), w, u)
    >>> mean(torch.ones(1, 1, 4, 6)).abs().max().item()         # no reflection-fair vector there
    0.0

    References
    ----------
    Reynolds operator; Puny et al. 2022, arXiv:2110.03336, section 2.
    """

    def __init__(
        self, operator: Operator, group: Group, in_bundle: Bundle, out_bundle: Bundle
    ) -> None:
        super().__init__()
        require_operator(operator, "GroupAverage")
        self.operator = operator
        self.group, self.in_bundle, self.out_bundle = group, in_bundle, out_bundle
        self.apart, self.back = _moves(group, in_bundle, out_bundle, "GroupAverage")

    def extra_repr(self) -> str:
        """The group and the bundles."""
        return f"{self.group}, {self.in_bundle} → {self.out_bundle}"

    def forward(self, u: Tensor) -> Tensor:
        """Map sections (*batch, channel, *grid) of ``in_bundle`` to sections of ``out_bundle``."""
        self.in_bundle.check(u, "GroupAverage")
        dim = self.in_bundle.base.dim
        value = _images(self, u.reshape(-1, *u.shape[-dim - 1 :])).mean(0)
        return value.reshape(*u.shape[: -dim - 1], *value.shape[1:])


class FrameAverage(nn.Module):
    """An operator averaged over the few elements of a finite group that its input singles out.

    The frame of u holds the elements h for which h⁻¹·u is in canonical order. Its first key are the
    second moments of the gradient along the axes, ∫|∂_i u|², in descending order: the axes of a
    principal component analysis that a lattice admits. Further keys tell the two directions of an
    axis and the parity of fibres: the mixed second moments, the third moments ∫(∂_i |u|²)³ and
    ∫∂_i u |∇u|², and the means of u and of |u|² u.

    * ``"all"``: every element that the first key admits (dihedral(4): 4 of 8); exact.
    * ``"stochastic"``: one of these at random for every sample; exact in expectation, one
      evaluation.
    * ``"minimal"``: the elements that all keys admit; exact. One evaluation for a field without
      symmetry; ties are the elements that fix the field (up to a shift), and are averaged.

    **The frame jumps** where two keys are equal: a field near a symmetric one is brought to either
    order by an infinitesimal change. Moments that differ by less than 1e-6 of their bound count as
    equal.

    Parameters
    ----------
    operator : callable, (batch, channel, *grid) of ``in_bundle`` to the same of ``out_bundle``
    group : finite Group that acts on the base
    in_bundle, out_bundle : Bundle, on one base
    frames : "stochastic", "minimal" or "all"; the last two evaluate a number of fields that depends
        on the data, which ``torch.vmap`` refuses. Under ``torch.compile`` and ``torch.export``,
        whose graphs have fixed sizes, all elements are evaluated and weighted: the same values at
        the price of a :class:`GroupAverage`
    generator : torch.Generator of the random elements, default the global one

    Raises
    ------
    GroupError    if the group is not finite, or does not act on the base or grid, or ``frames`` is
                  no choice.
    BundleError   if the bases differ, or input or output are not sections.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> p = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p")
    >>> u = fs.testing.random_section(p, (8, 8), kmax=3)
    >>> for frames in ("minimal", "all"):
    ...     model = FrameAverage(torch.sin, fs.groups.dihedral(4), p, p, frames=frames)
    ...     int((model.weights(u) > 0).sum())
    1
    4
    >>> model.weights(torch.zeros(1, 1, 8, 8))                                # all fix it
    tensor([[0.1250, 0.1250, 0.1250, 0.1250, 0.1250, 0.1250, 0.1250, 0.1250]],
           dtype=torch.float64)

    References
    ----------
    Puny et al. 2022, arXiv:2110.03336; stochastic frames: Duval et al. 2023 (FAENet),
    arXiv:2305.05577; minimal frames: Lin et al. 2024, arXiv:2406.07598.
    """

    def __init__(
        self,
        operator: Operator,
        group: Group,
        in_bundle: Bundle,
        out_bundle: Bundle,
        *,
        frames: str,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        require_operator(operator, "FrameAverage")
        if frames not in FRAMES:
            raise GroupError(f"frames is one of {', '.join(map(repr, FRAMES))}; got {frames!r}.")
        self.operator = operator
        self.group, self.in_bundle, self.out_bundle = group, in_bundle, out_bundle
        self.frames, self.generator = frames, generator
        self.apart, self.back = _moves(group, in_bundle, out_bundle, "FrameAverage")
        points = torch.stack([torch.from_numpy(g.inverse.matrix) for g in group.elements])
        # looked up here: what is cached within a transform of torch would belong to the transform
        root = torch.linalg.cholesky(in_bundle.representation.gram).mT.contiguous()
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("root", root, persistent=False)

    def extra_repr(self) -> str:
        """The group, the frames and the bundles."""
        return f"{self.group}, frames={self.frames!r}, {self.in_bundle} → {self.out_bundle}"

    def weights(self, u: Tensor) -> Tensor:
        """Weight of every element, (*batch, order), float64: equal on the frame, zero elsewhere."""
        self.in_bundle.check(u, "FrameAverage")
        keys = self._keys(u.detach().double())
        kept = torch.ones_like(keys[..., 0], dtype=torch.bool)
        for key in keys.unbind(-1):
            best = torch.where(kept, key, -math.inf).amax(-1, keepdim=True)
            kept = kept & (key >= best - TIE)
        return kept / kept.sum(-1, keepdim=True).double()

    def forward(self, u: Tensor) -> Tensor:
        """Map sections (*batch, channel, *grid) of ``in_bundle`` to sections of ``out_bundle``."""
        dim = self.in_bundle.base.dim
        flat = u.reshape(-1, *u.shape[-dim - 1 :])
        weights = self.weights(flat)
        if self.frames == "stochastic":
            every = torch.arange(flat.shape[0], device=u.device)
            element = torch.multinomial(weights, 1, generator=self.generator).squeeze(1)
            value = self._evaluate(flat, element, every)
        elif torch.compiler.is_compiling():  # as many evaluations for any data
            images = _images(self, flat)
            value = torch.einsum("bg,gb...->b...", weights.to(images), images)
        else:
            sample, element = weights.nonzero(as_tuple=True)
            terms = self._evaluate(flat, element, sample)
            each = weights[sample, element].to(terms).view(-1, *[1] * (dim + 1))
            start = terms.new_zeros(len(flat), *terms.shape[1:])
            value = start.index_add(0, sample, terms * each)
        return value.reshape(*u.shape[: -dim - 1], *value.shape[1:])

    def _evaluate(self, u: Tensor, element: Tensor, sample: Tensor) -> Tensor:
        """g·M(g⁻¹·u) for pairs of an element and a sample."""
        value = self.operator(self.apart(u)[element, sample])
        self.out_bundle.check(value, "The output of FrameAverage")
        return self.back(value)[element, torch.arange(len(value), device=u.device)]

    def _keys(self, u: Tensor) -> Tensor:
        """Moments of g⁻¹·u for every g, (*batch, order, key), each at most 1 in size."""
        gradient = self._gradient(u)
        second = gradient.transpose(-3, -2).flatten(-2)
        second = second @ second.mT
        a, dim = self.get_buffer("points").to(u), self.in_bundle.base.dim
        moved = a @ _over(second, second.diagonal(dim1=-2, dim2=-1).sum(-1))[..., None, :, :] @ a.mT
        keys = [moved.diagonal(dim1=-2, dim2=-1)]
        if self.frames == "minimal":
            above = torch.triu_indices(dim, dim, 1, device=u.device)
            keys.append(moved[..., above[0], above[1]])
            keys += [self._third(u, a), self._skewness(gradient, a), *self._means(u)]
        return torch.cat(keys, -1)

    def _gradient(self, u: Tensor) -> Tensor:
        """∂_i u, (*batch, component, dim, point); their squares add up to the fibre norm."""
        base = self.in_bundle.base
        gradient = base.gradient(u).flatten(-base.dim)
        return torch.einsum("ab,...bip->...aip", self.get_buffer("root").to(u), gradient)

    def _size(self, u: Tensor) -> Tensor:
        """|u|² at every point, (*batch, *grid)."""
        dim = self.in_bundle.base.dim
        square = (self.get_buffer("root").to(u) @ u.flatten(-dim)).square().sum(-2)
        return square.unflatten(-1, u.shape[-dim:])

    def _third(self, u: Tensor, a: Tensor) -> Tensor:
        """∫(∂_i |u|²)³ is a vector for maps of axes to axes."""
        base = self.in_bundle.base
        slope = base.gradient(self._size(u)).flatten(-base.dim)
        third = _over(slope.pow(3).sum(-1), slope.abs().pow(3).sum((-2, -1)))
        return (a @ third[..., None, :, None]).squeeze(-1)

    def _skewness(self, gradient: Tensor, a: Tensor) -> Tensor:
        """∫ ∂_i u |∇u|² for every component of u: it changes sign with u."""
        steep = gradient.square().sum((-3, -2), keepdim=True)
        third = _over((gradient * steep).sum(-1), (gradient.abs() * steep).sum((-3, -2, -1)))
        inside = self.get_buffer("root").to(gradient)
        rho = inside @ self.apart.get_buffer("rho").to(gradient) @ inside.inverse()
        return (rho @ third[..., None, :, :] @ a.mT).flatten(-2)

    def _means(self, u: Tensor) -> list[Tensor]:
        """Means of u and |u|² u, which the fibre moves."""
        dim, rho = self.in_bundle.base.dim, self.apart.get_buffer("rho").to(u)
        size = self._size(u).unsqueeze(-dim - 1)
        weighted = [(part.flatten(-dim), part.abs().flatten(-dim)) for part in (u, size * u)]
        return [
            (rho @ _over(part.sum(-1), bound.sum((-2, -1)))[..., None, :, None]).squeeze(-1)
            for part, bound in weighted
        ]


def _images(model: GroupAverage | FrameAverage, u: Tensor) -> Tensor:
    """g·M(g⁻¹·u) for every element, (order, batch, channel, *grid)."""
    moved = model.apart(u)
    value = model.operator(moved.flatten(0, 1))
    model.out_bundle.check(value, f"The output of {type(model).__name__}")
    value = value.unflatten(0, moved.shape[:2])
    return torch.stack([model.back.one(i, value[i]) for i in range(model.group.order)])


def _moves(group: Group, in_bundle: Bundle, out_bundle: Bundle, who: str) -> tuple[Moves, Moves]:
    """The inverses on the input and the elements on the output."""
    require_group(group, who)
    require_bundle(in_bundle, who)
    require_bundle(out_bundle, who)
    if in_bundle.base != out_bundle.base:
        raise BundleError(f"An average needs one base; got {in_bundle.base} and {out_bundle.base}.")
    if not group.is_finite:
        raise GroupError(
            f"Averages run over a finite group; {group.name} has {len(group.generators)} "
            "continuous generators. Use a finite subgroup such as cyclic(4) or dihedral(4)."
        )
    group.check(in_bundle.base)
    return Moves(group, in_bundle, inverse=True), Moves(group, out_bundle, inverse=False)


# A moment over its bound; nothing where the bound is zero.
def _over(moment: Tensor, bound: Tensor) -> Tensor:
    bound = bound.view(*bound.shape, *[1] * (moment.ndim - bound.ndim))
    return moment / torch.where(bound > 0, bound, 1.0)
