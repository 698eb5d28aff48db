"""Moving frames: operators made exactly equivariant by moving their input and their output.

A frame reads a group element h(u) off the data, with h(g·u) = g h(u), and replaces M by

    N(u) = h(u) · M(h(u)⁻¹ · u),

which commutes with the group whatever M is: a module, a network of somebody else, a lambda. A
finite group can be averaged over instead. This module is the namespace ``fs.frames``:

* :class:`GalileanFrame`: boosts u → u + v (:mod:`fieldsym.operators.galilean`)
* :class:`TranslationFrame`: shifts, by fractions of a cell too
  (:mod:`fieldsym.operators.translation`)
* :class:`GroupAverage`, :class:`FrameAverage`: a finite group, by all or by few of its elements
  (:mod:`fieldsym.operators.averaging`)

>>> import torch, fieldsym as fs
>>> p = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p")
>>> upwind = lambda u: u - u.roll(1, -1)                        # knows left from right
>>> fair = fs.frames.GroupAverage(upwind, fs.groups.dihedral(4), p, p)
>>> float(fs.testing.assert_equivariant(fair, fair.group, p, p, (8, 8))["rotation 90°"]) < 1e-14
True

To add one: write the wrapper in a file of its own (h(u) in float64, out of place, and a word on
where h jumps), and enter it here.
"""

from fieldsym.operators.averaging import FrameAverage, GroupAverage
from fieldsym.operators.galilean import GalileanFrame
from fieldsym.operators.translation import TranslationFrame

__all__ = ["FrameAverage", "GalileanFrame", "GroupAverage", "TranslationFrame"]
