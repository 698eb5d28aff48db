"""The command line: every command, its exit code, and one clear message for every bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from fieldsym.bundle import Bundle
from fieldsym.cli import COMMANDS, EXAMPLES, main
from fieldsym.config import TrainConfig
from fieldsym.data.fields import Fields
from fieldsym.evaluation import mask_note, violation_of_data
from fieldsym.group import dihedral
from fieldsym.manifold import Box, Torus
from fieldsym.surrogate import Surrogate
from fieldsym.train import _Trainer

TINY = ["--n_modes", "5", "--hidden_channels", "8", "--n_layers", "1", "--epochs", "2",
        "--batch_size", "8", "--accelerator", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A simulated flow, a D4 and a plain run on it: files that no test changes."""
    folder = tmp_path_factory.mktemp("work")
    code = main(
        ["simulate", str(folder / "flow.nc"), "--grid", "16", "--samples", "8", "--steps", "3",
         "--interval", "0.5", "--viscosity", "1e-3", "--seed", "4"]
    )  # fmt: skip
    assert code == 0
    code = main(
        ["train", str(folder / "flow.nc"), "--out", str(folder / "d4"), "--group", "dihedral(4)",
         "--compare", "true", *TINY]
    )  # fmt: skip
    assert code == 0
    return folder


@pytest.fixture
def fails(capsys, tmp_path):
    """Run a command that must fail: exit code 1, one message, no traceback, no new file."""

    def run(*arguments: object) -> str:
        before = _files(tmp_path)
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 1
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        messages = [line for line in err.splitlines() if line.startswith("fieldsym ")]
        assert len(messages) == 1, err
        assert messages[0].startswith(f"fieldsym {arguments[0]}: ")
        assert messages[0].endswith(".")
        assert _files(tmp_path) == before
        return messages[0]

    return run


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def grid_file(path: Path, **changes: object) -> Path:
    """A series of two velocity components and a scalar on a grid of 12 × 16 points."""
    rng = np.random.default_rng(0)
    ds = xr.Dataset(
        {name: (("time", "y", "x"), rng.normal(size=(20, 16, 12))) for name in ("u", "v", "t")},
        {"time": np.arange(20.0), "y": np.arange(16.0), "x": np.arange(12.0)},
    )
    for name, change in changes.items():
        ds[name] = change(ds[name])
    ds.to_netcdf(path)
    return path


# ---------------------------------------------------------------------------------- success


def test_inspect(work, capsys):
    assert main(["inspect", str(work / "flow.nc")]) == 0
    out, err = capsys.readouterr()
    assert "pseudoscalar w" in out
    assert "Torus(1, 1)" in out
    assert "dihedral(4)" in out
    assert "Traceback" not in err


def test_inspect_with_types_and_variables(tmp_path, capsys):
    path = grid_file(tmp_path / "grid.nc")
    types = "vector flow = u, v; axial vector b = t"
    assert main(["inspect", str(path), "--variables", "t", "--types", "scalar heat = t"]) == 0
    out, _ = capsys.readouterr()
    assert "scalar heat" in out
    assert "vector" not in out.partition("groups")[0]
    assert main(["inspect", str(path), "--types", types]) == 1
    assert "axial vector" in capsys.readouterr().err


def test_simulate(work, tmp_path, capsys):
    with xr.open_dataset(work / "flow.nc") as ds:
        assert dict(ds.sizes) == {"sample": 8, "time": 4, "x": 16, "y": 16}
        assert ds.attrs["viscosity"] == 1e-3
        assert ds.time.values.tolist() == [0.0, 0.5, 1.0, 1.5]
        expected = ds.vorticity.values
    path = tmp_path / "again.nc"
    arguments = ["simulate", str(path), "--grid", "16", "--samples", "2", "--steps", "1",
                 "--interval", "0.5", "--viscosity", "1e-3", "--seed", "4"]  # fmt: skip
    arguments += ["--velocity", "true"]
    assert main(arguments) == 0
    assert "wrote" in capsys.readouterr().out
    with xr.open_dataset(path) as ds:
        assert set(ds.data_vars) == {"vorticity", "u", "v"}
        np.testing.assert_allclose(ds.vorticity.values, expected[:2, :2], rtol=1e-5, atol=1e-5)
    assert main([*arguments, "--overwrite", "true"]) == 0


def test_train_writes_checkpoints_and_scores(work):
    assert sorted(str(p.relative_to(work / "d4")) for p in (work / "d4").rglob("*.*")) == [
        "best.pt", "curve.json", "last.pt", "plain/best.pt", "plain/curve.json", "plain/last.pt",
        "scores.json",
    ]  # fmt: skip
    content = json.loads((work / "d4" / "scores.json").read_text())
    table = content["scores"]
    assert list(table) == ["persistence", "climatology", "model", "plain FNO"]
    assert all(set(row) == {"relative", "rmse w"} for row in table.values())
    for name, folder in (("model", "d4"), ("plain FNO", "d4/plain")):
        model = Surrogate.load(work / folder / "best.pt")
        assert content["parameters"][name] == sum(p.numel() for p in model.parameters())
    assert content["parameters"]["plain FNO"] > 4 * content["parameters"]["model"]
    plain = Surrogate.load(work / "d4/plain/best.pt")
    assert plain.options["positional_embedding"] == "grid"
    assert plain.options["group"] == "trivial"
    # the last step of one flow, by hand
    with xr.open_dataset(work / "flow.nc") as ds:
        w = ds.vorticity.values[7].astype(np.float64)
    rms = np.sqrt(np.mean((w[1:] - w[:-1]) ** 2))
    assert table["persistence"]["rmse w"] == pytest.approx(rms, rel=1e-5)


def test_evaluate_two_checkpoints(work, tmp_path, capsys):
    out = tmp_path / "report"
    models = [str(work / "d4" / "best.pt"), str(work / "d4" / "plain" / "best.pt")]
    arguments = ["evaluate", str(work / "flow.nc"), "--models", *models, "--out", str(out)]
    code = main([*arguments, "--group", "dihedral(4) * translations", "--samples", "2"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert {p.name for p in out.iterdir()} == {
        "report.html", "d4.nc", "d4.json", "plain.nc", "plain.json",
    }  # fmt: skip
    defects = {}
    for name in ("d4", "plain"):
        assert name in printed.out
        with xr.open_dataset(out / f"{name}.nc") as ds:
            rows = [str(e) for e in ds["defect_median"][ds["defect_median"].dims[0]].values]
            quarter = next(i for i, e in enumerate(rows) if e.startswith("rotation 90"))
            defects[name] = float(np.nanmax(ds["defect_median"].values[quarter]))
    assert defects["d4"] < 1e-5
    assert defects["plain"] > 1e-3
    html = (out / "report.html").read_text()
    assert "d4" in html
    assert "plain" in html


def test_predict(work, tmp_path, capsys):
    out = tmp_path / "forecast.nc"
    arguments = ["predict", str(work / "flow.nc"), "--model", str(work / "d4" / "best.pt"),
                 "--steps", "2", "--out", str(out)]  # fmt: skip
    assert main(arguments) == 0
    assert "wrote" in capsys.readouterr().out
    model = Surrogate.load(work / "d4" / "best.pt").eval()
    with xr.open_dataset(out) as ds, xr.open_dataset(work / "flow.nc") as flow, torch.no_grad():
        assert ds.time.values.tolist() == [2.0, 2.5]
        assert ds.vorticity.attrs["units"] == "s-1"
        last = torch.from_numpy(flow.vorticity.values[:, -1:])
        expected = model.rollout(last, 2)[:, :, 0].numpy()
        np.testing.assert_allclose(ds.vorticity.values, expected, rtol=1e-5, atol=1e-5)
    assert main([*arguments, "--overwrite", "true"]) == 0


def test_a_configuration_file(work, tmp_path):
    (tmp_path / "run.yaml").write_text("group: cyclic(4)\nepochs: 1\nseed: 5\n")
    out = tmp_path / "run"
    arguments = ["train", str(work / "flow.nc"), *TINY, "--config", str(tmp_path / "run.yaml")]
    assert main([*arguments, "--out", str(out)]) == 0
    notes = Surrogate.load(out / "best.pt").notes["training"]
    assert (notes["group"], notes["epochs"], notes["seed"]) == ("cyclic(4)", 1, 5)
    assert notes["hidden_channels"] == 8


# ---------------------------------------------------------------------------------- help, options


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert EXAMPLES[command] in out
    assert (COMMANDS[command][0].__doc__ or "").splitlines()[0] in " ".join(out.split())


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "COMMAND|command"),
        (["explain"], "invalid choice"),
        (["train", "flow.nc"], "out"),
        (["train", "flow.nc", "--out", "x", "--epochs", "many"], "epochs"),
        (["train", "flow.nc", "--out", "x", "--n_mode", "5"], "n_mode"),
        (["predict", "--out", "x.nc"], "data|model"),
    ],
)
def test_bad_options_exit_with_2(arguments, match, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert any(word in err for word in match.split("|"))
    assert "Traceback" not in err


def test_examples_of_the_help_are_valid_options():
    """Each line of the examples parses."""
    import shlex

    from fieldsym.cli import _parser

    for text in EXAMPLES.values():
        for line in text.splitlines():
            _parser().parse_args(shlex.split(line)[1:])


def test_data_of_an_evaluation_may_follow_its_options():
    from fieldsym.cli import _parser

    options = ["--group", "cyclic(4)", "a.nc", "b.nc", "--out", "report", "--models", "d4.pt"]
    found = _parser().parse_args(["evaluate", *options]).evaluate
    assert (found.data, found.models) == (["a.nc", "b.nc"], ["d4.pt"])
    found = (
        _parser().parse_args(["evaluate", "--model", "m:f", *options[:2], *options[4:6]]).evaluate
    )
    assert (found.data, found.models, found.model) == ([], [], "m:f")


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("command", ["inspect", "train", "predict", "evaluate"])
def test_no_such_file(command, fails, work, tmp_path):
    more = {
        "inspect": [],
        "train": ["--out", tmp_path / "run", *TINY],
        "predict": ["--out", tmp_path / "f.nc", "--model", work / "d4" / "best.pt"],
        "evaluate": ["--out", tmp_path / "report", "--models", work / "d4" / "best.pt",
                     "--group", "dihedral(4)"],
    }  # fmt: skip
    assert "none.nc" in fails(command, tmp_path / "none.nc", *more[command])


@pytest.mark.parametrize("kept", [0, 10, 0.5])
def test_truncated_netcdf(kept, fails, work, tmp_path):
    whole = (work / "flow.nc").read_bytes()
    bad = tmp_path / "bad.nc"
    bad.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    assert "bad.nc" in fails("inspect", bad)
    assert "bad.nc" in fails("train", bad, "--out", tmp_path / "run", *TINY)


def test_unknown_variable(fails, work, tmp_path):
    said = fails(
        "train", work / "flow.nc", "--variables", "vorticty", "--out", tmp_path / "run", *TINY
    )
    assert "vorticty" in said
    assert "vorticity" in said.replace("vorticty", "")


TRAIN = [
    (["--n_modes", "6"], ["GridError", "6", "5 or 7"]),
    (["--n_modes", "17"], ["GridError", "17", "16"]),
    (["--n_modes", "-1"], ["GridError", "-1"]),
    (["--group", "dihedrall(4)"], ["GroupError", "dihedrall", "dihedral(4)"]),
    (["--group", "so(2)"], ["GroupError", "so(2)"]),
    (["--group", "octahedral"], ["GroupError"]),
    (["--group", "dihedral(4)", "--hidden_channels", "12"], ["GroupError", "12", "8 or 16"]),
    (["--group", "dihedral(4)", "--positional_embedding", "grid"], ["GroupError", "position"]),
    (["--augment", "rotation"], ["GroupError", "rotation"]),
    (["--lead", "4"], ["DataError", "lead 4", "5 consecutive steps"]),
    (["--train", "0.9", "--valid", "0.2"], ["DataError", "0.9", "0.2"]),
    (["--valid", "0.01"], ["DataError", "samples"]),
    (["--batch_size", "0"], ["DataError", "batch_size"]),
    (["--types", "spinor w = vorticity"], ["spinor", "pseudoscalar"]),
    (["--types", "scalar p = pressure"], ["DataError", "pressure"]),
    (["--learning_rate", "1e25"], ["DataError", "not finite", "learning_rate"]),
    (["--accelerator", "quantum"], ["DataError", "quantum", "cpu"]),
    (["--accelerator", "mps"], ["DataError", "mps"]),
]


@pytest.mark.parametrize(("options", "words"), TRAIN, ids=[" ".join(o) for o, _ in TRAIN])
def test_bad_options_of_train(options, words, fails, work, tmp_path):
    said = fails("train", work / "flow.nc", *TINY, *options, "--out", tmp_path / "run")
    for word in words:
        assert word in said, said


def test_a_group_that_does_not_act_on_the_grid(fails, tmp_path):
    path = grid_file(tmp_path / "grid.nc")
    said = fails("train", path, *TINY, "--group", "dihedral(4)", "--out", tmp_path / "run")
    assert "GroupError" in said
    assert "dihedral(2)" in said


def test_a_series_that_is_too_short(fails, tmp_path):
    grid_file(tmp_path / "grid.nc")
    with xr.open_dataset(tmp_path / "grid.nc") as ds:
        ds.isel(time=slice(0, 5)).to_netcdf(tmp_path / "short.nc")
    said = fails("train", tmp_path / "short.nc", *TINY, "--out", tmp_path / "run")
    assert "of 5 steps leaves a part with fewer than 2" in said
    assert "at least" in said


def test_missing_values_at_some_steps(fails, tmp_path):
    path = grid_file(tmp_path / "grid.nc", t=lambda t: t.where((t.time != 3) | (t.x != 4)))
    said = fails("train", path, *TINY, "--out", tmp_path / "run")
    assert "'t'" in said
    assert "step 3" in said


def test_infinite_values(fails, tmp_path):
    path = grid_file(tmp_path / "grid.nc", t=lambda t: t.where(t.time != 3, np.inf))
    assert "infinite" in fails("train", path, *TINY, "--out", tmp_path / "run")


def test_a_constant_field(fails, tmp_path):
    path = grid_file(tmp_path / "grid.nc", t=lambda t: 0 * t + 3)
    assert "'t' is constant" in fails("train", path, *TINY, "--out", tmp_path / "run")


def test_a_folder_that_holds_a_run(fails, work, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("best.pt", "last.pt"):
        (run / name).write_bytes((work / "d4" / name).read_bytes())
    said = fails("train", work / "flow.nc", *TINY, "--out", run)
    assert "holds a training run already. Resume it (--resume true), or give another" in said
    said = fails("train", work / "flow.nc", *TINY, "--seed", "9", "--out", run, "--resume", "true")
    assert "group was dihedral(4), now none" in said
    assert "seed was 0, now 9" in said


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_an_output_folder_that_cannot_be_made(command, fails, work, tmp_path):
    (tmp_path / "file").write_text("kept")
    out = tmp_path / "file" / "run"
    more = {
        "train": TINY,
        "evaluate": ["--models", work / "d4" / "best.pt", "--group", "cyclic(4)", "--samples", "1"],
    }
    said = fails(command, work / "flow.nc", "--out", out, *more[command])
    assert str(out) in said


def test_predict_refusals(fails, work, tmp_path):
    model, flow, out = work / "d4" / "best.pt", work / "flow.nc", tmp_path / "f.nc"
    out.write_text("mine")
    assert "f.nc exists" in fails("predict", flow, "--model", model, "--out", out)
    out = tmp_path / "new.nc"
    assert "at least 1" in fails("predict", flow, "--model", model, "--out", out, "--steps", "0")
    said = fails("predict", flow, "--model", flow, "--out", out)
    assert "flow.nc is not a complete checkpoint" in said
    said = fails("predict", flow, "--model", work / "none.pt", "--out", out)
    assert "There is no checkpoint" in said
    other = grid_file(tmp_path / "grid.nc")
    said = fails("predict", other, "--model", model, "--out", out)
    assert "was trained on 'pseudoscalar w' on Torus(1, 1); the data hold" in said
    said = fails("predict", flow, "--model", model, "--out", tmp_path / "no" / "where" / "f.nc")
    assert "Cannot write" in said


def test_simulate_refusals(fails, work, tmp_path):
    out = tmp_path / "flow.nc"
    out.write_text("mine")
    assert "flow.nc exists" in fails("simulate", out)
    out = tmp_path / "new.nc"
    assert "samples" in fails("simulate", out, "--samples", "0")
    assert "forcing" in fails("simulate", out, "--forcing", "wind", "--samples", "1")
    assert "viscosity" in fails("simulate", out, "--viscosity", "-1", "--samples", "1")
    small = ["--grid", "8", "--samples", "1", "--steps", "1", "--interval", "0.1"]
    assert "Cannot write" in fails("simulate", tmp_path / "no" / "f.nc", *small)


def test_evaluate_refusals(fails, work, tmp_path):
    model, flow, out = work / "d4" / "best.pt", work / "flow.nc", tmp_path / "report"
    common = ["evaluate", flow, "--models", model, "--out", out]
    assert "dihedrall" in fails(*common, "--group", "dihedrall(4)")
    assert "samples must be" in fails(*common, "--group", "cyclic(4)", "--samples", "0")
    truncated = tmp_path / "half.pt"
    truncated.write_bytes(model.read_bytes()[:3000])
    said = fails("evaluate", flow, "--models", truncated, "--out", out, "--group", "cyclic(4)")
    assert "half.pt is not a complete checkpoint" in said
    other = grid_file(tmp_path / "grid.nc")
    said = fails("evaluate", other, "--models", model, "--out", out, "--group", "cyclic(4)")
    assert "was trained on" in said


def test_a_report_does_not_replace_data(fails, work, tmp_path):
    """A report names its files after the folders of the models."""
    data = tmp_path / "d4.nc"
    data.write_bytes((work / "flow.nc").read_bytes())
    said = fails(
        "evaluate", data, "--models", work / "d4" / "best.pt", "--out", tmp_path,
        "--group", "cyclic(4)", "--samples", "1",
    )  # fmt: skip
    assert "d4.nc is no report" in said


def test_a_report_replaces_a_report_and_names_must_differ(work, tmp_path, capsys):
    out, copy = tmp_path / "report", tmp_path / "d-4"
    arguments = ["evaluate", work / "flow.nc", "--group", "cyclic(2)", "--samples", "1",
                 "--out", out, "--models", work / "d4" / "best.pt"]  # fmt: skip
    for more, code in ([], 0), ([], 1), (["--overwrite", "true"], 0):
        assert main([*map(str, arguments), *more]) == code
    for name in ("d-4", "d_4"):
        copy = tmp_path / name / "best.pt"
        copy.parent.mkdir()
        copy.write_bytes((work / "d4" / "best.pt").read_bytes())
    capsys.readouterr()
    assert main([*map(str, arguments), str(tmp_path / "d-4/best.pt"), str(copy)]) == 1
    assert "d4, d-4, d_4 would have the same file names" in capsys.readouterr().err


# ---------------------------------------------------------------------------------- warnings


def test_a_wrong_parity_is_measured(tmp_path, capsys):
    """Vorticity declared a scalar: the reflections are violated, and the note says by how much."""
    flow = tmp_path / "flow.nc"
    assert main(["simulate", str(flow), "--grid", "32", "--samples", "12", "--steps", "2",
                 "--interval", "0.2", "--viscosity", "1e-4"]) == 0  # fmt: skip
    notes = {}
    for kind in ("scalar", "pseudoscalar"):
        capsys.readouterr()
        options = ["--types", f"{kind} w = vorticity", "--group", "dihedral(4)", "--epochs", "1"]
        assert main(["train", str(flow), *TINY, *options, "--out", str(tmp_path / kind)]) == 0
        err = capsys.readouterr().err
        notes[kind] = [line for line in err.splitlines() if line.startswith("note: ")]
    assert notes["pseudoscalar"] == []
    (said,) = notes["scalar"]
    assert "reflection" in said
    assert "as 'pseudoscalar w' by 0." in said
    violation = float(said.partition("the data violate it by ")[2].partition(";")[0])
    assert 0.3 < violation < 3


def test_a_mask_without_neighbours_says_nothing_of_the_parity():
    """There are no derivatives between lone points; the training need not stop for that."""
    flow = Bundle(Torus((1.0, 1.0)), "scalar w")
    lone = torch.zeros(16, 16, dtype=torch.bool)
    lone[::2, ::2] = True
    fields = Fields.of(flow, torch.rand(20, 1, 16, 16), mask=lone)
    assert violation_of_data(fields, TrainConfig(group="dihedral(4)")) == ""


# ---------------------------------------------------------------------------------- interruption


def test_an_interrupted_training_exits_130_and_resumes(work, tmp_path, capsys, monkeypatch):
    arguments = ["train", str(work / "flow.nc"), "--group", "cyclic(4)", "--augment",
                 "dihedral(4)", "--compare", "true", *TINY, "--epochs", "3"]  # fmt: skip
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    original = _Trainer.epoch

    def stopped(self):
        if self.run.epoch == 2:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(_Trainer, "epoch", stopped)
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "parts")]) == 130
    assert "fieldsym train: interrupted" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "scores.json").exists()
    monkeypatch.undo()
    assert main([*arguments, "--out", str(tmp_path / "parts")]) == 1
    assert main([*arguments, "--out", str(tmp_path / "parts"), "--resume", "true"]) == 0
    for name in ("scores.json", "curve.json", "plain/curve.json"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()
    for name in ("best.pt", "last.pt", "plain/best.pt", "plain/last.pt"):
        a, b = (
            torch.load(tmp_path / part / name, weights_only=True)["state_dict"]
            for part in ("parts", "whole")
        )
        assert all(torch.equal(a[k], b[k]) for k in b)


def test_the_installed_command_stops_at_an_interrupt(work, tmp_path):
    """One real process, one real signal: exit code 130 and a whole checkpoint."""
    command = Path(sys.executable).parent / "fieldsym"
    out = tmp_path / "run"
    arguments = [command, "train", work / "flow.nc", "--out", out, *TINY, "--epochs", "100000",
                 "--patience", "100000"]  # fmt: skip
    # what runs in the background of a script ignores interrupts, and so would its children
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, before)
    try:
        for _ in range(4000):  # a busy machine takes its time
            if (out / "curve.json").exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()  # closes its pipes
    assert process.returncode == 130, err
    assert "fieldsym train: interrupted. Finished files are kept." in err
    assert "Traceback" not in err
    assert Surrogate.load(out / "best.pt").history == 1
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_a_mask_that_the_group_moves_is_said():
    wind = Bundle(Box((2.0, 3.0)), "vector u")
    mask = torch.ones(16, 24, dtype=torch.bool)
    mask[2:5] = False  # kept by y → −y, moved by x → −x
    fields = Fields.of(wind, torch.zeros(3, 2, 16, 24), mask=mask)
    assert mask_note(fields, dihedral(1)) == ""
    assert "2 of the 4 elements of dihedral(2) keep the mask" in mask_note(fields, dihedral(2))


def test_the_package_runs_as_a_module():
    run = [sys.executable, "-m", "fieldsym", "inspect", "absent.nc"]
    ended = subprocess.run(run, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "absent.nc" in ended.stderr
    assert "Traceback" not in ended.stderr
