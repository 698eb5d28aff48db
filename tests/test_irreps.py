"""Pointwise maps, gates and norms of irreducible features: equivariance at generic angles."""

import math

import laws
import numpy as np
import pytest
import torch
import turned
from catalogue import groups
from torch import nn
from torch.nn import functional

import fieldsym as fs
from fieldsym.operators.irreps import FibreNorm, Gate, SchurMap
from fieldsym.operators.products import VectorProduct
from fieldsym.operators.reach import hidden_types

PLANE = fs.Representation(
    "2 scalar p + pseudoscalar w + 2 vector u + axial vector b + 2 symmetric tensor s"
    " + 2 symmetric traceless tensor t + 3 scalar q", 2
)  # fmt: skip
SPACE = fs.Representation(
    "2 scalar p + 2 pseudoscalar w + 2 vector u + axial vector b + symmetric tensor s"
    " + 2 symmetric traceless tensor t", 3
)  # fmt: skip
CASES = [(PLANE, groups.so(2)), (PLANE, groups.o(2)), (SPACE, groups.so(3)), (SPACE, groups.o(3))]


def elements(group):
    """Generic rotations, with a mirror too where the group has one."""
    turns = [turned.rotation(0.7)] if group.dim == 2 else [turned.rotation(0.3, 0.7, -0.4)]
    mirrored = [a @ np.diag([1.0] * (group.dim - 1) + [-1.0]) for a in turns]
    return [fs.Element(a) for a in (turns + mirrored if group.components else turns)]


def on_fibres(rep, g, x):
    """ρ(g) at every point, the points left where they are."""
    return torch.einsum("ij,bj...->bi...", rep.rho(g).to(x), x)


def assert_commutes(layer, rep_in, rep_out, group, dtype=torch.float64, tol=1e-12):
    """F(ρ_in(g) x) = ρ_out(g) F(x) at every point."""
    layer = layer.to(dtype)
    x = torch.randn(2, rep_in.channels, *(3, 4, 5)[: group.dim], dtype=dtype)
    with torch.no_grad():
        value = layer(x)
        for g in elements(group):
            laws.assert_close(
                layer(on_fibres(rep_in, g, x)), on_fibres(rep_out, g, value), tol
            )  # fmt: skip


def shake(layer):
    """Random biases and scales, which start at zero and one."""
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return layer


@pytest.mark.parametrize(("rep", "group"), CASES, ids=str)
def test_everything_commutes_with_the_fibres(rep, group, dtype):
    tol = 1e-12 if dtype == torch.float64 else 2e-6
    gate = shake(Gate(rep))
    assert_commutes(gate, gate.rep_in, rep, group, dtype, tol)
    assert_commutes(shake(SchurMap(rep, gate.rep_in, group)), rep, gate.rep_in, group, dtype, tol)
    assert_commutes(shake(FibreNorm(rep)), rep, rep, group, dtype, tol)
    product = VectorProduct(rep, group)
    assert_commutes(product, product.rep_in, product.rep_out, group, dtype, tol)


# Pointwise maps -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rep", "group", "weights", "biases"),
    [
        # (p, q → p, q) 5·5, w 1, u and b mix under SO(2) only, s = trace + t
        ("5 scalar + pseudoscalar + 2 vector", groups.o(2), 25 + 1 + 4, 5),
        ("5 scalar + pseudoscalar + 2 vector", groups.so(2), 36 + 2 * 4, 6),
        ("scalar + symmetric tensor", groups.o(2), 1 + 1 + 1 + 2, 2),
        ("scalar + symmetric tensor", groups.so(2), 1 + 1 + 1 + 3, 2),
        # in the plane an axial vector is a vector turned by 90°
        ("vector + axial vector", groups.o(2), 4, 0),
        ("vector + axial vector", groups.so(2), 8, 0),
        ("vector + axial vector", groups.o(3), 2, 0),
        ("vector + axial vector", groups.so(3), 4, 0),
        ("2 symmetric tensor + symmetric traceless tensor", groups.o(3), 8 + 4 + 1, 2),
        ("scalar + pseudoscalar", groups.o(3), 2, 1),
        ("scalar + pseudoscalar", groups.e(3), 2, 1),
        ("scalar + pseudoscalar", groups.se(3), 4, 2),
    ],
)  # fmt: skip
def test_dimensions_of_the_commutant(rep, group, weights, biases):
    rep = fs.Representation(rep, group.dim)
    layer = SchurMap(rep, rep, group)
    assert layer.weight.numel() == weights
    assert (0 if layer.bias is None else layer.bias.numel()) == biases


@pytest.mark.parametrize(("rep", "group"), CASES, ids=str)
def test_the_commutant_is_complete(rep, group):
    """The average of a random matrix over many rotations lies in the space of the layer."""
    layer = SchurMap(rep, rep, group, bias=False).double()
    x = torch.eye(rep.channels, dtype=torch.float64)[..., None]
    columns = []
    with torch.no_grad():
        for i in range(layer.weight.numel()):
            layer.weight.zero_()
            layer.weight[i] = 1
            columns.append(layer(x).squeeze(-1).mT.flatten())
    basis = torch.stack(columns, 1)
    assert torch.linalg.matrix_rank(basis) == basis.shape[1]
    gram = torch.zeros(rep.channels**2, rep.channels**2, dtype=torch.float64)
    for g in (*elements(group), *(h @ h @ h for h in elements(group))):
        rho = rep.rho(g)
        equation = torch.kron(rho, rho.inverse().mT.contiguous())
        equation -= torch.eye(len(equation), dtype=torch.float64)
        gram += equation.mT @ equation
    if group.dim == 3:  # one axis is not enough
        other = rep.rho(fs.Element(turned.rotation(-0.5, 0.2, 1.1)))
        equation = torch.kron(other, other.inverse().mT.contiguous())
        equation -= torch.eye(len(equation), dtype=torch.float64)
        gram += equation.mT @ equation
    assert int((torch.linalg.eigvalsh(gram) < 1e-9).sum()) == basis.shape[1]
    assert (gram @ basis).abs().max() < 1e-9


def test_a_map_that_the_symmetry_forbids_is_its_bias():
    p, w = fs.Representation("scalar", 2), fs.Representation("pseudoscalar + scalar", 2)
    layer = SchurMap(fs.Representation("vector", 2), w, groups.o(2))
    with torch.no_grad():
        layer.bias.fill_(3.0)
    y = layer(torch.ones(2, 2, 4, 5))
    assert torch.equal(y, torch.tensor([0.0, 3.0]).view(1, 2, 1, 1).expand(2, 2, 4, 5))
    nothing = SchurMap(p, fs.Representation("pseudoscalar", 2), groups.o(2))
    assert not list(nothing.parameters())
    assert torch.equal(nothing(torch.ones(2, 1, 4, 5)), torch.zeros(2, 1, 4, 5))


def test_weights_keep_the_variance():
    layer = SchurMap(fs.Representation("40 scalar + 30 vector", 2),
                     fs.Representation("50 scalar + 60 vector", 2), groups.so(2))  # fmt: skip
    with torch.no_grad():
        y = layer(torch.randn(1, 100, 30, 30))
    assert float(y[:, :50].var()) == pytest.approx(1, rel=0.15)
    assert float(y[:, 50:].var()) == pytest.approx(1, rel=0.15)


# Gates and norms ----------------------------------------------------------------------------------


def test_a_gate_in_closed_form():
    rep = fs.Representation("scalar p + vector u + pseudoscalar w", 2)
    gate = Gate(rep, functional.softplus).double()
    assert repr(gate.rep_in) == "scalar p + vector u + pseudoscalar w + 2 scalar"
    p, x, y, w, a, b = (float(v) for v in (0.3, 1.5, -2.0, 0.7, 0.2, -1.1))
    inputs = torch.tensor([p, x, y, w, a, b]).view(1, 6, 1, 1).double()
    norms = torch.tensor([math.hypot(1, x, y) - 1, math.hypot(1, w) - 1]).double()
    driven = torch.tensor([p, a, b]).double() + gate.mix.detach() @ norms
    open_u, open_w = driven[1:].sigmoid()
    want = torch.stack([functional.softplus(driven[0]), x * open_u, y * open_u, w * open_w])
    assert torch.allclose(gate(inputs).flatten(), want, atol=1e-7)


def test_a_gate_without_gated_fields_is_the_function():
    gate = Gate(fs.Representation("3 scalar", 2), torch.sin)
    x = torch.randn(1, 3, 4, 5)
    assert torch.equal(gate(x), torch.sin(x))
    assert not list(gate.parameters())


def test_norms_use_the_inner_product_of_the_type():
    """The off-diagonal entry of a tensor counts twice; grid, batch and field have unequal sizes."""
    norm = FibreNorm(fs.Representation("2 symmetric tensor s + scalar p", 2)).double()
    x = torch.randn(3, 7, 4, 5, dtype=torch.float64)
    full = laws.full_tensor(x[:, 3:6].movedim(1, 0), 2, traceless=False)  # of the second copy
    mean = full.square().sum((0, 1)).mean((1, 2))
    want = x[:, 3:6] / (mean + 1e-5).sqrt().view(-1, 1, 1, 1)
    assert torch.allclose(norm(x)[:, 3:6], want, atol=1e-12)
    rms = (x[:, 6:].square().mean((1, 2, 3)) + 1e-5).sqrt().view(-1, 1, 1, 1)
    assert torch.allclose(norm(x)[:, 6:], x[:, 6:] / rms, atol=1e-12)


# Products -----------------------------------------------------------------------------------------


def product_of(text, group, *values):
    """The products of the vector (9, 12), of length 15, with the values given."""
    product = VectorProduct(fs.Representation(text, group.dim), group).double()
    v = torch.tensor([9.0, 12.0])
    x = torch.cat([v, *(torch.tensor(value) for value in values)]).double()
    v = v.double() / math.sqrt(1 + 225)
    return product.rep_out, v, product(x.view(1, -1, 1, 1)).flatten()


def test_products_in_closed_form():
    """Products with s = 2, w = 3, u = (0.5, −0.7), t = (1.1, 0.4), up to the scale of each."""
    text = "scalar s + pseudoscalar w + vector u + symmetric traceless tensor t"
    rep, v, y = product_of(text, groups.o(2), [2.0], [3.0], [0.5, -0.7], [1.1, 0.4])
    assert repr(rep) == "scalar + pseudoscalar + 3 vector + symmetric traceless tensor"
    a, b = v
    want = [
        (0.5 * a - 0.7 * b,),  # v·u
        (-0.7 * a - 0.5 * b,),  # v × u
        (2 * a, 2 * b),  # v s
        (-3 * b, 3 * a),  # w turned by 90°
        (1.1 * a + 0.4 * b, 0.4 * a - 1.1 * b),  # t v
        ((0.5 * a + 0.7 * b) / 2, (-0.7 * a + 0.5 * b) / 2),  # traceless part of v ⊗ u
    ]
    for got, expected in zip(y.split([1, 1, 2, 2, 2, 2]), want, strict=True):
        cosine = functional.cosine_similarity(got, torch.stack(expected), dim=0)
        assert abs(cosine) > 1 - 1e-12
        assert got.norm() > 0.1


def test_products_grow_no_faster_than_the_fields():
    product = VectorProduct(PLANE, groups.o(2)).double()
    x = torch.randn(1, product.rep_in.channels, 4, 5, dtype=torch.float64)
    assert product(1e6 * x).norm() < 3e6 * product(x).norm()
    laws.assert_close(product(2e-6 * x), 4 * product(1e-6 * x), 1e-6)


# Saboteurs ----------------------------------------------------------------------------------------


class PerComponent(nn.Module):
    """The function on every channel: exact at 90° for odd functions, wrong in between."""

    def forward(self, x):
        return torch.tanh(x)


class GateAsScalar(Gate):
    """Pseudoscalars treated as scalars."""

    def __init__(self, rep):
        super().__init__(fs.Representation(str(rep).replace("pseudoscalar", "scalar"), rep.dim))


class NormPerChannel(nn.Module):
    """One scale per component."""

    def forward(self, x):
        return x * x.square().flatten(2).mean(2).rsqrt()[..., None, None]


class NormWithoutInnerProduct(FibreNorm):
    """The plain sum of squares of the stored components of a tensor."""

    def __init__(self, rep):
        super().__init__(rep)
        for name, gram in dict(self.named_buffers()).items():
            self.register_buffer(name, torch.eye(len(gram)), persistent=False)


def test_saboteurs_fail():
    v, t = fs.Representation("2 vector u", 2), fs.Representation("symmetric tensor s", 2)
    quarter = fs.Element(turned.rotation(math.pi / 2))
    x = torch.randn(1, 4, 3, 4)
    moved = torch.tanh(on_fibres(v, quarter, x))
    laws.assert_close(moved, on_fibres(v, quarter, torch.tanh(x)), 1e-6)
    mixed = fs.Representation("scalar p + pseudoscalar w", 2)
    pair = fs.Representation("scalar + vector", 2)
    factors = VectorProduct(pair, groups.o(2)).rep_in
    for layer, rep_in, rep_out in (
        (PerComponent(), v, v),
        (GateAsScalar(mixed), mixed, mixed),
        (NormPerChannel(), v, v),
        (NormWithoutInnerProduct(t), t, t),
        (SchurMap(v, fs.Representation("4 scalar", 2), groups.o(2)), v, v),
        (_Biased(v), v, v),
        (ProductOfComponents(pair, groups.o(2)), factors, pair),
    ):
        with pytest.raises(AssertionError):
            assert_commutes(shake(layer), rep_in, rep_out, groups.o(2), tol=1e-3)


class ProductOfComponents(VectorProduct):
    """The absolute value of every component of the products."""

    def forward(self, x):
        return super().forward(x).abs()


class _Biased(nn.Module):
    """A constant added to a vector."""

    def __init__(self, rep):
        super().__init__()
        self.shift = nn.Parameter(torch.ones(rep.channels, 1, 1))

    def forward(self, x):
        return x + self.shift


# Hidden types -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "group", "text"),
    [
        (64, groups.so(2), "32 scalar + 8 vector + 8 symmetric traceless tensor"),
        (64, groups.o(2), "34 scalar + 10 pseudoscalar + 5 vector + 5 symmetric traceless tensor"),
        (64, groups.se(3), "34 scalar + 5 vector + 3 symmetric traceless tensor"),
        (64, groups.e(3), "39 scalar + 8 pseudoscalar + 2 vector + 2 axial vector"
         " + symmetric traceless tensor"),
        (13, groups.o(3), "scalar + pseudoscalar + vector + axial vector"
         " + symmetric traceless tensor"),
    ],
)  # fmt: skip
def test_default_types(channels, group, text):
    rep = hidden_types(channels, group)
    assert repr(rep) == text
    assert rep.channels == channels


def test_too_narrow():
    with pytest.raises(fs.RepresentationError, match="13 channels at least for o"):
        hidden_types(12, groups.o(3))
    with pytest.raises(fs.GroupError, match="the finite dihedral"):
        hidden_types(12, groups.dihedral(4))


def test_gradients_jvp_and_vmap():
    gate = Gate(PLANE).double()
    layers = nn.Sequential(SchurMap(PLANE, gate.rep_in, groups.o(2)), gate, FibreNorm(PLANE))
    layers = layers.double()
    laws.assert_all_learn(layers, torch.randn(2, PLANE.channels, 4, 5).double())
    x, v = torch.randn(2, 2, PLANE.channels, 4, 5, dtype=torch.float64)
    slope = (layers(x + 1e-5 * v) - layers(x - 1e-5 * v)) / 2e-5
    laws.assert_close(torch.func.jvp(layers, (x,), (v,))[1], slope, 1e-8)
    laws.assert_close(torch.vmap(lambda one: layers(one[None])[0])(x), layers(x), 1e-13)
