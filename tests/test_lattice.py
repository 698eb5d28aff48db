"""Populations of a lattice: velocities, the permuted fibre, moments, learned collisions, errors."""

import itertools
import re

import broken
import laws
import numpy as np
import pytest
import torch
from catalogue import EXACT, OBLONG, SQUARE, bases, groups, largest_group, rep

import fieldsym as fs
from fieldsym.lattice_velocities import D2Q9, D3Q19, VELOCITY_SETS, moments, velocity_set
from fieldsym.operators.pointwise import Pointwise

D4, CUBE = groups.dihedral(4), groups.octahedral()
PLANE = fs.Bundle(SQUARE, "d2q9 populations f")
WIDE = fs.Bundle(OBLONG, "d2q9 populations f")
BLOCK = fs.Bundle(fs.Torus((1.0, 1.0, 1.0)), "d3q19 populations f")
QUARTER = groups.cyclic(4).elements[1]
LATTICES = pytest.mark.parametrize("lattice", [D2Q9, D3Q19], ids=str)
SPACES = pytest.mark.parametrize(
    ("bundle", "group", "grid"), [(PLANE, D4, (7, 7)), (BLOCK, CUBE, (4, 4, 4))], ids=str
)
CONSERVED = {torch.float32: 1e-6, torch.float64: 1e-15}


def populations(bundle, grid, dtype=torch.float64, batch=2):
    """Positive populations far from equilibrium, different at every point."""
    noise = laws.noise(bundle, grid, dtype=torch.float64, batch=batch)
    weights = velocity_set(bundle).weights(noise).view(-1, *[1] * len(grid))
    return (weights * (1 + 0.2 * noise.tanh())).to(dtype)


def shaken(bundle, group, **options):
    """A collision with random weights, biases too."""
    model = fs.LatticeCollision(bundle, **({"group": group, "hidden_channels": 48} | options))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def drift(bundle, f, after):
    """Change of density and momentum, relative to the populations before and after."""
    rows = velocity_set(bundle).conserved
    dim = bundle.base.dim
    change = moments(after.double(), rows, dim) - moments(f.double(), rows, dim)
    return laws.relative(change, torch.cat([f, after], 1))


# Velocities ---------------------------------------------------------------------------------------


@LATTICES
def test_velocities_are_all_short_integer_vectors(lattice):
    near = [v for v in itertools.product((-1, 0, 1), repeat=lattice.dim) if np.dot(v, v) <= 2]
    assert sorted(map(tuple, lattice.velocities.tolist())) == sorted(near)
    assert (lattice.size, lattice.dim) == (len(near), lattice.velocities.shape[1])


@LATTICES
def test_weights_are_isotropic_up_to_fourth_order(lattice):
    w = lattice.weights(torch.zeros((), dtype=torch.float64))
    c, one = torch.from_numpy(lattice.velocities).double(), torch.eye(lattice.dim).double()
    pairs = torch.einsum("ab,cd->abcd", one, one)
    fourth = pairs + pairs.permute(0, 2, 1, 3) + pairs.permute(0, 3, 2, 1)
    assert abs(float(w.sum()) - 1) < 1e-15
    assert (torch.einsum("i,ia->a", w, c)).abs().max() < 1e-15
    assert (torch.einsum("i,ia,ib->ab", w, c, c) - one / 3).abs().max() < 1e-15
    assert torch.einsum("i,ia,ib,ic->abc", w, c, c, c).abs().max() < 1e-15
    assert (torch.einsum("i,ia,ib,ic,id->abcd", w, c, c, c, c) - fourth / 9).abs().max() < 1e-15
    textbook = {2: [4 / 9, 1 / 9, 1 / 36], 3: [1 / 3, 1 / 18, 1 / 36]}[lattice.dim]
    want = [textbook[int(n)] for n in (lattice.velocities**2).sum(1)]
    assert np.allclose(w.numpy(), want, atol=1e-16)
    assert lattice.weights(torch.zeros(())).dtype == torch.float32


@LATTICES
def test_moments_against_sums(lattice):
    f = torch.randn(2, lattice.size, *(3, 4, 5)[: lattice.dim], dtype=torch.float64)
    density, *momentum = moments(f, lattice.conserved, lattice.dim).unbind(1)
    assert torch.allclose(density, f.sum(1), atol=1e-14)
    c = lattice.velocities
    for a, part in enumerate(momentum):
        assert torch.allclose(
            part, sum(int(c[i, a]) * f[:, i] for i in range(lattice.size)), atol=1e-14
        )
    order = "xx yy xy" if lattice.dim == 2 else "xx yy zz xy xz yz"
    stress = moments(f, lattice.stress, lattice.dim)
    for row, (a, b) in zip(stress.unbind(1), order.split(), strict=True):
        a, b = "xyz".index(a), "xyz".index(b)
        want = sum(int(c[i, a] * c[i, b]) * f[:, i] for i in range(lattice.size))
        assert torch.allclose(row, want, atol=1e-14)


# The representation -------------------------------------------------------------------------------


@SPACES
def test_populations_are_permuted(bundle, group, grid):
    r, lattice = bundle.representation, velocity_set(bundle)
    laws.assert_homomorphism(r.rho, group.elements, tol=0.0)
    assert torch.equal(r.gram, torch.eye(lattice.size, dtype=torch.float64))
    assert r.is_euclidean
    for g in group.elements:
        rho = r.rho(g)
        assert torch.equal(rho @ rho.mT, torch.eye(lattice.size, dtype=torch.float64))
        assert set(rho.unique().tolist()) <= {0.0, 1.0}
        fixed = (lattice.velocities @ g.matrix.T == lattice.velocities).all(1).sum()
        assert float(rho.trace()) == fixed  # the character
    with pytest.raises(AssertionError):
        laws.assert_homomorphism(lambda g: r.rho(g).mT, group.elements)


def test_a_quarter_turn_carries_x_to_y():
    f = torch.zeros(9, 6, 6)
    f[1, 2, 0] = 1.0  # at (2, 0), moving along x
    assert fs.act(QUARTER, f, PLANE).nonzero().tolist() == [[2, 0, 2]]
    mirror = groups.dihedral(1).elements[1]
    f[5, 0, 1] = 1.0  # at (0, 1), moving along (1, 1)
    assert fs.act(mirror, f, PLANE).nonzero().tolist() == [[1, 2, 0], [8, 0, 5]]


@pytest.mark.parametrize(("base", "grid"), [p for p in bases() if p.values[0].dim > 1])
def test_action_on_every_base(base, grid):
    words = {lattice.dim: lattice.words for lattice in VELOCITY_SETS.values()}[base.dim]
    bundle = fs.Bundle(base, f"{words} f + vector u")
    elements = largest_group(base, grid).elements[:10]
    laws.assert_action(fs.act, elements, bundle, grid)
    laws.assert_index_formula(fs.act, elements, bundle, grid)


@pytest.mark.parametrize(
    "act", [broken.act_with_inverse_fibre, broken.act_with_inverse_points, broken.act_on_components]
)
def test_saboteurs_of_the_action(act):
    with pytest.raises(AssertionError):
        laws.assert_index_formula(act, D4.elements, PLANE, (7, 7))


def assert_moments_transform(rows, kind, bundle, group, grid):
    dim = bundle.base.dim
    out, f = fs.Bundle(bundle.base, kind), laws.noise(bundle, grid)
    for g in group.elements:
        moved = moments(fs.act(g, f, bundle), rows, dim)
        laws.assert_close(moved, fs.act(g, moments(f, rows, dim), out), 1e-14)


@SPACES
def test_moments_are_a_scalar_a_vector_and_a_tensor(bundle, group, grid):
    lattice = velocity_set(bundle)
    args = (bundle, group, grid)
    assert_moments_transform(lattice.conserved, "scalar r + vector j", *args)
    assert_moments_transform(lattice.stress, "symmetric tensor p", *args)
    for rows, kind in (
        (lattice.conserved, "pseudoscalar r + vector j"),
        (lattice.conserved, "scalar r + axial vector j"),
        (lattice.conserved.roll(1, 1), "scalar r + vector j"),
        (lattice.stress, f"{len(lattice.stress)} scalar p"),
    ):
        with pytest.raises(AssertionError):
            assert_moments_transform(rows, kind, *args)


COUNTS = [
    # D2Q9 = 3 A1 + B1 + B2 + 2 E under D4
    ("d2q9 populations", "d2q9 populations", D4, 15),
    ("d2q9 populations", "scalar", D4, 3),
    ("d2q9 populations", "pseudoscalar", D4, 0),
    ("d2q9 populations", "vector", D4, 2),
    ("d2q9 populations", "symmetric tensor", D4, 5),
    ("d2q9 populations", "regular", D4, 9),
    ("d2q9 populations", "d2q9 populations", groups.trivial(2), 81),
    ("d2q9 populations", "d2q9 populations", groups.cyclic(4), 21),
    # D3Q19 = 3 A1g + 2 Eg + T2g + 2 T1u + T2u under O_h
    ("d3q19 populations", "d3q19 populations", CUBE, 19),
    ("d3q19 populations", "scalar", CUBE, 3),
    ("d3q19 populations", "vector", CUBE, 2),
    ("d3q19 populations", "axial vector", CUBE, 0),
    ("d3q19 populations", "symmetric tensor", CUBE, 6),
    ("d3q19 populations", "regular", CUBE, 19),
]


@pytest.mark.parametrize(("source", "target", "group", "count"), COUNTS)
def test_number_of_pointwise_maps_is_the_character_formula(source, target, group, count):
    one, two = (rep(text, group.dim, group) for text in (source, target))
    product = sum(float(one.rho(g).trace() * two.rho(g).trace()) for g in group.elements)
    layer = Pointwise(one, two, group, bias=False)
    assert sum(p.numel() for p in layer.parameters()) == count == round(product / group.order)


def test_translations_have_a_derivative_and_rotations_none():
    for xi in groups.translations(2).generators:
        assert torch.equal(PLANE.representation.drho(xi), torch.zeros(9, 9).double())
        u = fs.testing.random_section(PLANE, (12, 12))
        moved = fs.act_infinitesimal(xi, u, PLANE)
        axis = xi.shift.tolist().index(1.0)
        laws.assert_close(moved, -SQUARE.derivative(u, axis), 1e-14)


def test_populations_in_the_rest_of_the_library():
    u = fs.testing.random_section(PLANE, (8, 8), batch=2)
    report = fs.evaluate(torch.square, D4 * groups.translations(2), u, PLANE, PLANE)
    assert float(report["defect"].sel(element="rotation 90°").max()) < 1e-14
    assert "orbit_defect" not in report  # no rotation by 15° permutes the velocities
    assert report["channel_in"].values.tolist() == [f"f_{i}" for i in range(9)]
    out = fs.Bundle(SQUARE, "scalar p + d2q9 populations f")
    model = fs.FNO(PLANE, out, group=D4, n_modes=5, hidden_channels=16, n_layers=1).double()
    laws.assert_equivariant(model, D4, PLANE, out, (12, 12), torch.float64, 1e-12)
    copies = fs.Bundle(WIDE.base, "2 d2q9 populations f + vector u")
    assert copies.slices == {"f": slice(0, 18), "u": slice(18, 20)}
    assert repr(copies.representation) == "2 d2q9 populations f + vector u"


# Learned collisions -------------------------------------------------------------------------------


def assert_equivariant(model, bundle, group, grid, dtype, tol):
    f = populations(bundle, grid, dtype)
    with torch.no_grad():
        after = model(f)
        for g in group.elements:
            moved = model(fs.act(g, f, bundle))
            assert after.shape == moved.shape
            error = laws.relative(moved - fs.act(g, after, bundle), after - f)
            assert error <= tol, f"{g.name}: {error:.2e}"


OPTIONS = [
    {},
    {"n_layers": 3, "hidden_channels": 96},
    {"non_linearity": torch.sin},
    {"non_linearity": torch.square},
]


@SPACES
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_collisions_commute_with_every_element(bundle, group, grid, options, dtype):
    model = shaken(bundle, group, **options).to(dtype)
    assert_equivariant(model, bundle, group, grid, dtype, EXACT[dtype])


@pytest.mark.parametrize(
    "group",
    [groups.cyclic(2), groups.cyclic(4), groups.dihedral(1), groups.dihedral(2), groups.trivial(2)],
    ids=str,
)
def test_subgroups_tie_less(group):
    model = shaken(PLANE, group).double()
    assert_equivariant(model, PLANE, group, (7, 7), torch.float64, 1e-12)
    with pytest.raises(AssertionError):
        assert_equivariant(model, PLANE, D4, (7, 7), torch.float64, 1e-3)


def test_a_collision_sees_one_point_of_any_box():
    """The group of the square holds on an oblong, at every point, though it does not act there."""
    model, f = shaken(WIDE, D4).double(), populations(WIDE, (4, 6))
    with torch.no_grad():
        for g in D4.elements:
            rho = WIDE.representation.rho(g)
            one = model(torch.einsum("ij,bjxy->bixy", rho, f))
            laws.assert_close(one, torch.einsum("ij,bjxy->bixy", rho, model(f)), 1e-12)
        point = model(f[:, :, 2:3, 4:5])
    laws.assert_close(model(f)[:, :, 2:3, 4:5].detach(), point, 1e-14)


@SPACES
@pytest.mark.parametrize("symmetric", [True, False])
def test_collisions_conserve_density_and_momentum(bundle, group, grid, symmetric, dtype):
    model = shaken(bundle, group if symmetric else None, n_layers=2).to(dtype)
    f = populations(bundle, grid, dtype)
    with torch.no_grad():
        after = model(f)
    assert laws.relative(after - f, f) > 0.01  # it does something
    assert drift(bundle, f, after) <= CONSERVED[dtype]


@pytest.mark.parametrize(
    "make",
    [broken.collision_without_conservation, broken.collision_that_keeps_the_density_alone],
)
def test_saboteurs_of_conservation(make):
    model = make(PLANE, hidden_channels=16)
    f = populations(PLANE, (7, 7), torch.float32)
    assert drift(PLANE, f, model(f).detach()) > 1e-3
    with pytest.raises(AssertionError):  # and nothing ties their weights
        assert_equivariant(model, PLANE, D4, (7, 7), torch.float32, 1e-3)


def test_the_change_of_precision_costs_nothing():
    """To float32 and back: conservation is made of integers."""
    model, f = shaken(PLANE, D4).double(), populations(PLANE, (7, 7))
    model = model.float().double()
    assert drift(PLANE, f, model(f).detach()) <= CONSERVED[torch.float64]


def test_collisions_scale_with_the_density():
    model, f = shaken(PLANE, D4).double(), populations(PLANE, (7, 7))
    with torch.no_grad():
        laws.assert_close(model(8 * f), 8 * model(f), 1e-15)  # a power of two
        laws.assert_close(model(0.3 * f), 0.3 * model(f), 1e-13)
        assert torch.equal(model(0 * f), 0 * f)


def test_batches_and_state_dicts():
    model, f = shaken(PLANE, D4), populations(PLANE, (5, 6), torch.float32, batch=6)
    with torch.no_grad():
        many = model(f.view(2, 3, 9, 5, 6))
        assert torch.allclose(many.view(6, 9, 5, 6), model(f), atol=1e-7)
        assert torch.allclose(model(f[0]), model(f)[0], atol=1e-7)
        other = fs.LatticeCollision(PLANE, group=D4, hidden_channels=48)
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(f), model(f))
    assert repr(model).startswith("LatticeCollision(\n  'd2q9 populations f', group=dihedral(4)")


@SPACES
def test_every_parameter_learns(bundle, group, grid):
    model = shaken(bundle, group, n_layers=2).double()
    laws.assert_all_learn(model, populations(bundle, grid))


def test_derivatives():
    model, f = shaken(PLANE, D4).double(), populations(PLANE, (3, 4))
    v = torch.randn_like(f)
    t = 1e-5
    slope = (model(f + t * v) - model(f - t * v)) / (2 * t)
    value, tangent = torch.func.jvp(model, (f,), (v,))
    laws.assert_close(value, model(f), 1e-15)
    laws.assert_close(tangent, slope, 1e-7)
    assert torch.allclose(torch.vmap(model)(f), model(f), atol=1e-14)


def test_compiles_into_one_graph():
    model = shaken(PLANE, groups.dihedral(1), hidden_channels=4)
    f = populations(PLANE, (3, 4), torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    value = compiled(f)
    assert torch.allclose(value, model(f), atol=1e-6)
    value.square().sum().backward()
    first = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(f).square().sum().backward()
    assert all(
        torch.allclose(a, p.grad, rtol=1e-3, atol=1e-4)
        for a, p in zip(first, model.parameters(), strict=True)
    )
    torch.compiler.reset()


# Errors -------------------------------------------------------------------------------------------


def collision(**options):
    return fs.LatticeCollision(PLANE, **({"group": D4, "hidden_channels": 16} | options))


THIRD = groups.cyclic(3).elements[1]
ERRORS = {
    "on a line": (
        lambda: fs.Bundle(fs.Torus((1.0,)), "d2q9 populations f"), fs.RepresentationError,
        "The type 'd2q9 populations' needs a base of 2 dimensions; this one has 1."),
    "plane lattice in space": (
        lambda: fs.Bundle(BLOCK.base, "d2q9 populations f"), fs.RepresentationError,
        "needs a base of 2 dimensions; this one has 3"),
    "unknown lattice": (
        lambda: fs.Bundle(SQUARE, "d2q7 populations f"), fs.RepresentationError,
        "d2q9 populations, d3q19 populations, regular, trivial; got 'd2q7 populations f'"),
    "third of a turn": (
        lambda: PLANE.representation.rho(THIRD), fs.RepresentationError,
        "The d2q9 populations are moved by maps that permute the axes up to sign, such as those of "
        "dihedral(4); got the matrix [[-0.5, -0.866], [0.866, -0.5]], which does not carry the 9 "
        "velocities to each other."),
    "generic angle on sections": (
        lambda: fs.act(groups.so(3).exp([0.3, 0.7, -0.4]), torch.zeros(19, 4, 4, 4), BLOCK),
        fs.RepresentationError, "such as those of octahedral(); got the matrix [["),
    "derivative of a rotation": (
        lambda: PLANE.representation.drho(groups.so(2).generators[0]), fs.RepresentationError,
        "The d2q9 populations have no dρ: no rotation by a small angle carries the 9 velocities to "
        "each other. Use a finite group such as dihedral(4), or the density,"),
    "two fields": (
        lambda: velocity_set(fs.Bundle(SQUARE, "d2q9 populations f + vector u")),
        fs.BundleError, "Expected the populations of one lattice: 'd2q9 populations f' in 2-D or "
        "'d3q19 populations f' in 3-D; got Bundle(Torus(1.5, 1.5), 'd2q9 populations f + vector"),
    "two copies": (
        lambda: fs.LatticeCollision(fs.Bundle(SQUARE, "2 d2q9 populations f")),
        fs.BundleError, "Give the other fields a bundle of their own."),
    "no populations": (
        lambda: fs.LatticeCollision(fs.Bundle(SQUARE, "vector u")), fs.BundleError,
        "Expected the populations of one lattice"),
    "hexagon": (
        lambda: collision(group=groups.dihedral(6)), fs.GroupError,
        "dihedral(6) does not act on the d2q9 populations: rotation 60° does not carry the "
        "velocities to each other. Use groups.dihedral(4) or a subgroup of it."),
    "continuous group": (
        lambda: collision(group=groups.so(2)), fs.GroupError,
        "A collision is exact for finite groups; got so(2), and no rotation by a small angle"),
    "group of another dimension": (
        lambda: collision(group=CUBE), fs.GroupError,
        "octahedral() acts in 3 dimensions; the velocities of D2Q9 have 2 components"),
    "group of shifts": (
        lambda: collision(group=fs.Group("half", 2, (), (), (
            fs.Element(np.eye(2)), fs.Element(np.eye(2), [0.75, 0.0])))),
        fs.GroupError, "half holds shifts, which every collision commutes with already"),
    "group as text": (
        lambda: collision(group="dihedral(4)"), fs.GroupError,
        "group is a Group, such as groups.dihedral(4), or None; got 'dihedral(4)'"),
    "width": (
        lambda: collision(hidden_channels=20), fs.GroupError,
        "8 channels each; got 20. Use 16 or 24."),
    "no width": (lambda: collision(hidden_channels=0), fs.GroupError, "got 0. Use 8."),
    "no layers": (lambda: collision(n_layers=0), fs.BundleError, "needs n_layers ≥ 1; got 0"),
    "number of populations": (
        lambda: collision()(torch.zeros(2, 19, 4, 4)), fs.BundleError,
        "LatticeCollision expects sections of 'd2q9 populations f' on Torus(1.5, 1.5): shape "
        "(*batch, 9, *grid), float32 or float64. Got shape (2, 19, 4, 4): 19 channels"),
    "dtype": (
        lambda: collision()(torch.zeros(2, 9, 4, 4, dtype=torch.float64)), fs.BundleError,
        "LatticeCollision holds torch.float32 parameters; got a section in torch.float64."),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_error(case):
    action, kind, message = ERRORS[case]
    with pytest.raises(kind, match=re.escape(message)) as caught:
        action()
    assert "\n" not in str(caught.value)
    assert "  " not in str(caught.value)
