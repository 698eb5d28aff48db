"""Promote: the penalty against its dense definition, closed forms, training loops and bad input."""

import copy
import io
import math
import pickle
import warnings
from unittest.mock import patch

import broken
import pytest
import torch
from torch import nn

import fieldsym as fs
from fieldsym.representation import Representation
from fieldsym.symmetry import promote_penalty
from fieldsym.symmetry.promote import promote
from fieldsym.symmetry.promote_norm import NuclearNorm
from fieldsym.symmetry.promote_operator import combined, measure, push_forward
from fieldsym.symmetry.promote_weights import WeightGram

OBLONG = fs.Torus((2.0, 3.0))
SQUARE = fs.Torus((1.0, 1.0))
CHANNEL = fs.Box((2.0, 3.0), periodic=(True, False))
SHIFTS, SE2 = fs.groups.translations(2), fs.groups.se(2)
ZONAL = fs.groups.translations(2, axes=[0]) * fs.groups.so(2)
MIRRORS, D4 = fs.groups.reflections(2), fs.groups.dihedral(4)
EXACT = {"ema": 0.0, "eps": (1e-6, 1e-6), "anneal": 0}  # the nuclear norm of the batch itself
P, S = fs.Bundle(OBLONG, "scalar p"), fs.Bundle(SQUARE, "scalar p")
FLOW = fs.Bundle(OBLONG, "vector v + symmetric tensor t")


def fno(source, target, dtype=torch.float64, **options):
    torch.manual_seed(0)
    options = {"n_modes": 5, "hidden_channels": 4, "n_layers": 2} | options
    return fs.FNO(source, target, **options).to(dtype)


def sections(bundle, grid=(16, 24), batch=3, **options):
    return fs.testing.random_section(bundle, grid, batch=batch, **options)


class Modulated(nn.Module):
    """u ↦ (1 + a sin(k·x)) u: breaks translations along k, and no other."""

    def __init__(self, amplitude, base=OBLONG, waves=(1, 1)):
        super().__init__()
        self.amplitude = nn.Parameter(torch.tensor(amplitude, dtype=torch.float64))
        self.base = base
        self.k = [2 * math.pi * n / length for n, length in zip(waves, base.lengths, strict=True)]

    def forward(self, u):
        x = self.base.coordinates(u.shape[-2:])
        phase = sum(ki * xi for ki, xi in zip(self.k, x, strict=True))
        return (1 + self.amplitude * phase.sin()).to(u.dtype) * u


def number(value):
    return float(value.detach()) if isinstance(value, torch.Tensor) else float(value)


def gradients(penalty, value):
    """All gradients in the parameters of the model, as one vector."""
    parameters = list(penalty.model.parameters())
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.cat([torch.zeros(w.numel()).to(w) if g is None else g.flatten()
                      for g, w in zip(found, parameters, strict=True)])  # fmt: skip


# The definition -----------------------------------------------------------------------------------


def dense(model, generators, u, source, target, region=None):
    """Nuclear norm of the stacked Lie derivatives, over the norm of the fluctuation."""
    grid = target.grid(u)
    columns = [fs.lie_derivative(model, xi, u, source, target, region=region) for xi in generators]
    weights, window = target.base.weights(grid), torch.ones(grid, dtype=torch.float64)
    if region is not None:
        weights, window = weights * region.mask(grid), region.window(grid)
        u = u * window.to(u)
    value = model(u).double()
    value = value if all(target.base.periodic) else value * window
    mean = (value * weights).sum((-2, -1), keepdim=True) / weights.sum()
    metric = torch.linalg.cholesky(target.representation.gram)
    stack = torch.stack([*(c.double() for c in columns), value - mean])
    stack = torch.einsum("kbcxy,cd->kbdxy", stack, metric) * weights.sqrt()
    return number(torch.linalg.svdvals(stack[:-1].flatten(1)).sum() / stack[-1].norm())


def assert_nuclear_norm(dtype=torch.float64):
    model = fno(P, FLOW, dtype, positional_embedding="grid")
    penalty = promote(model, SHIFTS, P, FLOW, **EXACT)
    value = penalty(sections(P, dtype=dtype))
    wanted = dense(model, penalty.generators, sections(P, dtype=dtype), P, FLOW)
    assert value.dtype == dtype
    assert number(value) == pytest.approx(wanted, rel=1e-4 if dtype == torch.float32 else 1e-9)


def test_value_is_the_nuclear_norm_of_the_lie_derivatives(dtype):
    assert_nuclear_norm(dtype)


@pytest.mark.parametrize(("base", "group"), [(OBLONG, SE2), (CHANNEL, ZONAL)])
def test_rotations_inside_a_region(base, group):
    source, target = (fs.Bundle(base, b.representation) for b in (P, FLOW))
    model, region, u = fno(source, target), base.disk(0.9), sections(source, (24, 36))
    penalty = promote(model, group, source, target, region=region, **EXACT)
    wanted = dense(model, penalty.generators, u, source, target, region)
    assert number(penalty(u)) == pytest.approx(wanted, rel=1e-9)


def assert_gradient_is_the_slope(promoted=promote):
    model, u = fno(P, FLOW, positional_embedding="grid"), sections(P)
    penalty = promoted(model, SHIFTS * MIRRORS, P, FLOW, **EXACT)
    along = [torch.randn_like(w) for w in model.parameters()]
    found = gradients(penalty, penalty(u)) @ torch.cat([a.flatten() for a in along])
    values = []
    for h in (1e-6, -2e-6):
        with torch.no_grad():
            for w, a in zip(model.parameters(), along, strict=True):
                w += h * a
            values.append(number(penalty(u)))
    assert number(found) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


def test_gradient_is_the_slope_of_the_value():
    assert_gradient_is_the_slope()


def test_gradients_reach_every_parameter_that_matters():
    model = fno(P, FLOW, torch.float32, positional_embedding="grid")
    penalty = promote(model, SHIFTS, P, FLOW)
    penalty(sections(P, dtype=torch.float32)).backward()
    blind = {n for n, w in model.named_parameters() if w.grad is None or not w.grad.any()}
    assert blind == set()


# Closed forms -------------------------------------------------------------------------------------


def test_a_wave_in_front_of_the_field():
    """L_x F(u) = −c′(x) u: of u = 1, a fluctuation a sin has the derivative a k cos."""
    model = Modulated(0.3, waves=(1, 0))
    penalty = promote(model, SHIFTS, P, P, **EXACT)
    value = penalty(torch.ones(2, 1, 16, 24, dtype=torch.float64))
    assert number(value) == pytest.approx(1.0, rel=1e-5)  # k = 2π/2, per 2/2π
    assert penalty.broken_dimension() == 1


def test_wind_under_rotations():
    """A drift by c turns into one by Ac: (L_ξ F)(u) = (Ac)·∇F(u)."""
    c, region = (0.05, 0.0), SQUARE.disk(0.4)
    drift, u = fs.simulate.advection(SQUARE, c, time=1.0), sections(S, (64, 64))
    penalty = promote(drift, fs.groups.so(2), S, S, region=region, **EXACT)
    value = drift(u * region.window((64, 64)))
    inside = region.mask((64, 64))
    wanted = ((c[0] * SQUARE.derivative(value, 1)) * inside).norm()
    mean = (value * inside).sum((-2, -1), keepdim=True) / inside.sum()
    wanted = number(wanted / ((value - mean) * inside).norm())
    assert number(penalty(u)) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("waves", [(1, 1), (2, -1)])
def test_the_direction_that_is_broken_is_found(waves, dtype):
    """In float32 too the other one is at rounding: the Gram matrix is formed in float64."""
    model = Modulated(0.3, waves=waves)
    penalty = promote(model, SHIFTS, P, P, **EXACT)
    penalty(sections(P, dtype=dtype))
    along = torch.tensor(model.k, dtype=torch.float64)
    assert torch.allclose(abs(penalty.directions[0] @ along), along.norm())
    first, second = penalty.singular_values
    assert first > 0.1
    assert second < (2e-5 if dtype == torch.float32 else 1e-7) * first
    assert penalty.broken_dimension() == 1
    assert penalty.report().startswith("1 of 2 directions broken")


def test_the_operator_may_be_scaled_and_the_base_measured_in_other_units():
    model, u = fno(P, P, positional_embedding="grid"), sections(P)
    value = promote(model, SHIFTS * MIRRORS, P, P, **EXACT)(u)
    scaled = promote(lambda v: 1e3 * model(v), SHIFTS * MIRRORS, P, P, **EXACT)(u)
    assert torch.allclose(value, scaled, rtol=1e-10)
    wide = fs.Bundle(fs.Torus((2e3, 3e3)), "scalar p")
    twin = fno(wide, wide, positional_embedding="grid")
    assert torch.allclose(promote(twin, SHIFTS * MIRRORS, wide, wide, **EXACT)(u), value)


def test_one_generator_is_the_local_equivariance_error():
    model, u = fno(P, FLOW, positional_embedding="grid"), sections(P, batch=1)
    group = fs.groups.translations(2, axes=[1])
    lee = fs.infinitesimal_defect(model, group.generators[0], u, P, FLOW) * 2.0 / (2 * math.pi)
    assert torch.allclose(promote(model, group, P, FLOW, **EXACT)(u), lee[0])


@pytest.mark.parametrize("grid", [(16, 24), (15, 21)])
def test_elements_are_unsquared_defects_of_the_batch(grid):
    model, u = fno(P, FLOW), sections(P, grid, batch=1)
    penalty = promote(model, MIRRORS, P, FLOW)
    wanted = {g.name: fs.finite_defect(model, g, u, P, FLOW) for g in MIRRORS.elements[1:]}
    assert number(penalty(u)) == pytest.approx(number(sum(wanted.values())), abs=1e-4)
    assert penalty.element_defects == pytest.approx({n: number(v) for n, v in wanted.items()})


def test_an_equivariant_operator_has_no_penalty_and_no_gradient(dtype):
    model = fno(S, S, dtype, group=D4, hidden_channels=8)
    penalty = promote(model, D4, S, S)
    value = penalty(sections(S, (16, 16), dtype=dtype))
    assert number(value) < (2e-5 if dtype == torch.float32 else 1e-12)
    value.backward()
    size = max(number(w.grad.abs().max()) for w in model.parameters() if w.grad is not None)
    assert size < (0.2 if dtype == torch.float32 else 1e-6)


def test_a_constant_output_is_finite():
    penalty = promote(lambda u: 0 * u + 1, SHIFTS * MIRRORS, P, P)
    assert number(penalty(sections(P))) == pytest.approx(0, abs=1e-6)


# Derivatives in one pass --------------------------------------------------------------------------


class Square(torch.autograd.Function):
    """A function with a forward derivative and no rule for batches of tangents."""

    @staticmethod
    def forward(u):
        return u**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, v):
        return 2 * ctx.saved_tensors[0] * v


def test_tangents_go_one_by_one_where_they_cannot_go_together():
    u, tangents = sections(P), [sections(P, seed=i) for i in (1, 2)]
    value, slopes = push_forward(Square.apply, u, tangents)
    assert torch.equal(value, u**2)
    assert all(torch.allclose(s, 2 * u * v) for s, v in zip(slopes, tangents, strict=True))
    with pytest.raises(RuntimeError, match="vmap"):
        torch.vmap(lambda v: torch.func.jvp(Square.apply, (u,), (v,))[1])(torch.stack(tangents))


def test_random_layers_draw_once_for_all_tangents():
    u = sections(P)
    _, (slope, twice) = push_forward(nn.Dropout(0.5), u, [u, 2 * u])
    assert torch.equal(twice, 2 * slope)
    assert 0.2 < number((slope == 0).double().mean()) < 0.8


def test_own_push_forward_and_jvp_agree():
    model, u = fno(P, FLOW), sections(P)
    own = measure(model, SHIFTS.generators, (), u, P, FLOW)
    other = measure(lambda v: model(v), SHIFTS.generators, (), u, P, FLOW)
    assert torch.allclose(own.gram, other.gram, rtol=1e-10)
    assert torch.allclose(own.value, other.value)


def test_combinations_are_linear():
    model, u, c = fno(P, FLOW), sections(P), torch.tensor([0.6, -0.8], dtype=torch.float64)
    gram = measure(model, SHIFTS.generators, (), u, P, FLOW).gram
    single = measure(model, [combined(c, SHIFTS.generators)], (), u, P, FLOW).gram
    assert torch.allclose(single.squeeze(), c @ gram @ c)


# Estimators ---------------------------------------------------------------------------------------


def one_draw(model, u, kind, j, **options):
    """A fresh penalty whose first draw is direction j, or element j."""
    penalty = promote(model, SHIFTS * MIRRORS, P, FLOW, estimator="one", samples=3, **options)
    with patch.object(torch, "randint", side_effect=[torch.tensor(kind), torch.tensor(j)]):
        return penalty(u), penalty


def assert_unbiased(weight=1.0):
    """Half the mean over 2 directions and half that over 3 elements are the whole."""
    model, u = fno(P, FLOW, positional_embedding="grid"), sections(P)
    options = EXACT | {"eps": (1e-2, 1e-2)}
    whole = promote(model, SHIFTS * MIRRORS, P, FLOW, **options)
    value = whole(u)
    wanted, found, mean = gradients(whole, value), 0, 0
    for kind, many in ((0, 2), (1, 3)):
        for j in range(many):
            draw, penalty = one_draw(model, u, kind, j, **options)
            found = found + weight * gradients(penalty, draw) / (2 * many)
            mean += number(draw) / (2 * many)
    assert torch.allclose(found, wanted, atol=1e-9 * number(wanted.norm()))
    assert mean == pytest.approx(number(value), rel=1e-9)


def test_one_direction_at_a_time_is_unbiased():
    assert_unbiased()


def test_one_direction_sees_all_singular_values_now_and_then():
    model, u = Modulated(0.3), sections(P)
    assert promote(model, SHIFTS, P, P, estimator="one", ema=0.5).norm.ema == 0.5**10
    penalty = promote(model, SHIFTS, P, P, estimator="one", samples=3, ema=0.0)
    penalty(u)
    first = penalty.singular_values
    model.amplitude.data *= 2
    for _ in range(promote_penalty.REFRESH - 1):
        penalty(u)
    assert torch.equal(penalty.singular_values, first)
    penalty(u)
    assert penalty.singular_values[0] > 1.5 * first[0]


@pytest.mark.parametrize(("estimator", "samples", "seen"), [
    ("all", None, [9, 9, 9]), ("one", None, [2, 2, 2]), ("all", 4, [4, 4, 4]), ("all", 20, [9] * 3)
])  # fmt: skip
def test_samples_take_turns(estimator, samples, seen):
    batches = []

    def watched(u):
        batches.append(u[:, 0, 0, 0])
        return u**2

    penalty = promote(watched, MIRRORS, P, P, estimator=estimator, samples=samples)
    u = torch.arange(9.0, dtype=torch.float64).view(9, 1, 1, 1).expand(9, 1, 16, 24)
    found = []
    for _ in range(3):
        batches.clear()
        penalty(u)
        found.append(batches[0])
    assert [len(b) for b in found] == seen
    turns = torch.cat(found).tolist()
    assert turns == [i % 9 for i in range(len(turns))]


@pytest.mark.parametrize("options", [
    {}, {"estimator": "one"}, {"samples": 2}, {"region": OBLONG.disk(0.8)},
])  # fmt: skip
def test_output_and_penalty_share_a_pass(options):
    model, u = fno(P, FLOW, positional_embedding="grid"), sections(P, batch=5)
    penalty, twin = (promote(model, SHIFTS, P, FLOW, **options) for _ in range(2))
    for _ in range(3):
        torch.manual_seed(3)
        y, value = penalty.with_output(u)
        torch.manual_seed(3)
        assert torch.allclose(value, twin(u))
        assert torch.allclose(y, model(u), atol=1e-12)
    y, _ = penalty.with_output(u[0])
    assert torch.allclose(y, model(u[0]), atol=1e-12)


# Weights ------------------------------------------------------------------------------------------


def test_weights_that_see_one_direction_break_one():
    """W_x/L_x ∥ W_y/L_y: the position enters as (x + y)."""
    column = torch.arange(8.0, dtype=torch.float64)[:, None]
    model = fno(P, FLOW, positional_embedding="grid")
    columns = column * torch.tensor([2.0, 3.0], dtype=torch.float64)  # of the coordinates 2 x / L
    model.lifting.first.weight.matrices.data[0, 0, :, 1:] = columns
    penalty = promote(model, SHIFTS, P, FLOW, level="weights", **EXACT)
    value = penalty()
    size = penalty._weights()[2]
    step = 2.0 / (2 * math.pi)
    wanted = column.norm() * 2 * math.sqrt(2) * step / size
    assert number(value) == pytest.approx(number(wanted), rel=1e-5)
    assert penalty.broken_dimension(1e-4) == 1
    assert torch.allclose(penalty.directions[0].abs(), torch.full((2,), math.sqrt(0.5)).double())
    assert "0.71 translation x" in penalty.report(1e-4)


def test_weights_may_be_scaled():
    model = fno(P, FLOW, positional_embedding="grid")
    penalty = promote(model, SE2 * MIRRORS, P, FLOW, level="weights", **EXACT)
    value = penalty()
    assert number(gradients(penalty, penalty()) @ torch.cat(
        [w.detach().flatten() for w in model.parameters()]
    )) == pytest.approx(0, abs=1e-9)  # fmt: skip
    with torch.no_grad():
        for w in model.parameters():
            w *= 10
    assert torch.allclose(penalty(), value)
    assert set(penalty.element_defects) == {g.name for g in MIRRORS.elements[1:]}


def test_weights_that_take_turns_have_the_same_mean_gradient(monkeypatch):
    monkeypatch.setattr("fieldsym.symmetry.promote_weights.LARGE", 60)
    model = fno(P, FLOW, positional_embedding="grid")
    every, one = (
        promote(model, SE2 * MIRRORS, P, FLOW, level="weights", estimator=name, **EXACT)
        for name in ("all", "one")
    )
    whole = gradients(every, every())
    parts, values = [], []
    for _ in range(2 * len(model.layers) + 1):  # every multiplier twice, and the rest together
        values.append(one())
        parts.append(gradients(one, values[-1]))
    assert torch.allclose(torch.stack(values), every().expand(len(values)))
    assert torch.allclose(torch.stack(parts).mean(0), whole, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(parts[0], whole, rtol=0.1)


def test_training_weights_needs_no_data():
    model = fno(P, P, positional_embedding="grid")
    penalty = promote(model, SHIFTS, P, P, level="weights", ema=0.0)
    optimiser, values = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(60):
        optimiser.zero_grad()
        penalty.reset()
        penalty.loss.backward()
        optimiser.step()
        values.append(number(penalty.loss))
    assert values[-1] < 0.1 * values[0]
    assert not model._forward_pre_hooks


# Training -----------------------------------------------------------------------------------------


def trained(gamma, steps=30):
    """Fit one shift by a cell; the defect of translations afterwards."""
    model, u = fno(P, P, torch.float32, positional_embedding="grid"), sections(P, batch=4).float()
    penalty = promote(model, SHIFTS, P, P)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        y, value = penalty.with_output(u)
        ((y - u.roll(1, -1)).square().mean() + gamma * value).backward()
        optimiser.step()
    found = measure(model, penalty.generators, (), u, P, P)
    return number((found.gram.trace() / found.size).sqrt())


def test_training_drives_the_defect_down():
    assert trained(1.0) < 0.5 * trained(0.0)


class Fields(torch.utils.data.Dataset):
    """Pairs of a field and its image, as neuraloperator's Trainer takes them."""

    def __init__(self):
        self.x = sections(P, batch=8, dtype=torch.float32)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "y": self.x[i].roll(1, -1)}


def foreign(**options):
    models = pytest.importorskip("neuralop.models")
    torch.manual_seed(0)
    return models.FNO(**{"n_modes": (5, 5), "in_channels": 1, "out_channels": 1,
                         "hidden_channels": 4, "n_layers": 1} | options)  # fmt: skip


def run_trainer(penalty, model, epochs=3):
    from neuralop.training import Trainer

    loader = torch.utils.data.DataLoader(Fields(), batch_size=4)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    Trainer(model=model, n_epochs=epochs, eval_interval=100).train(
        loader, {}, optimiser, torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0),
        regularizer=penalty,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:FNO.forward:UserWarning")  # it is given the target too
def test_neuraloperators_trainer_takes_it_as_regularizer():
    """Its default grid embedding breaks translations."""
    u, defects = Fields().x, []
    for gamma in (0.0, 5.0):
        model = foreign()
        penalty = promote(model, SHIFTS, P, P)
        penalty.gamma = gamma
        run_trainer(penalty, model)
        assert penalty.state_dict()["calls"] == 6  # once a batch, though it is read twice
        found = measure(model, penalty.generators, (), u, P, P)
        defects.append(number((found.gram.trace() / found.size).sqrt()))
    assert defects[1] < 0.7 * defects[0]


def test_loss_is_the_penalty_at_the_last_input_of_training():
    model, u = fno(P, P, positional_embedding="grid"), sections(P)
    penalty, twin = (promote(model, SHIFTS * MIRRORS, P, P, ema=0.0) for _ in range(2))
    penalty.gamma = 2.0
    penalty.reset()
    with pytest.raises(fs.DataError, match=r"has not seen an input.*call reset\(\)"):
        _ = penalty.loss
    model(u)
    with torch.no_grad():
        model(0 * u)
    model.eval()(2 * u)
    model.train()
    assert torch.allclose(penalty.loss, 2 * twin(u))
    assert penalty.loss is penalty.loss
    assert not model._forward_pre_hooks
    penalty.reset()
    model(u[:1])
    penalty(u)  # calls the model too
    assert torch.allclose(penalty.loss, 2 * twin(u[:1]))


def test_lightning_adds_it_to_a_loss():
    lightning = pytest.importorskip("lightning")

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = fno(P, P, torch.float32, positional_embedding="grid")
            self.penalty = promote(self.net, SHIFTS * MIRRORS, P, P, estimator="one")
            self.seen = []

        def training_step(self, batch):
            y, penalty = self.penalty.with_output(batch["x"])
            self.seen.append(number(penalty))
            return (y - batch["y"]).square().mean() + 0.1 * penalty

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-3)

    task = Task()
    before = [w.clone() for w in task.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on workers and the length of an epoch
        lightning.Trainer(
            max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu",
        ).fit(task, torch.utils.data.DataLoader(Fields(), batch_size=4))  # fmt: skip
    assert len(task.seen) == 3
    assert all(math.isfinite(v) and v > 0 for v in task.seen)
    assert sum(w.numel() for w in before) == sum(w.numel() for w in task.net.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True))


def test_training_goes_on_from_a_state():
    model, u = fno(P, P, positional_embedding="grid"), sections(P, batch=5)
    group, options = SHIFTS * MIRRORS, {"estimator": "one", "ema": 0.5}
    first, second = (promote(model, group, P, P, **options) for _ in range(2))
    for i in range(3):
        first((1 + i) * u)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.element_defects == pytest.approx(first.element_defects, nan_ok=True)
    for penalty in (first, second):
        torch.manual_seed(1)
        penalty.after = [number(penalty(u)) for _ in range(10)]
    assert first.after == second.after
    assert torch.equal(first.singular_values, second.singular_values)


def test_copies_and_pickles_have_a_model_of_their_own():
    penalty = promote(fno(P, P, positional_embedding="grid"), SHIFTS, P, P)
    penalty.reset()
    u = sections(P)
    for other in (copy.deepcopy(penalty), pickle.loads(pickle.dumps(penalty))):
        other.model(u)
        assert torch.allclose(other.loss, promote(penalty.model, SHIFTS, P, P)(u))
        assert penalty._seen is None


# Saboteurs ----------------------------------------------------------------------------------------


def broken_drho(self, xi):
    return -WHOLE_DRHO(self, xi)


WHOLE_DRHO = Representation.drho


def assert_gradient_field_commutes_with_rotations():
    wind, u = fs.Bundle(SQUARE, "vector v"), sections(S, (48, 48))
    penalty = promote(lambda p: SQUARE.gradient(p)[:, 0], fs.groups.e(2), S, wind,
                      region=SQUARE.disk(0.4), **EXACT)  # fmt: skip
    assert number(penalty(u)) < 1e-4


def test_a_gradient_commutes_with_rotations_translations_and_reflections():
    assert_gradient_field_commutes_with_rotations()


def test_wrong_sign_of_the_fibre_is_seen():
    with patch.object(Representation, "drho", broken_drho), pytest.raises(AssertionError):
        assert_gradient_field_commutes_with_rotations()


class BrokenSquaredNorm(NuclearNorm):
    """Σ σ², which never reaches zero."""

    def __call__(self, gram):
        self.observe(gram)
        return gram.trace()


class BrokenLossyNorm(NuclearNorm):
    """The Gram matrix without its graph."""

    def __call__(self, gram):
        return super().__call__(gram.detach()) + 0 * gram.sum()


def assert_grows_linearly():
    """Of F = (1 + a sin) u at u = 1 + o(a): the penalty of translations and mirrors is O(a)."""
    u = sections(P)
    values = [number(promote(Modulated(a), SHIFTS, P, P, **EXACT)(u)) for a in (1e-3, 2e-3)]
    assert values[1] / values[0] == pytest.approx(2, rel=1e-2)


def test_the_norm_is_not_squared():
    assert_grows_linearly()


@pytest.mark.parametrize(("broken", "law"), [
    (BrokenSquaredNorm, assert_grows_linearly),
    (BrokenSquaredNorm, assert_nuclear_norm),
    (BrokenLossyNorm, assert_gradient_is_the_slope),
])  # fmt: skip
def test_broken_norms_fail(broken, law):
    with patch("fieldsym.symmetry.promote.NuclearNorm", broken), pytest.raises(AssertionError):
        law()


def test_biased_draws_fail():
    with pytest.raises(AssertionError):
        assert_unbiased(weight=1.01)


# Bad input ----------------------------------------------------------------------------------------

ERRORS = {
    "level": ({"level": "layer"}, fs.GroupError, r"level is one of \('operator', 'weights'\)"),
    "estimator": ({"estimator": "some"}, fs.GroupError, r"estimator is one of \('all', 'one'\)"),
    "samples": ({"samples": 0}, fs.DataError, "1 or more; got 0"),
    "half a sample": ({"samples": 1.5}, fs.DataError, "a whole number, 1 or more; got 1.5"),
    "region": ({"region": 0.4}, fs.GridError, r"region is a Region, .*got 0.4"),
    "mean": ({"estimator": "one", "ema": -0.5}, fs.DataError, "ema is the share .* got -0.5"),
    "mean in words": ({"estimator": "one", "ema": "x"}, fs.DataError, "ema is .* got 'x'"),
    "weights and fields": (
        {"level": "weights", "samples": 2}, fs.GroupError, "reads the weights and no fields"),
    "fields and weights": (
        {"hidden": "scalar"}, fs.GroupError, "hidden and spectra belong to level='weights'"),
    "weights of a function": (
        {"level": "weights", "model": torch.square}, fs.BundleError, "needs a module"),
    "rotation without region": (
        {"group": SE2}, fs.GroupError, "rotation xy turns or stretches .*inside a region"),
    "region of another base": (
        {"region": SQUARE.disk(0.4)}, fs.GridError, "The region is a part of Torus"),
    "quarter turn of a rectangle": (
        {"group": D4}, fs.GroupError, "it has no rotation 90°"),
    "quarter turn beside rotations": (
        {"group": fs.groups.so(2) * D4, "region": OBLONG.disk(0.8)}, fs.GroupError,
        "it has no rotation 90°"),
    "dimension": ({"group": fs.groups.se(3)}, fs.GroupError, "acts in 3 dimensions"),
    "no group": ({"group": "se(2)"}, fs.GroupError, "promote needs a Group"),
    "trivial group": (
        {"group": fs.groups.trivial(2)}, fs.GroupError, "nothing to promote"),
    "two bases": ({"out_bundle": S}, fs.BundleError, "live on one base"),
    "no bundle": ({"in_bundle": "scalar"}, fs.BundleError, "promote needs a Bundle"),
    "no operator": ({"model": 3}, fs.BundleError, "promote needs an operator"),
    "exponent": ({"p": 2.0}, fs.DataError, "p is the exponent"),
}  # fmt: skip


SPECTRA = {
    "channels": (torch.zeros(2, 3, 16, 24), fs.BundleError, "3 channels where the bundle has 1"),
    "integers": (torch.zeros(2, 1, 16, 24, dtype=torch.long), fs.BundleError, "Got torch.int64"),
    "empty": (torch.zeros(0, 1, 16, 24), fs.DataError, "spectra of promote needs at least one"),
    "NaN": (torch.full((2, 1, 16, 24), torch.nan), fs.DataError, "of spectra .* hold NaN or inf"),
    "large": (torch.full((2, 1, 16, 24), 1e300, dtype=torch.float64), fs.DataError,
              "The input of .* is not finite for the fields of spectra"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPECTRA)
def test_spectra_are_of_finite_sections(case):
    spectra, error, message = SPECTRA[case]
    model = fno(P, P, n_layers=3, non_linearity=torch.square)
    with pytest.raises(error, match=message):
        promote(model, SHIFTS, P, P, level="weights", spectra=spectra)


def test_spectra_may_have_two_batch_axes():
    model, u = fno(P, P, positional_embedding="grid"), sections(P, batch=4)
    values = [promote(model, SE2, P, P, level="weights", spectra=x)()
              for x in (u, u.reshape(2, 2, 1, 16, 24))]  # fmt: skip
    assert torch.equal(*values)


def test_weights_that_cannot_be_read_leave_the_operator():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

    for model in (Own(), nn.ReLU()):
        with pytest.raises(fs.GroupError, match="level='operator' takes any module"):
            promote(model, SHIFTS, P, P, level="weights")


def assert_counts_of_neuraloperator(width, embedding, number):
    """As it comes, the directions that the operator breaks."""
    model = foreign(hidden_channels=width, n_layers=4, positional_embedding=embedding)
    penalty = promote(model, SHIFTS, P, P, level="weights")
    penalty().backward()
    assert penalty.broken_dimension() == number
    assert penalty.report().startswith(f"{number} of 2 directions broken")


@pytest.mark.parametrize(("embedding", "number"), [("grid", 2), (None, 0)])
@pytest.mark.parametrize("width", [8, 32])
def test_the_grid_embedding_of_neuraloperator_breaks_translations(width, embedding, number):
    assert_counts_of_neuraloperator(width, embedding, number)


def test_a_size_of_all_weights_hides_what_a_wide_model_breaks(monkeypatch):
    monkeypatch.setattr(WeightGram, "by_layer", broken.relative_to_all_weights)
    with pytest.raises(AssertionError):
        assert_counts_of_neuraloperator(32, "grid", 2)


@pytest.mark.parametrize("width", [4, 32])
@pytest.mark.parametrize("seen", [(1.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_what_is_broken_is_judged_by_layer(width, seen):
    """σ = (2/L) ‖w_x‖ / ‖W‖ of the lifting alone, times the step; without a call of the penalty."""
    model = fno(P, P, hidden_channels=width, positional_embedding="grid")
    lifting = model.lifting.first.weight.matrices
    with torch.no_grad():
        lifting[..., 1:] *= torch.tensor(seen).to(lifting)
    penalty = promote(model, SHIFTS, P, P, level="weights", **EXACT)
    columns = lifting[0, 0, :, 1:].detach() / torch.tensor(OBLONG.lengths).to(lifting)
    wanted = torch.linalg.svdvals(2 * (2.0 / (2 * math.pi)) * columns / lifting.norm())
    assert penalty.broken_dimension() == sum(seen)
    first, *lines = penalty.report().splitlines()
    assert first == f"{sum(seen):.0f} of 2 directions broken"
    shown = [float(line.split()[0]) for line in lines]
    assert shown == pytest.approx(wanted.tolist(), rel=5e-3, abs=1e-12)
    if seen == (1.0, 0.0):
        assert lines[0].endswith("  1.00 translation x")
    penalty()  # its own values stay relative to all weights
    size = penalty._weights()[2]
    assert torch.allclose(penalty.singular_values, wanted * number(lifting.norm() / size))


def test_elements_are_judged_by_layer():
    """max_l ‖K_g W_l − W_l‖/‖W_l‖, more than relative to all weights at once."""
    model = fno(P, P, positional_embedding="grid")
    penalty = promote(model, MIRRORS, P, P, level="weights", **EXACT)
    differences = penalty._weights.by_layer()[1]
    wanted = differences.amax(0)
    shown = [float(line.split()[0]) for line in penalty.report().splitlines()]
    assert shown == pytest.approx(wanted.tolist(), rel=5e-3)
    penalty()
    assert max(penalty.element_defects.values()) < 0.9 * min(shown)
    with torch.no_grad():
        model.lifting.first.weight.matrices.fill_(math.nan)
    with pytest.raises(fs.DataError, match="weights of the model are all zero or not finite"):
        penalty.report()


def test_elements_that_were_not_drawn_are_said_to_be_so():
    torch.manual_seed(0)
    penalty = promote(Modulated(0.5), MIRRORS, P, P, estimator="one")
    assert penalty.report().count("not yet looked at  ") == 3
    penalty(sections(P))
    assert penalty.report().count("not yet looked at  ") == 2
    assert "nan" not in penalty.report()
    assert sum(math.isnan(value) for value in penalty.element_defects.values()) == 2


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("estimator", ["all", "one"])
@pytest.mark.parametrize("group", [SHIFTS, MIRRORS])
def test_what_is_not_finite(group, estimator, number):
    u = sections(P)
    u[1, 0, 3, 5] = number
    with pytest.raises(fs.DataError, match="fields of promote hold NaN or infinity"):
        promote(fno(P, P), group, P, P, estimator=estimator)(u)
    with pytest.raises(fs.DataError, match="output of the model is not finite for finite fields"):
        promote(lambda v: v + number, group, P, P, estimator=estimator)(sections(P))


def test_a_moved_field_whose_image_is_not_finite():
    def picky(u):
        return torch.where(u[..., 3:4, 5:6] > 0, u, torch.nan)

    u = -torch.ones(1, 1, 16, 24, dtype=torch.float64)
    u[..., 3, 5] = 1
    assert picky(u).isfinite().all()
    with pytest.raises(fs.DataError, match="output of the model is not finite for finite fields"):
        promote(picky, MIRRORS, P, P)(u)


@pytest.mark.parametrize("group", [SHIFTS, MIRRORS, fs.groups.translations(2, axes=[0])])
@pytest.mark.parametrize(("output", "message"), [
    (lambda u: (u, u), "Got tuple; convert it"), (lambda u: [u], "Got list; convert it"),
    (lambda u: None, "Got NoneType"), (lambda u: {"y": u}, "Got dict"),
    (lambda u: u[:1], r"returned shape \(1, 1, 16, 24\) for 3 samples"),
])  # fmt: skip
def test_outputs_that_are_no_sections(group, output, message):
    with pytest.raises(fs.BundleError, match=message):
        promote(output, group, P, P)(sections(P))


@pytest.mark.parametrize("options", [
    {}, {"estimator": "one"}, {"region": OBLONG.disk(0.8)}, {"group": MIRRORS},
])  # fmt: skip
def test_empty_batches(options):
    penalty = promote(**{"model": fno(P, P), "group": SHIFTS, "in_bundle": P, "out_bundle": P}
                      | options)  # fmt: skip
    for call in (penalty, penalty.with_output):
        with pytest.raises(fs.DataError, match=r"at least one sample; got shape \(0, 1, 16, 24\)"):
            call(torch.zeros(0, 1, 16, 24, dtype=torch.float64))


def test_level_weights_takes_no_fields():
    """Where an output is asked for too, and where a trainer reads the loss, it still works."""
    model, u = fno(P, P, positional_embedding="grid"), sections(P)
    penalty = promote(model, SHIFTS, P, P, level="weights")
    with pytest.raises(fs.DataError, match=r"takes no fields: call it as penalty\(\)"):
        penalty(u)
    y, value = penalty.with_output(u)
    assert torch.equal(y, model(u))
    penalty.reset()
    model(u)
    assert torch.allclose(penalty.loss, value)


@pytest.mark.parametrize("weight", [0.0, math.nan, math.inf])
def test_weights_that_nothing_is_relative_to(weight):
    model = fno(P, P, positional_embedding="grid")
    penalty = promote(model, MIRRORS, P, P, level="weights")
    for w in model.parameters():
        w.data.fill_(weight)
    with pytest.raises(fs.DataError, match="weights of the model are all zero or not finite"):
        penalty()


def test_states_of_something_else():
    penalty = promote(Modulated(0.1), SHIFTS * MIRRORS, P, P)
    with pytest.raises(fs.DataError, match=r"it lacks norm, calls, defects\. Give what its"):
        penalty.load_state_dict({})
    with pytest.raises(fs.DataError, match="it lacks norm, calls, defects"):
        penalty.load_state_dict([1])
    with pytest.raises(fs.DataError, match="it lacks sum, grams, paid_for"):
        penalty.load_state_dict(penalty.state_dict() | {"norm": {}})


def test_reports_without_directions_do_not_count_them():
    penalty = promote(lambda u: u**2, MIRRORS, P, P)
    penalty(sections(P))
    assert "directions" not in penalty.report()
    assert len(penalty.report().splitlines()) == 3


def test_combinations_have_one_sign_style():
    along = [combined(c, SHIFTS.generators).name for c in ([-0.3, 0.95], [-0.3, -0.95])]
    assert along == ["−0.30 translation x + 0.95 translation y",
                     "−0.30 translation x − 0.95 translation y"]  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_promoted(case):
    options, error, message = ERRORS[case]
    options = {"model": Modulated(0.1), "group": SHIFTS, "in_bundle": P, "out_bundle": P} | options
    with pytest.raises(error, match=message):
        promote(**options)


def test_what_cannot_be_measured():
    penalty = promote(Modulated(0.1), SHIFTS * MIRRORS, P, P)
    with pytest.raises(fs.DataError, match=r"at fields: call it as penalty\(x\)"):
        penalty()
    with pytest.raises(fs.BundleError, match="promote expects sections"):
        penalty(torch.zeros(2, 3, 16, 24))
    for ask in (penalty.broken_dimension, penalty.report):
        with pytest.raises(fs.DataError, match=r"call the penalty once \(penalty\(x\), or penalty"):
            ask()
    with pytest.raises(fs.DataError, match="Build it for the same group"):
        penalty.load_state_dict(promote(Modulated(0.1), SHIFTS, P, P).state_dict())
    with pytest.raises(fs.BundleError, match="The output bundle of promote"):
        promote(lambda u: u[:, 0], SHIFTS, P, P)(sections(FLOW)[:, :1])
