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

from torch import nn

from fieldsym.bundle import Bundle
from fieldsym.group import Group
from fieldsym.operators.adopt import Hidden, adopt
from fieldsym.operators.adopt_checks import check_module
from fieldsym.operators.adopt_measure import verified
from fieldsym.operators.adopt_position import refuse_embedding
from fieldsym.operators.adopt_release import bake, keep_projected
from fieldsym.operators.adopt_tie import Adoption


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

    Exact means up to rounding: in float32 ‖F(g·u) − g·F(u)‖ is at most 2e-6 ‖F(u)‖ where it was
    measured. The output of an untrained network is nearly all mean; relative to its fluctuation,
    as ``finite_defect`` and ``evaluate`` measure, the same error is larger by the ratio of the two
    (measured up to 1000 times: 3e-5).

    Known are neuraloperator's FNO and TFNO (exact in single precision: its spectral buffer is
    complex64 whatever the dtype; of a TFNO the dense weight is trained, its Tucker factors are
    multiplied out once), networks of ``nn.Conv`` with circular padding, ``nn.Linear`` on channels
    and norms (exact in float64 too), and spectral weights in blocks. Blocks are known by their
    names: in the plane ``weights1`` with the rows k = 0..m−1 and ``weights2`` with −m..−1 (on a
    line ``weights1`` alone; in space up to ``weights4``, the first axis changing its sign first),
    of shape (in, out, *modes), complex or with a last axis of (real, imaginary). Row −m has no
    partner +m: where the group asks for one it is set to zero.

    Refused, with the reason: grid embeddings and coordinates as channels; domain padding and
    padding other than circular; strides, grouped convolutions, changes of resolution (UNO); even
    modes and kernels; dropout with p > 0, since random points or channels differ between a field
    and its image; norms with running statistics on anything but scalars, and norms or pointwise
    functions on components that the group mixes; complex data; parameters that are not finite,
    belong to unknown layers, or are shared by two; layers that a forward pass does not use;
    features whose types cannot be followed. A weight or bias that the group leaves no free number
    (the bias of a vector) is a constant zero and no parameter until :func:`release`.
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
                          its finite part), a part of the module breaks it, a parameter belongs
                          to a layer that is not known or is not finite, or ``module`` is no
                          nn.Module or ``group`` no Group.
    GridError             if modes or kernels are even or unequal along exchanged axes; later, in a
                          forward pass, if a grid is too coarse for the modes, or odd where the
                          installed neuraloperator shifts odd spectra wrongly.
    RepresentationError   if hidden types do not fit, or cannot make the output.
    BundleError           if the module does not map sections of one bundle to the other, or they
                          are no Bundles.

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
    _adopted(module, group, bundle_in, bundle_out, hidden)
    return module


def _adopted(
    module: nn.Module, group: Group, bundle_in: Bundle, bundle_out: Bundle, hidden: Hidden
) -> Adoption:
    check_module(module)
    refuse_embedding(module)
    adoption = adopt(module, group, bundle_in, bundle_out, hidden)
    return verified(adoption, group, bundle_in, bundle_out)


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
    GroupError   if the module is not enforced, or no nn.Module.

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
    return keep_projected(_adopted(module, group, bundle_in, bundle_out, hidden))
