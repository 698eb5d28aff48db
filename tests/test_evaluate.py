"""Evaluate: defects with closed forms, the share by its definition, verdicts, and bad input."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import fieldsym as fs
from fieldsym.symmetry.evaluate import evaluate
from fieldsym.symmetry.evaluate_parts import Probe, Ruler, control_flow
from fieldsym.symmetry.evaluate_rows import element_rows, finite_part, whole_cells
from fieldsym.symmetry.evaluate_statistics import median_interval, shares, verdict

SQUARE = fs.Torus((1.0, 1.0))
P, W = fs.Bundle(SQUARE, "scalar p"), fs.Bundle(SQUARE, "pseudoscalar w")
D4 = fs.groups.dihedral(4)
FULL = D4 * fs.groups.translations(2)


def sections(bundle=P, grid=(16, 16), batch=3, **options):
    return fs.testing.random_section(bundle, grid, batch=batch, **options)


def words(report):
    return dict(zip(report.element.values.tolist(), report.verdict.values.tolist(), strict=True))


# What is measured ---------------------------------------------------------------------------------


def test_rows_of_a_product_group():
    kinds = [row.kind for row in element_rows(FULL, SQUARE, (16, 16))]
    assert kinds == ["point"] * 7 + ["shift"] * 2 + ["fractional shift"] * 4


def test_rows_of_a_continuous_group_contain_lattice_turns_and_generic_angles():
    labels = [row.label for row in element_rows(fs.groups.se(2), SQUARE, (16, 16))]
    assert {"rotation 30°", "rotation 45°", "rotation 90°", "rotation 180°"} <= set(labels)
    assert "identity" not in labels
    assert finite_part(fs.groups.e(2), SQUARE, (16, 16)).order == 8
    assert finite_part(fs.groups.so(2), fs.Torus((2.0, 3.0)), (16, 24)).order == 2
    assert finite_part(fs.groups.so(3), fs.Torus((1.0,) * 3), (8, 8, 8)).order == 24


def assert_sees_patches(cells, n):
    """No patches that tile the axis, of more than one point, move into each other."""
    assert not any(n % size == 0 == cells % size for size in range(2, n + 1))


def broken_cells(points):
    """An odd number near a quarter."""
    return (min(points) // 4) | 1


def test_no_patches_move_into_each_other_by_the_whole_shift():
    for n in range(2, 200):
        cells = whole_cells([n])
        assert_sees_patches(cells, n)
        assert n < 20 or 0.13 * n < cells < 0.4 * n
    assert whole_cells([15, 28]) == 11 == whole_cells([28, 15])  # 3, 5 and 7 divide one of them
    with pytest.raises(AssertionError):
        assert_sees_patches(broken_cells([36]), 36)


def test_the_mean_square_error_sums_over_the_channels_of_a_fibre():
    wind = fs.Bundle(SQUARE, "vector u")
    x = sections(wind)
    report = evaluate(lambda u: 0 * u, fs.groups.cyclic(4), x, wind, wind, y=x)
    loss = nn.functional.mse_loss(torch.zeros_like(x), x)
    assert report.mse.item() == pytest.approx(2 * loss.item(), rel=1e-12)
    assert "fibre norm" in report.mse.attrs["long_name"]


def test_each_axis_has_its_whole_shift():
    rows = element_rows(fs.groups.translations(2), fs.Torus((2.0, 3.0)), (16, 24))
    assert [row.label for row in rows[:2]] == ["shift 5 cells along x", "shift 7 cells along y"]
    np.testing.assert_allclose(rows[1].element.shift, [0, 7 * 3 / 24])


def patches(u):
    """Means over patches of 3 × 3 points."""
    return nn.functional.interpolate(nn.functional.avg_pool2d(u, 3), scale_factor=3)


@pytest.mark.parametrize("grid", [(36, 36), (15, 63), (60, 21)])
def test_patches_violate_shifts_by_whole_cells(grid):
    report = evaluate(patches, fs.groups.translations(2), sections(grid=grid, kmax=4), P, P)
    whole = report.isel(element=report.kind.values == "shift")
    assert set(whole.verdict.values) == {"resolved violation"}
    assert whole.defect_median.min() > 0.05
    for said in report.lee_finding.values:
        assert "shifts by whole cells fail: an asymmetry of the operator itself" in said
        assert "no asymmetry" not in said


# Operators with known defects ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identity_has_no_defect_and_no_error(dtype):
    x = sections(dtype=dtype)
    report = evaluate(lambda u: u, FULL, x, P, P, y=x)
    assert set(report.verdict.values) == {"exact"} == set(report.lee_verdict.values)
    assert float(report.defect.max()) < (1e-6 if dtype == torch.float32 else 1e-14)
    assert float(report.error.max()) == 0.0 == float(report.share)
    assert report.attrs["dtype"] == str(dtype)[6:]


def test_heat_flow_is_exact_and_its_lie_derivative_is_at_the_floor():
    flow = fs.simulate.heat_flow(SQUARE, 1e-3)
    report = evaluate(flow, fs.groups.e(2), sections(grid=(32, 32)), P, P, region=SQUARE.disk(0.4))
    assert set(report.verdict.values) <= {"exact", "below floor"}
    assert set(report.lee_verdict.values) <= {"exact", "below floor"}
    assert report.method.values.tolist()[:2] == ["exact", "exact"]
    assert report.method.sel(element="rotation 30°").item() == "spectral"


@pytest.mark.parametrize("ratio", [1.1, 2.0])
def test_anisotropic_heat_under_a_quarter_turn(ratio):
    time, k = 0.01, 2 * math.pi
    x = torch.cos(k * SQUARE.coordinates((16, 16))[0])[None, None]
    flow = fs.simulate.anisotropic_heat_flow(SQUARE, time, ratio)
    report = evaluate(flow, D4, x, P, P)
    found = report.defect_median.sel(element="rotation 90°").item()
    assert found == pytest.approx(math.expm1((ratio - 1) * time * k**2), rel=1e-12)
    said = words(report)
    assert said["rotation 90°"] == "resolved violation"
    assert said["rotation 180°"] == said["reflection y → −y"] == "exact"
    worst = float(report.example_defect.max())  # |e^{-tk²} − e^{-rtk²}| at the crest
    assert worst == pytest.approx(math.exp(-time * k**2) - math.exp(-ratio * time * k**2))


def test_square_of_a_pseudoscalar_under_reflection():
    x = torch.cos(2 * math.pi * SQUARE.coordinates((16, 16))[0])[None, None]
    report = evaluate(lambda u: u**2, fs.groups.reflections(2), x, W, W)
    found = report.defect_median.sel(element="reflection x → −x").item()
    assert found == pytest.approx(2 * math.sqrt(3), rel=1e-12)  # 2 √(3/8) / √(1/8)
    assert words(report)["rotation 180°"] == "exact"


def test_errors_of_a_known_operator():
    x = sections()
    report = evaluate(lambda u: 1.25 * u, D4, x, P, P, y=x)
    np.testing.assert_allclose(report.error, 0.25, rtol=1e-12)
    np.testing.assert_allclose(report.error_transformed, 0.25, rtol=1e-12)
    assert float(report.mse) == pytest.approx(float(x.square().mean()) / 16, rel=1e-12)


def test_rotation_of_an_advection_has_the_known_lie_derivative():
    """‖(A a)·∇w‖ / ‖w − mean‖ = |a|/s √(8/7) for the window w = exp(−r²/s²), s = R/4."""
    region, step = SQUARE.disk(0.4), 0.02
    flow = fs.simulate.advection(SQUARE, (step, 0.0), 1.0)
    x = torch.ones(1, 1, 64, 64, dtype=torch.float64)
    report = evaluate(flow, fs.groups.so(2), x, P, P, region=region)
    assert report.lee_median.item() == pytest.approx(step / 0.1 * math.sqrt(8 / 7), rel=0.01)
    assert report.lee_verdict.item() == "resolved violation"
    assert report.unit.values.tolist() == ["per radian"]


def test_translation_of_a_position_dependent_operator_has_the_known_lie_derivative():
    """(L_ξ F)(u) = m' u for F(u) = m(x) u; the input cos ky has correlation length √2 / k."""
    eps, k = 0.2, 2 * math.pi
    a, b = SQUARE.coordinates((16, 16))
    report = evaluate(
        lambda u: (1 + eps * torch.cos(k * a)) * u,
        fs.groups.translations(2), torch.cos(k * b)[None, None], P, P,
    )  # fmt: skip
    expected = math.sqrt(2) * (eps / 2) / math.sqrt(0.5 + eps**2 / 4)
    assert report.scale.values == pytest.approx([math.sqrt(2) / k] * 2)
    assert report.lee_median.values == pytest.approx([expected, 0.0], abs=1e-12)
    assert report.lee_verdict.values.tolist() == ["resolved violation", "exact"]


def test_agrees_with_the_functions_of_the_core():
    torch.manual_seed(0)
    model = fs.FNO(W, W, n_modes=5, hidden_channels=4, n_layers=1).double()
    x, region = sections(W, (24, 24)), SQUARE.disk(0.4)
    report = evaluate(model, fs.groups.se(2), x, W, W, region=region)
    for row in element_rows(fs.groups.se(2), SQUARE, (24, 24)):
        core = fs.finite_defect(model, row.element, x, W, W, region=region)
        np.testing.assert_allclose(report.defect.sel(element=row.label), core.numpy(), atol=1e-12)
    for xi in fs.groups.se(2).generators:
        inside = region if xi.matrix.any() else None
        core = fs.infinitesimal_defect(model, xi, x, W, W, region=inside).detach().numpy()
        found = report.lee.sel(generator=xi.name) / report.scale.sel(generator=xi.name)
        np.testing.assert_allclose(found, core, rtol=1e-6)


# The symmetry share -------------------------------------------------------------------------------


def wrong(u):
    """Neither equivariant nor close to it."""
    return u.roll(1, -1) + 0.3 * u**2 * u.roll(2, -2)


def test_share_by_its_definition_and_the_pythagorean_identity():
    x, y = sections(W, (12, 12)), sections(W, (12, 12), seed=1)
    report = evaluate(wrong, D4, x, W, W, y=y)
    orbit = [(fs.act(g, x, W), fs.act(g, y, W)) for g in D4.elements]
    mse = np.mean([float((wrong(u) - v).square().mean()) for u, v in orbit])
    pairs = np.mean([
        float((wrong(fs.act(g, u, W)) - fs.act(g, wrong(u), W)).square().mean())
        for u, _ in orbit for g in D4.elements
    ])  # fmt: skip

    def averaged(u):
        moved = [fs.act(g.inverse, wrong(fs.act(g, u, W)), W) for g in D4.elements]
        return torch.stack(moved).mean(0)

    mse_averaged = np.mean([float((averaged(u) - v).square().mean()) for u, v in orbit])
    distance = np.mean([float((wrong(u) - averaged(u)).square().mean()) for u, _ in orbit])
    assert float(report.mse) == pytest.approx(mse, rel=1e-12)
    assert float(report.mse_averaged) == pytest.approx(mse_averaged, rel=1e-12)
    assert float(report.share) == pytest.approx(pairs / 2 / mse, rel=1e-12)
    assert mse == pytest.approx(mse_averaged + distance, rel=1e-12)
    assert float(report.mse) == pytest.approx(float(report.mse_averaged) + distance, rel=1e-12)


def test_share_of_a_subgroup_by_its_definition():
    x, y = sections(W, (12, 12)), sections(W, (12, 12), seed=1)
    report = evaluate(wrong, D4, x, W, W, y=y)
    mirror = next(g for g in D4.elements if g.name == "reflection y → −y")
    after = []
    for g in D4.elements:
        u, v = fs.act(g, x, W), fs.act(g, y, W)
        both = (wrong(u) + fs.act(mirror, wrong(fs.act(mirror, u, W)), W)) / 2
        after.append(float((both - v).square().mean()))
    expected = 1 - np.mean(after) / float(report.mse)
    found = report.share_element.sel(element=mirror.name).item()
    assert found == pytest.approx(expected, rel=1e-10)
    steps = report.share_cumulative.values
    assert (np.diff(steps) > -1e-12).all()
    assert steps[-1] == pytest.approx(float(report.share), rel=1e-12)


def test_share_uses_the_fibre_norm_of_tensors():
    """The xy component counts twice; without that the identity fails."""
    t = fs.Bundle(SQUARE, "symmetric tensor t")
    x, y = sections(t, (12, 12)), sections(t, (12, 12), seed=1)
    report = evaluate(wrong, D4, x, t, t, y=y)
    orbit = [(fs.act(g, x, t), fs.act(g, y, t)) for g in D4.elements]
    mse = np.mean([float(t.squared_norm(wrong(u) - v).mean()) for u, v in orbit])
    assert float(report.mse) == pytest.approx(mse, rel=1e-12)


def test_share_of_an_equivariant_model_is_zero_and_unknown_without_targets():
    flow, x = fs.simulate.heat_flow(SQUARE, 1e-3), sections()
    assert float(evaluate(flow, D4, x, P, P, y=x).share) < 1e-14
    without = evaluate(flow, D4, x, P, P)
    assert np.isnan(without.share)
    assert np.isnan(without.error).all()
    assert np.isnan(without.share_element).all()


def test_shares_of_a_gram_matrix_by_hand():
    found = shares(np.array([[2.0, -1.0], [-1.0, 2.0]]), fs.groups.cyclic(2))
    assert [float(found[key]) for key in ("mse", "mse_averaged", "share")] == [2.0, 0.5, 0.75]


# Verdicts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "floor", "truth", "expected"),
    [
        ([1e-6, 2e-6], 1e-7, np.nan, "exact"),
        ([2e-4, 2e-4], 1e-4, np.nan, "below floor"),
        ([4e-4, 4e-4], 1e-4, np.nan, "resolved violation"),
        ([0.02, 0.02], 1e-4, 0.03, "consistent with truth"),
        ([0.02, 0.02], 1e-4, 0.01, "resolved violation"),
        ([0.02, 0.02], 0.2, 0.01, "not testable on this grid"),
        ([np.nan, 0.02], 1e-4, 0.01, "not testable on this grid"),
        ([1e-6, 2e-6], np.nan, np.nan, "not testable on this grid"),
    ],
)
def test_verdicts(values, floor, truth, expected):
    sample = np.array(values)
    assert verdict(sample, median_interval(sample[None])[0], floor, truth, 1e-5) == expected


def test_a_model_as_asymmetric_as_the_truth_is_not_blamed():
    truth = fs.simulate.anisotropic_heat_flow(SQUARE, 1e-3, 1.5)
    report = evaluate(truth, D4, sections(), P, P, truth=truth)
    assert words(report)["rotation 90°"] == "consistent with truth"
    np.testing.assert_allclose(report.truth_defect, report.defect_median, atol=1e-14)
    assert float(report.error.max()) == 0.0  # the truth is the target where none is given


def test_intervals_are_seeded_and_contain_the_median():
    values = np.random.default_rng(1).exponential(size=(2, 40))
    first, second = median_interval(values), median_interval(values)
    np.testing.assert_array_equal(first, second)
    assert (first[:, 0] < np.median(values, 1)).all()
    assert (first[:, 1] > np.median(values, 1)).all()


def test_rounding_is_judged_by_the_output_and_not_by_its_small_fluctuation():
    x = sections(dtype=torch.float32)
    report = evaluate(lambda u: 300 + fs.simulate.heat_flow(SQUARE, 1e-3)(u), FULL, x, P, P)
    assert float(report.defect_median.max()) > 1e-5
    assert set(report.verdict.values) == {"exact"}


# Saboteurs ----------------------------------------------------------------------------------------


def test_vorticity_declared_as_a_scalar_makes_the_true_flow_look_broken():
    flow = fs.simulate.navier_stokes(SQUARE, 0.1, viscosity=1e-3, dt=0.02)
    x = fs.simulate.random_vorticity(SQUARE, (16, 16), batch=2)
    assert set(evaluate(flow, D4, x, W, W).verdict.values) == {"exact"}
    said = words(evaluate(flow, D4, x, P, P))
    assert said["reflection y → −y"] == "resolved violation"
    assert said["rotation 90°"] == "exact"


def test_a_grid_embedding_is_seen_by_whole_shifts():
    a = SQUARE.coordinates((16, 16))[0]
    report = evaluate(lambda u: u + 0.1 * a, fs.groups.translations(2), sections(), P, P)
    assert words(report)["shift 5 cells along x"] == "resolved violation"
    assert words(report)["shift 5 cells along y"] == "exact"


# How models are run -------------------------------------------------------------------------------


class Mixed(nn.Module):
    """One part in training mode, one frozen."""

    def __init__(self):
        super().__init__()
        self.dropout, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5).eval()
        self.seen = set()

    def forward(self, u):
        self.seen.add((self.training, torch.is_grad_enabled()))
        return self.frozen(self.dropout(u))


def test_eval_mode_is_used_and_restored_part_by_part():
    model = Mixed().train()
    model.frozen.eval()
    report = evaluate(model, D4, sections(), P, P)
    assert float(report.defect.max()) < 1e-14
    assert model.seen == {(False, False)}
    assert (model.training, model.dropout.training, model.frozen.training) == (True, True, False)
    with pytest.raises(fs.BundleError):
        evaluate(nn.Sequential(model, nn.Flatten()), D4, sections(), P, P)
    assert (model.training, model.frozen.training) == (True, False)


def test_models_run_in_their_own_dtype():
    model = fs.FNO(P, P, group=D4, n_modes=5, hidden_channels=8, n_layers=1)
    report = evaluate(model, D4, sections(dtype=torch.float64), P, P)
    assert report.attrs["dtype"] == "float32"
    assert set(report.verdict.values) == {"exact"}
    assert report.attrs["parameters"] > 100
    assert len(report.attrs["parameters_sha256"]) == 64


@pytest.mark.parametrize("cut", ["numpy", "detach"])
def test_black_boxes_are_differentiated_numerically(cut):
    a = SQUARE.coordinates((16, 16))[0]
    gain = 1 + 0.2 * torch.cos(2 * math.pi * a)

    def black_box(u):
        return torch.from_numpy(u.numpy() * gain.numpy()) if cut == "numpy" else u.detach() * gain

    group, x = fs.groups.translations(2), sections()
    found, known = (evaluate(f, group, x, P, P).lee for f in (black_box, lambda u: u * gain))
    np.testing.assert_allclose(found, known, rtol=1e-6, atol=1e-8)


def test_progress_counts_to_its_total():
    seen = []
    group, region = fs.groups.se(2), SQUARE.disk(0.4)
    evaluate(
        lambda u: u, group, sections(), P, P, region=region, truth=lambda u: u,
        progress=lambda done, total, what: seen.append((done, total, what)),
    )  # fmt: skip
    assert [done for done, _, _ in seen] == list(range(1, seen[0][1] + 1))
    assert len({total for _, total, _ in seen}) == 1
    assert "the truth: rotation xy" in [what for _, _, what in seen]


def test_samples_in_batches_are_the_same_samples():
    x = sections(grid=(128, 128), batch=5)  # in batches of two
    report = evaluate(wrong, fs.groups.cyclic(2), x, P, P, y=x)
    g = fs.groups.cyclic(2).elements[1]
    np.testing.assert_allclose(
        report.defect[0], fs.finite_defect(wrong, g, x, P, P).numpy(), rtol=1e-12
    )


def test_a_module_that_refines_the_grid():
    def refine(u):
        fine = torch.zeros(*u.shape[:-2], 32, 32, dtype=u.dtype)
        fine[..., ::2, ::2] = u
        return fine

    report = evaluate(refine, fs.groups.dihedral(4), sections(), P, P)
    assert set(report.verdict.values) == {"exact"}
    assert report.example_output.dims == ("channel_out", "x_out", "y_out")
    assert report.attrs["grid_out"] == "32 × 32"


# Bases, curves, masks -----------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["node", "cell"])
def test_open_box_with_unequal_sides(location):
    base = fs.Box((2.0, 3.0), location=location)
    flow = fs.Bundle(base, "scalar p + vector u")
    x = fs.testing.random_section(flow, (16, 24), batch=2)
    report = evaluate(lambda u: u**3, fs.groups.reflections(2), x, flow, flow)
    assert set(report.verdict.values) == {"exact"}
    assert float(report.floor.max()) < 1e-14
    assert report.channel_in.values.tolist() == ["p", "u_x", "u_y"]
    assert "shift_defect" not in report


def test_rotations_of_an_open_box_in_a_region_do_not_see_its_edge():
    base = fs.Box((1.0, 1.0), location="cell")
    p = fs.Bundle(base, "scalar p")
    x = fs.testing.random_section(p, (48, 48), batch=2, kmax=3)
    ramp = 0.3 * base.coordinates((48, 48), centred=True).square().sum(0)  # a jump, periodically
    report = evaluate(lambda u: u + ramp, fs.groups.so(2), x, p, p, region=base.disk(0.4))
    assert report.lee_median.item() < 1e-9
    assert float(report.defect_median.max()) < 1e-5


@pytest.mark.parametrize(
    ("base", "grid", "group"),
    [
        (fs.Torus((2.0,)), (24,), fs.groups.reflections(1) * fs.groups.translations(1)),
        (fs.Torus((1.0, 1.0, 1.0)), (8, 8, 8), fs.groups.cyclic(4, dim=3)),
    ],
)
def test_other_dimensions(base, grid, group):
    p = fs.Bundle(base, "scalar p")
    x = fs.testing.random_section(p, grid, batch=2, kmax=2)
    report = evaluate(fs.simulate.heat_flow(base, 1e-2), group, x, p, p)
    assert set(report.verdict.values) == {"exact"}
    assert "orbit_defect" not in report


def test_orbit_curve_shows_what_lattice_angles_hide():
    """1 + cos 4φ is exactly D4 and far from isotropic."""

    def four_fold(u):
        k = [torch.fft.fftfreq(32, 1 / 32, dtype=torch.float64) for _ in range(2)]
        phi = torch.atan2(k[1][None], k[0][:, None])
        spectrum = torch.fft.fft2(u) * (1 + 0.5 * torch.cos(4 * phi))
        inside = (k[0].abs() < 16)[:, None] & (k[1].abs() < 16)[None]
        return torch.fft.ifft2(spectrum * inside).real

    report = evaluate(four_fold, D4, sections(grid=(32, 32)), P, P)
    orbit = report.orbit_defect
    assert float(orbit.sel(orbit_angle=[90, 180, 270]).max()) < 1e-12
    assert float(orbit.sel(orbit_angle=[30, 45, 60]).min()) > 0.05
    assert float(report.orbit_floor.max()) < 1e-4
    assert set(report.verdict.values) == {"exact"}


def test_shift_curve_shows_aliasing_between_whole_cells():
    x = sections(kmax=6)
    report = evaluate(torch.relu, D4, x, P, P)
    curve = report.shift_defect.values
    assert curve[[0, -1]].max() < 1e-12
    assert curve[5] > 0.01
    assert report.shift_floor.max() < 1e-12


def test_masked_points_do_not_matter_and_shifts_are_not_testable():
    mask = torch.ones(16, 16, dtype=torch.bool)
    mask[3:6, 4:9] = False
    x = sections()
    holes = x.clone()
    holes[..., ~mask] = torch.nan
    group = fs.groups.reflections(2) * fs.groups.translations(2)
    first = evaluate(lambda u: 2 * u, group, x, P, P, y=x, mask=mask)
    second = evaluate(lambda u: 2 * u, group, holes, P, P, y=holes, mask=mask)
    np.testing.assert_array_equal(first.defect, second.defect)
    np.testing.assert_allclose(first.error, 1.0, rtol=1e-12)
    np.testing.assert_allclose(first.share, 0.0, atol=1e-14)
    said = words(first)
    assert said["reflection y → −y"] == said["shift 5 cells along x"] == "exact"
    assert said["shift 1/2 cell along x"] == "not testable on this grid"
    assert set(first.lee_verdict.values) == {"not testable on this grid"}


def test_a_mirror_that_no_valid_point_survives_is_not_testable():
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[2:5] = True
    x = sections()
    report = evaluate(lambda u: 2 * u, fs.groups.reflections(2), x, P, P, y=x, mask=mask)
    said = words(report)
    assert said["reflection x → −x"] == "not testable on this grid"
    assert said["reflection y → −y"] == "exact"
    assert np.isnan(report.share)


def test_defects_at_masked_points_are_not_counted():
    mask = torch.ones(16, 16, dtype=torch.bool)
    mask[3, 4] = False
    spike = torch.zeros(16, 16, dtype=torch.float64)
    spike[3, 4] = 100.0
    mirrors = fs.groups.reflections(2)
    assert set(
        evaluate(lambda u: u + spike, mirrors, sections(), P, P, mask=mask).verdict.values
    ) == {"exact"}
    assert "resolved violation" in evaluate(
        lambda u: u + spike, mirrors, sections(), P, P
    ).verdict.values  # fmt: skip


@pytest.mark.parametrize("periodic", [(True, True), (True, False)])
def test_control_commutes_with_mirrors_and_damps_by_half(periodic):
    base = fs.Box((2.0, 3.0), periodic=periodic, location="cell")
    wind = fs.Bundle(base, "vector u")
    u = fs.testing.random_section(wind, (16, 24), batch=2)
    flow = control_flow(wind, u)
    ruler = Ruler(wind, (16, 24))
    probe = Probe(flow, ruler, ruler, torch.float64)
    for g in fs.groups.reflections(2).elements:
        moved = fs.act(g, probe(u), wind)
        torch.testing.assert_close(probe(fs.act(g, u, wind)), moved, atol=1e-14, rtol=0)
    kept = float((flow(u) - flow(u).mean((-1, -2), keepdim=True)).norm() / u.norm())
    assert 0.2 < kept < 0.9


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": sections()[0]}, fs.BundleError, r"\(samples, 1, \*grid\); got shape \(1, 16, 16\)"),
        ({"x": sections()[:0]}, fs.DataError, "at least one sample; x is empty"),
        (
            {"x": sections(batch=2).log()},
            fs.DataError,
            r"x holds 262 values .*\(samples \[0, 1\]\)",
        ),
        ({"y": sections(batch=2)}, fs.BundleError, r"y has shape \(2, 1, 16, 16\); the model ret"),
        ({"y": sections() / 0}, fs.DataError, "y holds 768 values that are not finite"),
        ({"y": sections(fs.Bundle(SQUARE, "vector u"))}, fs.BundleError, "The target y expects"),
        ({"model": lambda u: u.repeat(1, 2, 1, 1)}, fs.BundleError, "output bundle of the model"),
        ({"model": lambda u: u.mean(0)[None].repeat(2, 1, 1, 1)}, fs.BundleError, "for 1 samples"),
        ({"model": lambda u: u / 0}, fs.DataError, "the model returned values that are not fini"),
        ({"truth": lambda u: u / 0}, fs.DataError, "the truth returned values that are not fini"),
        ({"out_bundle": fs.Bundle(fs.Torus((2.0, 1.0)), "scalar p")}, fs.BundleError, "one base"),
        ({"group": fs.groups.so(2)}, fs.GroupError, r"region=base.disk\(0.4\)"),
        ({"group": fs.groups.e(3)}, fs.GroupError, "acts in 3 dimensions"),
        ({"region": fs.Torus((2.0, 2.0)).disk(0.4)}, fs.GridError, "The region is a part of"),
        ({"mask": torch.ones(16, 16)}, fs.GridError, "A mask is boolean"),
        ({"mask": torch.ones(8, 8, dtype=torch.bool)}, fs.GridError, r"on the grid \(16, 16\)"),
        (
            {"mask": torch.ones(16, 16, dtype=torch.bool), "model": lambda u: u[..., ::2, ::2]},
            fs.GridError,
            "A mask needs outputs on its grid",
        ),
    ],
)
def test_bad_input_says_what_to_do(change, error, message):
    given = {
        "model": lambda u: u, "group": D4, "x": sections(), "in_bundle": P, "out_bundle": P,
    } | change  # fmt: skip
    with pytest.raises(error, match=message):
        evaluate(**given)


def test_groups_that_do_not_act_name_the_subgroup_that_does():
    base = fs.Torus((2.0, 3.0))
    p = fs.Bundle(base, "scalar p")
    x = fs.testing.random_section(p, (16, 24), batch=2)
    for group in (D4, FULL):
        with pytest.raises(fs.GroupError, match=r"does not act on .* dihedral\(2\)|reflections\(2"):
            evaluate(lambda u: u, group, x, p, p)
    box = fs.Bundle(fs.Box((1.0, 1.0)), "scalar p")
    with pytest.raises(fs.GroupError, match="axis x is not periodic"):
        evaluate(lambda u: u, fs.groups.translations(2), sections(box), box, box)


def test_importing_evaluate_needs_neither_xarray_nor_matplotlib():
    code = (
        "import sys, fieldsym.symmetry.evaluate; "
        "sys.exit(bool({'xarray', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
