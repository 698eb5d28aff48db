"""Representations: homomorphisms, their derivatives, norms, textbook formulas, the grammar."""

import itertools

import laws
import numpy as np
import pytest
import torch
from catalogue import CONTINUOUS, FINITE, REPRESENTATIONS, SQUARE, permutes_axes, rep

import fieldsym as fs

groups = fs.groups
POINT = [g for g in CONTINUOUS if g.name in ("so(2)", "so(3)", "o(2)", "o(3)")]


def elements_of(group, dim):
    """All elements of a finite group; generic ones of a continuous one."""
    if group.is_finite:
        return group.elements[:12]
    n = len(group.generators)
    some = [group.exp(np.linspace(-1.0, 0.7, n) * s) for s in (0.0, 0.9, 2.3)]
    return [*some, *(g @ c for g in some for c in group.components)]


def pairs():
    return [
        pytest.param(text, group, id=f"{group.name}: {text}")
        for (dim, text), group in itertools.product(REPRESENTATIONS, FINITE + POINT)
        if group.dim == dim and (rep(text, dim).turns or permutes_axes(group))
    ]


@pytest.mark.parametrize(("text", "group"), pairs())
def test_homomorphism_and_norm(text, group):
    r = rep(text, group.dim)
    elements = elements_of(group, group.dim)
    laws.assert_homomorphism(r.rho, elements)
    for g in elements:
        assert (r.rho(g).mT @ r.gram @ r.rho(g) - r.gram).abs().max() < 1e-12


@pytest.mark.parametrize(("text", "group"), pairs())
def test_textbook_formulas(text, group):
    bundle = fs.Bundle(fs.Torus((1.0,) * group.dim), text)
    u = torch.randn(bundle.channels, 2, dtype=torch.float64)
    for g in elements_of(group, group.dim):
        assert torch.allclose(
            bundle.representation.rho(g) @ u, laws.fibres(bundle, g.matrix, u), atol=1e-13
        )


@pytest.mark.parametrize(("text", "group"), [p for p in pairs() if p.values[1].generators])
def test_derivative_and_bracket(text, group):
    r = rep(text, group.dim)
    laws.assert_derivative(r.rho, r.drho, group)
    laws.assert_bracket_of_fibres(r.drho, group)


@pytest.mark.parametrize("text", ["vector u", "symmetric tensor s"])
def test_derivative_of_stretches_and_shears(text):
    """ρ and dρ fit for any matrix, not for rotations alone."""
    gl2 = fs.Group("gl(2)", 2, tuple(
        fs.Generator(str(i), np.eye(4)[i].reshape(2, 2), np.zeros(2)) for i in range(4)
    ))  # fmt: skip
    r = rep(text, 2)
    laws.assert_derivative(r.rho, r.drho, gl2)
    laws.assert_bracket_of_fibres(r.drho, gl2)


@pytest.mark.parametrize("group", [g for g in FINITE if g.order < 13], ids=repr)
def test_regular_permutes(group):
    r = rep("2 regular", group.dim, group)
    laws.assert_homomorphism(r.rho, group.elements)
    for i, g in enumerate(group.elements):
        matrix = r.rho(g)
        assert torch.equal(matrix @ matrix.mT, torch.eye(2 * group.order, dtype=torch.float64))
        assert float(matrix.trace()) == (2 * group.order if i == 0 else 0)
        assert int(matrix[:, 0].argmax()) == i  # the identity is carried to g


def test_saboteurs_of_representations():
    r, so2, d4 = rep("scalar p + vector u", 2), groups.so(2), groups.dihedral(4)
    with pytest.raises(AssertionError):  # transposed rotation
        laws.assert_homomorphism(lambda g: r.rho(g).mT, d4.elements)
    with pytest.raises(AssertionError):  # wrong sign
        laws.assert_derivative(r.rho, lambda xi: -r.drho(xi), so2)
    with pytest.raises(AssertionError):
        laws.assert_bracket_of_fibres(lambda xi: -rep("vector u", 3).drho(xi), groups.so(3))
    with pytest.raises(AssertionError):  # a scale
        laws.assert_homomorphism(lambda g: 2 * r.rho(g), d4.elements)


def test_tensor_norms_count_the_off_diagonal_twice():
    bundle = fs.Bundle(SQUARE, "symmetric tensor s + symmetric traceless tensor t")
    assert torch.equal(
        bundle.representation.gram.diagonal(), torch.tensor([1.0, 1, 2, 2, 2]).double()
    )
    u = torch.randn(5, 3, 4, dtype=torch.float64)
    full = laws.full_tensor(u[:3], 2, traceless=False)
    free = laws.full_tensor(u[3:], 2, traceless=True)
    want = full.square().sum((0, 1)) + free.square().sum((0, 1))
    assert torch.allclose(bundle.squared_norm(u), want)
    assert torch.allclose(bundle.norm(u), want.sqrt())
    box = fs.Bundle(fs.Torus((1.0, 1.0, 1.0)), "symmetric traceless tensor t")
    v = torch.randn(5, 2, 3, 4, dtype=torch.float64)
    want = laws.full_tensor(v, 3, traceless=True).square().sum((0, 1))
    assert torch.allclose(box.squared_norm(v), want)


@pytest.mark.parametrize(("dim", "text"), REPRESENTATIONS)
def test_repr_parses_back(dim, text):
    r = rep(text, dim)
    again = rep(repr(r), dim)
    assert again == r
    assert hash(again) == hash(r)
    assert r != rep("3 scalar", dim)
    assert [b.size for b in again.blocks] == [b.size for b in r.blocks]


def test_grammar():
    r = rep("  2   symmetric traceless   tensor  t+scalar+ trivial q + axial vector b", 3)
    assert repr(r) == "2 symmetric traceless tensor t + scalar + scalar q + axial vector b"
    assert (r.channels, [b.kind for b in r.blocks][1:3]) == (15, ["scalar", "scalar"])
    assert rep("scalar vector", 2).blocks[0].name == "vector"  # a name may be any identifier
    assert [rep("symmetric tensor", d).channels for d in (2, 3)] == [3, 6]
    assert [rep("symmetric traceless tensor", d).channels for d in (2, 3)] == [2, 5]
    assert rep("scalar + scalar", 2).blocks == rep("scalar + scalar", 2).blocks


def test_bundle_splits_and_joins():
    bundle = fs.Bundle(SQUARE, "scalar p + 2 vector u + scalar + scalar")
    assert bundle.names == ("p", "u", "scalar", "scalar_3")
    assert bundle.slices == {
        "p": slice(0, 1), "u": slice(1, 5), "scalar": slice(5, 6), "scalar_3": slice(6, 7)
    }  # fmt: skip
    u = torch.randn(2, 3, 7, 4, 5)
    parts = bundle.split(u)
    assert parts["u"].shape == (2, 3, 4, 4, 5)
    assert torch.equal(bundle.join(dict(reversed(parts.items()))), u)
    assert bundle.grid(u) == (4, 5)
    assert bundle == fs.Bundle(SQUARE, bundle.representation)
    assert hash(bundle) == hash(fs.Bundle(SQUARE, bundle.representation))
    assert bundle != fs.Bundle(SQUARE, "7 scalar")
    assert repr(bundle) == "Bundle(Torus(1.5, 1.5), 'scalar p + 2 vector u + scalar + scalar')"


def test_position_moves_like_part_of_a_vector():
    r = rep("scalar p", 2).with_position((1,))
    assert r.channels == 2
    mirror = fs.Element(np.diag([1.0, -1.0]))
    assert torch.equal(r.rho(mirror), torch.diag(torch.tensor([1.0, -1.0]).double()))
    assert torch.equal(r.gram, torch.eye(2).double())
    assert rep("scalar p", 2).channels == 1
