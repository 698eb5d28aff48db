"""The penalty object: which samples, directions and elements a step looks at, and their sum.

>>> import fieldsym as fs
>>> p = fs.Bundle(fs.Torus((2.0, 3.0)), "scalar p")
>>> penalty = fs.promote(lambda u: u**2, fs.groups.reflections(2), p, p)
>>> penalty(fs.testing.random_section(p, (16, 24))).item(), list(penalty.element_defects)
(0.0, ['reflection x → −x', 'reflection y → −y', 'rotation 180°'])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fieldsym.bundle import Bundle
from fieldsym.errors import DataError
from fieldsym.group import Element, Generator, Group
from fieldsym.manifold import Region
from fieldsym.symmetry.promote_norm import NuclearNorm, require_state, spectrum
from fieldsym.symmetry.promote_operator import (
    Measured,
    Operator,
    combined,
    flat_samples,
    measure,
)
from fieldsym.symmetry.promote_weights import WeightGram

REFRESH = 10  # penalties between two looks at all directions, where each follows one alone
FLOOR = 1e-5  # defect of an element below which its penalty is flat: the rounding of float32


class Promotion:
    """The penalty that :func:`promote` returns.

    Call it on the fields of a batch (at level "weights" on nothing). neuraloperator's Trainer takes
    it as ``regularizer=``: it then looks at the fields that the model was last called on, and adds
    ``loss``, which is ``gamma`` times the penalty.

    At level "weights" ``singular_values``, ``directions`` and ``element_defects`` are relative to
    all weights together; ``broken_dimension`` and ``report`` judge each layer by its own size.

    Attributes
    ----------
    gamma : float, the factor of ``loss``, 1 until it is set
    generators : tuple of Generator, in orthonormal units
    elements : tuple of Element
    element_defects : dict, ‖F∘g − g∘F‖ / ‖F − mean‖ by the name of g, as last measured
    singular_values : Tensor (k,), float64, largest first; running means
    directions : Tensor (k, k), the combination of ``generators`` of each singular value as a row

    Examples
    --------
    >>> import torch, fieldsym as fs
    >>> p = fs.Bundle(fs.Torus((2.0, 3.0)), "scalar p")
    >>> model = fs.FNO(p, p, n_modes=5, hidden_channels=4, positional_embedding="grid")
    >>> penalty = fs.promote(model, fs.groups.translations(2), p, p)
    >>> u = fs.testing.random_section(p, (16, 24), dtype=torch.float32)
    >>> y, value = penalty.with_output(u)                    # one pass for the loss and the penalty
    >>> bool(torch.allclose(y, model(u), atol=1e-5)), value.shape, penalty.singular_values.shape
    (True, torch.Size([]), torch.Size([2]))
    """

    def __init__(
        self,
        model: Operator,
        group: Group,
        in_bundle: Bundle,
        out_bundle: Bundle,
        norm: NuclearNorm,
        weights: WeightGram | None = None,
        *,
        region: Region | None = None,
        one: bool = False,
        samples: int | None = None,
    ) -> None:
        self.model, self.group, self.norm = model, group, norm
        self.in_bundle, self.out_bundle, self.region = in_bundle, out_bundle, region
        self.generators: tuple[Generator, ...] = group.generators
        self.elements: tuple[Element, ...] = group.components
        self._weights, self._is_one, self._samples = weights, one, samples
        self._calls, self._defects = 0, torch.full((len(self.elements),), torch.nan)
        self.gamma = 1.0
        self._hook: RemovableHandle | None = None
        self._busy = False
        self._seen: Tensor | None = None
        self._loss: Tensor | None = None

    def __call__(self, x: Tensor | None = None) -> Tensor:
        """The penalty at a batch.

        Parameters
        ----------
        x : Tensor (*batch, channel, *grid), a section of the input bundle; at level "weights" none

        Returns
        -------
        Tensor (), differentiable in the parameters of the model

        Raises
        ------
        BundleError   if x, or what the model returns, is not a section of its bundle.
        DataError     if x is missing, empty or given at level "weights", or something is not
                      finite.
        """
        if self._weights is not None:
            if x is not None:
                raise DataError(
                    "At level 'weights' the penalty takes no fields: call it as penalty()."
                )
            gram, defects, size = self._weights.turn() if self._is_one else self._weights()
            _check_size(float(size.detach()))
            return self.norm(gram / size**2) + self._total(defects / size, self.elements)
        u = self._batch(x)
        return self._at(u[self._rows(len(u))])[1]

    def with_output(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F(x) and the penalty, which share the forward pass.

        The samples that the penalty does not look at, and all where there is a region, are passed
        forward by themselves, so that F must not mix samples.

        Parameters
        ----------
        x : Tensor (*batch, channel, *grid)

        Returns
        -------
        F(x), and the penalty, a scalar
        """
        if self._weights is not None:
            return self.model(x), self()
        u = self._batch(x)
        if self.region is not None:
            return self.model(x), self(x)
        rows = self._rows(len(u))
        value, penalty = self._at(u[rows])
        rest = torch.tensor(sorted({*range(len(u))} - {*rows.tolist()}), dtype=torch.long)
        if len(rest):
            value = torch.cat([value, self.model(u[rest])])[torch.cat([rows, rest]).argsort()]
        return value.reshape(*x.shape[: -self.in_bundle.base.dim - 1], *value.shape[1:]), penalty

    @property
    def singular_values(self) -> Tensor:
        """σ of the running mean, largest first, relative to the size of F."""
        return self.norm.singular_values

    @property
    def directions(self) -> Tensor:
        """Coefficients over ``generators`` of the direction of each σ, as rows."""
        return self.norm.directions

    @property
    def element_defects(self) -> dict[str, float]:
        """Relative defect of every candidate element when it was last measured, else NaN."""
        names = [g.name for g in self.elements]
        return dict(zip(names, self._defects.tolist(), strict=True))

    def broken_dimension(self, tolerance: float = 1e-2) -> int:
        """How many singular values exceed a tolerance, which is relative to the size of F.

        A direction below it moves F by less than this part of its fluctuation per unit: the
        shortest side of the base over 2π, or a radian. Look at the gap, not at a threshold alone.
        At level "weights" the values are those of Σ_l G_l/‖W_l‖², of the weights W_l of the layers
        as they are now: a direction counts as kept only if every layer keeps it.
        """
        return int((self._judged()[0] > tolerance).sum())

    def report(self, tolerance: float = 1e-2) -> str:
        """The directions and elements with their defects, as lines of text.

        At level "weights" a direction counts over all layers, each relative to its own size, and an
        element by the layer that keeps it worst, as in :func:`fieldsym.snap`.
        """
        lines = []
        sigmas, directions, defects = self._judged()
        if self.generators:
            broken = int((sigmas > tolerance).sum())
            lines.append(f"{broken} of {len(self.generators)} directions broken")
        for sigma, row in zip(sigmas, directions, strict=True):
            upright = row * row[row.abs().argmax()].sign()
            lines.append(f"{float(sigma):10.2e}  {combined(upright, self.generators).name}")
        for g, defect in zip(self.elements, defects.tolist(), strict=True):
            seen = "not yet looked at" if math.isnan(defect) else f"{defect:10.2e}"
            lines.append(f"{seen}  {g.name}")
        return "\n".join(lines)

    # σ, their directions and the defects of the elements that tell what is broken.
    def _judged(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._weights is None:
            return self.singular_values, self.directions, self._defects
        with torch.no_grad():
            _check_size(sum(float(w.read().norm()) for w in self._weights.parameters))
            grams, differences = self._weights.by_layer()
        return *spectrum(grams.sum(0).cpu()), differences.amax(0)

    def reset(self) -> None:
        """Forget the last input and loss; until ``loss`` is read, remember the model's inputs."""
        self._seen = self._loss = None
        if self._hook is None and self._weights is None and isinstance(self.model, nn.Module):
            self._hook = self.model.register_forward_pre_hook(self._remember, with_kwargs=True)

    @property
    def loss(self) -> Tensor:
        """``gamma`` × the penalty at the last input, computed once after each :meth:`reset`.

        Inputs count while the model is training and gradients are recorded.
        """
        if self._loss is None:
            if self._weights is None and self._seen is None:
                raise DataError(
                    "This penalty has not seen an input of the model: call reset(), then the model "
                    "in training mode, then read loss. Or call the penalty on a batch: penalty(x)."
                )
            if self._hook is not None:
                self._hook.remove()
                self._hook = None
            self._loss = self.gamma * self(self._seen)
        return self._loss

    def state_dict(self) -> dict[str, Any]:
        """Running means and counters; loadable with ``weights_only=True``."""
        return {
            "norm": self.norm.state_dict(), "calls": self._calls, "defects": self._defects.clone(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        require_state(state, ("norm", "calls", "defects"))
        if len(state["defects"]) != len(self.elements):
            raise DataError(
                f"This state belongs to {len(state['defects'])} candidate elements, the penalty "
                f"has {len(self.elements)}. Build it for the same group."
            )
        self.norm.load_state_dict(state["norm"])
        self._calls, self._defects = int(state["calls"]), state["defects"].cpu().clone()

    def _remember(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if module.training and torch.is_grad_enabled() and not self._busy:
            named = [kwargs[name] for name in ("x", *kwargs) if name in kwargs]
            fields = [v for v in (*args, *named) if isinstance(v, Tensor)]
            self._seen = fields[0].detach() if fields else None

    def _batch(self, x: Tensor | None) -> Tensor:
        if x is None:
            raise DataError(
                "At level 'operator' the penalty is measured at fields: call it as penalty(x)."
            )
        return flat_samples(x, self.in_bundle, "promote")

    # A window over the batch that moves on with every call, so that all samples have their turn.
    def _rows(self, batch: int) -> Tensor:
        count = self._samples or (math.ceil(batch / 8) if self._is_one else batch)
        count = min(count, batch)
        return (self._calls * count + torch.arange(count)) % max(batch, 1)

    def _at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """F(u) and the penalty at all of u."""
        self._busy = True  # the model is called here too
        try:
            value, penalty = self._drawn(u) if self._is_one else self._whole(u)
        finally:
            self._busy = False
        self._calls += 1
        return value, penalty.to(value.dtype)

    def _whole(self, u: Tensor) -> tuple[Tensor, Tensor]:
        found = self._measure(u, self.generators, self.elements)
        penalty = self.norm(found.gram / found.size)
        return found.value, penalty + self._total(_defects(found), self.elements)

    def _drawn(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if self.generators and self._calls % REFRESH == 0:
            with torch.no_grad():
                everything = self._measure(u, self.generators, ())
            self.norm.observe(everything.gram / everything.size)
        kinds = bool(self.generators) + bool(self.elements)
        if self.elements and int(torch.randint(kinds, ())) == kinds - 1:
            g = self.elements[int(torch.randint(len(self.elements), ()))]
            found = self._measure(u, (), [g])
            penalty = len(self.elements) * self._total(_defects(found), [g])
        else:
            coefficients, weight = self.norm.draw()
            found = self._measure(u, [combined(coefficients, self.generators)], ())
            penalty = self.norm.one(found.gram[0, 0] / found.size, weight)
        return found.value, kinds * penalty

    def _measure(
        self, u: Tensor, generators: Sequence[Generator], elements: Sequence[Element]
    ) -> Measured:
        return measure(
            self.model, generators, elements, u, self.in_bundle, self.out_bundle, region=self.region
        )

    # Unsquared, so that an element is kept exactly; flat below the rounding.
    def _total(self, defects: Tensor, elements: Sequence[Element]) -> Tensor:
        for g, defect in zip(elements, defects.detach().cpu(), strict=True):
            self._defects[self.elements.index(g)] = defect
        return ((defects.square() + FLOOR**2).sqrt() - FLOOR).sum()


def _defects(found: Measured) -> Tensor:
    relative = found.defects / found.size
    return relative.clamp_min(torch.finfo(torch.float64).tiny).sqrt()


def _check_size(size: float) -> None:
    if not 0 < size < math.inf:
        raise DataError(
            "The weights of the model are all zero or not finite, so that nothing is relative to "
            "them. Initialise them again, or lower the learning rate."
        )
