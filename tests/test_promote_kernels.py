"""Rotations of kernels of several samples against the layer itself, applied to plane waves."""

import math

import laws
import numpy as np
import pytest
import torch
from catalogue import OBLONG, SQUARE, groups
from test_promote_weights import DOUBLE, MIXED, SCALAR, SHEAR, TURN, WIND
from torch import nn

import fieldsym as fs
from fieldsym.group import Element, Generator, Group
from fieldsym.operators import weight_lie
from fieldsym.operators.typed_parameters import typed_parameters
from fieldsym.operators.weight_kernels import KernelSites
from fieldsym.operators.weight_lie import WeightLie
from fieldsym.operators.weight_orbits import inner_products
from fieldsym.operators.weight_projection import projected
from fieldsym.symmetry.promote_snap import snap
from fieldsym.symmetry.promote_weights import WeightGram


def conv(source, target, size, dilation=(1, 1), dtype=DOUBLE):
    padding = tuple(n // 2 * d for n, d in zip(size, dilation, strict=True))
    return nn.Conv2d(
        source.channels, target.channels, size, padding=padding, dilation=dilation, bias=False,
        padding_mode="circular", dtype=dtype,
    )  # fmt: skip


def at_waves(layer, k, cell):
    """The multiplier (waves, out, in) of a layer: what it makes of exp(i k·x) at x = 0."""
    reach = layer.padding  # of a window that the kernel fills
    steps = [h * torch.arange(-p, p + 1, dtype=DOUBLE) for h, p in zip(cell, reach, strict=True)]
    x = torch.stack(torch.meshgrid(*steps, indexing="ij"))
    phase = torch.einsum("ka,axy->kxy", k, x)
    held = torch.eye(layer.in_channels, dtype=DOUBLE)[None, :, :, None, None]
    parts = []
    for wave in (phase.cos(), phase.sin()):
        u = (held * wave[:, None, None]).flatten(0, 1)
        y = layer(u)[:, :, reach[0], reach[1]]
        parts.append(y.view(len(k), layer.in_channels, -1).mT)
    return torch.complex(*parts)


def lie_at_waves(layer, xi, source, target, k, cell):
    """L_ξ K = d/dt ρ_out(−t) K(exp(−tξᵀ) k) ρ_in(t), in orthonormal frames."""
    matrix = torch.from_numpy(xi.matrix)
    value, slope = torch.func.jvp(lambda p: at_waves(layer, p, cell), (k,), (-k @ matrix,))
    out, into = (b.representation.drho(xi).to(value) for b in (target, source))
    return framed(slope + value @ into - out @ value, source, target)


def framed(value, source, target):
    out, into = (torch.linalg.cholesky(b.representation.gram).mT for b in (target, source))
    return out.to(value) @ value @ torch.linalg.inv(into).to(value)


def zone(cell, points=40):
    """Gauss nodes of all wavenumbers of a grid, and weights of a mean over them."""
    node, weight = np.polynomial.legendre.leggauss(points)
    axes = [torch.from_numpy(node * math.pi / h) for h in cell]
    k = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    return k, torch.from_numpy(np.outer(weight, weight).ravel() / 4)


def found_gram(layer, generators, source, target, cell):
    group = Group("candidates", 2, tuple(generators))
    p, = typed_parameters(layer, group, source, target)  # fmt: skip
    lie = WeightLie(p, generators, (), cell)
    w = lie.open(p.read())
    columns = [f(w) for f in (*lie.columns.values(), lie.whole)]
    return inner_products(columns, w.device)


def assert_dense(layer, source, target, generators=(TURN, SHEAR), cell=(1.0, 1.0)):
    """Inner products of all L_ξ K and K are means over the wavenumbers of a grid."""
    k, weight = zone(cell)
    with torch.no_grad():
        values = [lie_at_waves(layer, xi, source, target, k, cell) for xi in generators]
        values.append(framed(at_waves(layer, k, cell), source, target))
        rows = torch.stack([v.flatten(1) for v in values])
        dense = torch.einsum("k,akx,bkx->ab", weight + 0j, rows, rows.conj()).real
        gram = found_gram(layer, generators, source, target, cell)
    torch.testing.assert_close(gram, dense, rtol=1e-10, atol=1e-10 * float(dense.abs().max()))


@pytest.mark.parametrize(
    ("source", "target"), [(SCALAR, MIXED), (MIXED, WIND), (WIND, SCALAR)], ids=str
)
@pytest.mark.parametrize("size", [(3, 3), (5, 3), (1, 3)])
def test_kernels_have_the_gram_matrix_of_the_dense_layer(source, target, size):
    assert_dense(conv(source, target, size), source, target)


@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (3, 3)])
def test_cells_and_dilations(dilation):
    """Unequal cells change what a turn does; equal ones of any size do not."""
    layer = conv(MIXED, WIND, (5, 3), dilation)
    assert_dense(layer, MIXED, WIND, cell=(0.3, 0.2))
    grams = [found_gram(layer, [TURN], MIXED, WIND, c) for c in (None, (0.1, 0.1), (0.3, 0.2))]
    torch.testing.assert_close(grams[0], grams[1])
    assert (grams[0] - grams[2])[0, 0].abs() > 0.1


class BrokenSign(KernelSites):
    """Turns the samples the other way."""

    def speed(self, xi):
        return -super().speed(xi)


class BrokenCell(KernelSites):
    """Takes all cells for squares."""

    def __init__(self, sites, dilation, cell, generators):
        super().__init__(sites, dilation, None, generators)


class BrokenDilation(KernelSites):
    """Forgets the samples between."""

    def __init__(self, sites, dilation, cell, generators):
        super().__init__(sites, 1, cell, generators)


class BrokenRows(KernelSites):
    """Drops what no kernel of this size holds."""

    def derivative(self, xi):
        kept = super().derivative(xi)
        tables = [t.to_dense() for t in kept._tables]
        tables[0][len(self.sites) :] = 0
        kept._tables = tables[0].to_sparse(), tables[0].mT.to_sparse()
        return kept


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        *(("KernelSites", b) for b in (BrokenSign, BrokenCell, BrokenDilation, BrokenRows)),
        ("fibre_drho", lambda rep, xi: torch.zeros(rep.channels, rep.channels, dtype=DOUBLE)),
    ],
    ids=["sign of x", "cell", "dilation", "rows", "drho"],
)
def test_saboteurs_do_not_have_it(monkeypatch, name, broken):
    monkeypatch.setattr(weight_lie, name, broken)
    with pytest.raises(AssertionError):
        assert_dense(conv(SCALAR, MIXED, (3, 3), (2, 1)), SCALAR, MIXED, cell=(0.3, 0.2))


def test_closed_forms_of_one_sample():
    """One sample beside the centre: −i k_y exp(i k_x); of the centre only the fibres move."""
    layer = conv(SCALAR, SCALAR, (3, 3))
    layer.weight.data.zero_()
    layer.weight.data[0, 0, 2, 1] = 2.0
    gram, _, size = WeightGram(layer, groups.se(2), SCALAR, SCALAR)()
    torch.testing.assert_close(gram, torch.diag(torch.tensor([0, 0, 4 * math.pi**2 / 3]).double()))
    assert size.item() == 2.0
    wind = fs.Bundle(OBLONG, "vector u")
    layer = conv(wind, wind, (3, 3))
    layer.weight.data.zero_()
    layer.weight.data[:, :, 1, 1] = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert WeightGram(layer, groups.so(2), wind, wind)()[0].item() == pytest.approx(2.0)
    layer.weight.data[:, :, 1, 1] = torch.tensor([[1.0, -3.0], [3.0, 1.0]])
    assert not WeightGram(layer, groups.so(2), wind, wind)()[0].any()


def test_a_larger_stencil_of_the_laplacian_turns_better():
    """Nine points are nearly isotropic, five are not; the fields of a grid see both of them."""
    five = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    corners = torch.tensor([[1.0, 0.0, 1.0], [0.0, -4.0, 0.0], [1.0, 0.0, 1.0]]) / 2
    shares = []
    for stencil in (five, (2 * five + corners) / 3):
        layer = conv(SCALAR, SCALAR, (3, 3))
        layer.weight.data[0, 0] = stencil
        gram, _, size = WeightGram(layer, groups.so(2), SCALAR, SCALAR)()
        shares.append(gram.sqrt().item() / size.item())
    assert 0.05 < shares[1] < 0.8 * shares[0]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_gradients_are_those_of_finite_differences(dtype):
    net = nn.Sequential(conv(MIXED, WIND, (3, 3)), nn.Tanh(), conv(WIND, MIXED, (3, 3)))
    square = fs.Bundle(SQUARE, "scalar p + vector u")
    net, group = net.to(dtype), groups.se(2) * groups.dihedral(4)
    weights = WeightGram(net, group, square, square, "5 scalar")

    def value():
        gram, differences, size = weights()
        return gram.trace() / size + differences.sum()

    value().backward()
    way = [torch.randn_like(p) for p in net.parameters()]
    direct = sum((p.grad * d).sum() for p, d in zip(net.parameters(), way, strict=True))
    step, rel, ends = *{torch.float32: (1e-3, 1e-2), DOUBLE: (1e-6, 1e-6)}[dtype], []
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(net.parameters(), way, strict=True):
                p += sign * step * d
        ends.append(value().item())
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(direct.item(), rel=rel)


def test_spectra_make_it_the_mean_square_on_an_ensemble():
    """Mean over samples and space of (L_i K u)(L_j K u), on the unequal cells of a grid."""
    layer, grid = conv(MIXED, WIND, (5, 3)), (11, 13)
    u = laws.noise(MIXED, grid, DOUBLE, batch=3)
    cell = OBLONG.spacing(grid)
    generators = (TURN, SHEAR)
    weights = WeightGram(layer, Group("candidates", 2, generators), MIXED, WIND, spectra=u)
    waves = [2 * math.pi * torch.fft.fftfreq(n, h, dtype=DOUBLE) for n, h in zip(grid, cell)]  # noqa: B905
    k = torch.stack(torch.meshgrid(*waves, indexing="ij"), -1).flatten(0, 1)
    into = torch.linalg.cholesky(MIXED.representation.gram).mT
    z = torch.fft.fftn(torch.einsum("pq,bqxy->bpxy", into, u), dim=(2, 3), norm="forward")
    z = z.flatten(2)
    with torch.no_grad():
        lies = [lie_at_waves(layer, xi, MIXED, WIND, k, cell) for xi in generators]
        rows = torch.stack([torch.einsum("koi,bik->bok", v, z).flatten() for v in lies])
        gram, _, size = weights()
        y = torch.einsum("koi,bik->bok", framed(at_waves(layer, k, cell), MIXED, WIND), z)
    torch.testing.assert_close(gram, (rows @ rows.conj().mT).real / 3, rtol=1e-9, atol=0)
    assert size.item() ** 2 == pytest.approx(y.abs().square().sum().item() / 3)


def test_promotion_reaches_nets_of_kernels():
    """The penalty on a turn ends at kernels of one sample that commute."""
    wind = fs.Bundle(SQUARE, "vector u")
    layer = conv(wind, wind, (3, 3))
    penalty = fs.promote(layer, groups.so(2), wind, wind, level="weights")
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=200, tolerance_change=1e-14)
    held = torch.eye(2, dtype=DOUBLE)[:, :, None, None]

    def closure():
        optimiser.zero_grad()
        loss = penalty().square() + (layer.weight[:, :, 1:2, 1:2] - held).square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    centre = layer.weight[:, :, 1, 1].detach()
    assert layer.weight.detach().norm().item() == pytest.approx(centre.norm().item(), rel=1e-6)
    torch.testing.assert_close(centre, torch.eye(2, dtype=DOUBLE), rtol=0, atol=1e-4)


def test_snap_leaves_the_centre_of_a_kernel():
    net = nn.Sequential(conv(MIXED, SCALAR, (3, 3)), nn.GELU(), conv(SCALAR, SCALAR, (3, 3)))
    with torch.no_grad():
        for layer in net[::2]:
            centre = layer.weight[:, :, 1, 1].clone()
            layer.weight *= 1e-4
            layer.weight[:, :, 1, 1] = centre
        net[0].weight[:, 1:] *= 1e-4
    scalar = net[0].weight[0, 0, 1, 1].item()
    found = snap(net, groups.se(2), MIXED, SCALAR, hidden="scalar")
    assert found.directions == ("translation x", "translation y", "rotation xy")
    assert not found.left
    assert 0 < found.removed["2.weight"] < 1e-3
    want = torch.zeros_like(net[0].weight)
    want[0, 0, 1, 1] = scalar
    assert torch.equal(net[0].weight, want)
    assert not WeightGram(net, groups.se(2), MIXED, SCALAR, "scalar")()[0].any()
    assert not any(snap(net, groups.se(2), MIXED, SCALAR, hidden="scalar").removed.values())


def test_in_space_the_samples_on_the_axis_stay():
    """A turn about z, and a mirror that takes z to −z, of a map of vectors."""
    base = fs.Bundle(fs.Torus((1.0, 1.0, 1.0)), "vector u")
    matrix = np.zeros((3, 3))
    matrix[0, 1], matrix[1, 0] = -1.0, 1.0
    turn = Generator("turn", matrix, np.zeros(3))
    flip = Element(np.diag([1.0, 1.0, -1.0]))
    mirror = Group("mirror", 3, (), (flip,), (Element(np.eye(3)), flip))
    layer = nn.Conv3d(3, 3, 3, padding=1, padding_mode="circular", bias=False, dtype=DOUBLE)
    p, = typed_parameters(layer, mirror, base, base)  # fmt: skip
    lie = WeightLie(p, [turn], mirror.components)
    old = p.read().detach()
    new = projected(lie, old, mirror.elements, [turn])
    moving = p.sites[:, :2].any(1)
    assert not new[moving].any()
    assert new[~moving].abs().max() > 0.01
    after = lie.open(new)
    assert lie.columns[0](after).abs().max() < 1e-15
    assert lie.differences[0](after).abs().max() < 1e-15
    torch.testing.assert_close(projected(lie, new, mirror.elements, [turn]), new)
    assert (new * (old - new)).sum().abs() < 1e-14  # orthogonal, so the nearest
    with pytest.raises(AssertionError):
        assert lie.columns[0](lie.open(old)).abs().max() < 1e-15
