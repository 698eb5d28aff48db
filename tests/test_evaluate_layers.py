"""Layer attribution: the chain rule of the Lie derivative, against dense Jacobians and findings."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import fieldsym as fs
from fieldsym.symmetry import evaluate_layers
from fieldsym.symmetry.evaluate_layers import MOST, layer_attribution
from fieldsym.symmetry.evaluate_layers_fno import Chain

SQUARE, OBLONG = fs.Torus((1.0, 1.0)), fs.Torus((2.0, 3.0))
SHIFTS = fs.groups.translations(2)


def shares(found, row=0):
    return dict(zip(found.layers, found.share[row].tolist(), strict=True))


def local(found, row=0):
    return dict(zip(found.layers, found.local[row].tolist(), strict=True))


def conv(into, out, zeros=False):
    return nn.Conv2d(into, out, 3, padding=1, padding_mode="zeros" if zeros else "circular")


def net(*, zeros=False):
    return nn.Sequential(conv(1, 4), nn.GELU(), conv(4, 3, zeros=zeros), nn.Tanh(), conv(3, 1))


class Residual(nn.Module):
    """A block with a skip, a concatenation, a block of two inputs, and a function in between."""

    def __init__(self, *, functions):
        super().__init__()
        self.first, self.second, self.bend = conv(1, 4), conv(4, 4), nn.GELU()
        self.join, self.last, self.functions = Join(), conv(8, 1), functions

    def forward(self, u):
        start = self.first(u)
        x = functional.gelu(start) if self.functions else self.bend(start)
        x = self.second(x) + start
        return self.last(self.join(x, more=start)) + u


class Join(nn.Module):
    def forward(self, x, more):
        return torch.cat([x * more, more], 1)


class Scaled(nn.Module):
    """A field made larger by its own fibre norm: it commutes with rotations of vectors."""

    def forward(self, u):
        return u * u.square().sum(1, keepdim=True)


class Same(nn.Module):
    def forward(self, u):
        return u


# The chain rule -----------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(7, 8), (8, 6)])
def test_shares_are_those_of_dense_jacobians(grid):
    p = fs.Bundle(OBLONG, "scalar p")
    u, model = fs.testing.random_section(p, grid, batch=1), net(zeros=True).double()
    found = layer_attribution(model, SHIFTS, u, p, p)
    for row, xi in enumerate(SHIFTS.generators):
        total = fs.lie_derivative(model, xi, u, p, p).flatten()
        x, wanted = u, []
        for i, part in enumerate(model):
            ends = [fs.Bundle(OBLONG, f"{n} scalar") for n in (x.shape[1], part(x).shape[1])]
            defect = fs.lie_derivative(part, xi, x, *ends).flatten()
            x = part(x)
            after = torch.autograd.functional.jacobian(model[i + 1 :], x.detach())
            pushed = after.reshape(len(total), -1) @ defect
            wanted.append(float((pushed @ total / (total @ total)).detach()))
        assert found.layers == [str(i) for i in range(5)]
        assert found.share[row] == pytest.approx(wanted, abs=1e-9)
        assert sum(wanted) == pytest.approx(1, abs=1e-9)


def test_local_defects_are_relative_to_both_ways(dtype):
    p = fs.Bundle(OBLONG, "scalar p")
    u, model = fs.testing.random_section(p, (16, 24), batch=2).to(dtype), net(zeros=True).to(dtype)
    found = layer_attribution(model, SHIFTS, u, p, p)
    four = fs.Bundle(OBLONG, "4 scalar")
    x = model[0](u).detach()
    moved = fs.act_infinitesimal(SHIFTS.generators[1], x, four)
    slope = torch.func.jvp(functional.gelu, (x,), (moved,))[1]
    after = fs.act_infinitesimal(SHIFTS.generators[1], functional.gelu(x), four)
    wanted = 2 * (slope - after).norm() / (slope.norm() + after.norm())
    assert local(found, 1)["1"] == pytest.approx(float(wanted), rel=1e-2)
    linear = 1e-12 if dtype == torch.float64 else 2e-5
    assert max(local(found)["0"], local(found)["4"]) < linear
    assert local(found)["2"] > 0.01


def test_shares_sum_to_one_and_losing_the_cotangent_is_seen(monkeypatch, dtype):
    p = fs.Bundle(OBLONG, "scalar p")
    u, model = fs.testing.random_section(p, (16, 24)).to(dtype), net(zeros=True).to(dtype)
    exact = 1e-9 if dtype == torch.float64 else 1e-4
    found = layer_attribution(model, SHIFTS, u, p, p)
    assert found.share.sum(1) == pytest.approx([1, 1], abs=exact)
    honest = evaluate_layers.pulled_back

    def broken_pulled_back(root, defect, region, calls):
        size, found = honest(root, defect, region, calls)
        return size, {call: torch.ones_like(value) for call, value in found.items()}

    monkeypatch.setattr(evaluate_layers, "pulled_back", broken_pulled_back)
    monkeypatch.setattr(evaluate_layers, "_rows", lambda root, shares, local, _: {
        call.name: (shares[call], local[call]) for call in root.children
    })  # fmt: skip
    found = layer_attribution(model, SHIFTS, u, p, p)
    with pytest.raises(AssertionError):
        assert found.share.sum(1) == pytest.approx([1, 1], abs=exact)


def test_what_a_block_does_between_its_modules_is_the_rest():
    p = fs.Bundle(OBLONG, "scalar p")
    u = fs.testing.random_section(p, (16, 24), batch=2)
    model = Residual(functions=False).double()
    named = layer_attribution(model, SHIFTS, u, p, p)
    assert named.layers == ["first", "bend", "second", "join", "last"]
    assert named.share.sum(1) == pytest.approx([1, 1], abs=1e-9)
    model.functions = True
    found = layer_attribution(model, SHIFTS, u, p, p)
    rest = "between the modules of the model"
    assert found.layers == ["first", "second", "join", "last", rest]
    assert shares(found)[rest] == pytest.approx(shares(named)["bend"], abs=1e-9)
    assert shares(found)["join"] == pytest.approx(shares(named)["join"], abs=1e-9)
    assert math.isnan(local(found)[rest])
    assert abs(shares(named)["join"]) > 0.01  # the product of two fields aliases


def test_operations_in_place_change_nothing():
    p = fs.Bundle(OBLONG, "scalar p")
    u = fs.testing.random_section(p, (16, 24))
    model = nn.Sequential(conv(1, 4), nn.SiLU(), conv(4, 1)).double()
    plain = layer_attribution(model, SHIFTS, u, p, p)
    model[1].inplace = True
    found = layer_attribution(model, SHIFTS, u, p, p)
    np.testing.assert_array_equal(found.share, plain.share)
    np.testing.assert_array_equal(found.local, plain.local)


def test_coarser_grids_inside_are_followed():
    p = fs.Bundle(OBLONG, "scalar p")
    model = nn.Sequential(conv(1, 4), nn.AvgPool2d(2), nn.Tanh(), nn.ConvTranspose2d(4, 1, 2, 2))
    found = layer_attribution(model.double(), SHIFTS, fs.testing.random_section(p, (16, 24)), p, p)
    assert found.share.sum(1) == pytest.approx([1, 1], abs=1e-9)
    assert max(local(found)["0"], local(found)["1"]) < 1e-12  # the coarse grid holds these waves
    assert min(local(found)["2"], local(found)["3"]) > 0.01  # values repeated are not smooth


def test_repeated_calls_are_parts_of_their_own():
    p = fs.Bundle(OBLONG, "scalar p")
    bend, mix = nn.Tanh(), conv(1, 1)
    model = nn.Sequential(mix, bend, mix, bend).double()
    found = layer_attribution(model, SHIFTS, fs.testing.random_section(p, (16, 24)), p, p)
    assert found.layers == ["0 (call 1)", "1 (call 1)", "0 (call 2)", "1 (call 2)"]
    assert found.share.sum(1) == pytest.approx([1, 1], abs=1e-9)


@pytest.mark.parametrize("blocks", [3, 40])
def test_long_models_are_cut_to_a_readable_length(blocks):
    p = fs.Bundle(fs.Torus((2.0,)), "scalar p")
    parts = [nn.Sequential(nn.Conv1d(1, 1, 1), nn.Tanh(), nn.Identity()) for _ in range(blocks)]
    for part in parts:
        nn.init.constant_(part[0].weight, 1.5)
    model, u = nn.Sequential(*parts).double(), fs.testing.random_section(p, (24,))
    found = layer_attribution(model, fs.groups.translations(1), u, p, p)
    assert found.share.sum() == pytest.approx(1, abs=1e-9)
    if blocks == 3:
        assert found.layers == [f"{i}.{j}" for i in range(3) for j in range(3)]
    else:
        assert len(found.layers) == MOST
        assert found.layers[-1] == "11 other parts"


# Findings -----------------------------------------------------------------------------------------


def stock(**options):
    from neuralop.models import FNO

    torch.manual_seed(1)
    return FNO(n_modes=(9, 9), hidden_channels=8, in_channels=1, out_channels=1, **options)


def test_neuraloperator_breaks_translations_in_its_nonlinearities_and_its_grid():
    p = fs.Bundle(SQUARE, "scalar p")
    u = fs.testing.random_section(p, (24, 24), batch=3).float()
    found = layer_attribution(stock(positional_embedding=None), SHIFTS, u, p, p)
    linear = [n for n in found.layers if ".convs." in n or "skips" in n]
    assert len(linear) == 12
    for row in (0, 1):
        assert max(local(found, row)[name] for name in linear) < 1e-5
        assert max(abs(shares(found, row)[name]) for name in linear) < 1e-3
        assert sum(shares(found, row).values()) == pytest.approx(1, abs=1e-3)
        bends = [v for n, v in shares(found, row).items() if "between the modules of fno_b" in n]
        assert sum(bends) > 0.5
    found = layer_attribution(stock(), SHIFTS, u, p, p)
    for row in (0, 1):
        one = shares(found, row)
        assert one["positional_embedding"] + one["lifting"] > 0.9
        assert local(found, row)["positional_embedding"] > 0.1


@pytest.mark.parametrize("norm", [None, "instance_norm"])
def test_the_typed_fno_is_linear_but_for_its_activations(norm):
    p, v = fs.Bundle(OBLONG, "scalar p"), fs.Bundle(OBLONG, "scalar p + vector u")
    model = fs.FNO(p, v, group=fs.groups.dihedral(2), n_modes=5, hidden_channels=8, n_layers=2,
                   norm=norm).double()  # fmt: skip
    u = fs.testing.random_section(p, (16, 24), batch=2)
    found = layer_attribution(model, SHIFTS, u, p, v)
    for row in (0, 1):
        one, alone = shares(found, row), local(found, row)
        assert sum(one.values()) == pytest.approx(1, abs=1e-9)
        bends = [value for n, value in one.items() if "activation" in n or "between" in n]
        assert sum(bends) == pytest.approx(1, abs=1e-9 if norm is None else 0.5)
        for i in (0, 1):
            assert alone[f"layers.{i}.convolution"] < 1e-12
        assert alone["layers.0.activation"] > 1e-4


def test_positions_as_inputs_are_found():
    p = fs.Bundle(OBLONG, "scalar p")
    model = fs.FNO(p, p, n_modes=5, hidden_channels=8, n_layers=1, positional_embedding="grid")
    u = fs.testing.random_section(p, (16, 24), batch=2)
    found = layer_attribution(model.double(), SHIFTS, u, p, p)
    for row in (0, 1):
        assert max(shares(found, row), key=shares(found, row).get) == "position"
        assert local(found, row)["position"] > 0.1


def test_a_wind_is_found_by_rotations_and_typed_ends_commute():
    w = fs.Bundle(SQUARE, "vector u")
    u = fs.testing.random_section(w, (24, 24))
    options = {"region": SQUARE.disk(0.4)}
    fine = fs.testing.random_section(w, (64, 64))
    symmetric = nn.Sequential(Same(), Scaled())
    found = layer_attribution(symmetric, fs.groups.so(2), fine, w, w, **options)
    assert found.local.max() < 1e-2  # the cube of a windowed field aliases a little
    model = nn.Sequential(Scaled(), conv(2, 2), Same()).double()
    found = layer_attribution(model, fs.groups.se(2), u, w, w, **options)
    turn = [bool(xi.matrix.any()) for xi in fs.groups.se(2).generators].index(True)
    assert found.share[turn].sum() == pytest.approx(1, abs=1e-9)
    assert local(found, turn)["1"] > 0.1
    # the input keeps its type through a module that returns it, and the output on its way out
    scalars = layer_attribution(nn.Sequential(Same(), conv(2, 2), Same()).double(),
                                fs.groups.so(2), u, w, w, **options)  # fmt: skip
    assert local(scalars)["0"] == 0
    assert local(scalars)["1"] > 0.1


def test_no_share_of_nothing():
    p = fs.Bundle(OBLONG, "scalar p")
    model = nn.Sequential(conv(1, 2), conv(2, 1)).double()
    found = layer_attribution(model, SHIFTS, fs.testing.random_section(p, (16, 24)), p, p)
    assert np.isnan(found.share).all()
    assert found.local.max() < 1e-12


def test_constant_features_commute():
    p = fs.Bundle(OBLONG, "scalar p")
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1)).double()
    nn.init.constant_(model[0].bias, -100)  # nothing passes
    nn.init.constant_(model[2].bias, 3.0)
    found = layer_attribution(model, SHIFTS, fs.testing.random_section(p, (16, 24)), p, p)
    assert found.local.max() < 1e-11


# A channel: the typed FNO pads it, translations act along x alone.
def test_open_edges():
    box = fs.Box((2.0, 1.0), periodic=(True, False))
    p = fs.Bundle(box, "scalar p")
    model = fs.FNO(p, p, n_modes=5, hidden_channels=8, n_layers=1).double()
    u = fs.testing.random_section(p, (16, 12))
    along = fs.Group("translations along x", 2, SHIFTS.generators[:1])
    found = layer_attribution(model, along, u, p, p)
    assert sum(shares(found).values()) == pytest.approx(1, abs=1e-9)
    assert local(found)["position"] < 1e-12
    assert local(found)["layers.0.convolution"] < 1e-12
    turned = layer_attribution(model, fs.groups.so(2), u, p, p, region=box.disk(0.4))
    assert np.isnan(turned.share).all()
    assert np.isnan(turned.local).all()


# What it is asked, and what it leaves behind ------------------------------------------------------


class Changed(fs.FNO):
    def forward(self, u):
        return super().forward(u) * u


class Foreign(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = conv(1, 1)

    def forward(self, u):
        return self.inner(torch.from_numpy(u.detach().numpy() ** 2))


def test_what_has_no_parts_has_no_attribution():
    p = fs.Bundle(OBLONG, "scalar p")
    u = fs.testing.random_section(p, (16, 24))
    assert layer_attribution(lambda u: u**3, SHIFTS, u, p, p) is None
    assert layer_attribution(nn.GELU(), SHIFTS, u, p, p) is None
    assert layer_attribution(net().double(), fs.groups.dihedral(2), u, p, p) is None
    assert layer_attribution(Foreign().double(), SHIFTS, u, p, p) is None
    fused = Changed(p, p, n_modes=5, hidden_channels=8)  # another forward pass than the chain
    assert layer_attribution(fused.double(), SHIFTS, u, p, p) is None


def test_errors():
    p = fs.Bundle(SQUARE, "scalar p")
    u = fs.testing.random_section(p, (16, 16))
    with pytest.raises(fs.GroupError, match="Measure it inside a region"):
        layer_attribution(net().double(), fs.groups.so(2), u, p, p)
    with pytest.raises(fs.BundleError, match="channels"):
        layer_attribution(net().double(), SHIFTS, u.expand(-1, 2, -1, -1), p, p)


def test_the_model_is_left_as_it_was():
    p = fs.Bundle(OBLONG, "scalar p")
    inner = fs.FNO(p, p, n_modes=5, hidden_channels=8, n_layers=1)
    model = nn.Sequential(inner, nn.Dropout(0.5)).double()
    u = fs.testing.random_section(p, (16, 24))
    with torch.no_grad():
        found = layer_attribution(model, SHIFTS, u, p, p)
    assert "0.layers.0.convolution" in found.layers
    assert sum(shares(found).values()) == pytest.approx(1, abs=1e-9)
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert "forward" not in vars(inner)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not u.requires_grad


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"group": fs.groups.dihedral(2), "norm": "group_norm"},
        {"norm": "instance_norm", "fno_skip": "identity", "n_layers": 1},
        {"fno_skip": None, "channel_mlp_skip": "linear", "lifting_channel_ratio": 0},
        {"use_channel_mlp": False, "positional_embedding": "grid"},
        {"fno_skip": "soft-gating", "channel_mlp_skip": None},
    ],
)
@pytest.mark.parametrize("base", [OBLONG, fs.Box((2.0, 3.0), periodic=(True, False))])
def test_the_chain_is_the_typed_fno(options, base):
    p, v = fs.Bundle(base, "scalar p"), fs.Bundle(base, "scalar p + vector u")
    options = {"n_modes": (5, 7), "hidden_channels": 8, "n_layers": 2} | options
    model = fs.FNO(p, v, **options).double()
    u = fs.testing.random_section(p, (13, 16), batch=2)
    for x in (u, u[0], u[None]):
        torch.testing.assert_close(Chain(model)(x), model(x), rtol=0, atol=1e-12)
