"""Relax: a symmetry that training may break, weight by weight, at a price.

Every weight is a part that commutes with the group and an orthogonal residual that need not. A
decay on the residuals alone, or a penalty on them, keeps the symmetry unless the data force it.

>>> import torch, fieldsym as fs
>>> flow = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p + vector u")
>>> model = fs.FNO(flow, flow, n_modes=(5, 5), hidden_channels=8, n_layers=1)
>>> model = relax(model, fs.groups.dihedral(4), flow, flow)
>>> residual = residual_parameters(model)
>>> others = [p for p in model.parameters() if all(p is not r for r in residual)]
>>> optimiser = torch.optim.AdamW(
...     [{"params": others, "weight_decay": 0.0}, {"params": residual, "weight_decay": 1.0}]
... )
"""

from __future__ import annotations

from torch import nn

from fieldsym.bundle import Bundle
from fieldsym.errors import GroupError
from fieldsym.group import Group
from fieldsym.operators.adopt import Hidden, adopt
from fieldsym.operators.adopt_checks import check_module
from fieldsym.operators.adopt_measure import verified
from fieldsym.operators.relaxed import Residual, add_residuals, residuals


def relax(
    module: nn.Module,
    group: Group,
    in_bundle: Bundle,
    out_bundle: Bundle,
    *,
    hidden: Hidden = None,
    symmetric: bool = False,
) -> nn.Module:
    """Split every weight of a module into a symmetric part and a residual, in place.

    W = T z + (D − P D): free numbers z as :func:`fieldsym.enforce` trains them, a dense D, and the
    projection P on the weights that commute. With D = 0 the symmetry is exact. Train z and D with a
    weight decay of their own (the prior of the reference: the larger the decay of D, the more
    evidence a broken symmetry needs; with AdamW entries of about 1 / decay remain), or add the
    unsquared norms of ``fs.promote(…, level="weights")`` to the loss. Known and refused are the
    modules that ``enforce`` knows and refuses, and :class:`fieldsym.FNO` without a group.
    Coordinates along periodic axes as inputs, and those of neuraloperator's grid embedding, which
    ``enforce`` refuses, belong to the residual. :func:`fieldsym.release` puts plain weights back.

    Where the group mixes channels (traceless tensors in space) and in registered layers D is added
    as it is: then P D is another name for a part of T z, and only the decay of D parts them.

    Parameters
    ----------
    module, group, in_bundle, out_bundle, hidden : as for :func:`fieldsym.enforce`
    symmetric : whether to start from the projected weights, D = 0; else from the weights of the
        module, whose output does not change

    Returns
    -------
    nn.Module   the same object; make the optimiser afterwards

    Raises
    ------
    GroupError, GridError, RepresentationError, BundleError   as :func:`fieldsym.enforce`.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> line = fs.Bundle(fs.Torus((1.0,)), "scalar p")
    >>> conv = torch.nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
    >>> conv.weight.data = torch.tensor([[[3.0, 0.0, 5.0]]])
    >>> conv = relax(conv, fs.groups.reflections(1), line, line)
    >>> conv.weight.tolist(), residual_share(conv)
    ([[[3.0, 0.0, 5.0]]], {'weight': 0.2425})

    Notes
    -----
    The penalty of ``fs.promote`` is relative to the size of the weights, which Adam would enlarge
    to lower it. Give its gradient to the residuals alone: after ``loss.backward()`` call
    ``(gamma * penalty()).backward(inputs=residual_parameters(model))``. A loss is stationary in the
    columns of coordinates where they are zero: with ``symmetric=True`` translations stay unbroken.

    References
    ----------
    Finzi, Benton, Wilson 2021, arXiv:2112.01388 (residual pathway priors), here with the
    residual on the orthogonal complement.
    """
    adoption = adopt(module, group, in_bundle, out_bundle, hidden)
    add_residuals(verified(adoption, group, in_bundle, out_bundle), symmetric=symmetric)
    return module


def residual_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The dense parameters of the residuals, for a group of their own in an optimiser.

    Parameters
    ----------
    module : nn.Module that :func:`relax` returned

    Returns
    -------
    list of Parameter, each in the shape of its weight; complex ones end in (real, imaginary)

    Raises
    ------
    GroupError   if the module is not relaxed, or no nn.Module.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> wind = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u")
    >>> layer = relax(torch.nn.Conv2d(2, 2, 1), fs.groups.dihedral(4), wind, wind)
    >>> [tuple(p.shape) for p in residual_parameters(layer)]
    [(2, 2, 1, 1), (2,)]
    """
    return [part.dense for part in _found(module).values()]


def residual_share(module: nn.Module) -> dict[str, float]:
    """How far every weight is from symmetric, ‖D − P D‖ / ‖W‖.

    Parameters
    ----------
    module : nn.Module that :func:`relax` returned

    Returns
    -------
    dict   from the name of the weight to a number between 0 and 1; 0 for a weight that is zero

    Raises
    ------
    GroupError   if the module is not relaxed, or no nn.Module.

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> wind = fs.Bundle(fs.Torus((1.0, 1.0)), "vector u")
    >>> layer = torch.nn.Conv2d(2, 2, 1)
    >>> layer.weight.data = torch.tensor([[2.0, 1.0], [0.0, 2.0]]).view(2, 2, 1, 1)
    >>> residual_share(relax(layer, fs.groups.dihedral(4), wind, wind))
    {'weight': 0.3333, 'bias': 1.0}
    """
    return {name: _share(module, name, part) for name, part in _found(module).items()}


def _found(module: nn.Module) -> dict[str, Residual]:
    check_module(module)
    found = residuals(module)
    if not found:
        raise GroupError(
            "This module is not relaxed: no weight has a residual. Call fs.relax(module, group, "
            "in_bundle, out_bundle) first."
        )
    return found


def _share(module: nn.Module, name: str, part: Residual) -> float:
    owner, _, weight = name.rpartition(".")
    size = getattr(module.get_submodule(owner), weight).detach().norm()
    rest = (part.dense - part.allowed()).detach().norm()
    return float(rest / size) if size else 0.0
