"""Lattice-Boltzmann flow: viscosity, closed forms, conservation, symmetry, errors."""

import math
import re

import broken
import laws
import numpy as np
import pytest
import torch
from catalogue import EXACT, groups
from test_lattice import drift, populations

import fieldsym as fs
from fieldsym.lattice_velocities import moments, velocity_set
from fieldsym.simulate.lattice_boltzmann import stream

D4, CUBE = groups.dihedral(4), groups.octahedral()
PLANE = fs.Bundle(fs.Torus((2.0, 3.0)), "d2q9 populations f")
SLAB = fs.Bundle(fs.Torus((1.0, 1.5, 0.25)), "d3q19 populations f")
SQUARE = fs.Bundle(fs.Torus((1.0, 1.0)), "d2q9 populations f")
CELLS = fs.Bundle(fs.Torus((1.0, 1.0), location="cell"), "d2q9 populations f")
BLOCK = fs.Bundle(fs.Torus((1.0, 1.0, 1.0)), "d3q19 populations f")
COLLISIONS = pytest.mark.parametrize("collision", [fs.simulate.BGK, fs.simulate.TRT])
SIMULATED = pytest.mark.parametrize(
    ("bundle", "grid"), [(PLANE, (16, 24)), (SLAB, (16, 24, 4))], ids=["D2Q9", "D3Q19"]
)


def run(bundle, collision, f, steps):
    return fs.simulate.LatticeBoltzmann(bundle, collision, steps=steps)(f)


def velocity(f, bundle):
    return fs.simulate.macroscopic(f, bundle)[1]


# Viscosity and closed forms -----------------------------------------------------------------------


def viscosity_of_a_shear_wave(bundle, collision, grid, steps):
    """From the decay between a half and three halves of the steps."""
    f = fs.simulate.lattice_shear_wave(bundle, grid, speed=0.02)
    first = run(bundle, collision, f, steps // 2)
    sizes = [
        float(velocity(g, bundle).norm()) for g in (first, run(bundle, collision, first, steps))
    ]
    return math.log(sizes[0] / sizes[1]) / steps / (2 * math.pi / grid[1]) ** 2


@SIMULATED
@COLLISIONS
@pytest.mark.parametrize("tau", [0.6, 0.8, 1.2])
def test_shear_waves_decay_with_the_viscosity(bundle, grid, collision, tau):
    nu = fs.simulate.lattice_viscosity(tau)
    assert nu == pytest.approx((tau - 0.5) / 3)
    assert collision(bundle, tau).viscosity == nu
    measured = viscosity_of_a_shear_wave(bundle, collision(bundle, tau), grid, 60)
    assert measured == pytest.approx(nu, rel=0.01)
    assert measured != pytest.approx(tau / 3, rel=0.1)  # without the −1/2 of the lattice


@COLLISIONS
def test_the_viscosity_converges_with_second_order(collision):
    errors = [
        abs(viscosity_of_a_shear_wave(PLANE, collision(PLANE, 0.6), grid, steps) / (0.1 / 3) - 1)
        for grid, steps in (((16, 24), 60), ((32, 48), 240))
    ]
    assert errors[1] < 0.0015
    assert 3.5 < errors[0] / errors[1] < 4.5


def taylor_green_error(bundle, collision, grid, time=0.5):
    """After a decay by exp(−time), relative to the exact velocity."""
    rate = collision.viscosity * ((2 * math.pi / grid[0]) ** 2 + (2 * math.pi / grid[1]) ** 2)
    steps = round(time / rate)
    f = fs.simulate.lattice_taylor_green(bundle, grid, speed=0.02)
    exact = velocity(f, bundle) * math.exp(-rate * steps)
    return laws.relative(velocity(run(bundle, collision, f, steps), bundle) - exact, exact)


@COLLISIONS
@pytest.mark.parametrize("tau", [0.6, 0.8])
def test_taylor_green_vortices_decay_at_their_rate(collision, tau):
    coarse, fine = (
        taylor_green_error(PLANE, collision(PLANE, tau), grid) for grid in ((16, 24), (32, 48))
    )
    assert coarse < 0.02
    assert fine < 0.005
    assert taylor_green_error(SLAB, collision(SLAB, tau), (16, 24, 4)) == pytest.approx(coarse)


def test_initial_states_in_closed_form():
    x, y = PLANE.base.coordinates((16, 24))
    f = fs.simulate.lattice_shear_wave(PLANE, (16, 24), speed=0.03)
    density, u = fs.simulate.macroscopic(f, PLANE)
    assert (density - 1).abs().max() < 1e-14
    assert (u[0] - 0.03 * torch.sin(2 * math.pi * y / 3.0)).abs().max() < 1e-16
    assert u[1].abs().max() < 1e-16
    f = fs.simulate.lattice_taylor_green(PLANE, (16, 24), speed=0.03)
    density, u = fs.simulate.macroscopic(f, PLANE)
    h, psi = 1 / 8, torch.cos(math.pi * x) * torch.cos(2 * math.pi / 3 * y)
    size = 0.03 / (math.pi * h)
    slope = PLANE.base.gradient(size * psi) * h  # per cell
    assert torch.allclose(u, torch.stack([slope[1], -slope[0]]), atol=1e-15)
    # −∇p = (u·∇)u, spectrally
    pressure = PLANE.base.gradient(density[0] / 3)
    inertia = torch.einsum("i...,ji...->j...", u, PLANE.base.gradient(u))
    assert torch.allclose(pressure, -inertia, atol=1e-14)
    for make in (fs.simulate.lattice_shear_wave, fs.simulate.lattice_taylor_green):
        assert make(PLANE, (16, 24), dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("bundle", [PLANE, SLAB], ids=["D2Q9", "D3Q19"])
def test_moments_of_the_equilibrium(bundle):
    """Density ρ, momentum ρu, momentum flux ρ(u u + 1/3): exactly."""
    dim, lattice = bundle.base.dim, velocity_set(bundle)
    density = 1 + 0.2 * torch.rand(1, *(3, 4, 5)[:dim], dtype=torch.float64)
    u = 0.2 * torch.randn(dim, *(3, 4, 5)[:dim], dtype=torch.float64)

    def check(equilibrium):
        f = equilibrium(bundle, density, u)
        wanted = density * torch.cat([torch.ones_like(density), u])
        assert torch.allclose(moments(f, lattice.conserved, dim), wanted, atol=1e-14)
        flux = density * (u[:, None] * u + torch.eye(dim).view(dim, dim, *[1] * dim) / 3)
        pairs = [(a, a) for a in range(dim)] + [
            (a, b) for a in range(dim) for b in range(a + 1, dim)
        ]
        stress = moments(f, lattice.stress, dim)
        assert torch.allclose(stress, torch.stack([flux[a, b] for a, b in pairs]), atol=1e-14)

    check(fs.simulate.lattice_equilibrium)
    with pytest.raises(AssertionError):
        check(broken.equilibrium_without_energy)


def test_one_step_against_the_textbook_loop():
    """f_i(x + c_i, t + 1) = f_i − (f_i − f_eq,i) / τ, point by point."""
    f = populations(PLANE, (4, 6), batch=1)[0]
    got = run(PLANE, fs.simulate.BGK(PLANE, 0.7), f, 1)
    want = torch.zeros_like(f)
    w = [4 / 9] + 4 * [1 / 9] + 4 * [1 / 36]
    c = velocity_set(PLANE).velocities
    for x, y in np.ndindex(4, 6):
        here = f[:, x, y].numpy()
        rho, u = here.sum(), c.T @ here / here.sum()
        for i in range(9):
            s = 3 * c[i] @ u
            equilibrium = w[i] * rho * (1 + s + s**2 / 2 - 1.5 * u @ u)
            want[i, (x + c[i, 0]) % 4, (y + c[i, 1]) % 6] = here[i] - (here[i] - equilibrium) / 0.7
    assert torch.allclose(got, want, atol=1e-15)


def test_relaxation_times_of_the_even_and_odd_parts():
    trt = fs.simulate.TRT(PLANE, 0.8, magic=0.25)
    assert trt.odd_tau == pytest.approx(0.5 + 0.25 / 0.3)
    f = populations(PLANE, (4, 6))
    excess = f - fs.simulate.lattice_equilibrium(PLANE, *fs.simulate.macroscopic(f, PLANE))
    opposite = [0, 3, 4, 1, 2, 7, 8, 5, 6]
    change = f - trt(f)
    even, odd = excess + excess[:, opposite], excess - excess[:, opposite]
    assert torch.allclose(change + change[:, opposite], even / 0.8, atol=1e-15)
    assert torch.allclose(change - change[:, opposite], odd / trt.odd_tau, atol=1e-15)


# Conservation and symmetry ------------------------------------------------------------------------


@SIMULATED
@COLLISIONS
def test_density_and_momentum_are_conserved(bundle, grid, collision, dtype):
    f, flow = populations(bundle, grid, dtype), collision(bundle, 0.8)
    assert drift(bundle, f, flow(f)) < {torch.float32: 1e-6, torch.float64: 1e-15}[dtype]
    after = run(bundle, flow, f, 20)
    assert after.dtype == dtype
    rows, axes = velocity_set(bundle).conserved, tuple(range(2, f.ndim))
    totals = [g.double().sum(axes) @ rows.mT for g in (f, after)]
    assert (totals[1] - totals[0]).abs().max() < 20 * torch.finfo(dtype).eps * totals[0].max()


@pytest.mark.parametrize(
    ("bundle", "group", "grid"),
    [(SQUARE, D4, (7, 7)), (CELLS, D4, (6, 6)), (BLOCK, CUBE, (4, 4, 4))],
    ids=["D2Q9", "D2Q9 cells", "D3Q19"],
)
def test_the_flow_commutes_with_the_group_and_with_shifts(bundle, group, grid, dtype):
    f = populations(bundle, grid, dtype)
    for collision in (fs.simulate.BGK(bundle, 0.7), fs.simulate.TRT(bundle, 0.7)):
        flow = fs.simulate.LatticeBoltzmann(bundle, collision, steps=5)
        fs.testing.assert_equivariant(flow, group, bundle, bundle, grid, u=f, tol=10 * EXACT[dtype])


def assert_streaming_commutes(move, bundle, group, grid):
    """To the last bit."""
    f = populations(bundle, grid)
    for g in group.elements:
        assert torch.equal(
            move(fs.act(g, f, bundle), bundle), fs.act(g, move(f, bundle), bundle)
        ), g.name


def test_streaming_commutes_to_the_last_bit():
    for bundle, group, grid in ((SQUARE, D4, (7, 7)), (CELLS, D4, (6, 6)), (BLOCK, CUBE, (4,) * 3)):
        assert_streaming_commutes(stream, bundle, group, grid)
    with pytest.raises(AssertionError, match="rotation 90°"):
        assert_streaming_commutes(broken.stream_along_swapped_axes, SQUARE, D4, (7, 7))


@SIMULATED
def test_streaming_carries_each_population_along_its_velocity(bundle, grid):
    c = velocity_set(bundle).velocities
    f = torch.zeros(len(c), *grid)
    f[(slice(None), *(1,) * len(grid))] = torch.arange(1.0, len(c) + 1)
    moved = stream(f, bundle)
    for i, v in enumerate(c.tolist()):
        assert moved[(i, *(1 + s for s in v))] == i + 1
    assert torch.equal(moved.sort(1).values.sum(), f.sum())


def test_steps_compose_and_batches_do_not_mix():
    f = populations(PLANE, (8, 12), batch=3)
    flow = fs.simulate.lattice_boltzmann(PLANE.base, tau=0.8, steps=3)
    assert torch.equal(run(PLANE, flow.collision, f, 6), flow(flow(f)))
    assert torch.allclose(flow(f)[1], flow(f[1]), atol=1e-15)
    assert (flow.in_bundle, flow.out_bundle) == (PLANE, PLANE)
    space = fs.simulate.lattice_boltzmann(SLAB.base, tau=0.8)
    assert str(space.in_bundle.representation) == "d3q19 populations f"
    assert "D3Q19, tau=0.8" in repr(space)


def test_transforms_of_torch():
    f = populations(SQUARE, (4, 4), batch=2)
    for collision in (fs.simulate.BGK(SQUARE, 0.7), fs.simulate.TRT(SQUARE, 0.7)):
        flow = fs.simulate.LatticeBoltzmann(SQUARE, collision, steps=2)
        v = torch.randn_like(f)
        slope = (flow(f + 1e-6 * v) - flow(f - 1e-6 * v)) / 2e-6
        laws.assert_close(torch.func.jvp(flow, (f,), (v,))[1], slope, 1e-7)
        assert torch.allclose(torch.vmap(flow)(f), flow(f), atol=1e-15)
        compiled = torch.compile(flow, fullgraph=True, backend="eager")
        assert torch.allclose(compiled(f), flow(f), atol=1e-15)
    torch.compiler.reset()


def test_nothing_stays_on_another_device():
    f = populations(SQUARE, (4, 4)).to("meta")
    model = fs.LatticeCollision(SQUARE, group=D4, hidden_channels=8).double().to("meta")
    for collision in (fs.simulate.BGK(SQUARE, 0.7), fs.simulate.TRT(SQUARE, 0.7).to("meta"), model):
        after = run(SQUARE, collision, f, 2)
        assert (after.device.type, after.shape) == ("meta", f.shape)


# Errors -------------------------------------------------------------------------------------------

WALLS = fs.Bundle(fs.Box((1.0, 1.0), periodic=(True, False)), "d2q9 populations f")
BGK = fs.simulate.BGK(SQUARE, 0.8)
ERRORS = {
    "tau": (
        lambda: fs.simulate.BGK(SQUARE, 0.5), fs.DataError,
        "A relaxation time is finite and larger than 1/2; got tau=0.5. The viscosity (tau − 1/2) "
        "/ 3 must be positive."),
    "tau of two rates": (lambda: fs.simulate.TRT(SQUARE, -1.0), fs.DataError, "got tau=-1.0"),
    "tau of nothing": (
        lambda: fs.simulate.lattice_viscosity(math.nan), fs.DataError, "got tau=nan"),
    "tau of a flow": (
        lambda: fs.simulate.lattice_boltzmann(SQUARE.base, tau=0.3), fs.DataError, "got tau=0.3"),
    "magic": (
        lambda: fs.simulate.TRT(SQUARE, 0.8, magic=0.0), fs.DataError,
        "TRT needs a finite magic parameter > 0; got 0.0. Try 0.25."),
    "line": (
        lambda: fs.simulate.lattice_boltzmann(fs.Torus((1.0,)), tau=0.8), fs.GridError,
        "Lattice-Boltzmann flow needs a base of 2 or 3 axes; got Torus(1), which has 1."),
    "walls": (
        lambda: fs.simulate.LatticeBoltzmann(WALLS, BGK), fs.GridError,
        "Lattice-Boltzmann flow streams around a torus; got Box("),
    "no steps": (
        lambda: fs.simulate.LatticeBoltzmann(SQUARE, BGK, steps=0), fs.DataError,
        "needs steps ≥ 1; got 0"),
    "cells": (
        lambda: run(SQUARE, BGK, torch.ones(9, 8, 12), 1), fs.GridError,
        "needs cells with equal sides; Torus(1, 1) with 8 × 12 points has sides 0.125, 0.08333. "
        "Choose numbers of points in proportion to the lengths."),
    "cells of a state": (
        lambda: fs.simulate.lattice_taylor_green(PLANE, (8, 8)), fs.GridError, "equal sides"),
    "number of populations": (
        lambda: run(SQUARE, BGK, torch.ones(8, 8, 8), 1), fs.BundleError,
        "LatticeBoltzmann expects sections of 'd2q9 populations f'"),
    "number of populations of a collision": (
        lambda: BGK(torch.ones(8, 8, 8)), fs.BundleError, "BGK expects sections of"),
    "number of populations of a stream": (
        lambda: stream(torch.ones(8, 8, 8), SQUARE), fs.BundleError, "stream expects sections of"),
    "number of populations of moments": (
        lambda: fs.simulate.macroscopic(torch.ones(8, 8, 8), SQUARE), fs.BundleError,
        "macroscopic expects sections of"),
    "velocity in the plane": (
        lambda: fs.simulate.lattice_equilibrium(SQUARE, torch.ones(1, 4, 4), torch.ones(3, 4, 4)),
        fs.BundleError, "The equilibrium needs a density (*batch, 1, *grid) and a velocity "
        "(*batch, 2, *grid); got (1, 4, 4) and (3, 4, 4)."),
    "no populations": (
        lambda: fs.simulate.BGK(fs.Bundle(SQUARE.base, "vector u"), 0.8), fs.BundleError,
        "Expected the populations of one lattice"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_error(case):
    action, kind, message = ERRORS[case]
    with pytest.raises(kind, match=re.escape(message)) as caught:
        action()
    assert "\n" not in str(caught.value)
    assert "  " not in str(caught.value)
