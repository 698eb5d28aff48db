"""Lie derivatives: closed forms, multipliers, chain rule, Parseval, defects and their controls."""

import math

import broken
import laws
import numpy as np
import pytest
import torch
from catalogue import OBLONG, SQUARE, groups

import fieldsym as fs

SO2, SE2 = groups.so(2), groups.se(2)
ROTATION = SO2.generators[0]
TX, TY = groups.translations(2).generators
PLANE = fs.Torus((1.0, 1.2))
GRID = (64, 72)
P, V = fs.Bundle(PLANE, "scalar p"), fs.Bundle(PLANE, "vector u")
PV = fs.Bundle(PLANE, "scalar p + vector u")


def generator(name, matrix):
    return fs.Generator(name, np.array(matrix, dtype=float), np.zeros(2))


CANDIDATES = [
    ROTATION,
    generator("scaling", np.eye(2)),
    generator("shear", [[0, 1], [0, 0]]),
    generator("stretch", np.diag([1.0, -1.0])),
    generator("any", [[0.3, -0.8], [0.5, 1.1]]),
]


def bell(k, scale):
    return torch.exp(-k.square().sum(-1) * scale**2)


def vector_to_vector(k):
    """A smooth, localised multiplier without any symmetry: R(−k) = conj R(k)."""
    a = torch.tensor([[1.0, 0.4], [-0.3, 0.8]], dtype=torch.float64)
    b = torch.tensor([[0.01, -0.02], [0.015, 0.01]], dtype=torch.float64)
    odd = (k @ torch.tensor([1.0, 0.5], dtype=torch.float64))[:, None, None] * b
    even = (k[:, 0] * k[:, 1])[:, None, None] * b.T * 0.02
    return torch.complex(a + even, odd) * bell(k, 0.02)[:, None, None]


def flow_to_flow(k):
    """Scalar and vector mixed: gradient, divergence and a shear."""
    r = torch.zeros(len(k), 3, 3, dtype=torch.complex128)
    zero = torch.zeros_like(k)
    gradient = torch.complex(zero, 0.03 * k)
    top = torch.cat([torch.complex(1 + 0.001 * k[:, :1] ** 2, zero[:, :1]), -gradient], 1)
    block = torch.cat([gradient[:, :, None], vector_to_vector(k) / bell(k, 0.02)[:, None, None]], 2)
    r = torch.cat([top[:, None], block], 1)
    return r * bell(k, 0.02)[:, None, None]


# Closed forms -------------------------------------------------------------------------------------


def test_heat_commutes_with_rotations_and_translations():
    heat = fs.simulate.heat_flow(PLANE, time=2e-4)
    u = laws.blobs(PV, GRID, width=0.05)
    for xi in SE2.generators:
        scale = fs.act_infinitesimal(xi, u, PV).norm()
        assert fs.lie_derivative(heat, xi, u, PV, PV).norm() < 1e-9 * scale
    assert fs.lie_derivative(heat, CANDIDATES[3], u, PV, PV).norm() > 1e-2 * u.norm()


@pytest.mark.parametrize("bundle", [P, PV], ids=["scalar", "flow"])
def test_advection_has_a_known_lie_derivative(bundle):
    """F(u)(x) = u(x − cT): translations give zero, a matrix A gives T (A c)·∇F(u).

    The fibres are carried along unchanged, so dρ drops out.
    """
    c, time = (0.7, -0.4), 0.1
    drift = fs.simulate.advection(PLANE, c, time)
    u = laws.blobs(bundle, GRID, width=0.05)
    slope = PLANE.gradient(drift(u))
    for xi in (TX, TY):
        assert fs.lie_derivative(drift, xi, u, bundle, bundle).norm() < 1e-12 * slope.norm()
    for xi in CANDIDATES:
        want = torch.einsum("i,cixy->cxy", torch.from_numpy(xi.matrix @ c) * time, slope)
        got = fs.lie_derivative(drift, xi, u, bundle, bundle)
        laws.assert_close(got, want, 1e-8)
        assert want.norm() > 0.02 * slope.norm()


def test_squares_and_sources_have_known_lie_derivatives():
    """u² commutes with everything on scalars; u + s has L = −ξ·s."""
    u, s = laws.blobs(fs.Bundle(PLANE, "2 scalar"), GRID, width=0.05).split(1)
    for xi in (*CANDIDATES, TX):
        size = fs.act_infinitesimal(xi, u, P).norm()
        assert fs.lie_derivative(torch.square, xi, u, P, P).norm() < 1e-7 * size
        source = fs.lie_derivative(lambda v: v + s, xi, u, P, P)
        laws.assert_close(source, -fs.act_infinitesimal(xi, s, P), 1e-12)


def test_differential_operators_between_types():
    """The gradient commutes with motions as scalar to vector; as two scalars it does not.

    A stretch ξ = 1 multiplies it by 1 (from dρ) + 1 (from a derivative): weight minus two.
    """
    u = laws.blobs(P, GRID, width=0.05)

    def gradient(v):
        return PLANE.gradient(v)[0]

    size = PLANE.gradient(gradient(u)).norm()
    for xi in SE2.generators:
        assert fs.lie_derivative(gradient, xi, u, P, V).norm() < 1e-8 * size
    two = fs.Bundle(PLANE, "2 scalar")
    laws.assert_close(
        fs.lie_derivative(gradient, ROTATION, u, P, two),
        fs.act_infinitesimal(ROTATION, gradient(u), V)
        - fs.act_infinitesimal(ROTATION, gradient(u), two),
        1e-8,
    )
    laws.assert_close(fs.lie_derivative(gradient, CANDIDATES[1], u, P, V), -2 * gradient(u), 1e-8)


def test_region_windows_the_input_and_masks_the_result(dtype):
    disk = PLANE.disk(0.4)
    u = fs.testing.random_section(P, GRID, dtype=dtype)
    drift = fs.simulate.advection(PLANE, (0.7, -0.4), 0.1)
    got = fs.lie_derivative(drift, ROTATION, u, P, P, region=disk)
    windowed = u * disk.window(GRID, dtype)
    want = fs.lie_derivative(drift, ROTATION, windowed, P, P) * disk.mask(GRID)
    assert got.dtype == dtype
    assert torch.equal(got, want)
    heat = fs.simulate.heat_flow(PLANE, time=1e-4)
    defect = fs.infinitesimal_defect(heat, ROTATION, u, P, P, region=disk)
    assert defect < {torch.float32: 1e-4, torch.float64: 1e-5}[dtype]


# Multipliers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("xi", CANDIDATES, ids=lambda xi: xi.name)
def test_lie_derivative_of_a_multiplier(xi):
    laws.assert_commutator(vector_to_vector, xi, V, V, GRID, 5e-6)
    laws.assert_commutator(flow_to_flow, xi, PV, PV, GRID, 5e-6)


@pytest.mark.parametrize("xi", CANDIDATES[:1] + CANDIDATES[2:], ids=lambda xi: xi.name)
def test_saboteur_fails_the_multiplier_identity(xi):
    with pytest.raises(AssertionError):
        laws.assert_commutator(
            vector_to_vector, xi, V, V, GRID, 1e-2, broken.lie_of_symbol_with_wrong_sign
        )


def test_multipliers_with_a_known_derivative():
    """Isotropic ones have none under rotation; R homogeneous of degree s has −s R under scaling."""
    k, _ = laws.wavenumbers(PLANE, (16, 24))
    k = k[1:]
    scalar, vector = torch.zeros(1, 1, dtype=torch.float64), torch.from_numpy(ROTATION.matrix)

    def power(q):
        return (q.square().sum(-1) ** 1.5)[:, None, None] + 0j

    def leray(q):
        outer = q[:, :, None] * q[:, None, :] / q.square().sum(-1)[:, None, None]
        return torch.eye(2, dtype=torch.float64) - outer + 0j

    assert laws.lie_of_symbol(power, ROTATION, scalar, scalar)(k).abs().max() < 1e-9
    scaled = laws.lie_of_symbol(power, CANDIDATES[1], scalar, scalar)(k)
    assert torch.allclose(scaled, -3 * power(k))
    assert laws.lie_of_symbol(leray, ROTATION, vector, vector)(k).abs().max() < 1e-13
    assert laws.lie_of_symbol(leray, ROTATION, 0 * vector, 0 * vector)(k).abs().max() > 0.5


def half_spectrum(symbol, base, grid):
    """Multiplicities of the rfft half plane: 1 on k_y = 0, else 2; with the matrices there."""
    k, keep = laws.wavenumbers(base, grid)
    r = (symbol(k) * keep[:, None, None]).unflatten(0, grid)[:, : grid[1] // 2 + 1]
    mu = torch.full((grid[1] // 2 + 1,), 2.0, dtype=torch.float64)
    mu[0] = 1
    if grid[1] % 2 == 0:
        mu[-1] = 1
    return mu, r


@pytest.mark.parametrize("xi", CANDIDATES, ids=lambda xi: xi.name)
def test_parseval_is_exact_for_unit_amplitudes(xi):
    """Σ_k μ(k) tr[(L R)(L R)*] is the mean square, summed over polarisations, of random phases."""
    grid = (24, 32)
    drho = V.representation.drho(xi)
    derived = laws.lie_of_symbol(vector_to_vector, xi, drho, drho)
    mu, r = half_spectrum(derived, PLANE, grid)
    predicted = (mu * r.abs().square().sum((-1, -2))).sum()
    operator = laws.convolution(derived, PLANE, grid)
    total = 0.0
    for c in range(2):
        noise = torch.fft.fft2(torch.randn(grid, dtype=torch.float64))
        phases = torch.polar(torch.ones(grid, dtype=torch.float64), noise.angle())
        u = torch.zeros(2, *grid, dtype=torch.float64)
        u[c] = torch.fft.ifft2(phases, norm="forward").real
        total += operator(u).square().mean((-1, -2)).sum()
    assert float(total / predicted) == pytest.approx(1, abs=1e-12)
    wrong = (r.abs().square().sum((-1, -2))).sum()  # multiplicities forgotten
    assert abs(float(total / wrong) - 1) > 0.1


def test_parseval_predicts_the_mean_over_random_fields():
    """E‖L_ξ K u‖² = Σ μ tr[(L R) S (L R)*] for fields of independent channels with spectrum S.

    The fields are white noise in a band times a window; S is the spectrum of the white noise,
    smeared by that of the window.
    """
    grid, kmax = (48, 56), 3
    x = PLANE.coordinates(grid, centred=True)
    window = torch.exp(-x.square().sum(0) / (2 * 0.07**2))
    drho = V.representation.drho(ROTATION)
    derived = laws.lie_of_symbol(vector_to_vector, ROTATION, drho, drho)
    white = torch.zeros(grid, dtype=torch.float64)
    band = [i % n for n in grid for i in range(-kmax, kmax + 1)]
    rows, columns = band[: 2 * kmax + 1], band[2 * kmax + 1 :]
    white[np.ix_(rows, columns)] = 1 / (2 * kmax + 1) ** 2
    smear = torch.fft.fft2(window, norm="forward").abs().square()
    spectrum = torch.fft.ifft2(torch.fft.fft2(white) * torch.fft.fft2(smear)).real
    mu, r = half_spectrum(derived, PLANE, grid)
    half = spectrum[:, : grid[1] // 2 + 1]
    predicted = (mu * half * r.abs().square().sum((-1, -2))).sum()
    u = fs.testing.random_section(V, grid, batch=1500, kmax=kmax, seed=3) * window
    operator = laws.convolution(vector_to_vector, PLANE, grid)
    measured = fs.lie_derivative(operator, ROTATION, u, V, V).square().mean((-1, -2)).sum(1).mean()
    assert float(measured / predicted) == pytest.approx(1, abs=0.02)


# Any operator -------------------------------------------------------------------------------------


def network(source, target, **options):
    return fs.FNO(source, target, n_modes=(5, 7), hidden_channels=6, n_layers=1, **options)


def test_chain_rule(dtype):
    tol = {torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
    w = fs.Bundle(PLANE, "pseudoscalar w + symmetric tensor s")
    first, second = network(PV, w).to(dtype), network(w, V).to(dtype)
    u = laws.blobs(PV, (24, 30), width=0.09, dtype=dtype)
    for xi in (ROTATION, TX, *CANDIDATES[2:]):
        laws.assert_chain_rule(first, second, xi, u, (PV, w, V), tol)
    with pytest.raises(AssertionError):
        laws.assert_chain_rule(
            first, second, ROTATION, u, (PV, w, V), 1e-2, broken.lie_derivative_without_output
        )


def test_lie_derivative_matches_central_differences():
    model = network(PV, V).double()
    u = laws.blobs(PV, (24, 30), width=0.09)
    for xi in (ROTATION, TX, *CANDIDATES[2:]):
        laws.assert_jvp(model, xi, u, PV, V, 1e-6)
    with pytest.raises(AssertionError):
        laws.assert_jvp(model, ROTATION, u, PV, V, 1e-2, broken.lie_derivative_without_output)


def test_orbit_derivative():
    """L_ξ F (u) = d/dt exp(−tξ)·F(exp(tξ)·u) at zero: the definition, by differences."""
    drift = fs.simulate.advection(PLANE, (0.7, -0.4), 0.1)
    u = laws.blobs(PV, GRID, width=0.05)

    def at(t):
        g = SO2.exp([t])
        return fs.act(g.inverse, drift(fs.act(g, u, PV)), PV)

    t = 1e-3
    slope = (8 * (at(t) - at(-t)) - (at(2 * t) - at(-2 * t))) / (12 * t)
    laws.assert_close(fs.lie_derivative(drift, ROTATION, u, PV, PV), slope, 1e-6)


def test_lie_derivatives_commute_to_brackets():
    """[L_ξ, L_η] = L_[η, ξ]: the order turns because F is moved by the inverse on one side."""
    operator = laws.convolution(flow_to_flow, PLANE, GRID)
    u = laws.blobs(PV, GRID, width=0.05)

    def lie(F, xi):
        return lambda v: fs.lie_derivative(F, xi, v, PV, PV)

    for xi, eta in ((ROTATION, CANDIDATES[2]), (ROTATION, TX), (CANDIDATES[3], CANDIDATES[4])):
        one, other = lie(lie(operator, eta), xi)(u), lie(lie(operator, xi), eta)(u)
        bracket = lie(operator, fs.Group.bracket(eta, xi))(u)
        assert (one - other - bracket).norm() < 1e-5 * max(one.norm(), other.norm(), u.norm())
    sign = lie(operator, fs.Group.bracket(ROTATION, CANDIDATES[2]))(u)
    one, other = (
        lie(lie(operator, a), b)(u)
        for a, b in ((CANDIDATES[2], ROTATION), (ROTATION, CANDIDATES[2]))
    )
    assert (one - other - sign).norm() > 0.1 * one.norm()


def test_lie_derivative_is_bilinear():
    first, second = network(PV, V).double(), network(PV, V).double()
    u = laws.blobs(PV, (24, 30), width=0.09)

    def lie(F, xi):
        return fs.lie_derivative(F, xi, u, PV, V)

    both = lie(lambda v: 2 * first(v) - 3 * second(v), ROTATION)
    laws.assert_close(both, 2 * lie(first, ROTATION) - 3 * lie(second, ROTATION), 1e-12)
    mixed = fs.Generator("mixed", 2 * ROTATION.matrix, -3 * TX.shift)
    laws.assert_close(lie(first, mixed), 2 * lie(first, ROTATION) - 3 * lie(first, TX), 1e-12)


def test_symmetric_networks_have_no_derivative_where_they_are_exact():
    """Translations of an FNO whose nonlinearity does not alias: zero to rounding."""
    model = network(PV, V, non_linearity=torch.nn.Identity()).double()
    u = fs.testing.random_section(PV, (24, 30))
    for xi in (TX, TY):
        assert fs.infinitesimal_defect(model, xi, u, PV, V) < 1e-11


# Defects ------------------------------------------------------------------------------------------


def project(u):
    """⟨u, cos 2πx⟩ cos 2πx on a unit square."""
    x = torch.arange(u.shape[-2], dtype=u.dtype) / u.shape[-2]
    wave = torch.cos(2 * math.pi * x)[:, None].expand(u.shape[-2:])
    return (u * wave).mean((-1, -2), keepdim=True) * wave


def test_controls_of_the_finite_defect():
    """Zero for the heat flow, one for an orthogonal image, two for a lost sign."""
    base = fs.Torus((1.0, 1.0))
    p, w = fs.Bundle(base, "scalar p"), fs.Bundle(base, "pseudoscalar w")
    x, _ = base.coordinates((16, 16))
    u = torch.cos(2 * math.pi * x)[None, None]
    quarter = fs.Element(np.eye(2), [0.25, 0])
    heat = fs.simulate.heat_flow(base, 0.01)
    assert fs.finite_defect(heat, quarter, u, p, p) < 1e-14
    assert fs.finite_defect(project, quarter, u, p, p).item() == pytest.approx(1, abs=1e-12)
    mirror = groups.dihedral(1).elements[1]
    lost = fs.finite_defect(lambda v: v, mirror, u, p, w).item()
    assert lost == pytest.approx(2, abs=1e-12)
    half = 0.5 * fs.finite_defect(lambda v: v, mirror, u + 1.0, p, p) + 1e-30
    assert half < 1e-14


def test_controls_of_the_infinitesimal_defect():
    """A translation of cos 2πx seen by its own projection: −2π sin 2πx is what is left."""
    base = fs.Torus((1.0, 1.0))
    p = fs.Bundle(base, "scalar p")
    x, _ = base.coordinates((16, 16))
    u = torch.cos(2 * math.pi * x)[None, None]
    defect = fs.infinitesimal_defect(project, TX, u, p, p)
    assert defect.item() == pytest.approx(2 * math.pi, rel=1e-12)


def test_defects_know_no_units_and_no_offset():
    drift = fs.simulate.advection(PLANE, (0.7, -0.4), 0.1)
    u = laws.blobs(fs.Bundle(PLANE, "6 scalar"), GRID, width=0.05).view(2, 3, *GRID)
    turn, three = SO2.exp([0.4]), fs.Bundle(PLANE, "3 scalar")
    laws.assert_no_units(fs.finite_defect, drift, turn, u, PV, three)
    laws.assert_no_units(fs.infinitesimal_defect, drift, ROTATION, u, PV, three)
    with pytest.raises(AssertionError):
        laws.assert_no_units(broken.defect_with_mean, drift, turn, u, three, three)


def test_defects_know_no_units_of_length():
    """The same array in metres and in kilometres: equal per radian, per unit for shifts."""
    u = laws.blobs(PV, GRID, width=0.05)[None]
    results = []
    for unit in (1.0, 1000.0):
        base = fs.Torus((1.0 * unit, 1.2 * unit))
        flow = fs.Bundle(base, "scalar p + vector u")
        drift = fs.simulate.advection(base, (0.7 * unit, -0.4 * unit), 0.1)
        turn = fs.finite_defect(drift, SO2.exp([0.4]), u, flow, flow)
        rate = fs.infinitesimal_defect(drift, ROTATION, u, flow, flow)
        model = fs.infinitesimal_defect(lambda v: v * u, TX, u, flow, flow) * unit
        results.append(torch.cat([turn, rate, model]))
    laws.assert_close(results[0], results[1], 1e-9)
    assert results[0].min() > 0.1


def test_finite_defect_tends_to_the_infinitesimal_one():
    drift = fs.simulate.advection(PLANE, (0.7, -0.4), 0.1)
    u = laws.blobs(PV, GRID, width=0.05)[None]
    t = 1e-4
    finite = fs.finite_defect(drift, SO2.exp([t]), u, PV, PV) / t
    assert finite.item() == pytest.approx(
        fs.infinitesimal_defect(drift, ROTATION, u, PV, PV).item(), rel=1e-3
    )


def test_a_region_serves_generic_angles_alone():
    disk = SQUARE.disk(0.6)
    p = fs.Bundle(SQUARE, "scalar p")
    u = fs.testing.random_section(p, (48, 48))
    heat = fs.simulate.heat_flow(SQUARE, 1e-4)
    quarter, turn = groups.cyclic(4).elements[1], SO2.exp([0.5])
    assert fs.finite_defect(heat, quarter, u, p, p, region=disk) < 1e-14
    assert fs.finite_defect(heat, turn, u, p, p, region=disk) < 1e-5
    skewed = fs.simulate.anisotropic_heat_flow(SQUARE, 1e-3, 3.0)
    assert fs.finite_defect(skewed, turn, u, p, p, region=disk) > 1e-2
    seen = []
    fs.finite_defect(lambda v: seen.append(v) or v, quarter, u, p, p, region=disk)
    assert torch.equal(seen[1], u)  # a quarter turn needs no window


def test_defects_measure_single_precision_models_in_double():
    model = network(fs.Bundle(OBLONG, "scalar p"), fs.Bundle(OBLONG, "scalar p"))
    p = fs.Bundle(OBLONG, "scalar p")
    u = fs.testing.random_section(p, (16, 24), batch=3, dtype=torch.float32)
    defect = fs.finite_defect(model, fs.Element(np.eye(2), [0.125, 0]), u, p, p)
    assert defect.shape == (3,)
    assert defect.dtype == torch.float64
    assert defect.max() < 1e-4


def test_vanishing_outputs_give_zero_over_tiny_not_nan():
    p = fs.Bundle(OBLONG, "scalar p")
    u = torch.randn(2, 1, 8, 12)
    defect = fs.finite_defect(torch.zeros_like, groups.dihedral(1).elements[1], u, p, p)
    assert torch.equal(defect, torch.zeros(2, dtype=torch.float64))


def test_an_open_base_gives_the_derivative_times_the_window(dtype):
    """F(u) = u + x on a box: L = −ξ·x = X_x, which no periodic derivative could see."""
    base = fs.Box((1.0, 1.2), location="node")
    p, disk = fs.Bundle(base, "scalar p"), base.disk(0.4)
    x, y = base.coordinates(GRID, dtype, centred=True)
    u = fs.testing.random_section(p, GRID, dtype=dtype)
    window = disk.window(GRID, dtype) * disk.mask(GRID)
    tol = {torch.float32: 1e-4, torch.float64: 1e-5}[dtype]  # the window is 1e-7 at its edge
    got = fs.lie_derivative(lambda v: v + x, ROTATION, u, p, p, region=disk)
    laws.assert_close(got, (-y * window)[None, None], tol)
    shear = fs.lie_derivative(lambda v: v + x * y, CANDIDATES[2], u, p, p, region=disk)
    laws.assert_close(shear, (y * y * window)[None, None], tol)
