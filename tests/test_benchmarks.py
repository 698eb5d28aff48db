"""The benchmark programs: their measures on known cases, and every program on a tiny one."""

import csv
import importlib
import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import fieldsym as fs

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = (
    *("speed", "layer", "scaling", "push_forward", "gfno", "side_by_side", "gpu"),
    *("audit", "merit", "recovery", "dose", "cloning", "promote_cost", "evaluation"),
)
neuralop_needed = pytest.mark.skipif(
    importlib.util.find_spec("neuralop") is None, reason="neuraloperator is not installed"
)
sphere_needed = pytest.mark.skipif(
    importlib.util.find_spec("torch_harmonics") is None,
    reason="torch-harmonics is not installed (the extra sfno)",
)


def sleepers(seconds):
    """Programs for a process of its own."""
    return {
        "process": os.getpid,
        "threads": torch.get_num_threads,
        "wait": lambda: time.sleep(seconds["wait"]),
    }


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Import a program; what it records goes to a file of the test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(importlib.import_module("common"), "RECORD", tmp_path / "record.csv")
    return importlib.import_module


def recorded(tmp_path):
    """{(benchmark, case, metric): value}."""
    with (tmp_path / "record.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {(r["benchmark"], r["case"], r["metric"]): float(r["value"]) for r in rows}


def test_a_partial_run_replaces_its_own_rows_and_a_quick_one_none(load, tmp_path, monkeypatch):
    common = load("common")
    common.record("a", [("one", "error", 1.0, ""), ("two", "error", 2.0, "")])
    common.record("b", [("one", "error", 3.0, "")])
    common.record("a", [("two", "error", 4.0, "")])
    kept = {("a", "one", "error"): 1.0, ("a", "two", "error"): 4.0, ("b", "one", "error"): 3.0}
    assert recorded(tmp_path) == kept
    monkeypatch.setattr("sys.argv", ["dose.py", "--quick"])
    common.record("b", [("one", "error", 5.0, "")])
    assert recorded(tmp_path) == kept


def test_programs_in_their_own_processes_are_asked_in_turn(load):
    apart = load("apart")
    builds = {name: ({"wait": 0.02 * i},) for i, name in enumerate(("short", "long"), 1)}
    with apart.apart(sleepers, builds) as processes:
        assert [one.ask("threads") for one in processes.values()] == [torch.get_num_threads()] * 2
        assert len({os.getpid(), *(one.ask("process") for one in processes.values())}) == 3
        found = apart.in_turn(processes, "wait", rounds=3)
    assert 1.3 < found["short"].times_faster_than(found["long"]) < 2.7


def test_a_process_that_fails_is_named(load):
    with (
        pytest.raises(RuntimeError, match=r"ended with exit code 1; its error is above"),
        load("apart").apart(sleepers, {"one": ({},)}) as processes,
    ):
        processes["one"].ask("wait")


@pytest.mark.parametrize("name", PROGRAMS)
def test_help(load, name, capsys):
    with pytest.raises(SystemExit) as ended:
        load(name).main(["--help"])
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_run_lists_every_program(load):
    run = load("run")
    programs = {p.stem for p in FOLDER.glob("*.py") if "\ndef main(" in p.read_text()}
    assert {"run", *run.NAMES, *run.ON_REQUEST} == programs


# Measures -----------------------------------------------------------------------------------------


def chain(x):
    """Two more tensors of the size of x at the end of the second line, three at the third."""
    y = x + 1
    z = y * 2
    w = z + y
    del y, z
    return w


def test_tensor_memory_of_a_known_chain(load):
    common, x = load("common"), torch.zeros(500, 700)
    assert common.peak_extra_memory(lambda: chain(x)) == pytest.approx(3 * x.nbytes, rel=1e-3)
    assert common.peak_extra_memory(lambda: x + 1) == pytest.approx(x.nbytes, rel=1e-3)


def test_tensor_memory_counts_what_is_kept_for_later(load):
    common, x, kept = load("common"), torch.zeros(500, 700), []
    peak = common.peak_extra_memory(lambda: kept.append(x + 1) or kept[0] + 1)
    assert peak == pytest.approx(2 * x.nbytes, rel=1e-3)


def test_process_memory_of_a_known_chain(load):
    common, x = load("common"), torch.zeros(4000, 1000)
    chain(x)
    peak = common.peak_resident(lambda: chain(x))
    if peak is None:
        pytest.skip("the system does not tell")
    assert peak == pytest.approx(3 * x.nbytes, rel=0.1)


def test_rounds_go_in_turn_and_ratios_are_those_of_one_round(load):
    common, order = load("common"), []
    clock = iter([9.0, 9.0, 4.0, 1.0, 2.0, 6.0])  # the first two warm up; b, a, a, b follow
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = common.interleaved(
        calls, rounds=2, warm_up=1, clock=lambda call: (call(), next(clock))[1]
    )
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert times["a"].rounds == (1.0, 2.0)
    assert times["b"].rounds == (4.0, 6.0)
    assert times["a"].times_faster_than(times["b"]) == pytest.approx(5.0 / 1.5)
    assert times["a"].spread_against(times["b"]) == "3.00-4.00"
    assert str(times["b"]) == "5000 ms (4000-6000)"


# Layer --------------------------------------------------------------------------------------------


class LowPass(nn.Module):
    """M(k) = A for |k_i| ≤ 1, by definition."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix, requires_grad=False)

    def forward(self, x):
        spectrum = torch.fft.fft2(x)
        kx, ky = (torch.fft.fftfreq(n, 1 / n).abs() <= 1 for n in x.shape[-2:])
        low = torch.fft.ifft2(spectrum * (kx[:, None] & ky)).real
        return torch.einsum("oi,bixy->boxy", self.matrix, low)


def test_the_oracle_finds_the_multipliers_of_a_known_layer(load):
    layer, known = load("layer"), LowPass(torch.randn(3, 3, dtype=torch.float64))
    matrices = layer.multipliers(known, 3, 3)
    assert matrices.shape == (3, 3, 3, 3)
    assert (matrices - known.matrix).abs().max() < 1e-14
    x = torch.randn(2, 3, 8, 5, dtype=torch.float64)
    assert layer.relative(layer.dense(matrices, x), known(x)) < 1e-14


def test_asymmetry_tells_a_constrained_layer_from_a_free_one(load):
    layer = load("layer")
    zoo = layer.own_layers(8, 5)
    assert layer.asymmetry(layer.multipliers(zoo[layer.OURS], 8, 5), 8) < 1e-14
    assert layer.asymmetry(layer.multipliers(zoo[layer.FREE], 8, 5), 8) > 0.5


@neuralop_needed
def test_layer_program(load, tmp_path, capsys):
    load("layer").main(["--width", "16", "--n-modes", "7", "--grid", "12", "--batch", "2",
                        "--rounds", "1", "--threads", "1"])  # fmt: skip
    found = recorded(tmp_path)
    for name in ("ours, no group", "ours, D4"):
        errors = {m: v for (b, _, m), v in found.items() if b == f"layer, values, {name}"}
        assert errors["oracle, float32"] < 1e-6
        assert errors["oracle, float64"] < 1e-13
        assert errors["peer, same multipliers"] < 1e-6
    assert found["layer, speed", "neuraloperator", "forward: peer / this"] == 1
    assert found["layer, speed", "ours, D4", "forward and backward: peer / this"] > 0
    assert "the engine" in capsys.readouterr().out


# Whole operators ----------------------------------------------------------------------------------


@neuralop_needed
def test_speed_program(load, tmp_path, capsys):
    speed = load("speed")
    speed.main(["--cases", "12,5,2", "--width", "8", "--layers", "2", "--rounds", "1",
                "--threads", "1"])  # fmt: skip
    zoo, found = speed.models(8, 5, 2), recorded(tmp_path)
    sizes = {name: load("common").real_parameters(model) for name, model in zoo.items()}
    for name, size in sizes.items():
        key = ("speed, 12², n_modes 5, batch 2", f"{name}, width 8", "parameters: peer / this")
        assert found[key] == pytest.approx(sizes[speed.PEER] / size, rel=1e-3)
        assert found[(*key[:2], "tensor memory: peer / this")] > 0
    printed = capsys.readouterr().out
    assert "| 12², n_modes 5, batch 2 | fs.FNO, D4 |" in printed
    assert "parameters: peer / D4 at least" in printed


def test_scaling_program(load, tmp_path, capsys):
    scaling = load("scaling")
    scaling.main(["--grids", "16", "32", "--points", "2048", "--width", "8", "--n-modes", "5",
                  "--rounds", "1", "--threads", "1"])  # fmt: skip
    found = recorded(tmp_path)
    kinds = {metric for _, _, metric in found}
    assert kinds >= {"inference, ns per point", "inference of one field, bytes per point"}
    assert len(found) == 5 * 2
    assert "| 16² | 8 |" in capsys.readouterr().out
    assert scaling.largest_over_smallest({16: (3.0, ""), 32: (2.0, ""), 64: (2.5, "")}) == 1.5


# G-FNO --------------------------------------------------------------------------------------------

STAND_IN = """
import torch
from utils import scale

class GFNO2d(torch.nn.Module):
    def __init__(self, channels, modes, width, frames, reflection, grid):
        super().__init__()
        self.weight = torch.nn.Parameter(scale * torch.ones(width, modes))

    def forward(self, x):
        return (x * self.weight.sum()).mean(-1, keepdim=True).unsqueeze(-2)
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder laid out as AIRS, with a model of our own in it."""
    folder = tmp_path / "OpenPDE" / "G-FNO"
    (folder / "models").mkdir(parents=True)
    (folder / "utils.py").write_text("scale = 0.5\n")
    (folder / "models" / "GFNO.py").write_text(STAND_IN)
    return tmp_path


def test_gfno_is_loaded_from_a_checkout(load, checkout):
    gfno = load("gfno")
    for path in (checkout, checkout / "OpenPDE" / "G-FNO"):
        model = gfno.Frames(gfno.load_gfno(path)(1, 4, 3, 10, False, "None"))
        x = torch.randn(2, 10, 6, 5)
        assert (model(x) - 6 * x.mean(1, keepdim=True)).abs().max() < 1e-5
    assert "utils" not in sys.modules


@pytest.mark.parametrize("options", [[], ["--path", "nowhere"]])
def test_gfno_says_where_to_get_it(load, options):
    with pytest.raises(SystemExit, match=r"git clone https://github\.com/divelab/AIRS"):
        load("gfno").main(options)


def test_widths_are_matched_by_parameters(load):
    gfno, c4 = load("gfno"), fs.groups.cyclic(4)
    for width in (8, 20):
        assert gfno.matched(gfno.ours(c4, width, 5, 3), c4, 12, 5, 3) == width


@neuralop_needed
def test_gfno_program(load, checkout, tmp_path, capsys):
    gfno = load("gfno")
    gfno.main(["--path", str(checkout), "--groups", "p4", "--grids", "10", "--batch", "1",
               "--frames", "2", "--modes", "3", "--rounds", "1", "--threads", "1"])  # fmt: skip
    found = {metric: value for (_, case, metric), value in recorded(tmp_path).items()
             if case == "G-FNO p4 w10"}  # fmt: skip
    assert set(found.values()) == {1.0}
    printed = capsys.readouterr().out
    assert "(matched by channels)" in printed  # the stand-in has 30 numbers: the widths differ
    assert "(matched by parameters)" in printed


# Side by side -------------------------------------------------------------------------------------


@pytest.fixture
def side(load):
    return load("side_by_side")


def test_every_field_comes_once_before_any_comes_again(side):
    drawn = torch.stack(list(side.batches(12, 6, seed=3))).flatten()
    assert drawn.shape == (48,)
    for epoch in drawn.split(12):
        assert sorted(epoch.tolist()) == list(range(12))


def test_fields_continue_and_change_as_documented(side):
    w, y = side.simulate(0, 24, seed=1)
    again, _ = side.simulate(8, 4, seed=1)
    assert torch.equal(w[8:12], again)
    assert float(w.std()) == pytest.approx(1.0, rel=0.1)
    assert float(side.relative(w, y).mean()) == pytest.approx(0.47, abs=0.05)  # of the final state


def test_scores_of_the_solver_and_of_the_wrong_parity(side):
    w, y = side.simulate(0, 3, seed=0)
    solver = fs.simulate.navier_stokes(side.BASE, time=1.0, viscosity=1e-3)
    assert max(side.scores(solver, w, y).values()) < 1e-4

    class Unsigned(nn.Module):
        def forward(self, u):
            return u.abs()  # commutes with reflections of a scalar

    found = side.scores(Unsigned(), w, y)
    assert found["not rotating"] < 1e-6
    assert found["not reflecting"] == pytest.approx(2.0, rel=1e-5)  # gF(x) = −F(gx)


@neuralop_needed
def test_side_by_side_goes_on_after_an_interruption(side, tmp_path, monkeypatch, capsys):
    models = (side.PLAIN, side.WRONG, side.RIGHT)
    options = ["--seeds", "1", "--fields", "8", "--steps", "2", "--width", "8", "--n-modes", "3",
               "--models", *models, "--folder", str(tmp_path)]  # fmt: skip
    monkeypatch.setattr(side, "TEST", 8)
    side.main(options)
    first = capsys.readouterr().out
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    exact = next(f for f in map(json.loads, lines) if f["model"] == side.RIGHT)
    assert max(exact["not rotating"], exact["not reflecting"]) < 1e-5
    assert math.isclose(exact["test"], exact["reflected"], rel_tol=1e-4)
    trained = []
    run = side.run
    monkeypatch.setattr(side, "run", lambda *task: trained.append(task[0].model) or run(*task))
    (tmp_path / "results.jsonl").write_text("\n".join([*lines[:2], lines[2][:40]]))
    side.main(options)
    assert trained == [side.RIGHT]
    second = capsys.readouterr().out
    assert first.splitlines()[5:7] == second.splitlines()[5:7]  # the rows that were kept
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3


def test_unknown_rows_are_named(side):
    with pytest.raises(SystemExit, match=r"unknown models \['magic'\]; there are plain FNO"):
        side.main(["--models", "magic"])


# GPU ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_gpu_needs_a_device(load):
    with pytest.raises(SystemExit, match="no CUDA device"):
        load("gpu").main([])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_program(load, capsys):
    load("gpu").main(["--cases", "16,5,2", "--layer", "16,5,2", "--width", "8", "--rounds", "2"])
    assert "share of the bandwidth" in capsys.readouterr().out


def test_times_on_a_device_refer_to_the_first_operator(load):
    timing = load("common").Timing
    times = {"peer": timing((4.0, 6.0)), "ours": timing((1.0, 2.0))}
    assert load("gpu").versus(times, "ours") == (pytest.approx(5 / 1.5), "3.00-4.00")


def test_push_forward_on_a_tiny_case(load, tmp_path, capsys):
    load("push_forward").main(
        ["--grid", "8", "--batch", "1", "--width", "8", "--n-modes", "3", "--rounds", "1"]
    )
    assert "| 12 |" in capsys.readouterr().out
    assert recorded(tmp_path)["push_forward", "4 tangents", "push_forward / forward"] > 0


# Audit --------------------------------------------------------------------------------------------


@pytest.fixture
def audit(load):
    return load("audit")


@pytest.fixture
def audited(audit):
    """What is measured of one of the operators on 24 points, and the words for it."""

    def run(name):
        case, size = audit.cases()[name], audit.Size(width=8, n_modes=9, layers=2)
        grid = 24 + case.more_points
        measured = audit.measure(audit.lively(case, size, audit.fields(grid, 1)), grid, 1)
        return audit.facts(measured), audit.in_words(measured)

    return run


WHOLE, HELD = "shifts by whole cells violated", "translations hold up to aliasing"
EXPECTED = {
    "FNO, as it comes": f"{WHOLE}, most of it from positional_embedding; D4 violated",
    "FNO, repaired": f"{HELD} (; D4 violated",
    "FNO, repaired, odd grid": f"{WHOLE} along x alone; D4 violated",
    "FNO, repaired, fs.enforce D4": f"{HELD} (; D4 holds",
    "FNO, isotropic weights, odd n_modes": f"{HELD} (; D4 holds",
    "FNO, isotropic weights, even n_modes": f"{HELD} (; D4 violated but for rotation 180°",
    "FNO, repaired, domain padding": f"{WHOLE}, most of it from between the; D4 violated",
    "TFNO, no embedding": f"{HELD} (; D4 violated",
    "UNO, no embedding": f"{WHOLE}, most of it from fno_blocks; D4 violated",
    "U-Net": f"{WHOLE} (they hold in steps of 4 cells), most of it from copy; D4 violated",
    "fs.FNO, D4": f"{HELD} (; D4 holds",
}


@neuralop_needed
@pytest.mark.parametrize("name", EXPECTED)
def test_the_audit_finds_it_by_itself(audited, name):
    own, words = audited(name)
    shifts, points = EXPECTED[name].split("; ")
    assert words.startswith(shifts), words
    assert words.endswith(f"; {points}"), words
    assert (own["whole"] > 0.01) == (WHOLE in shifts)
    assert (own["whole"] < 1e-5) == (HELD in shifts)
    assert (own["turn"] < 1e-5) == (points == "D4 holds")
    assert own["half"] > own["whole"] or WHOLE in shifts


@neuralop_needed
def test_every_row_of_the_audit_is_expected(audit):
    assert {*EXPECTED, *SPHERICAL} == set(audit.cases())


TURNS = "shifts by whole cells along longitude hold, by parts of a cell they do not"
SPHERICAL = {
    "SFNO": "D2 violated but for reflection latitude → −latitude",
    "SFNO, real weights": "D2 holds",
}


@neuralop_needed
@sphere_needed
@pytest.mark.parametrize("name", SPHERICAL)
def test_the_audit_tells_complex_from_real_weights_on_the_sphere(audit, name):
    case, size = audit.cases()[name], audit.Size(width=8, n_modes=9, layers=2)
    chart = {"bundle": case.bundle}
    model = audit.lively(case, size, audit.fields(24, 1, **chart))
    measured = audit.measure(model, 24, 1, **chart, group=case.group)
    own, words = audit.facts(measured), audit.in_words(measured, case.axes)
    assert words == f"{TURNS} (not seen at 2N: an axis is not periodic); {SPHERICAL[name]}"
    mirrors = measured.report.defect_median.sel(element=["reflection x → −x", "reflection y → −y"])
    north_south, east_west = mirrors.values.tolist()
    assert max(own["whole"], north_south) < 1e-5
    assert east_west > 0.1 if name == "SFNO" else east_west < 1e-5
    assert own["reflection"] == max(north_south, east_west)
    assert all(math.isnan(own[key]) for key in ("turn", "lee_fine", "aliasing_share"))


def test_the_sphere_has_both_poles_and_finer_fields_are_the_same_ones(load, audit):
    bundle = load("audit_models").spherical(nn.Identity).bundle
    coarse, fine = (audit.fields(16, 2, refined=n, bundle=bundle) for n in (1, 2))
    assert coarse.shape[-2:] == (9, 16)
    assert (fine[..., ::2, ::2] - coarse).abs().max() < 1e-5
    latitude, longitude = bundle.base.axes((9, 16))
    assert latitude[[0, -1]].tolist() == [0, math.pi]
    assert longitude[-1] == pytest.approx(2 * math.pi * 15 / 16)


class Ramp(nn.Module):
    """Multiplies by a function of x: only what leaves x alone is a symmetry."""

    def forward(self, u):
        return u * torch.linspace(1, 2, u.shape[-2]).unsqueeze(-1)


class Blocks(nn.Module):
    """Means over squares of 2 × 2 points."""

    def forward(self, u):
        return nn.functional.interpolate(nn.functional.avg_pool2d(u, 2), scale_factor=2)


@pytest.mark.parametrize(("operator", "step", "words"), [
    (Ramp(), None, ("by whole cells violated along x alone", "but for reflection y → −y")),
    (Blocks(), 2, ("(they hold in steps of 2 cells)",)),
    (nn.Identity(), 2, ("translations hold; D4 holds",)),
    (nn.Sequential(nn.Identity(), Ramp()), None, ("x alone, most of it from 1; ",)),
], ids=["ramp", "blocks", "identity", "second part"])  # fmt: skip
def test_the_words_of_known_operators(audit, operator, step, words):
    measured = audit.measure(operator, 16, 2)
    assert measured.step == step
    for part in words:
        assert part in audit.in_words(measured)


class Zonal(nn.Module):
    """One complex number per zonal wavenumber, the same at every latitude."""

    def __init__(self, phase):
        super().__init__()
        self.phase = nn.Parameter(torch.tensor(phase))

    def forward(self, u):
        waves = torch.arange(u.shape[-1] // 2 + 1)
        rotated = torch.polar((waves < 5).float(), self.phase * (waves > 0))
        return torch.fft.irfft(torch.fft.rfft(u) * rotated, n=u.shape[-1])


@pytest.mark.parametrize(("operator", "words"), [
    (Zonal(0.0), "translations along longitude hold; D2 holds"),
    (Zonal(0.7), "translations along longitude hold; "
                 "D2 violated but for reflection latitude → −latitude"),
    (Ramp(), "translations along longitude hold; "
             "D2 violated but for reflection longitude → −longitude"),
], ids=["real", "complex", "ramp"])  # fmt: skip
def test_the_words_of_known_operators_on_the_sphere(load, audit, operator, words):
    case = load("audit_models").spherical(lambda _: operator)
    measured = audit.measure(operator, 16, 2, bundle=case.bundle, group=case.group)
    assert audit.in_words(measured, case.axes) == words
    assert measured.step == audit.STEPS[0]


def test_finer_fields_are_the_same_ones(audit):
    coarse, fine = audit.fields(16, 2), audit.fields(16, 2, refined=2)
    assert (fine[..., ::2, ::2] - coarse).abs().max() < 1e-5


def test_weights_are_scaled_until_the_output_is_not_all_mean(audit):
    class Biased(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.weight = nn.Parameter(size.factor * torch.ones(1, 1))

        def forward(self, u):
            return self.weight * u + 10

    x = audit.fields(16, 1)
    assert audit.lively(audit.Case(Biased), audit.Size(), x).weight.item() == 3
    assert audit.lively(audit.Case(lambda _: nn.Identity()), audit.Size(), x)(x) is x


@neuralop_needed
def test_audit_program(audit, tmp_path, capsys):
    audit.main(["--grid", "16", "--width", "8", "--n-modes", "5", "--layers", "1", "--samples", "1",
                "--models", "U-Net", "SFNO"])  # fmt: skip
    printed = capsys.readouterr().out
    if importlib.util.find_spec("torch_harmonics") is None:
        assert "| SFNO | – | – |" in printed
        assert "not installed (pip install 'fieldsym[peers,sfno]')" in printed
    else:
        assert "| SFNO | 9 × 16 |" in printed
    assert "(they hold in steps of 4 cells)" in printed
    found = recorded(tmp_path)
    assert found["audit", "U-Net, N = 16", "whole"] > 0.01
    assert found["audit", "U-Net, N = 16", "turn"] > 0.1


# Figures of merit ---------------------------------------------------------------------------------


@pytest.fixture
def merit(load):
    return load("merit")


@pytest.fixture
def orders(load):
    return load("merit_orders")


def waves(cut):
    """k_x, k_y and the angle of the modes −cut..cut."""
    k = torch.arange(-cut, cut + 1.0, dtype=torch.float64)
    return k[:, None], k, torch.atan2(k.expand(len(k), -1), k[:, None])


def test_angular_orders_of_known_multipliers(orders):
    kx, ky, angle = waves(7)
    for order in range(5):
        energy = orders.angular_energy(torch.cos(order * angle + 0.3))
        assert energy[order] == pytest.approx(1, abs=1e-12)
    isotropic = torch.exp(-0.05 * (kx**2 + ky**2))
    assert orders.angular_energy(isotropic)[0] == pytest.approx(1, abs=0.005)
    gradient = 1j * kx / torch.hypot(kx, ky).clamp_min(1)
    assert orders.angular_energy(gradient + 0 * ky)[1] == pytest.approx(1, abs=1e-12)
    both = torch.stack([torch.ones_like(angle), 2 * torch.cos(2 * angle)], -1)
    assert orders.angular_energy(both)[[0, 2]] == pytest.approx([1 / 3, 2 / 3], abs=1e-12)
    assert orders.angular_energy(torch.cos(7 * angle))[-1] > 0.8
    assert orders.angular_energy(torch.randn(15, 15, 50)).sum() == pytest.approx(1)


def test_multipliers_of_a_known_layer(orders):
    known = LowPass(torch.randn(3, 3))
    assert (orders.multipliers(known, 3, 8, 1) - known.matrix).abs().max() < 1e-5


@neuralop_needed
def test_multipliers_of_the_peer_are_its_weights(load, orders):
    torch.manual_seed(0)
    layer = load("common").neuralop_spectral(3, 5)
    found = orders.multipliers(layer, 3, 6, 2)
    stored = layer.weight.to_tensor().permute(2, 3, 1, 0)  # rows −2..2 and 0..2
    assert (found[:, 3:] - stored[:, 1:]).abs().max() < 1e-5
    assert (found[:, :2] - stored[:, 1:].flip(0, 1).conj()).abs().max() < 1e-5


@pytest.mark.parametrize(("group", "forbidden"), [("dihedral(4)", 1e-9), ("none", None)])
def test_a_symmetric_operator_responds_in_the_allowed_orders(merit, group, forbidden):
    torch.manual_seed(0)
    w = merit.side.PSEUDO
    model = fs.FNO(w, w, group=fs.groups.named(group, 2), n_modes=9, hidden_channels=8, n_layers=1)
    orders = merit.orders_of(model, 9)
    others = sum(orders["at rest"][n] for n in (1, 2, 3))
    assert others < forbidden if forbidden else others > 1e-4
    assert sum(orders["weights"]) == pytest.approx(1)


def test_exponents_of_known_errors(merit):
    assert merit.exponent({n: 3 * n**-0.5 for n in (16, 32, 64)}) == pytest.approx(0.5)
    runs = [
        {"model": "a", "seed": seed, "fields": n, "test": n**-b}
        for seed, b in enumerate((0.2, 0.4, 0.6))
        for n in (4, 8, 16)
    ]
    mean, error = merit.Merit("a", [*runs, {"model": "b", "fields": 99}]).exponent()
    assert mean == pytest.approx(0.4)
    assert error == pytest.approx(0.2 / 3**0.5)


def test_the_rougher_fields_are_of_unit_variance_and_have_more_small_scales(merit):
    def high(w):
        power = torch.fft.rfft2(w.double()).abs().square()
        return float(power[..., 5:-4, :].sum() / power.sum())

    rough, y = merit.rough_fields(16, seed=1)
    smooth, _ = merit.side.simulate(0, 16, seed=1)
    assert rough.std() == pytest.approx(1, rel=1e-3)
    assert high(rough) > 1.5 * high(smooth)
    solver = fs.simulate.navier_stokes(merit.side.BASE, time=1.0, viscosity=1e-3)
    assert merit.side.relative(solver(rough.double()), y).max() < 1e-5


@neuralop_needed
def test_merit_program(merit, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(merit, "ROWS", {k: merit.ROWS[k] for k in ("D4 FNO", "plain FNO")})
    options = ["--quick", "--out", str(tmp_path / "merit")]
    merit.main(options)
    first, found = capsys.readouterr().out, recorded(tmp_path)
    assert found["merit", "D4 FNO", "not rotating"] < 1e-5 < found["merit", "plain FNO", "rotated"]
    assert found["merit", "plain FNO", "parameters"] > 7 * found["merit", "D4 FNO", "parameters"]
    assert found["merit", "D4 FNO", "test"] == found["merit", "D4 FNO", "test, 8 fields"]
    page = (tmp_path / "merit" / "merit.html").read_text()
    assert page.count("<td>real parameters</td>") == 1
    assert "data:image/png;base64," in page
    assert 'src="http' not in page
    assert (tmp_path / "merit" / "merit.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setattr(merit, "run", None)  # every run is taken from the file
    merit.main(options)
    assert capsys.readouterr().out == first
