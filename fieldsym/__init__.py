"""fieldsym: enforce, promote, discover and evaluate the symmetries of neural operators.

Read in this order: :mod:`fieldsym.group`, :mod:`fieldsym.manifold`, :mod:`fieldsym.representation`,
:mod:`fieldsym.bundle`, :mod:`fieldsym.action`, :mod:`fieldsym.lie`, :mod:`fieldsym.operators`,
:mod:`fieldsym.symmetry`.
"""

from fieldsym import group as groups
from fieldsym import simulate, testing
from fieldsym.action import act, act_infinitesimal, action_method
from fieldsym.bundle import Bundle
from fieldsym.errors import BundleError, DataError, GridError, GroupError, RepresentationError
from fieldsym.group import Element, Generator, Group
from fieldsym.lie import finite_defect, infinitesimal_defect, lie_derivative
from fieldsym.manifold import Box, Manifold, Region, Torus
from fieldsym.operators.fno import FNO
from fieldsym.representation import Representation

__all__ = [
    "FNO",
    "Box",
    "Bundle",
    "BundleError",
    "DataError",
    "Element",
    "Generator",
    "GridError",
    "Group",
    "GroupError",
    "Manifold",
    "Region",
    "Representation",
    "RepresentationError",
    "Torus",
    "act",
    "act_infinitesimal",
    "action_method",
    "finite_defect",
    "groups",
    "infinitesimal_defect",
    "lie_derivative",
    "simulate",
    "testing",
]
