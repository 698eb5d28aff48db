"""What an evaluation records about itself: model, data, grid, precision and versions.

>>> import torch
>>> parameters(torch.nn.Linear(3, 2))
8

To add a fact: enter it in ``attributes``.
"""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.symmetry.evaluate_measure import REFERENCE_SAMPLES, Results, Setup
from fieldsym.symmetry.evaluate_statistics import SEED


def attributes(setup: Setup, found: Results, name: str) -> dict[str, str | int | float]:
    """Attributes of the report: text and numbers only, so that any format holds them."""
    probe, ins, outs = setup.probe, setup.probe.ins, setup.probe.outs
    model = probe.operator
    region = ins.region
    return {
        "title": f"Symmetry of {name}",
        "model": name,
        "model_class": type(model).__name__ if isinstance(model, nn.Module) else "function",
        "parameters": parameters(model),
        "parameters_sha256": fingerprint(model),
        "group": setup.group.name,
        "finite_part": setup.finite.name,
        "finite_order": setup.finite.order,
        "in_bundle": str(ins.bundle.representation),
        "out_bundle": str(outs.bundle.representation),
        "base": str(ins.bundle.base),
        "location": ", ".join(ins.bundle.base.location),
        "grid": " × ".join(map(str, ins.grid)),
        "grid_out": " × ".join(map(str, outs.grid)),
        "region": "none" if region is None else f"disk of radius {region.radius:g}",
        "valid": 1.0 if ins.mask is None else float(ins.mask.double().mean()),
        "samples": len(setup.x),
        "reference_samples": setup.batches(REFERENCE_SAMPLES)[-1].stop,
        "has_target": int(setup.y is not None),
        "has_truth": int("truth" in found.lie),
        "finer_grid": found.fine.reason or f"twice as fine, {found.fine.lie.shape[1]} samples",
        "fine_energy": _fine_energy(setup),
        "fluctuation": float(np.median(found.finite["model"].fluctuation)),
        "dtype": str(probe.dtype).removeprefix("torch."),
        "device": _device(setup.device),
        "seed": SEED,
        "fieldsym_version": _version("fieldsym"),
        "torch_version": str(torch.__version__),
        "numpy_version": np.__version__,
        "python_version": platform.python_version(),
    }


def parameters(model: object) -> int:
    """Number of real parameters: a complex one counts twice."""
    if not isinstance(model, nn.Module):
        return 0
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in model.parameters())


def fingerprint(model: object) -> str:
    """SHA-256 of parameters and buffers by name: the same for the same checkpoint.

    Examples
    --------
    >>> import torch
    >>> fingerprint(torch.nn.Identity())[:8], fingerprint(abs)
    ('e3b0c442', 'none')
    """
    if not isinstance(model, nn.Module):
        return "none"
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            flat = torch.view_as_real(value) if value.is_complex() else value
            digest.update(key.encode() + flat.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# Part of the energy of the input's fluctuation above 2/3 of the Nyquist frequency of any axis.
def _fine_energy(setup: Setup) -> float:
    ruler, dim = setup.probe.ins, setup.probe.ins.bundle.base.dim
    u = setup.take(setup.x, slice(REFERENCE_SAMPLES))
    axes = tuple(range(-dim, 0))
    energy = torch.fft.fftn(u - u.mean(axes, keepdim=True), dim=axes).abs().square()
    coarse = torch.ones((), dtype=torch.bool, device=u.device)
    for axis, n in enumerate(ruler.grid):
        modes = torch.fft.fftfreq(n, device=u.device).abs() <= 1 / 3
        coarse = coarse & modes.view([-1 if i == axis else 1 for i in range(dim)])
    return float((energy * ~coarse).sum() / energy.sum().clamp_min(1e-300))


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
