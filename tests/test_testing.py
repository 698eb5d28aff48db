"""The tools for tests: random sections are what they say, and the assertions can fail."""

import math

import pytest
import torch

import fieldsym as fs
from fieldsym.testing import (
    assert_equivariant,
    assert_infinitesimally_equivariant,
    random_section,
)

SQUARE = fs.Torus((1.0, 1.0))
OBLONG = fs.Torus((2.0, 3.0))
SCALAR = fs.Bundle(SQUARE, "scalar p")
VECTOR = fs.Bundle(SQUARE, "vector u")


def gradient(p):
    return SQUARE.gradient(p)[..., 0, :, :, :]


# Random sections ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "coarse", "fine"),
    [
        (fs.Torus((2.0,)), (9,), (27,)),
        (OBLONG, (16, 24), (32, 72)),
        (fs.Torus((2.0, 3.0), location="cell"), (7, 9), (21, 27)),
        (fs.Box((2.0, 3.0), periodic=(True, False), location="node"), (8, 9), (16, 17)),
        (fs.Torus((2.0, 3.0, 1.0)), (5, 6, 7), (10, 12, 14)),
    ],
)
def test_a_finer_grid_samples_the_same_section(base, coarse, fine):
    bundle = fs.Bundle(base, "2 scalar")
    low, high = (random_section(bundle, grid, kmax=2, seed=7) for grid in (coarse, fine))
    positions = [axes.tolist() for axes in base.axes(coarse)]
    for axis, (near, grid_axis) in enumerate(zip(positions, base.axes(fine), strict=True)):
        picked = [int((grid_axis - x).abs().argmin()) for x in near]
        assert torch.allclose(grid_axis[picked], torch.tensor(near, dtype=torch.float64))
        high = high.index_select(axis + 2, torch.tensor(picked))
    assert (high - low).abs().max() < 1e-13


def test_band_variance_and_default_cutoff():
    u = random_section(SCALAR, (32, 32), batch=300)
    spectrum = torch.fft.fft2(u).abs().amax((0, 1))
    k = torch.fft.fftfreq(32, 1 / 32).abs()
    inside = (k[:, None] <= 4) & (k[None, :] <= 4)
    assert spectrum[inside].min() > 1
    assert spectrum[~inside].max() < 1e-10
    assert float(u.square().mean()) == pytest.approx(1.0, rel=0.05)
    assert torch.fft.fft2(random_section(SCALAR, (16, 24))).abs()[0, 0, 2, 2] > 1e-3


def test_sections_depend_on_seed_and_number_alone():
    flow = fs.Bundle(OBLONG, "scalar p + vector u")
    many = random_section(flow, (16, 24), batch=3, seed=2)
    assert many.shape == (3, 3, 16, 24)
    assert torch.equal(many[:1], random_section(flow, (16, 24), seed=2))
    assert not torch.allclose(many[:1], random_section(flow, (16, 24), seed=3))
    assert not torch.allclose(many[0, 0], many[0, 1])
    single = random_section(flow, (16, 24), batch=3, seed=2, dtype=torch.float32)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), many, atol=1e-6)


def test_sections_of_a_torus_are_periodic_and_of_a_box_smooth():
    derivative = OBLONG.derivative(random_section(fs.Bundle(OBLONG, "scalar"), (32, 48)), 0)
    assert derivative.abs().max() < 2 * math.pi / 2 * 4 * 81**0.5 * 4
    box = fs.Bundle(fs.Box((2.0,), location="node"), "scalar")
    u = random_section(box, (401,), kmax=2)[0, 0]
    assert u.diff(n=2).abs().max() < 0.01
    assert abs(float(u[0] - u[-1])) > 0.05


@pytest.mark.parametrize(
    ("grid", "kmax", "message"),
    [
        ((16, 24), 8, "resolves mode numbers 0 to 7; got kmax=8"),
        ((16, 24), -1, "got kmax=-1"),
        ((16,), None, "grid of 2 sizes"),
    ],
)
def test_random_section_errors(grid, kmax, message):
    with pytest.raises(fs.GridError, match=message):
        random_section(SCALAR, grid, kmax=kmax)
    with pytest.raises(fs.DataError, match="batch ≥ 1"):
        random_section(SCALAR, (8, 8), batch=0)


# Assertions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [16, 17])
def test_the_gradient_is_equivariant(n, dtype):
    group = fs.groups.dihedral(4)
    errors = assert_equivariant(gradient, group, SCALAR, VECTOR, (n, n), dtype=dtype)
    assert set(errors) >= {g.name for g in group.elements[1:]}
    assert len(errors) == 7 + 3
    assert max(errors.values()) < {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]


def half_a_gradient(p):
    return gradient(p) * torch.tensor([1.0, 0.999]).view(2, 1, 1).to(p)


def turned_gradient(p):
    return gradient(p).flip(-3)


def position(p):
    return p * SQUARE.coordinates(p.shape[-2:])[0].to(p)


@pytest.mark.parametrize(
    ("broken", "out", "message"),
    [
        (half_a_gradient, VECTOR, "half_a_gradient is not equivariant under .*rotation 90°"),
        (turned_gradient, VECTOR, "turned_gradient is not equivariant under .*rotation 90°"),
        (position, SCALAR, "position is not equivariant under .*shift"),
        (lambda p: p * math.nan, SCALAR, "nan"),
    ],
)
def test_saboteurs_are_named(broken, out, message):
    with pytest.raises(AssertionError, match=message):
        assert_equivariant(broken, fs.groups.cyclic(4), SCALAR, out, (16, 16))


def test_failures_are_listed_worst_first_with_the_tolerance():
    with pytest.raises(
        AssertionError, match=r"and \d more: \d+ of 10 exceed the tolerance 1.0e-03"
    ):
        assert_equivariant(
            lambda p: p * position(p), fs.groups.dihedral(4), SCALAR, SCALAR, (16, 16), tol=1e-3
        )


def test_translations_can_be_left_out():
    def window(p):
        return p * SQUARE.disk(0.4).window(p.shape[-2:], p.dtype)

    group = fs.groups.dihedral(4)
    errors = assert_equivariant(window, group, SCALAR, SCALAR, (16, 16), translations=False)
    assert len(errors) == 7
    with pytest.raises(AssertionError, match="shift"):
        assert_equivariant(window, group, SCALAR, SCALAR, (16, 16))


def test_a_continuous_group_is_tested_on_its_components():
    errors = assert_equivariant(gradient, fs.groups.e(2), SCALAR, VECTOR, (16, 16))
    assert len(errors) == 1 + 3


def test_a_group_that_does_not_act_is_refused():
    p = fs.Bundle(OBLONG, "scalar p")
    with pytest.raises(fs.GroupError, match="largest subgroup that acts is"):
        assert_equivariant(lambda u: u, fs.groups.dihedral(4), p, p, (16, 24))


def test_given_sections_are_used():
    u = torch.zeros(3, 1, 16, 16)
    u[..., 0, 0] = 1.0
    errors = assert_equivariant(torch.square, fs.groups.cyclic(4), SCALAR, SCALAR, (4, 4), u=u)
    assert max(errors.values()) == 0.0


def test_generators_pass_and_fail():
    shifts = fs.groups.translations(2)
    p = fs.Bundle(OBLONG, "scalar p")
    errors = assert_infinitesimally_equivariant(torch.square, shifts, p, p, (16, 24))
    assert list(errors) == ["translation x", "translation y"]
    assert max(errors.values()) < 1e-10
    x = OBLONG.coordinates((16, 24))[0]
    with pytest.raises(AssertionError, match=r"under translation x \(relative error .*1 of 2"):
        assert_infinitesimally_equivariant(
            lambda u: u * torch.cos(math.pi * x), shifts, p, p, (16, 24)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotations_inside_a_region(dtype):
    disk, turns, grid = SQUARE.disk(0.45), fs.groups.so(2), (48, 48)
    errors = assert_infinitesimally_equivariant(
        gradient, turns, SCALAR, VECTOR, grid, region=disk, dtype=dtype, kmax=3, tol=1e-3
    )
    assert list(errors) == ["rotation xy"]
    with pytest.raises(AssertionError, match="rotation xy"):
        assert_infinitesimally_equivariant(
            turned_gradient, turns, SCALAR, VECTOR, grid, region=disk, dtype=dtype, kmax=3, tol=1e-2
        )
