"""Weight-level Lie derivatives against dense layers on small tori, by formulas of their own."""

import math

import laws
import numpy as np
import pytest
import torch
from catalogue import OBLONG, SQUARE, groups
from torch import nn

import fieldsym as fs
from fieldsym.errors import GroupError
from fieldsym.group import Generator, Group
from fieldsym.operators import weight_lie, weight_spectra
from fieldsym.operators.adopt import register
from fieldsym.operators.constraints import PointwiseConstraint
from fieldsym.operators.steerable import SteerableConv
from fieldsym.operators.typed_parameters import typed_parameters
from fieldsym.operators.weight_lie import WeightLie, fibre_drho, steerable_lie
from fieldsym.operators.weight_sites import ModeSites
from fieldsym.symmetry import promote_weights
from fieldsym.symmetry.promote_weights import WeightGram

DOUBLE = torch.float64
D4 = groups.dihedral(4)
TURN = groups.so(2).generators[0]
SHEAR = Generator("shear", np.array([[0.0, 0.7], [-0.3, 0.0]]), np.zeros(2))
MIXED = fs.Bundle(OBLONG, "scalar p + vector u")
WIND = fs.Bundle(OBLONG, "vector u + symmetric tensor s")
SCALAR = fs.Bundle(OBLONG, "scalar p")
GRID = (12, 15)


class Blocks(nn.Module):
    """A spectral convolution in float64 with its rows in two blocks."""

    def __init__(self, inside, out, modes=(3, 4)):
        super().__init__()
        shape = (inside, out, *modes)
        self.modes = modes
        self.weights1 = nn.Parameter(torch.randn(shape, dtype=torch.complex128))
        self.weights2 = nn.Parameter(torch.randn(shape, dtype=torch.complex128))

    def forward(self, u):
        z = torch.fft.rfft2(u)
        rows, columns = self.modes
        shape = (len(u), self.weights1.shape[1], *z.shape[2:])
        y = torch.zeros(shape, dtype=z.dtype)
        for window, weight in (
            (np.s_[:, :, :rows, :columns], self.weights1),
            (np.s_[:, :, -rows:, :columns], self.weights2),
        ):
            y[window] = torch.einsum("bixy,ioxy->boxy", z[window], weight)
        return torch.fft.irfft2(y, s=u.shape[2:])


def impulses(channels, grid):
    """A unit impulse at the origin in every channel, (channels, channels, *grid)."""
    one = torch.zeros(channels, channels, *grid, dtype=DOUBLE)
    one[(range(channels), range(channels), *[0] * len(grid))] = 1
    return one


def along(u, xi, lengths):
    """X·∇u, X_i = Σ_j A_ij L_j/2π sin(2πx_j/L_j), by a dense matrix per axis."""
    total = torch.zeros_like(u)
    for i, j in np.argwhere(xi.matrix):
        n, m = u.shape[2 + i], u.shape[2 + j]
        k = np.fft.fftfreq(n, 1 / n) * (np.abs(np.fft.fftfreq(n, 1 / n)) * 2 < n)
        wave = np.exp(2j * np.pi * np.outer(np.arange(n), k) / n)
        slope = (wave @ np.diag(2j * np.pi / lengths[i] * k) @ wave.conj().T / n).real
        sine = lengths[j] / (2 * np.pi) * np.sin(2 * np.pi * np.arange(m) / m)
        sine = torch.from_numpy(sine).view(-1, *[1] * (len(lengths) - 1 - j))
        moved = torch.tensordot(torch.from_numpy(slope), u, ([1], [2 + i])).movedim(0, 2 + i)
        total += xi.matrix[i, j] * sine * moved
    return total


def fibres(u, matrix):
    return torch.einsum("pq,bq...->bp...", matrix, u)


def commutator(layer, xi, source, target, grid):
    """[K, ξ] of impulses at the origin, (channels of the input, channels, *grid)."""

    def moved(u, bundle):
        return fibres(u, bundle.representation.drho(xi)) - along(u, xi, bundle.base.lengths)

    delta = impulses(source.channels, grid)
    with torch.no_grad():
        return layer(moved(delta, source)) - moved(layer(delta), target)


def framed(kernel, source, target):
    """Kernels of impulses in orthonormal frames, (channels, channels in, points)."""
    out, into = (torch.linalg.cholesky(b.representation.gram).mT for b in (target, source))
    kernel = torch.einsum("pq,bq...->pb...", out, kernel).flatten(2)
    return torch.einsum("pbx,bc->pcx", kernel, torch.linalg.inv(into))


def products(kernels, source, target, grid):
    """Σ_k of inner products of multipliers, by Parseval."""
    rows = torch.stack([framed(k, source, target).flatten() for k in kernels])
    return rows @ rows.mT * math.prod(grid)


def assert_dense(layer, source, target, generators, grid=GRID, lie=None):
    """The Gram matrix of a convolution is that of its dense commutators."""
    group = Group("candidates", 2, tuple(generators))
    weights = WeightGram(layer, group, source, target) if lie is None else lie
    gram, _, size = weights()
    kernels = [commutator(layer, xi, source, target, grid) for xi in generators]
    dense = products(kernels, source, target, grid)
    torch.testing.assert_close(gram, dense, rtol=1e-10, atol=1e-10 * float(dense.abs().max()))
    whole = products([layer(impulses(source.channels, grid))], source, target, grid)
    torch.testing.assert_close(size**2, whole[0, 0], rtol=1e-10, atol=0)


def only(weights, keep):
    """Leave some parameters."""
    weights.terms = [([lie], None) for lie in weights.lies if keep(lie.parameter)]


@pytest.mark.parametrize(
    ("source", "target"), [(MIXED, WIND), (SCALAR, MIXED), (WIND, SCALAR)], ids=str
)
def test_blocks_have_the_gram_matrix_of_dense_commutators(source, target):
    layer = Blocks(source.channels, target.channels)
    assert_dense(layer, source, target, [TURN, SHEAR])


def test_half_sets_have_the_gram_matrix_of_dense_commutators():
    """The multiplier of our own FNO, between hidden scalars, on unequal lengths."""
    model = fs.FNO(MIXED, MIXED, n_modes=(5, 7), hidden_channels=3, n_layers=1).double()
    conv, hidden = model.layers[0].convolution, fs.Bundle(OBLONG, "3 scalar")
    weights = WeightGram(model, groups.se(2), MIXED, MIXED)
    only(weights, lambda p: p.name == "layers.0.convolution.weights")
    gram, _, size = weights()
    kernel = commutator(conv, TURN, hidden, hidden, GRID)
    dense = products([kernel], hidden, hidden, GRID)[0, 0]
    assert gram[2, 2].item() == pytest.approx(dense.item(), rel=1e-11)
    assert not gram[:2].any()
    whole = products([conv(impulses(3, GRID))], hidden, hidden, GRID)[0, 0]
    assert size.item() ** 2 == pytest.approx(whole.item(), rel=1e-11)


def test_neuraloperator_has_the_gram_matrix_of_dense_commutators():
    from neuralop.layers.spectral_convolution import SpectralConv

    layer = SpectralConv(1, 3, (5, 7), bias=False)
    grid = (12, 16)
    group = Group("candidates", 2, (TURN,))
    gram, _, _ = WeightGram(layer, group, SCALAR, MIXED)()
    single = commutator(lambda u: layer(u.float()).double(), TURN, SCALAR, MIXED, grid)
    dense = products([single], SCALAR, MIXED, grid)[0, 0]
    assert gram.item() == pytest.approx(dense.item(), rel=1e-5)


class BrokenModes(ModeSites):
    """Counts k and −k once."""

    def __init__(self, *args):
        super().__init__(*args)
        self.weights = np.ones(len(self.rows))


class BrokenLengths(ModeSites):
    """Counts waves instead of wavenumbers."""

    def __init__(self, sites, lengths, elements=()):
        super().__init__(sites, (1.0,) * len(lengths), elements)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("ModeSites", BrokenModes),
        ("ModeSites", BrokenLengths),
        ("fibre_drho", lambda rep, xi: -fibre_drho(rep, xi)),
    ],
    ids=["conjugate mode dropped", "lengths dropped", "wrong sign of drho"],
)
def test_saboteurs_do_not_have_it(monkeypatch, name, broken):
    monkeypatch.setattr(weight_lie, name, broken)
    with pytest.raises(AssertionError):
        assert_dense(Blocks(1, 3), SCALAR, MIXED, [TURN])


def dense_differences(layer, group, source, target, grid):
    """‖g⁻¹ F g − F‖ of a layer from what it makes of impulses."""
    found = []
    for g in group.elements[1:]:
        delta = impulses(source.channels, grid)
        with torch.no_grad():
            moved = fs.act(g.inverse, layer(fs.act(g, delta, source)), target) - layer(delta)
        found.append(products([moved], source, target, grid)[0, 0].sqrt())
    return torch.stack(found)


@pytest.mark.parametrize(
    ("source", "target", "group", "grid"),
    [
        (fs.Bundle(SQUARE, "scalar p + vector u"), fs.Bundle(SQUARE, "symmetric tensor s"), D4,
         (12, 12)),
        (MIXED, WIND, groups.dihedral(2), GRID),
    ],
    ids=["square", "oblong"],
)  # fmt: skip
@pytest.mark.parametrize("kernel", [False, True])
def test_differences_are_those_of_the_dense_layer(source, target, group, grid, kernel):
    layer = Blocks(3, target.channels, (3, 4) if group is not D4 else (4, 4))
    if kernel:
        layer = nn.Conv2d(3, target.channels, 3, padding=1, padding_mode="circular", bias=False)
        layer = layer.double()
    _, found, _ = WeightGram(layer, group, source, target)()
    want = dense_differences(layer, group, source, target, grid)
    want = want / math.prod(grid) ** 0.5 if kernel else want  # samples, not modes
    torch.testing.assert_close(found, want)
    assert (found > 0.1).all()


def test_position_and_pointwise_weights():
    """Translations are broken by the columns of the coordinates alone, in units of length."""
    model = fs.FNO(
        MIXED, MIXED, n_modes=3, hidden_channels=4, n_layers=1, positional_embedding="grid"
    ).double()
    gram, _, _ = WeightGram(model, groups.translations(2), MIXED, MIXED)()
    columns = model.lifting.first.weight.matrices[0, 0, :, 3:] * torch.tensor([2 / 2.0, 2 / 3.0])
    torch.testing.assert_close(gram, columns.mT @ columns)
    with torch.no_grad():
        held = model.lifting.first.weight.matrices
        held[0, 0, :, 4] = held[0, 0, :, 3] * 1.5  # W_x / L_x = W_y / L_y: x − y stays free
    free = torch.linalg.eigh(WeightGram(model, groups.translations(2), MIXED, MIXED)()[0])
    assert free.eigenvalues[0].abs() < 1e-12
    assert free.eigenvectors[:, 0].abs().tolist() == pytest.approx([0.5**0.5] * 2)


def test_a_turn_moves_coordinates_against_each_other():
    """F(x) = W Λ x of one scalar: L_J F = W Λ J x, on unequal lengths."""
    model = fs.FNO(
        MIXED, SCALAR, n_modes=3, hidden_channels=1, n_layers=1, lifting_channel_ratio=0,
        positional_embedding="grid",
    ).double()  # fmt: skip
    row = model.lifting.weight.matrices[0, 0, :, 3:].detach()
    weights = WeightGram(model, groups.se(2), MIXED, SCALAR)
    only(weights, lambda p: p.role == "position")
    scale = torch.diag(2 / torch.tensor(OBLONG.lengths, dtype=DOUBLE))
    turned = row @ scale @ torch.from_numpy(TURN.matrix) @ torch.linalg.inv(scale)
    assert weights()[0][2, 2].item() == pytest.approx(float(turned.square().sum()))


def plain(width=8, source=MIXED, target=MIXED):
    return fs.FNO(source, target, n_modes=(5, 5), hidden_channels=width, n_layers=1)


def penalty(model, group, bundle=MIXED):
    gram, differences, size = WeightGram(model, group, bundle, bundle)()
    broken = torch.linalg.eigvalsh(gram / size**2).clamp_min(1e-12).sqrt()
    return broken.sum() + (differences / size).sum()


@pytest.mark.parametrize("positional_embedding", [None, "grid"])
def test_the_scale_of_the_weights_does_not_matter(dtype, positional_embedding):
    square = fs.Bundle(SQUARE, "scalar p + vector u")
    model = fs.FNO(
        square, square, n_modes=5, hidden_channels=8, n_layers=1,
        positional_embedding=positional_embedding,
    ).to(dtype)  # fmt: skip
    group = groups.se(2) * D4
    value = penalty(model, group, square)
    value.backward()
    assert value.dtype == DOUBLE
    pairs = [(p.detach(), p.grad) for p in model.parameters()]
    along_weights = sum((w.double() * g.double()).sum() for w, g in pairs)
    assert abs(along_weights) < {torch.float32: 1e-5, DOUBLE: 1e-12}[dtype] * value.abs()
    with torch.no_grad():
        for p in model.parameters():
            p *= 3
    assert penalty(model, group, square).item() == pytest.approx(value.item(), rel=1e-5)


def test_gradients_are_those_of_finite_differences():
    layer = nn.Sequential(Blocks(1, 3, (2, 2)), nn.Conv2d(3, 3, 1).double())
    square = [fs.Bundle(SQUARE, text) for text in ("scalar p", "vector u + pseudoscalar w")]
    weights = WeightGram(layer, groups.so(2) * D4, *square, "vector + pseudoscalar")
    parameters, mix = list(layer.parameters()), torch.randn(7, dtype=DOUBLE)

    def value(*values):
        with torch.no_grad():
            for p, v in zip(parameters, values, strict=True):
                p.copy_(v)
        gram, differences, size = weights()
        return gram[0, 0] / size + (mix * differences).sum()

    held = [p.detach().clone() for p in parameters]
    value(*held).backward()
    grads = [p.grad.clone() for p in parameters]
    way = [torch.randn_like(v) for v in held]
    step = 1e-6
    ends = [value(*[v + s * step * d for v, d in zip(held, way, strict=True)]) for s in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    direct = sum((g.conj() * d).real.sum() for g, d in zip(grads, way, strict=True))
    assert slope.item() == pytest.approx(direct.item(), rel=1e-7)


def test_the_gram_matrix_of_several_generators_keeps_its_float64():
    """Two columns that differ by 1e-6 leave a small eigenvalue, also of float32 weights."""
    model = fs.FNO(
        MIXED, MIXED, n_modes=3, hidden_channels=64, n_layers=1, positional_embedding="grid"
    )
    held = model.lifting.first.weight.matrices
    with torch.no_grad():
        held[0, 0, :, 4] = held[0, 0, :, 3] * 1.5 + 1e-6 * torch.randn(len(held[0, 0]))
    columns = (held[0, 0, :, 3:].double() * torch.tensor([1.0, 2 / 3], dtype=DOUBLE)).detach()
    gram, _, _ = WeightGram(model, groups.translations(2), MIXED, MIXED)()
    least = torch.linalg.eigvalsh(gram)[0].clamp_min(0).sqrt()
    want = torch.linalg.svdvals(columns)[1]
    assert least.item() == pytest.approx(want.item(), rel=0.2)


def both_ways(weights, dtype):
    """Gram matrix, differences and gradients, and the same one element after the other."""
    found = []
    for separately in (False, True):
        if separately:
            weights._orbits = dict.fromkeys(weights._orbits)
        parameters = [p for w in weights.parameters for p in w.module.parameters()]
        parameters = list(dict.fromkeys(parameters))
        gram, differences, size = weights()
        mix = torch.linspace(1, 2, len(differences), dtype=DOUBLE)
        value = gram.sum() / size**2 + (mix * differences).sum() + size
        grads = torch.autograd.grad(value, parameters)
        found.append([t.detach() for t in (gram, differences, size, *grads)])
    return found


SWAP = D4.subgroup("swap", [g for g in D4.elements if g.name in ("identity", "reflection x ↔ y")])


@pytest.mark.parametrize(
    "group", [D4, groups.cyclic(4), groups.reflections(2), groups.dihedral(1), SWAP], ids=str
)
@pytest.mark.parametrize("kind", ["ours", "paired", "net", "steerable"])
def test_orbits_have_the_squares_of_every_element(kind, group):
    """In single precision, with modes stored once or twice and stabilisers of every size."""
    square = fs.Bundle(SQUARE, "scalar p + vector u + pseudoscalar w")
    ring = fs.Bundle(SQUARE, "vector u + 2 scalar q")
    model = {
        "ours": lambda: fs.FNO(square, ring, n_modes=(5, 5), hidden_channels=16, n_layers=2,
                               positional_embedding="grid"),
        "paired": lambda: Paired(4, 4),
        "net": lambda: nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular"),
                                     nn.Conv2d(8, 4, 1)),
        "steerable": lambda: SteerableConv(square.representation, ring.representation,
                                           groups.so(2), SQUARE.lengths, 7),
    }[kind]().float()  # fmt: skip
    weights = WeightGram(model, groups.translations(2) * group, square, ring)
    weights()
    assert weights._orbits
    assert all(found is not None for found in weights._orbits.values())
    for once, singly in zip(*both_ways(weights, torch.float32), strict=True):
        scale = max(singly.abs().max().item(), 0.1)
        torch.testing.assert_close(once, singly, rtol=2e-5, atol=2e-5 * scale)


class Paired(nn.Module):
    """neuraloperator's convolution: both of k and −k in the column 0."""

    def __init__(self, inside, out):
        from neuralop.layers.spectral_convolution import SpectralConv

        super().__init__()
        self.conv = SpectralConv(inside, out, (5, 5))

    def forward(self, u):
        return self.conv(u)


def test_orbits_of_a_subgroup_that_is_kept_are_zero_to_single_precision():
    square = fs.Bundle(SQUARE, "scalar p + vector u")
    net = nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")
    fs.project_(net, groups.cyclic(4), square, square)
    _, differences, size = WeightGram(net, D4, square, square)()
    turns = torch.tensor([g.name.startswith("rotation") for g in D4.elements[1:]])
    assert (differences[turns] < 1e-7 * size).all()
    assert (differences[~turns] > 0.1 * size).all()


def test_turns_have_the_value_of_a_call_and_its_mean_gradient(monkeypatch):
    square = fs.Bundle(SQUARE, "scalar p + vector u")
    monkeypatch.setattr(promote_weights, "LARGE", 500)
    model = fs.FNO(square, square, n_modes=5, hidden_channels=8, n_layers=3).double()
    weights = WeightGram(model, groups.se(2) * D4, square, square)

    def gradients(forms):
        gram, differences, size = forms
        value = gram.trace() / size**2 + (differences / size).sum()
        return value, torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)

    value, want = gradients(weights())
    # three convolutions, each for generators and for elements, and the rest
    turns = [gradients(weights.turn()) for _ in range(14)]
    assert all(v.item() == pytest.approx(value.item()) for v, _ in turns)
    for number, held in enumerate((1, 2, 1, 2, 1, 2)):  # k = 0, of its own, does not turn
        assert sum(bool(grad.any()) for grad in turns[number][1]) == held
    for grad, *parts in zip(want, *(grads for _, grads in turns), strict=True):
        torch.testing.assert_close(sum(parts) / 14, grad)


SPACE = fs.Bundle(fs.Torus((1.0, 1.0, 1.0)), "vector u")


def nullities(grams):
    return [int((torch.linalg.eigvalsh(g) < 1e-9).sum()) for g in grams]


def assert_nothing_is_kept(grams):
    """No direction is unbroken in what the layers' Gram matrices are joined to."""
    assert nullities(grams) == [0] * len(grams)


def test_layers_are_concatenated_not_summed_up():
    """Each layer keeps a turn of its own, together they keep none."""
    net = nn.Sequential(*(nn.Conv3d(3, 3, 1, bias=False).double() for _ in range(2)))
    for layer, axis in zip(net, (2, 0), strict=True):
        stretch = torch.ones(3, dtype=DOUBLE)
        stretch[axis] = 2
        layer.weight.data = torch.diag(stretch)[:, :, None, None, None]
    weights = WeightGram(net, groups.so(3), SPACE, SPACE, "vector")
    assert_nothing_is_kept([weights()[0]])
    per_layer = []
    for lie in weights.lies:
        weights.terms = [([lie], None)]
        per_layer.append(weights()[0])
    with pytest.raises(AssertionError):
        assert_nothing_is_kept(per_layer)


@pytest.mark.parametrize("hidden", [None, "2 regular + 2 vector", "scalar"])
def test_equivariant_weights_have_no_difference(hidden):
    square = fs.Bundle(SQUARE, "scalar p + vector u")
    net = nn.Sequential(
        nn.Conv2d(3, 20 if hidden != "scalar" else 6, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(20 if hidden != "scalar" else 6, 3, 1),
    ).double()
    if hidden == "scalar":
        net[1] = nn.Conv2d(6, 3, 3, padding=1, padding_mode="circular").double()
    group = groups.translations(2) * D4
    assert (WeightGram(net, group, square, square, hidden)()[1] > 0.1).all()
    fs.project_(net, D4, square, square, hidden)
    gram, differences, size = WeightGram(net, group, square, square, hidden)()
    assert (differences < 1e-13 * size).all()
    assert not gram.any()


def test_equivariant_pointwise_maps_have_no_lie_derivative():
    a, b = torch.randn(2, dtype=DOUBLE)
    layer = nn.Conv2d(2, 2, 1).double()
    wind = fs.Bundle(OBLONG, "vector u")
    layer.weight.data = (a * torch.eye(2) + b * torch.tensor([[0.0, -1], [1, 0]]))[..., None, None]
    layer.bias.data.zero_()
    group = groups.o(2) * groups.reflections(2)
    gram, differences, size = WeightGram(layer.double(), group, wind, wind)()
    assert gram.abs().max() < 1e-24
    want = 2 * abs(b) / (a**2 + b**2) ** 0.5
    assert (differences[0] / size).item() == pytest.approx(want.item())
    layer.bias.data[0] = 3.0
    gram, _, _ = WeightGram(layer, group, wind, wind)()
    assert gram.item() == pytest.approx(9.0)


@pytest.mark.parametrize("group", [groups.so(2), groups.o(2)], ids=str)
def test_steerable_operators_have_no_lie_derivative(dtype, group):
    model = fs.SteerableFNO(
        MIXED, MIXED, group=group, n_modes=(7, 9), hidden="4 scalar + 2 vector", n_layers=1
    ).to(dtype)
    gram, differences, size = WeightGram(model, groups.e(2), MIXED, MIXED)()
    assert not gram.any()
    relative = (differences / size).item()
    assert relative < 1e-6 if group.components else relative > 0.1
    (differences / size).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.named_parameters()
               if "mix.convolution" in n)  # fmt: skip


def test_the_multiplier_of_a_steerable_convolution():
    rep = MIXED.representation
    conv = SteerableConv(rep, rep, groups.so(2), OBLONG.lengths, (7, 9)).double()
    parameter, = typed_parameters(conv, groups.o(2), MIXED, MIXED)  # fmt: skip
    k = torch.from_numpy(2 * np.pi * parameter.sites / np.array(OBLONG.lengths))
    torch.testing.assert_close(torch.view_as_complex(parameter.read()), conv.multiplier(k))
    with pytest.raises(GroupError, match="Linear beside steerable"):
        typed_parameters(nn.Sequential(conv, nn.Linear(1, 1)), groups.o(2), MIXED, MIXED)


def test_spectra_make_it_the_mean_square_on_an_ensemble():
    """Gram matrix = mean over samples and space of products of (L_i K) u, exactly."""
    layer = Blocks(3, 5)
    u = laws.noise(MIXED, GRID, DOUBLE, batch=7)
    group = Group("candidates", 2, (TURN, SHEAR))
    weights = WeightGram(layer, group, MIXED, WIND, spectra=u)
    gram, _, size = weights()
    values = []
    for kernel in (commutator(layer, xi, MIXED, WIND, GRID) for xi in group.generators):
        multiplier = torch.fft.fftn(kernel, dim=(2, 3))
        z = torch.einsum("iokl,bikl->bokl", multiplier, torch.fft.fftn(u, dim=(2, 3)))
        values.append(orthonormal(torch.fft.ifftn(z, dim=(2, 3)).real, WIND))
    rows = torch.stack([v.flatten() for v in values])
    torch.testing.assert_close(gram, rows @ rows.mT / (7 * math.prod(GRID)))
    y = orthonormal(layer(u), WIND)
    mean = y.detach().square().sum().item() / (7 * math.prod(GRID))
    assert size.item() ** 2 == pytest.approx(mean)


def orthonormal(u, bundle):
    return fibres(u, torch.linalg.cholesky(bundle.representation.gram).mT)


@pytest.mark.parametrize("size", [1, 3])
def test_spectra_of_kernels_are_exact_on_an_ensemble(size):
    layer = nn.Conv2d(3, 3, size, padding=size // 2, padding_mode="circular", bias=False).double()
    u = laws.noise(MIXED, (8, 10), DOUBLE, batch=3)
    _, differences, _ = WeightGram(layer, groups.dihedral(2), MIXED, MIXED, spectra=u)()
    for g, found in zip(groups.dihedral(2).elements[1:], differences, strict=True):
        error = fs.act(g.inverse, layer(fs.act(g, u, MIXED)), MIXED) - layer(u)
        assert found.item() ** 2 == pytest.approx(error.detach().square().sum().item() / (3 * 80))


def test_spectra_make_it_the_mean_square_of_stationary_fields():
    """Monte Carlo with samples that were not used for the spectrum."""
    layer = Blocks(1, 1)
    base = fs.Bundle(OBLONG, "scalar p")
    first, second = (fs.testing.random_section(base, GRID, batch=4000, seed=s) for s in (1, 2))
    gram, _, _ = WeightGram(layer, groups.so(2), base, base, spectra=first)()
    kernel = commutator(layer, TURN, base, base, GRID)
    multiplier = torch.fft.fftn(kernel, dim=(2, 3))[0]
    y = torch.fft.ifftn(multiplier * torch.fft.fftn(second, dim=(2, 3)), dim=(2, 3)).real
    assert gram.item() == pytest.approx(float(y.square().mean()), rel=0.05)


def test_spectra_of_our_own_operator_are_those_inside_it():
    """Part by part, whatever the options: hidden inputs by the mean squares of what they make."""
    model = fs.FNO(
        MIXED, MIXED, n_modes=(5, 7), hidden_channels=4, n_layers=2, norm="instance_norm",
        positional_embedding="grid",
    ).double()  # fmt: skip
    u = laws.noise(MIXED, GRID, DOUBLE, batch=5)
    seen = weight_spectra._fno_inputs(model, u)
    last = seen["projection.first.weight"]
    torch.testing.assert_close(model.projection(last), model(u))
    layer, start = model.layers[0], seen["layers.0.convolution.weights"]
    hidden = model.non_linearity(layer.mlp.first(seen["layers.0.mlp.first.weight"]))
    torch.testing.assert_close(hidden, seen["layers.0.mlp.second.weight"])
    weights = WeightGram(model, groups.so(2), MIXED, MIXED, spectra=u)
    name = "layers.0.convolution.weights"
    weights.terms = [t for t in weights.terms if t[0][0].parameter.name == name]
    gram, _, size = weights()
    assert size.item() ** 2 == pytest.approx(layer.convolution(start).square().sum(1).mean().item())
    bundle = fs.Bundle(OBLONG, "4 scalar")
    kernel = commutator(layer.convolution, TURN, bundle, bundle, GRID)
    z = torch.einsum("iokl,bikl->bokl", torch.fft.fftn(kernel, dim=(2, 3)),
                     torch.fft.fftn(start, dim=(2, 3)))  # fmt: skip
    mean = torch.fft.ifftn(z, dim=(2, 3)).real.square().sum(1).mean()
    assert gram.item() == pytest.approx(mean.item())


def test_spectra_weigh_coordinates_by_their_spread():
    model = fs.FNO(
        MIXED, MIXED, n_modes=3, hidden_channels=4, n_layers=1, positional_embedding="grid"
    ).double()  # fmt: skip
    weights = WeightGram(
        model, groups.translations(2), MIXED, MIXED, spectra=laws.noise(MIXED, GRID, DOUBLE)
    )
    plain_gram, _, _ = WeightGram(model, groups.translations(2), MIXED, MIXED)()
    torch.testing.assert_close(weights()[0], plain_gram)  # a shift makes a constant
    weights.terms = [t for t in weights.terms if t[0][0].parameter.role == "position"]
    held = model.lifting.first.weight.matrices[0, 0, :, 3:]
    assert weights()[2].item() ** 2 == pytest.approx(held.square().sum().item() / 3)


def test_spectra_need_layers_that_are_called():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(3, 3, 1)

        def forward(self, u):
            return nn.functional.conv2d(u, self.inner.weight, self.inner.bias)

    found = typed_parameters(nn.Sequential(nn.Conv2d(3, 3, 1)), groups.se(2), MIXED, MIXED)
    lies = [WeightLie(p, (), ()) for p in found]
    with pytest.raises(GroupError, match="is not called as a module"):
        weight_spectra.input_spectra(Net(), lies, torch.zeros(1, 3, 12, 12))


def test_free_steerable_symbols_need_no_derivative_in_k():
    """(L_J R)(k) = d/dt ρ_out(−t) R(e^{tJ} k) ρ_in(t), of R = Σ W_qn b_q(|k|) e^{inφ}."""
    source, target = fs.Representation("scalar p + vector u", 2), fs.Representation("vector v", 2)
    orders = (-2, -1, 0, 1, 3)
    W = torch.randn(5, 4, 2, 3, dtype=torch.complex128)
    k = torch.randn(20, 2, dtype=DOUBLE)

    def profiles(r):
        return torch.stack([r**q * torch.exp(-r) for q in range(4)], -1)

    def symbol(weights, points):
        phi = torch.atan2(points[:, 1], points[:, 0])
        waves = torch.exp(1j * phi[:, None] * torch.tensor(orders))
        return torch.einsum("kn,kq,nqoi->koi", waves, profiles(points.norm(dim=1)) + 0j, weights)

    def moved(t):
        g = groups.so(2).exp([t])
        points = k @ torch.from_numpy(g.matrix).mT
        left, right = target.rho(g.inverse) + 0j, source.rho(g) + 0j
        return left @ symbol(W, points) @ right

    step = 1e-5
    slope = (moved(step) - moved(-step)) / (2 * step)
    moving = steerable_lie(W, orders, source, target, TURN)
    torch.testing.assert_close(symbol(moving, k), slope, rtol=1e-7, atol=1e-7)

    # its squared norm over the plane is that of the coefficients, weighted by the Gram of b_q
    r = torch.linspace(0, 60, 20001, dtype=DOUBLE)
    b = profiles(r) * r[:, None]
    weight = 2 * math.pi * torch.trapezoid(b[:, :, None] * profiles(r)[:, None], r, dim=0)
    short = torch.einsum("nqoi,qp,npoi->", moving, weight + 0j, moving.conj()).real
    angles = 2 * math.pi * torch.arange(16, dtype=DOUBLE) / 16
    radii = r[::20]
    points = (radii[:, None, None] * torch.stack([angles.cos(), angles.sin()], -1)).flatten(0, 1)
    dense = symbol(moving, points).abs().square().sum((1, 2)).view(-1, 16).mean(1) * radii
    assert short.item() == pytest.approx(2 * math.pi * float(torch.trapezoid(dense, radii)), 1e-4)


def foreign(kind):
    from neuralop.models import FNO, TFNO

    options = {"n_modes": (5, 5), "hidden_channels": 8, "n_layers": 1, "in_channels": 3,
               "out_channels": 3, "positional_embedding": None}  # fmt: skip
    return {
        "fno": lambda: FNO(**options),
        "separable": lambda: FNO(**options, separable=True),
        "tucker": lambda: TFNO(**options, rank=0.5, factorization="tucker"),
        "ours": lambda: fs.FNO(MIXED, MIXED, n_modes=5, hidden_channels=8, n_layers=1,
                               positional_embedding="grid", norm="group_norm"),
        "blocks": lambda: Blocks(3, 3),
        "net": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"),
                                     nn.GroupNorm(1, 8), nn.PReLU(8), nn.Conv2d(8, 3, 1)),
    }[kind]()  # fmt: skip


@pytest.mark.parametrize("kind", ["fno", "separable", "tucker", "ours", "blocks", "net"])
def test_weights_are_read_in_one_layout_and_written_back(kind):
    model = foreign(kind)
    found = typed_parameters(model, groups.se(2) * groups.reflections(2), MIXED, MIXED)
    before = [p.read().detach().clone() for p in found]
    for p, old in zip(found, before, strict=True):
        assert old.shape[:1] == (len(p.sites),)
        assert old.shape[1] == p.rep_out.channels
        p.write(-2 * old)
    for p, old in zip(found, before, strict=True):
        torch.testing.assert_close(p.read(), -2 * old, rtol=1e-5, atol=1e-6)
    sum(p.read().square().sum() for p in found).backward()
    assert all(p.grad is not None for p in model.parameters())
    kind = next(model.parameters()).dtype.to_real()
    assert model(torch.zeros(1, 3, 12, 12, dtype=kind)).isfinite().all()
    model.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("group", "kinds"),
    [(groups.se(2), {"scalar"}), (groups.translations(2) * D4, {"regular"}),
     (groups.so(2) * D4, {"regular"}), (groups.o(2), {"regular"})], ids=str,
)  # fmt: skip
def test_hidden_types_by_default(group, kinds):
    square = fs.Bundle(SQUARE, "scalar p + vector u")
    found = typed_parameters(plain(8, square, square), group, square, square)
    skip = next(p for p in found if p.name == "layers.0.skip.weight")
    assert {block.kind for block in skip.rep_in.blocks} == kinds
    lie = WeightLie(skip, group.generators, ())
    assert not lie.columns  # no generator moves hidden features


def test_modules_without_weights_have_nothing_to_measure():
    with pytest.raises(GroupError, match="GELU has no weights"):
        WeightGram(nn.GELU(), groups.se(2), MIXED, MIXED, "scalar")


def test_registered_layers_have_unknown_sites():
    class Mix(nn.Conv2d):
        pass

    register(Mix, lambda layer, a, b: {"weight": PointwiseConstraint(a, b)})
    with pytest.raises(GroupError, match="registered with constraints of its own"):
        typed_parameters(Mix(3, 3, 1, bias=False), groups.se(2), MIXED, MIXED)
