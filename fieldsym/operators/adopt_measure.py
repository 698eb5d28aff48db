"""Measuring an adopted module on random sections, and naming the part that breaks its symmetry.

>>> import torch
>>> value = torch.tensor([[[1.0, -1.0]]])
>>> excess(value, value), excess(value + 1, value) > 1, excess(value * torch.nan, value)
(0.0, True, inf)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.action import act
from fieldsym.bundle import Bundle
from fieldsym.errors import GroupError
from fieldsym.group import Element, Group
from fieldsym.operators.adopt_layers import called
from fieldsym.operators.adopt_tie import Adoption, evaluating
from fieldsym.operators.adopt_types import is_position

# Errors that rounding makes, in units of the precision: of the fluctuation of the output, or of its
# size, since an untrained network is nearly all mean.
FLUCTUATION, SIZE = 1000.0, 30.0
ZERO = 3.0  # times what rounding every part once more does to the output
HINTS = {
    "Pool": "its windows do not lie symmetrically about the points of the grid",
    "Upsample": "new points do not lie symmetrically about the old ones",
}


def verified(adoption: Adoption, group: Group, source: Bundle, target: Bundle) -> Adoption:
    """Measure an adopted module; undo the adoption unless its symmetry is exact."""
    try:
        with torch.no_grad(), evaluating(adoption.module):
            _measure(adoption, _moves(adoption, group, source), source, target)
    except BaseException:
        adoption.undo()
        raise
    return adoption


def _moves(adoption: Adoption, group: Group, source: Bundle) -> list[Element]:
    """All elements but the identity, and shifts by one cell where there are translations."""
    spacing = source.base.spacing(adoption.grid)
    one = np.eye(group.dim)
    shifts = [
        Element(one, h * e)
        for h, e in zip(spacing, one, strict=True)
        if any(xi.shift @ e for xi in group.generators)
    ]
    return [g for g in (*adoption.types.group.elements, *shifts) if not g.is_identity]


def _measure(adoption: Adoption, moves: list[Element], source: Bundle, target: Bundle) -> None:
    module = adoption.module
    device = next((t.device for t in chain(module.parameters(), module.buffers())), None)
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(2, source.channels, *adoption.grid, generator=draw, dtype=torch.float64)
    u = noise.to(device, adoption.dtype)
    value = module(u)
    if not value.isfinite().all():
        raise GroupError(_overflow(module, u))
    pairs = {g: (module(act(g, u, source)), act(g, value, target)) for g in moves}
    worst = max(pairs, key=lambda g: excess(*pairs[g]), default=None)
    if worst is None or excess(*pairs[worst]) <= 1:
        return
    rounding = _rounding(module, u, value)
    if float(value.double().norm()) <= ZERO * rounding:
        raise GroupError(
            f"With constrained weights the module returns zero but for rounding: its hidden types "
            f"carry nothing from '{source.representation}' to '{target.representation}', so it was "
            "left as it was. Give it more hidden channels, or other types (hidden=)."
        )
    if not excess(*pairs[worst], rounding) <= 1:
        raise GroupError(_blame(adoption, worst, u, source))


def excess(got: Tensor, want: Tensor, rounding: float = 0.0) -> float:
    """Norm of an error in units of what rounding explains; NaN and infinity are infinite.

    ``rounding`` is what it was measured to do, where the output is a small difference.
    """
    want = want.double()
    precision = torch.finfo(got.dtype).eps
    mean = want.mean(tuple(range(2, want.ndim)), keepdim=True)
    allowed = precision * max(FLUCTUATION * float((want - mean).norm()), SIZE * float(want.norm()))
    allowed = max(allowed, rounding)
    error = float((got.double() - want).norm())
    if error == 0:
        return 0.0
    return error / allowed if allowed and np.isfinite(error) else np.inf


def _rounding(module: nn.Module, u: Tensor, value: Tensor) -> float:
    """Norm of the change of the output when what every part returns is rounded once more."""
    draw = torch.Generator().manual_seed(0)

    def rounded(_: str, out: object) -> object:
        if not isinstance(out, Tensor) or not (out.is_floating_point() or out.is_complex()):
            return out
        noise = torch.randn(out.shape, generator=draw).to(out)
        return out * (1 + torch.finfo(out.dtype).eps * noise)

    return float((_watched(module, u, rounded).double() - value.double()).norm())


def _overflow(module: nn.Module, u: Tensor) -> str:
    """Which part first returns what is not finite."""
    first = next((name for name, out in _outputs(module, u) if not out.isfinite().all()), "")
    return (
        "The module returns NaN or infinity on a section of normal noise, so its symmetry cannot "
        f"be measured and it was left as it was. The first output that is not finite is that of "
        f"{called(first)}: look at its parameters and buffers (running statistics), reload or "
        "re-initialise them, or repair its forward."
    )


def _blame(adoption: Adoption, g: Element, u: Tensor, source: Bundle) -> str:
    """Which part breaks the symmetry first, and why."""
    found = (
        f"The module does not commute with {g.name} even with constrained weights, so it was left "
        "as it was."
    )
    for name, bundle, one, other in _sections(adoption, u, act(g, u, source), source):
        if not excess(other, act(g, one, bundle)) <= 1:
            kind = type(adoption.module.get_submodule(name)).__name__.removeprefix("Parametrized")
            hint = next((f": {why}" for word, why in HINTS.items() if word in kind), "")
            return (
                f"{found} The first output that breaks the symmetry is that of "
                f"{called(name)} ({kind}), which does not move like "
                f"'{bundle.representation}'{hint}. Replace it, or what its forward does between "
                "the modules before it."
            )
    return f"{found} No part could be blamed: look for functions between its modules."


def _sections(
    adoption: Adoption, u: Tensor, moved: Tensor, source: Bundle
) -> Iterator[tuple[str, Bundle, Tensor, Tensor]]:
    """Outputs of parts that are fields of known types, from a section and from a moved one."""
    before, after = (_outputs(adoption.module, x) for x in (u, moved))
    typed = list(adoption.outputs)
    for (name, one), (_, other) in zip(before, after, strict=True):
        if not typed or typed[0][0] != name:
            continue
        _, kinds, axis = typed.pop(0)
        one, other = (x.movedim(axis, 1) for x in (one, other))
        if one[0, 0].numel() == u[0, 0].numel() and not any(map(is_position, kinds)):
            bundle = Bundle(source.base, adoption.types.representation(kinds))
            shape = (*one.shape[:2], *adoption.grid)
            yield name, bundle, one.reshape(shape), other.reshape(shape)


def _outputs(module: nn.Module, u: Tensor) -> list[tuple[str, Tensor]]:
    """What every part returns in one forward pass, in the order of execution."""
    seen: list[tuple[str, object]] = []
    _watched(module, u, lambda name, out: seen.append((name, out)))
    return [(name, out) for name, out in seen if isinstance(out, Tensor)]


def _watched(module: nn.Module, u: Tensor, see: Callable[[str, object], object]) -> Tensor:
    """A forward pass; what ``see`` makes of the output of a part, if not None, takes its place."""
    handles = [
        part.register_forward_hook(lambda _, __, out, name=name: see(name, out))  # type: ignore[misc]
        for name, part in module.named_modules()
    ]
    try:
        found: Tensor = module(u)
        return found
    finally:
        for handle in handles:
            handle.remove()
