"""Symmetry cloning: closed form of a convolution, order, modes, refusals; the benchmark."""

import copy
import csv
import importlib
from pathlib import Path

import laws
import pytest
import torch
from catalogue import OBLONG, groups
from torch import nn

import fieldsym as fs
from fieldsym.cloning import clone

LINE = fs.Bundle(fs.Torus((2.0,)), "scalar p")
FLOW = fs.Bundle(OBLONG, "scalar p + vector u")
PRESSURE = fs.Bundle(OBLONG, "scalar p")
D2 = groups.dihedral(2)
OPTIONS = {"n_modes": 3, "hidden_channels": 8, "n_layers": 1}


def conv(dtype=torch.float32, size=3):
    options = {"padding": size // 2, "padding_mode": "circular", "bias": False}
    return nn.Conv1d(1, 1, size, **options, dtype=dtype)


class BrokenTeacher(nn.Module):
    """A derivative, odd under reflections, in the place of a symmetric operator."""

    def forward(self, u):
        return u.roll(-1, -1) - u.roll(1, -1)


def assert_even(weight, tol=2e-3):
    laws.assert_close(weight.flip(-1), weight, tol)


def test_a_convolution_becomes_that_of_the_teacher(dtype):
    """Noise excites every coefficient, so the kernel of a longer student is the teacher's too."""
    teacher = fs.enforce(conv(dtype), groups.reflections(1), LINE, LINE)
    student, draws = conv(dtype, 5), torch.Generator().manual_seed(1)
    losses = clone(
        student,
        teacher,
        lambda step: torch.randn(16, 1, 9, generator=draws, dtype=dtype),
        steps=300,
        learning_rate=0.05,
    )
    want = nn.functional.pad(teacher.weight.detach(), (1, 1))
    laws.assert_close(student.weight.detach(), want, 1e-3)
    assert_even(student.weight.detach())
    assert losses[-1] < 1e-3 < 0.1 < losses[0]


def test_what_the_teacher_breaks_the_student_breaks():
    student = conv()
    clone(student, BrokenTeacher(), torch.randn(64, 1, 9), steps=300, learning_rate=0.05)
    with pytest.raises(AssertionError):
        assert_even(student.weight.detach())


def test_a_cloned_operator_is_nearly_equivariant():
    """Scalars to vectors and unequal axes; the defect falls with the loss."""
    teacher = fs.FNO(PRESSURE, FLOW, group=D2, **OPTIONS)
    student = fs.FNO(PRESSURE, FLOW, **OPTIONS)
    u = fs.testing.random_section(PRESSURE, (8, 12), batch=64, dtype=torch.float32)
    turn = D2.elements[1]

    def defect():
        with torch.no_grad():
            moved, value = student(fs.act(turn, u, PRESSURE)), student(u)
            return laws.relative(moved - fs.act(turn, value, FLOW), value)

    before = defect()
    losses = clone(student, teacher, u, steps=150, learning_rate=5e-3)
    assert losses[-1] < 0.2 * losses[0]
    assert defect() < 0.3 * before


def test_the_first_loss_is_the_relative_error_of_the_batch():
    teacher, student, u = conv(), conv(), torch.randn(5, 1, 8)
    with torch.no_grad():
        want = [float((student(v) - teacher(v)).norm() / teacher(v).norm()) for v in u[:, None]]
    assert clone(student, teacher, u, steps=1)[0] == pytest.approx(sum(want) / 5, rel=1e-5)


def test_runs_repeat_and_leave_the_random_numbers_alone():
    teacher, start, u = conv(), nn.Sequential(conv(), nn.Dropout(0.3)), torch.randn(40, 1, 8)
    state = torch.get_rng_state()
    runs = []
    for seed in (3, 3, 4):
        student = copy.deepcopy(start)
        runs.append((clone(student, teacher, u, steps=7, seed=seed), student[0].weight.detach()))
    assert runs[0][0] == runs[1][0] != runs[2][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert torch.equal(torch.get_rng_state(), state)


class Recorder(nn.Module):
    """The identity; remembers which samples it saw, and in which mode."""

    def __init__(self):
        super().__init__()
        self.seen, self.modes = [], set()

    def forward(self, u):
        self.seen += u[:, 0, 0].tolist()
        self.modes.add(self.training)
        return u


@pytest.mark.parametrize("batch_size", [4, 5, 50])
def test_every_sample_comes_once_before_any_comes_again(batch_size):
    u = torch.arange(1.0, 11.0).view(10, 1, 1).expand(10, 1, 8).contiguous()
    teacher = Recorder()
    clone(conv(), teacher, u, steps=20, batch_size=batch_size)
    for start in range(0, len(teacher.seen), 10):
        part = teacher.seen[start : start + 10]
        assert len(set(part)) == len(part)
    assert len(teacher.seen) == 20 * min(batch_size, 10)


def test_a_function_is_a_teacher():
    """One that returns twice its input: the kernel becomes twice the identity."""
    student = conv()
    clone(student, lambda u: 2 * u, torch.randn(64, 1, 9), steps=300, learning_rate=0.05)
    laws.assert_close(student.weight.detach(), torch.tensor([[[0.0, 2.0, 0.0]]]), 2e-3)


def test_modes_and_the_teacher_stay_as_they_were():
    teacher, recorder = nn.Sequential(conv(), Recorder()), Recorder()
    student = nn.Sequential(conv(), recorder)
    student[1].eval()
    before, calls = copy.deepcopy(teacher[0].weight), []
    clone(student, teacher, torch.randn(8, 1, 8), steps=3, progress=lambda *c: calls.append(c))
    assert (teacher[1].modes, recorder.modes) == ({False}, {True})
    assert (teacher.training, teacher[1].training) == (True, True)
    assert (student.training, recorder.training) == (True, False)
    assert torch.equal(teacher[0].weight, before)
    assert teacher[0].weight.grad is None
    assert student[0].weight.grad is None
    assert [c[:2] for c in calls] == [(1, 3), (2, 3), (3, 3)]
    assert all(set(c[2]) == {"loss"} for c in calls)


def test_frozen_parameters_stay():
    student = nn.Sequential(conv(), conv())
    student[0].requires_grad_(False)
    before = student[0].weight.clone()
    clone(student, conv(), torch.randn(8, 1, 8), steps=3)
    assert torch.equal(student[0].weight, before)


def test_a_teacher_that_returns_zero_has_finite_losses():
    class Zero(nn.Module):
        def forward(self, u):
            return 0.0 * u

    student = conv()
    clone(student, Zero(), torch.randn(8, 1, 8), steps=2)
    assert student.weight.isfinite().all()


NAN = torch.full((2, 1, 8), torch.nan)
SHARED = conv()


class Scaled(nn.Module):
    """A number times the input."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, u):
        return self.factor * u


REFUSED = {
    "nothing drawn": (conv(), Scaled(1.0), lambda step: None, {}, fs.DataError,
                      "function from the number of a step .*got NoneType"),
    "pairs drawn": (conv(), Scaled(1.0), lambda step: (NAN, NAN), {}, fs.DataError, "got tuple"),
    "channels": (conv(), Scaled(1.0), torch.ones(3, 2, 8), {}, fs.DataError,
                 r"student cannot be run on inputs of shape \(3, 2, 8\) in torch.float32: .*Give"),
    "teacher's channels": (Scaled(1.0), conv(), torch.ones(3, 2, 8), {}, fs.DataError,
                           r"The teacher cannot be run on inputs of shape \(3, 2, 8\)"),
    "dtype": (conv(), conv(), torch.ones(3, 1, 8).double(), {}, fs.DataError,
              r"The teacher cannot be run on .* in torch.float64"),
    "two outputs": (conv(), lambda u: (u, u), torch.ones(3, 1, 8), {}, fs.BundleError,
                    "The teacher returns one tensor .*got tuple"),
    "a function": (lambda u: u, conv(), torch.ones(3, 1, 8), {}, fs.DataError,
                   "The student is a module"),
    "no teacher": (conv(), "teacher", torch.ones(3, 1, 8), {}, fs.BundleError,
                   "clone needs an operator"),
    "rate in words": (conv(), conv(), torch.ones(2, 1, 8), {"learning_rate": "small"},
                      fs.DataError, "learning_rate is a positive number; got 'small'"),
    "shapes": (conv(), nn.Conv1d(1, 2, 1), torch.ones(2, 1, 8), {}, fs.BundleError,
               r"student makes \(2, 1, 8\) and the teacher \(2, 2, 8\)"),
    "NaN in": (conv(), Scaled(1.0), NAN, {}, fs.DataError, "inputs hold NaN"),
    "NaN drawn": (conv(), Scaled(1.0), lambda step: NAN, {}, fs.DataError,
                  "output of the teacher is not finite at step 1"),
    "NaN student": (Scaled(float("nan")), Scaled(1.0), torch.ones(2, 1, 8), {}, fs.DataError,
                    "output of the student is not finite at step 1.*smaller learning_rate"),
    "no fields": (conv(), Scaled(1.0), torch.ones(8), {}, fs.DataError, r"real fields.*got \(8,\)"),
    "a list": (conv(), Scaled(1.0), [1.0], {}, fs.DataError, "real fields.*got list"),
    "empty": (conv(), Scaled(1.0), torch.ones(0, 1, 8), {}, fs.DataError, "at least one"),
    "steps": (conv(), Scaled(1.0), torch.ones(2, 1, 8), {"steps": 0}, fs.DataError,
              "steps is a positive whole number; got 0"),
    "batch": (conv(), Scaled(1.0), torch.ones(2, 1, 8), {"batch_size": 2.5}, fs.DataError,
              "batch_size is a positive whole number; got 2.5"),
    "rate": (conv(), Scaled(1.0), torch.ones(2, 1, 8), {"learning_rate": -1.0}, fs.DataError,
             "learning_rate is a positive number; got -1.0"),
    "itself": (SHARED, SHARED, torch.ones(2, 1, 8), {}, fs.DataError, "shares 1 with the teacher"),
    "nothing to train": (nn.ReLU(), Scaled(1.0), torch.ones(2, 1, 8), {}, fs.DataError,
                         "it has 0, and shares 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refusals(case):
    student, teacher, inputs, options, error, message = case
    with pytest.raises(error, match=message):
        clone(student, teacher, inputs, **{"steps": 2, **options})


# The benchmark ------------------------------------------------------------------------------------


@pytest.fixture
def program(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    monkeypatch.setattr(importlib.import_module("common"), "RECORD", tmp_path / "record.csv")
    return importlib.import_module("cloning")


@pytest.mark.parametrize("breaking", ["wind", "forcing"])
def test_the_data_break_the_symmetry(program, breaking):
    """The pairs turn together only where nothing blows or stirs."""
    turn = fs.groups.cyclic(4).elements[1]
    for strength, broken in ((0.0, False), (program.STRENGTH[breaking], True)):
        solve = program.flow(breaking, strength)
        x, y = program.simulate(solve, 0, 2, seed=0)
        moved = solve(fs.act(turn, x.double(), program.PSEUDO)).float()
        defect = laws.relative(moved - fs.act(turn, y, program.PSEUDO), y)
        assert (defect > 0.05) == broken


@pytest.mark.parametrize("breaking", ["wind", "forcing"])
def test_the_program_on_a_tiny_case(program, breaking, tmp_path, capsys):
    program.main(["--quick", "--breaking", breaking])
    text = capsys.readouterr().out
    for row in ("plain", "enforced", "cloned", "cloned, then fine-tuned"):
        assert f"| {row} |" in text
    with (tmp_path / "record.csv").open() as file:
        found = list(csv.DictReader(file))
    assert {r["benchmark"] for r in found} == {f"cloning, {breaking}"}
    values = {(r["case"], r["metric"]): float(r["value"]) for r in found}
    assert values["enforced, 4 fields", "not rotating"] < 1e-5
    assert values["plain, 4 fields", "not rotating"] > 0.01
