"""Learned collisions, trained: accuracy, and what stays exact in a rollout."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import broken
import laws
import pytest
import torch
from catalogue import EXACT, groups
from test_lattice import CONSERVED, assert_equivariant, drift, populations
from torch.nn import functional

import fieldsym as fs
from fieldsym.lattice_velocities import velocity_set

D4, CUBE = groups.dihedral(4), groups.octahedral()
PLANE = fs.Bundle(fs.Torus((1.0, 1.0)), "d2q9 populations f")
BLOCK = fs.Bundle(fs.Torus((1.0, 1.0, 1.0)), "d3q19 populations f")
STEPS = 100
TAU = 0.6


def states(bundle, samples, seed):
    """Populations of slow flow: 3 % from the equilibrium of |u| ≈ 0.1 and ρ ≈ 1."""
    stream = torch.Generator().manual_seed(seed)
    dim, shape = bundle.base.dim, (samples, *[1] * (bundle.base.dim - 1))
    density = 0.95 + 0.1 * torch.rand(1, *shape, generator=stream, dtype=torch.float64)
    u = torch.randn(dim, *shape, generator=stream, dtype=torch.float64) * 0.08 / math.sqrt(dim)
    f = fs.simulate.lattice_equilibrium(bundle, density, u)
    return (f + 0.03 * f * torch.randn(f.shape, generator=stream, dtype=torch.float64))[None]


def trained(make, reference, bundle, iterations=300, **options):
    """Fitted to 500 single points by L-BFGS."""
    torch.manual_seed(0)
    model = make(bundle, **options).double()
    f = states(bundle, 500, seed=0)
    target = reference(f) - f
    weights = velocity_set(bundle).weights(f).view(-1, *[1] * bundle.base.dim)
    size = (target / weights).square().mean()
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=iterations, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=0, tolerance_change=0,
    )  # fmt: skip

    def loss():
        optimiser.zero_grad()
        value = ((model(f) - f - target) / weights).square().mean() / size
        value.backward()
        return value

    optimiser.step(loss)
    return model.requires_grad_(False)


@dataclass(frozen=True)
class Task:
    """A collision to learn, by which network, and how well: of one collision, of a rollout."""

    reference: type
    bundle: fs.Bundle
    group: fs.Group
    width: int
    non_linearity: Callable
    error: float
    drift: float

    @property
    def collision(self):
        return self.reference(self.bundle, TAU)

    @property
    def options(self):
        return {
            "group": self.group,
            "hidden_channels": self.width,
            "non_linearity": self.non_linearity,
        }


BGK, TRT = fs.simulate.BGK, fs.simulate.TRT
# with squares the network contains these collisions exactly: they are quadratic in f / ρ
TASKS = {
    "BGK D2Q9": Task(BGK, PLANE, D4, 16, functional.gelu, 0.03, 0.06),
    "TRT D2Q9": Task(TRT, PLANE, D4, 16, torch.square, 0.01, 0.02),
    "BGK D3Q19": Task(BGK, BLOCK, CUBE, 48, torch.square, 0.03, 0.1),
}


@functools.cache
def surrogate(name):
    """The trained collision of a task."""
    task = TASKS[name]
    return trained(fs.LatticeCollision, task.collision, task.bundle, **task.options)


def rollout(bundle, collision, f):
    return fs.simulate.LatticeBoltzmann(bundle, collision, steps=STEPS)(f)


def vortices(bundle):
    grid = (24, 24) if bundle.base.dim == 2 else (10, 10, 10)
    return fs.simulate.lattice_taylor_green(bundle, grid, speed=0.05)[None]


def error_of_collision(model, reference, bundle):
    """On points that were not trained on, relative to the change by the collision."""
    f = states(bundle, 2000, seed=1)
    return laws.relative(model(f) - reference(f), reference(f) - f)


@pytest.mark.parametrize("name", TASKS)
def test_a_trained_collision_is_close_symmetric_and_conservative(name):
    task, model = TASKS[name], surrogate(name)
    bundle, grid = task.bundle, (5,) * task.bundle.base.dim
    assert error_of_collision(model, task.collision, bundle) < task.error
    for dtype in (torch.float32, torch.float64):
        cast = fs.LatticeCollision(bundle, **task.options).to(dtype).requires_grad_(False)
        cast.load_state_dict(model.state_dict())
        f = populations(bundle, grid, dtype)
        assert drift(bundle, f, cast(f)) <= CONSERVED[dtype]
        assert_equivariant(cast, bundle, task.group, grid, dtype, EXACT[dtype])


@pytest.mark.parametrize("name", TASKS)
def test_a_rollout_stays_close_to_the_reference(name):
    task, model = TASKS[name], surrogate(name)
    bundle, f = task.bundle, vortices(task.bundle)
    after, want = rollout(bundle, model, f), rollout(bundle, task.collision, f)
    laws.assert_close(after, want, 3e-3)
    start, got, exact = (fs.simulate.macroscopic(g, bundle)[1] for g in (f, after, want))
    laws.assert_close(got, exact, task.drift)
    assert laws.relative(exact, start) < 0.7  # the flow has decayed meanwhile
    assert (total(after, bundle) - total(f, bundle)).abs().max() < 1e-14
    g = task.group.elements[3]
    laws.assert_close(rollout(bundle, model, fs.act(g, f, bundle)), fs.act(g, after, bundle), 1e-13)


def total(f, bundle):
    """Mean density and momentum per cell."""
    return f.flatten(2).mean(2) @ velocity_set(bundle).conserved.mT


@functools.cache
def rollouts():
    """The same network with and without the symmetry and the conservation, equally trained."""
    bgk, f = BGK(PLANE, TAU), vortices(PLANE)
    makes = {
        "both": (fs.LatticeCollision, D4),
        "symmetry": (broken.collision_without_conservation, D4),
        "conservation": (fs.LatticeCollision, None),
        "neither": (broken.collision_without_conservation, None),
    }
    models = {
        name: trained(make, bgk, PLANE, group=group, hidden_channels=16)
        for name, (make, group) in makes.items()
    }
    return models, {name: rollout(PLANE, model, f) for name, model in models.items()}


def assert_conserves(name):
    _, after = rollouts()
    assert (total(after[name], PLANE) - total(vortices(PLANE), PLANE)).abs().max() < 1e-14


def assert_symmetric(name):
    models, after = rollouts()
    f = vortices(PLANE)
    for g in D4.elements:
        moved = rollout(PLANE, models[name], fs.act(g, f, PLANE))
        laws.assert_close(moved, fs.act(g, after[name], PLANE), 1e-13)


@pytest.mark.parametrize("name", ["symmetry", "neither"])
def test_without_conservation_the_mass_drifts(name):
    assert_conserves("both")
    assert_conserves("conservation")
    with pytest.raises(AssertionError):
        assert_conserves(name)
    _, after = rollouts()
    assert (total(after[name], PLANE) - total(vortices(PLANE), PLANE)).abs().max() > 1e-5


@pytest.mark.parametrize("name", ["conservation", "neither"])
def test_without_symmetry_the_images_drift_apart(name):
    assert_symmetric("both")
    assert_symmetric("symmetry")
    with pytest.raises(AssertionError):
        assert_symmetric(name)


def test_the_symmetric_network_is_the_more_accurate():
    """With a seventh of the parameters and equal training."""
    _, after = rollouts()
    want = rollout(PLANE, BGK(PLANE, TAU), vortices(PLANE))
    errors = {name: laws.relative(f - want, want) for name, f in after.items()}
    assert errors["conservation"] > 1.5 * errors["both"]
    assert errors["neither"] > 3 * errors["both"]
