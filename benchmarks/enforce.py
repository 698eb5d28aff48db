"""What fs.enforce gives and costs: neuraloperator's FNO as it is, enforced, and released.

    python benchmarks/enforce.py

Equivariance over all elements of D4 on white noise, relative to the norm of the output and to that
of its fluctuation; one training step (Adam) and one forecast, medians of interleaved rounds in one
process, with the smallest and largest ratio within a round. Run it with nothing else on the machine.
"""  # noqa: E501

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from common import interleaved, neuralop_fno, real_parameters, record, report

import fieldsym as fs

CASES = ((64, 32, 17, 8), (64, 64, 17, 8), (128, 64, 33, 4))  # grid, width, n_modes, batch
ROUNDS = 9
GROUP = fs.groups.dihedral(4)
FLOW = fs.Bundle(fs.Torus((1.0, 1.0)), "scalar p + vector u")
PLAIN = "as it is"


def models(width: int, n_modes: int) -> dict[str, torch.nn.Module]:
    """The same network as it is, enforced, and released."""
    torch.manual_seed(0)
    plain = neuralop_fno(width, n_modes, channels=(FLOW.channels, FLOW.channels))
    enforced = fs.enforce(copy.deepcopy(plain), GROUP, FLOW, FLOW)
    return {PLAIN: plain, "enforced": enforced, "released": fs.release(copy.deepcopy(enforced))}


@torch.no_grad()
def equivariance(model: torch.nn.Module, grid: int) -> tuple[float, float]:
    """Largest error over the group, relative to the output and to its fluctuation."""
    u = torch.randn(1, FLOW.channels, grid, grid, generator=torch.Generator().manual_seed(0))
    value = model(u)
    errors = [
        float((model(fs.act(g, u, FLOW)) - fs.act(g, value, FLOW)).norm() / value.norm())
        for g in GROUP.elements
    ]
    centred = [float(fs.finite_defect(model, g, u, FLOW, FLOW)) for g in GROUP.elements]
    return max(errors), max(centred)


def steps(zoo: Mapping[str, torch.nn.Module], x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """A training step of every model."""

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        def call() -> None:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

        return call

    return {name: step(m, torch.optim.Adam(m.parameters())) for name, m in zoo.items()}


def forecasts(
    zoo: Mapping[str, torch.nn.Module], x: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """A forward pass of every model."""

    def forecast(model: torch.nn.Module) -> Callable[[], object]:
        return torch.no_grad()(lambda: model(x))

    return {name: forecast(model) for name, model in zoo.items()}


def measure(
    grid: int, width: int, n_modes: int, batch: int
) -> tuple[list[tuple[str, ...]], list[tuple[str, str, float, float | str]]]:
    """Rows of the table and facts of the record of one case."""
    zoo, x = models(width, n_modes), torch.randn(batch, FLOW.channels, grid, grid)
    case = f"{grid}², width {width}, n_modes {n_modes}, batch {batch}"
    errors = {name: equivariance(model, grid) for name, model in zoo.items()}
    step, forward = (interleaved(f(zoo, x), rounds=ROUNDS) for f in (steps, forecasts))
    rows: list[tuple[str, ...]] = []
    facts: list[tuple[str, str, float, float | str]] = []
    for name, model in zoo.items():
        whole, centred = errors[name]
        ratios = [t[name].median / t[PLAIN].median for t in (step, forward)]
        spread = step[PLAIN].spread_against(step[name])
        rows.append(
            (
                *(case, name, f"{real_parameters(model):,}", f"{whole:.1e}", f"{centred:.1e}"),
                *(str(step[name]), f"{ratios[0]:.2f} ({spread})", f"{ratios[1]:.2f}"),
            )
        )
        facts += [(f"{name}, {case}", "equivariance error", whole, "largest over D4")]
        facts += [(f"{name}, {case}", "training step ratio", ratios[0], spread)]
        facts += [(f"{name}, {case}", "forward ratio", ratios[1], f"median of {ROUNDS}")]
    return rows, facts


def main() -> None:
    rows, facts = [], []
    for case in CASES:
        more_rows, more_facts = measure(*case)
        rows, facts = rows + more_rows, facts + more_facts
        print(f"measured {case}", flush=True)
    header = ("case", "neuraloperator FNO", "real parameters", "error / output",
              "error / fluctuation", "training step", "ratio", "forward ratio")  # fmt: skip
    report("fs.enforce on neuraloperator's FNO", header, rows)
    record("enforce", facts)


if __name__ == "__main__":
    main()
