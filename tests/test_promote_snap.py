"""Snap: what is nearly kept becomes exact, what is broken stays, a second snap changes nothing."""

import copy

import broken
import laws
import pytest
import torch
from catalogue import EXACT, OBLONG, SQUARE, groups
from test_promote_weights import Blocks
from torch import nn

import fieldsym as fs
from fieldsym.errors import BundleError, DataError, GroupError
from fieldsym.operators import weight_projection
from fieldsym.operators.steerable import SteerableConv
from fieldsym.operators.typed_parameters import typed_parameters
from fieldsym.symmetry import promote_snap
from fieldsym.symmetry.promote_snap import Snapped, snap
from fieldsym.symmetry.promote_weights import WeightGram

DOUBLE = torch.float64
D4, C4, D2 = groups.dihedral(4), groups.cyclic(4), groups.dihedral(2)
FLOW = fs.Bundle(SQUARE, "scalar p + vector u")
MIXED = fs.Bundle(OBLONG, "scalar p + vector u")


def conv(inside, out, size=3):
    return nn.Conv2d(inside, out, size, padding=size // 2, padding_mode="circular")


def foreign(width=16):
    from neuralop.models import FNO

    return FNO(n_modes=(5, 5), hidden_channels=width, n_layers=1, in_channels=3, out_channels=3,
               positional_embedding=None)  # fmt: skip


def ours(**options):
    return fs.FNO(FLOW, FLOW, n_modes=5, hidden_channels=16, n_layers=1, **options)


MODELS = {
    "ours": ours,
    "coordinates": lambda: ours(positional_embedding="grid"),
    "neuraloperator": foreign,
    "net": lambda: nn.Sequential(conv(3, 16), nn.GELU(), conv(16, 3)),
    "blocks": lambda: Blocks(3, 3, (4, 4)),
}


def nudge(model, size):
    """Noise of a relative size on every parameter."""
    with torch.no_grad():
        for p in model.parameters():
            p += size * p.abs().mean() * torch.randn_like(p)


def nearly(kind, group, size=1e-3):
    """A model that keeps a group to about ``size``."""
    model = MODELS[kind]()
    fs.project_(model, group, FLOW, FLOW, f"{16 // D4.order} regular" if group is D4 else None)
    nudge(model, size)
    return model


def state(model):
    """The tensors of a module; neuraloperator adds a dictionary."""
    held = model.state_dict().items()
    return {name: value.clone() for name, value in held if isinstance(value, torch.Tensor)}


def shapes(model):
    return {name: value.shape for name, value in state(model).items()}


def assert_kept(model, group, found, rounding):
    """Exactly the elements of a group are found, and exact to rounding."""
    weights = WeightGram(model, D4, FLOW, FLOW)
    _, differences, size = weights()
    names = {g.name for g in group.elements[1:]}
    assert set(found.elements) | set(found.added) == names
    for g, difference in zip(weights.elements, differences, strict=True):
        assert (difference < rounding * size) == (g.name in names)


@pytest.mark.parametrize("kind", ["ours", "neuraloperator", "net", "blocks"])
def test_finite_symmetries_are_made_exact(kind):
    model = nearly(kind, D4)
    keys = shapes(model)
    before = copy.deepcopy(model)
    found = snap(model, D4, FLOW, FLOW)
    rounding = 1e-12 if kind == "blocks" else 2e-6
    assert_kept(model, D4, found, rounding)
    assert 0 < max(found.removed.values()) < 0.05
    assert shapes(model) == keys
    before.load_state_dict(model.state_dict())
    dtype = DOUBLE if kind == "blocks" else torch.float32
    laws.assert_equivariant(before, D4, FLOW, FLOW, (12, 12), dtype, EXACT[dtype])

    snapped = state(model)
    again = snap(model, D4, FLOW, FLOW)
    assert max(again.removed.values()) < rounding
    torch.testing.assert_close(state(model), snapped, rtol=1e-5, atol=1e-6)


def broken_mean(lie, sites, old, subgroup):
    """Moves the modes but no fibre."""
    kept, w = sites.closed(subgroup), old.double().movedim(3, 1)
    total = sum(sites.back(g, kept)(w) for g in subgroup)
    return (total / len(subgroup)).movedim(1, 3).to(old)


def test_a_mean_that_moves_no_fibre_is_not_exact(monkeypatch):
    monkeypatch.setattr(weight_projection, "_mean", broken_mean)
    model = nearly("blocks", D4)
    found = snap(model, D4, FLOW, FLOW)
    with pytest.raises(AssertionError):
        assert_kept(model, D4, found, 1e-12)


def test_only_the_subgroup_that_is_kept():
    """A net that keeps quarter turns and breaks mirrors: their products close what was found."""
    single = conv(3, 3).double()
    fs.project_(single, C4, FLOW, FLOW)
    nudge(single, 1e-4)
    found = snap(single, D4, FLOW, FLOW, hidden="scalar")
    assert set(found.elements) == {"rotation 90°", "rotation 180°", "rotation 270°"}
    _, differences, size = WeightGram(single, D4, FLOW, FLOW)()
    mirrors = torch.tensor([g.name.startswith("reflection") for g in D4.elements[1:]])
    assert (differences[~mirrors] < 1e-13 * size).all()
    assert (differences[mirrors] > 0.1 * size).all()


def test_products_that_were_not_found_are_added():
    """Two mirrors within the tolerance, their product beyond it."""
    layer = nn.Conv2d(2, 2, 1, bias=False).double()
    wind = fs.Bundle(SQUARE, "scalar p + pseudoscalar w")
    layer.weight.data = torch.tensor([[1.0, 0.004], [0.0, 1.0]], dtype=DOUBLE)[..., None, None]
    found = snap(layer, D2, wind, wind, tolerance=0.006)
    assert found.elements == D2_ELEMENTS
    assert layer.weight[0, 1] == 0


D2_ELEMENTS = tuple(g.name for g in D2.elements[1:])


def test_added_elements_are_reported():
    """Along the diagonal mirrors only: steps of a sixth of D4 close to all its rotations."""
    source = fs.Bundle(SQUARE, "scalar p")
    layer = conv(1, 1).double()
    base = torch.tensor([[2.0, 1.0, 2.0], [1.0, 5.0, 1.0], [2.0, 1.0, 2.0]], dtype=DOUBLE)
    slope = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=DOUBLE)
    layer.weight.data = (base + 0.01 * slope)[None, None]
    layer.bias.data.zero_()
    weights = WeightGram(layer, D4, source, source)
    _, differences, size = weights()
    levels = (differences / size).detach().sort().values
    tolerance = (levels[2] + levels[-1]).item() / 2
    found = snap(layer, D4, source, source, tolerance=tolerance)
    assert len(found.added) == 7 - len(found.elements) > 0
    torch.testing.assert_close(layer.weight[0, 0], base)


def coordinates(bundle=MIXED, ratio=None, size=1e-3):
    """An FNO with weak coordinates: none along y − x where a ratio is given."""
    model = fs.FNO(
        bundle, bundle, n_modes=5, hidden_channels=4, n_layers=1, positional_embedding="grid"
    ).double()
    held = model.lifting.first.weight.matrices
    with torch.no_grad():
        if ratio is None:
            held[..., 3:] *= size
        else:
            held[0, 0, :, 4] = held[0, 0, :, 3] * ratio + size * torch.randn(len(held[0, 0]))
    return model


def test_translations_remove_the_coordinates():
    model = coordinates()
    found = snap(model, groups.translations(2), MIXED, MIXED)
    assert found.directions == ("translation x", "translation y")
    assert found.removed.pop("lifting.first.weight.position") == 1
    assert not any(found.removed.values())
    assert not WeightGram(model, groups.translations(2), MIXED, MIXED)()[0].any()
    u = laws.noise(MIXED, (12, 16), DOUBLE)
    torch.testing.assert_close(model(u.roll(5, -1)), model(u).roll(5, -1))


def test_one_direction_of_translations_is_removed_and_the_other_kept():
    """W_x/L_x = W_y/L_y nearly: x − y is snapped, x + y stays broken."""
    model = coordinates(ratio=1.5)
    found = snap(model, groups.se(2), MIXED, MIXED)
    assert found.directions == ("translation x − 1.00 translation y",)
    gram, _, _ = WeightGram(model, groups.translations(2), MIXED, MIXED)()
    values, vectors = torch.linalg.eigh(gram)
    assert values[0].abs() < 1e-14 * values[1]
    assert vectors[0, 0].abs().item() == pytest.approx(0.5**0.5, rel=1e-3)
    assert 0 < found.removed["lifting.first.weight.position"] < 0.01


def test_turns_of_pointwise_maps_and_constants():
    """The nearest of a 1 + b J + c S + …, and a constant of a vector goes."""
    wind = fs.Bundle(OBLONG, "vector u + scalar p")
    layer = nn.Conv2d(3, 3, 1).double()
    a, b = 2.0, 0.7
    exact = torch.tensor([[a, -b, 0], [b, a, 0], [0, 0, 1.5]], dtype=DOUBLE)
    noise = 1e-3 * torch.randn(3, 3, dtype=DOUBLE)
    layer.weight.data, layer.bias.data = (exact + noise)[..., None, None], exact[2] + noise[2]
    layer.bias.data[:2] = 1e-3
    found = snap(layer, groups.so(2), wind, wind)
    assert found.directions == ("rotation xy",)
    assert not found.left
    held, m = layer.weight.detach()[..., 0, 0], exact + noise
    diagonal, turn = (m[0, 0] + m[1, 1]) / 2, (m[1, 0] - m[0, 1]) / 2
    want = torch.diag(torch.stack([diagonal, diagonal, m[2, 2]]))
    want[1, 0], want[0, 1] = turn, -turn
    torch.testing.assert_close(held, want)
    assert layer.bias.tolist() == pytest.approx([0, 0, 1.5 + noise[2, 2].item()])


def test_turns_of_lattices_are_left():
    """Multipliers of the mean: the turn is found, imposed on the rest, and that is said."""
    model = fs.FNO(MIXED, MIXED, n_modes=5, hidden_channels=4, n_layers=1).double()
    with torch.no_grad():
        for p in typed_parameters(model, groups.so(2), MIXED, MIXED):
            if p.lattice == "modes":
                waves = torch.from_numpy(p.sites.any(1))
                p.write(p.read() * torch.where(waves, 1e-4, 1.0)[:, None, None, None])
        model.lifting.first.weight.matrices[..., 1:] *= 1e-4
        model.projection.second.weight.matrices[:, :, 1:] *= 1e-4
        model.projection.second.bias.matrices[:, :, 1:] *= 1e-4
    found = snap(model, groups.se(2), MIXED, MIXED)
    assert "rotation xy" in found.directions
    assert found.left == ("layers.0.convolution.weights",)
    assert "not snapped: layers.0.convolution.weights" in str(found)
    assert not model.lifting.first.weight.matrices[..., 1:].abs().max() > 1e-15
    assert model.layers[0].convolution.weights[0].matrices.any()


def test_steerable_layers_are_left_out():
    rep = MIXED.representation
    layer = SteerableConv(rep, rep, groups.o(2), OBLONG.lengths, (7, 9)).double()
    before = state(layer)
    found = snap(layer, groups.e(2), MIXED, MIXED)
    assert found.left == ("weight",)
    assert found.elements == ("reflection y → −y",)
    assert all(torch.equal(value, before[name]) for name, value in state(layer).items())


@pytest.mark.parametrize("kind", ["ours", "neuraloperator", "net"])
def test_nothing_changes_where_nothing_is_found(kind):
    model = MODELS[kind]()
    before = state(model)
    found = snap(model, D4, FLOW, FLOW)
    assert found == Snapped()
    assert str(found) == "elements: none\ndirections: none\nremoved: none"
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_coordinates_and_elements_together():
    """Coordinates on a square: what quarter turns allow is W_x, W_y as of a vector."""
    model = nearly("net", D4)
    assert snap(model, groups.translations(2) * D4, FLOW, FLOW).elements
    model = MODELS["coordinates"]().double()
    fs.project_(model, D4, FLOW, FLOW)
    held = model.lifting.first.weight.matrices
    with torch.no_grad():
        held[..., 3:] = 0.5 * held[..., 1:3]  # of the same type as the vector u
    nudge(model, 1e-4)
    found = snap(model, groups.translations(2) * D4, FLOW, FLOW, tolerance=1e-3)
    assert not found.directions
    assert len(found.elements) == 7
    _, differences, size = WeightGram(model, D4, FLOW, FLOW)()
    assert (differences < 1e-13 * size).all()
    assert held[..., 3:].abs().max() > 0.01


def alike_in_all_modes(tensor):
    """A factorised multiplier of scalars that nearly keeps D4: real, the same for every wave."""
    with torch.no_grad():
        for factor in tensor.factors[2:]:
            factor.copy_(factor[:1] * (1 + 1e-3 * torch.randn(len(factor), 1)))
        for p in tensor.parameters():
            p.imag.mul_(1e-3)


def test_a_tucker_tensor_becomes_dense():
    from neuralop.models import TFNO

    scalars = fs.Bundle(SQUARE, "3 scalar q")
    model = TFNO(n_modes=(5, 5), hidden_channels=8, n_layers=1, in_channels=3, out_channels=3,
                 positional_embedding=None, rank=0.5)  # fmt: skip
    alike_in_all_modes(model.fno_blocks.convs[0].weight)
    found = snap(model, D4, scalars, scalars, hidden="scalar")
    assert len(found.elements) == 7
    _, differences, size = WeightGram(model, D4, scalars, scalars, "scalar")()
    assert (differences < 2e-6 * size).all()
    laws.assert_equivariant(model, D4, scalars, scalars, (12, 12), torch.float32, 2e-6)


def test_a_promoted_model_is_snapped_exact():
    """The penalty alone takes a random model to a percent, snap the rest of the way."""
    scalar = fs.Bundle(OBLONG, "pseudoscalar w")
    model = fs.FNO(scalar, scalar, n_modes=3, hidden_channels=8, n_layers=1,
                   positional_embedding="grid")  # fmt: skip
    group = groups.translations(2) * D2
    penalty = fs.promote(model, group, scalar, scalar, level="weights")
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(250):
        optimiser.zero_grad()
        penalty().backward()
        optimiser.step()
    found = snap(model, group, scalar, scalar)
    assert found.directions == ("translation x", "translation y")
    assert len(found.elements) == 3
    u = laws.noise(scalar, (12, 16), torch.float32)
    torch.testing.assert_close(model(u.roll(3, -1)), model(u).roll(3, -1))
    laws.assert_equivariant(model, D2, scalar, scalar, (12, 16), torch.float32, 2e-6)
    assert model(u).std() > 0


def wide():
    """Untrained, with coordinates, whose columns are few among all its weights."""
    p = fs.Bundle(SQUARE, "scalar p")
    model = fs.FNO(p, p, n_modes=9, hidden_channels=32, n_layers=2, positional_embedding="grid")
    return model, p


def assert_nothing_is_found(tolerance):
    model, p = wide()
    before = state(model)
    assert snap(model, groups.translations(2) * D4, p, p, tolerance=tolerance) == Snapped()
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_width_and_depth_hide_nothing():
    assert_nothing_is_found(1e-2)
    assert_nothing_is_found(5e-2)


def test_a_global_size_finds_symmetries_that_do_not_hold(monkeypatch):
    monkeypatch.setattr(WeightGram, "by_layer", broken.relative_to_all_weights)
    with pytest.raises(AssertionError):
        assert_nothing_is_found(5e-2)


def test_layers_are_relative_to_themselves():
    """‖L W‖/‖W‖ of the lifting with all its columns: 2/L_x times the unit, of the column of x."""
    model = coordinates(size=0.3)
    group = groups.translations(2)
    grams, _ = WeightGram(model, group, MIXED, MIXED).by_layer()
    columns = model.lifting.first.weight.matrices[0, 0].detach()
    sides = columns.new_tensor(MIXED.base.lengths)
    scaled = 2 * columns[:, 3:] / sides / columns.norm()
    torch.testing.assert_close(grams.sum(0), scaled.mT @ scaled)
    assert (grams.flatten(1).any(1)).sum() == 1
    shortest = min(MIXED.base.lengths) / (2 * torch.pi)
    x, y = (shortest * scaled.norm(dim=0)).tolist()
    assert x > 1.05 * y  # the sides are unequal
    names = snap(copy.deepcopy(model), group, MIXED, MIXED, tolerance=0.99 * min(x, y)).directions
    assert "translation y" not in names
    axis = fs.Group("x", 2, group.generators[:1])
    for tolerance, number in ((0.99 * x, 0), (1.01 * x, 1)):
        found = snap(copy.deepcopy(model), axis, MIXED, MIXED, tolerance=tolerance)
        assert len(found.directions) == number


@pytest.mark.parametrize(("share", "number"), [(1e-4, 2), (0.3, 0)])
def test_coordinates_of_a_wide_model_go_only_if_they_are_small_in_its_lifting(share, number):
    model, p = wide()
    held = model.lifting.first.weight.matrices
    with torch.no_grad():
        held[..., 1:] *= share * held[..., :1].norm() / held[..., 1:].norm()
    u = laws.noise(p, (16, 24), torch.float32)
    found = snap(model, groups.translations(2), p, p, x=u)
    assert len(found.directions) == number
    assert held[..., 1:].any() == (number == 0)
    assert found.change < 1e-3


def test_constants_are_relative_to_their_layer():
    """A vector among the constants, small beside the map: gone. Large beside it: kept."""
    wind = fs.Bundle(SQUARE, "vector u")
    for size, number in ((1e-4, 7), (1.0, 0)):
        layer = nn.Conv2d(2, 2, 1).double()
        layer.weight.data = torch.eye(2, dtype=DOUBLE)[..., None, None]
        layer.bias.data = size * torch.tensor([1.0, 0.3], dtype=DOUBLE)
        found = snap(layer, groups.cyclic(4) if not number else D4, wind, wind)
        assert len(found.elements) == number
        assert layer.bias.any() == (not number)


def test_the_change_of_the_output():
    """Relative L2; the mean of the output does not count as its size."""
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular").double()
    p = fs.Bundle(SQUARE, "scalar p")
    fs.project_(layer, D4, p, p)
    nudge(layer, 1e-3)
    layer.bias.data.fill_(100.0)
    u = laws.noise(p, (12, 16), DOUBLE)
    with torch.no_grad():
        before = layer(u)
        found = snap(layer, D4, p, p, x=u)
        change = (layer(u) - before).norm() / (before - before.mean((-2, -1), True)).norm()
    assert len(found.elements) == 7
    assert found.change == pytest.approx(change.item())
    assert 1e-5 < found.change < 1e-2
    assert f"output: changed by {100 * found.change:.3g} % of its fluctuation" in str(found)


def test_damage_is_taken_back_exactly():
    """Coordinates beyond the layers' tolerance of 50 %, and an output that is mostly they."""
    model, p = wide()
    held, before = list(model.parameters()), state(model)
    u = 1e-3 * laws.noise(p, (16, 24), torch.float32)
    found = snap(model, groups.translations(2), p, p, tolerance=0.5, x=u)
    assert found == Snapped()
    assert found.change > 0.5
    assert "the module is given back as it was" in str(found)
    assert all(a is b for a, b in zip(model.parameters(), held, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    assert snap(model, groups.translations(2), p, p, tolerance=0.5).directions  # without fields


@pytest.mark.parametrize("change", [0.0, 2.0, float("inf")])
def test_looking_at_the_output_trains_nothing(change, monkeypatch):
    """Running statistics stay, whatever is decided."""
    monkeypatch.setattr(promote_snap, "_norm", lambda v, bundle: change)
    p = fs.Bundle(SQUARE, "scalar p")
    model = nn.Sequential(conv(1, 1), nn.BatchNorm2d(1)).train()
    fs.project_(model, D4, p, p, "scalar")
    nudge(model, 1e-4)
    before = state(model)
    found = snap(model, D4, p, p, hidden="scalar", x=3 + laws.noise(p, (12, 12), torch.float32))
    assert bool(found.elements) == (not change)
    assert model.training
    assert model[1].training
    now = state(model)
    assert all(torch.equal(now[name], before[name]) for name in before if change or "1." in name)
    assert torch.equal(now["0.weight"], before["0.weight"]) == bool(change)


def test_a_tucker_tensor_is_given_back():
    from neuralop.models import TFNO

    scalars = fs.Bundle(SQUARE, "3 scalar q")
    model = TFNO(n_modes=(5, 5), hidden_channels=8, n_layers=1, in_channels=3, out_channels=3,
                 positional_embedding=None, rank=0.5)  # fmt: skip
    alike_in_all_modes(model.fno_blocks.convs[0].weight)
    u = laws.noise(scalars, (12, 12), torch.float32)
    output, held = model(u), dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in held.items()}
    snap_with_x = {"hidden": "scalar", "x": u}
    change = snap(copy.deepcopy(model), D4, scalars, scalars, **snap_with_x).change
    assert 0 < change < 1e-2
    tolerance = 0.9 * change
    found = snap(model, D4, scalars, scalars, tolerance=tolerance, **snap_with_x)
    assert found == Snapped()
    now = dict(model.named_parameters())
    assert list(now) == list(held)
    assert all(now[name] is held[name] for name in held)
    assert all(torch.equal(now[name], before[name]) for name in held)
    assert torch.equal(model(u), output)


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, "x", None, float("nan"), torch.tensor(0.1)])
def test_tolerances_are_relative(tolerance):
    with pytest.raises(DataError, match=r"relative to the size of the weights, in \[0, 1\)"):
        snap(MODELS["net"](), D4, FLOW, FLOW, tolerance=tolerance)


@pytest.mark.parametrize("group", [None, "D4"])
def test_candidates_are_a_group(group):
    with pytest.raises(GroupError, match="snap needs a Group"):
        snap(MODELS["net"](), group, FLOW, FLOW)


@pytest.mark.parametrize("bundles", [(None, FLOW), (FLOW, "scalar p")])
def test_bundles_are_bundles(bundles):
    with pytest.raises(BundleError, match=r"Bundle.*; got"):
        snap(MODELS["net"](), D4, *bundles)


def test_fields_have_a_finite_output():
    u = laws.noise(FLOW, (12, 12), torch.float32)
    broken = u.clone()
    broken[0, 0, 0, 0] = torch.nan
    cases = ((broken, 1, "hold NaN"), (u[:0], 1, "at least one sample"), (u, 1e20, "is not finite"))
    for x, scale, why in cases:
        model = MODELS["net"]()
        for p in model.parameters():
            p.data *= scale
        before = state(model)
        with pytest.raises(DataError, match=why):
            snap(model, D4, FLOW, FLOW, x=x)
        assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    with pytest.raises(BundleError, match="snap"):
        snap(MODELS["net"](), D4, FLOW, FLOW, x=u[:, :2])


def test_unknown_modules_are_refused():
    with pytest.raises(GroupError, match="which adoption does not know"):
        snap(nn.Bilinear(1, 1, 1), D4, FLOW, FLOW)


@pytest.mark.parametrize("tie", [fs.enforce, fs.relax])
def test_tied_weights_are_released_first(tie):
    model = tie(ours(), D4, FLOW, FLOW)
    with pytest.raises(GroupError, match=r"Call fs\.release first"):
        snap(model, D4, FLOW, FLOW)
    snap(fs.release(model), D4, FLOW, FLOW)
