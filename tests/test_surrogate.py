"""Surrogates: checkpoints that hold tensors and JSON alone, refusals, roll-outs, precision."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import fieldsym as fs
from fieldsym.bundle import Bundle
from fieldsym.data.normalise import Normaliser
from fieldsym.errors import BundleError, DataError
from fieldsym.manifold import Box, Torus
from fieldsym.surrogate import Surrogate, read_checkpoint, save_atomically, save_json

SQUARE = Torus((2.0, 2.0))
TYPES = "scalar p + pseudoscalar w + vector u"
UNITS = {"p": "Pa", "u": "m s-1"}


def surrogate(
    base=SQUARE, types=TYPES, group="dihedral(4)", *, grid=(16, 16), mask=False, **options
) -> Surrogate:
    """Random weights, physical units far from one, a mean pressure."""
    bundle = Bundle(base, types)
    u = fs.testing.random_section(bundle, grid, batch=4) * 30
    u[:, 0] += 1000
    valid = torch.ones(grid, dtype=torch.bool)
    valid[3:8, 5:7] = False
    norm = Normaliser.fit(u, bundle, mask=valid if mask else None, units=UNITS)
    options = {"n_modes": 5, "hidden_channels": 8, "n_layers": 1, **options}
    return Surrogate(norm, fs.group.named(group, base.dim), **options)


def physical(model: Surrogate, grid=(16, 16), dtype=torch.float32) -> torch.Tensor:
    u = fs.testing.random_section(model.in_bundle, grid, batch=3, seed=5) * 30
    u[:, :: model.out_bundle.channels] += 1000
    return u.to(dtype)


VARIANTS = {
    "D4": {"notes": {"source": "flow.nc", "training": {"seed": 1}}},
    "C4 with history": {"group": "cyclic(4)", "history": 2},
    "plain with position": {"group": "none", "positional_embedding": "grid", "lead": 3},
    "D4 with mask": {"mask": True, "n_layers": 2},
    "unequal torus": {
        "base": Torus((2.0, 3.0), location="cell"), "group": "dihedral(2)", "grid": (12, 16),
    },
    "channel": {
        "base": Box((2.0, 3.0), periodic=(True, False), origin=(0.0, -1.5)),
        "group": "reflections(2)", "grid": (12, 16),
    },
    "tensors": {"types": "symmetric tensor s + 2 axial vector b"},
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_a_checkpoint_gives_the_same_surrogate_back(name, tmp_path):
    options = VARIANTS[name]
    model = surrogate(**options)
    path = tmp_path / "a" / "model.pt"
    model.save(path)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    back = Surrogate.load(path)
    assert torch.equal(torch.rand(1), expected)
    u = physical(model, options.get("grid", (16, 16)))
    with torch.no_grad():
        assert torch.equal(back(u), model(u))
    assert back.configuration() == model.configuration()
    assert (back.in_bundle, back.out_bundle) == (model.in_bundle, model.out_bundle)
    assert (back.history, back.lead, back.notes) == (model.history, model.lead, model.notes)
    assert back.normaliser.units == UNITS
    assert [p.name for p in path.parent.iterdir()] == ["model.pt"]


def test_a_checkpoint_is_tensors_and_one_text(tmp_path):
    model = surrogate(notes={"step": "2 hours"}, mask=True)
    model.save(tmp_path / "model.pt", curve=[{"valid": 0.5}])
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert set(content) == {"format", "config", "state_dict", "curve"}
    assert content["format"] == 2
    assert all(type(v) is torch.Tensor for v in content["state_dict"].values())
    config = json.loads(content["config"])
    assert config["types"] == TYPES
    assert config["base"]["lengths"] == [2.0, 2.0]
    assert config["operator"] == {
        "group": "dihedral(4)", "n_modes": 5, "hidden_channels": 8, "n_layers": 1,
        "positional_embedding": None,
    }  # fmt: skip
    assert config["normaliser"]["units"] == UNITS
    assert config["normaliser"]["mean"][0] == pytest.approx(1000, rel=0.1)
    assert config["normaliser"]["mean"][1:] == [0.0, 0.0, 0.0]
    assert config["normaliser"]["scale"][2] == config["normaliser"]["scale"][3]
    assert config["notes"] == {"step": "2 hours"}
    assert (config["history"], config["lead"]) == (1, 1)


# ---------------------------------------------------------------------------------------- refusals


def test_an_absent_checkpoint(tmp_path):
    with pytest.raises(DataError, match=r"There is no checkpoint .*none\.pt"):
        Surrogate.load(tmp_path / "none.pt")
    with pytest.raises(DataError, match="There is no checkpoint"):
        Surrogate.load(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_checkpoint(kept, tmp_path):
    path = tmp_path / "model.pt"
    surrogate().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(DataError, match=r"model\.pt is not a complete checkpoint \(.+\)\. Train"):
        Surrogate.load(path)


@pytest.mark.parametrize("where", [0.2, 0.4, 0.6, 0.8])
def test_a_damaged_checkpoint(where, tmp_path):
    path = tmp_path / "model.pt"
    surrogate(hidden_channels=32).save(path)
    whole = bytearray(path.read_bytes())
    whole[int(where * len(whole))] ^= 0x55
    path.write_bytes(whole)
    with pytest.raises(DataError, match="is not a complete checkpoint"):
        Surrogate.load(path)


@pytest.mark.parametrize(
    "content", [b"CDF\x01 not torch", b"hello\n", b"\x80\x02", bytes(1000)], ids=str
)
def test_a_file_of_another_kind(content, tmp_path):
    path = tmp_path / "data.nc"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.nc is not a complete checkpoint"):
        Surrogate.load(path)


class Unsafe:
    """What ``weights_only=True`` refuses to make."""


@pytest.mark.parametrize("content", [Unsafe(), {"format": 2, "config": Unsafe()}])
def test_a_pickle_of_objects_is_not_executed(content, tmp_path):
    torch.save(content, tmp_path / "objects.pt")
    with pytest.raises(DataError, match="is not a complete checkpoint"):
        Surrogate.load(tmp_path / "objects.pt")


@pytest.mark.parametrize("content", [torch.zeros(3), {"state_dict": {}}, [1, 2]])
def test_a_file_of_torch_that_is_no_checkpoint(content, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(DataError, match="expected the entries format, config and state_dict"):
        read_checkpoint(tmp_path / "weights.pt")


def altered(tmp_path: Path, **changes: object) -> Path:
    """A checkpoint with other entries, at the top level or in its configuration."""
    path = tmp_path / "model.pt"
    surrogate().save(path)
    content = torch.load(path, weights_only=True)
    config = json.loads(content["config"])
    for key, value in changes.items():
        if key in content:
            content[key] = value
        else:
            config[key] = {**config[key], **value} if isinstance(value, dict) else value
    if "config" not in changes:
        content["config"] = json.dumps(config)
    torch.save(content, path)
    return path


def test_a_checkpoint_of_another_format(tmp_path):
    path = altered(tmp_path, format=1)
    with pytest.raises(DataError, match="has format 1; this version reads format 2"):
        Surrogate.load(path)


@pytest.mark.parametrize(
    "operator", [{"hidden_channels": 16}, {"n_modes": 7}, {"n_layers": 2}, {"group": "cyclic(4)"}]
)
def test_tensors_of_another_configuration(operator, tmp_path):
    path = altered(tmp_path, operator=operator)
    entry = re.escape(str(operator).strip("{}"))
    with pytest.raises(DataError, match=rf"not those of this surrogate \(.*{entry}"):
        Surrogate.load(path)


@pytest.mark.parametrize("config", ["{", "{}", '{"base": 3}', "[]", "null"])
def test_a_configuration_that_cannot_be_read(config, tmp_path):
    path = altered(tmp_path, config=config)
    with pytest.raises(DataError, match=r"The configuration in .*model\.pt"):
        Surrogate.load(path)


def test_a_configuration_with_unknown_entries(tmp_path):
    path = altered(tmp_path, operator={"warp_factor": 9})
    with pytest.raises(DataError, match=r"The configuration in .*model\.pt.*warp_factor"):
        Surrogate.load(path)


# ---------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_failing_save_leaves_the_old_file(error, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    surrogate().save(path)
    before = path.read_bytes()

    def broken(content, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(type(error)):
        surrogate(n_modes=7).save(path)
    with pytest.raises(type(error)):
        surrogate().save(tmp_path / "other.pt")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_a_save_that_cannot_be_pickled_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.pt"
    save_atomically({"a": 1}, path)
    with pytest.raises((TypeError, AttributeError)):
        save_atomically({"a": (i for i in range(3))}, path)
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "scores.json"
    save_json({"a": [1.5]}, path)
    with pytest.raises(TypeError):
        save_json({"a": torch.zeros(2)}, path)
    assert json.loads(path.read_text()) == {"a": [1.5]}
    assert [p.name for p in path.parent.iterdir()] == ["scores.json"]


# ---------------------------------------------------------------------------------------- steps


def test_a_step_is_the_latest_state_and_a_correction():
    """With weights of zero the forecast is persistence, in every unit."""
    model = surrogate(history=3)
    for p in model.parameters():
        torch.nn.init.zeros_(p)
    u = physical(model)
    torch.testing.assert_close(model(u), u[:, :4])


@pytest.mark.parametrize(("history", "lead", "steps"), [(1, 1, 3), (2, 1, 3), (1, 4, 3), (3, 2, 1)])
def test_a_rollout_feeds_forecasts_back(history, lead, steps):
    model = surrogate(history=history, lead=lead)
    u = physical(model)
    with torch.no_grad():
        got = model.rollout(u, steps)
        assert got.shape == (3, steps, 4, 16, 16)
        for k in range(steps):
            y = model(u)
            scale = model.normaliser.scale.view(4, 1, 1)
            assert ((got[:, k] - y) / scale).abs().max() < 1e-3  # 1000 Pa in float32
            u = torch.cat([y, u[:, :-4]], 1)


def test_a_rollout_with_history_and_lead_is_refused():
    model = surrogate(history=2, lead=2)
    with pytest.raises(DataError, match="history 2 and lead 2 cannot be fed its own forecasts"):
        model.rollout(physical(model), 2)


def test_other_channels_are_refused():
    with pytest.raises(BundleError, match="k × 4"):
        surrogate()(torch.zeros(1, 3, 16, 16))


def test_double_precision_input_to_single_precision_weights():
    model = surrogate()
    u = physical(model, dtype=torch.float64)
    with torch.no_grad():
        y = model(u)
        single = model(u.float())
    assert (y.dtype, single.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(y, single.double(), rtol=1e-5, atol=1e-2)


def test_the_surrogate_is_exact_in_double_precision_and_a_plain_one_is_not():
    defects = {}
    for group in ("dihedral(4)", "none"):
        model = surrogate(group=group, history=2, n_layers=2).double()
        u = physical(model, dtype=torch.float64)
        defects[group] = max(
            float(fs.finite_defect(model, g, u, model.in_bundle, model.out_bundle).max())
            for g in fs.groups.dihedral(4).elements
        )
    assert defects["dihedral(4)"] < 1e-12
    assert defects["none"] > 1e-2


@pytest.mark.parametrize("options", [{}, {"history": 2}, {"mask": True}])
def test_a_forecast_is_pushed_forward(options):
    model = surrogate(**options).double()
    u = torch.cat([physical(model, dtype=torch.float64)] * 2)
    tangents = torch.randn(3, *u.shape, dtype=u.dtype)
    value, slopes = model.push_forward(u, tangents)
    assert torch.allclose(value, model(u), rtol=1e-12)
    for tangent, slope in zip(tangents, slopes, strict=True):
        direct = torch.func.jvp(model, (u,), (tangent,))[1]
        assert torch.allclose(
            slope, direct, rtol=1e-9, atol=1e-9 * float(direct.detach().abs().max())
        )


def test_the_mask_is_an_input_and_land_is_zero():
    model = surrogate(mask=True)
    u = physical(model)
    land = ~model.normaliser.mask
    other = u.clone()
    other[..., land] = -9999.0
    with torch.no_grad():
        y = model(u)
        assert torch.equal(model(other), y)
        ahead = model.rollout(other, 2)
        assert torch.equal(ahead[:, 0], y)
        torch.testing.assert_close(ahead[:, 1], model(y), rtol=1e-5, atol=1e-2)
        assert not model.step(model.normaliser.encode(other))[..., land].any()
    assert not y[..., land].any()
    assert y[..., ~land].abs().min() > 0
    assert model.operator.in_bundle.representation.channels == 5
