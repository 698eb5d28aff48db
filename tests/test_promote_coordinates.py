"""Coordinates that a grid embedding of neuraloperator appends, at the level of the weights."""

import copy

import laws
import numpy as np
import pytest
import torch
from catalogue import OBLONG, SQUARE, groups
from test_promote_weights import DOUBLE, MIXED, SCALAR, TURN
from torch import nn

import fieldsym as fs
from fieldsym.errors import GroupError
from fieldsym.group import Element, Generator, Group
from fieldsym.operators import typed_parameters as typing
from fieldsym.operators.adopt_position import centre_and_half
from fieldsym.operators.typed_parameters import typed_parameters
from fieldsym.operators.typed_storage import Centred
from fieldsym.symmetry import promote_weights
from fieldsym.symmetry.promote_relax import residual_parameters
from fieldsym.symmetry.promote_snap import snap
from fieldsym.symmetry.promote_weights import WeightGram

D4 = groups.dihedral(4)
FLOW = fs.Bundle(SQUARE, "scalar p + vector u")
WIND = fs.Bundle(OBLONG, "vector u")
SHIFTS = groups.translations(2).generators
RANGES = ([[0, 1], [0, 1]], [[-1.0, 3.0], [2.0, 0.5]])


def embedding(boundaries=RANGES[0], channels=3, flat=False):
    from neuralop.layers.embeddings import GridEmbedding2D, GridEmbeddingND

    if flat:
        return GridEmbedding2D(channels, boundaries)
    return GridEmbeddingND(channels, len(boundaries), boundaries)


def theirs(boundaries=None, bundle=MIXED, width=8, **options):
    from neuralop.models import FNO

    where = "grid" if boundaries is None else embedding(boundaries)
    return FNO(n_modes=(5, 5), hidden_channels=width, n_layers=1, in_channels=bundle.channels,
               out_channels=bundle.channels, positional_embedding=where, **options)  # fmt: skip


def twin(model, boundaries=None, bundle=MIXED, width=8):
    """Our own FNO with the lifting of another one: W (e − s)/2 of the position, b + W (s + e)/2."""
    ours = fs.FNO(bundle, bundle, n_modes=5, hidden_channels=width, n_layers=1,
                  lifting_channel_ratio=2, positional_embedding="grid")  # fmt: skip
    bounds = torch.tensor(boundaries or RANGES[0])
    start, end = bounds[:, 0], bounds[:, 1]
    first, second = model.lifting.fcs
    wide = first.weight[:, :, 0].clone()
    constant = first.bias + wide[:, bundle.channels :] @ ((start + end) / 2)
    wide[:, bundle.channels :] *= (end - start) / 2
    with torch.no_grad():
        ours.lifting.first.weight.matrices.copy_(wide[None, None])
        ours.lifting.second.weight.matrices.copy_(second.weight[None, None, :, :, 0])
        for part, value in ((ours.lifting.first, constant), (ours.lifting.second, second.bias)):
            held = part.bias.matrices
            held.copy_(value.view(held.shape))
    return ours


def lifted_parts(model, group, bundle=MIXED):
    """Gram matrix, differences and size of the lifting alone."""
    weights = WeightGram(model, group, bundle, bundle)
    weights.terms = [([lie], None) for lie in weights.lies if "lifting" in lie.parameter.name]
    return weights()


def assert_twins(boundaries=None, group=None):
    """The lifting of a foreign FNO is that of ours, as a function and at the level of weights."""
    model = theirs(boundaries)
    ours = twin(model, boundaries)
    u = laws.noise(MIXED, (12, 15), torch.float32, batch=2)
    with torch.no_grad():
        there = model.lifting(model.positional_embedding(u))
        torch.testing.assert_close(there, ours.lifting(ours._open(u, 1.0)[0]), rtol=0, atol=2e-5)
    group = group or groups.se(2) * groups.reflections(2)
    found, want = lifted_parts(model, group), lifted_parts(ours, group)
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert want[0].diagonal().min() > 0.01


@pytest.mark.parametrize("boundaries", [None, *RANGES])
def test_the_grid_embedding_is_that_of_our_own_operator(boundaries):
    assert_twins(boundaries)


def test_turns_and_mirrors_of_a_square():
    model = theirs(bundle=FLOW, width=16)
    group = groups.translations(2) * D4
    ours = twin(model, bundle=FLOW, width=16)
    found, want = lifted_parts(model, group, FLOW), lifted_parts(ours, group, FLOW)
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert (want[1] > 0.1).all()


class BrokenShift(Centred):
    """Leaves the constant where it is."""

    def constant(self):
        return self.beside.read()


class BrokenHalf(Centred):
    """Takes coordinates for those between −1 and 1."""

    def __init__(self, map_, columns, constant, span):
        super().__init__(map_, columns, constant, (span[0], np.ones_like(span[1])))


class BrokenOrder(Centred):
    """Takes x for y."""

    def __init__(self, map_, columns, constant, span):
        super().__init__(map_, columns, constant, (span[0][::-1].copy(), span[1][::-1].copy()))


@pytest.mark.parametrize("broken", [BrokenShift, BrokenHalf, BrokenOrder])
def test_saboteurs_are_not(monkeypatch, broken):
    monkeypatch.setattr(typing, "Centred", broken)
    with pytest.raises(AssertionError):
        assert_twins(RANGES[1])


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("boundaries", RANGES)
def test_columns_are_slopes_of_the_moved_layer(boundaries, flat):
    """d/dt of g⁻¹ F g, F(u, x) = W (u, c(x)) + b, from what it makes of fields and points."""
    layer = nn.Conv2d(5, 2, 1).double()
    model = nn.Sequential(embedding(boundaries, flat=flat), layer)
    centre, half = map(torch.from_numpy, centre_and_half(model[0]))
    lengths = torch.tensor(OBLONG.lengths, dtype=DOUBLE)
    weight, constant = layer.weight[:, :, 0, 0].detach(), layer.bias.detach()

    def affine(rho_in, rho_out, matrix, shift):
        """The moved map of (u, 2 x/L), and its constant."""
        fields = rho_out @ weight[:, :3] @ rho_in
        slope = weight[:, 3:] * half * 2 / lengths
        start = rho_out @ (weight[:, 3:] @ centre + constant + slope @ shift)
        return torch.cat([fields, rho_out @ slope @ matrix * lengths / 2, start[:, None]], 1)

    def moved(xi, t):
        matrix = torch.linalg.matrix_exp(t * torch.from_numpy(xi.matrix))
        into = torch.linalg.matrix_exp(t * MIXED.representation.drho(xi))
        out = torch.linalg.matrix_exp(-t * WIND.representation.drho(xi))
        return affine(into, out, matrix, t * torch.from_numpy(xi.shift))

    generators = (*SHIFTS, TURN, Generator("both", TURN.matrix, np.array([0.3, -0.2])))
    step = 1e-5
    rows = torch.stack([(moved(xi, step) - moved(xi, -step)).flatten() for xi in generators])
    dense = rows @ rows.mT / (2 * step) ** 2
    glide = Element(np.diag([1.0, -1.0]), np.array([0.3, 0.2]))
    group = Group("candidates", 2, generators, (glide,))
    gram, differences, size = WeightGram(model, group, MIXED, WIND)()
    torch.testing.assert_close(gram, dense, rtol=1e-8, atol=1e-8)
    one = moved(TURN, 0.0)
    assert size.item() == pytest.approx(one.norm().item())
    fibres = MIXED.representation.rho(glide), WIND.representation.rho(glide.inverse)
    other = affine(*fibres, *map(torch.from_numpy, (glide.matrix, glide.shift)))
    assert differences.item() == pytest.approx((other - one).norm().item())

    x = OBLONG.coordinates((4, 5), centred=True)  # the affine map is what the module computes
    u = laws.noise(MIXED, (4, 5), DOUBLE)
    inputs = torch.cat([u[0], x * (2 / lengths)[:, None, None], torch.ones(1, 4, 5)])
    torch.testing.assert_close(model(u)[0], torch.einsum("oi,ixy->oxy", one, inputs))


def test_a_turn_about_another_point_is_found(monkeypatch):
    """x − x₀ commutes with turns about x₀: a turn and two shifts span one kept direction."""
    assert_turn_is_found()
    monkeypatch.setattr(promote_weights, "affine_pairs", lambda lies, elements: [])
    with pytest.raises(AssertionError):
        assert_turn_is_found()


def assert_turn_is_found():
    layer = nn.Conv2d(3, 2, 1).double()
    where = torch.tensor([0.4, -0.7], dtype=DOUBLE)
    bounds = [[0.0, OBLONG.lengths[0]], [0.0, OBLONG.lengths[1]]]
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, 1:, 0, 0] = torch.eye(2)
        layer.bias.copy_(-where - torch.tensor(OBLONG.lengths) / 2)
    model = nn.Sequential(embedding(bounds, channels=1), layer)
    gram, _, _ = WeightGram(model, groups.se(2), SCALAR, WIND)()
    values, vectors = torch.linalg.eigh(gram)
    assert values[0].abs() < 1e-12 < 0.1 < values[1]
    kept = vectors[:, 0] / vectors[2, 0]
    want = -torch.from_numpy(TURN.matrix) @ where  # J (x − x₀)
    torch.testing.assert_close(kept[:2], want)


def test_weights_are_written_back():
    """Position and constant do not disturb each other, in either order."""
    model = theirs(RANGES[1])
    found = {p.name: p for p in typed_parameters(model, groups.se(2), MIXED, MIXED)}
    place, constant = (found[f"lifting.fcs.0.{n}"] for n in ("weight.position", "bias"))
    values = [torch.randn_like(p.read()) for p in (place, constant)]
    for order in ((0, 1), (1, 0)):
        for i in order:
            (place, constant)[i].write(values[i])
        for p, value in zip((place, constant), values, strict=True):
            torch.testing.assert_close(p.read(), value)
        values = [-2 * v for v in values]
    place.write(torch.zeros_like(values[0]))
    assert not model.lifting.fcs[0].weight[:, 3:].any()
    torch.testing.assert_close(constant.read()[0, :, 0, 0], model.lifting.fcs[0].bias)


def test_turns_keep_what_layers_share_with_their_weights(monkeypatch):
    """A stale square beside a cross product of today would make a direction of negative size."""
    monkeypatch.setattr(promote_weights, "LARGE", 1)
    layer = nn.Conv2d(3, 2, 1)
    bounds = [[-side / 2, side / 2] for side in OBLONG.lengths]
    model = nn.Sequential(embedding(bounds, channels=1), layer).double()
    weights = WeightGram(model, groups.se(2), SCALAR, WIND)
    assert weights.pairs
    for _ in range(9):
        gram = weights.turn()[0]
        assert torch.linalg.eigvalsh(gram).min() >= -1e-12 * gram.trace()
        with torch.no_grad():
            layer.bias.mul_(1.5)
    turned = [weights.turn() for _ in range(9)][-1]
    for one, other in zip(turned, weights(), strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_flow_to_all_weights():
    penalty = fs.promote(model := theirs(), groups.se(2), MIXED, MIXED, level="weights")
    penalty().backward()
    first = model.lifting.fcs[0]
    assert first.weight.grad[:, 3:].abs().min() > 0
    spectra = laws.noise(MIXED, (12, 15), torch.float32, batch=2)
    gram, _, _ = WeightGram(model, groups.se(2), MIXED, MIXED, spectra=spectra)()
    assert gram[:2, :2].diagonal().min() > 1e-3


def test_snap_makes_small_coordinates_zero():
    """The output stays: what they add on average goes into the constant."""
    model = theirs(bundle=FLOW)
    with torch.no_grad():
        model.lifting.fcs[0].weight[:, 3:] *= 1e-4
    u = laws.noise(FLOW, (12, 12), torch.float32, batch=4)
    found = snap(model, groups.translations(2), FLOW, FLOW, x=u)
    assert found.directions == ("translation x", "translation y")
    assert not model.lifting.fcs[0].weight[:, 3:].any()
    assert found.change < 1e-3
    gram, _, _ = WeightGram(model, groups.translations(2), FLOW, FLOW)()
    assert not gram.any()
    moved = model(u.roll(3, 2)) - model(u).roll(3, 2)
    assert moved.abs().max() < 1e-5


def test_relax_leaves_coordinates_to_the_residual():
    model = theirs(bundle=FLOW, width=16)
    before = copy.deepcopy(model)
    model = fs.relax(model, groups.translations(2) * D4, FLOW, FLOW)
    u = laws.noise(FLOW, (12, 12), torch.float32, batch=2)
    torch.testing.assert_close(model(u), before(u), rtol=1e-4, atol=1e-5)
    residual = residual_parameters(model)
    with torch.no_grad():
        for part in residual:
            part.zero_()
    assert not model.lifting.fcs[0].weight[:, 3:].any()
    for g in D4.elements[1:]:
        moved = fs.act(g, model(u), FLOW) - model(fs.act(g, u, FLOW))
        assert moved.abs().max() < 1e-5
    gram, differences, size = WeightGram(model, groups.translations(2) * D4, FLOW, FLOW)()
    assert not gram.any()
    assert (differences < 1e-6 * size).all()


def test_enforce_goes_on_refusing_it():
    model = theirs(bundle=FLOW, width=16)
    for verb in (fs.enforce, fs.project_):
        with pytest.raises(GroupError, match="positional_embedding is a GridEmbeddingND: coord"):
            verb(model, D4, FLOW, FLOW)


class Twice(nn.Module):
    """Appends coordinates twice."""

    def __init__(self):
        super().__init__()
        self.one, self.two = embedding(), embedding()
        self.a, self.b = nn.Conv2d(5, 3, 1), nn.Conv2d(5, 3, 1)

    def forward(self, u):
        return self.b(self.two(self.a(self.one(u))))


POINT = {"kernel_size": 1}
REFUSED = {
    "kernel": (
        lambda: [nn.Conv2d(5, 3, 3, padding=1, padding_mode="circular")],
        "1 is a Conv2d behind a grid embedding: its coordinates are known",
    ),
    "no constant": (lambda: [nn.Conv2d(5, 3, 1, bias=False)], "a pointwise map with a constant"),
    "norm": (lambda: [nn.InstanceNorm2d(5, affine=True), nn.Conv2d(5, 3, 1)], "1 is a InstanceN"),
    "function": (lambda: [nn.GELU(), nn.Conv2d(5, 3, 1)], "gelu in 1 bends coordinates"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_readers_of_coordinates_are_refused(case):
    parts, message = REFUSED[case]
    with pytest.raises(GroupError, match=message):
        WeightGram(nn.Sequential(embedding(), *parts()), groups.se(2), MIXED, MIXED)


def test_coordinates_of_another_base_are_refused():
    for bounds in ([[0, 1]] * 3, [[0, 1], [2, 2]]):
        net = nn.Sequential(embedding(bounds), nn.Conv2d(3 + len(bounds), 3, 1))
        with pytest.raises(GroupError, match="the base has 2 axes, each of which needs"):
            WeightGram(net, groups.se(2), MIXED, MIXED)
    with pytest.raises(GroupError, match="Coordinates are appended by one, two"):
        WeightGram(Twice(), groups.se(2), MIXED, MIXED)


def test_position_of_an_open_axis_is_in_sides_of_the_box():
    """Our own FNO pads an open axis for its Fourier series, not for the position."""
    box = fs.Bundle(fs.Box((2.0, 3.0), periodic=(True, False)), "scalar p")
    model = fs.FNO(box, box, n_modes=3, hidden_channels=4, n_layers=1)
    found = typed_parameters(model, groups.reflections(2), box, box)
    place = next(p for p in found if p.role == "position")
    assert place.lengths == (2.0, 3.0)
    assert any(p.lengths[1] > 3.0 for p in found if p.lattice == "modes")
