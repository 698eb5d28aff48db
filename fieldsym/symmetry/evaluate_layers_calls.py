"""Which modules a forward pass calls, on what, inside which: a tree of calls by hooks.

A call is kept where its result is one field, (batch, channel, *grid); what lies inside other calls
(on flattened points, on tuples) belongs to the call around them.

>>> import torch, fieldsym as fs
>>> line = fs.Bundle(fs.Torus((2.0,)), "scalar p")
>>> net = nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), nn.GELU(), nn.Conv1d(4, 1, 1))
>>> [call.name for call in record(net, torch.randn(1, 1, 8), line, line).children]
['0', '1', '2']
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from fieldsym.bundle import Bundle
from fieldsym.operators.fno import FNO
from fieldsym.symmetry.evaluate_layers_fno import Chain

Place = tuple[int, tuple[int, ...]]


@dataclass(eq=False)
class Call:
    """One execution of a module.

    ``leaves`` and ``spec`` are its arguments, flattened; ``types`` gives the bundle of each leaf
    that is a field. ``output`` is its result, inside the graph of the whole forward pass, a section
    of ``bundle``.
    """

    name: str
    module: Callable[..., Any]
    leaves: list[Any]
    spec: TreeSpec
    types: dict[int, Bundle]
    children: list[Call] = field(default_factory=list)
    number: int = 1
    output: Any = None
    bundle: Any = None

    @property
    def fields(self) -> tuple[Tensor, ...]:
        """The fields among the arguments."""
        return tuple(self.leaves[i] for i in self.types)

    def __call__(self, *fields: Tensor) -> Tensor:
        """The module as a function of these fields, its other arguments as they were."""
        leaves = list(self.leaves)
        for i, value in zip(self.types, fields, strict=True):
            leaves[i] = value.clone()  # the module may work in place
        args, kwargs = tree_unflatten(leaves, self.spec)
        return self.module(*args, **kwargs)


class Recorder:
    """Watches one forward pass; see :func:`record`."""

    def __init__(self, u: Tensor, in_bundle: Bundle) -> None:
        self.base, self.grid = in_bundle.base, in_bundle.grid(u)
        # tensors are kept, so that their places in memory stay their own
        self.known: dict[Place, tuple[Tensor, Bundle]] = {_place(u): (u, in_bundle)}
        self.made: dict[Place, tuple[Tensor, Call]] = {}
        self.running: list[Call] = []
        self.finished: list[Call] = []  # calls inside which nothing runs any more, at the top
        self.times: Counter[str] = Counter()

    def enter(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """A call starts. It works on copies, so that the record outlives operations in place."""
        leaves, spec = tree_flatten((args, kwargs))
        types = {i: self.bundle(v) for i, v in enumerate(leaves) if self.is_field(v)}
        copies = [self._copy(v) if i in types else v for i, v in enumerate(leaves)]
        kept = [v.detach().clone() if i in types else v for i, v in enumerate(leaves)]
        self.times[name] += 1
        call = Call(name, module, kept, spec, types, number=self.times[name])
        self.running.append(call)
        return tree_unflatten(copies, spec)

    def leave(self, out: object) -> object:
        """A call ends."""
        call = self.running.pop()
        siblings = self.running[-1].children if self.running else self.finished
        if not (isinstance(out, Tensor) and self.is_field(out) and call.types):
            siblings.extend(call.children)
            return out
        call.output, call.bundle = out, self.bundle(out)
        siblings.append(call)
        passed = self._copy(out)
        self.made[_place(passed)] = (passed, call)
        return passed

    def is_field(self, value: object) -> bool:
        """Whether a value is (batch, channel, *grid); channels last are not followed."""
        dim = self.base.dim
        if not isinstance(value, Tensor) or value.ndim != dim + 2:
            return False
        shape = tuple(value.shape)
        channels_last = shape[1:-1] == self.grid != shape[2:]
        return value.is_floating_point() and min(shape[2:]) > 1 and not channels_last

    def bundle(self, value: Tensor) -> Bundle:
        """What is known of a field; scalars where nothing is."""
        found = self.known.get(_place(value))
        return found[1] if found else Bundle(self.base, f"{value.shape[1]} scalar")

    def _copy(self, value: Tensor) -> Tensor:
        copy = value.clone()
        if _place(value) in self.known:
            self.known[_place(copy)] = (copy, self.known[_place(value)][1])
        return copy

    def close(self, out_bundle: Bundle) -> Call | None:
        """The outermost call; whatever returned its result returned a section of the bundle."""
        if not self.finished or self.finished[0].name:  # the outermost has no name
            return None
        root = call = self.finished[0]
        call.bundle = out_bundle
        while _place(call.output) in self.made:
            call = self.made[_place(call.output)][1]
            call.bundle = out_bundle
        _rename(root, self.times)
        return root


# The same for views of the whole tensor, such as a reshape that changes nothing.
def _place(value: Tensor) -> Place:
    return value.data_ptr(), tuple(value.shape)


# A number only where a module was called more than once.
def _rename(call: Call, times: Counter[str]) -> None:
    call.name += f" (call {call.number})" if times[call.name] > 1 else ""
    for child in call.children:
        _rename(child, times)


def record(model: nn.Module, u: Tensor, in_bundle: Bundle, out_bundle: Bundle) -> Call | None:
    """Run a module once and keep its calls.

    Parameters
    ----------
    model : nn.Module
    u : Tensor (batch, channel, *grid), a section of ``in_bundle``

    Returns
    -------
    Call or None   the call of the module itself, with the calls inside; None where its result is
                   no field
    """
    u = u.detach().requires_grad_()
    recorder = Recorder(u, in_bundle)
    with torch.enable_grad(), _taken_apart(model) as modules, _watching(modules, recorder):
        model(u)
    return recorder.close(out_bundle)


@contextmanager
def _taken_apart(model: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """The modules inside by name; every typed FNO runs through its parts."""
    modules = dict(model.named_modules())
    fused = {
        name: m
        for name, m in modules.items()
        if isinstance(m, FNO) and getattr(m.forward, "__func__", None) is FNO.forward
    }
    try:
        for name, fno in fused.items():
            chain = Chain(fno)
            fno.forward = chain.__call__  # type: ignore[method-assign]
            inside = list(chain.named_modules())[1:]
            modules |= {f"{name}.{n}".lstrip("."): m for n, m in inside}
        yield modules
    finally:
        for fno in fused.values():
            del fno.forward


@contextmanager
def _watching(modules: dict[str, nn.Module], recorder: Recorder) -> Iterator[None]:
    names: dict[nn.Module, str] = {}
    for name, module in modules.items():
        names.setdefault(module, name)
    handles = []
    for module, name in names.items():
        before = lambda m, args, kwargs, name=name: recorder.enter(name, m, args, kwargs)  # noqa: E731
        after = lambda m, args, kwargs, out: recorder.leave(out)  # noqa: E731
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
