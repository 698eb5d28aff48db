"""Training: loss, windows, interruption and resumption, early stopping, exact symmetry, masks."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import fieldsym as fs
from fieldsym.bundle import Bundle
from fieldsym.config import TrainConfig
from fieldsym.data.augment import RandomAction
from fieldsym.data.fields import Fields
from fieldsym.errors import DataError, GridError, GroupError
from fieldsym.manifold import Torus
from fieldsym.train import Batches, _Trainer, build, parts, relative_error, train

SQUARE = Torus((2.0, 2.0))
TINY = TrainConfig(
    n_modes=5, hidden_channels=8, n_layers=1, epochs=3, batch_size=4, learning_rate=1e-2,
    train=0.5, valid=0.25, accelerator="cpu",
)  # fmt: skip


def moving(
    types: str = "pseudoscalar w", base: Torus = SQUARE, grid: tuple[int, int] = (16, 16)
) -> Fields:
    """Eight trajectories of four states under diffusion, each block with a scale of its own."""
    bundle = Bundle(base, types)
    heat = fs.simulate.heat_flow(base, 0.005)
    u = fs.testing.random_section(bundle, grid, batch=8)
    states = [u]
    for _ in range(3):
        states.append(heat(states[-1]))
    values = torch.stack(states, 1)
    for k, where in enumerate(bundle.slices.values()):
        values[:, :, where] *= 3.0 * (k + 1)
    return Fields.of(bundle, values.float())


def clock(steps: int = 20) -> Fields:
    """A series whose value everywhere is the index of the step."""
    bundle = Bundle(Torus((2.0, 3.0)), "scalar p")
    values = torch.arange(float(steps)).view(steps, 1, 1, 1).expand(steps, 1, 6, 8).clone()
    return Fields.of(bundle, values)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob(".*")]


# ---------------------------------------------------------------------------------------- the loss


def test_the_relative_error_uses_weights_and_mask():
    """Two points of weight 1 and 3 count, a third is masked: sqrt((1·1 + 3·4) / (1·9 + 3·16))."""
    p = Bundle(Torus((1.0,)), "scalar p")
    weights = torch.tensor([1.0, 3.0, 0.0])
    target = torch.tensor([[[3.0, 4.0, 7.0]], [[3.0, 4.0, 1e10]]])
    error = torch.tensor([1.0, -2.0, 100.0])
    got = relative_error(p, target + error, target, weights)
    torch.testing.assert_close(got, torch.full((2,), (13 / 57) ** 0.5))


def test_the_relative_error_counts_the_off_diagonal_part_of_a_tensor_twice():
    s = Bundle(Torus((1.0, 2.0)), "symmetric tensor s + vector u")
    weights = s.base.weights((4, 6)).float()
    target = torch.tensor([1.0, 2.0, 3.0, 0.0, 1.0]).view(1, 5, 1, 1).expand(1, 5, 4, 6)
    wrong = target + torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).view(5, 1, 1)
    got = relative_error(s, wrong, target, weights)
    torch.testing.assert_close(got, torch.tensor([(2 / (1 + 4 + 2 * 9 + 1)) ** 0.5]))


@pytest.mark.parametrize("target", [0.0, 2.0])
def test_the_relative_error_has_a_finite_gradient_at_a_perfect_forecast(target):
    """Also for a state at rest, whose size is zero."""
    p = Bundle(Torus((1.0,)), "scalar p")
    y = torch.full((1, 1, 4), target)
    forecast = y.clone().requires_grad_()
    error = relative_error(p, forecast, y, torch.full((4,), 0.25))
    error.sum().backward()
    assert float(error.detach()) < 1e-15
    assert torch.isfinite(forecast.grad).all()


def test_a_state_at_rest_has_a_finite_error():
    p = Bundle(Torus((1.0,)), "scalar p")
    y = torch.zeros(1, 1, 4)
    forecast = torch.full_like(y, 3.0).requires_grad_()
    error = relative_error(p, forecast, y, torch.full((4,), 0.25))
    error.sum().backward()
    assert torch.isfinite(error).all()
    assert torch.isfinite(forecast.grad).all()
    assert float(error.detach()) == pytest.approx(3e7)


# ---------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize(
    ("history", "lead", "horizon"), [(1, 1, 1), (3, 1, 1), (2, 1, 3), (1, 3, 2), (2, 3, 1)]
)
def test_inputs_and_targets_are_the_steps_that_the_configuration_names(history, lead, horizon):
    config = replace(TINY, history=history, lead=lead, horizon=horizon, batch_size=64)
    model = build(clock(), config)
    batches = Batches(clock(), model, config, history=history, lead=lead)
    (x, y), = batches.batches(torch.device("cpu"))  # fmt: skip
    x, y = (model.normaliser.decode(z)[..., 2, 3].round() for z in (x, y))
    latest = torch.arange(history - 1.0, 20 - lead * horizon)
    assert torch.equal(x, latest[:, None] - torch.arange(float(history)))
    assert torch.equal(y, latest[:, None] + lead * torch.arange(1.0, horizon + 1))


class Advance(nn.Module):
    """An operator that adds a constant."""

    def __init__(self, amount: float):
        super().__init__()
        self.amount = nn.Parameter(torch.tensor(amount))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.amount * torch.ones_like(x[:, :1])


@pytest.mark.parametrize(
    ("history", "lead", "horizon"), [(2, 1, 3), (1, 3, 2), (2, 3, 1), (1, 1, 4)]
)
def test_the_loss_feeds_forecasts_back(history, lead, horizon):
    """A clock that advances by ``lead`` is right; one that is late by 1 errs by 1, 2, 3, …"""
    from lightning.fabric import Fabric

    config = replace(TINY, history=history, lead=lead, horizon=horizon, batch_size=64)
    fields = clock()
    losses = {}
    for late in (0, 1):
        model = build(fields, config)
        scale = float(model.normaliser.scale)
        model.operator = Advance((lead - late) / scale)
        trainer = _Trainer(model, fields, fields, config)
        trainer.setup(Fabric(accelerator="cpu", devices=1))
        losses[late] = trainer.validate()
    latest = torch.arange(history - 1.0, 20 - lead * horizon)
    truth = latest[:, None] + lead * torch.arange(1.0, horizon + 1) - float(model.normaliser.mean)
    expected = (torch.arange(1.0, horizon + 1) / truth.abs()).mean()
    assert losses[0] < 1e-5
    assert losses[1] == pytest.approx(float(expected), rel=1e-4)


def test_parts_leave_room_for_a_window():
    config = replace(TINY, history=1, lead=3, horizon=2, train=0.4, valid=0.35)
    assert [p.steps for p in parts(clock(28), config)] == [11, 10, 7]
    with pytest.raises(DataError, match=r"leaves a part with fewer than 7; it needs at least"):
        parts(clock(20), config)


# ---------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("group", ["none", "dihedral(4)"])
def test_the_error_falls_and_every_parameter_gets_a_gradient(group, tmp_path):
    fields = moving("scalar p + vector u")
    config = replace(TINY, group=group, epochs=6, batch_size=2, horizon=2, learning_rate=4e-2)
    seen = []
    model = train(fields, config, tmp_path, progress=lambda *a: seen.append(a))
    assert [(a, b) for a, b, _ in seen] == [(k, 6) for k in range(1, 7)]
    errors = [e for *_, e in seen]
    assert errors[-1]["train"] < 0.6 * errors[0]["train"]
    assert errors[-1]["valid"] < 0.7 * errors[0]["valid"]
    assert not model.training
    x = model.normaliser.encode(fields.values[:4, 0])
    y = model.normaliser.encode(fields.values[:4, 1])
    loss = relative_error(fields.bundle, model.step(x), y, fields.weights.float()).mean()
    loss.backward()
    assert torch.isfinite(loss)
    for name, p in model.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().max() > 0, name


def test_a_field_at_rest_does_not_spoil_the_training(tmp_path):
    """A D4 operator is exactly right there, where a square root has no slope."""
    fields = moving()
    fields.values[0] = 0.0
    model = train(fields, replace(TINY, group="dihedral(4)", epochs=1), tmp_path)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_schedule_ends_at_zero(tmp_path):
    train(moving(), TINY, tmp_path)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content["schedule"]["last_epoch"] == 3 * 3  # 12 windows in batches of 4
    assert content["schedule"]["_last_lr"][0] == pytest.approx(0.0, abs=1e-12)


def test_every_epoch_has_an_order_of_its_own_with_every_window_once(tmp_path, monkeypatch):
    orders = []
    original = Batches.batches

    def batches(self, device, order=None):
        orders.append(order)
        return original(self, device, order)

    monkeypatch.setattr(Batches, "batches", batches)
    train(moving(), TINY, tmp_path)
    first, valid, second, _, third, _ = orders
    assert valid is None
    assert all(sorted(o.tolist()) == list(range(12)) for o in (first, second, third))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_the_same_seed_gives_the_same_result_and_another_seed_another(tmp_path):
    fields, config = moving(), replace(TINY, epochs=2, augment="dihedral(4)")
    runs = [config, config, replace(config, seed=1)]
    for k, own in enumerate(runs):
        torch.manual_seed(k)
        train(fields, own, tmp_path / str(k))
    first, again, other = (tensors(tmp_path / str(k) / "best.pt") for k in range(3))
    assert same(first, again)
    assert not same(first, other)


def test_training_leaves_the_random_numbers_of_the_caller_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(moving(), replace(TINY, epochs=1), tmp_path)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("errors", "patience", "epochs", "best"),
    [
        ([5.0, 3.0, 4.0, 4.0, 1.0], 2, 4, 2),
        ([5.0, 3.0, 4.0, 2.0, 4.0], 2, 5, 4),
        ([5.0, 4.0, 3.0, 2.0, 1.0], 1, 5, 5),
        ([1.0, 1.0, 1.0, 1.0, 1.0], 3, 4, 1),
    ],
)
def test_training_stops_by_patience_and_keeps_the_best_epoch(
    errors, patience, epochs, best, tmp_path, monkeypatch
):
    sequence = iter(errors)
    monkeypatch.setattr(_Trainer, "validate", lambda self: next(sequence))
    states = []
    original = _Trainer.save

    def save(self, out):
        states.append({k: v.clone() for k, v in self.model.state_dict().items()})
        original(self, out)

    monkeypatch.setattr(_Trainer, "save", save)
    model = train(moving(), replace(TINY, epochs=5, patience=patience), tmp_path)
    assert len(states) == epochs
    assert same(tensors(tmp_path / "best.pt"), states[best - 1])
    assert same(dict(model.state_dict()), states[best - 1])
    assert same(tensors(tmp_path / "last.pt"), states[-1])
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content["run"] == {"epoch": epochs, "best": errors[best - 1], "best_epoch": best}
    assert [e["valid"] for e in content["curve"]] == errors[:epochs]


# ---------------------------------------------------------------------------------------- resuming


class Stop:
    """Raise an error at the n-th call, and pass the others on."""

    def __init__(self, function, at, error):
        self.function, self.left, self.error = function, at, error

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if not self.left:
            raise self.error
        return self.function(*args, **kwargs)


def _between_epochs(monkeypatch):
    return {"progress": Stop(lambda *_: None, 2, KeyboardInterrupt())}


def _inside_an_epoch(monkeypatch):
    # 2 batches per epoch: the second of the third
    stop = Stop(RandomAction.__call__, 6, KeyboardInterrupt())
    monkeypatch.setattr(RandomAction, "__call__", lambda *a: stop(*a))
    return {}


def _while_saving(monkeypatch):
    stop = Stop(torch.save, 4, OSError("disk full"))

    def broken(content, file):
        file.write(b"half a file")
        stop(content, file)

    real = torch.save
    monkeypatch.setattr(torch, "save", lambda c, f: broken(c, f) if stop.left == 1 else stop(c, f))
    stop.function = real
    return {}


def _before_the_name_changes(monkeypatch):
    stop = Stop(Path.replace, 3, KeyboardInterrupt())
    monkeypatch.setattr(Path, "replace", lambda *a: stop(*a))
    return {}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Two runs to the end, one of a surrogate with a history."""
    out = tmp_path_factory.mktemp("whole")
    config = replace(TINY, epochs=4, augment="dihedral(4)", history=2, horizon=2, batch_size=2)
    train(moving("scalar p + vector u"), config, out)
    return config, out


@pytest.mark.parametrize(
    "interrupt", [_between_epochs, _inside_an_epoch, _while_saving, _before_the_name_changes]
)
def test_an_interrupted_training_resumes_to_the_same_bits(interrupt, uninterrupted, tmp_path):
    config, whole = uninterrupted
    fields = moving("scalar p + vector u")
    with pytest.MonkeyPatch.context() as patch, pytest.raises((KeyboardInterrupt, OSError)):
        train(fields, config, tmp_path, **interrupt(patch))
    assert hidden(tmp_path) == []
    assert torch.load(tmp_path / "last.pt", weights_only=True)["run"]["epoch"] < 4
    train(fields, config, tmp_path, resume=True)
    for name in ("best.pt", "last.pt"):
        assert same(tensors(tmp_path / name), tensors(whole / name))
    a, b = (torch.load(p / "last.pt", weights_only=True) for p in (tmp_path, whole))
    assert a["curve"] == b["curve"]
    assert len(a["curve"]) == 4
    assert a["run"] == b["run"]
    assert torch.equal(a["augment"], b["augment"])
    assert (tmp_path / "curve.json").read_text() == (whole / "curve.json").read_text()


def test_resuming_a_finished_run_changes_nothing(uninterrupted):
    config, whole = uninterrupted
    before = {p.name: p.read_bytes() for p in whole.iterdir()}
    model = train(moving("scalar p + vector u"), config, whole, resume=True)
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == before
    assert same(dict(model.state_dict()), tensors(whole / "best.pt"))


def test_resuming_an_empty_folder_starts(tmp_path):
    train(moving(), replace(TINY, epochs=1), tmp_path / "new" / "run", resume=True)
    assert sorted(p.name for p in (tmp_path / "new" / "run").iterdir()) == [
        "best.pt", "curve.json", "last.pt",
    ]  # fmt: skip


def test_the_curve_is_written_as_json(uninterrupted):
    _, whole = uninterrupted
    curve = json.loads((whole / "curve.json").read_text())
    assert curve == torch.load(whole / "last.pt", weights_only=True)["curve"]
    assert set(curve[0]) == {"train", "valid"}


@pytest.mark.parametrize("kept", ["best.pt", "last.pt"])
def test_a_folder_that_holds_a_run_is_left_alone(kept, uninterrupted, tmp_path):
    config, whole = uninterrupted
    (tmp_path / kept).write_bytes((whole / kept).read_bytes())
    with pytest.raises(DataError, match=r"holds a training run already\. Resume it"):
        train(moving("scalar p + vector u"), config, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [kept]
    assert (tmp_path / kept).read_bytes() == (whole / kept).read_bytes()


def test_a_run_of_another_configuration_is_not_resumed(uninterrupted):
    config, whole = uninterrupted
    before = (whole / "last.pt").read_bytes()
    other = replace(config, hidden_channels=16, seed=2)
    with pytest.raises(DataError, match="hidden_channels was 8, now 16, seed was 0, now 2"):
        train(moving("scalar p + vector u"), other, whole, resume=True)
    assert (whole / "last.pt").read_bytes() == before


def test_a_run_on_other_data_is_not_resumed(uninterrupted):
    config, whole = uninterrupted
    before = (whole / "last.pt").read_bytes()
    fields = moving("scalar p + vector u")
    fields.values[:] *= 2
    with pytest.raises(DataError, match=r"last\.pt was trained on other data"):
        train(fields, config, whole, resume=True)
    assert (whole / "last.pt").read_bytes() == before


# ---------------------------------------------------------------------------------------- symmetry


def _channels(model, where, u):
    return model(u)[:, where]


def test_a_trained_d4_surrogate_is_exact_in_physical_units(tmp_path):
    """Units far from one, and a mean; the plain surrogate is the saboteur."""
    fields = moving("scalar p + pseudoscalar w + vector u")
    scale = torch.tensor([4.0, 1e-3, 50.0, 50.0]).view(4, 1, 1)
    fields.values[:] = fields.values * scale + torch.tensor([10.0, 0, 0, 0]).view(4, 1, 1)
    config = replace(TINY, history=2, epochs=2)
    bundle, worst = fields.bundle, {}
    for group in ("dihedral(4)", "none"):
        model = train(fields, replace(config, group=group), tmp_path / group)
        u = fields.values[-2:, 1:3].flip(1).flatten(1, 2)
        for name, block in zip(bundle.names, bundle.blocks, strict=True):
            part = partial(_channels, model, bundle.slices[name])
            worst[group, name] = max(
                float(
                    fs.finite_defect(part, g, u, model.in_bundle, Bundle(SQUARE, f"{block}")).max()
                )
                for g in fs.groups.dihedral(4).elements
            )
    for name in ("p", "w", "u"):
        assert worst["dihedral(4)", name] <= 1e-5
        assert worst["none", name] > 1e-2


# ---------------------------------------------------------------------------------------- masks


def masked(land: float) -> Fields:
    fields = moving("scalar p + vector u")
    mask = torch.ones(16, 16, dtype=torch.bool)
    mask[3:8, 5:7] = False
    fields.values[..., ~mask] = land
    return replace(fields, mask=mask)


def test_land_is_zero_in_the_output_and_its_values_do_not_matter(tmp_path):
    config = replace(TINY, horizon=2, history=2)
    models = {}
    for land in (0.0, 1e6):
        models[land] = train(masked(land), config, tmp_path / str(land))
    assert same(dict(models[0.0].state_dict()), dict(models[1e6].state_dict()))
    fields = masked(1e6)
    x = fields.values[:, :2].flip(1).flatten(1, 2)
    y = models[0.0](x)
    assert torch.equal(y[..., ~fields.mask], torch.zeros(8, 3, 10))
    assert y[..., fields.mask].abs().min() > 0
    assert torch.equal(y, models[0.0](masked(0.0).values[:, :2].flip(1).flatten(1, 2)))


def test_missing_values_on_land_in_memory(tmp_path):
    dry = masked(float("nan"))
    fields = Fields.of(dry.bundle, dry.values, mask=dry.mask)
    model = train(fields, replace(TINY, epochs=1), tmp_path)
    assert torch.isfinite(model(fields.values[:, 0])).all()


def test_augmentation_must_keep_the_mask(tmp_path):
    with pytest.raises(DataError, match=r"augment='dihedral\(4\)' moves the mask"):
        train(masked(0.0), replace(TINY, augment="dihedral(4)"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_augmentation_that_keeps_the_mask_is_allowed(tmp_path):
    fields = moving()
    mask = torch.ones(16, 16, dtype=torch.bool)
    mask[0] = False  # the elements fix the points x = 0 and x = L/2
    fields.values[..., ~mask] = 0
    config = replace(TINY, augment="reflections(2)", epochs=1)
    train(replace(fields, mask=mask), config, tmp_path)
    assert (tmp_path / "best.pt").exists()


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"n_modes": 4}, GridError, "3 or 5"),
        ({"n_modes": 17}, GridError, "17"),
        ({"hidden_channels": 12, "group": "dihedral(4)"}, GroupError, "got 12. Use 8 or 16"),
        ({"hidden_channels": 0}, DataError, "hidden_channels must be positive"),
        ({"group": "dihedral"}, GroupError, "dihedral needs its number of rotations"),
        ({"group": "so(2)"}, GroupError, "finite|does not act"),
        ({"augment": "se(2)"}, GroupError, "finite|does not act"),
        ({"history": 0}, DataError, "history must be positive"),
        ({"lead": 4}, DataError, "consecutive steps"),
        ({"epochs": 0}, DataError, "epochs must be positive; got 0"),
        ({"learning_rate": -1.0}, DataError, "learning_rate must be positive"),
        ({"history": 2, "lead": 2, "horizon": 2}, DataError, "cannot be fed back"),
        ({"valid": 0.0}, DataError, "valid must be positive"),
        ({"train": 0.75, "valid": 0.25}, DataError, "leave a test part"),
        ({"positional_embedding": "grid", "group": "cyclic(4)"}, GroupError, "positional"),
        ({"positional_embedding": "fourier"}, ValueError, "grid"),
    ],
)
def test_bad_configurations_say_what_to_change(changes, error, match, tmp_path):
    with pytest.raises(error, match=match):
        train(moving(), replace(TINY, **changes), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_group_that_does_not_act_on_the_grid_is_named(tmp_path):
    fields = moving(base=Torus((2.0, 3.0)), grid=(12, 16))
    with pytest.raises(GroupError, match=r"dihedral\(2\)"):
        train(fields, replace(TINY, group="dihedral(4)"), tmp_path / "a")
    with pytest.raises(GroupError, match=r"dihedral\(2\)"):
        train(fields, replace(TINY, augment="dihedral(4)"), tmp_path / "b")
    fields = moving(grid=(12, 16))
    for name in ("group", "augment"):
        with pytest.raises((GroupError, GridError), match=r"dihedral\(2\)|12 × 16"):
            train(fields, replace(TINY, **{name: "dihedral(4)"}), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_saved(tmp_path):
    fields, config = moving(), replace(TINY, learning_rate=1e25)
    with pytest.raises(DataError, match=r"not finite in epoch 1\. Use a smaller learning_rate"):
        train(fields, config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_double_precision_fields_can_be_learned(tmp_path):
    fields = moving()
    double = replace(fields, values=fields.values.double())
    model = train(double, replace(TINY, epochs=1), tmp_path)
    x = double.values[:, 0]
    assert model(x).dtype == torch.float64
    torch.testing.assert_close(model(x).float(), model(x.float()), rtol=1e-4, atol=1e-4)


def test_the_output_folder_must_be_writable(tmp_path):
    """Before anything is trained."""
    (tmp_path / "file").write_text("kept")
    epochs = []
    with pytest.raises(DataError, match=r"Cannot write to the folder .*run"):
        train(moving(), TINY, tmp_path / "file" / "run", progress=lambda *a: epochs.append(a))
    assert epochs == []
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("name", ["quantum", "tpu"])
def test_accelerators_that_are_not_there_are_refused(name, tmp_path):
    with pytest.raises(DataError, match=f"accelerator='{name}' cannot be used here"):
        train(moving(), replace(TINY, accelerator=name), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_configurations_survive_json():
    config = replace(TINY, group="cyclic(4)", variables="u,v")
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(DataError, match=r"Unknown configuration entries \['nmodes'\]"):
        TrainConfig.from_dict({"nmodes": 5})
