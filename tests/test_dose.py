"""The dose-response benchmark: its data, its start, what it chooses by, and a tiny run of it."""

import csv
import importlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fieldsym as fs

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def dose(monkeypatch, tmp_path):
    """The program; what it records goes to a file of the test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(importlib.import_module("common"), "RECORD", tmp_path / "record.csv")
    return importlib.import_module("dose")


@pytest.fixture
def models(dose):
    return importlib.import_module("dose_models")


def tiny(models, **options):
    return models.Size(**{"fields": 8, "test": 4, "steps": 3, "n_modes": 5, "layers": 1, **options})


# Data ---------------------------------------------------------------------------------------------


def test_the_flow_breaks_one_direction_and_d4_in_proportion_to_the_dose(dose, models):
    x = models.simulate(0.0, 0, tiny(models))[2][0][:1].double()
    none, some, twice = (models.broken(models.flow(a), x) for a in (0.0, 0.01, 0.02))
    assert max(none["singular values"]) < 1e-10
    assert dose.asymmetry(none) < 1e-10
    assert dose.asymmetry(twice) / dose.asymmetry(some) == pytest.approx(2, rel=0.01)
    first, second = twice["singular values"]
    assert first > 0.01
    assert second < 1e-6 * first
    assert [abs(c) for c in twice["direction"]] == pytest.approx([math.sqrt(0.5)] * 2, rel=1e-4)


def test_data_have_parts_of_their_own_and_the_forcing_of_their_dose(models):
    size = tiny(models)
    still, forced = (models.simulate(a, 1, size) for a in (0.0, 0.3))
    assert [len(x) for x, _ in still] == [8, 8, 4]
    assert len({float(x[0, 0, 0]) for part, _ in still for x in part}) == 20
    for (x, y), (u, v) in zip(still, forced, strict=True):
        assert torch.equal(x, u)
        xs, ys = models.BASE.coordinates((32, 32)).float() * math.tau
        pushed = 0.3 * ((xs + ys).sin() + (xs + ys).cos())
        along = ((v - y) * pushed).sum((1, 2, 3)) / pushed.square().sum()  # time 1: Δw ≈ f
        assert 0.5 < float(along.min()) <= float(along.max()) < 1.2


# Operators ----------------------------------------------------------------------------------------


def start_of(models, **options):
    """A relaxed operator of a seed, and the coordinates' columns of its first weight."""
    torch.manual_seed(4)
    model = models.relaxed(tiny(models, **options))
    columns = model.lifting.first.weight.matrices.detach()[0, 0, :, 1:]
    return model, columns


def assert_symmetric(models, model):
    x = fs.testing.random_section(models.PSEUDO, (16, 16), batch=2, dtype=torch.float32)
    with torch.no_grad():
        y = model(x)
        for g in models.D4.elements:
            moved = model(fs.act(g, x, models.PSEUDO))
            assert torch.allclose(moved, fs.act(g, y, models.PSEUDO), atol=1e-5 * float(y.std()))


def test_promoted_starts_symmetric_but_for_the_coordinates(models):
    model, columns = start_of(models)
    torch.manual_seed(4)
    plain = models.operator(tiny(models), positional_embedding="grid")
    assert torch.allclose(columns, plain.lifting.first.weight.matrices[0, 0, :, 1:])
    with pytest.raises(AssertionError):  # the coordinates break it
        assert_symmetric(models, model)
    with torch.no_grad():
        for residual in fs.residual_parameters(model):
            residual.zero_()
    assert_symmetric(models, model)


def test_promoted_starts_with_weights_as_large_as_plain_ones(models):
    sizes = {}
    for scale in (models.D4.order**0.5, 1.0):
        torch.manual_seed(0)
        model = models.operator(tiny(models, width=32), positional_embedding="grid")
        weight = model.layers[0].convolution.weights[0].matrices
        before = weight.detach().norm()
        with torch.no_grad():
            weight *= scale
        fs.project_(model, models.D4, models.PSEUDO, models.PSEUDO)
        sizes[scale] = float(weight.detach().norm() / before)
    assert sizes[models.D4.order**0.5] == pytest.approx(1, rel=0.05)
    assert sizes[1.0] == pytest.approx(models.D4.order**-0.5, rel=0.05)


def fit_all_weights(models, model, task):
    """A saboteur: a penalty that may move all weights, without data to hold them."""
    penalty = models.promotion(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=models.RATE)
    for _ in range(task.size.steps):
        optimizer.zero_grad()
        penalty().backward()
        optimizer.step()


def fit_residuals(models, model, task):
    models.fit(model, models.simulate(task.dose, task.seed, task.size)[0], task)


def assert_penalty_moves_residuals(models, fit, monkeypatch):
    monkeypatch.setattr(models, "snap", lambda *_: False)  # the penalty alone
    task = models.Task(0.0, 0, "promoted", 100.0, tiny(models, steps=30))
    model = models.build(task)
    residuals = fs.residual_parameters(model)
    free = [p for p in model.parameters() if all(p is not r for r in residuals)]

    def sizes():
        return [
            float(torch.cat([p.detach().flatten() for p in of]).norm()) for of in (free, residuals)
        ]

    before = sizes()
    fit(models, model, task)
    symmetric, residual = (b / a for a, b in zip(before, sizes(), strict=True))
    assert 0 < residual < 0.9
    assert symmetric < 1.2, symmetric


def test_a_strong_penalty_removes_residuals_and_inflates_nothing(models, monkeypatch):
    assert_penalty_moves_residuals(models, fit_residuals, monkeypatch)
    with pytest.raises(AssertionError, match=r"assert [12]\.\d+ < 1\.2"):
        assert_penalty_moves_residuals(models, fit_all_weights, monkeypatch)


def one_step(models, pace):
    """How far Adam moves an entry at most in its first step: others, residuals."""
    task = models.Task(0.4, 0, "promoted", 0.05, tiny(models, steps=1), pace)
    model = models.build(task)
    residuals = fs.residual_parameters(model)
    others = [p for p in model.parameters() if all(p is not r for r in residuals)]
    before = [[p.detach().clone() for p in of] for of in (others, residuals)]
    fit_residuals(models, model, task)
    return [
        max(float((p.detach() - old).abs().max()) for p, old in zip(of, olds, strict=True))
        for of, olds in zip((others, residuals), before, strict=True)
    ]


def test_residuals_learn_at_their_own_rate(models, monkeypatch):
    monkeypatch.setattr(models, "snap", lambda *_: False)
    for pace in (0.2, 1.0):
        others, residuals = one_step(models, pace)
        assert others == pytest.approx(models.RATE, rel=1e-3)
        assert residuals == pytest.approx(pace * models.RATE, rel=1e-3)


def assert_snaps_by_error(models, snap):
    """An operator that errs more than it breaks is snapped, a sharper one is not."""
    for scale, expected in ((10, True), (1, False)):  # errors of 9 and of 0
        model, _ = start_of(models)
        x = models.simulate(0.0, 0, tiny(models))[0][0]
        with torch.no_grad():
            y = model(x)
            before = [r.clone() for r in fs.residual_parameters(model)]
        assert snap(model, (x, y / scale)) == expected
        after = fs.residual_parameters(model)
        if expected:
            assert not any(r.any() or r.requires_grad for r in after)
            assert_symmetric(models, model)
        else:
            assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
            assert all(r.requires_grad for r in after)


def test_what_is_broken_by_less_than_the_error_is_snapped(models):
    assert_snaps_by_error(models, models.snap)

    def always(model, pairs):
        return models.snap(model, (pairs[0], pairs[1] / 10))

    with pytest.raises(AssertionError):
        assert_snaps_by_error(models, always)


def test_what_was_snapped_stays_symmetric_and_learns(models):
    task = models.Task(0.0, 0, "promoted", 0.05, tiny(models, steps=6), 0.2)
    model, snapped = models.build(task), []

    def recorded(*arguments, snap=models.snap):
        found = snap(*arguments)
        snapped.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "snap", recorded)
        fit_residuals(models, model, task)
    assert len(snapped) == 1
    free = [p for p in model.parameters() if p.requires_grad]
    assert not any(torch.equal(a, b) for a, b in zip(free, snapped[0], strict=True))
    assert_symmetric(models, model)


def test_augmentation_moves_input_and_target_alike(models):
    x = fs.testing.random_section(models.PSEUDO, (32, 32), batch=2)
    moves = models.Augment(3)
    seen = set()
    for _ in range(5):
        a, b = moves(x, 2 * x)
        assert torch.equal(2 * a, b)
        assert torch.allclose(a.abs().sum(), x.abs().sum())
        seen.add(float(a[0, 0, 0, 0]))
    assert len(seen) == 5


def test_every_kind_has_the_symmetry_it_says(models):
    size = tiny(models)
    x = models.simulate(0.0, 0, size)[2][0]
    for kind, exact in (("plain", False), ("augmented", False), ("enforced", True)):
        found = models.broken(models.build(models.Task(0.0, 0, kind, 0.0, size)), x)
        assert (max(found["elements"].values()) < 1e-3) == exact


# Choice and verdict -------------------------------------------------------------------------------


def row(valid, test, values=(0.0, 0.0), elements=(0.0,) * 7):
    names = (f"element {i}" for i in range(7))
    return {
        "valid": valid, "test": test, "singular values": list(values),
        "elements": dict(zip(names, elements, strict=True)), "snapped": False,
    }  # fmt: skip


def results(dose, promoted, others=(0.2, 0.1)):
    """One dose, one seed: rows of "promoted" by strength, test errors of plain and enforced."""
    size = dose.Size()
    found = {dose.Task(0.1, 0, "data", 0.0, size): row(0.0, 0.0)}
    for kind, test in zip(("plain", "enforced", "augmented"), (*others, 0.3), strict=True):
        found[dose.Task(0.1, 0, kind, 0.0, size)] = row(test, test)
    for strength, one in promoted.items():
        found[dose.Task(0.1, 0, "promoted", strength, size)] = one
    return found


def assert_chosen_by_validation(choose, dose):
    found = results(dose, {1.0: row(0.10, 0.105), 0.1: row(0.11, 0.08), 10.0: row(0.12, 0.07)})
    cells = choose(found)
    assert cells[0.1, "promoted"][0]["strength"] == 1.0
    assert dose.ratio(cells, 0.1) == pytest.approx(1.05)


def test_the_strength_is_chosen_by_validation(dose):
    assert_chosen_by_validation(dose.by_method, dose)

    def broken_choice(found):  # looks at the test fields
        return dose.by_method({t: {**r, "valid": r.get("test", 0)} for t, r in found.items()})

    with pytest.raises(AssertionError):
        assert_chosen_by_validation(broken_choice, dose)


def test_every_seed_chooses_its_own_strength(dose):
    found = results(dose, {1.0: row(0.1, 0.1), 0.1: row(0.2, 0.2)})
    other = results(dose, {1.0: row(0.2, 0.2), 0.1: row(0.1, 0.3)})
    found |= {replace(task, seed=1): one for task, one in other.items()}
    assert [one["strength"] for one in dose.by_method(found)[0.1, "promoted"]] == [1.0, 0.1]


def test_what_has_no_penalty_is_a_method_of_its_own(dose):
    cells = dose.by_method(results(dose, {0.0: row(0.1, 0.3), 0.1: row(0.2, 0.4)}))
    found = {kind: cells[0.1, kind][0]["test"] for kind in ("relaxed", "promoted")}
    assert found == {"relaxed": 0.3, "promoted": 0.4}  # though its validation error is smaller


def test_broken_counts_what_stands_out(dose):
    sharp = dose.SHARPNESS * 0.1
    below, above = 0.9 * sharp, 1.1 * sharp
    assert dose.dimension(row(0.1, 0.1, (below, below))) == 0
    assert dose.dimension(row(0.1, 0.1, (above, below))) == 1
    assert dose.dimension(row(0.1, 0.1, (above, above))) == 2
    assert dose.dimension(row(0.1, 0.1, (20 * above, 2 * above))) == 1  # a gap of ten
    assert dose.elements(row(0.1, 0.1, elements=(above, below, *(above,) * 5))) == 6


# The program --------------------------------------------------------------------------------------


def test_quick_run_draws_prints_and_goes_on(dose, tmp_path, capsys, monkeypatch):
    arguments = ["--quick", "--seeds", "1", "--workers", "1", "--folder", str(tmp_path / "runs")]
    dose.main(arguments)
    lines = (tmp_path / "runs" / "results.jsonl").read_text().splitlines()
    assert len(lines) == 2 * (1 + 3 + 3)  # strengths 0 and two others
    assert (tmp_path / "runs" / "dose_response.png").read_bytes()[:4] == b"\x89PNG"
    first = capsys.readouterr().out
    assert "| 0.8 |" in first
    assert "of 2 doses" in first
    with (tmp_path / "record.csv").open() as file:
        rows = {(r["case"], r["metric"]): float(r["value"]) for r in csv.DictReader(file)}
    by_kind = {key["kind"]: found for key, found in map(json.loads, lines) if key["dose"] == 0}
    assert rows["dose 0, plain", "test"] == pytest.approx(by_kind["plain"]["test"], rel=1e-3)

    # lines of an earlier form of training are kept and not used
    path = tmp_path / "runs" / "results.jsonl"
    old = [json.loads(line) for line in lines]
    old = [[key, {**found, "test": 0.0}] for key, found in old if key["kind"] == "promoted"]
    for key, _ in old:
        del key["pace"]
    lines = [*map(json.dumps, old), *lines]

    # a line that was cut short is run again, nothing else
    path.write_text("\n".join([*lines[:-1], lines[-1][:40]]))
    ran, run = [], dose.run
    monkeypatch.setattr(dose, "run", lambda task: ran.append(task) or run(task))
    dose.main([*arguments, "--picture", str(tmp_path / "new" / "picture.png")])
    assert len(ran) == 1
    assert len(path.read_text().splitlines()) == len(lines)
    assert (tmp_path / "new" / "picture.png").exists()
    table = [line for line in first.splitlines() if line.startswith("| 0")]
    assert table == [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("| 0")
    ]
