"""Violations measured on the data themselves: planted laws, closed forms, types, masks, errors."""

import math
import re

import pytest
import torch

import fieldsym as fs
from fieldsym.symmetry import evaluate_data
from fieldsym.symmetry.evaluate_data import DataViolation, Jet, Parity, data_violation

SQUARE = fs.Torus((1.5, 1.5))
D4 = fs.groups.dihedral(4)
TURNS = ["rotation 90°", "rotation 180°", "rotation 270°"]
MIRRORS = [g.name for g in D4.elements if torch.linalg.det(torch.tensor(g.matrix)) < 0]
RELATIVE = {"rel": 0.05, "abs": 0.02}


def bundle(text, base=SQUARE):
    return fs.Bundle(base, text)


def states(b, grid=(24, 24), batch=12, **options):
    return fs.testing.random_section(b, grid, batch=batch, **options)


def derivative(x, base, *axes):
    for axis in axes:
        x = base.derivative(x, axis)
    return x


def along(x, v, base):
    """x·∇ v, component by component."""
    return sum(x[:, i : i + 1] * base.derivative(v, i) for i in range(base.dim))


def same(x, y, text, group=D4, base=SQUARE, **options):
    return data_violation(x, y, group, bundle(text, base), bundle(text, base), **options)


@pytest.fixture(scope="module")
def flow():
    """Vorticity pairs of the unforced flow, half a unit of time apart."""
    base = fs.Torus((1.0, 1.0))
    x = fs.simulate.random_vorticity(base, (32, 32), batch=24, seed=3)
    return base, x, fs.simulate.NavierStokes(base, time=0.5, viscosity=1e-4)(x)


# Known flows --------------------------------------------------------------------------------------


def test_vorticity_is_a_pseudoscalar(flow, dtype):
    base, x, y = flow
    right = same(x.to(dtype), y.to(dtype), "pseudoscalar w", base=base)
    assert set(right.violation) == {*TURNS, *MIRRORS}
    assert max(right.violation.values()) < 0.15
    assert right.explained == right.explained_by_block["w"] > 0.8
    assert (right.parity, right.suggestions, right.warning()) == (None, [], "")


def test_a_wrong_parity_is_named_with_its_size(flow):
    base, x, y = flow
    wrong = same(x, y, "scalar w", base=base)
    right = same(x, y, "pseudoscalar w", base=base)
    for name in MIRRORS:  # the advective part changes sign, the viscous one does not
        assert wrong.violation[name] == pytest.approx(2.0, abs=0.2)
        assert wrong.parity.violation[name] == right.violation[name]
    for name in TURNS:
        assert wrong.violation[name] == right.violation[name] < 0.15
    assert wrong.parity[:2] == ("scalar w", "pseudoscalar w")
    assert len(wrong.suggestions) == 1
    assert re.fullmatch(
        r"reflection .*: declared as 'scalar w' the data violate it by 1\.\d\d; as "
        r"'pseudoscalar w' by 0\.\d\d\. Declare it so, or choose a group without reflections\.",
        wrong.suggestions[0],
    )
    assert wrong.suggestions[0] in wrong.warning()


def test_velocity_is_a_vector(flow):
    base, *pair = flow
    u, v = (fs.simulate.velocity_from_vorticity(w, base) for w in pair)
    right, wrong = (same(u, v, text, base=base) for text in ("vector u", "axial vector u"))
    assert right.warning() == ""
    assert max(right.violation.values()) < 0.3
    assert wrong.parity[:2] == ("axial vector u", "vector u")
    assert min(wrong.violation[name] for name in MIRRORS) > 1.8
    components = same(u, v, "scalar u + scalar v", base=base)
    assert components.violation["rotation 180°"] > 1.8
    assert "the data violate rotation 90°" in components.warning()


def test_heat_flow_has_every_symmetry():
    p = bundle("scalar p")
    x = states(p)
    found = data_violation(x, fs.simulate.heat_flow(SQUARE, 1e-3)(x), D4, p, p)
    assert found.explained > 0.99
    assert max(found.violation.values()) < 0.03
    assert found.suggestions == []


def test_anisotropic_heat_has_its_closed_form():
    p, ratio = bundle("scalar p"), 3.0
    x = states(p, batch=16)
    y = fs.simulate.anisotropic_heat_flow(SQUARE, 1e-5, ratio)(x)
    found = data_violation(x, y, D4, p, p)
    xx, yy = (derivative(x[1::2], SQUARE, i, i) for i in (0, 1))
    want = (ratio - 1) * float((xx - yy).norm() / (ratio * xx + yy).norm())
    swapped = {"rotation 90°", "rotation 270°", "reflection x ↔ y", "reflection x ↔ −y"}
    for name, value in found.violation.items():
        assert value == pytest.approx(want if name in swapped else 0.0, **RELATIVE)
    assert want > 0.3
    assert found.parity is None
    assert len(found.suggestions) == 4
    assert "the data violate rotation 90° by 0." in found.warning()
    assert "(the fit explains 100 % of the change): check the declared types" in found.warning()
    assert found.warning().endswith("and 1 more likewise.")


@pytest.mark.parametrize("kind", ["scalar", "pseudoscalar"])
def test_advection_has_its_closed_form(kind):
    p = bundle(f"{kind} p")
    x = states(p, batch=16)
    y = fs.simulate.advection(SQUARE, (1.0, 0.0), 1e-5)(x)
    found = data_violation(x, y, D4, p, p)
    a, b = (derivative(x[1::2], SQUARE, i) for i in (0, 1))
    turned = [float((a - s * b).norm() / a.norm()) for s in (1, -1)]
    for name in ("rotation 180°", "reflection x → −x"):
        assert found.violation[name] == pytest.approx(2.0, abs=1e-3)
    assert found.violation["reflection y → −y"] < 1e-3
    assert sorted(found.violation[n] for n in TURNS[::2]) == pytest.approx(
        sorted(turned), **RELATIVE
    )
    assert found.parity is None


@pytest.mark.parametrize("base", [fs.Torus((2.0,)), fs.Box((2.0,), location="node")], ids=repr)
def test_burgers_has_a_vector(base, dtype):
    x = states(bundle("vector u", base), (65,), 16)
    slope = derivative(x, base, 0)
    if not base.periodic[0]:
        slope = torch.gradient(x, spacing=base.spacing((65,))[0], dim=-1)[0]
    y = x - 0.01 * x * slope
    mirror, group = "reflection x → −x", fs.groups.reflections(1)
    right, wrong = (
        same(x.to(dtype), y.to(dtype), f"{kind} u", group, base) for kind in ("vector", "scalar")
    )
    assert right.explained > 0.99
    assert right.violation[mirror] < 0.02
    assert wrong.violation[mirror] == pytest.approx(2.0, abs=0.02)
    assert wrong.parity[:2] == ("scalar u", "pseudoscalar u")
    assert wrong.parity.violation[mirror] == pytest.approx(right.violation[mirror], abs=1e-3)
    tracer = same(x, x + 0.01 * x**2, "vector u", group, base)
    assert tracer.parity[:2] == ("vector u", "scalar u")


def test_three_dimensions():
    base, group = fs.Torus((1.0, 1.0, 1.0)), fs.groups.octahedral()
    x = states(bundle("vector u", base), (10, 10, 10), 6)
    y = x - 0.01 * along(x, x, base)
    right, wrong = (same(x, y, kind, group, base) for kind in ("vector u", "axial vector u"))
    assert max(right.violation.values()) < 0.01
    assert wrong.violation["inversion"] == pytest.approx(2.0, abs=0.01)
    assert wrong.parity[:2] == ("axial vector u", "vector u")


def test_tensors_are_measured_in_fibre_norms():
    b = bundle("symmetric tensor s")
    x = states(b)
    trace = (x[:, :1] + x[:, 1:2]) * x  # tr(s) s
    assert max(data_violation(x, x + trace, D4, b, b).violation.values()) < 0.01
    squares = data_violation(x, x + x**2, D4, b, b)  # of the components: xy² should change sign
    xx, yy, xy = x[1::2].square().movedim(1, 0)
    size = (xx.square() + yy.square() + 2 * xy.square()).sum().sqrt()
    want = float(2 * math.sqrt(2) * xy.norm() / size)
    assert squares.violation["rotation 90°"] == pytest.approx(want, **RELATIVE)


# What the fit sees and does not see ---------------------------------------------------------------


def test_a_forcing_that_depends_on_position_is_seen_through_its_mean():
    w = bundle("pseudoscalar w")
    x = states(w)
    wave = torch.sin(2 * math.pi * SQUARE.coordinates((24, 24))[0] / 1.5)
    step = 0.01 * (derivative(x, SQUARE, 0, 0) + derivative(x, SQUARE, 1, 1))
    size = step.square().mean().sqrt()
    hidden = data_violation(x, x + step + 0.5 * size * wave, D4, w, w)
    assert 0.5 < hidden.explained < 0.95
    assert hidden.warning() == ""
    seen = data_violation(x, x + step + size, D4, w, w)  # a constant: half of E‖F̂‖², sign −1
    assert seen.violation["reflection x → −x"] == pytest.approx(2 / math.sqrt(2), **RELATIVE)


def test_noise_cannot_tell():
    w = bundle("scalar w")
    x, y = (states(w, seed=seed) for seed in (1, 2))
    found = data_violation(x, x + y, D4, w, w)
    assert found.explained < 0.2
    assert found.warning() == ""
    assert re.fullmatch(r"the fit explains \d+ % .* cannot tell .*\.", found.suggestions[0])


def test_few_samples_raise_the_floor_not_a_warning(flow):
    base, x, _ = flow
    y = fs.simulate.NavierStokes(base, time=3.0, viscosity=1e-4)(x[:6])
    few = same(x[:6], y, "pseudoscalar w", base=base)
    assert max(few.violation.values()) > 0.3
    assert few.explained > 0.2
    assert few.floor > 0.3
    assert few.warning() == ""


def test_blocks_that_do_not_change_do_not_count():
    x = states(bundle("scalar p + scalar h"))
    y = x.clone()
    y[:, 0] += 0.01 * derivative(x[:, :1], SQUARE, 0)[:, 0]
    found = same(x, y, "scalar p + scalar h")
    assert found.explained_by_block == {"p": pytest.approx(1.0), "h": 0.0}
    assert found.explained == pytest.approx(1.0)
    still = same(x, x, "scalar p + scalar h")
    assert (still.explained, set(still.violation.values()), still.warning()) == (0.0, {0.0}, "")


def test_no_units():
    text = "scalar p + vector u"
    x = states(bundle(text))
    y = x + 0.01 * torch.cat([along(x[:, 1:], x[:, :1], SQUARE), x[:, 1:] * x[:, 1:2]], 1)
    units = torch.tensor([1e5, 3.0, 3.0]).double().view(3, 1, 1)
    first, second = same(x, y, text), same(x * units, y * units, text)
    assert second.violation == pytest.approx(first.violation, rel=1e-3, abs=1e-3)
    assert second.explained == pytest.approx(first.explained, abs=1e-3)
    assert first.violation["rotation 180°"] > 0.3


# Bundles ------------------------------------------------------------------------------------------


def test_history_changes_nothing_and_follows_the_parity(flow):
    base, x, y = flow
    plain = same(x, y, "scalar w", base=base)
    past = torch.cat([x, states(bundle("scalar w", base), (32, 32), 24)], 1)
    ins = bundle("scalar w + scalar w_1", base)
    assert data_violation(past, y, D4, ins, bundle("scalar w", base)) == plain


def test_inputs_that_are_no_history_enter():
    ins, out = bundle("scalar p + vector wind + scalar p_1"), bundle("scalar p")
    x = states(ins)
    y = x[:, :1] - 0.01 * along(x[:, 1:3], x[:, :1], SQUARE)
    found = data_violation(x, y, D4, ins, out)
    assert found.explained > 0.99
    assert max(found.violation.values()) < 0.01


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_other_outputs_are_fitted_themselves(offset):
    ins, out = bundle("scalar p"), bundle("scalar q")
    x = states(ins)
    y = derivative(x, SQUARE, 0) + offset
    found = data_violation(x, y, D4, ins, out)
    assert found.explained == pytest.approx(1.0, abs=1e-3)
    assert found.violation["reflection x → −x"] == pytest.approx(2.0, abs=0.01)


def test_a_gradient_is_a_vector():
    ins, x = bundle("scalar p"), states(bundle("scalar p"))
    y = SQUARE.gradient(x)[:, 0]
    right, wrong = (
        data_violation(x, y, D4, ins, bundle(f"{k} v")) for k in ("vector", "axial vector")
    )
    assert max(right.violation.values()) < 0.01
    assert wrong.parity[:2] == ("axial vector v", "vector v")


def test_wide_blocks_enter_by_whole_copies():
    b = bundle("scalar p + 5 vector u")
    channels, streams = evaluate_data._ingredients(b, b, True, True)
    assert (channels, streams) == ([0, 1, 2, 3, 4], [0])
    b = bundle("3 scalar T")
    assert evaluate_data._ingredients(b, b, True, True) == ([0, 1, 2], [0, 1, 2])
    assert evaluate_data._ingredients(b, b, True, False) == ([0, 1, 2], [])
    x = states(bundle("8 scalar T"), batch=96)
    found = same(x, x + 0.1 * x, "8 scalar T")
    assert found.explained == pytest.approx(6 / 8, abs=0.05)
    assert max(found.violation.values()) == pytest.approx(found.floor, rel=0.3)


def test_regular_blocks_permute():
    c4 = fs.groups.cyclic(4)
    b = fs.Bundle(SQUARE, "regular h", c4)
    x = states(b)
    assert max(data_violation(x, x + x**2, c4, b, b).violation.values()) < 0.01
    scaled = x + x * torch.tensor([1.0, 0, 0, 0]).double().view(4, 1, 1)
    assert data_violation(x, scaled, c4, b, b).violation["rotation 90°"] > 1


def test_blocks_too_wide_for_the_library_cannot_tell():
    b = fs.Bundle(SQUARE, "regular h", D4)
    x = states(b)
    found = data_violation(x, x + x**2, D4, b, b)
    assert (found.explained, found.violation, found.warning()) == (0.0, {}, "")


# Groups, grids, masks -----------------------------------------------------------------------------


def test_only_finite_elements_are_examined(flow):
    base, x, y = flow
    names = [
        set(same(x, y, "pseudoscalar w", group, base).violation)
        for group in (fs.groups.translations(2), fs.groups.e(2), D4 * fs.groups.translations(2))
    ]
    assert names == [set(), {"reflection y → −y"}, {*TURNS, *MIRRORS}]
    assert same(x, y, "scalar w", fs.groups.e(2), base).parity.instead == "pseudoscalar w"


def test_shifts_are_no_violation():
    half = fs.Element(torch.eye(2).numpy(), [0.3, 0.0])
    group = fs.Group("shift", 2, (), (half,), ())
    x = states(bundle("scalar p"))
    assert same(x, x + x**2, "scalar p", group).violation[half.name] < 1e-12


def test_the_grid_need_not_have_the_symmetry():
    base = fs.Torus((2.0, 3.0))
    x = states(bundle("vector u", base), (16, 28))
    found = same(x, x - 0.01 * along(x, x, base), "vector u", D4, base)
    assert max(found.violation.values()) < 0.01
    sixfold = fs.groups.cyclic(6)
    assert (
        max(same(x, x - 0.01 * along(x, x, base), "vector u", sixfold, base).violation.values())
        < 0.01
    )
    squares = same(x, x + 0.01 * x**2, "vector u", sixfold, base)
    assert squares.violation["rotation 60°"] > 0.3


def test_fine_grids_are_cut_to_their_large_scales():
    p = bundle("scalar p", fs.Torus((2.0, 3.0)))
    fine, coarse = (states(p, grid, 2, kmax=4) for grid in ((96, 144), (48, 48)))
    assert torch.allclose(evaluate_data._coarse(fine, 2), coarse, atol=1e-12)
    assert evaluate_data._coarse(coarse, 2) is coarse
    y = fine - 0.01 * derivative(fine, p.base, 1)
    found = data_violation(fine.repeat(4, 1, 1, 1), y.repeat(4, 1, 1, 1), D4, p, p)
    assert found.violation["reflection y → −y"] == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("periodic", [(True, False), (True, True)])
def test_masks_hide_what_they_cover(periodic):
    base = fs.Box((2.0, 3.0), periodic=periodic)
    u, grid = bundle("vector u", base), (20, 31)
    x = states(u, grid)
    h = base.spacing(grid)
    y = x.clone()
    for i in range(2):  # an upwind-free law on the grid itself
        y -= 0.01 * x[:, i : i + 1] * (x.roll(-1, i - 2) - x.roll(1, i - 2)) / (2 * h[i])
    mask = torch.ones(grid, dtype=torch.bool)
    mask[3:8, 5:11] = False  # not symmetric
    results = []
    for rubbish in (float("nan"), 1e9):
        pair = (torch.where(mask, w, rubbish) for w in (x, y))
        results.append(data_violation(*pair, D4, u, u, mask=mask))
    assert results[0] == results[1]
    assert results[0].explained > 0.999
    assert max(results[0].violation.values()) < 0.01


def test_points_have_a_valid_stencil():
    base = fs.Box((2.0, 3.0), periodic=(True, False))
    mask = torch.ones(9, 12, dtype=torch.bool)
    mask[0, 6] = False
    inside = torch.zeros(9 * 12, dtype=torch.bool)
    inside[evaluate_data._interior(mask, base)] = True
    inside = inside.view(9, 12)
    assert not inside[:, [0, 1, 10, 11]].any()
    assert not inside[[0, 1, 2, 7, 8], 4:9].any()  # around the gap, and around the seam
    assert inside[3:7, 2:10].all()
    assert inside.sum() == 9 * 8 - 25


# The law of moving, and its saboteurs -------------------------------------------------------------

MIXED = "scalar p + pseudoscalar w + vector u + symmetric tensor s"
PLACES = {
    "torus": (fs.Torus((1.5, 1.5)), (12, 12), True),
    "box": (fs.Box((1.5, 1.5), location="cell"), (12, 12), False),
}


def assert_jet_moves(place, move):
    """The jet of g·u is the moved jet of u, at the image of every point."""
    base, grid, spectral = PLACES[place]
    b = bundle(MIXED, base)
    u = states(b, grid, 1)[0]
    inside = torch.zeros(grid, dtype=torch.bool).flatten()
    inside[evaluate_data._interior(torch.ones(grid, dtype=torch.bool), base)] = True
    points = torch.arange(144)
    jet = evaluate_data._jet(u, base, points, spectral)
    for g in D4.elements:
        source = (
            fs.act(g, points.double().view(1, *grid), bundle("scalar n", base)).long().flatten()
        )
        got = move(jet, g, b.representation.rho(g))
        want = evaluate_data._jet(fs.act(g, u, b), base, points, spectral)
        for part, target in zip(got, want, strict=True):
            assert torch.allclose(part[source][inside], target[inside], atol=1e-9), g.name


@pytest.mark.parametrize("place", PLACES)
def test_jets_move_with_the_field(place):
    assert_jet_moves(place, Jet.moved)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "move",
    [
        lambda jet, g, rho: jet.moved(g, rho.T),
        lambda jet, g, rho: jet.moved(g, torch.eye(len(rho)).double()),
        lambda jet, g, rho: jet.moved(g, rho.abs()),
        lambda jet, g, rho: jet.moved(g.inverse, rho),
        lambda jet, g, rho: jet.moved(fs.Element(torch.eye(2).numpy()), rho),
        lambda jet, g, rho: jet._replace(value=jet.value @ rho.T),
    ],
    ids=["transposed", "ignored", "no signs", "inverse points", "fixed slopes", "values alone"],
)
def test_saboteurs_do_not_move_jets(place, move):
    with pytest.raises(AssertionError):
        assert_jet_moves(place, move)


def assert_sound_is_symmetric():
    """p_t = −div u, u_t = −∇p: from scalar to vector and back, so that senses matter."""
    x = states(bundle("scalar p + vector u"))
    p, u, v = x.split(1, 1)
    change = torch.cat(
        [SQUARE.derivative(u, 0) + SQUARE.derivative(v, 1), SQUARE.gradient(p)[:, 0]], 1
    )
    found = same(x, x - 0.01 * change, "scalar p + vector u")
    assert found.explained > 0.99
    assert max(found.violation.values()) < 0.01


@pytest.mark.parametrize(
    "change",
    [lambda rho: rho.T, lambda rho: torch.eye(len(rho)).double(), lambda rho: rho.abs()],
    ids=["transposed", "ignored", "no signs"],
)
def test_a_wrong_fibre_action_shows(monkeypatch, change):
    assert_sound_is_symmetric()
    moved = Jet.moved
    monkeypatch.setattr(Jet, "moved", lambda jet, g, rho: moved(jet, g, change(rho)))
    with pytest.raises(AssertionError):
        assert_sound_is_symmetric()


def test_stream_function_solves_its_equation():
    base = fs.Torus((2.0, 3.0))
    u = states(bundle("scalar p", base), (16, 24), 1)[0]
    psi = evaluate_data._inverse_laplacian(u, base)
    laplacian = derivative(psi, base, 0, 0) + derivative(psi, base, 1, 1)
    assert torch.allclose(laplacian, u - u.mean(), atol=1e-12)
    assert abs(float(psi.mean())) < 1e-14


# Words and errors ---------------------------------------------------------------------------------


def test_thresholds():
    found = DataViolation(0.7141, {"w": 0.7141}, {"rotation 90°": 0.8, "rotation 180°": 0.25}, 0.1)
    assert found.suggestions == [
        "the data violate rotation 90° by 0.80 (the fit explains 71 % of the change): check the "
        "declared types and their order, or enforce a smaller group."
    ]
    assert found.warning(0.9) == ""
    assert "rotation 180° by 0.25" in found.warning(0.2)
    assert "rotation 180°" not in found.warning(0.26)
    assert DataViolation(0.7, {}, {"rotation 90°": 0.8}, 0.41).warning() == ""  # twice the floor
    mirrors = {"reflection x → −x": 1.9, "reflection y → −y": 1.8}
    better = Parity(
        "scalar w", "pseudoscalar w", {"reflection x → −x": 0.1, "reflection y → −y": 0.4}
    )
    first, second = DataViolation(0.7, {}, mirrors, 0.1, better).suggestions
    assert first.startswith("reflection x → −x: declared as 'scalar w' the data violate it by 1.90")
    assert second.startswith("the data violate reflection y → −y by 0.40")


def test_the_global_stream_is_left_alone():
    x = states(bundle("scalar p"))
    before = torch.random.get_rng_state()
    results = [same(x, x + x**2, "scalar p") for _ in range(2)]
    assert results[0] == results[1]
    assert torch.equal(before, torch.random.get_rng_state())


def test_errors():
    p, x = bundle("scalar p"), states(bundle("scalar p"))
    wrong = torch.full_like(x, float("inf"))
    stretch = fs.Group("stretch", 2, (), (fs.Element([[2.0, 0.0], [0.0, 1.0]]),), ())
    box = fs.Box((1.0, 1.0))
    twice, cube = x.repeat(1, 2, 1, 1), fs.groups.octahedral()
    section, pairs, mask = (
        "expects sections .* 2 channels",
        "pairs .* on one base",
        "mask is a bool",
    )
    cases = [
        (fs.DataError, "At least 4 pairs of states .* got 3", (x[:3], x[:3]), {}),
        (fs.DataError, "not finite at valid points", (x, wrong), {}),
        (fs.DataError, "not finite at valid points", (wrong, x), {}),
        (fs.BundleError, rf"\(x\) {section}", (twice, x), {}),
        (fs.BundleError, rf"\(y\) {section}", (x, twice), {}),
        (fs.BundleError, pairs, (x, x[:-1]), {}),
        (fs.BundleError, pairs, (x, x[..., :-1]), {}),
        (fs.BundleError, pairs, (x[0], x[0]), {}),
        (fs.BundleError, pairs, (x, x), {"out": bundle("scalar p", box)}),
        (fs.GroupError, "in 2 dimensions; got .* of octahedral", (x, x), {"group": cube}),
        (fs.GroupError, "Rotations, reflections .* of stretch", (x, x), {"group": stretch}),
        (fs.GridError, mask, (x, x), {"mask": torch.ones(24, 24)}),
        (fs.GridError, mask, (x, x), {"mask": torch.ones(3, 3) > 0}),
        (fs.GridError, "No point has two valid", (x, x), {"mask": torch.zeros(24, 24) > 0}),
    ]
    for kind, message, pair, options in cases:
        arguments = {"group": D4, "out": p, "mask": None} | options
        with pytest.raises(kind, match=message):
            data_violation(*pair, arguments["group"], p, arguments["out"], mask=arguments["mask"])
