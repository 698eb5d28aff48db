"""Augmentation: one random element of a finite group, applied to input and target alike.

>>> import torch, fieldsym as fs
>>> flow = fs.Bundle(fs.Torus((2.0, 2.0)), "scalar p + vector u")
>>> turn = RandomAction(fs.groups.dihedral(4), flow, flow, seed=1)
>>> x, y = turn(torch.ones(4, 3, 16, 16), torch.ones(4, 3, 16, 16))
>>> bool(torch.equal(x, y))
True
"""

from __future__ import annotations

import torch
from torch import Tensor

from fieldsym.action import act
from fieldsym.bundle import Bundle
from fieldsym.errors import GroupError
from fieldsym.group import Element, Group


class RandomAction:
    """Draws one element per batch, uniformly, and moves input and target with it.

    Parameters
    ----------
    group : finite Group
    in_bundle, out_bundle : bundles of input and target, for example those of
        :class:`fieldsym.data.windows.Windows`
    seed : of its own generator, so that a run can be repeated

    Attributes
    ----------
    last : the element that the latest call applied
    generator : torch.Generator; its state is what a resumed run has to restore

    Raises
    ------
    GroupError   if the group is not finite, or does not act on one of the bases.
    """

    def __init__(
        self, group: Group, in_bundle: Bundle, out_bundle: Bundle, *, seed: int = 0
    ) -> None:
        if not group.is_finite:
            raise GroupError(
                f"Random augmentation needs a finite group; {group.name} is continuous. Take a "
                "finite subgroup such as groups.dihedral(4)."
            )
        for bundle in (in_bundle, out_bundle):
            group.check(bundle.base)
        self.group = group
        self.in_bundle, self.out_bundle = in_bundle, out_bundle
        self.generator = torch.Generator().manual_seed(seed)
        self.last: Element = group.elements[0]

    def __repr__(self) -> str:
        return f"RandomAction({self.group.name}, {self.in_bundle}, {self.out_bundle})"

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Move a batch of inputs and targets, each (*batch, channel, *grid)."""
        index = int(torch.randint(self.group.order, (), generator=self.generator))
        self.last = self.group.elements[index]
        return act(self.last, x, self.in_bundle), act(self.last, y, self.out_bundle)
