"""Steerable convolutions and operators in space: dimensions, symbols, the group of the cube."""

import itertools

import laws
import numpy as np
import pytest
import torch
import turned
from catalogue import EXACT, groups

import fieldsym as fs
from fieldsym.operators.harmonics import equivariant_harmonics, steerable_dimension
from fieldsym.operators.steerable import SteerableConv

KINDS = {
    "s": "scalar", "p": "pseudoscalar", "v": "vector", "a": "axial vector", "T": "symmetric tensor",
    "t": "symmetric traceless tensor",
}  # fmt: skip
FULL = fs.Representation(" + ".join(KINDS.values()), 3)
CUBE = fs.Torus((1.0, 1.0, 1.0))
A = turned.rotation(0.3, 0.7, -0.4)


def conv(rep_in, rep_out, group, lengths=(1.0, 1.0, 1.0), n_modes=(5, 5, 5), **options):
    return SteerableConv(rep_in, rep_out, group, lengths, n_modes, **options).double()


@pytest.mark.parametrize(
    ("source", "target", "rotations", "full"),
    [
        ("s", "s", 1, 1), ("s", "v", 1, 1), ("v", "v", 3, 2), ("s", "T", 2, 2), ("v", "T", 4, 3),
        ("T", "T", 8, 6), ("p", "s", 1, 0), ("v", "a", 3, 1), ("t", "t", 5, 3),
    ],
)  # fmt: skip
def test_dimensions(source, target, rotations, full):
    """The sum over spins of 2 min(j, j') + 1, parity allowing."""
    kinds = (KINDS[target], KINDS[source])
    assert steerable_dimension(*kinds, 3, False) == rotations
    assert steerable_dimension(*kinds, 3, True) == full
    group, count = (groups.o(3), full) if full else (groups.so(3), rotations)
    source, target = (fs.Representation(KINDS[x], 3) for x in (source, target))
    layer = conv(source, target, group, radial="bspline", degree=4)
    assert layer.free_dimension == 3 * count


def test_harmonics_are_harmonic():
    """Mean value property: the mean over a sphere about any point is the value at the point."""
    points = np.array([p for p in itertools.product((-1, 0, 1), repeat=3) if any(p)], float)
    groups_of = [points[np.abs(points).sum(1) == n] for n in (1, 2, 3)]
    # a rule of degree 5 on the sphere
    weights = (40 / 840, 32 / 840, 27 / 840)
    centre = np.array([0.4, -0.3, 0.8])
    for y in equivariant_harmonics("symmetric tensor", "symmetric tensor", 3, False):
        mean = sum(
            w * y(centre + g / np.linalg.norm(g, axis=1, keepdims=True)).sum(0)
            for w, g in zip(weights, groups_of, strict=True)
        )
        assert np.allclose(mean, y(centre[None])[0], atol=1e-12)


def turning_defect(symbol, k, a, rep_in, rep_out):
    """Largest entry of R(Ak) − ρ_out(A) R(k) ρ_in(A)⁻¹, relative to the largest of R."""
    into, out = (rep.rho(fs.Element(a)).to(torch.complex128) for rep in (rep_in, rep_out))
    r, moved = symbol(k), symbol(k @ torch.from_numpy(a).T)
    return float((moved - out @ r @ into.inverse()).abs().max() / r.abs().max())


@pytest.mark.parametrize("options", [{}, {"radial": "bspline"}], ids=str)
@pytest.mark.parametrize("group", [groups.so(3), groups.o(3)], ids=str)
def test_symbols(group, options):
    layer = conv(FULL, FULL, group, (1.0, 1.5, 1.2), (7, 9, 7), **options)
    k = layer.cutoff * torch.rand(20, 3, dtype=torch.float64) / 2
    assert turning_defect(layer.multiplier, k, A, FULL, FULL) < 1e-11
    mirrored = turning_defect(layer.multiplier, k, -A, FULL, FULL)
    assert mirrored < 1e-11 if group.components else mirrored > 0.1
    assert (layer.multiplier(-k) - layer.multiplier(k).conj()).abs().max() < 1e-12
    for xi in group.generators:
        drho = FULL.drho(xi).to(torch.complex128)
        step = 1e-4 * (k @ torch.from_numpy(xi.matrix))
        slope = (layer.multiplier(k + step) - layer.multiplier(k - step)) / 2e-4
        r = layer.multiplier(k)
        assert (r @ drho - drho @ r - slope).abs().max() < 1e-5 * r.abs().max()
        assert (drho @ r - r @ drho - slope).abs().max() > 1e-1 * r.abs().max()


def test_values_are_those_of_the_symbol(dtype):
    base, grid = fs.Torus((1.0, 1.5, 1.2)), (6, 9, 8)
    target = fs.Representation("vector + pseudoscalar", 3)
    for group in (groups.so(3), groups.o(3)):
        layer = conv(FULL, target, group, base.lengths, (5, 7, 5)).to(dtype)
        u = torch.randn(2, FULL.channels, *grid, dtype=dtype)
        want = laws.convolution(layer.multiplier, base, grid)(u.double())
        laws.assert_close(layer(u).double(), want, EXACT[dtype])


def curl(k):
    x, y, z = (1j * k).unbind(1)
    o = torch.zeros_like(x)
    return torch.stack([torch.stack(r, 1) for r in ((o, -z, y), (z, o, -x), (-y, x, o))], 1)


def leray(k):
    r2 = k.square().sum(1)[:, None, None]
    one = torch.eye(3, dtype=torch.float64)
    outer = k[:, :, None] * k[:, None, :]
    return torch.where(r2 > 0, one - outer / r2.clamp_min(1e-9), one * 2 / 3)


def test_closed_forms():
    v, a = fs.Representation("vector", 3), fs.Representation("axial vector", 3)
    polynomial = {"degree": 2, "taper": False}
    assert turned.fit(conv(v, a, groups.o(3), **polynomial), curl) < 1e-12
    assert turned.fit(conv(v, v, groups.so(3), **polynomial), curl) < 1e-12
    assert turned.fit(conv(v, v, groups.o(3), **polynomial), curl) == pytest.approx(1)
    assert turned.fit(conv(v, v, groups.o(3), radial="bspline", degree=4), leray) < 1e-12


@pytest.mark.parametrize("grid", [(6, 6, 6), (7, 7, 7)])
@pytest.mark.parametrize(
    ("group", "finite"),
    [(groups.so(3), groups.octahedral(reflections=False)), (groups.o(3), groups.octahedral())],
    ids=str,
)
def test_the_cube_is_exact(group, finite, grid, dtype):
    bundle = fs.Bundle(CUBE, FULL)
    layer = conv(FULL, FULL, group).to(dtype)
    laws.assert_equivariant(layer, finite, bundle, bundle, grid, dtype, EXACT[dtype])
    laws.assert_translates(layer, bundle, grid, dtype, EXACT[dtype])


def test_unequal_lengths_keep_the_reflections():
    base = fs.Torus((1.0, 1.5, 1.2))
    bundle = fs.Bundle(base, FULL)
    layer = conv(FULL, FULL, groups.o(3), base.lengths, (5, 7, 5))
    laws.assert_equivariant(
        layer, groups.reflections(3), bundle, bundle, (6, 9, 8), torch.float64, 1e-12
    )


@pytest.mark.parametrize(
    ("options", "low", "high"), [({}, 0, 2e-5), ({"radial": "bspline"}, 1e-2, 0.2)], ids=str
)
def test_generic_angles(options, low, high):
    """A coarse grid holds wide fields and 7 waves, but no symbol that is singular at k = 0."""
    source, target = fs.Representation("scalar", 3), fs.Representation("vector", 3)
    layer = conv(source, target, groups.so(3), n_modes=(23, 23, 23), degree=4, **options)
    bundles = fs.Bundle(CUBE, source), fs.Bundle(CUBE, target)
    assert low < turned.turning_error(layer, A, *bundles, (24, 24, 24), width=0.075) < high


MODELS = [
    (groups.so(3), groups.octahedral(reflections=False), "scalar p + vector u",
     "axial vector b + symmetric tensor s"),
    (groups.o(3), groups.octahedral(), "scalar p", "scalar p"),
    (groups.o(3), groups.octahedral(), "vector u", "axial vector b"),
]  # fmt: skip


@pytest.mark.parametrize(("group", "finite", "source", "target"), MODELS, ids=str)
def test_the_operator(group, finite, source, target, dtype):
    source, target = fs.Bundle(CUBE, source), fs.Bundle(CUBE, target)
    model = fs.SteerableFNO(
        source, target, group=group, n_modes=5, hidden_channels=16, n_layers=2, degree=4
    ).to(dtype)
    some = finite.subgroup("some", [finite.elements[i] for i in (1, 5)])
    laws.assert_equivariant(model, some, source, target, (6, 6, 6), dtype, EXACT[dtype])
    laws.assert_translates(model, source, (6, 6, 6), dtype, EXACT[dtype])
    if dtype == torch.float64:
        laws.assert_all_learn(model, laws.noise(source, (6, 7, 8)))
