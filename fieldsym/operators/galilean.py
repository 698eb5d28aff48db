"""The frame that moves with the mean velocity: exact Galilean boosts for any operator.

>>> import torch, fieldsym as fs
>>> flow = fs.Bundle(fs.Torus((2.0, 3.0)), "scalar p + vector u")
>>> step = fs.frames.GalileanFrame(lambda u: u - u**3, flow, velocity="u", interval=0.5)
>>> u, wind = fs.testing.random_section(flow, (16, 24)), torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)
>>> there = fs.act(fs.Element([[1, 0], [0, 1]], [0.5, 0.0]), step(u), flow) + wind  # u × interval
>>> bool((step(u + wind) - there).abs().max() < 1e-13)
True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real

import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle, require_bundle, require_operator
from fieldsym.errors import BundleError, DataError
from fieldsym.operators.shift import check_periodic, shift

Operator = Callable[[Tensor], Tensor]


class GalileanFrame(nn.Module):
    """An operator that commutes with Galilean boosts: the frame that moves with the mean velocity.

    A boost by v maps u(x) to u(x) + v at the time of the input, and the state ``interval`` later to
    itself shifted by v × interval plus v. With the mean velocity ū and shifts τ,

        N(u) = τ_{ū interval} M(u − ū) + ū          (``interval`` a number; 0: no shift),
        N(u) = M(u − ū) − ū·∇u                      (``interval=None``: M gives a tendency ∂u/∂t).

    Only the velocity takes part in u − ū and + ū; all other fields are shifted alone. Along axes
    that are not periodic nothing is boosted or shifted. What is shifted (the output, and states
    before the latest) loses its Nyquist modes, which an even periodic axis has: moving them by a
    fraction of a cell is no group action. So boosts are exact on even and odd grids and for any
    input. Where nothing is shifted (``interval=0``, ``None``) the modes stay.

    Parameters
    ----------
    operator : callable, sections of ``in_bundle`` to sections of ``out_bundle``
    bundle : Bundle of one state
    velocity : name of its block of vectors, in lengths per unit of time
    interval : time from the latest input to the output; None for a right-hand side
    history : times of the input states from the latest on, relative to it: ``(0, -dt, -2 * dt)``;
        the input then holds the states one after the other, the latest first
    out_bundle : Bundle of the output where it differs, such as a diagnostic scalar

    Raises
    ------
    BundleError   if the bundle has no such vectors, or input or output are not sections.
    GridError     if no axis is periodic.
    DataError     if a time is not finite, or a tendency is of another bundle than the state.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> line = fs.Bundle(fs.Torus((2.0,)), "vector u")
    >>> still = GalileanFrame(torch.zeros_like, line, interval=None)    # ∂u/∂t = −ū ∂u/∂x
    >>> x = line.base.coordinates((16,))
    >>> tendency = still(3.0 + torch.sin(torch.pi * x))
    >>> bool(torch.allclose(tendency, -3.0 * torch.pi * torch.cos(torch.pi * x)))
    True

    References
    ----------
    Frame averaging: Puny et al. 2022, arXiv:2110.03336; boosts of a one-step map: Wang, Walters, Yu
    2021, arXiv:2002.03061, section 3.
    """

    def __init__(
        self,
        operator: Operator,
        bundle: Bundle,
        velocity: str = "u",
        *,
        interval: float | None,
        history: Sequence[float] = (0.0,),
        out_bundle: Bundle | None = None,
    ) -> None:
        super().__init__()
        require_operator(operator, "GalileanFrame")
        require_bundle(bundle, "GalileanFrame")
        if out_bundle is not None:
            require_bundle(out_bundle, "GalileanFrame")
        check_periodic(bundle.base, "A mean-velocity frame")
        self.operator = operator
        self.bundle, self.velocity = bundle, velocity
        self.interval, self.history = interval, _times(interval, history)
        self.out_bundle = bundle if out_bundle is None else out_bundle
        self.in_bundle = _steps(bundle, len(self.history))
        if interval is None and self.out_bundle != bundle:
            raise DataError(
                "interval=None says that the operator gives the tendency of its input; got "
                f"{bundle} to {self.out_bundle}. Give the interval (0 for a diagnosis)."
            )
        self.first_channel = _velocity_channels(bundle, velocity, required=True)[0]
        for name, of in (("boost_in", bundle), ("boost_out", self.out_bundle)):
            self.register_buffer(name, _boost(of, velocity), persistent=False)

    def extra_repr(self) -> str:
        """The bundle, the velocity and the times."""
        return f"{self.bundle}, velocity={self.velocity!r}, interval={self.interval}"

    def mean_velocity(self, u: Tensor) -> Tensor:
        """Mean of the latest velocity along the periodic axes, (*batch, dim), float64.

        Of several copies the first counts.
        """
        base = self.bundle.base
        latest = u.narrow(u.ndim - base.dim - 1, self.first_channel, base.dim).double()
        weights = base.weights(self.bundle.grid(u), u.device)
        mean = (latest * weights).flatten(-base.dim).sum(-1) / weights.sum()
        return mean * mean.new_tensor(base.periodic)

    def forward(self, u: Tensor) -> Tensor:
        """Map states (*batch, channel, *grid) to states."""
        self.in_bundle.check(u, "GalileanFrame")
        mean = self.mean_velocity(u)
        value = self.operator(self._at_rest(u, mean))
        self.out_bundle.check(value, "The output of GalileanFrame")
        if self.interval is None:
            return value - self._advection(u, mean)
        if self.interval:
            value = shift(value, mean * self.interval, self.bundle.base, nyquist=0.0)
        return value + _constant(self.get_buffer("boost_out"), mean, value)

    def _at_rest(self, u: Tensor, mean: Tensor) -> Tensor:
        parts = u.unflatten(-self.bundle.base.dim - 1, (len(self.history), -1))
        axis = u.ndim - self.bundle.base.dim - 1
        states = []
        for time, part in zip(self.history, parts.unbind(axis), strict=True):
            part = part - _constant(self.get_buffer("boost_in"), mean, part)
            if time:
                part = shift(part, -time * mean, self.bundle.base, nyquist=0.0)
            states.append(part)
        return torch.cat(states, axis)

    def _advection(self, u: Tensor, mean: Tensor) -> Tensor:
        """ū·∇u of the latest state."""
        dim = self.bundle.base.dim
        latest = u.narrow(u.ndim - dim - 1, 0, self.bundle.channels)
        speeds = mean.to(u.dtype).view(*mean.shape, *[1] * (dim + 1)).unbind(-dim - 2)
        terms = [
            speed * self.bundle.base.derivative(latest, axis) for axis, speed in enumerate(speeds)
        ]
        return torch.stack(terms).sum(0)


# Mean velocity (*batch, dim) to constant sections that match a section u.
def _constant(boost: Tensor, mean: Tensor, u: Tensor) -> Tensor:
    constant = (mean @ boost.to(mean).T).to(u.dtype)
    return constant.view(*constant.shape, *[1] * mean.shape[-1])


# (channels, dim): adds a velocity to every copy of the velocity block.
def _boost(bundle: Bundle, velocity: str) -> Tensor:
    dim = bundle.base.dim
    matrix = torch.zeros(bundle.channels, dim, dtype=torch.float64)
    for start in _velocity_channels(bundle, velocity, required=False):
        matrix[start : start + dim] = torch.eye(dim)
    return matrix


# First channel of every copy of the velocity.
def _velocity_channels(bundle: Bundle, velocity: str, *, required: bool) -> range:
    block = dict(zip(bundle.names, bundle.blocks, strict=True)).get(velocity)
    if block is None and not required:
        return range(0)
    if block is None or block.kind != "vector":
        vectors = [
            n for n, b in zip(bundle.names, bundle.blocks, strict=True) if b.kind == "vector"
        ]
        raise BundleError(
            f"A boost needs a velocity, a block of type vector; got velocity={velocity!r}, where "
            f"'{bundle.representation}' has {', '.join(vectors) or 'none'}."
        )
    where = bundle.slices[velocity]
    return range(where.start, where.stop, bundle.base.dim)


# Several states one after the other, the latest first: u, u_1, u_2, …
def _steps(bundle: Bundle, times: int) -> Bundle:
    if times == 1:
        return bundle
    blocks = [
        f"{f'{block.copies} ' if block.copies > 1 else ''}{block.kind} {name}{f'_{k}' if k else ''}"
        for k in range(times)
        for name, block in zip(bundle.names, bundle.blocks, strict=True)
    ]
    return Bundle(bundle.base, " + ".join(blocks), bundle.representation.group)


def _times(interval: float | None, history: Sequence[float]) -> tuple[float, ...]:
    given = list(history) if isinstance(history, Iterable) else []
    times = [0.0 if interval is None else interval, *given]
    numbers = all(isinstance(t, Real) and math.isfinite(t) for t in times)
    if not given or not numbers or given[0] != 0:
        raise DataError(
            "A frame needs a finite interval, and the times of its input states relative to the "
            f"latest, which comes first: (0, -dt, …); got interval={interval!r}, history="
            f"{history!r}."
        )
    return tuple(float(time) for time in given)
