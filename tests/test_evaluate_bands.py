"""Where a defect sits: fields, wavenumbers, aliasing, wrong actions, and the words for it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fieldsym as fs
from fieldsym.group import Element
from fieldsym.symmetry.evaluate import evaluate
from fieldsym.symmetry.evaluate_aliasing import refine
from fieldsym.symmetry.evaluate_bands import Bands
from fieldsym.symmetry.evaluate_findings import Fact, _aliasing, number, sentence
from fieldsym.symmetry.evaluate_parts import Probe, Ruler
from fieldsym.symmetry.evaluate_rows import wrong_action

SQUARE, OBLONG = fs.Torus((1.0, 1.0)), fs.Torus((2.0, 3.0))
P, W = fs.Bundle(SQUARE, "scalar p"), fs.Bundle(SQUARE, "pseudoscalar w")
FLOW, WIND = fs.Bundle(SQUARE, "scalar p + vector u"), fs.Bundle(SQUARE, "vector u")
D4, SHIFTS = fs.groups.dihedral(4), fs.groups.translations(2)
TURN = "rotation 90°"


def sections(bundle=P, grid=(16, 16), batch=3, **options):
    return fs.testing.random_section(bundle, grid, batch=batch, **options)


def wave(n, axis=0, grid=(32, 32)):
    return torch.cos(2 * math.pi * n * SQUARE.coordinates(grid)[axis])[None, None]


def known(values):
    """Numbers of a variable without those that are NaN."""
    return values.values[np.isfinite(values.values)]


# Spectra ------------------------------------------------------------------------------------------


def assert_parseval(bands, bundle, u):
    """The energies of all bands are the squared norm, whatever the quadrature of the base."""
    ruler = Ruler(bundle, bundle.grid(u))
    whole = ruler.norm(u, ruler.weights(u.device)).square()
    torch.testing.assert_close(bands.energies(bundle, u).sum(1), whole, rtol=1e-12, atol=0)


class BrokenBands(Bands):
    """Open axes taken as periodic: end points count in full."""

    def energies(self, bundle, u):
        torus = replace(self, base=fs.Torus(self.base.lengths))
        return Bands.energies(torus, bundle, u)


@pytest.mark.parametrize("grid", [(16, 24), (15, 9)])
@pytest.mark.parametrize(
    "base", [OBLONG, fs.Box((2.0, 3.0), location="node"), fs.Box((2.0, 3.0), (True, False), "cell")]
)
@pytest.mark.parametrize("types", ["scalar p + vector u", "symmetric tensor t"])
def test_energies_of_all_bands_are_the_squared_norm(base, grid, types):
    bundle = fs.Bundle(base, types)
    u = torch.randn(2, bundle.channels, *grid, dtype=torch.float64)
    assert_parseval(Bands.of(base, grid), bundle, u)


def test_a_spectrum_that_forgets_the_edges_is_found():
    base = fs.Box((2.0, 3.0), location="node")
    bundle, u = fs.Bundle(base, "scalar p"), torch.randn(2, 1, 16, 24, dtype=torch.float64)
    with pytest.raises(AssertionError):
        assert_parseval(BrokenBands.of(base, (16, 24)), bundle, u)


@pytest.mark.parametrize(
    ("n", "m", "band"), [(0, 0, 0), (1, 0, 0), (0, 4, 2), (2, 0, 1), (4, 5, 3)]
)
def test_waves_are_counted_along_the_longest_axis(n, m, band):
    """|k| = √((3n/2)² + m²) waves along the side 3; the smaller Nyquist frequency is 12 waves."""
    p = fs.Bundle(OBLONG, "scalar p")
    bands = Bands.of(OBLONG, (16, 24))
    assert bands.edges == (1.5, 3.0, 6.0, 12.0)
    a, b = OBLONG.coordinates((16, 24))
    u = torch.cos(math.pi * n * a + 2 * math.pi * m * b / 3)[None, None]
    parts = bands.energies(p, u)[0] / 6.0
    assert parts[band] == pytest.approx(1.0 if n == m == 0 else 0.5, rel=1e-12)
    assert float(parts.sum() - parts[band]) < 1e-25


# Bands of defects ---------------------------------------------------------------------------------


def narrow(u, eps=0.3):
    """Waves along x alone, 6 of them, are 1 + ε times stronger."""
    spectrum = torch.fft.fft2(u)
    spectrum[..., [6, -6], 0] *= 1 + eps
    return torch.fft.ifft2(spectrum).real


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_defect_in_one_band_is_found_in_that_band(dtype):
    x = sum(wave(n) + wave(n, 1) for n in (1, 3, 6, 12)).to(dtype)
    report = evaluate(narrow, D4, x, P, P)
    assert report.band.values.tolist()[1:3] == ["2-4 waves", "4-8 waves"]
    assert report.band_edge.values.tolist() == [2.0, 4.0, 8.0, 16.0, math.inf]
    found = report.defect_band.sel(element=TURN).values
    rounding = 1e-6 if dtype == torch.float32 else 1e-14
    expected = 0.3 * math.sqrt(2) / math.sqrt(1 + 1.3**2)
    assert found[2] == pytest.approx(expected, rel=1e-6)
    assert found[[0, 1, 3]].max() < rounding
    assert np.isnan(found[4])  # nothing is in the corners
    assert report.defect_band_share.sel(element=TURN, band="4-8 waves").item() == pytest.approx(1)
    assert "100 % of its square in 4-8 waves" in report.finding.sel(element=TURN).item()
    assert float(report.energy_band.sum()) == pytest.approx(1, rel=1e-12)
    assert report.energy_band.values[0] == pytest.approx(2 / (7 + 1.3**2), rel=1e-6)


def test_bands_add_up_to_the_defect():
    report = evaluate(lambda u: u.roll(1, -1) + 0.3 * u**2, D4, sections(W, batch=1), W, W)
    parts = (report.defect_band**2 * report.energy_band).sum("band")
    np.testing.assert_allclose(parts, report.defect_median**2, rtol=1e-10)
    np.testing.assert_allclose(report.defect_band_share.sum("band"), 1.0, rtol=1e-12)


def test_the_lie_derivative_is_found_in_its_band():
    """m'u for m = 1 + ε cos 6πx and u = cos 8πy: waves (3, ±4), five of them."""
    gain = 1 + 0.2 * wave(3)
    report = evaluate(lambda u: gain * u if u.shape[-1] == 32 else u, SHIFTS, wave(4, 1), P, P)
    along = report.lee_band.sel(generator="translation x").values
    assert along[2] == pytest.approx(3 * math.sqrt(2) / 4, rel=1e-10)  # 2π3 × √2 / 2π4
    assert along[1] < 1e-12
    assert np.isnan(along[[0, 3, 4]]).all()
    assert report.lee_band_share.values[0, 2] == pytest.approx(1, rel=1e-12)


def test_bands_of_rotations_are_seen_through_the_window():
    """F(u) = ∂u/∂x does not commute with rotations: L_ξF = ∂u/∂y, in the bands of the window."""
    region = SQUARE.disk(0.4)
    x = torch.ones(1, 1, 48, 48, dtype=torch.float64)
    report = evaluate(
        lambda u: SQUARE.derivative(u, 0), fs.groups.so(2), x, P, P, region=region
    )  # fmt: skip
    u = x * region.window((48, 48))
    bands, window = Bands.of(SQUARE, (48, 48)), region.window((48, 48))
    slopes = [bands.energies(P, SQUARE.derivative(u, axis) * window)[0] for axis in (0, 1)]
    expected = (slopes[1] / slopes[0]).sqrt()
    np.testing.assert_allclose(report.lee_band[0, :2], expected[:2], rtol=1e-3)


def test_floors_and_truths_have_bands_and_fields():
    truth = fs.simulate.anisotropic_heat_flow(SQUARE, 1e-3, 1.5)
    report = evaluate(truth, D4 * SHIFTS, sections(), P, P, truth=truth)
    np.testing.assert_array_equal(report.truth_band, report.defect_band)
    np.testing.assert_array_equal(report.lee_truth_field, report.lee_field)
    assert known(report.floor_band).max() < 1e-10
    assert known(report.lee_floor_band).max() < 1e-9
    assert np.isnan(evaluate(truth, D4, sections(), P, P).truth_band).all()


def test_bands_behind_a_mask_are_unknown():
    mask = torch.ones(16, 16, dtype=torch.bool)
    mask[3] = False
    report = evaluate(lambda u: u, fs.groups.reflections(2), sections(), P, P, mask=mask)
    assert np.isnan(report.defect_band).all()
    assert np.isnan(report.energy_band).all()
    assert not np.isnan(report.defect_field).any()


# Fields -------------------------------------------------------------------------------------------


def stretched(u):
    """Twice the first component of the vector."""
    return u * torch.tensor([1.0, 2.0, 1.0], dtype=u.dtype).view(3, 1, 1)


def test_a_defect_in_one_field_is_found_in_that_field():
    x = torch.cat([wave(1), wave(2), torch.zeros_like(wave(1))], 1)  # F(g·x) = x·g, gF(x) = 2 g·x
    report = evaluate(stretched, fs.groups.cyclic(4), x, FLOW, FLOW)
    turn = report.sel(element=TURN)
    assert turn.defect_field.sel(field="u").item() == pytest.approx(0.5, rel=1e-12)
    assert turn.defect_field.sel(field="p").item() < 1e-14
    assert turn.defect_median.item() == pytest.approx(1 / math.sqrt(5), rel=1e-12)
    assert "largest in u (50.0 %)" in turn.finding.item()


def test_one_field_alone_has_the_defect_of_the_whole():
    report = evaluate(lambda u: u**2 + u.roll(1, -1), D4, sections(W), W, W)
    np.testing.assert_allclose(report.defect_field[:, 0], report.defect_median, rtol=1e-12)


def test_scalar_to_vector_on_an_oblong_torus():
    """A gradient whose second component depends on the position breaks translations there alone."""
    p, slope = fs.Bundle(OBLONG, "scalar p"), fs.Bundle(OBLONG, "scalar q + vector v")
    a = OBLONG.coordinates((16, 24))[0]

    def gradient(u):
        v = OBLONG.gradient(u[:, 0])
        gain = 1 + 0.5 * torch.cos(math.pi * a[: u.shape[-2]])
        return torch.cat([u, v[:, :1], gain * v[:, 1:]], 1)

    report = evaluate(gradient, SHIFTS, sections(p, (16, 24)), p, slope)
    along = report.lee_field.sel(generator="translation x")
    assert along.sel(field="q").item() < 1e-12
    assert along.sel(field="v").item() > 0.1
    assert report.lee_field.sel(generator="translation y").max() < 1e-12
    assert report.attrs["finer_grid"].startswith("the model does not run on 32 × 48 points (")


def test_a_field_that_does_not_change_has_no_relative_defect():
    report = evaluate(lambda u: u * torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1), D4,
                      sections(FLOW), FLOW, FLOW)  # fmt: skip
    assert np.isnan(report.defect_field.sel(field="p")).all()
    assert report.defect_field.sel(field="u").max() < 1e-14


# Two resolutions ----------------------------------------------------------------------------------


def assert_refines(refine, base, grid, kmax):
    """A band-limited section on a grid twice as fine is the same section."""
    p = fs.Bundle(base, "scalar p")
    coarse = fs.testing.random_section(p, grid, kmax=kmax)
    fine = fs.testing.random_section(p, [2 * n for n in grid], kmax=kmax)
    torch.testing.assert_close(refine(coarse, base), fine, rtol=0, atol=1e-12)


def broken_refine(u, base):
    """Cells taken as nodes: the fine samples sit a quarter of a cell elsewhere."""
    return refine(u, fs.Torus(base.lengths))


@pytest.mark.parametrize(
    ("lengths", "grid"), [((2.0,), (16,)), ((2.0, 3.0), (16, 9)), ((1.0, 2.0, 3.0), (8, 7, 6))]
)
@pytest.mark.parametrize("location", ["node", "cell"])
def test_refined_sections_are_the_same_sections(lengths, grid, location):
    assert_refines(refine, fs.Torus(lengths, location), grid, (min(grid) - 1) // 2)


def test_a_refinement_that_forgets_where_samples_sit_is_found():
    with pytest.raises(AssertionError):
        assert_refines(broken_refine, fs.Torus((2.0, 3.0), "cell"), (16, 9), 3)


def test_what_the_coarse_grid_cannot_tell_is_left_out():
    assert float(refine(wave(8, grid=(16, 16)), SQUARE).abs().max()) < 1e-14


def test_a_cube_aliases_on_the_coarse_grid_alone():
    """Cubes of 3 waves have 9; 16 points hold 8, 32 points hold 16."""
    x = sections(kmax=3)
    report = evaluate(lambda u: u**3, SHIFTS, x, P, P)
    assert report.lee_fine.max() < 1e-12
    assert report.lee_median.min() > 1e-3
    np.testing.assert_allclose(report.aliasing_share, 1.0, atol=1e-12)
    fine = evaluate(lambda u: u**3, SHIFTS, refine(x, SQUARE), P, P)
    np.testing.assert_allclose(report.lee_fine, fine.lee_median, atol=1e-12)
    assert report.defect_fine.sel(element="shift 0.3 cell along x") < 1e-12
    assert np.isnan(report.defect_fine.sel(element="shift 5 cells along x"))
    said = report.lee_finding.sel(generator="translation x").item()
    assert "100 % of its square vanishes on a finer grid, and shifts by whole cells hold" in said
    assert "aliasing of the nonlinearity, no asymmetry of the weights" in said


@pytest.fixture(scope="module")
def strong():
    """An FNO whose activations are far from linear."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fs.FNO(W, W, n_modes=9, hidden_channels=8, n_layers=2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lifting" in name and weight.ndim > 1:
                weight.mul_(2)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_breaks_translations_of_an_fno_is_aliasing(strong, dtype):
    model = strong.to(dtype)
    report = evaluate(model, SHIFTS, sections(W, (32, 32), kmax=4), W, W)
    assert report.lee_median.min() > 0.1
    assert report.aliasing_share.min() > 0.9
    assert set(report.verdict.sel(element=["shift 7 cells along x"]).values) == {"exact"}
    assert "no asymmetry of the weights" in report.lee_finding[0].item()


class Placed(nn.Module):
    """A gain that depends on the position, on any grid."""

    def forward(self, u):
        a = SQUARE.coordinates(u.shape[-2:], u.dtype)[0]
        return (1 + 0.3 * torch.cos(2 * math.pi * a)) * u


def test_what_depends_on_the_position_stays_on_the_finer_grid():
    report = evaluate(Placed(), SHIFTS, sections(kmax=3), P, P)
    share = report.aliasing_share.sel(generator="translation x").item()
    assert share == pytest.approx(0, abs=1e-6)
    assert np.isnan(report.aliasing_share.sel(generator="translation y"))  # nothing to explain
    said = report.lee_finding.sel(generator="translation x").item()
    assert "it stays on a finer grid" in said
    assert "an asymmetry of the operator itself" in said
    assert "holds to rounding" in report.lee_finding.sel(generator="translation y").item()


def test_both_at_once_is_called_both():
    def both(u):
        return Placed()(u) + 0.15 * u**3

    report = evaluate(both, SHIFTS, sections(kmax=3), P, P)
    assert 0.1 < report.aliasing_share[0].item() < 0.9
    said = report.lee_finding[0].item()
    assert "and shifts by whole cells fail: aliasing, beside an asymmetry of the operator" in said
    assert "no asymmetry of the weights" not in said


def test_mostly_aliasing_is_not_said_of_shifts_that_fail():
    """0.9 of the square is aliasing; a weight that depends on the position is one all the same."""
    report = evaluate(
        lambda u: Placed()(u) + 0.3 * u**3, SHIFTS, sections(kmax=3), P, P
    )  # fmt: skip
    assert report.aliasing_share[0].item() > 0.9
    assert "no asymmetry of the weights" not in report.lee_finding[0].item()


@pytest.mark.parametrize("grid", [(32, 32), (24, 48)])
def test_what_no_finer_grid_removes_is_not_called_aliasing(grid):
    """The sign of a field jumps: derivatives grow with the number of points."""
    report = evaluate(torch.sign, SHIFTS, sections(grid=grid, kmax=4), P, P)
    assert set(report.isel(element=report.kind.values == "shift").verdict.values) == {"exact"}
    assert report.aliasing_share.max() < 0.1
    for said, fine in zip(report.lee_finding.values, report.lee_fine.values, strict=True):
        assert (
            f"it does not vanish on a finer grid ({number(fine)} there) although shifts by whole "
            "cells hold: resampling or a discontinuous nonlinearity"
        ) in said
        assert "aliasing" not in said


def test_half_of_what_relu_does_vanishes():
    report = evaluate(torch.relu, SHIFTS, sections(grid=(32, 32), kmax=4), P, P)
    np.testing.assert_allclose(report.aliasing_share, 0.5, atol=0.07)
    said = report.lee_finding[0].item()
    assert "shifts by whole cells hold: as with nonlinearities whose slope jumps" in said
    assert "no asymmetry" not in said


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.05, "it does not vanish on a finer grid (20.0 % there) although"),
        (0.30, "only 30 % of its square vanishes on a finer grid (20.0 % there) although"),
        (0.45, "45 % of its square vanishes on a finer grid, and shifts by whole cells hold: as"),
        (0.80, "80 % of its square vanishes on a finer grid, and shifts by whole cells hold: al"),
    ],
)
def test_no_asymmetry_is_said_where_most_of_it_vanishes(share, words):
    said = _aliasing(share, 0.2, True)
    assert said.startswith(words)
    assert ("no asymmetry" in said) == (share > 0.5)


def test_aliasing_of_a_rotation_is_called_so():
    region, x = SQUARE.disk(0.4), sections(batch=2, grid=(24, 24), kmax=2)
    report = evaluate(lambda u: u**5, fs.groups.so(2), x, P, P, region=region)
    share = report.aliasing_share.item()
    assert share > 0.9
    assert "mostly aliasing of the nonlinearity" in report.lee_finding.item()


class Fixed(nn.Module):
    """Runs on one grid."""

    def __init__(self, size):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(size, size, dtype=torch.float64))

    def forward(self, u):
        return self.gain * u


def test_where_two_grids_cannot_be_compared_the_report_says_why():
    mask = torch.ones(16, 16, dtype=torch.bool)
    mask[0] = False
    line = fs.Bundle(fs.Box((1.0, 2.0), (True, False)), "scalar p")
    along = replace(SHIFTS, generators=SHIFTS.generators[:1])
    pool = nn.AdaptiveAvgPool2d((16, 16))
    for reason, report in {
        r"does not run on 32 × 32 points \(RuntimeError\)":
            evaluate(Fixed(16), SHIFTS, sections(), P, P),
        "on 32 × 32 points the model returns 16 × 16": evaluate(pool, SHIFTS, sections(), P, P),
        "points are missing": evaluate(lambda u: u, SHIFTS, sections(), P, P, mask=mask),
        "an axis is not periodic": evaluate(lambda u: u, along, sections(line), line, line),
        "no symmetry lies between the points": evaluate(lambda u: u, D4, sections(), P, P),
    }.items():  # fmt: skip
        assert reason.replace("\\", "") in report.attrs["finer_grid"]
        for name in ("lee_fine", "aliasing_share", "defect_fine"):
            assert np.isnan(report[name]).all()


# Wrong actions ------------------------------------------------------------------------------------


def test_wrong_actions_are_not_the_right_ones():
    quarter = fs.groups.cyclic(4).elements[1]
    other, sign = wrong_action(quarter, SQUARE)
    assert (sign, other.key) == (1.0, quarter.inverse.key)
    for mirror in fs.groups.reflections(2).elements[1:]:
        assert wrong_action(mirror, SQUARE) == (mirror, -1.0)
    half = Element(np.eye(2), np.array([1.0, 0.0]))  # half a period of the side 2
    assert wrong_action(half, OBLONG)[1] == -1.0
    assert wrong_action(half, fs.Torus((3.0, 3.0)))[0].key == half.inverse.key


def test_wrong_actions_have_the_known_defects():
    report = evaluate(lambda u: u, D4 * SHIFTS, wave(1) + wave(2, 1), P, P)
    wrong = report.wrong_defect
    assert wrong.sel(element="reflection x → −x").item() == pytest.approx(2, rel=1e-12)
    shift = math.hypot(2 * math.sin(2 * math.pi * 7 / 32), 0) / math.sqrt(2)
    assert wrong.sel(element="shift 7 cells along x").item() == pytest.approx(shift, rel=1e-12)


def test_samples_that_cannot_tell_the_wrong_action_test_nothing():
    report = evaluate(lambda u: u, D4 * SHIFTS, wave(2), P, P)  # nothing varies along y
    words = dict(zip(report.element.values.tolist(), report.verdict.values.tolist(), strict=True))
    assert words["shift 7 cells along y"] == words["shift 1/2 cell along y"]
    assert words["shift 7 cells along y"] == words[TURN] == "not testable on this grid"
    assert words["shift 7 cells along x"] == words["reflection x → −x"] == "exact"
    assert "these samples cannot tell it" in report.finding.sel(element=TURN).item()


def test_a_violation_is_one_whatever_the_wrong_action_says():
    """Squared vorticity declared a pseudoscalar: the opposite parity holds."""
    report = evaluate(lambda u: u**2, fs.groups.reflections(2), sections(W), W, W)
    row = report.sel(element="reflection x → −x")
    assert row.verdict.item() == "resolved violation"
    assert row.wrong_defect.item() < 1e-14
    assert "the opposite parity passes (0): check the declared types" in row.finding.item()
    assert "opposite parity" not in report.finding.sel(element="rotation 180°").item()


def mean_value(u):
    """Constant over space, not over the samples."""
    return u.mean((-1, -2), keepdim=True).expand_as(u)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", [torch.ones_like, torch.zeros_like, mean_value])
def test_a_constant_output_tests_nothing(model, dtype):
    report = evaluate(model, D4 * SHIFTS, sections(dtype=dtype) + 1, P, P)
    assert (
        set(report.verdict.values)
        == {"not testable on this grid"}
        == set(report.lee_verdict.values)
    )
    assert all("not testable: the output is constant" in said for said in report.finding.values)
    assert all("not testable: the output is constant" in said for said in report.lee_finding.values)


def constant_vector(u):
    """(1, 1) everywhere, whatever the input."""
    return torch.ones_like(u).repeat(1, 2, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_vector_violates_what_turns_it(dtype):
    """g·c − c relative to c: 2 sin(α/2) for a turn by α, and the mirror along c holds."""
    x = sections(grid=(16, 24), dtype=dtype)
    square = evaluate(constant_vector, D4 * SHIFTS, x[..., :16], P, WIND)
    expected = {
        TURN: math.sqrt(2), "rotation 180°": 2, "reflection x → −x": math.sqrt(2),
        "reflection x ↔ −y": 2,
    }  # fmt: skip
    for element, value in expected.items():
        row = square.sel(element=element)
        assert row.verdict.item() == "resolved violation"
        assert row.defect_median.item() == pytest.approx(value, rel=1e-6)
        assert f"{number(value)} of the output" in row.finding.item()
    for element in ("reflection x ↔ y", "shift 5 cells along x", "shift 1/2 cell along y"):
        assert square.verdict.sel(element=element).item() == "not testable on this grid"
    assert set(square.lee_verdict.values) == {"not testable on this grid"}
    turned = evaluate(constant_vector, fs.groups.so(2), x[..., :16], P, WIND,
                      region=SQUARE.disk(0.4))  # fmt: skip
    assert turned.lee_verdict.item() == "resolved violation"
    assert turned.lee_median.item() == pytest.approx(1, rel=1e-6)


def test_a_constant_that_moves_with_its_input_holds():
    x = sections(WIND) + torch.tensor([1.0, 2.0]).view(2, 1, 1)
    report = evaluate(mean_value, D4, x, WIND, WIND)
    assert set(report.verdict.values) == {"exact"}
    assert "holds to rounding" in report.finding.sel(element=TURN).item()
    assert "of the output" in report.finding.sel(element=TURN).item()


def test_a_constant_that_depends_on_the_pose_is_a_violation():
    """The value at one point, everywhere."""
    model = lambda u: u[..., 1:2, 2:3].expand_as(u)  # noqa: E731
    report = evaluate(model, D4, sections(), P, P)
    assert set(report.verdict.values) == {"resolved violation"}
    assert 0.01 < report.defect_median.max() < 100


def test_a_constant_of_the_wrong_parity_is_a_violation():
    report = evaluate(torch.ones_like, fs.groups.reflections(2), sections(W), W, W)
    row = report.sel(element="reflection x → −x")
    assert row.verdict.item() == "resolved violation"
    assert row.defect_median.item() == pytest.approx(2)
    assert "the opposite parity passes (0): check the declared types" in row.finding.item()
    assert report.verdict.sel(element="rotation 180°").item() == "not testable on this grid"


def test_a_small_fluctuation_is_no_constant():
    report = evaluate(lambda u: 1 + 1e-3 * u**3, D4, sections(), P, P)
    assert set(report.verdict.values) == {"exact"}


# Words --------------------------------------------------------------------------------------------


def test_a_violation_is_told_with_its_numbers():
    x, y = sections(W, (12, 12)), sections(W, (12, 12), seed=1)
    truth = fs.simulate.heat_flow(SQUARE, 1e-3)
    wrong = lambda u: u.roll(1, -1) + 0.3 * u**2  # noqa: E731
    report = evaluate(wrong, D4, x, W, W, y=y, truth=truth)
    row = report.sel(element="reflection y → −y")
    low, high = row.defect_interval.values
    said = row.finding.item()
    assert said.startswith(f"reflection y → −y: violated: {number(row.defect_median.item())} of ")
    assert f"(95 % interval {number(low)} to {number(high)})" in said
    assert f"floor {number(row.floor.item())}" in said
    assert f"the reference violates it by {number(row.truth_defect.item())}" in said
    assert f"would remove {number(row.share_element.item())} of the squared error" in said
    top = int(row.defect_band_share.values.argmax())
    assert f"{100 * row.defect_band_share[top].item():.0f} % of its square in " in said
    assert report.band[top].item() in said


AVERAGING = "averaging over what it generates would remove"


def test_averaging_is_advised_where_the_truth_has_the_symmetry_alone():
    """Averaging a model that is right about an asymmetry spoils it."""
    x, gain = sections(), 1 + 0.3 * wave(1, grid=(16, 16))
    rough = lambda u: gain * u + 1e-3 * u**2  # noqa: E731
    even = fs.simulate.heat_flow(SQUARE, 1e-4)
    uneven = lambda u: gain * u  # noqa: E731
    far = lambda u: (1 + 2 * wave(1, grid=(16, 16))) * u  # noqa: E731
    said = {
        key: evaluate(model, D4, x, P, P, y=y, truth=truth).sel(element=TURN)
        for key, model, y, truth in (
            ("none", rough, uneven(x), None), ("even", rough, None, even),
            ("uneven", rough, None, uneven), ("far", far, None, uneven),
        )
    }  # fmt: skip
    assert all(row.share_element > 0.3 for row in said.values())
    assert f"if the targets have this symmetry, {AVERAGING}" in said["none"].finding.item()
    assert f"; {AVERAGING}" in said["even"].finding.item()
    assert "averaging" not in said["uneven"].finding.item()
    assert "averaging" not in said["far"].finding.item()
    assert said["far"].verdict.item() == "resolved violation"


def test_the_corners_are_beyond_not_in_beyond():
    corner = torch.zeros(16, 16, dtype=torch.float64)
    corner[7, 7] = 1.0
    extra = torch.fft.ifft2(corner).real * 256
    report = evaluate(lambda u: u + extra, SHIFTS, sections(grid=(16, 16)), P, P)
    said = report.finding.sel(element="shift 5 cells along x").item()
    assert "100 % of its square beyond 8 waves" in said


def test_words_for_what_is_no_violation():
    truth = fs.simulate.anisotropic_heat_flow(SQUARE, 1e-3, 1.5)
    alike = evaluate(truth, D4, sections(), P, P, truth=truth).finding.sel(element=TURN).item()
    assert alike.startswith("rotation 90°: as the reference, which violates it by ")
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[2:5] = True
    masked = evaluate(lambda u: u, fs.groups.reflections(2), sections(), P, P, mask=mask)
    assert masked.finding.sel(element="reflection x → −x").item().endswith(
        "not testable: points are missing."
    )  # fmt: skip
    rough = sections(kmax=7, grid=(15, 15))
    report = evaluate(lambda u: u, fs.groups.so(2), rough, P, P, region=SQUARE.disk(0.4))
    rows = report.isel(element=report.verdict.values == "not testable on this grid")
    assert all("the transform alone loses" in said for said in rows.finding.values)


def skew(eps):
    """Waves along x alone lose the factor 1 − ε: no quarter turn holds, all shifts do."""
    decay = torch.where(torch.fft.fftfreq(16) == 0, 1.0, 1 - eps)[:, None]
    return lambda u: torch.fft.ifft2(torch.fft.fft2(u) * decay).real


def forced(eps):
    return lambda u: (1 + eps * wave(1, grid=tuple(u.shape[-2:]))) * u


BEYOND = ", but the reference violates it by {}, which this operator cannot follow."


def test_an_operator_that_holds_what_the_reference_violates_is_told():
    """Enforcing such a symmetry harms; nothing is said where the reference holds it as well."""
    x, even = sections(), fs.simulate.heat_flow(SQUARE, 1e-3)
    group = D4 * SHIFTS
    report = evaluate(even, group, x, P, P, truth=forced(0.8))
    for name in (TURN, "shift 5 cells along x", "shift 1/2 cell along x"):
        row = report.sel(element=name)
        assert row.verdict.item() in ("exact", "below floor")
        assert row.finding.item().endswith(BEYOND.format(number(row.truth_defect.item())))
    along = report.sel(generator="translation x")
    assert along.lee_finding.item().endswith(BEYOND.format(number(along.lee_truth.item())))
    low, high = along.lee_truth_interval.values
    assert low <= along.lee_truth <= high
    assert "reference" not in report.finding.sel(element="reflection y → −y").item()
    assert "reference" not in report.lee_finding.sel(generator="translation y").item()
    both = evaluate(even, group, x, P, P, truth=even)
    assert not any("reference" in said for said in (*both.finding.values, *both.lee_finding.values))


@pytest.mark.parametrize(("eps", "words"), [(0.05, "less than"), (0.7, "as"), (0.8, "as")])
def test_an_operator_that_violates_less_than_the_reference_is_not_like_it(eps, words):
    said = evaluate(skew(eps), D4, sections(), P, P, truth=skew(0.8)).finding.sel(element=TURN)
    assert said.item().startswith(f"{TURN}: {words} the reference, which violates it by ")
    assert "cannot follow" not in said.item()


@pytest.mark.parametrize("factor", [0.9, 3.1])
def test_a_defect_of_the_reference_counts_above_its_floor_alone(factor):
    fact = Fact(TURN, "exact", 1e-7, (1e-7, 1e-7), 1e-3, factor * 1e-3, truth_low=factor * 1e-3)
    assert ("cannot follow" in sentence(fact, [], rounding=1e-5)) == (factor > 3)


def test_what_the_reference_violates_as_well_is_no_asymmetry_of_the_operator():
    """Its own asymmetry is told where there is no reference, or one with the symmetry."""
    x, truth, own = sections(), forced(0.8), "an asymmetry of the operator itself"
    alike = evaluate(truth, SHIFTS, x, P, P, truth=truth).lee_finding[0].item()
    assert alike.startswith("translation x: as the reference, which violates it by ")
    assert "it stays on a finer grid (" in alike
    assert own not in alike
    for reference in (None, fs.simulate.heat_flow(SQUARE, 1e-3)):
        alone = evaluate(truth, SHIFTS, x, P, P, truth=reference).lee_finding[0].item()
        assert own in alone


@pytest.mark.parametrize(("share", "whole"), [(0.05, None), (0.05, False), (0.5, None)])
def test_aliasing_names_an_asymmetry_where_it_is_the_own(share, whole):
    own = "an asymmetry of the operator itself"
    assert own in _aliasing(share, 0.2, whole)
    assert own not in _aliasing(share, 0.2, whole, own=False)


def test_layers_come_with_the_report_of_a_module(strong):
    report = evaluate(strong.double(), SHIFTS, sections(W, (32, 32), kmax=4), W, W)
    np.testing.assert_allclose(report.layer_share.sum("layer"), 1.0, rtol=1e-8)
    top = report.layer.values[report.layer_share.values[0].argmax()]
    assert f"largest part by layer: {top} (" in report.lee_finding[0].item()
    assert report.layer_local.dims == ("generator", "layer")
    assert "layer" not in evaluate(lambda u: u, SHIFTS, sections(), P, P).dims


# How derivatives are taken, and how far the work is -----------------------------------------------


class Pushed(nn.Module):
    """Cubes with derivatives of their own; counts who is asked."""

    def __init__(self):
        super().__init__()
        self.pushes = []

    def forward(self, u):
        return u**3

    def push_forward(self, u, tangents):
        self.pushes.append(len(tangents))
        return u**3, 3 * u**2 * tangents


def test_all_generators_are_pushed_at_once():
    model, x, region = Pushed(), sections(batch=2), SQUARE.disk(0.4)
    report = evaluate(model, fs.groups.se(2), x, P, P, region=region)
    assert model.pushes == [2, 1, 2, 1]  # shifts, turns; and on the finer grid
    plain = evaluate(lambda u: u**3, fs.groups.se(2), x, P, P, region=region)
    np.testing.assert_allclose(report.lee, plain.lee, rtol=1e-10)


def test_push_of_an_fno_is_its_derivative(strong):
    model = strong.double()
    ruler = Ruler(W, (12, 12))
    u, along = sections(W, (12, 12)), torch.randn(2, 3, 1, 12, 12, dtype=torch.float64)
    own = Probe(model, ruler, ruler, torch.float64).push(u, along)
    foreign = Probe(lambda v: model(v), ruler, ruler, torch.float64).push(u, along)
    for first, second in zip(own, foreign, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("model", [Fixed(16), Placed()])
def test_progress_ends_at_its_total_with_and_without_a_finer_grid(model):
    seen = []
    evaluate(
        model, SHIFTS, sections(), P, P,
        progress=lambda done, total, what: seen.append((done, total, what)),
    )  # fmt: skip
    assert [done for done, _, _ in seen] == list(range(1, seen[-1][1] + 1))
    assert len({total for _, total, _ in seen}) == 1
    assert ("the finer grid: translation x" in [w for _, _, w in seen]) == isinstance(model, Placed)


def test_reports_with_all_of_this_survive_netcdf(tmp_path, strong):
    from fieldsym.report import to_netcdf

    report = evaluate(strong.float(), fs.groups.se(2), sections(W), W, W, region=SQUARE.disk(0.4))
    to_netcdf(report, tmp_path / "report.nc")
    import xarray as xr

    with xr.open_dataset(tmp_path / "report.nc") as again:
        for name in ("defect_band", "band_edge", "finding", "lee_finding", "aliasing_share"):
            np.testing.assert_array_equal(again[name].values, report[name].values)
