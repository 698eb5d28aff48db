"""Averages over groups and frames: exact for any operator, with the counts they promise."""

import copy
import pickle

import laws
import pytest
import torch
from catalogue import EXACT, OBLONG, SQUARE, groups

import fieldsym as fs
from fieldsym.operators.averaging import Moves

D4, D2, C4 = groups.dihedral(4), groups.dihedral(2), groups.cyclic(4)
TYPES = [
    ("scalar p + vector u", "pseudoscalar w + vector u"),
    ("pseudoscalar w", "scalar p + vector u + symmetric tensor s"),
    ("symmetric tensor s + axial vector b", "vector u"),
]
CUBE = fs.Torus((1.0, 1.0, 1.0))
PLACES = [
    pytest.param(D4, SQUARE, (8, 8), id="D4 even"),
    pytest.param(C4, SQUARE, (9, 9), id="C4 odd"),
    pytest.param(D2, OBLONG, (7, 10), id="D2 oblong"),
    pytest.param(D4, fs.Torus((1.5, 1.5), location="cell"), (8, 8), id="D4 cells"),
    pytest.param(groups.reflections(2), fs.Box((2.0, 3.0), (True, False)), (8, 9), id="channel"),
    pytest.param(groups.dihedral(4, dim=3), CUBE, (4, 4, 3), id="D4 in space"),
]


def anything(channels):
    """Sees where it is, mixes channels, and changes their number."""

    def operator(u):
        out = torch.cat([u * (i + 1) for i in range(channels)], 1)[:, :channels]
        ramp = torch.linspace(0, 1, u.shape[-1], dtype=u.dtype)
        return (
            torch.tanh(out + 0.5 * out**2) * (1 + ramp)
            + 0.4 * out.roll(1, -2)
            - 0.2 * out.flip(1).roll(2, -1)
        )

    return operator


def bundles(base, types):
    return tuple(fs.Bundle(base, text) for text in types)


def shifted_group():
    """Quarter turns and half-box shifts along x: a group with shifts, of order 4 on the torus."""
    half = fs.Element([[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0])
    turn = fs.Element([[-1.0, 0.0], [0.0, -1.0]])
    elements = (turn @ turn, half, turn, half @ turn)
    return fs.Group("half shifts", 2, (), elements[1:], elements)


# The average over the group -----------------------------------------------------------------------


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize(("group", "base", "grid"), PLACES)
def test_group_average_is_exact_and_equals_the_loop(group, base, grid, types, dtype):
    source, target = bundles(base, types)
    operator = anything(target.channels)
    average = fs.frames.GroupAverage(operator, group, source, target)
    laws.assert_equivariant(average, group, source, target, grid, dtype, EXACT[dtype])
    u = laws.noise(source, grid, dtype)
    terms = [fs.act(g, operator(fs.act(g.inverse, u, source)), target) for g in group.elements]
    laws.assert_close(average(u), sum(terms) / group.order, EXACT[dtype])
    with pytest.raises(AssertionError):
        laws.assert_equivariant(operator, group, source, target, grid, dtype, 0.1)


@pytest.mark.parametrize("frames", ["group", "minimal", "all"])
def test_averages_over_the_cube(frames):
    group, grid = groups.octahedral(), (4, 4, 4)
    source, target = bundles(CUBE, TYPES[1])
    operator = anything(target.channels)
    model = (
        fs.frames.GroupAverage(operator, group, source, target)
        if frames == "group"
        else fs.frames.FrameAverage(operator, group, source, target, frames=frames)
    )
    some = fs.Group("some", 3, (), (), group.elements[1::9])
    laws.assert_equivariant(model, some, source, target, grid, torch.float64, 1e-12)


def test_group_average_projects():
    """It leaves equivariant operators alone, and is idempotent."""
    flow = fs.Bundle(SQUARE, "scalar p + vector u")
    heat = fs.simulate.heat_flow(SQUARE, 0.01)
    u = laws.noise(flow, (8, 8))
    laws.assert_close(fs.frames.GroupAverage(heat, D4, flow, flow)(u), heat(u), 1e-14)
    once = fs.frames.GroupAverage(anything(3), D4, flow, flow)
    laws.assert_close(fs.frames.GroupAverage(once, D4, flow, flow)(u), once(u), 1e-14)


def test_group_average_of_a_group_with_shifts():
    group, p = shifted_group(), fs.Bundle(OBLONG, "scalar p")
    average = fs.frames.GroupAverage(anything(1), group, p, p)
    laws.assert_equivariant(average, group, p, p, (8, 10), torch.float64, 1e-13)
    u = laws.without_nyquist(laws.noise(p, (9, 10)), 2)  # half a box is no whole number of cells
    want = fs.act(group.elements[1], average(u), p)
    laws.assert_close(average(fs.act(group.elements[1], u, p)), want, 0.5)
    low = fs.frames.GroupAverage(fs.simulate.heat_flow(OBLONG, 0.01), group, p, p)
    laws.assert_close(low(u), fs.simulate.heat_flow(OBLONG, 0.01)(u), 1e-13)


@pytest.mark.parametrize("inverse", [True, False])
def test_moves_are_the_action(inverse):
    bundle = fs.Bundle(SQUARE, "scalar p + pseudoscalar w + vector u + symmetric tensor s")
    u = laws.noise(bundle, (8, 8))
    for group in (D4, C4):
        moved = Moves(group, bundle, inverse=inverse)(u)
        for m, g in zip(moved, group.elements, strict=True):
            assert torch.equal(m, fs.act(g.inverse if inverse else g, u, bundle))
    shifted = shifted_group()
    wide = fs.Bundle(OBLONG, "scalar p")
    for grid in ((8, 10), (7, 10)):  # whole cells, and half a cell
        u = laws.noise(wide, grid)
        moved = Moves(shifted, wide, inverse=inverse)(u)
        for m, g in zip(moved, shifted.elements, strict=True):
            want = fs.act(g.inverse if inverse else g, u, wide)
            if grid == (7, 10):
                m, want = laws.without_nyquist(m, 2), laws.without_nyquist(want, 2)
            laws.assert_close(m, want, 1e-14)


def broken_averages(source, target):
    """Both moves by g; the fibre forgotten on the way back; one element left out."""
    twice = fs.frames.GroupAverage(anything(target.channels), D4, source, target)
    twice.apart = Moves(D4, source, inverse=False)
    plain = fs.Bundle(target.base, f"{target.channels} scalar")
    points = fs.frames.GroupAverage(anything(target.channels), D4, source, target)
    points.back = Moves(D4, plain, inverse=False)
    some = fs.Group("seven", 2, (), D4.elements[1:7], D4.elements[:7])
    return twice, points, fs.frames.GroupAverage(anything(target.channels), some, source, target)


@pytest.mark.parametrize("which", range(3))
def test_an_average_with_one_mistake_is_none(which):
    source, target = bundles(SQUARE, TYPES[0])
    broken = broken_averages(source, target)[which]
    with pytest.raises(AssertionError, match=r"relative error"):
        laws.assert_equivariant(broken, D4, source, target, (8, 8), torch.float64, 1e-2)


# Frames -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", ["minimal", "all"])
@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize(("group", "base", "grid"), PLACES)
def test_frames_are_exact_for_any_operator(group, base, grid, types, frames, dtype):
    source, target = bundles(base, types)
    average = fs.frames.FrameAverage(
        anything(target.channels), group, source, target, frames=frames
    )
    laws.assert_equivariant(average, group, source, target, grid, dtype, EXACT[dtype])


@pytest.mark.parametrize("types", TYPES)
def test_a_field_without_symmetry_takes_one_evaluation(types):
    source, target = bundles(SQUARE, types)
    calls = []

    def operator(u):
        calls.append(len(u))
        return anything(target.channels)(u)

    u = laws.noise(source, (8, 8), batch=5)
    for frames, count in (("minimal", 5), ("stochastic", 5), ("all", 20)):
        calls.clear()
        fs.frames.FrameAverage(operator, D4, source, target, frames=frames)(u)
        assert calls == [count]
    octahedral = groups.octahedral()
    cube = fs.Bundle(CUBE, "scalar p + vector u")
    for frames, count in (("minimal", 2), ("all", 16)):
        model = fs.frames.FrameAverage(torch.sin, octahedral, cube, cube, frames=frames)
        assert int((model.weights(laws.noise(cube, (4, 4, 4))) > 0).sum()) == count


def test_ties_are_the_elements_that_fix_the_field():
    """cos 2x + cos 2y + …: the frame is a coset of the stabiliser, up to shifts."""
    p, w = fs.Bundle(SQUARE, "scalar p"), fs.Bundle(SQUARE, "pseudoscalar w")
    x, y = (SQUARE.coordinates((12, 12), centred=True)) * 2 * torch.pi / 1.5
    even = torch.cos(x) + torch.cos(y) + 0.5 * torch.cos(x) * torch.cos(y)
    stripes = torch.cos(x) + 0.3 * torch.cos(2 * x)
    slanted = torch.cos(x + y) + 0.3 * torch.cos(2 * x + 2 * y)
    lopsided = torch.cos(x) + 0.3 * torch.sin(2 * x) + torch.cos(y)
    for bundle, field, size in (
        (p, even, 8), (p, stripes, 4), (p, slanted, 4), (p, lopsided, 2),
        (w, even, 4), (w, 0 * even, 8), (p, 0 * even, 8), (w, 1 + 0 * even, 4),
    ):  # fmt: skip
        model = fs.frames.FrameAverage(anything(1), D4, bundle, bundle, frames="minimal")
        for g in D4.elements:
            weights = model.weights(fs.act(g, field[None], bundle))
            assert int((weights > 0).sum()) == size
            assert float(weights.max()) == pytest.approx(1 / size)
        laws.assert_close(
            model(fs.act(D4.elements[5], field[None], bundle) + 0.0),
            fs.act(D4.elements[5], model(field[None]), bundle), 1e-12,
        ) if field.any() else None  # fmt: skip


def test_the_jump_of_a_frame_is_measured():
    """Two fields on either side of a tie differ little; their frames differ by a transposition."""
    p = fs.Bundle(SQUARE, "scalar p")
    x, y = SQUARE.coordinates((12, 12), centred=True) * 2 * torch.pi / 1.5
    rest = 0.3 * torch.sin(2 * x + y) + 0.3 * torch.sin(x + 2 * y) + 0.2 * torch.cos(2 * x - y)
    rest = rest + 0.2 * torch.cos(x - 2 * y)

    def jump(model):
        a, b = (
            ((1 + e) * torch.sin(x) + (1 - e) * torch.cos(y) + rest)[None] for e in (1e-4, -1e-4)
        )
        return laws.relative(model(a) - model(b), model(b))

    assert jump(fs.frames.GroupAverage(anything(1), D4, p, p)) < 1e-3
    for frames in ("minimal", "all"):
        model = fs.frames.FrameAverage(anything(1), D4, p, p, frames=frames)
        assert jump(model) > 0.02


def test_one_random_frame_is_right_in_the_mean():
    source, target = bundles(SQUARE, TYPES[0])
    u = laws.noise(source, (8, 8), batch=1)
    every = fs.frames.FrameAverage(anything(3), D4, source, target, frames="all")
    one = fs.frames.FrameAverage(
        anything(3), D4, source, target, frames="stochastic",
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    draws = one(u.expand(4000, -1, -1, -1))
    kinds = torch.unique(draws.flatten(1).round(decimals=9), dim=0)
    assert len(kinds) == 4
    laws.assert_close(kinds.mean(0).view_as(every(u)), every(u), 1e-8)
    laws.assert_close(draws.mean(0, keepdim=True), every(u), 0.05)
    single = laws.relative(one(u) - every(u), every(u))
    assert single > 0.1


def test_random_frames_repeat_with_their_generator():
    source, target = bundles(SQUARE, TYPES[0])
    u = laws.noise(source, (8, 8), batch=6)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return fs.frames.FrameAverage(
            anything(3), D4, source, target, frames="stochastic", generator=generator
        )(u)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


class FramesFromTheCorner(fs.frames.FrameAverage):
    """Keys that do not move with the field: the first element always wins."""

    def _keys(self, u):
        return torch.arange(self.group.order).expand(len(u), -1)[..., None].to(u)


class FramesWithTransposedMoments(fs.frames.FrameAverage):
    """Moments moved by g instead of g⁻¹: a quarter turn tells."""

    def _keys(self, u):
        keys = super()._keys(u)
        return torch.cat([keys[..., :2], self._third(u, self.points.to(u).mT), keys[..., 2:]], -1)


@pytest.mark.parametrize("broken", [FramesFromTheCorner, FramesWithTransposedMoments])
def test_frames_that_do_not_move_with_the_field_are_none(broken):
    source, target = bundles(SQUARE, TYPES[0])
    model = broken(anything(target.channels), D4, source, target, frames="minimal")
    with pytest.raises(AssertionError, match="relative error"):
        laws.assert_equivariant(model, D4, source, target, (8, 8), torch.float64, 1e-2)


def test_translations_of_the_operator_are_kept():
    flow = fs.Bundle(SQUARE, "scalar p + vector u")

    def operator(u):
        return torch.tanh(u) + 0.4 * u.roll(1, -2) - 0.2 * u.flip(1).roll(2, -1)

    for frames in ("minimal", "all"):
        model = fs.frames.FrameAverage(operator, D4, flow, flow, frames=frames)
        laws.assert_translates(model, flow, (8, 8), torch.float64, 1e-13)


# torch, copies, errors ----------------------------------------------------------------------------


def wrappers():
    flow = fs.Bundle(SQUARE, "scalar p + vector u")
    model = fs.FNO(flow, flow, n_modes=3, hidden_channels=4, n_layers=1).double()
    return [
        fs.frames.GroupAverage(model, D4, flow, flow),
        fs.frames.FrameAverage(model, D4, flow, flow, frames="minimal"),
        fs.frames.FrameAverage(model, D4, flow, flow, frames="all"),
        fs.frames.FrameAverage(model, D4, flow, flow, frames="stochastic"),
    ]


@pytest.mark.parametrize("which", range(4))
def test_transforms_of_torch(which):
    model = wrappers()[which]
    u, v = (laws.noise(model.in_bundle, (8, 8)) for _ in range(2))

    def call(u):
        torch.manual_seed(0)
        return model(u)

    value, pushed = torch.func.jvp(call, (u,), (v,))
    laws.assert_close(pushed, (call(u + 1e-5 * v) - call(u - 1e-5 * v)) / 2e-5, 1e-7)
    laws.assert_close(call(u.view(1, 2, 3, 8, 8))[0], value, 1e-14)
    value.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.manual_seed(0)
        assert torch.equal(twin(u), value)
    assert set(model.state_dict()) == {
        f"operator.{n}" for n, _ in model.operator.named_parameters()
    }


def test_the_average_compiles_into_one_graph_and_maps_over_batches():
    flow = fs.Bundle(SQUARE, "scalar p + vector u")
    model = fs.frames.GroupAverage(anything(3), C4, flow, flow)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    u = laws.noise(flow, (8, 8), torch.float32)
    assert torch.allclose(compiled(u), model(u), atol=1e-6)
    torch.compiler.reset()
    laws.assert_close(torch.vmap(model)(u), model(u), 1e-6)
    laws.assert_close(model(u[0]), model(u)[0], 1e-6)


def test_one_random_frame_compiles():
    flow = fs.Bundle(SQUARE, "scalar p + vector u")
    model = fs.frames.FrameAverage(anything(3), C4, flow, flow, frames="stochastic")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    u = laws.noise(flow, (8, 8), torch.float32)
    terms = torch.stack([
        fs.act(g, anything(3)(fs.act(g.inverse, u, flow)), flow) for g in C4.elements
    ])  # fmt: skip
    miss = (compiled(u) - terms).flatten(2).norm(dim=-1).amin(0)
    assert float(miss.max()) < 1e-4
    torch.compiler.reset()


@pytest.mark.parametrize("frames", ["minimal", "all"])
def test_exact_frames_compile_and_export(frames):
    """One graph for any number of samples and any even grid, with the values of the few terms."""
    flow, d4 = fs.Bundle(SQUARE, "scalar p + symmetric tensor s"), fs.groups.dihedral(4)
    net = torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
    net = torch.nn.Sequential(net, torch.nn.Tanh())
    model, fresh = (
        fs.frames.FrameAverage(net, d4, flow, flow, frames=frames) for _ in range(2)
    )  # fmt: skip
    u = laws.noise(flow, (12, 12), torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    laws.assert_close(compiled(u), model(u), 1e-6)
    torch.compiler.reset()
    batch, half = (torch.export.Dim(name, min=3, max=64) for name in ("batch", "half"))
    sizes = {"u": {0: batch, 2: 2 * half, 3: 2 * half}}
    samples = torch.cat([u, u])
    graph = torch.export.export(fresh, (samples,), dynamic_shapes=sizes, strict=False).module()
    other = torch.cat([laws.noise(flow, (16, 16), torch.float32)] * 3)
    other[0, 0], other[0, 1:] = 1.0, 0.0  # a field with every symmetry: all terms count
    laws.assert_close(graph(other), fresh(other), 1e-6)
    with pytest.raises(AssertionError):
        laws.assert_close(graph(other), fs.frames.GroupAverage(net, d4, flow, flow)(other), 1e-6)


def test_a_neuraloperator_model_is_averaged():
    models = pytest.importorskip("neuralop.models")
    plain = models.FNO(n_modes=(4, 4), in_channels=3, out_channels=3, hidden_channels=8, n_layers=2)
    flow = fs.Bundle(SQUARE, "scalar p + vector u")
    average = fs.frames.GroupAverage(plain, D4, flow, flow)
    frame = fs.frames.FrameAverage(plain, D4, flow, flow, frames="minimal")
    for model in (average, frame):
        laws.assert_equivariant(model, D4, flow, flow, (12, 12), torch.float32, 1e-5)
    with pytest.raises(AssertionError, match="relative error"):
        laws.assert_equivariant(plain, D4, flow, flow, (12, 12), torch.float32, 0.1)


P, W = fs.Bundle(SQUARE, "scalar p"), fs.Bundle(OBLONG, "scalar p")


@pytest.mark.parametrize(
    ("error", "match", "make"),
    [
        (fs.GroupError, r"Averages run over a finite group; so\(2\) has 1 continuous",
         lambda: fs.frames.GroupAverage(torch.sin, groups.so(2), P, P)),
        (fs.GroupError, r"GroupAverage needs a Group.* got 'dihedral\(4\)'",
         lambda: fs.frames.GroupAverage(torch.sin, "dihedral(4)", P, P)),
        (fs.GroupError, r"FrameAverage needs a Group.* got 'dihedral\(4\)'",
         lambda: fs.frames.FrameAverage(torch.sin, "dihedral(4)", P, P, frames="all")),
        (fs.BundleError, r"FrameAverage needs a Bundle.* got 'scalar p'",
         lambda: fs.frames.FrameAverage(torch.sin, D4, P, "scalar p", frames="all")),
        (fs.BundleError, r"GroupAverage needs an operator .* got 3",
         lambda: fs.frames.GroupAverage(3, D4, P, P)),
        (fs.BundleError, r"FrameAverage needs an operator .* got 3",
         lambda: fs.frames.FrameAverage(3, D4, P, P, frames="all")),
        (fs.GroupError, r"dihedral\(4\) does not act on Torus\(2, 3\).*is dihedral\(2\)",
         lambda: fs.frames.GroupAverage(torch.sin, D4, W, W)),
        (fs.GroupError, r"dihedral\(4\) does not act on .* 8 × 10 points",
         lambda: fs.frames.GroupAverage(torch.sin, D4, P, P)(torch.zeros(1, 1, 8, 10))),
        (fs.BundleError, r"An average needs one base; got Torus\(1.5, 1.5\) and Torus\(2, 3\)",
         lambda: fs.frames.GroupAverage(torch.sin, D2, P, W)),
        (fs.BundleError, r"GroupAverage expects sections",
         lambda: fs.frames.GroupAverage(torch.sin, D4, P, P)(torch.zeros(1, 2, 8, 8))),
        (fs.BundleError, r"The output of GroupAverage expects sections",
         lambda: fs.frames.GroupAverage(lambda u: u[:, :0], D4, P, P)(torch.zeros(1, 1, 8, 8))),
        (fs.GroupError, r"frames is one of 'stochastic', 'minimal', 'all'; got 'some'",
         lambda: fs.frames.FrameAverage(torch.sin, D4, P, P, frames="some")),
        (fs.BundleError, r"FrameAverage expects sections",
         lambda: fs.frames.FrameAverage(torch.sin, D4, P, P, frames="all")(
             torch.zeros(1, 2, 8, 8))),
        (fs.BundleError, r"The output of FrameAverage expects sections",
         lambda: fs.frames.FrameAverage(lambda u: u[:, :0], D4, P, P, frames="all")(
             torch.zeros(1, 1, 8, 8))),
    ],
)  # fmt: skip
def test_errors(error, match, make):
    with pytest.raises(error, match=match):
        make()


def test_repr_says_what_it_is():
    assert "dihedral(4), frames='all'" in repr(
        fs.frames.FrameAverage(torch.sin, D4, P, P, frames="all")
    )
    assert "dihedral(4), Bundle(" in repr(fs.frames.GroupAverage(torch.sin, D4, P, P))
