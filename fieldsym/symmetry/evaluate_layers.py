"""Which part of a network breaks a symmetry: the Lie derivative, attributed to its layers.

By the chain rule L_ξ(N₂∘N₁)(u) = (L_ξN₂)(N₁u) + DN₂(N₁u)[L_ξN₁(u)]. So L_ξF(u) = Σ_m J_m d_m over
the parts m of any graph, with d_m = Dm(x)[ξ·x] − ξ·m(x) the local defect at the captured input x
and J_m the derivative of F at the output of m. The share ⟨J_m d_m, L_ξF⟩ / ‖L_ξF‖² is signed; all
shares sum to 1. One backward pass gives J_mᵀ L_ξF for all parts.

>>> import torch, fieldsym as fs
>>> line = fs.Bundle(fs.Torus((2.0,)), "scalar p")
>>> layers = [nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 1, 1)]          # zeros at both ends
>>> u = fs.testing.random_section(line, (32,)).float()
>>> found = layer_attribution(nn.Sequential(*layers), fs.groups.translations(1), u, line, line)
>>> dict(zip(found.layers, found.share[0].round(3).tolist()))
{'0': 1.0, '1': 0.0}

To name the parts of a module with a fused forward pass: give it a chain, as in
``evaluate_layers_fno``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fieldsym.action import act_infinitesimal
from fieldsym.bundle import Bundle
from fieldsym.group import Generator, Group
from fieldsym.manifold import Region
from fieldsym.symmetry.evaluate_layers_calls import Call, record
from fieldsym.symmetry.evaluate_parts import Ruler, evaluating, own_device, own_dtype
from fieldsym.symmetry.evaluate_rows import check_group
from fieldsym.symmetry.evaluate_statistics import ROUNDING

Array = np.ndarray
SAMPLES = 2  # the parts of a network differ far more than samples do
MOST = 30  # parts; a finer level is shown where it has no more


@dataclass(frozen=True)
class Attribution:
    """Where a symmetry is broken.

    ``layers`` are the parts in the order of their execution, ``share`` (generators, layers) their
    signed fractions of the squared Lie derivative, NaN where there is none beyond rounding, and
    ``local`` (generators, layers) the defect of each part alone, 2‖a − b‖ / (‖a‖ + ‖b‖) of
    a = Dm(x)[ξ·x] and b = ξ·m(x): no unit, 0 for a part that commutes and at most 2. It is NaN for
    what is not a module: the functions that a block calls between its modules.
    """

    layers: list[str]
    share: Array
    local: Array


def layer_attribution(
    model: nn.Module | Callable[[Tensor], Tensor],
    group: Group,
    u: Tensor,
    in_bundle: Bundle,
    out_bundle: Bundle,
    *,
    region: Region | None = None,
) -> Attribution | None:
    """The Lie derivative along each generator of a group, attributed to the parts of a module.

    Parts are the modules that the forward pass calls, found by hooks; blocks are opened level by
    level while there are at most 30. What a block does between its modules (its own share less that
    of the modules inside) is a part too. Skip connections, repeated calls and several inputs are
    followed; the typed FNO runs through its parts one by one.

    Fields inside the network are taken as scalars: a generator moves the points of the base and
    leaves the channels alone; only the section that goes in and the one that comes out have their
    types. For translations that is the only choice. For rotations it is a convention: a network
    that carries vectors as pairs of channels seems to break the symmetry where they enter and to
    mend it where they leave. Single shares depend on the convention, their sum does not.

    Parameters
    ----------
    model : module; anything else has no parts
    group : Group, whose generators are measured
    u : Tensor (batch, channel, *grid), inputs; the first 2 are used
    in_bundle, out_bundle : Bundle
    region : Region in which rotations are measured: the input windowed, the output cut off

    Returns
    -------
    Attribution or None   None without generators, for what is no module or has no parts inside, and
                          where torch cannot differentiate it in forward and reverse mode. On a base
                          with open edges the rows of rotations are NaN

    Raises
    ------
    GroupError    if the group does not act on the base or grid, or rotations have no region.
    BundleError   if u is not a section of ``in_bundle``.

    Examples
    --------
    >>> import fieldsym as fs
    >>> p = fs.Bundle(fs.Torus((2.0, 3.0)), "scalar p")
    >>> u = fs.testing.random_section(p, (16, 24))
    >>> model = fs.FNO(p, p, n_modes=5, hidden_channels=8, n_layers=1, use_channel_mlp=False)
    >>> found = layer_attribution(model.double(), fs.groups.translations(2), u, p, p)
    >>> for name, local in zip(found.layers, found.local[0], strict=True):  # linear: no aliasing
    ...     print(f"{name}: {'commutes' if local < 1e-12 else 'aliases'}")
    lifting.first: commutes
    lifting.second: commutes
    between the modules of lifting: aliases
    layers.0.convolution: commutes
    ...

    References
    ----------
    Gruver et al. 2023, arXiv:2210.02984, section 5 (layerwise, over Gaussian probes); here the
    chain rule in full, with a sign and without probes.
    """
    in_bundle.check(u, "layer_attribution")
    check_group(group, in_bundle.base, in_bundle.grid(u), region)
    if not isinstance(model, nn.Module) or not group.generators:
        return None
    u = u[:SAMPLES].detach().to(own_device(model, u.device), own_dtype(model, u.dtype))
    try:
        with evaluating(model), torch.enable_grad():
            return _attribution(model, group, u, in_bundle, out_bundle, region)
    except RuntimeError:  # no derivative in one of the two modes
        return None


def _attribution(
    model: nn.Module,
    group: Group,
    u: Tensor,
    in_bundle: Bundle,
    out_bundle: Bundle,
    region: Region | None,
) -> Attribution | None:
    tables: list[Table] = []
    roots: dict[bool, Call | None] = {}
    for xi in group.generators:
        turns = bool(xi.matrix.any())
        if turns not in roots:
            window = region.window(in_bundle.grid(u), u.dtype, u.device) if turns and region else 1
            roots[turns] = record(model, u * window, in_bundle, out_bundle)
        root = roots[turns]
        if root is None or not root.children:
            return None
        tables.append(_table(root, xi, region if turns else None))
    return _assembled(tables)


Table = dict[str, tuple[float, float]]  # share and local defect of every part


def _assembled(tables: list[Table]) -> Attribution:
    """One array from the tables of all generators; the smallest parts together if they are many."""
    names = list(dict.fromkeys(name for table in tables for name in table))
    # a part that a table does not name has no share there, unless nothing has
    nothing = [(0.0 * next(iter(table.values()))[0], math.nan) for table in tables]
    rows = [[t.get(n, no) for n in names] for t, no in zip(tables, nothing, strict=True)]
    values = np.array(rows, dtype=np.float64)
    share, local = values[..., 0], values[..., 1]
    if len(names) <= MOST:
        return Attribution(names, share, local)
    order = np.argsort(-np.nan_to_num(np.abs(share)).max(0), kind="stable")
    large, small = np.sort(order[: MOST - 1]), order[MOST - 1 :]
    others = share[:, small].sum(1, keepdims=True)
    return Attribution(
        [*(names[i] for i in large), f"{len(small)} other parts"],
        np.concatenate([share[:, large], others], 1),
        np.concatenate([local[:, large], np.full_like(others, np.nan)], 1),
    )


@dataclass(frozen=True)
class Pair:
    """Dm(x)[ξ·x] and ξ·m(x) of one call, and the size below which they are rounding."""

    pushed: Tensor
    moved: Tensor
    rounding: float

    def distance(self, region: Region | None) -> float:
        """2‖a − b‖ / (‖a‖ + ‖b‖), inside the region where there is one."""
        inside = _inside(self.moved, region)
        a, b = self.pushed * inside, self.moved * inside
        return float(2 * (a - b).norm() / (a.norm() + b.norm()).clamp_min(self.rounding))


def _inside(field: Tensor, region: Region | None) -> Tensor | float:
    return 1.0 if region is None else region.mask(field.shape[2:], field.device).double()


def _pair(call: Call, xi: Generator) -> Pair:
    types = zip(call.fields, call.types.values(), strict=True)
    along = tuple(act_infinitesimal(xi, x, bundle) for x, bundle in types)
    with torch.no_grad():
        value, pushed = torch.func.jvp(call, call.fields, along)[:2]
    # the derivative of a constant, whose Fourier coefficients are rounded
    rate = np.abs(xi.matrix).max() + np.abs(xi.shift).max() / min(call.bundle.base.lengths)
    rounding = 1e3 * torch.finfo(value.dtype).eps * float(rate) * float(value.norm()) + 1e-300
    return Pair(pushed.double(), act_infinitesimal(xi, value, call.bundle).double(), rounding)


def _table(root: Call, xi: Generator, region: Region | None) -> Table:
    """All parts under one generator, in the order of their execution."""
    parts, blocks = opened(root)
    whole = _pair(root, xi)
    total, cotangents = pulled_back(root, whole.pushed - whole.moved, region, [*parts, *blocks])
    digits = ROUNDING.get(str(root.output.dtype).removeprefix("torch."), 1e-3)
    blind = region is not None and not all(root.bundle.base.periodic)
    distance = whole.distance(region)
    known = 1.0 if distance > 10 * digits and not blind else math.nan
    shares: dict[Call, float] = {}
    local: dict[Call, float] = {}
    for call, cotangent in cotangents.items():
        pair = whole if call is root else _pair(call, xi)
        shares[call] = known * float((cotangent * (pair.pushed - pair.moved)).sum()) / total
        if call in parts:
            local[call] = math.nan if blind else pair.distance(region)
    return _rows(root, shares, local, digits / max(distance, digits))


def opened(root: Call) -> tuple[list[Call], list[Call]]:
    """The parts of a call, and the blocks that were opened for them, the outermost first."""
    parts, blocks = list(root.children), [root]
    while any(call.children for call in parts):
        finer = [child for call in parts for child in (call.children or [call])]
        more = blocks + [call for call in parts if call.children]
        if len(finer) + len(more) > MOST:
            break
        parts, blocks = finer, more
    return parts, blocks


def pulled_back(
    root: Call, defect: Tensor, region: Region | None, calls: list[Call]
) -> tuple[float, dict[Call, Tensor]]:
    """‖L_ξF‖, and J_mᵀ L_ξF / ‖L_ξF‖ at the output of every call, by one backward pass."""
    bundle, defect = root.bundle, defect.requires_grad_()
    ruler = Ruler(bundle, bundle.grid(defect), region)
    weights = ruler.weights(defect.device) * _inside(defect, region)
    half = (bundle.squared_norm(defect) * weights).sum() / 2
    size = float(half.detach() * 2) ** 0.5 or 1.0
    seed = torch.autograd.grad(half, defect)[0] / size
    seen = [call for call in calls if call.output.requires_grad]
    found = torch.autograd.grad(
        root.output, [call.output for call in seen], seed.to(root.output.dtype),
        retain_graph=True, allow_unused=True,
    )  # fmt: skip
    zero = torch.zeros((), dtype=torch.float64, device=defect.device)
    known = {c: zero if v is None else v.double() for c, v in zip(seen, found, strict=True)}
    return size, {call: known.get(call, zero) for call in calls}


def _rows(
    call: Call, shares: dict[Call, float], local: dict[Call, float], negligible: float
) -> Table:
    """The parts inside a call, then what it does between them."""
    if call in local:
        return {call.name: (shares[call], local[call])}
    rows: Table = {}
    for child in call.children:
        rows |= _rows(child, shares, local, negligible)
    rest = shares[call] - sum(shares[child] for child in call.children)
    if abs(rest) > negligible * max([1.0, *(abs(share) for share, _ in rows.values())]):
        rows[f"between the modules of {call.name or 'the model'}"] = (rest, math.nan)
    return rows
