"""Following the types of channels through somebody else's forward pass.

Every torch function of one forward pass is watched: additions unify the types of their terms,
concatenations join them, anything else that keeps the number of channels keeps the type. Layers
with weights start new unknowns. What cannot be followed loses its type; a layer that meets such a
feature is refused.

To follow one more function: enter its name in the sets below, or a rule in ``Tracer.follow``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fieldsym.errors import GroupError
from fieldsym.operators.adopt_layers import called, title
from fieldsym.operators.adopt_types import Type, Types, Unknown

# Names of torch functions: those whose terms have one type, that join channels, that move axes, and
# pointwise ones that are odd or not. Other functions are left to the measurement.
ADDS = {"add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__",
        "__isub__", "rsub", "lerp", "where"}  # fmt: skip
JOINS = {"cat", "concat", "concatenate"}
REORDERS = {"permute", "movedim", "moveaxis", "transpose", "swapaxes", "swapdims"}
ODD = {"tanh", "tanh_", "sin", "sin_", "erf", "atan", "arctan", "asinh", "hardtanh", "softsign",
       "tanhshrink", "hardshrink", "softshrink"}  # fmt: skip
UNEVEN = {"gelu", "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu",
          "celu", "silu", "mish", "sigmoid", "sigmoid_", "softplus", "hardswish", "hardsigmoid",
          "logsigmoid", "prelu", "threshold", "glu"}  # fmt: skip

FOLLOWED = (
    "Adoption follows layers, sums, concatenations, pointwise functions and permutations of axes, "
    "not parts of the channels. Replace it by these, such as two layers of which each makes one "
    "part, or make it the inside of a layer class that adopt.register knows."
)
DROPOUT = (
    "in training, random points or channels are dropped, which differ between a field and its "
    "image under the group. Remove it, or set p=0."
)


Layers = dict[str, tuple[int, bool, str | None]]


@dataclass(frozen=True)
class Feature:
    """A tensor inside the forward pass: what its channels are and which axis they lie on."""

    tensor: Tensor  # kept, so that its identity stays its own
    type: Type
    axis: int


@dataclass(eq=False)
class Call:
    """One execution of a layer with weights."""

    name: str
    source: Type
    target: Type


@dataclass(eq=False)
class Trace:
    """What one forward pass showed."""

    calls: list[Call] = field(default_factory=list)
    outputs: list[tuple[str, Type, int]] = field(default_factory=list)  # (module, type, axis)
    bends: list[tuple[str, str, Type]] = field(default_factory=list)  # (function, where, type)
    lost: str = "the input of the module"  # where a type was last lost


class Tracer(TorchFunctionMode):
    """Watches one forward pass; made by :func:`trace`."""

    def __init__(self, types: Types, layers: Layers) -> None:
        super().__init__()
        self.types, self.layers = types, layers
        self.features: dict[int, Feature] = {}
        self.found = Trace()
        self.inside: list[str] = []  # layers with weights that are running
        self.running: list[str] = []  # modules that are running

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.inside:
            self.follow(getattr(func, "__name__", str(func)), args, kwargs or {}, out)
        return out

    def mark(self, tensor: Tensor, of: Type, axis: int) -> None:
        """Give a tensor a type."""
        self.features[id(tensor)] = Feature(tensor, of, axis)

    def feature(self, tensor: object) -> Feature | None:
        """What is known of a tensor."""
        return self.features.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def follow(self, name: str, args: tuple, kwargs: dict, out: object) -> None:
        """Give the results of a function their types."""
        met = [f for f in map(self.feature, tree_leaves((args, kwargs))) if f is not None]
        if not met:
            return
        if "dropout" in name:
            self._refuse_dropout(kwargs.get("p", args[1] if len(args) > 1 else 0.5))
        if name in ODD | UNEVEN:
            self.found.bends.append((name, self.where, met[0].type))
        if name in JOINS and isinstance(out, Tensor):
            self._join(args, kwargs, met, out)
        elif name in REORDERS and isinstance(out, Tensor):
            self._reorder(name, args, kwargs, met[0], out)
        else:
            for result in tree_leaves(out):
                if isinstance(result, Tensor):
                    self._inherit(name, met, result)

    def _refuse_dropout(self, p: float) -> None:
        if p > 0:
            raise GroupError(f"{title(self.running[-1])} calls dropout with p={p}: {DROPOUT}")

    @property
    def where(self) -> str:
        return called(self.running[-1] if self.running else "")

    def _inherit(self, name: str, met: list[Feature], out: Tensor) -> None:
        for feature in met:
            count, axis = self.types.channels(feature.type), feature.axis
            last = [out.ndim - 1] if axis == feature.tensor.ndim - 1 else []  # channels last
            places = [a for a in (*last, axis) if a < out.ndim and out.shape[a] == count]
            if places:
                self.mark(out, feature.type, places[0])
                break
        else:
            self.found.lost = f"{name} in {self.where}"
            return
        if name in ADDS:
            self._equal(met, out.shape)

    def _equal(self, met: list[Feature], shape: torch.Size) -> None:
        for other in met[1:]:
            if other.tensor.shape == shape == met[0].tensor.shape and not self.types.unify(
                met[0].type, other.type
            ):
                raise GroupError(
                    f"{title(self.running[-1])} adds features of different types: "
                    f"{self.types.resolve(met[0].type)} and {self.types.resolve(other.type)}. "
                    "Only features of one type can be added; choose hidden types that agree."
                )

    def _join(self, args: tuple, kwargs: dict, met: list[Feature], out: Tensor) -> None:
        tensors = args[0] if args else kwargs["tensors"]
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % out.ndim
        features = [self.feature(t) for t in tensors]
        if dim != met[0].axis:
            self._inherit("cat", met, out)
        elif all(f is not None for f in features):
            joined = tuple(term for f in features if f is not None for term in f.type)
            self.mark(out, joined, dim)
        else:
            self.found.lost = f"a concatenation with a tensor of unknown type in {self.where}"

    def _reorder(self, name: str, args: tuple, kwargs: dict, met: Feature, out: Tensor) -> None:
        source = met.tensor
        # axis i has size i + 1, so that it can be found again
        labels = torch.empty([1 + i for i in range(source.ndim)], device="meta")
        rest = [a for a in args if not isinstance(a, Tensor)]
        rest_kwargs = {k: v for k, v in kwargs.items() if not isinstance(v, Tensor)}
        moved = getattr(torch.Tensor, name)(labels, *rest, **rest_kwargs)
        self.mark(out, met.type, list(moved.shape).index(met.axis + 1))

    # Layers ---------------------------------------------------------------------------------------

    def enter(self, name: str) -> None:
        """A module starts."""
        self.running.append(name)
        if name in self.layers:
            self.inside.append(name)

    def leave(self, name: str, x: object, out: object) -> None:
        """A module ends: layers with weights give their output a type."""
        self.running.pop()
        if name in self.layers:
            self.inside.pop()
            if not self.inside and isinstance(out, Tensor):
                self._through(name, x, out)
        known = self.feature(out)
        if known is not None:
            self.found.outputs.append((name, known.type, known.axis))

    def _through(self, name: str, x: object, out: Tensor) -> None:
        axis, keeps, adds = self.layers[name]
        source = self.feature(x)
        if source is None:
            raise GroupError(
                f"The types of the channels could not be followed to {called(name)}: they were "
                f"lost at {self.found.lost}. {FOLLOWED}"
            )
        if source.axis != axis % source.tensor.ndim:
            raise GroupError(
                f"{title(name)} acts on axis {axis} of a tensor of shape "
                f"{tuple(source.tensor.shape)}, but the channels lie on axis {source.axis}: it "
                "mixes points, not channels."
            )
        target = source.type if keeps else (Unknown(out.shape[axis]),)
        target = target if adds is None else (*target, adds)
        self.found.calls.append(Call(name, source.type, target))
        self.mark(out, target, axis % out.ndim)


@contextmanager
def _watching(module: nn.Module, tracer: Tracer) -> Iterator[None]:
    handles = []
    for name, part in module.named_modules():
        handles.append(
            part.register_forward_pre_hook(lambda _, args, name=name: tracer.enter(name))
        )
        handles.append(
            part.register_forward_hook(
                lambda _, args, out, name=name: tracer.leave(name, args[0] if args else None, out)
            )
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trace(
    module: nn.Module, x: Tensor, source: Type, types: Types, layers: Layers
) -> tuple[Tensor, Trace, Type | None]:
    """Run a module once and follow the types.

    Parameters
    ----------
    module : nn.Module
    x : Tensor (batch, channel, *grid)
    source : type of its channels
    types : what is known; found equalities are entered
    layers : for each layer the axis of its channels, whether it keeps their type, and the kind of
        channels that it appends to them

    Returns
    -------
    Tensor, Trace, Type or None   the output, what was seen, and the type of the output
    """
    tracer = Tracer(types, layers)
    with torch.no_grad(), _watching(module, tracer), tracer:
        tracer.mark(x, source, 1)
        out = module(x)
    known = tracer.feature(out)
    return out, tracer.found, None if known is None else known.type
