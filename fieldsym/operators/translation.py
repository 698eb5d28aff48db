"""The frame that moves with the longest waves of a field: exact shifts by any distance.

>>> import torch, fieldsym as fs
>>> line = fs.Bundle(fs.Torus((1.0,)), "scalar p")
>>> frame = fs.frames.TranslationFrame(torch.relu, line, line, anchor="p")
>>> x = line.base.coordinates((32,))
>>> frame.position(torch.cos(2 * torch.pi * (x - 0.6))).item()             # from the centre, 0.5
0.1
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle, require_bundle, require_operator
from fieldsym.errors import BundleError, DataError
from fieldsym.operators.shift import check_periodic, shift

Operator = Callable[[Tensor], Tensor]
ROUNDING = 1e-14  # a wave below this fraction of the root mean square is none


class TranslationFrame(nn.Module):
    """An operator that commutes with all shifts, by a fraction of a cell too.

    The longest wave of an anchor along every periodic axis, cos(2π(x − p)/L), says where the field
    is; the operator sees it moved by −p, so that this wave peaks in the centre of the base, and its
    output is moved back by p. Exact for any shift of a field without Nyquist modes, which are
    projected out of input and output, and so for shifts by whole cells of any field.

    **The frame jumps** where the longest wave of the anchor vanishes: there p is undefined, and
    near it noise is amplified by one over :meth:`amplitude`. A field that repeats itself within the
    box is such a case. No choice of a frame avoids this: one without jumps does not exist.

    Parameters
    ----------
    operator : callable, sections of ``in_bundle`` to sections of ``out_bundle``
    in_bundle, out_bundle : Bundle, on one base
    anchor : name of the block to look at, default the whole field. One scalar is taken itself, all
        else by the squared fibre norm, which no rotation or reflection changes; its longest wave is
        resolved for modes below (N − 1)/2.
    tolerance : least amplitude; the whole batch is refused where a sample has less. None accepts
        everything, leaves a field without anchor where it is, and is needed under ``torch.compile``
        and ``torch.vmap``, which cannot look at values.

    Raises
    ------
    DataError     if a sample has no anchor: its amplitude is below the tolerance.
    BundleError   if the anchor is no block, the bases differ, or input or output are not sections.
    GridError     if no axis is periodic.

    Examples
    --------
    >>> import fieldsym as fs
    >>> p = fs.Bundle(fs.Torus((2.0, 3.0)), "scalar p")
    >>> model = fs.frames.TranslationFrame(lambda u: u.relu(), p, p, anchor="p")
    >>> u = fs.testing.random_section(p, (16, 24))
    >>> third = fs.Element([[1.0, 0.0], [0.0, 1.0]], [0.0, 1 / 24])         # of a cell along y
    >>> moved = model(fs.act(third, u, p))
    >>> bool((moved - fs.act(third, model(u), p)).abs().max() < 1e-13)
    True

    References
    ----------
    Canonicalisation and its jumps: Dym, Lawrence, Siegel 2024, arXiv:2402.16077.
    """

    def __init__(
        self,
        operator: Operator,
        in_bundle: Bundle,
        out_bundle: Bundle,
        *,
        anchor: str | None = None,
        tolerance: float | None = 1e-3,
    ) -> None:
        super().__init__()
        require_operator(operator, "TranslationFrame")
        require_bundle(in_bundle, "TranslationFrame")
        require_bundle(out_bundle, "TranslationFrame")
        if in_bundle.base != out_bundle.base:
            raise BundleError(
                f"A translation frame needs one base; got {in_bundle.base} and {out_bundle.base}."
            )
        check_periodic(in_bundle.base, "A translation frame")
        if anchor is not None and anchor not in in_bundle.names:
            raise BundleError(
                f"The anchor is a block of the input, one of {in_bundle.names}; got {anchor!r}."
            )
        self.operator = operator
        self.in_bundle, self.out_bundle = in_bundle, out_bundle
        self.anchor, self.tolerance = anchor, tolerance
        self.looked_at = in_bundle if anchor is None else _block(in_bundle, anchor)
        self.is_scalar = [(b.kind, b.copies) for b in self.looked_at.blocks] == [("scalar", 1)]
        where = slice(0, in_bundle.channels) if anchor is None else in_bundle.slices[anchor]
        self.channels = (where.start, where.stop - where.start)
        # looked up here, for torch.compile traces no cached properties
        _ = self.looked_at.representation.is_euclidean

    def extra_repr(self) -> str:
        """The base and the anchor."""
        return f"{self.in_bundle.base}, anchor={self.anchor!r}, tolerance={self.tolerance}"

    def position(self, u: Tensor) -> Tensor:
        """Where the longest waves of the anchor peak, from the centre, (*batch, dim), float64."""
        base = self.in_bundle.base
        real, imaginary = self._longest_waves(u)
        gone = (real == 0) & (imaginary == 0)  # no gradient of an angle there
        angle = torch.atan2(imaginary, real + gone.to(real))
        return -angle * angle.new_tensor([n / (2 * math.pi) for n in base.lengths])

    def amplitude(self, u: Tensor) -> Tensor:
        """Size of the longest waves of the anchor in its standard deviation, (*batch, dim), 0 to 1.

        Examples
        --------
        >>> import torch, fieldsym as fs
        >>> line = fs.Bundle(fs.Torus((1.0,)), "scalar p")
        >>> frame = fs.frames.TranslationFrame(torch.relu, line, line, anchor="p")
        >>> x = 2 * torch.pi * line.base.coordinates((32,))
        >>> frame.amplitude(torch.cos(x) + torch.sin(2 * x)).item()                # √½
        0.7071
        """
        real, imaginary = self._longest_waves(u)
        a = self._anchor(u)
        spread = a.flatten(-self.in_bundle.base.dim).var(-1, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)[..., None]
        return (2 * (real.square() + imaginary.square()) / spread).sqrt()

    def forward(self, u: Tensor) -> Tensor:
        """Map sections (*batch, channel, *grid) of ``in_bundle`` to sections of ``out_bundle``."""
        self.in_bundle.check(u, "TranslationFrame")
        if self.tolerance is not None:
            self._refuse_lost(self.amplitude(u.detach()), self.tolerance)
        base, position = self.in_bundle.base, self.position(u)
        value = self.operator(shift(u, -position, base, nyquist=0.0))
        self.out_bundle.check(value, "The output of TranslationFrame")
        return shift(value, position, base, nyquist=0.0)

    def _refuse_lost(self, amplitude: Tensor, tolerance: float) -> None:
        periodic = torch.tensor(self.in_bundle.base.periodic, device=amplitude.device)
        least = float(amplitude[..., periodic].min())
        if not least >= tolerance:  # NaN too
            raise DataError(
                "The longest wave of the anchor says where a field is; here it holds "
                f"{least:.1e} of the standard deviation, less than the tolerance {tolerance:.1e}, "
                "so its phase is noise (the field may repeat itself within the box). Take another "
                "anchor, a smaller tolerance, or None to accept every field."
            )

    def _anchor(self, u: Tensor) -> Tensor:
        """The invariant that is looked at, (*batch, *grid), float64."""
        dim = self.in_bundle.base.dim
        part = u.narrow(u.ndim - dim - 1, *self.channels).double()
        return part.squeeze(-dim - 1) if self.is_scalar else self.looked_at.squared_norm(part)

    def _longest_waves(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Fourier coefficient of mode 1 of the anchor along each axis; zero on open axes."""
        base, a = self.in_bundle.base, self._anchor(u)
        x = base.axes(self.in_bundle.grid(u), torch.float64, u.device)
        waves: list[list[Tensor]] = [[], []]
        for axis, length in enumerate(base.lengths):
            others = [i - base.dim for i in range(base.dim) if i != axis]
            profile = a.mean(others) if others else a
            angle = 2 * math.pi / length * (x[axis] - base.centre[axis])
            weight = float(base.periodic[axis]) / len(angle)
            waves[0].append((profile * angle.cos()).sum(-1) * weight)
            waves[1].append((profile * -angle.sin()).sum(-1) * weight)
        real, imaginary = torch.stack(waves[0], -1), torch.stack(waves[1], -1)
        floor = ROUNDING**2 * a.square().flatten(-base.dim).mean(-1)[..., None]
        there = (real.square() + imaginary.square() > floor).to(real)
        return real * there, imaginary * there


# The bundle of one block.
def _block(bundle: Bundle, name: str) -> Bundle:
    text = str(bundle.blocks[bundle.names.index(name)])
    return Bundle(bundle.base, text, bundle.representation.group)
