"""A surrogate: a typed operator together with what it needs to act on physical fields.

It normalises, maps the latest states to a correction of the last one, and returns physical units.
A checkpoint holds tensors and one JSON string (types, base, units, normalisation, configuration);
it loads with ``weights_only=True`` and needs no class of ours to be read.

>>> import torch, fieldsym as fs
>>> from fieldsym.data.normalise import Normaliser
>>> w = fs.Bundle(fs.Torus((1.0, 1.0)), "pseudoscalar w")
>>> norm = Normaliser.fit(fs.testing.random_section(w, (16, 16), batch=4), w)
>>> model = Surrogate(norm, fs.groups.dihedral(4), n_modes=5, hidden_channels=8, n_layers=1)
>>> model(torch.zeros(2, 1, 16, 16)).shape
torch.Size([2, 1, 16, 16])
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from fieldsym.bundle import Bundle
from fieldsym.data.bases import base_from_json, base_to_json
from fieldsym.data.normalise import Normaliser
from fieldsym.data.windows import repeat
from fieldsym.errors import DataError
from fieldsym.group import Group, named
from fieldsym.operators.fno import FNO

FORMAT = 2  # 2: spectral weights as matrices, one gather for the tied ones


class Surrogate(nn.Module):
    """One forecast step of physical fields.

    Parameters
    ----------
    normaliser : Normaliser of the state; its bundle is the output
    group : finite Group to enforce, or None
    n_modes, hidden_channels, n_layers, positional_embedding : of :class:`fieldsym.FNO`
    history : steps of input, the latest first
    lead : steps from the latest input to the forecast
    notes : JSON-able facts about the data and the training, kept in the checkpoint

    Attributes
    ----------
    in_bundle, out_bundle : Bundle of the input (the history) and of the forecast

    Where the normaliser has a mask, it is one more input of the operator and points outside it
    stay 0; the surrogate then has the symmetries of the group that also keep the mask.
    """

    def __init__(
        self,
        normaliser: Normaliser,
        group: Group | None,
        *,
        n_modes: int,
        hidden_channels: int,
        n_layers: int,
        positional_embedding: str | None = None,
        history: int = 1,
        lead: int = 1,
        notes: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.out_bundle = normaliser.bundle
        self.in_bundle = repeat(self.out_bundle, history)
        self.history, self.lead = history, lead
        self.notes = dict(notes or {})
        self.options = {
            "group": "none" if group is None else group.name,
            "n_modes": n_modes,
            "hidden_channels": hidden_channels,
            "n_layers": n_layers,
            "positional_embedding": positional_embedding,
        }
        seen = self.in_bundle
        if normaliser.mask is not None:
            seen = Bundle(seen.base, f"{seen.representation} + scalar valid_points")
        self.operator = FNO(
            seen,
            self.out_bundle,
            group=group,
            n_modes=n_modes,
            hidden_channels=hidden_channels,
            n_layers=n_layers,
            positional_embedding=positional_embedding,
        )

    def forward(self, u: Tensor) -> Tensor:
        """The forecast, (batch, history · channel, *grid) to (batch, channel, *grid)."""
        return self.normaliser.decode(self.step(self.normaliser.encode(u)))

    def step(self, z: Tensor) -> Tensor:
        """The same step between normalised fields, which is what training compares."""
        return self._corrected(z, self.operator(self._seen(z, 1.0)))

    def push_forward(self, u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The forecast and its derivatives along (directions, *u.shape), as of the operator."""

        def pushed(f: Callable[[Tensor], Tensor], at: Tensor, along: Tensor) -> Tensor:
            return torch.vmap(lambda v: torch.func.jvp(f, (at,), (v,))[1])(along)

        encode, decode = self.normaliser.encode, self.normaliser.decode
        z, moved = encode(u), pushed(encode, u, tangents)
        flat = self._seen(moved.flatten(0, 1), 0.0).unflatten(0, moved.shape[:2])
        value, slopes = self.operator.push_forward(self._seen(z, 1.0), flat)
        y = self._corrected(z, value)
        slopes = self._corrected(moved.flatten(0, 1), slopes.flatten(0, 1))
        return decode(y), pushed(decode, y, slopes.unflatten(0, moved.shape[:2]))

    # What the operator takes: the fields and where they are valid, which no tangent moves.
    def _seen(self, z: Tensor, here: float) -> Tensor:
        mask = self.normaliser.mask
        if mask is not None:
            z = torch.cat([z, here * mask.to(z).expand(len(z), 1, *mask.shape)], 1)
        return z.to(next(self.operator.parameters()).dtype)

    def _corrected(self, z: Tensor, correction: Tensor) -> Tensor:
        y = z[:, : self.out_bundle.channels] + correction.to(z)
        return y if self.normaliser.mask is None else y * self.normaliser.mask.to(y)

    def rollout(self, u: Tensor, steps: int) -> Tensor:
        """Forecasts in a row, each from the one before.

        Parameters
        ----------
        u : Tensor (batch, history · channel, *grid), the latest state first
        steps : number of forecasts

        Returns
        -------
        Tensor (batch, steps, channel, *grid)

        Raises
        ------
        DataError   if history and lead do not allow a forecast to be fed back.
        """
        if self.history > 1 and self.lead > 1 and steps > 1:
            raise DataError(
                f"A surrogate with history {self.history} and lead {self.lead} cannot be fed its "
                "own forecasts; ask for one step."
            )
        z, out = self.normaliser.encode(u), []
        for _ in range(steps):
            y = self.step(z)
            out.append(self.normaliser.decode(y))
            z = torch.cat([y, z[:, : z.shape[1] - y.shape[1]]], 1)
        return torch.stack(out, 1)

    def configuration(self) -> dict[str, object]:
        """Everything but the tensors, JSON-able."""
        try:
            own = version("fieldsym")
        except PackageNotFoundError:
            own = "unknown"
        return {
            "fieldsym": own,
            "base": json.loads(base_to_json(self.out_bundle.base)),
            "types": str(self.out_bundle.representation),
            "history": self.history,
            "lead": self.lead,
            "operator": self.options,
            "normaliser": self.normaliser.to_dict(),
            "notes": self.notes,
        }

    def save(self, path: str | Path, **training: object) -> None:
        """Write a checkpoint atomically: tensors, and the configuration as one JSON string.

        ``training`` holds further tensors, numbers and dictionaries of them (optimiser state).
        """
        save_atomically(
            {
                "format": FORMAT,
                "config": json.dumps(self.configuration()),
                "state_dict": {k: v.detach().cpu() for k, v in self.state_dict().items()},
                **training,
            },
            Path(path),
        )

    @classmethod
    def load(cls, path: str | Path) -> Surrogate:
        """The surrogate of a checkpoint.

        Raises
        ------
        DataError   if the file is not a complete checkpoint of this format.
        """
        content = read_checkpoint(path)
        try:
            model = cls._of(json.loads(content["config"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"The configuration in {path} is not that of a surrogate ({error}). It may come "
                "from another version of fieldsym."
            ) from error
        model.restore(content["state_dict"], path)
        return model

    @classmethod
    def _of(cls, config: Mapping[str, Any]) -> Surrogate:
        base = base_from_json(json.dumps(config["base"]))
        operator = dict(config["operator"])
        normaliser = Normaliser.from_dict(config["normaliser"], Bundle(base, config["types"]))
        group = named(operator.pop("group"), base.dim)
        more = {name: config[name] for name in ("history", "lead", "notes")}
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are not used
            return cls(normaliser, group, **more, **operator)

    def restore(self, state: Mapping[str, Tensor], path: str | Path) -> None:
        """Load the tensors of a checkpoint.

        Raises
        ------
        DataError   if they are those of another configuration.
        """
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:4]]
            raise DataError(
                f"The tensors of {path} are not those of this surrogate ({self.options}): "
                f"{' '.join(lines)} Use the configuration it was trained with."
            ) from error


def save_atomically(content: Mapping[str, object], path: Path) -> None:
    """``torch.save`` under a temporary name that replaces the file when complete."""
    with _replacing(path) as file:
        torch.save(dict(content), file)


def make_folder(path: Path) -> None:
    """Make a folder for results, before the work for them begins.

    Raises
    ------
    DataError   if files cannot be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise DataError(
            f"Cannot write to the folder {path}: {error.strerror}. Give another one with --out."
        ) from error


def save_json(content: object, path: Path) -> None:
    """Write JSON under a temporary name that replaces the file when complete."""
    with _replacing(path) as file:
        file.write(json.dumps(content, indent=1).encode())


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(part).chmod(0o644)
        Path(part).replace(path)
    finally:
        Path(part).unlink(missing_ok=True)


def read_checkpoint(path: str | Path) -> dict:
    """The content of a checkpoint file, tensors on the CPU.

    Raises
    ------
    DataError   if it is absent, truncated, or not a checkpoint of this format.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no checkpoint {path}. Give the file that training wrote.")
    try:
        _check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of every kind at foreign bytes
        reason = (str(error) or type(error).__name__).splitlines()[0][:80]
        raise DataError(
            f"{path} is not a complete checkpoint ({reason}). Train again, or take another copy."
        ) from error
    if not isinstance(content, dict) or not {"format", "config", "state_dict"} <= set(content):
        raise DataError(
            f"{path} is not a checkpoint of fieldsym: expected the entries format, config and "
            "state_dict."
        )
    if content["format"] != FORMAT:
        raise DataError(
            f"{path} has format {content['format']}; this version reads format {FORMAT}. "
            "Train again, or use the version that wrote it."
        )
    return content


# torch.load does not look at the check sums of its archive: a damaged byte would be a wrong weight
def _check_sums(path: Path) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise OSError(f"{damaged} is damaged")
