"""fieldsym: enforce, promote and evaluate the symmetries of neural operators on gridded fields.

Read in this order: :mod:`fieldsym.group`, :mod:`fieldsym.manifold`, :mod:`fieldsym.representation`,
:mod:`fieldsym.bundle`, :mod:`fieldsym.action`, :mod:`fieldsym.lie`, :mod:`fieldsym.operators`,
:mod:`fieldsym.symmetry`.
"""

from fieldsym import group as groups
from fieldsym import report, simulate, testing
from fieldsym.action import act, act_infinitesimal, action_method
from fieldsym.bundle import Bundle
from fieldsym.cloning import clone
from fieldsym.data.fields import Fields, open_fields
from fieldsym.data.writers import to_xarray
from fieldsym.errors import BundleError, DataError, GridError, GroupError, RepresentationError
from fieldsym.group import Element, Generator, Group
from fieldsym.lie import finite_defect, infinitesimal_defect, lie_derivative
from fieldsym.manifold import Box, Manifold, Region, Torus
from fieldsym.operators import frames
from fieldsym.operators.collision import LatticeCollision
from fieldsym.operators.external import HeldField
from fieldsym.operators.fno import FNO
from fieldsym.operators.nullspace import Constraint, NullSpaceWeight, null_basis
from fieldsym.operators.steerable_fno import SteerableFNO
from fieldsym.representation import Representation
from fieldsym.surrogate import Surrogate
from fieldsym.symmetry.enforce import enforce, project_, release
from fieldsym.symmetry.evaluate import evaluate
from fieldsym.symmetry.promote import Promotion, promote
from fieldsym.symmetry.promote_relax import relax, residual_parameters, residual_share
from fieldsym.symmetry.promote_snap import snap

__all__ = [
    "FNO",
    "Box",
    "Bundle",
    "BundleError",
    "Constraint",
    "DataError",
    "Element",
    "Fields",
    "Generator",
    "GridError",
    "Group",
    "GroupError",
    "HeldField",
    "LatticeCollision",
    "Manifold",
    "NullSpaceWeight",
    "Promotion",
    "Region",
    "Representation",
    "RepresentationError",
    "SteerableFNO",
    "Surrogate",
    "Torus",
    "act",
    "act_infinitesimal",
    "action_method",
    "clone",
    "enforce",
    "evaluate",
    "finite_defect",
    "frames",
    "groups",
    "infinitesimal_defect",
    "lie_derivative",
    "null_basis",
    "open_fields",
    "project_",
    "promote",
    "relax",
    "release",
    "report",
    "residual_parameters",
    "residual_share",
    "simulate",
    "snap",
    "testing",
    "to_xarray",
]
