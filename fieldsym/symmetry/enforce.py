"""Enforce: the weights of somebody else's module that commute with a group.

A linear layer F_W is equivariant iff L_ξ F_W = 0 for the generators of a group and K_g F_W = F_W
for one g per component: linear equations in W. Their solutions are trained instead of W, so the
symmetry is exact at every step.

>>> import torch, fieldsym as fs
>>> from torch.nn import Conv2d, GELU, Sequential
>>> flow = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p + vector u")
>>> same = {"padding": 1, "padding_mode": "circular"}
>>> net = Sequential(Conv2d(3, 16, 3, **same), GELU(), Conv2d(16, 3, 3, **same))
>>> net = fs.enforce(net, fs.groups.dihedral(4), flow, flow)     # 16 channels: 2 regular fields
>>> sum(p.numel() for p in net.parameters())                      # 883 before
111

To adopt one more layer class: :func:`fieldsym.operators.adopt.register`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.action import act
from fieldsym.bundle import Bundle
from fieldsym.errors import GroupError
from fieldsym.group import Element, Group
from fieldsym.operators.adopt import Hidden, adopt
from fieldsym.operators.adopt_release import bake, keep_projected
from fieldsym.operators.adopt_tie import Adoption, evaluating

# Errors that rounding makes, in units of the precision: of the fluctuation of the output, or of its
# size, since an untrained network is nearly all mean.
FLUCTUATION, SIZE = 1000.0, 30.0
HINTS = {
    "Pool": "its windows do not lie symmetrically about the points of the grid",
    "Upsample": "new points do not lie symmetrically about the old ones",
    "Dropout": "it drops points at random",
}


def enforce(
    module: nn.Module,
    group: Group,
    bundle_in: Bundle,
    bundle_out: Bundle,
    hidden: Hidden = None,
) -> nn.Module:
    """Make somebody else's module commute with a group, in place, and keep it so in training.

    Every parameter is projected on the weights that commute with the group and parametrised by its
    free numbers (``torch.nn.utils.parametrize``), so make the optimiser afterwards. Then the module
    is measured, in evaluation mode, on random sections and all elements; if it is not exact it is
    given back as it was.

    Known are neuraloperator's FNO and TFNO (exact in single precision: its spectral buffer is
    complex64 whatever the dtype; of a TFNO the dense weight is trained, its Tucker factors are
    multiplied out once), networks of ``nn.Conv`` with circular padding, ``nn.Linear`` on channels
    and norms (exact in float64 too), and spectral weights in two blocks.

    Refused, with the reason: grid embeddings and coordinates as channels; domain padding and
    padding other than circular; strides, grouped convolutions, changes of resolution (UNO); even
    modes and kernels; norms with running statistics on anything but scalars, and norms or pointwise
    functions on components that the group mixes; complex data; parameters of unknown layers, or
    shared by two; layers that a forward pass does not use; features whose types cannot be followed.
    Save an enforced module by its ``state_dict``: torch does not pickle parametrised modules.

    Parameters
    ----------
    module : nn.Module from sections (batch, channel, *grid) to sections
    group : Group; elements that permute the axes, and translations
    bundle_in, bundle_out : Bundle, of one base
    hidden : types of the channels inside. None: copies of the regular representation, left-over
        channels are scalars. A string or Representation for all widths, in proportion to their
        channels. Or a dictionary from names of modules to the types of their outputs

    Returns
    -------
    nn.Module   the same object

    Raises
    ------
    GroupError            if the group does not act on the base (a continuous rotation: enforce
                          its finite part), a part of the module breaks it, or a parameter belongs
                          to a layer that is not known.
    GridError             if modes or kernels are even or unequal along exchanged axes; later, in a
                          forward pass, if a grid is too coarse for the modes, or odd where the
                          installed neuraloperator shifts odd spectra wrongly.
    RepresentationError   if hidden types do not fit, or cannot make the output.
    BundleError           if the module does not map sections of one bundle to the other.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> from neuralop.models import FNO
    >>> flow = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p + vector u")
    >>> plain = FNO(n_modes=(5, 5), in_channels=3, out_channels=3, hidden_channels=8, n_layers=1,
    ...             positional_embedding=None)
    >>> model = fs.enforce(plain, fs.groups.dihedral(4), flow, flow)
    >>> u = fs.testing.random_section(flow, (12, 12), dtype=torch.float32)
    >>> turn = fs.groups.cyclic(4).elements[1]
    >>> bool(fs.finite_defect(model, turn, u, flow, flow) < 1e-4)
    True
    >>> model.fno_blocks.convs[0].parametrizations.weight.original0.numel()     # 1920 before
    200

    References
    ----------
    Otto et al. 2023, arXiv:2311.00212, section on enforcing symmetry.
    """
    _verified(adopt(module, group, bundle_in, bundle_out, hidden), group, bundle_in, bundle_out)
    return module


def release(module: nn.Module) -> nn.Module:
    """Replace the parametrisation of :func:`enforce` by plain weights, in place.

    The output does not change by a bit. The state of a neuraloperator FNO loads into an untouched
    FNO of the same arguments; that of a TFNO into an FNO of the same arguments, without
    ``factorization`` and ``rank``, since symmetric weights are no Tucker tensors of that rank.

    Parameters
    ----------
    module : nn.Module that :func:`enforce` returned

    Returns
    -------
    nn.Module   the same object; its parameters are new ones

    Raises
    ------
    GroupError   if the module is not enforced.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> line = fs.Bundle(fs.Torus((1.0,)), "pseudoscalar w")
    >>> conv = torch.nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", dtype=torch.float64)
    >>> conv = fs.release(fs.enforce(conv, fs.groups.reflections(1), line, line))
    >>> conv.bias.item(), bool((conv.weight == conv.weight.flip(-1)).all())
    (0.0, True)
    """
    bake(module)
    return module


def project_(
    module: nn.Module,
    group: Group,
    bundle_in: Bundle,
    bundle_out: Bundle,
    hidden: Hidden = None,
) -> dict[str, float]:
    """Project the weights of a module on those that commute with a group, once and in place.

    The nearest such weights: the mean of the layer over the group. Nothing keeps them symmetric
    afterwards. The parameters stay the same objects, except that the Tucker tensors of a TFNO
    become dense ones.

    Parameters
    ----------
    module, group, bundle_in, bundle_out, hidden : as for :func:`enforce`

    Returns
    -------
    dict   ‖W − P W‖ / ‖W‖ of every parameter, by name: how far it was from symmetric

    Raises
    ------
    GroupError, GridError, RepresentationError, BundleError   as :func:`enforce`.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> line = fs.Bundle(fs.Torus((1.0,)), "scalar p")
    >>> conv = torch.nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
    >>> conv.weight.data = torch.tensor([[[3.0, 0.0, 5.0]]])
    >>> fs.project_(conv, fs.groups.reflections(1), line, line)
    {'weight': 0.2425}
    >>> conv.weight.tolist()
    [[[4.0, 0.0, 4.0]]]
    """
    adoption = adopt(module, group, bundle_in, bundle_out, hidden)
    return keep_projected(_verified(adoption, group, bundle_in, bundle_out))


# Measuring ----------------------------------------------------------------------------------------


def _verified(adoption: Adoption, group: Group, source: Bundle, target: Bundle) -> Adoption:
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
    device = next((p.device for p in module.parameters()), None)
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(2, source.channels, *adoption.grid, generator=draw, dtype=torch.float64)
    u = noise.to(device, adoption.dtype)
    value = module(u)
    errors = {g: _excess(module(act(g, u, source)), act(g, value, target)) for g in moves}
    worst = max(errors, key=lambda g: errors[g], default=None)
    if worst is not None and not errors[worst] <= 1:
        raise GroupError(_blame(adoption, worst, u, source))


def _excess(got: Tensor, want: Tensor) -> float:
    """Norm of an error in units of what rounding explains; NaN and infinity are infinite."""
    want = want.double()
    precision = torch.finfo(got.dtype).eps
    mean = want.mean(tuple(range(2, want.ndim)), keepdim=True)
    allowed = precision * max(FLUCTUATION * float((want - mean).norm()), SIZE * float(want.norm()))
    error = float((got.double() - want).norm())
    if error == 0:
        return 0.0
    return error / allowed if allowed and np.isfinite(error) else np.inf


def _blame(adoption: Adoption, g: Element, u: Tensor, source: Bundle) -> str:
    """Which part breaks the symmetry first, and why."""
    found = (
        f"The module does not commute with {g.name} even with constrained weights, so it was left "
        "as it was."
    )
    for name, bundle, one, other in _sections(adoption, u, act(g, u, source), source):
        if not _excess(other, act(g, one, bundle)) <= 1:
            kind = type(adoption.module.get_submodule(name)).__name__.removeprefix("Parametrized")
            hint = next((f": {why}" for word, why in HINTS.items() if word in kind), "")
            return (
                f"{found} The first output that breaks the symmetry is that of "
                f"{name or 'the module itself'} ({kind}), which does not move like "
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
        if one[0, 0].numel() == u[0, 0].numel():
            bundle = Bundle(source.base, adoption.types.representation(kinds))
            shape = (*one.shape[:2], *adoption.grid)
            yield name, bundle, one.reshape(shape), other.reshape(shape)


def _outputs(module: nn.Module, u: Tensor) -> list[tuple[str, Tensor]]:
    """What every part returns in one forward pass, in the order of execution."""
    seen: list[tuple[str, Tensor]] = []
    handles = [
        part.register_forward_hook(
            lambda _, __, out, name=name: seen.append((name, out))  # type: ignore[misc]
        )
        for name, part in module.named_modules()
    ]
    try:
        module(u)
    finally:
        for handle in handles:
            handle.remove()
    return [(name, out) for name, out in seen if isinstance(out, Tensor)]
