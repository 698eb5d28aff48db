"""Plain weights in the place of tied ones.

>>> import torch, fieldsym as fs
>>> line = fs.Bundle(fs.Torus((1.0,)), "scalar p")
>>> conv = torch.nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")
>>> bake(fs.enforce(conv, fs.groups.reflections(1), line, line))
>>> list(conv.state_dict())
['weight', 'bias']
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from fieldsym.errors import GroupError
from fieldsym.operators.adopt_blocks import BlockGuard
from fieldsym.operators.adopt_checks import check_module
from fieldsym.operators.adopt_neuralop import SpectralGuard, densify, is_neuralop, wrap_again
from fieldsym.operators.adopt_tie import TIES, Adoption, constrained
from fieldsym.operators.adopt_weights import TiedWeight

GUARDS = (SpectralGuard, BlockGuard)


def keep_projected(adoption: Adoption) -> dict[str, float]:
    """Untie a module but keep the projected values, in the parameters it had before.

    Returns
    -------
    dict   relative size of what was removed, by parameter
    """
    removed = {change.full_name: change.removed for change in adoption.changes}
    adoption.undo()
    for change in adoption.changes:
        held = getattr(change.module, change.name)
        if isinstance(held, nn.Parameter):
            held.data.copy_(change.new)
        elif isinstance(getattr(held, "tensor", None), nn.Parameter):
            held.tensor.data.copy_(change.new)
        else:  # a Tucker tensor cannot hold it
            densify(change.module)
            change.module.weight.data.copy_(change.new)  # type: ignore[operator,union-attr]
            wrap_again(change.module)
    return removed


def bake(module: nn.Module) -> None:
    """Put plain weights in the place of tied ones, under their upstream names.

    Raises
    ------
    GroupError   if no weight of the module is tied, or it is no module.
    """
    check_module(module)
    if not constrained(module):
        raise GroupError("This module is not enforced: there is nothing to release.")
    for part in list(module.modules()):
        hooks = part._forward_pre_hooks
        for key in [k for k, hook in hooks.items() if isinstance(hook, GUARDS)]:
            del hooks[key]
        if parametrize.is_parametrized(part):
            _bake_layer(part)


def _own_class(layer: nn.Module) -> None:
    """Copies of a parametrised module share the class that torch made for it, from which removing a
    parametrisation deletes a property: without this, releasing a copy breaks the original.
    """
    shared = type(layer)
    kept = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    layer.__class__ = type(shared.__name__, shared.__bases__, kept)


def _is_trained(ties: nn.Module) -> bool:
    """Whether a weight is trained; one without free numbers, whether it was."""
    own = list(ties.parameters())
    if own:
        return any(p.requires_grad for p in own)
    return all(t.trained for t in ties.children() if isinstance(t, TiedWeight))


def _bake_layer(layer: nn.Module) -> None:
    _own_class(layer)
    lists = dict(layer.parametrizations.items())  # type: ignore[union-attr,operator]
    ours = [name for name, ties in lists.items() if any(isinstance(t, TIES) for t in ties)]
    for name in reversed(ours):  # later blocks read the numbers of earlier ones
        trained = _is_trained(lists[name])
        parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
        value = getattr(layer, name).detach().contiguous()
        delattr(layer, name)
        layer.register_parameter(name, nn.Parameter(value, requires_grad=trained))
    for name in ours:
        layer._parameters[name] = layer._parameters.pop(name)
    if "weight" in ours and is_neuralop(layer, "SpectralConv"):
        wrap_again(layer)
