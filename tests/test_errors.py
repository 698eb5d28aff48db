"""Every error path of the core, with what its message says: expected, got, why, what to do."""

import re

import numpy as np
import pytest
import torch
from catalogue import OBLONG, SQUARE, groups

import fieldsym as fs
from fieldsym.operators.modes import check_modes
from fieldsym.operators.spectral import SpectralConv

D4, SO2 = groups.dihedral(4), groups.so(2)
UNIT = fs.Torus((1.0, 1.0))
WALLS = fs.Box((1.0, 1.0), periodic=(True, False))
P, V = fs.Bundle(SQUARE, "scalar p"), fs.Bundle(OBLONG, "scalar p + vector u")
QUARTER = groups.cyclic(4).elements[1]


def fno(*bundles, **options):
    options = {"group": D4, "n_modes": 5, "hidden_channels": 8, "n_layers": 1} | options
    return fs.FNO(*(bundles or (P, P)), **options)


def model_on(u, **options):
    return fno(**options)(u)


ERRORS = {
    # groups
    "square matrix": (
        lambda: fs.Element(np.ones((2, 3))), fs.GroupError, "square matrix; got shape (2, 3)"),
    "shift of an element": (
        lambda: fs.Element(np.eye(2), [1.0]), fs.GroupError, "needs a shift of 2 lengths"),
    "order of a continuous group": (
        lambda: SO2.order, fs.GroupError,
        "A finite group is needed here; so(2) has 1 continuous generators. Use a finite subgroup"),
    "table of a continuous group": (lambda: SO2.table, fs.GroupError, "A finite group is needed"),
    "not an element": (
        lambda: groups.dihedral(2).index(QUARTER), fs.GroupError,
        "rotation 90° is not an element of dihedral(2), which has identity, rotation 180°"),
    "subgroup of others": (
        lambda: groups.dihedral(2).subgroup("turns", [QUARTER]), fs.GroupError,
        "rotation 90° is not an element"),
    "coefficients": (
        lambda: groups.so(3).exp([1.0, 2.0]), fs.GroupError,
        "so(3) has 3 generators (rotation yz, rotation zx, rotation xy); got 2 coefficients"),
    "product of two dimensions": (
        lambda: D4 * groups.reflections(3), fs.GroupError, "dihedral(4) acts in 2-D and"),
    "infinitely many products": (
        lambda: groups.cyclic(4) * groups.trivial() * fs.Group(
            "odd", 2, (), (fs.Element(groups.so(2).exp([1.0]).matrix),)),
        fs.GroupError, "more than 512 maps"),
    "no rotations": (lambda: groups.cyclic(0), fs.GroupError, "cyclic(n) needs n ≥ 1; got 0"),
    "dihedral on a line": (
        lambda: groups.dihedral(4, dim=1), fs.GroupError, "acts in 2 or 3 dimensions; got 1"),
    "two and a half rotations": (
        lambda: groups.cyclic(2.5), fs.GroupError,
        "cyclic(n) needs a whole number of rotations n ≥ 1; got 2.5"),
    "rotations as text": (lambda: groups.dihedral("4"), fs.GroupError, "n ≥ 1; got '4'"),
    "o in one dimension": (lambda: groups.o(1), fs.GroupError, "o acts in 2 or 3 dimensions"),
    "se in one dimension": (lambda: groups.se(1), fs.GroupError, "se acts in 2 or 3 dimensions"),
    "e in four dimensions": (lambda: groups.e(4), fs.GroupError, "e acts in 2 or 3 dimensions"),
    "one number as lengths": (
        lambda: fs.Torus(1.0), fs.GridError, "one length per axis, such as (1.0, 1.0)"),
    "text as lengths": (lambda: fs.Box("1"), fs.GridError, "one length per axis"),
    "a number as representation": (
        lambda: fs.Bundle(SQUARE, 3), fs.RepresentationError, "or a Representation; got 3"),
    "text as group of a bundle": (
        lambda: fs.Bundle(SQUARE, "regular r", "cyclic(4)"), fs.GroupError, "got 'cyclic(4)'"),
    "a group as element": (
        lambda: fs.act(groups.cyclic(4), torch.zeros(1, 8, 8), fs.Bundle(SQUARE, "scalar p")),
        fs.GroupError, "act needs an Element, such as group.elements[1] or group.exp([0.1]); got"),
    "text as bundle of act": (
        lambda: fs.act(groups.cyclic(4).elements[1], torch.zeros(1, 8, 8), "scalar p"),
        fs.BundleError, "act needs a Bundle"),
    "an element as generator": (
        lambda: fs.act_infinitesimal(
            groups.cyclic(4).elements[1], torch.zeros(1, 8, 8), fs.Bundle(SQUARE, "scalar p")),
        fs.GroupError, "act_infinitesimal needs a Generator"),
    "a group as element of action_method": (
        lambda: fs.action_method(groups.cyclic(4), fs.Bundle(SQUARE, "scalar p"), (8, 8)),
        fs.GroupError, "action_method needs an Element"),
    "four dimensions": (lambda: groups.so(4), fs.GroupError, "so acts in 2 or 3 dimensions; got 4"),
    "translations of nothing": (
        lambda: groups.translations(0), fs.GroupError, "acts in 1 or 2 or 3 dimensions; got 0"),
    "unknown group": (
        lambda: groups.named("klein(4)", 2), fs.GroupError, "Expected groups out of trivial,"),
    "number of rotations": (
        lambda: groups.named("dihedral", 2), fs.GroupError, "such as dihedral(4)"),
    # arguments of another type
    "text as matrix": (
        lambda: fs.Element("turn"), fs.GroupError, "needs a square matrix; got 'turn'"),
    "text as shift": (
        lambda: fs.Element(np.eye(2), "x"), fs.GroupError, "one length per axis; got 'x'"),
    "text as coefficients": (
        lambda: SO2.exp("a"), fs.GroupError, "one number per generator; got 'a'"),
    "a number as element": (
        lambda: D4.index(3), fs.GroupError, "dihedral(4).index needs an Element"),
    "product with a number": (
        lambda: D4 * 3, fs.GroupError, "A product of groups needs a Group, such as"),
    "nothing as group": (lambda: groups.named(None, 2), fs.GroupError, "joined by '*'; got None"),
    "text as base of a check": (
        lambda: D4.check("torus"), fs.GroupError, "needs a base, such as Torus((1.0, 1.0)); got"),
    "a number as base": (lambda: D4.acting_on(3), fs.GroupError, "needs a base, such as"),
    "letters as lengths": (
        lambda: fs.Torus(("a", "b")), fs.GridError,
        "A length is a number, in units of length, such as 1.0; got ('a', 'b')."),
    "letters as origin": (
        lambda: fs.Torus((1.0, 1.0), origin="ab"), fs.GridError, "The origin is one number per"),
    "a number as location": (
        lambda: fs.Torus((1.0, 1.0), location=3), fs.GridError, "needs one entry per axis: 2 for"),
    "a number as periodic": (
        lambda: fs.Box((1.0, 1.0), periodic=1), fs.GridError, "periodic needs one entry per axis"),
    "text as radius": (lambda: UNIT.disk("a"), fs.GridError, "0 < radius < 0.5; got 'a'"),
    "a number as grid": (lambda: UNIT.coordinates(8), fs.GridError, "a grid of 2 sizes"),
    "a broken grid": (lambda: UNIT.weights((8, 2.5)), fs.GridError, "at least 2; got (8, 2.5)"),
    "a number as blocks": (lambda: V.join(3), fs.BundleError, "needs the blocks ('p', 'u'); got 3"),
    "a number as operator": (
        lambda: fs.lie_derivative(3, SO2.generators[0], torch.zeros(1, 8, 8), P, P),
        fs.BundleError, "lie_derivative needs an operator that maps sections to sections"),
    "text as bundle": (
        lambda: fs.lie_derivative(torch.sin, SO2.generators[0], torch.zeros(1, 8, 8), P, "p"),
        fs.BundleError, "lie_derivative needs a Bundle, such as"),
    "a number as constraint": (
        lambda: fs.null_basis(3, D4), fs.RepresentationError,
        "null_basis needs a Constraint, such as KernelConstraint(rep_in, rep_out, (3, 3)), with "
        "shape, lie and move; got 3."),
    "text as populations": (
        lambda: fs.LatticeCollision("d2q9"), fs.BundleError, "LatticeCollision needs a Bundle"),
    "nothing to evaluate": (
        lambda: fs.evaluate(None, D4, torch.zeros(2, 1, 8, 8), P, P), fs.BundleError,
        "evaluate needs an operator"),
    "text as group to evaluate": (
        lambda: fs.evaluate(torch.sin, "d4", torch.zeros(2, 1, 8, 8), P, P), fs.GroupError,
        "evaluate needs a Group, such as groups.dihedral(4)"),
    "text as bundle to evaluate": (
        lambda: fs.evaluate(torch.sin, D4, torch.zeros(2, 1, 8, 8), P, "p"), fs.BundleError,
        "evaluate needs a Bundle"),
    "text as bundle of samples": (
        lambda: fs.testing.random_section("p", (8, 8)), fs.BundleError, "random_section needs a"),
    "nothing as torus": (
        lambda: fs.simulate.heat_flow(None, time=0.1), fs.GridError, "needs a base, such as"),
    # groups meeting bases
    "unequal grid": (
        lambda: D4.check(UNIT, (64, 96)), fs.GroupError,
        "dihedral(4) does not act on Torus(1, 1) with 64 × 96 points: it has no rotation 90° "
        "(axes x and y have 64 and 96 points). The largest subgroup that acts is dihedral(2)."),
    "unequal lengths": (
        lambda: D4.check(fs.Torus((1.0, 2.0))), fs.GroupError,
        "(axes x and y have lengths 1 and 2). The largest subgroup that acts is dihedral(2)."),
    "one periodic axis": (
        lambda: D4.check(WALLS), fs.GroupError, "(only one of axes x and y is periodic)"),
    "two locations": (
        lambda: D4.check(fs.Torus((1.0, 1.0), location=("node", "cell"))), fs.GroupError,
        "(axes x and y are sampled at different locations)"),
    "thirds of a square": (
        lambda: groups.cyclic(3).check(UNIT), fs.GroupError,
        "it has no rotation 120° (it does not map the axes to the axes). The largest subgroup "
        "that acts is trivial."),
    "group of another dimension": (
        lambda: D4.check(fs.Torus((1.0,))), fs.GroupError,
        "dihedral(4) acts in 2 dimensions but Torus(1) has 1. Give the group its dimension"),
    "rotations of a box": (
        lambda: SO2.check(UNIT), fs.GroupError,
        "so(2) does not act on Torus(1, 1): rotation xy turns or stretches the box out of itself. "
        "Enforce the finite subgroup"),
    "translations through a wall": (
        lambda: groups.translations(2).check(WALLS), fs.GroupError, "axis y is not periodic"),
    "brick": (
        lambda: groups.octahedral().check(fs.Torus((1.0, 1.0, 2.0))), fs.GroupError,
        "The largest subgroup that acts is the subgroup of octahedral() of order 16."),
    # bases
    "abstract base": (
        lambda: fs.Manifold((1.0,), (True,), "node", None), fs.GridError, "use Torus or Box"),
    "four axes": (lambda: fs.Torus((1.0,) * 4), fs.GridError, "1, 2 or 3 axes"),
    "no axes": (lambda: fs.Torus(()), fs.GridError, "1, 2 or 3 axes"),
    "negative length": (
        lambda: fs.Torus((1.0, -2.0)), fs.GridError, "positive and finite; got (1.0, -2.0)"),
    "infinite length": (lambda: fs.Torus((float("inf"),)), fs.GridError, "positive and finite"),
    "periodic per axis": (
        lambda: fs.Box((1.0, 1.0), periodic=(True,)), fs.GridError,
        "periodic needs one entry per axis: 2"),
    "location per axis": (
        lambda: fs.Torus((1.0, 1.0), location=("node",)), fs.GridError, "location needs one entry"),
    "origin per axis": (
        lambda: fs.Torus((1.0, 1.0), origin=(0.0,)), fs.GridError, "origin needs one entry"),
    "unknown location": (
        lambda: fs.Torus((1.0,), location="edge"), fs.GridError,
        "A location is one of ('node', 'cell'); got ('edge',)"),
    "grid of another dimension": (
        lambda: OBLONG.coordinates((8,)), fs.GridError, "needs a grid of 2 sizes"),
    "grid of one point": (
        lambda: OBLONG.spacing((8, 1)), fs.GridError, "each at least 2; got (8, 1)"),
    "disk too large": (
        lambda: UNIT.disk(0.5), fs.GridError,
        "A disk inside Torus(1, 1) needs 0 < radius < 0.5; got 0.5"),
    "disk of nothing": (lambda: UNIT.disk(0.0), fs.GridError, "needs 0 < radius"),
    # representations
    "unknown word": (
        lambda: fs.Representation("scaler p", 2), fs.RepresentationError,
        "with a type out of: scalar, pseudoscalar, vector, axial vector, symmetric tensor, "
        "symmetric traceless tensor, d2q9 populations, d3q19 populations, regular, trivial; got "
        "'scaler p'."),
    "nothing": (lambda: fs.Representation("", 2), fs.RepresentationError, "got ''"),
    "trailing plus": (lambda: fs.Representation("scalar +", 2), fs.RepresentationError, "got ''"),
    "no copies": (
        lambda: fs.Representation("0 scalar", 2), fs.RepresentationError, "got '0 scalar'"),
    "name with a space": (
        lambda: fs.Representation("vector u v", 2), fs.RepresentationError, "got 'vector u v'"),
    "comma": (
        lambda: fs.Representation("scalar p, vector u", 2), fs.RepresentationError,
        "joined by '+'"),
    "name twice": (
        lambda: fs.Representation("scalar p + vector p", 2), fs.RepresentationError,
        "Each name may occur once in 'scalar p + vector p'; got ['p', 'p']"),
    "tensor on a line": (
        lambda: fs.Representation("symmetric tensor s", 1), fs.RepresentationError,
        "The type 'symmetric tensor' needs a base of 2 or 3 dimensions; this one has 1."),
    "axial vector on a line": (
        lambda: fs.Representation("axial vector b", 1), fs.RepresentationError,
        "needs a base of 2 or 3 dimensions"),
    "regular without a group": (
        lambda: fs.Representation("regular r", 2), fs.RepresentationError,
        "needs a finite group, for example group=groups.dihedral(4); got None"),
    "regular of a continuous group": (
        lambda: fs.Representation("regular r", 2, SO2), fs.RepresentationError, "got so(2)"),
    "derivative of a permutation": (
        lambda: fs.Representation("regular r", 2, D4).drho(SO2.generators[0]),
        fs.RepresentationError, "has no dρ"),
    "element of another dimension": (
        lambda: P.representation.rho(fs.Element(np.eye(3))), fs.RepresentationError,
        "is a representation on a 2-D base; the element acts in 3-D"),
    "generator of another dimension": (
        lambda: P.representation.drho(groups.so(3).generators[0]), fs.RepresentationError, "3-D"),
    # bundles
    "no base": (
        lambda: fs.Bundle((1.0, 1.0), "scalar p"), fs.BundleError, "needs a base such as Torus"),
    "base of another dimension": (
        lambda: fs.Bundle(UNIT, fs.Representation("scalar p", 3)), fs.BundleError,
        "scalar p is a representation on a 3-D base; Torus(1, 1) has 2 dimensions"),
    "not a tensor": (
        lambda: V.check(np.zeros((3, 8, 8))), fs.BundleError,
        "Got ndarray; convert it to a torch tensor."),
    "integers": (
        lambda: V.check(torch.zeros(3, 8, 8, dtype=torch.int64)), fs.BundleError,
        "Got torch.int64; convert it with .to(torch.float32)."),
    "half precision": (
        lambda: V.check(torch.zeros(3, 8, 8, dtype=torch.float16)), fs.BundleError,
        "float32 or float64. Got torch.float16"),
    "complex": (
        lambda: V.check(torch.zeros(3, 8, 8, dtype=torch.complex64)), fs.BundleError,
        "float32 or float64. Got torch.complex64"),
    "too few axes": (
        lambda: V.check(torch.zeros(8, 8)), fs.BundleError, "Got shape (8, 8): too few axes"),
    "channels": (
        lambda: V.check(torch.zeros(5, 2, 8, 8)), fs.BundleError,
        "expects sections of 'scalar p + vector u' on Torus(2, 3): shape (*batch, 3, *grid), "
        "float32 or float64. Got shape (5, 2, 8, 8): 2 channels where the bundle has 3 (p: 0, "
        "u: 1–2). Check the order of the axes"),
    "split": (lambda: V.split(torch.zeros(2, 8, 8)), fs.BundleError, "2 channels"),
    "norm": (lambda: V.norm(torch.zeros(2, 8, 8)), fs.BundleError, "2 channels"),
    "join of others": (
        lambda: V.join({"p": torch.zeros(1, 8, 8)}), fs.BundleError,
        "join needs the blocks ('p', 'u'); got ('p',)"),
    # actions
    "quarter turn of a rectangle": (
        lambda: fs.act(QUARTER, torch.zeros(1, 8, 12), P), fs.GroupError,
        "rotation 90° does not act on Torus(1.5, 1.5) with 8 × 12 points (axes x and y have 8 and "
        "12 points)."),
    "quarter turn of an oblong": (
        lambda: fs.act(QUARTER, torch.zeros(3, 8, 8), V), fs.GroupError,
        "(axes x and y have lengths 2 and 3)"),
    "shift through a wall": (
        lambda: fs.act(fs.Element(np.eye(2), [0.0, 0.1]), torch.zeros(1, 8, 8),
                       fs.Bundle(WALLS, "scalar p")),
        fs.GroupError, "(axis y is not periodic)"),
    "turn and shift through a wall": (
        lambda: fs.act(groups.se(2).exp([0.1, 0.2, 0.3]), torch.zeros(1, 8, 8),
                       fs.Bundle(WALLS, "scalar p")),
        fs.GroupError, "axis y is not periodic. Use its point part, or a periodic base."),
    "stretch": (
        lambda: fs.act(fs.Element(np.diag([2.0, 1.0])), torch.zeros(1, 8, 8), P), fs.GroupError,
        "only rotations, reflections and translations can be moved here"),
    "action of another dimension": (
        lambda: fs.act(fs.Element(np.eye(3)), torch.zeros(1, 8, 8), P), fs.GroupError,
        "acts in 3 dimensions; Torus(1.5, 1.5) has 2"),
    "action on no section": (
        lambda: fs.act(QUARTER, torch.zeros(2, 8, 8), P), fs.BundleError, "act expects sections"),
    "generator on no section": (
        lambda: fs.act_infinitesimal(SO2.generators[0], torch.zeros(2, 8, 8), P), fs.BundleError,
        "act_infinitesimal expects sections"),
    "generator in another dimension": (
        lambda: fs.act_infinitesimal(groups.so(3).generators[0], torch.zeros(1, 8, 8), P),
        fs.RepresentationError, "acts in 3-D"),
    "method of a stretch": (
        lambda: fs.action_method(fs.Element(2 * np.eye(2)), P, (8, 8)), fs.GroupError,
        "affine map does not act on Torus(1.5, 1.5) with 8 × 8 points"),
    # Lie derivatives
    "derivative at no section": (
        lambda: fs.lie_derivative(torch.sin, SO2.generators[0], torch.zeros(2, 8, 8), P, P),
        fs.BundleError, "lie_derivative expects sections"),
    "derivative with no section": (
        lambda: fs.lie_derivative(torch.sin, SO2.generators[0], torch.zeros(1, 8, 8), P,
                                  fs.Bundle(SQUARE, "vector u")),
        fs.BundleError, "The output bundle of lie_derivative expects sections of 'vector u'"),
    "defect at no section": (
        lambda: fs.finite_defect(torch.sin, QUARTER, torch.zeros(1, 2, 8, 8), P, P),
        fs.BundleError, "finite_defect expects sections"),
    "defect with no section": (
        lambda: fs.finite_defect(torch.sin, QUARTER, torch.zeros(1, 1, 8, 8), P,
                                 fs.Bundle(SQUARE, "vector u")),
        fs.BundleError, "The output bundle of finite_defect expects sections"),
    # modes
    "even modes": (
        lambda: check_modes((17, 16), 2), fs.GridError,
        "so it is odd; got 16 in (17, 16). Even counts keep −n/2 without +n/2 and break every "
        "reflection and quarter turn. Use 15 or 17."),
    "zero modes": (lambda: check_modes((0,), 1), fs.GridError, "got 0"),
    "modes per axis": (
        lambda: check_modes((5, 5), 3), fs.GridError, "one number per axis, 3 here; got (5, 5)"),
    "modes above Nyquist": (
        lambda: SpectralConv(P.representation, P.representation, groups.trivial(2), (9, 9))(
            torch.zeros(1, 1, 16, 8)), fs.GridError,
        "n_modes (9, 9) needs more points than the grid (16, 8) has: frequencies up to 4 need at "
        "least 9 points per axis. Use at most n_modes = 7 there, or a finer grid."),
    # FNO
    "two bases": (lambda: fno(P, V), fs.BundleError, "on one base; got Torus(1.5, 1.5) and"),
    "continuous group": (
        lambda: fno(group=SO2), fs.GroupError,
        "FNO is exact for finite groups (translations are built in); got so(2). Use cyclic(4)"),
    "group of translations": (
        lambda: fno(group=groups.translations(2)), fs.GroupError, "translations are built in"),
    "group of shifts": (
        lambda: fno(group=fs.Group("half", 2, (), (), (
            fs.Element(np.eye(2)), fs.Element(np.eye(2), [0.75, 0.0])))),
        fs.GroupError, "half holds shifts, which every FNO commutes with already"),
    "group of a square on an oblong": (
        lambda: fno(V, V), fs.GroupError, "The largest subgroup that acts is dihedral(2)"),
    "unequal modes": (
        lambda: fno(n_modes=(5, 7)), fs.GroupError,
        "rotation 90° exchanges axes with n_modes (5, 7): give exchanged axes the same number"),
    "width": (
        lambda: fno(hidden_channels=20), fs.GroupError,
        "whole copies of the regular representation of dihedral(4), 8 channels each; got 20. Use "
        "16 or 24."),
    "narrow": (lambda: fno(hidden_channels=7), fs.GroupError, "got 7. Use 8."),
    "no width": (lambda: fno(hidden_channels=0), fs.GroupError, "must be positive; got 0."),
    "no layers": (lambda: fno(n_layers=0), fs.BundleError, "FNO needs n_layers ≥ 1; got 0."),
    "group as text": (
        lambda: fno(group="dihedral(4)"), fs.GroupError, "or None; got 'dihedral(4)'"),
    "unknown argument": (
        lambda: fs.groups.named("reflections(q)", 2), fs.GroupError, "got 'reflections(q)'"),
    "too many arguments": (
        lambda: fs.groups.named("cyclic(4, 7)", 2), fs.GroupError, "got 'cyclic(4, 7)'"),
    "translation of another axis": (
        lambda: fs.groups.translations(2, axes=[2]), fs.GroupError, "axes 0 to 1; got [2]"),
    "even modes of an FNO": (lambda: fno(n_modes=16), fs.GridError, "Use 15 or 17"),
    "batch norm": (
        lambda: fno(norm="batch_norm"), fs.GroupError,
        "norm is one of ('instance_norm', 'group_norm', None); got 'batch_norm'"),
    "skip": (lambda: fno(fno_skip="conv"), fs.GroupError, "fno_skip is one of ('linear',"),
    "mlp skip": (
        lambda: fno(channel_mlp_skip="none"), fs.GroupError, "channel_mlp_skip is one of"),
    "grid embedding": (
        lambda: fno(positional_embedding="grid"), fs.GroupError,
        "positional_embedding='grid' would break translations and"),
    "padding": (
        lambda: fno(domain_padding=0.25), fs.GroupError,
        "domain_padding=0.25 would break the translations of a periodic axis. Leave it None"),
    "input channels": (
        lambda: model_on(torch.zeros(2, 3, 16, 16)), fs.BundleError,
        "FNO expects sections of 'scalar p' on Torus(1.5, 1.5): shape (*batch, 1, *grid), float32 "
        "or float64. Got shape (2, 3, 16, 16): 3 channels"),
    "integer input": (
        lambda: model_on(torch.zeros(2, 1, 16, 16, dtype=torch.int32)), fs.BundleError,
        "Got torch.int32"),
    "rectangular input": (
        lambda: model_on(torch.zeros(2, 1, 16, 24)), fs.GroupError,
        "The largest subgroup that acts is dihedral(2)"),
    "coarse input": (
        lambda: model_on(torch.zeros(2, 1, 16, 16), n_modes=17), fs.GridError,
        "Use at most n_modes = 15 there"),
    "input without an axis": (
        lambda: model_on(torch.zeros(16, 16)), fs.BundleError, "too few axes"),
    "regular of another group": (
        lambda: fno(fs.Bundle(SQUARE, "regular r", groups.cyclic(4)),
                    fs.Bundle(SQUARE, "regular r", groups.cyclic(4))),
        fs.GroupError, "is not an element of cyclic(4)"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_error(case):
    action, kind, message = ERRORS[case]
    with pytest.raises(kind, match=re.escape(message)) as caught:
        action()
    text = str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in text
    assert "  " not in text


def test_five_errors_are_value_errors():
    kinds = (fs.GroupError, fs.RepresentationError, fs.BundleError, fs.GridError, fs.DataError)
    assert all(issubclass(kind, ValueError) for kind in kinds)
    assert len(set(kinds)) == 5
