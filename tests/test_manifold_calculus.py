"""Bases: samples, quadrature, spectral derivatives, regions, lattice maps."""

import math

import broken
import laws
import numpy as np
import pytest
import torch
from catalogue import BASES, OBLONG, SQUARE, bases

import fieldsym as fs


def wave(base, grid, modes, shift=0.3):
    """cos(Σ 2π n_i x_i / L_i + shift) and its phase."""
    x = base.coordinates(grid)
    phase = sum(
        2 * math.pi * n / length * xi for n, length, xi in zip(modes, base.lengths, x, strict=True)
    )
    return phase + shift


def test_where_samples_sit():
    nodes = fs.Torus((2.0,), origin=(-1.0,)).axes((4,))[0]
    assert nodes.tolist() == [-1.0, -0.5, 0.0, 0.5]
    assert fs.Torus((2.0,), location="cell").axes((4,))[0].tolist() == [0.25, 0.75, 1.25, 1.75]
    ends = fs.Box((2.0,), location="node").axes((5,))[0]
    assert ends.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert fs.Box((2.0,), location="cell").axes((4,))[0].tolist() == [0.25, 0.75, 1.25, 1.75]
    mixed = fs.Box((2.0, 3.0), periodic=(True, False), location=("cell", "node"))
    assert mixed.spacing((8, 7)) == (0.25, 0.5)
    x = mixed.coordinates((8, 7), torch.float32)
    assert x.shape == (2, 8, 7)
    assert x.dtype == torch.float32
    assert float(x[1, 0, -1]) == 3.0
    assert float(x[0, -1, 0]) == 1.875
    centred = mixed.coordinates((8, 7), centred=True)
    assert torch.allclose(centred + torch.tensor([1.0, 1.5]).view(2, 1, 1), x.double())


@pytest.mark.parametrize(("base", "grid"), bases())
def test_quadrature(base, grid):
    """Exact for constants everywhere, for linear functions off the wrapping nodes, for waves."""
    weights, x = base.weights(grid), base.coordinates(grid)
    assert weights.shape == grid
    assert float(weights.sum()) == pytest.approx(math.prod(base.lengths), rel=1e-14)
    for axis, wraps in enumerate(base.periodic):
        if wraps:
            cosine = torch.cos(2 * math.pi * 2 * x[axis] / base.lengths[axis] + 0.3)
            assert abs(float((weights * cosine).sum())) < 1e-13
        else:
            mean = base.origin[axis] + base.lengths[axis] / 2
            assert float((weights * x[axis]).sum() / weights.sum()) == pytest.approx(mean)


def assert_differentiates(gradient, base, grid, dtype, tol):
    """The gradient of every resolved wave is exact."""
    most = [(n - 1) // 2 for n in grid]
    for modes in ([1] * base.dim, most, [-most[0], *most[1:]], [0] * base.dim):
        phase = wave(base, grid, modes)
        got = gradient(torch.cos(phase)[None].to(dtype))[0]
        for axis, (n, length) in enumerate(zip(modes, base.lengths, strict=True)):
            k = 2 * math.pi * n / length
            error = (got[axis].double() + k * torch.sin(phase)).abs().max()
            assert error <= tol * (1 + 2 * math.pi * most[axis] / length)


TORI = [
    pytest.param(base, grid, id=name) for name, (base, grid) in BASES.items() if all(base.periodic)
]


@pytest.mark.parametrize(("base", "grid"), TORI)
def test_gradient_of_waves(base, grid, dtype):
    tol = {torch.float32: 2e-6, torch.float64: 1e-13}[dtype]
    assert_differentiates(base.gradient, base, grid, dtype, tol)


def test_gradient_gives_nothing_at_nyquist():
    u = torch.cos(math.pi * torch.arange(16.0))[:, None].expand(16, 24)[None]
    assert OBLONG.gradient(u).abs().max() == 0
    assert OBLONG.wavenumbers((16, 24), 0, torch.float64)[-1] == 0
    assert fs.Torus((1.0,)).wavenumbers((5,), 0, torch.float64).tolist()[-1] == 4 * math.pi


def test_gradient_is_antisymmetric():
    """Integration by parts: ∫ v ∂u = −∫ u ∂v on the torus."""
    u, v = torch.randn(2, 16, 24, dtype=torch.float64)
    weights = OBLONG.weights((16, 24))
    left = (v * OBLONG.gradient(u) * weights).sum((-1, -2))
    right = (u * OBLONG.gradient(v) * weights).sum((-1, -2))
    assert (left + right).abs().max() < 1e-12


def test_saboteurs_of_the_gradient():
    def swapped(u):
        return OBLONG.gradient(u).flip(-3)

    for gradient in (swapped, lambda u: -OBLONG.gradient(u), fs.Torus((3.0, 2.0)).gradient):
        with pytest.raises(AssertionError):
            assert_differentiates(gradient, OBLONG, (16, 24), torch.float64, 1e-12)
    d4 = fs.groups.dihedral(4)
    with pytest.raises(AssertionError):  # the Nyquist modes left in
        laws.assert_gradient_covariant(
            fs.act, d4, SQUARE, (12, 12), 1e-12, broken.gradient_with_nyquist(SQUARE)
        )


def test_gradient_of_a_localised_field_on_a_box():
    base = fs.Box((2.0, 3.0), location="node")
    x, y = base.coordinates((48, 64), centred=True)
    u = torch.exp(-(x**2 + y**2) / 0.08)
    got = base.gradient(u[None])[0]
    assert (got[0] + 25 * x * u).abs().max() < 1e-4  # the window is 1e-5 at the nearer edge
    assert (got[1] + 25 * y * u).abs().max() < 1e-8


def test_regions():
    disk = OBLONG.disk(0.8)
    window, mask = disk.window((16, 24)), disk.mask((16, 24))
    r = OBLONG.coordinates((16, 24), centred=True).norm(dim=0)
    assert torch.allclose(window, torch.exp(-((4 * r / 0.8) ** 2)))
    assert torch.equal(mask, r < 0.8)
    assert float(window[8, 12]) == 1.0
    assert window[~mask].max() < 2e-7
    assert disk.window((16, 24), torch.float32).dtype == torch.float32
    interval = fs.Torus((2.0,)).disk(0.5)
    assert int(interval.mask((16,)).sum()) == 7


def test_lattice_maps():
    flip = fs.Element(np.array([[0.0, -1.0], [1.0, 0.0]]))
    assert SQUARE.lattice(flip) == ((1, 0), (-1, 1))
    assert SQUARE.lattice(fs.groups.so(2).exp([0.3])) is None
    assert SQUARE.lattice(fs.Element(np.ones((2, 2)))) is None
    assert SQUARE.lattice(fs.Element(2 * np.eye(2))) is None
    assert SQUARE.admits(flip, (8, 8))
    assert not SQUARE.admits(flip, (8, 9))
    assert not SQUARE.admits(fs.Element(np.eye(3)))


def test_equality_is_of_the_whole_description():
    assert fs.Torus((2.0, 3.0)) == fs.Torus([2, 3])
    assert hash(fs.Torus((2.0, 3.0))) == hash(fs.Torus([2, 3]))
    assert fs.Torus((2.0, 3.0)) != fs.Torus((2.0, 3.0), location="cell")
    assert fs.Torus((2.0, 3.0)) == fs.Box((2.0, 3.0), periodic=(True, True), location="node")
    assert repr(fs.Box((2.0, 3.0), (True, False))) == "Box(2, 3; periodic True, False)"
