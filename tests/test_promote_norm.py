"""The nuclear norm as a penalty: value, gradient, minibatches, one direction, and recovery."""

import csv
import importlib
import importlib.util
import math
from pathlib import Path

import pytest
import torch

from fieldsym.errors import DataError
from fieldsym.symmetry.promote_norm import NuclearNorm

torch_double = {"dtype": torch.float64}
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def matrix(sigmas, rows=40, dtype=torch.float64):
    """Columns with given singular values, in random directions."""
    k = len(sigmas)
    u, v = (torch.linalg.qr(torch.randn(n, k, **torch_double))[0] for n in (rows, k))
    return (u * torch.tensor(sigmas, **torch_double) @ v.T).to(dtype)


def one_zero_column():
    a = torch.randn(40, 5, **torch_double)
    a[:, 2] = 0
    return a


MATRICES = {
    "generic": lambda: torch.randn(40, 3, **torch_double),
    "repeated": lambda: matrix([2.0, 2.0, 1.0, 1.0, 1.0]),
    "zero column": one_zero_column,
    "rank one": lambda: matrix([3.0, 0.0, 0.0]),
    "one generator": lambda: torch.randn(40, 1, **torch_double),
}


def smoothed(a, eps, p):
    """Smoothed Schatten penalty from singular values, ε fixed."""
    m = (torch.linalg.svdvals(a).square() + eps**2).sqrt()
    if p == 0:
        return (m / eps).log().sum()
    return m.sum() if p == 1 else ((m**p - eps**p) / p).sum()


def gradient(penalty, a):
    a = a.detach().requires_grad_()
    return torch.autograd.grad(penalty(a), a)[0]


def of_columns(norm):
    return lambda a: norm(a.T @ a)


# Value and gradient -------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0, 0.5, 1])
@pytest.mark.parametrize("name", MATRICES)
def test_value_and_gradient_are_those_of_the_smoothed_singular_values(name, p):
    a = MATRICES[name]()
    norm = NuclearNorm(a.shape[1], p=p, ema=0.0)
    eps = 1e-2 * float(torch.linalg.matrix_norm(a, 2))
    torch.testing.assert_close(norm(a.T @ a), smoothed(a, eps, p), rtol=1e-10, atol=0)
    norm.reset()
    got, expected = gradient(of_columns(norm), a), gradient(lambda a: smoothed(a, eps, p), a)
    assert (got - expected).norm() < 1e-10 * expected.norm()


@pytest.mark.parametrize("p", [0, 0.5, 1])
def test_gradient_against_finite_differences(p):
    a, v, h = matrix([2.0, 1.0, 0.1]), torch.randn(40, 3, **torch_double), 1e-5
    got = (gradient(of_columns(NuclearNorm(3, p=p, ema=0.0)), a) * v).sum()
    expected = (smoothed(a + h * v, 2e-2, p) - smoothed(a - h * v, 2e-2, p)) / (2 * h)
    assert abs(got - expected) < 1e-5 * abs(expected)


@pytest.mark.parametrize("p", [0, 0.5, 1])
def test_an_exact_symmetry_costs_nothing_and_is_not_pushed(p):
    a = torch.zeros(40, 3, **torch_double)
    assert NuclearNorm(3, p=p)(a.T @ a) < 1e-6
    assert gradient(of_columns(NuclearNorm(3, p=p)), a).abs().max() == 0
    a[:, 0] = torch.randn(40, **torch_double)
    assert gradient(of_columns(NuclearNorm(3, p=p)), a)[:, 1:].abs().max() < 1e-10


def test_float64_gram_keeps_small_singular_values():
    sigmas = [1.0, 0.5, 0.1, 1e-3, 1e-5]
    a = matrix(sigmas, rows=4000, dtype=torch.float32)
    errors = []
    for gram in (a.double().T @ a.double(), (a.T @ a).double()):
        norm = NuclearNorm(5)
        norm.observe(gram)
        errors.append(abs(float(norm.singular_values[-1]) / 1e-5 - 1))
    assert errors[0] < 2e-2 < 1 < errors[1]


def test_no_generators_no_penalty():
    a = torch.zeros(40, 0, **torch_double, requires_grad=True)
    value = NuclearNorm(0)(a.T @ a)
    value.backward()
    assert value == 0


def test_singular_values_and_directions():
    a = matrix([3.0, 2.0, 0.0])
    norm = NuclearNorm(3)
    norm(a.T @ a)
    torch.testing.assert_close(norm.singular_values, torch.tensor([3.0, 2.0, 0.0], **torch_double),
                               rtol=1e-12, atol=1e-7)  # fmt: skip
    torch.testing.assert_close(norm.directions @ norm.directions.T, torch.eye(3, **torch_double))
    torch.testing.assert_close((a @ norm.directions.T).norm(dim=0), norm.singular_values,
                               rtol=1e-12, atol=1e-7)  # fmt: skip


def test_invariant_under_orthogonal_changes_of_basis_alone():
    a, q = torch.randn(40, 3, **torch_double), torch.linalg.qr(torch.randn(3, 3, **torch_double))[0]
    value = NuclearNorm(3)(a.T @ a)
    torch.testing.assert_close(NuclearNorm(3)((a @ q).T @ (a @ q)), value)
    stretched = a * torch.tensor([4.0, 1.0, 1.0], **torch_double)
    assert NuclearNorm(3)(stretched.T @ stretched) > 1.2 * value


# Schedule, running mean, state --------------------------------------------------------------------


def test_smoothing_falls_geometrically_with_penalties_relative_to_the_largest():
    norm, gram = (
        NuclearNorm(2, eps=(1e-1, 1e-3), anneal=4),
        torch.diag(torch.tensor([25.0, 1.0], **torch_double)),
    )
    norm.observe(gram)
    norm.observe(gram)  # does not count
    found = []
    for _ in range(3):
        found.append(norm.smoothing)
        norm(gram)
        found.append(norm.smoothing)
        norm.one(gram[0, 0], norm.draw()[1])
    expected = [5 * 10 ** -(1 + min(2.0, 0.5 * n)) for n in range(6)]
    assert found == pytest.approx(expected, rel=1e-10)
    assert NuclearNorm(2, eps=(1e-1, 1e-3), anneal=0).smoothing == 1e-8  # nothing seen: the floor


def test_running_mean_is_unbiased_from_the_first_batch():
    norm, gram = NuclearNorm(3), torch.diag(torch.tensor([9.0, 4.0, 1.0], **torch_double))
    for _ in range(3):
        norm(gram)
        torch.testing.assert_close(norm.singular_values, torch.tensor([3.0, 2, 1], **torch_double))
    norm = NuclearNorm(3, ema=0.5)
    norm(gram)
    norm(4 * gram)
    torch.testing.assert_close(norm.singular_values[0] ** 2, 9 * torch.tensor(3.0, **torch_double))


def mean_penalty(a, ema, batches=800, rows=3):
    """Mean of the penalty over small batches of rows, each Gram scaled to the whole matrix."""
    norm, values = NuclearNorm(a.shape[1], ema=ema, anneal=0), []
    for n in range(batches):
        batch = a[torch.randint(len(a), (rows,))] * math.sqrt(len(a) / rows)
        values.append(float(norm(batch.T @ batch)) if n > 200 else float("nan"))
    return torch.tensor(values)[201:].mean()


def test_running_mean_removes_the_bias_of_minibatches():
    a = torch.randn(300, 6, **torch_double) / math.sqrt(300)
    exact = torch.linalg.svdvals(a).sum()
    assert mean_penalty(a, ema=0.0) < 0.85 * exact
    assert abs(mean_penalty(a, ema=0.98) / exact - 1) < 0.04


def test_batches_are_weighed_by_the_running_mean():
    """The gradient is A W with the W of the mean: linear in the columns of the batch."""
    a, norm = torch.randn(40, 3, **torch_double), NuclearNorm(3, ema=0.9)
    norm.observe(torch.eye(3, **torch_double))
    found = gradient(of_columns(norm), a)
    mean = (0.09 * torch.eye(3, **torch_double) + 0.1 * a.T @ a) / 0.19
    values, vectors = torch.linalg.eigh(mean)
    eps = 1e-2 * values.max().sqrt()
    inverse = vectors @ torch.diag((values + eps**2) ** -0.5) @ vectors.T
    torch.testing.assert_close(found, a @ inverse)


def test_state_continues(tmp_path):
    grams = [(a.T @ a) for a in torch.randn(8, 40, 3, **torch_double)]
    norm = NuclearNorm(3, p=0.5, anneal=6)
    for gram in grams[:4]:
        norm(gram)
    torch.save(norm.state_dict(), tmp_path / "state.pt")
    other = NuclearNorm(3, p=0.5, anneal=6)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for gram in grams[4:]:
        assert norm(gram) == other(gram)
    norm.reset()
    assert norm(grams[0]) == NuclearNorm(3, p=0.5, anneal=6)(grams[0])


# One direction ------------------------------------------------------------------------------------


def draws(norm):
    """Every draw there is, once."""
    found = {}
    for seed in range(100):
        v, weight = norm.draw(torch.Generator().manual_seed(seed))
        found[tuple(v.tolist())] = (v, weight)
    assert len(found) == norm.k
    return found.values()


def one_direction(norm, a):
    """Mean over the draws of the gradient and of the value, at one place of the schedule."""
    state = norm.state_dict()
    gradients, values = [], []
    for v, weight in draws(norm):
        norm.load_state_dict(state)
        b = a.clone().requires_grad_()
        value = norm.one((b @ v).square().sum(), weight)
        gradients.append(torch.autograd.grad(value, b)[0])
        values.append(value.detach())
    return torch.stack(gradients).mean(0), torch.stack(values).mean()


class BrokenDraw(NuclearNorm):
    """Forgets the probability of the draw."""

    def draw(self, generator=None):
        v, weight = super().draw(generator)
        return v, weight / self.k


@pytest.mark.parametrize("p", [0, 0.5, 1])
def test_one_direction_is_unbiased(p):
    a = matrix([2.0, 1.0, 0.1, 1e-4])

    def check(kind):
        norm = kind(4, p=p)
        norm.observe(a.T @ a)
        exact = NuclearNorm(4, p=p)
        found, value = one_direction(norm, a)
        torch.testing.assert_close(found, gradient(of_columns(exact), a), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(value, NuclearNorm(4, p=p)(a.T @ a))

    check(NuclearNorm)
    with pytest.raises(AssertionError):
        check(BrokenDraw)


# Optimisation -------------------------------------------------------------------------------------


def penalised(x, y, columns, gamma, norm, iterations=300):
    """argmin ½ ‖x w − y‖² + γ ‖columns w‖_*, by exact solutions with the weights of the norm."""
    w = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    for _ in range(iterations):
        a = columns @ w
        norm(a @ a.T)
        metric = torch.einsum("inp,ij,jnq->pq", columns, norm.weights, columns)
        w = torch.linalg.solve(x.T @ x + gamma * metric, x.T @ y)
    return w


def alternating(x, y, columns, gamma, rho=1.0, iterations=1500):
    """The same by the alternating direction method: singular values are soft-thresholded."""
    k, n, p = columns.shape
    flat = columns.reshape(k * n, p)
    z = dual = torch.zeros(k * n, **torch_double)
    factor = torch.linalg.cholesky(x.T @ x + rho * flat.T @ flat)
    for _ in range(iterations):
        w = torch.cholesky_solve((x.T @ y + rho * flat.T @ (z - dual))[:, None], factor)[:, 0]
        u, s, v = torch.linalg.svd((flat @ w + dual).view(k, n), full_matrices=False)
        z = (u * (s - gamma / rho).clamp_min(0) @ v).flatten()
        dual = dual + flat @ w - z
    return w


@pytest.mark.parametrize("gamma", [0.3, 3.0])
def test_the_convex_optimum_of_an_independent_solver(gamma):
    x, y, columns = (torch.randn(*s, **torch_double) for s in ((30, 12), (30,), (4, 7, 12)))

    def objective(w):
        fit = 0.5 * (x @ w - y).square().sum()
        return float(fit + gamma * torch.linalg.svdvals(columns @ w).sum())

    norm = NuclearNorm(4, eps=(1e-1, 1e-6), anneal=300, ema=0.0)
    found = objective(penalised(x, y, columns, gamma, norm))
    assert found == pytest.approx(objective(alternating(x, y, columns, gamma)), rel=1e-5)


class BrokenSquaredNorm(NuclearNorm):
    """‖L w‖² instead of ‖L w‖."""

    @property
    def weights(self):
        return torch.eye(self.k, **torch_double)


def test_one_broken_symmetry_is_set_to_zero_exactly():
    """Group lasso: zero iff the pull of the data at the symmetric optimum is at most γ."""
    x, y, lie = (torch.randn(*s, **torch_double) for s in ((20, 12), (20,), (5, 12)))
    free = torch.linalg.svd(lie)[2][5:].T  # lie @ free = 0
    symmetric = free @ torch.linalg.lstsq(x @ free, y[:, None]).solution[:, 0]
    pull = x.T @ (y - x @ symmetric)
    critical = float(torch.linalg.lstsq(lie.T, pull[:, None]).solution.norm())

    def check(kind):
        norm = kind(1, ema=0.0, anneal=0)
        above = penalised(x, y, lie[None], 1.1 * critical, norm, iterations=300)
        below = penalised(x, y, lie[None], 0.9 * critical, norm, iterations=300)
        assert (lie @ below).norm() > 1e-3
        assert (lie @ above).norm() < 1e-6
        torch.testing.assert_close(above, symmetric, rtol=0, atol=1e-6)

    check(NuclearNorm)
    with pytest.raises(AssertionError):
        check(BrokenSquaredNorm)


def concatenated(layers):
    """One norm of the columns of all layers: the Gram matrices add up."""
    return NuclearNorm(2, anneal=0)(sum(a.T @ a for a in layers))


def broken_sum_of_norms(layers):
    """A norm for each layer: each may keep a symmetry of its own, and the whole none."""
    return sum(NuclearNorm(2, anneal=0)(a.T @ a) for a in layers)


def test_layers_are_promoted_to_a_common_symmetry():
    first, second = (torch.zeros(10, 2, **torch_double) for _ in range(2))
    first[:, 0] = second[:, 1] = torch.randn(10, **torch_double)

    def check(penalty):
        common, none = penalty([first, first]), penalty([first, second])
        assert none > 1.3 * common
        torch.testing.assert_close(none / common, torch.tensor(math.sqrt(2), **torch_double),
                                   rtol=2e-3, atol=0)  # fmt: skip

    check(concatenated)
    with pytest.raises(AssertionError):
        check(broken_sum_of_norms)


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 2}, "p is the exponent of the norm, between 0 and 1; got 2"),
        ({"eps": (0.1, 0.0)}, r"eps is the smoothing .* got \(0.1, 0.0\)"),
        ({"eps": (0.1,)}, "two numbers between 0 and 1"),
        ({"ema": 1.0}, r"ema is the share .* got 1.0"),
        ({"p": "1"}, "p is the exponent of the norm, between 0 and 1; got '1'"),
        ({"p": math.nan}, "p is the exponent .* got nan"),
        ({"eps": 0.1}, "two numbers between 0 and 1, .* got 0.1"),
        ({"eps": "ab"}, "two numbers between 0 and 1, .* got 'ab'"),
        ({"anneal": -1}, "anneal is a whole number of calls, 0 or more, .* got -1"),
        ({"anneal": None}, "anneal is a whole number .* got None"),
        ({"anneal": 2.5}, "anneal is a whole number .* got 2.5"),
        ({"ema": None}, "ema is the share .* got None"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(DataError, match=message):
        NuclearNorm(3, **options)


def test_gram_matrices_that_are_none():
    norm, eye = NuclearNorm(3), torch.eye(3, **torch_double)
    with pytest.raises(DataError, match=r"3 generators is \(3, 3\) in float64; got \(2, 2\)"):
        norm(eye[:2, :2])
    with pytest.raises(DataError, match=r"got .* in torch.float32. Float32 loses small singular"):
        norm(eye.float())
    with pytest.raises(DataError, match="not finite: the operator or one of its derivatives"):
        norm(eye * math.nan)
    for use in (norm.draw, lambda: norm.singular_values, lambda: norm.weights):
        with pytest.raises(DataError, match=r"call the penalty once \(penalty\(x\), or"):
            use()
    with pytest.raises(DataError, match="belongs to 2 generators, the penalty has 3"):
        norm.load_state_dict(NuclearNorm(2).state_dict())
    with pytest.raises(DataError, match=r"no state of a penalty: it lacks grams, paid_for\. Give"):
        norm.load_state_dict({"sum": eye})


# The published recovery experiment, small ---------------------------------------------------------


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Import a program; what it records goes to a file of the test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(importlib.import_module("common"), "RECORD", tmp_path / "record.csv")
    return importlib.import_module


@pytest.fixture
def recovery(load):
    return load("recovery")


@pytest.mark.parametrize(("group", "count"), [("T", 3), ("SE", 6)])
def test_lie_derivatives_of_monomials(recovery, group, count):
    """Against automatic differentiation, with generators of norm 1 that are orthogonal."""
    powers, x = recovery.exponents(3, 3), torch.randn(5, 3, **torch_double)
    affine = recovery.generators(group, 3)
    torch.testing.assert_close(affine.flatten(1) @ affine.flatten(1).T,
                               torch.eye(count, **torch_double))  # fmt: skip
    assert powers.shape == (20, 3)
    found = recovery.lie_columns(group, x, powers)
    for xi, columns in zip(affine, found, strict=True):
        field = x @ xi[:, :3].T + xi[:, 3]
        moved = torch.func.jvp(lambda x: recovery.monomials(x, powers), (x,), (field,))[1]
        torch.testing.assert_close(columns, moved)


def test_radial_polynomials_are_invariant_under_rotations(recovery):
    powers, x = recovery.exponents(3, 2), torch.randn(5, 3, **torch_double)
    square = (powers == 2).any(1).double()  # x² + y² + z²
    broken = (recovery.lie_columns("SE", x, powers) @ square).norm(dim=1) > 1e-12
    assert broken.tolist() == [False] * 3 + [True] * 3


def least_squares(lie, samples, values):
    """The saboteur: the squared norm, smooth, never low in rank."""
    start = torch.linalg.lstsq(samples, values[:, None]).solution[:, 0]
    free = torch.linalg.svd(samples)[2][len(samples) :].T
    rows = (lie @ free).flatten(0, 1)
    return start - free @ torch.linalg.lstsq(rows, (lie @ start).flatten()[:, None]).solution[:, 0]


def test_the_nuclear_norm_recovers_from_fewer_samples(recovery):
    case = recovery.Case("T", 4, 1, 2, ())
    counts = [recovery.needed(case, seed) for seed in range(3)]
    squared = [recovery.needed(case, seed, least_squares) for seed in range(3)]
    assert max(counts) <= 13 < 15 <= min(squared)  # of 15 coefficients


def test_the_interpolant_has_the_least_nuclear_norm(recovery):
    """Against the alternating direction method with a heavy weight on the samples."""
    case = recovery.Case("SE", 3, 1, 2, ())
    w, samples, lie = recovery.problem(case, 0)
    x, y = samples[:6], samples[:6] @ w
    found = recovery.most_symmetric(lie, x, y)
    torch.testing.assert_close(x @ found, y)
    oracle = alternating(1e3 * x, 1e3 * y, lie, gamma=1.0, rho=10.0)
    norms = [float(torch.linalg.svdvals(lie @ c).sum()) for c in (found, oracle)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert norms[0] < 0.999 * float(torch.linalg.svdvals(lie @ w).sum())  # too few samples


def test_recovery_runs(recovery, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(recovery, "CASES", (recovery.Case("T", 3, 1, 2, (6, 8)),))
    recovery.main(["--seeds", "2"])
    assert "T(3), d = 2, r = 1" in capsys.readouterr().out
    assert (tmp_path / "record.csv").read_text().count("recovery") == 1


def test_recovery_of_no_case_names_the_cases(recovery, capsys):
    with pytest.raises(SystemExit) as ended:
        recovery.main(["--cases", "T(n) ortho"])
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert "no case begins with 'T(n) ortho': T(10), d = 2, r = 1; " in text
    assert all(str(case) in text for case in recovery.CASES)


@pytest.mark.skipif(
    importlib.util.find_spec("neuralop") is None, reason="neuraloperator is not installed"
)
def test_promote_cost_runs(load, capsys, tmp_path):
    load("promote_cost").main(["--quick"])
    assert "| FNO | one direction |" in capsys.readouterr().out
    with (tmp_path / "record.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {"FNO", "neuraloperator FNO"}
    assert len(rows) == 2 * 4 * 2  # models, penalties, medians and means
    assert all(float(row["value"]) > 0 for row in rows)
