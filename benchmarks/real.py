"""Real input: one-step forecasts of ocean currents and of global temperature.

    python benchmarks/real.py --data ../shared/data

Surface currents of 2002 off South Africa (vector, land mask, non-periodic, daily) and 960 months of
temperature of a pre-industrial climate run (scalar, globe, zonal rotation), split in time 70/15/15.
Beside persistence and climatology: a plain FNO (it knows the position of every point) and FNOs with
a symmetry built in. Data: GlobCurrent (ESA); ACCESS-ESM1-5 piControl (CSIRO, CMIP6).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from common import mean_and_spread, real_parameters, record, report

import fieldsym as fs
from fieldsym.config import TrainConfig
from fieldsym.forecast import scores
from fieldsym.train import train

CURRENTS = TrainConfig(hidden_channels=16, epochs=15, batch_size=16)
CLIMATE = TrainConfig(hidden_channels=24, n_modes=13, history=12, epochs=15, batch_size=16)
CASES = {
    "currents, one day ahead": (
        "globcurrent/*.nc",
        {
            "plain FNO": CURRENTS,
            "C2 FNO": replace(CURRENTS, group="cyclic(2)"),
            "D2 FNO": replace(CURRENTS, group="dihedral(2)"),
        },
    ),
    "temperature, one month ahead": (
        "cmip6/tas_Amon_ACCESS-ESM1-5_piControl_r1i1p1f1_gn_010101-018012.nc",
        {
            "plain FNO": replace(CLIMATE, positional_embedding="grid"),
            "zonal FNO": CLIMATE,
        },
    ),
}


def run(
    fields: fs.Fields, configs: dict[str, TrainConfig], seeds: int, folder: Path
) -> tuple[dict[str, dict[str, list[float]]], dict[str, int]]:
    """Scores of every forecast for every seed, and the sizes of the operators."""
    table: dict[str, dict[str, list[float]]] = {}
    sizes: dict[str, int] = {}
    for seed in range(seeds):
        models = {}
        for name, config in configs.items():
            own = replace(config, seed=seed)
            models[name] = train(fields, own, folder / f"{name.replace(' ', '_')}-{seed}")
            sizes[name] = real_parameters(models[name])
        some = next(iter(configs.values()))
        for name, row in scores(fields, some, models).items():
            for metric, value in row.items():
                table.setdefault(name, {}).setdefault(metric, []).append(value)
    return table, sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for case, (pattern, configs) in CASES.items():
        fields = fs.open_fields(str(options.data / pattern))
        with tempfile.TemporaryDirectory() as folder:
            table, sizes = run(fields, configs, options.seeds, Path(folder))
        rows, facts = [], []
        for name, metrics in table.items():
            cells = []
            for metric, values in metrics.items():
                mean, spread = mean_and_spread(values)
                cells.append(f"{mean:.4f} ± {spread:.4f}" if name in sizes else f"{mean:.4f}")
                facts.append((name, metric, mean, spread))
            rows.append((name, f"{sizes[name]:,}" if name in sizes else "", *cells))
        unit = next(iter(fields.units.values()))
        header = ["forecast", "parameters", "relative L2", f"rmse ({unit})"]
        report(f"{case} (test part; {options.seeds} seeds)", header, rows)
        record(f"real, {case}", facts)


if __name__ == "__main__":
    main()
