"""Moving frames: exact boosts and shifts for any operator, and the mistakes that break them."""

import copy
import math
import pickle
from unittest.mock import patch

import laws
import pytest
import torch
from catalogue import OBLONG, SQUARE, groups

import fieldsym as fs
from fieldsym.operators import galilean, translation
from fieldsym.operators.shift import shift

FLOW = fs.Bundle(OBLONG, "scalar p + vector u")
SQUARE_FLOW = fs.Bundle(SQUARE, "scalar p + vector u")
LINE = fs.Bundle(fs.Torus((2.0,)), "vector u")
GRIDS = [(16, 24), (15, 21), (16, 21)]
TOL = {torch.float32: 2e-6, torch.float64: 1e-14}
EXACT = {torch.float32: 1e-5, torch.float64: 1e-13}
WIND = (0.7, -1.3)


def constant(v, bundle, dtype):
    """The section that is v in every copy of the velocity and zero elsewhere."""
    parts = [
        torch.tensor(v if name.startswith("u") else [0.0] * block.size, dtype=dtype)
        for name, block in zip(bundle.names, bundle.blocks, strict=True)
    ]
    return torch.cat(parts).view(-1, *[1] * bundle.base.dim)


def network(bundle, out_bundle=None, group=None, **options):
    options = {"n_modes": 5, "hidden_channels": 8, "n_layers": 2} | options
    return fs.FNO(bundle, out_bundle or bundle, group=group, **options)


def rough(u):
    """Knows where it is on the grid, and mixes channels."""
    ramp = torch.linspace(0, 1, u.shape[-1], dtype=u.dtype)
    return torch.tanh(u) * (1 + ramp) + 0.3 * u.flip(-3).roll(1, -1)


def by_shift(a):
    return fs.Element([[1.0, 0.0], [0.0, 1.0]], [float(c) for c in a])


def moved(u, by, base):
    return shift(u, torch.tensor(by, dtype=torch.float64), base)


def boost_error(step, bundle, grid, dtype, *, interval, history=(0.0,), white=True):
    """Relative error of N(boosted u) against the boosted N(u), on white noise or on few modes."""
    torch.manual_seed(1)
    make = laws.noise if white else fs.testing.random_section
    u = [make(bundle, grid, dtype=dtype, batch=3) for _ in history]
    v = WIND[: bundle.base.dim]
    wind = constant(v, bundle, dtype)
    still = torch.cat(u, 1)
    blown = torch.cat(
        [moved(part, [c * t for c in v], bundle.base) + wind
         for part, t in zip(u, history, strict=True)], 1,
    )  # fmt: skip
    with torch.no_grad():
        want = moved(step(still), [c * interval for c in v], bundle.base) + wind
        return laws.relative(step(blown) - want, want)


# Shifts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
def test_shift_matches_the_closed_form_and_is_a_group_action(grid, dtype):
    x, y = OBLONG.coordinates(grid)

    def wave(a, b):
        return torch.cos(2 * torch.pi * (x - a)) * torch.sin(4 * torch.pi / 3 * (y - b))

    got = moved(wave(0, 0)[None].to(dtype), [0.31, -0.77], OBLONG)
    laws.assert_close(got, wave(0.31, -0.77)[None].to(dtype), TOL[dtype])
    u = laws.noise(FLOW, grid, dtype)
    twice = moved(moved(u, [0.3, 0.1], OBLONG), [0.04, -0.5], OBLONG)
    laws.assert_close(twice, moved(u, [0.34, -0.4], OBLONG), TOL[dtype])


def test_each_sample_moves_by_its_own_distance_and_like_act():
    u = laws.without_nyquist(laws.noise(FLOW, (16, 24), batch=3), 2)
    by = torch.tensor([[0.3, 0.0], [-1.03, 2.2], [0.125, 0.25]], dtype=torch.float64)
    want = [fs.act(by_shift(a), one, FLOW) for a, one in zip(by, u, strict=True)]
    laws.assert_close(shift(u, by, OBLONG), torch.stack(want), 1e-14)
    white = laws.noise(FLOW, (16, 24), batch=3)
    want = [fs.act(by_shift(a), one, FLOW) for a, one in zip(by[:2], white[:2], strict=True)]
    laws.assert_close(shift(white[:2], by[:2], OBLONG, nyquist=0.0)[1], want[1], 1e-14)
    channel = fs.Box((2.0, 3.0), (False, True))
    u = laws.noise(FLOW, (15, 24))
    some = shift(u, torch.tensor([9.0, 0.25], dtype=torch.float64), channel)
    laws.assert_close(some, u.roll(2, -1), 0.3)  # the Nyquist modes alone stay
    smooth = laws.without_nyquist(u, 2)
    some = shift(smooth, torch.tensor([9.0, 0.25], dtype=torch.float64), channel)
    laws.assert_close(some, smooth.roll(2, -1), 1e-14)


def test_shift_is_differentiable_in_both_arguments():
    u = laws.noise(LINE, (8,)).requires_grad_()
    a = torch.tensor([[0.3], [-0.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u, a: shift(u, a, LINE.base), (u, a))


# Galilean frame -----------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("interval", [0.0, 0.37])
def test_boosts_are_exact_for_any_operator(grid, interval, dtype):
    for operator in (rough, network(FLOW).to(dtype)):
        frame = fs.frames.GalileanFrame(operator, FLOW, interval=interval)
        assert boost_error(frame, FLOW, grid, dtype, interval=interval) < EXACT[dtype]
        assert boost_error(operator, FLOW, grid, dtype, interval=interval) > 0.1


NYQUIST_BOOSTS = [(0.25, 0.0), (0.5, 0.0), (0.0, 0.25), (0.17, -0.61), (0.25, 1.3)]


def act_error(frame, grid, v):
    """N(u + v) against act(v × interval, N(u)) + v on white noise."""
    u, wind = laws.noise(FLOW, grid, batch=2), constant(v, FLOW, torch.float64)
    want = fs.act(by_shift([c * 0.5 for c in v]), frame(u), FLOW) + wind
    return laws.relative(frame(u + wind) - want, want)


@pytest.mark.parametrize("grid", [(16, 24), (15, 24), (16, 21), (15, 21)])
@pytest.mark.parametrize("v", NYQUIST_BOOSTS)
def test_boosts_of_nyquist_content_are_exact_under_act(grid, v):
    """By whole cells, where act moves the samples, and by fractions of them."""
    for operator in (torch.relu, rough):
        frame = fs.frames.GalileanFrame(operator, FLOW, interval=0.5)
        assert act_error(frame, grid, v) < 1e-13
    past = fs.frames.GalileanFrame(mix, FLOW, interval=0.5, history=HISTORY)
    u, wind = [laws.noise(FLOW, grid) for _ in HISTORY], constant(v, FLOW, torch.float64)
    gone = [
        fs.act(by_shift([c * t for c in v]), part, FLOW) + wind
        for part, t in zip(u, HISTORY, strict=True)
    ]
    want = fs.act(by_shift([c * 0.5 for c in v]), past(torch.cat(u, 1)), FLOW) + wind
    laws.assert_close(past(torch.cat(gone, 1)), want, 1e-13)


def test_nyquist_modes_left_where_they_are_break_boosts():
    def staying(u, amount, base, **options):
        return shift(u, amount, base)

    with patch.object(galilean, "shift", staying):
        frame = fs.frames.GalileanFrame(torch.relu, FLOW, interval=0.5)
        assert act_error(frame, (16, 24), (0.25, 0.0)) > 1e-2
        assert act_error(frame, (15, 21), (0.25, 0.0)) < 1e-13  # no such modes


def test_boosts_on_a_line_and_in_a_channel():
    frame = fs.frames.GalileanFrame(torch.sin, LINE, interval=0.4)
    assert boost_error(frame, LINE, (15,), torch.float64, interval=0.4) < 1e-14
    channel = fs.Bundle(fs.Box((2.0, 3.0), (True, False)), "scalar p + vector u")
    frame = fs.frames.GalileanFrame(rough, channel, interval=0.4)
    u = laws.noise(channel, (16, 21))
    along = torch.tensor([0.0, 1.5, 0.0]).view(3, 1, 1)
    want = moved(frame(u), [0.6, 0.0], channel.base) + along
    laws.assert_close(frame(u + along), want, 1e-14)
    assert frame.mean_velocity(u)[0, 1] == 0


def test_a_neuraloperator_model_moves_along():
    models = pytest.importorskip("neuralop.models")
    plain = models.FNO(n_modes=(4, 4), in_channels=3, out_channels=3, hidden_channels=8, n_layers=2)
    frame = fs.frames.GalileanFrame(plain, FLOW, interval=0.37)
    error = boost_error(frame, FLOW, (16, 24), torch.float32, interval=0.37)
    assert error < 1e-5 < 0.1 < boost_error(plain, FLOW, (16, 24), torch.float32, interval=0.37)
    assert set(dict(frame.named_parameters())) == {
        f"operator.{n}" for n, _ in plain.named_parameters()
    }


def jvp_defect(step, bundle, u, interval):
    """‖DN(u)[v] + interval v·∇N(u) − v‖ / ‖N(u)‖."""
    v = WIND[: bundle.base.dim]
    wind = constant(v, bundle, u.dtype).expand_as(u)
    value, pushed = torch.func.jvp(step, (u,), (wind.contiguous(),))
    slope = sum(c * bundle.base.derivative(value, i) for i, c in enumerate(v))
    return laws.relative(pushed + interval * slope - wind, value)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_lie_derivative_along_a_boost_vanishes(grid):
    model = network(FLOW).double()
    u = fs.testing.random_section(FLOW, grid)
    frame = fs.frames.GalileanFrame(model, FLOW, interval=0.37)
    assert jvp_defect(frame, FLOW, u, 0.37) < 1e-12
    assert jvp_defect(model, FLOW, u, 0.37) > 0.5


def test_scalars_are_shifted_and_nothing_else():
    """The identity in the moving frame: advection by the mean velocity, in closed form."""
    frame = fs.frames.GalileanFrame(lambda u: u, FLOW, interval=0.5)
    x, y = OBLONG.coordinates((16, 24))
    start = torch.stack([torch.cos(torch.pi * x), 0 * x + 0.6, torch.sin(2 * torch.pi / 3 * y) - 1])
    a, b = x - 0.3, y + 0.5
    want = torch.stack([torch.cos(torch.pi * a), 0 * x + 0.6, torch.sin(2 * torch.pi / 3 * b) - 1])
    laws.assert_close(frame(start), want, 1e-14)


def burgers(u):
    return -u * LINE.base.derivative(u, 0) + 0.1 * LINE.base.derivative(
        LINE.base.derivative(u, 0), 0
    )


def burgers_flow(u, time=0.1, steps=100):
    """Runge-Kutta of fourth order, in the frame of the box."""
    h = time / steps
    for _ in range(steps):
        k1 = burgers(u)
        k2 = burgers(u + h / 2 * k1)
        k3 = burgers(u + h / 2 * k2)
        u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + burgers(u + h * k3))
    return u


def test_a_galilean_operator_is_left_as_it_is():
    """Burgers: the tendency to rounding, the flow to the error of its time steps."""
    u = 0.7 + fs.testing.random_section(LINE, (64,), kmax=2, batch=2)
    tendency = fs.frames.GalileanFrame(burgers, LINE, interval=None)
    laws.assert_close(tendency(u), burgers(u), 1e-13)
    diagnosis = fs.frames.GalileanFrame(burgers, LINE, interval=0.0)
    assert laws.relative(diagnosis(u) - burgers(u), burgers(u)) > 0.1
    flow = fs.frames.GalileanFrame(burgers_flow, LINE, interval=0.1)
    laws.assert_close(flow(u), laws.without_nyquist(burgers_flow(u), 1), 1e-8)
    late = fs.frames.GalileanFrame(burgers_flow, LINE, interval=0.15)
    assert laws.relative(late(u) - burgers_flow(u), burgers_flow(u)) > 0.02


def test_tendencies_of_any_operator_obey_the_law(dtype):
    """N(u + v) = N(u) − v·∇u, for scalars too."""
    frame = fs.frames.GalileanFrame(rough, FLOW, interval=None)
    u = fs.testing.random_section(FLOW, (16, 21), dtype=dtype)
    want = frame(u) - sum(v * OBLONG.derivative(u, i) for i, v in enumerate(WIND))
    laws.assert_close(frame(u + constant(WIND, FLOW, dtype)), want, 10 * EXACT[dtype])


HISTORY = (0.0, -0.2, -0.5)


def mix(u):
    """Three states to one, each in its own way."""
    return torch.tanh(u[..., :3, :, :]) + u[..., 3:6, :, :] * u[..., 6:, :, :]


@pytest.mark.parametrize("grid", GRIDS)
def test_histories_are_brought_to_one_frame(grid, dtype):
    frame = fs.frames.GalileanFrame(mix, FLOW, interval=0.3, history=HISTORY)
    assert repr(frame.in_bundle.representation) == (
        "scalar p + vector u + scalar p_1 + vector u_1 + scalar p_2 + vector u_2"
    )
    error = boost_error(frame, FLOW, grid, dtype, interval=0.3, history=HISTORY)
    assert error < EXACT[dtype]
    for wrong in ((0.0, 0.0, 0.0), (0.0, 0.2, 0.5), (0.0, -0.5, -0.2)):
        broken = fs.frames.GalileanFrame(mix, FLOW, interval=0.3, history=wrong)
        error = boost_error(broken, FLOW, grid, dtype, interval=0.3, history=HISTORY)
        assert error > 0.05


def test_diagnostics_have_their_own_bundle():
    """Vorticity of a velocity does not see a boost; it takes no mean and, at once, no shift."""
    velocity, w = fs.Bundle(OBLONG, "vector u"), fs.Bundle(OBLONG, "pseudoscalar w")
    curl = fs.frames.GalileanFrame(
        lambda u: fs.simulate.vorticity_from_velocity(u, OBLONG), velocity, interval=0.0,
        out_bundle=w,
    )  # fmt: skip
    u = fs.testing.random_section(velocity, (16, 24))
    want = fs.simulate.vorticity_from_velocity(u, OBLONG)
    laws.assert_close(curl(u + constant(WIND, velocity, u.dtype)), want, 1e-13)


def test_the_point_group_of_the_operator_is_kept():
    """A D4 network in the moving frame commutes with D4 and with boosts."""
    d4 = groups.dihedral(4)
    model = network(SQUARE_FLOW, group=d4, hidden_channels=8).double()
    frame = fs.frames.GalileanFrame(model, SQUARE_FLOW, interval=0.4)
    u = 0.5 + laws.noise(SQUARE_FLOW, (12, 12))
    errors = fs.testing.assert_equivariant(
        frame, d4, SQUARE_FLOW, SQUARE_FLOW, (12, 12), u=u, translations=False, tol=1e-12
    )
    assert len(errors) == 7
    assert boost_error(frame, SQUARE_FLOW, (12, 12), torch.float64, interval=0.4) < 1e-13


# Saboteurs ----------------------------------------------------------------------------------------


class WithoutBackShift(fs.frames.GalileanFrame):
    def forward(self, u):
        mean = self.mean_velocity(u)
        value = self.operator(self._at_rest(u, mean))
        return value + galilean._constant(self.boost_out, mean, value)


class WithoutMean(fs.frames.GalileanFrame):
    def forward(self, u):
        mean = self.mean_velocity(u)
        return super().forward(u) - galilean._constant(self.boost_out, mean, u)


class MeanOfEveryField(fs.frames.GalileanFrame):
    def mean_velocity(self, u):
        return u.double().mean((-1, -2))[..., :2]


def with_wrong_sign(u, amount, base, **options):
    return shift(u, -amount, base, **options)


def with_nyquist(u, amount, base, **options):
    """Phases on every mode of the half spectrum."""
    from broken import shift_with_nyquist

    each = [shift_with_nyquist(a, one, FLOW) for a, one in zip(amount, u, strict=True)]
    return torch.stack(each)


@pytest.mark.parametrize("broken", [WithoutBackShift, WithoutMean, MeanOfEveryField])
def test_a_frame_with_one_mistake_is_no_frame(broken):
    error = boost_error(
        broken(rough, FLOW, interval=0.37), FLOW, (16, 24), torch.float64, interval=0.37
    )
    assert error > 0.1


@pytest.mark.parametrize("broken", [with_wrong_sign, with_nyquist])
def test_a_shift_with_one_mistake_breaks_the_frame(broken):
    with patch.object(galilean, "shift", broken):
        frame = fs.frames.GalileanFrame(rough, FLOW, interval=0.37)
        assert boost_error(frame, FLOW, (16, 24), torch.float64, interval=0.37) > 1e-2


# Translation frame --------------------------------------------------------------------------------

SHIFTS = [(0.05, 0.0), (0.0, 0.0625), (0.33, -0.71), (0.25, 1.5)]
WHIRL = fs.Bundle(OBLONG, "pseudoscalar w + vector u")


def shift_error(operator, source, target, u):
    worst = 0.0
    for a in SHIFTS:
        g = by_shift(a)
        want = fs.act(g, operator(u), target)
        worst = max(worst, laws.relative(operator(fs.act(g, u, source)) - want, want))
    return worst


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("anchor", ["p", "u", None])
def test_shifts_by_fractions_of_a_cell_are_exact(grid, anchor):
    u = laws.without_nyquist(laws.noise(FLOW, grid), 2)
    if grid != (16, 24) and anchor != "p":  # modes at (N − 1)/2 alias the square
        u = fs.testing.random_section(FLOW, grid, kmax=6, batch=2)
    for operator in (rough, network(FLOW).double()):
        frame = fs.frames.TranslationFrame(operator, FLOW, FLOW, anchor=anchor)
        assert shift_error(frame, FLOW, FLOW, u) < 5e-13
        assert shift_error(operator, FLOW, FLOW, u) > 1e-2


def test_shifts_in_single_precision_and_of_a_neuraloperator_model():
    models = pytest.importorskip("neuralop.models")
    plain = models.FNO(n_modes=(4, 4), in_channels=3, out_channels=3, hidden_channels=8, n_layers=2)
    frame = fs.frames.TranslationFrame(plain, FLOW, FLOW, anchor="p")
    u = fs.testing.random_section(FLOW, (16, 24), dtype=torch.float32)
    with torch.no_grad():
        assert shift_error(frame, FLOW, FLOW, u) < 2e-5
        assert shift_error(plain, FLOW, FLOW, u) > 1e-2


def test_the_lie_derivative_along_translations_vanishes():
    frame = fs.frames.TranslationFrame(rough, FLOW, FLOW, anchor="p")
    fs.testing.assert_infinitesimally_equivariant(
        frame, groups.translations(2), FLOW, FLOW, (16, 24), tol=1e-11
    )
    with pytest.raises(AssertionError, match="translation y"):
        fs.testing.assert_infinitesimally_equivariant(
            rough, groups.translations(2), FLOW, FLOW, (16, 24), tol=0.1
        )


def test_whole_cells_are_exact_for_white_noise():
    frame = fs.frames.TranslationFrame(rough, FLOW, FLOW)
    u = laws.noise(FLOW, (16, 24))
    want = frame(u).roll((3, 5), (-2, -1))
    laws.assert_close(frame(u.roll((3, 5), (-2, -1))), want, 1e-13)


def test_the_canonical_field_is_the_same_for_all_shifts_and_peaks_in_the_centre():
    seen = []
    frame = fs.frames.TranslationFrame(lambda u: seen.append(u) or u, FLOW, FLOW, anchor="p")
    x, y = OBLONG.coordinates((16, 24))
    for a, b in [(0.1, 0.2), (0.31, -0.2), (1.4, 2.9)]:
        p = 2 + torch.cos(torch.pi * (x - a)) + torch.cos(2 * torch.pi / 3 * (y - b))
        u = torch.stack([p, torch.sin(torch.pi * (x - a)), 0 * x])
        laws.assert_close(frame(u), u, 1e-13)
        centre = [
            (c - a + n / 2) % n - n / 2
            for c, a, n in zip((a, b), (1.0, 1.5), (2.0, 3.0), strict=True)
        ]
        assert torch.allclose(frame.position(u), torch.tensor(centre).double(), atol=1e-13)
    for canonical in seen[1:]:
        laws.assert_close(canonical, seen[0], 1e-13)
    assert seen[0][0].argmax() == 8 * 24 + 12


@pytest.mark.parametrize(("bundle", "anchor"), [("scalar p + vector u", "p"),
                                                ("pseudoscalar w + vector u", "w")])  # fmt: skip
def test_the_point_group_survives_translation_frames(bundle, anchor):
    """Anchors are invariants: a pseudoscalar counts by its square."""
    d4, bundle = groups.dihedral(4), fs.Bundle(SQUARE, bundle)
    model = fs.frames.GroupAverage(rough, d4, bundle, bundle)
    frame = fs.frames.TranslationFrame(model, bundle, bundle, anchor=anchor)
    u = fs.testing.random_section(bundle, (12, 12), kmax=3)
    fs.testing.assert_equivariant(frame, d4, bundle, bundle, (12, 12), u=u, tol=1e-12)
    assert shift_error(frame, bundle, bundle, u) < 1e-12


def test_amplitudes_are_known_and_small_ones_are_refused():
    frame = fs.frames.TranslationFrame(torch.relu, FLOW, FLOW, anchor="p")
    x, y = OBLONG.coordinates((16, 24))
    p = torch.cos(torch.pi * x) + 1e-4 * torch.cos(2 * torch.pi / 3 * y)
    u = torch.stack([p, 0 * x, 0 * x])
    amplitude = frame.amplitude(u)
    assert torch.allclose(amplitude, torch.tensor([1.0, 1e-4]).double(), rtol=1e-7)
    with pytest.raises(fs.DataError, match=r"holds 1.0e-04 of the standard deviation, less than"):
        frame(u)
    with pytest.raises(fs.DataError, match=r"holds 0.0e\+00"):
        frame(torch.ones(3, 16, 24))
    with pytest.raises(fs.DataError, match=r"holds nan"):
        frame(torch.full((3, 16, 24), math.nan))
    patient = fs.frames.TranslationFrame(torch.relu, FLOW, FLOW, anchor="p", tolerance=None)
    still = torch.ones(3, 16, 24, dtype=torch.float64, requires_grad=True)
    laws.assert_close(patient(still), still, 1e-14)
    assert torch.autograd.grad(patient(still).sum(), still)[0].isfinite().all()


def test_the_jump_is_measured():
    """Noise of size e on a weak anchor of amplitude a moves the frame by about e / a."""
    frame = fs.frames.TranslationFrame(rough, FLOW, FLOW, anchor="p", tolerance=None)
    x, y = OBLONG.coordinates((16, 24))
    noise = 1e-7 * fs.testing.random_section(FLOW, (16, 24), seed=3)
    response = []
    for a in (1.0, 1e-2, 1e-4):
        p = torch.cos(torch.pi * x) + a * torch.cos(2 * torch.pi / 3 * y)
        u = torch.stack([p + torch.sin(4 * torch.pi / 3 * y), p, torch.sin(2 * torch.pi * y / 3)])
        response.append(float((frame(u + noise) - frame(u)).norm() / noise.norm()))
    assert response[0] < 10
    assert response[1] > 2 * response[0]
    assert 30 < response[2] / response[1] < 300


def test_a_translation_frame_with_one_mistake_is_none():
    u = fs.testing.random_section(FLOW, (16, 24))

    def forwards(u, amount, base, **options):
        return shift(u, amount.abs(), base, **options)

    for broken in (with_wrong_sign, forwards, lambda u, *_, **__: u):
        with patch.object(translation, "shift", broken):
            frame = fs.frames.TranslationFrame(rough, FLOW, FLOW, anchor="p")
            assert shift_error(frame, FLOW, FLOW, u) > 1e-2


# torch, copies, errors ----------------------------------------------------------------------------


class Mix(torch.nn.Module):
    """A small network that caches nothing and takes any number of batch axes."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 3))

    def forward(self, u):
        return torch.tanh(torch.einsum("ij,...jxy->...ixy", self.weight, u)) + 0.2 * u.roll(1, -1)


def frames_of(model):
    return [
        fs.frames.GalileanFrame(model, FLOW, interval=0.3),
        fs.frames.GalileanFrame(model, FLOW, interval=None),
        fs.frames.TranslationFrame(model, FLOW, FLOW, anchor="p", tolerance=None),
        fs.frames.TranslationFrame(
            model, fs.Bundle(OBLONG, "symmetric tensor s"), FLOW, anchor="s", tolerance=None
        ),
    ]


@pytest.mark.parametrize("which", range(4))
def test_transforms_of_torch(which):
    frame = frames_of(network(FLOW).double())[which]
    if which == 3:  # nothing of the bundle may be cached within a transform
        frame.operator = Mix().double()
    u, v = (fs.testing.random_section(FLOW, (8, 10), batch=2, seed=s, kmax=3) for s in (0, 1))
    value, pushed = torch.func.jvp(frame, (u,), (v,))
    slope = (frame(u + 1e-5 * v) - frame(u - 1e-5 * v)) / 2e-5
    laws.assert_close(pushed, slope, 1e-7)
    laws.assert_close(torch.vmap(frame)(u), value, 1e-12)
    laws.assert_close(frame(u[1]), value[1], 1e-12)
    laws.assert_close(frame(u.view(1, 2, 3, 8, 10))[0], value, 1e-12)
    value.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in frame.parameters())
    for twin in (copy.deepcopy(frame), pickle.loads(pickle.dumps(frame))):
        assert torch.equal(twin(u), value)


@pytest.mark.parametrize("which", range(4))
def test_compiles_into_one_graph(which):
    frame = frames_of(Mix())[which]
    u = fs.testing.random_section(FLOW, (8, 10), batch=2, dtype=torch.float32, kmax=3)
    compiled = torch.compile(frame, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(u), frame(u), atol=1e-5)
    torch.compiler.reset()


def test_the_check_of_the_anchor_passes_derivatives_through():
    frame = fs.frames.TranslationFrame(rough, FLOW, FLOW)
    u, v = (fs.testing.random_section(FLOW, (8, 10), batch=2, seed=s, kmax=3) for s in (0, 1))
    pushed = torch.func.jvp(frame, (u,), (v,))[1]
    laws.assert_close(pushed, (frame(u + 1e-5 * v) - frame(u - 1e-5 * v)) / 2e-5, 1e-7)


@pytest.mark.parametrize(
    ("error", "match", "make"),
    [
        (fs.BundleError, r"got velocity='v', where 'scalar p \+ vector u' has u",
         lambda: fs.frames.GalileanFrame(rough, FLOW, "v", interval=1.0)),
        (fs.BundleError, r"got velocity='p'",
         lambda: fs.frames.GalileanFrame(rough, FLOW, "p", interval=1.0)),
        (fs.GridError, r"A mean-velocity frame shifts fields along periodic axes; Box",
         lambda: fs.frames.GalileanFrame(rough, fs.Bundle(fs.Box((1.0, 2.0)), "vector u"),
                                         interval=1.0)),
        (fs.DataError, r"got interval=nan",
         lambda: fs.frames.GalileanFrame(rough, FLOW, interval=math.nan)),
        (fs.DataError, r"which comes first: \(0, -dt, …\); got .*history=\(-0.1, 0.0\)",
         lambda: fs.frames.GalileanFrame(rough, FLOW, interval=1.0, history=(-0.1, 0.0))),
        (fs.DataError, r"finite interval.* got interval='0.1'",
         lambda: fs.frames.GalileanFrame(rough, FLOW, interval="0.1")),
        (fs.DataError, r"history=0.0",
         lambda: fs.frames.GalileanFrame(rough, FLOW, interval=0.1, history=0.0)),
        (fs.BundleError, r"GalileanFrame needs an operator .* got 3",
         lambda: fs.frames.GalileanFrame(3, FLOW, interval=0.1)),
        (fs.BundleError, r"GalileanFrame needs a Bundle.* got 'vector u'",
         lambda: fs.frames.GalileanFrame(rough, "vector u", interval=0.1)),
        (fs.BundleError, r"GalileanFrame needs a Bundle.* got 3",
         lambda: fs.frames.GalileanFrame(rough, FLOW, interval=0.1, out_bundle=3)),
        (fs.BundleError, r"TranslationFrame needs an operator .* got None",
         lambda: fs.frames.TranslationFrame(None, FLOW, FLOW)),
        (fs.BundleError, r"TranslationFrame needs a Bundle.* got 'p'",
         lambda: fs.frames.TranslationFrame(rough, FLOW, "p")),
        (fs.DataError, r"interval=None says that the operator gives the tendency",
         lambda: fs.frames.GalileanFrame(rough, FLOW, interval=None, out_bundle=WHIRL)),
        (fs.BundleError, r"A translation frame needs one base; got Torus\(2, 3\) and Torus\(1.5",
         lambda: fs.frames.TranslationFrame(rough, FLOW, SQUARE_FLOW)),
        (fs.BundleError, r"one of \('p', 'u'\); got 'w'",
         lambda: fs.frames.TranslationFrame(rough, FLOW, FLOW, anchor="w")),
        (fs.GridError, r"A translation frame shifts fields along periodic axes",
         lambda: fs.frames.TranslationFrame(rough, *[fs.Bundle(fs.Box((1.0,)), "scalar")] * 2)),
        (fs.BundleError, r"GalileanFrame expects sections",
         lambda: fs.frames.GalileanFrame(rough, FLOW, interval=1.0)(torch.zeros(2, 4, 8, 8))),
        (fs.BundleError, r"The output of GalileanFrame expects sections",
         lambda: fs.frames.GalileanFrame(lambda u: u[:, :2], FLOW, interval=1.0)(
             torch.zeros(2, 3, 8, 8))),
        (fs.BundleError, r"TranslationFrame expects sections",
         lambda: fs.frames.TranslationFrame(rough, FLOW, FLOW)(torch.zeros(2, 4, 8, 8))),
        (fs.BundleError, r"The output of TranslationFrame expects sections",
         lambda: fs.frames.TranslationFrame(lambda u: u[:, :2], FLOW, FLOW, anchor="p")(
             fs.testing.random_section(FLOW, (8, 8)))),
    ],
)  # fmt: skip
def test_errors(error, match, make):
    with pytest.raises(error, match=match):
        make()


def test_repr_says_what_it_is():
    assert "velocity='u', interval=0.3" in repr(fs.frames.GalileanFrame(rough, FLOW, interval=0.3))
    assert "anchor='p', tolerance=0.001" in repr(
        fs.frames.TranslationFrame(rough, FLOW, FLOW, anchor="p")
    )
