"""One spectral layer: speed against neuraloperator's, and its values against a dense oracle.

    python benchmarks/layer.py                      # width 64, n_modes 33, 128², batch 8

Three layers of one width: neuraloperator's ``SpectralConv``, ours with the trivial group (what the
engine saves) and ours between copies of the regular representation of D4 (what the symmetry saves
or costs beside that). Medians of interleaved rounds in one process, smallest and largest ratio in
brackets.

The dense oracle knows nothing of orbits or truncated transforms: the response of the layer in
float64 to a unit impulse in every channel, on the coarsest grid that holds the modes, gives an
explicit complex matrix M(k) for every mode; a field is transformed by torch's FFT in float64,
multiplied by M(k) mode by mode, and transformed back. The multipliers are written into
neuraloperator's layer as well, which then has to give the same values, and are tested for
M(gk) = ρ(g) M(k) ρ(g)⁻¹.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from common import (
    Timing,
    interleaved,
    mebibytes,
    neuralop_spectral,
    peak_extra_memory,
    real_parameters,
    record,
    report,
)
from torch import Tensor, nn

import fieldsym as fs
from fieldsym.operators.spectral import SpectralConv

PEER, FREE, OURS = "neuraloperator", "ours, no group", "ours, D4"
D4 = fs.groups.dihedral(4)
ASKED = {"forward": 6.0, "forward and backward": 5.0}


def layers(width: int, n_modes: int) -> dict[str, nn.Module]:
    """The three layers; the peer without the bias that ours leaves to the skip."""
    return {PEER: neuralop_spectral(width, n_modes), **own_layers(width, n_modes)}


def own_layers(width: int, n_modes: int) -> dict[str, nn.Module]:
    """Ours without and with the group."""
    zoo: dict[str, nn.Module] = {}
    for name, group in ((FREE, fs.groups.trivial(2)), (OURS, D4)):
        rep = fs.Representation(f"{width // group.order} regular", 2, group)
        zoo[name] = SpectralConv(rep, rep, group, (n_modes, n_modes))
    return zoo


# The dense oracle ---------------------------------------------------------------------------------


@torch.no_grad()
def multipliers(layer: nn.Module, width: int, n_modes: int) -> Tensor:
    """M(k) of a layer in float64, (n_modes, n_modes, out, in): rows −K..K of both axes."""
    n = n_modes + 1 - n_modes % 2  # the coarsest odd grid
    impulses = torch.zeros(width, width, n, n, dtype=torch.float64)
    impulses[torch.arange(width), torch.arange(width), 0, 0] = 1
    # every mode of an impulse is one
    responses = torch.fft.fft2(deepcopy(layer).double()(impulses))
    centred = torch.fft.fftshift(responses, dim=(-2, -1))
    return centred.permute(2, 3, 1, 0)


def dense(matrices: Tensor, x: Tensor) -> Tensor:
    """Apply M(k) mode by mode to (batch, channel, X, Y), in float64 with torch's FFT."""
    cut = len(matrices) // 2
    rows, columns = (torch.arange(-cut, cut + 1) % n for n in x.shape[-2:])
    spectrum = torch.fft.fft2(x.double())
    kept = spectrum[:, :, rows[:, None], columns]
    out = torch.zeros(len(x), matrices.shape[2], *x.shape[-2:], dtype=torch.complex128)
    out[:, :, rows[:, None], columns] = torch.einsum("kloi,bikl->bokl", matrices, kept)
    return torch.fft.ifft2(out).real


def asymmetry(matrices: Tensor, width: int) -> float:
    """Largest relative ‖M(gk) − ρ(g) M(k) ρ(g)⁻¹‖ over D4."""
    rep = fs.Representation(f"{width // D4.order} regular", 2, D4)
    cut = len(matrices) // 2
    k = np.stack(np.meshgrid(*[np.arange(-cut, cut + 1)] * 2, indexing="ij"), -1)
    worst = 0.0
    for g in D4.elements:
        rho = torch.as_tensor(rep.rho(g), dtype=torch.float64).to(matrices.dtype)
        moved = k @ np.rint(g.matrix).astype(int).T + cut
        carried = matrices[moved[..., 0], moved[..., 1]]
        worst = max(worst, float((carried - rho @ matrices @ rho.mT).norm() / matrices.norm()))
    return worst


@torch.no_grad()
def peer_with(matrices: Tensor, width: int, n_modes: int) -> nn.Module:
    """neuraloperator's layer that holds our multipliers, for 0 ≤ k_y only."""
    layer = neuralop_spectral(width, n_modes)
    half = matrices[:, n_modes // 2 :].permute(3, 2, 0, 1)  # in, out, −K..K, 0..K
    parameter = next(p for p in layer.parameters() if p.shape == half.shape)
    parameter.copy_(half)
    return layer


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@torch.no_grad()
def values(zoo: dict[str, nn.Module], x: Tensor, width: int, n_modes: int) -> list[tuple[str, ...]]:
    """Rows: relative errors of our layers in both precisions against the oracle and the peer."""
    rows = []
    for name in (FREE, OURS):
        matrices = multipliers(zoo[name], width, n_modes)
        reference = dense(matrices, x)
        errors = {
            "oracle, float32": relative(zoo[name](x), reference),
            "oracle, float64": relative(deepcopy(zoo[name]).double()(x.double()), reference),
            "peer, same multipliers": relative(peer_with(matrices, width, n_modes)(x), reference),
            "symmetry of M(k)": asymmetry(matrices, width) if name == OURS else float("nan"),
        }
        record(f"layer, values, {name}", [(name, key, e, "one draw") for key, e in errors.items()])
        rows.append((name, *(f"{e:.1e}" if e == e else "-" for e in errors.values())))
    return rows


# Speed --------------------------------------------------------------------------------------------


def forward(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return layer(x)


def both_ways(layer: nn.Module, x: Tensor, cotangent: Tensor) -> None:
    """Forward and backward, gradients of the weights and of the input."""
    parameters = [p for p in layer.parameters() if p.requires_grad]
    torch.autograd.grad(layer(x), [x, *parameters], cotangent)


def speed_rows(zoo: dict[str, nn.Module], x: Tensor, rounds: int) -> list[tuple[str, ...]]:
    """Rows: seconds, ratio to the peer and memory of every layer."""
    tracked, cotangent = x.clone().requires_grad_(), torch.randn_like(x)
    memory = {name: peak_extra_memory(partial(forward, zoo[name], x)) for name in zoo}
    times: dict[str, dict[str, Timing]] = {
        "forward": interleaved({n: partial(forward, zoo[n], x) for n in zoo}, rounds=rounds),
        "forward and backward": interleaved(
            {n: partial(both_ways, zoo[n], tracked, cotangent) for n in zoo}, rounds=rounds
        ),
    }
    rows, facts = [], []
    for name in zoo:
        cells = [name, f"{real_parameters(zoo[name]):,}"]
        for kind, found in times.items():
            ratio = found[name].times_faster_than(found[PEER])
            spread = found[name].spread_against(found[PEER])
            cells += [str(found[name]), f"{ratio:.2f} ({spread})"]
            facts.append((name, f"{kind}: peer / this", ratio, spread))
        rows.append((*cells, mebibytes(memory[name])))
        facts.append((name, "tensor memory: peer / this", memory[PEER] / memory[name], "one call"))
    record("layer, speed", facts)
    for kind, found in times.items():
        engine = found[FREE].times_faster_than(found[PEER])
        symmetry = found[OURS].times_faster_than(found[FREE])
        print(
            f"{kind}: the engine {engine:.2f} times, the symmetry {symmetry:.2f} times, together "
            f"{engine * symmetry:.2f} times faster (asked: {ASKED[kind]:g})",
            flush=True,
        )
    return rows


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--width", type=int, default=64, help="a multiple of 8")
    options.add_argument("--n-modes", type=int, default=33)
    options.add_argument("--grid", type=int, default=128)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    zoo = layers(options.width, options.n_modes)
    x = torch.randn(options.batch, options.width, options.grid, options.grid)
    size = (
        f"width {options.width}, n_modes {options.n_modes}, {options.grid}², "
        f"batch {options.batch}, seed 0"
    )
    header = ("layer", "real parameters", "forward", "times faster", "forward and backward",
              "times faster", "tensor memory")  # fmt: skip
    title = f"Spectral layer, {size}, {options.rounds} rounds"
    report(title, header, speed_rows(zoo, x, options.rounds))
    header = ("layer", "float32 against the oracle", "float64 against the oracle",
              "peer with the same M(k) against the oracle", "M(gk) = ρ M(k) ρ⁻¹")  # fmt: skip
    rows = values(zoo, x, options.width, options.n_modes)
    report(f"Values: relative L2 differences, {size}", header, rows)


if __name__ == "__main__":
    main()
