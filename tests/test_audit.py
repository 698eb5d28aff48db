"""Audit: models by name, fields of declared types, and one message for whatever goes wrong."""

import json
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from fieldsym.audit import audit, load_model, random_fields
from fieldsym.bundle import Bundle
from fieldsym.cli import main
from fieldsym.errors import BundleError, DataError, GroupError
from fieldsym.manifold import Torus

MODELS = '''
"""Models of a user, beside the data."""
import torch
from torch import nn
from helper import kernel


class Shift(nn.Module):
    """Commutes with everything but the reflections and turns."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))

    def forward(self, u):
        return sum(w * u.roll(i, -1) for i, w in enumerate(self.weight))


class Curl(nn.Module):
    """A pseudoscalar from a vector, by differences of one cell on a torus of two unit lengths."""

    def forward(self, u):
        dx, dy = (u.roll(-1, a) - u.roll(1, a) for a in (-2, -1))
        return dx[:, 1:2] - dy[:, :1]


class Halved(nn.Module):
    def forward(self, u):
        return u[..., ::2, ::2]


class Loud(nn.Module):
    def forward(self, u):
        return u / 0


class Pair(nn.Module):
    def forward(self, u):
        return u, u


class Counted(nn.Module):
    """Says in which mode it was run."""

    def forward(self, u):
        return u if not self.training else u * torch.linspace(0, 1, u.shape[-1])


def smooth():
    conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
    conv.weight.data = kernel()[None, None]
    return conv


def double():
    return smooth().double()


def fails():
    raise KeyError("no such\\nfile.")


def leaves():
    raise SystemExit(3)


def no_module():
    return torch.sin


def needs(width):
    return Shift()


instance = Shift()
number = 3
'''
HELPER = """
import torch


def kernel():
    return torch.tensor([[0.0, 1, 0], [1, 2, 1], [0, 1, 0]]) / 6
"""
D4 = "dihedral(4) * translations"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with models that is the current one; its modules are forgotten afterwards."""
    (tmp_path / "foreign.py").write_text(MODELS)
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "broken.py").write_text("import torch\n1 / 0\n")
    (tmp_path / "wanting.py").write_text("import a_package_that_is_absent\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("foreign", "helper", "broken", "wanting"):
        sys.modules.pop(name, None)


@pytest.fixture
def numbers(folder, monkeypatch):
    """The same folder where only the numbers of a report are needed: no page is drawn."""
    monkeypatch.setattr("fieldsym.evaluation.to_html", lambda *_: None)
    return folder


def verdicts(out):
    """{row: verdict} of the one report in a folder."""
    (path,) = out.glob("*.json")
    found = json.loads(path.read_text())
    return {row["name"]: row["verdict"] for row in found["elements"] + found["generators"]}


# Names --------------------------------------------------------------------------------------------


def test_a_name_is_an_instance_a_class_or_a_factory(folder):
    assert load_model("foreign:instance") is sys.modules["foreign"].instance
    assert type(load_model("foreign:Shift")).__name__ == "Shift"
    assert load_model("foreign:smooth").weight.sum() == 1
    assert type(load_model("torch.nn:Identity")) is nn.Identity
    assert str(folder) not in sys.path


def test_random_weights_are_those_of_one_seed_and_draw_nothing_from_the_caller(folder):
    torch.manual_seed(5)
    first = load_model("foreign:Shift").weight
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    second = load_model("foreign:Shift").weight
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(1), expected)


NAMES = [
    ("./foreign:Shift", "by its module, not by a file: got './foreign:Shift'.* with foreign:Shift"),
    ("foreign.py:Shift", "not by a file: .*in the folder of the file, with foreign:Shift"),
    ("../nets/foreign.py:Shift", "not by a file: .*, with foreign:Shift"),
    (".foreign:Shift", "not by a file: .*, with foreign:Shift"),
    ("foreign", "named 'module:factory'"),
    (":Shift", "named 'module:factory'"),
    ("foreign:", "named 'module:factory'"),
    ("forein:Shift", "There is no module 'forein' in"),
    ("foreign.sub:Shift", "There is no module 'foreign.sub' in"),
    ("wanting:f", "Importing wanting failed: ModuleNotFoundError: .*a_package_that_is_absent"),
    ("broken:f", "Importing broken failed: ZeroDivisionError: division by zero"),
    ("foreign:Shfit", "foreign has no 'Shfit'. It has kernel, Shift, Curl"),
    ("foreign:number", "foreign:number is a int, which cannot be called"),
    ("foreign:number.x", "foreign has no 'number.x'. It has no factory at all"),
    ("foreign:no_module", "makes a builtin_function_or_method; expected a torch.nn.Module"),
    ("foreign:fails", r"foreign:fails\(\) failed: KeyError: 'no such.*A factory takes no"),
    ("foreign:leaves", r"foreign:leaves\(\) failed: SystemExit: 3"),
    ("foreign:needs", r"foreign:needs\(\) failed: TypeError: .*'width'"),
]


@pytest.mark.parametrize(("name", "match"), NAMES, ids=[name for name, _ in NAMES])
def test_names_that_make_no_model(folder, name, match):
    with pytest.raises(DataError, match=match) as raised:
        load_model(name)
    assert "\n" not in str(raised.value)
    assert str(folder) not in sys.path


def test_weights_are_loaded_safely_and_must_fit(folder):
    torch.save({"weight": torch.tensor([1.0, 2, 4]), "_metadata": "text"}, "plain.pt")
    torch.save({"state_dict": {"weight": torch.tensor([1.0, 2, 8])}, "epoch": 3}, "nested.pt")
    assert load_model("foreign:Shift", "plain.pt").weight.tolist() == [1, 2, 4]
    assert load_model("foreign:Shift", "nested.pt").weight.tolist() == [1, 2, 8]
    torch.save({"weight": torch.ones(4)}, "other.pt")
    with pytest.raises(
        DataError, match=r"weights in other.pt are not those of foreign:Shift: .*size"
    ):
        load_model("foreign:Shift", "other.pt")
    torch.save(load_model("foreign:Shift"), "pickled.pt")
    with pytest.raises(DataError, match=r"pickled.pt holds no tensors that can be read safely"):
        load_model("foreign:Shift", "pickled.pt")
    torch.save(torch.ones(3), "tensor.pt")
    with pytest.raises(DataError, match="holds a Tensor; expected a state_dict"):
        load_model("foreign:Shift", "tensor.pt")
    with pytest.raises(DataError, match=r"There are no weights none\.pt"):
        load_model("foreign:Shift", "none.pt")


# Random fields ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "shape", "lengths"),
    [("16", (16, 16), (1, 1)), ("16,24", (16, 24), (1, 1.5)), ("12,", (12,), (1,)),
     ("8,8,12", (8, 8, 12), (1, 1, 1.5))],
)  # fmt: skip
def test_grids(grid, shape, lengths):
    types = "scalar p + vector u" if len(shape) == 2 else "scalar p"
    x, bundle = random_fields(types, grid, samples=40)
    assert x.shape == (40, bundle.channels, *shape)
    assert x.dtype == torch.float32
    assert bundle == Bundle(Torus(lengths), types)
    assert x.std() == pytest.approx(1, rel=0.1)
    assert len(set(bundle.base.spacing(shape))) == 1


@pytest.mark.parametrize("grid", ["", "many", "3", "16,16,16,16", "16 x 16"])
def test_grids_that_are_not_understood(grid):
    with pytest.raises(DataError, match="A grid is written '64'"):
        random_fields("scalar p", grid, samples=1)


def test_random_fields_need_types_and_samples():
    with pytest.raises(DataError, match="Without data the types of the input channels are needed"):
        random_fields(None, "16", samples=1)
    with pytest.raises(DataError, match="samples must be at least 1; got 0"):
        random_fields("scalar p", "16", samples=0)


# What is found ------------------------------------------------------------------------------------


def test_a_symmetric_and_an_asymmetric_model(numbers):
    audit("foreign:smooth", D4, "a", types="scalar p", grid="16", samples=2)
    assert set(verdicts(numbers / "a").values()) == {"exact"}
    audit("foreign:Shift", D4, "b", types="scalar p", grid="16", samples=2)
    found = verdicts(numbers / "b")
    assert found["shift 5 cells along y"] == found["reflection x → −x"] == "exact"
    assert found["rotation 180°"] == found["reflection y → −y"] == "resolved violation"


@pytest.mark.parametrize(("out_types", "verdict"), [
    ("pseudoscalar w", "exact"), ("scalar w", "resolved violation"),
])  # fmt: skip
def test_the_types_of_the_output_decide_on_reflections(numbers, out_types, verdict):
    audit("foreign:Curl", D4, "a", types="vector u", out_types=out_types, grid="16", samples=2)
    found = verdicts(numbers / "a")
    assert found["reflection x ↔ y"] == verdict
    assert found["rotation 90°"] == "exact"


def test_models_run_in_their_own_dtype_and_in_evaluation_mode(numbers):
    audit("foreign:double", "cyclic(4)", "a", types="scalar p", grid="16", samples=2)
    with xr.open_dataset(numbers / "a" / "foreign_double.nc") as ds:
        assert ds.attrs["dtype"] == "float64"
        assert float(ds.defect.max()) < 1e-12
    audit("foreign:Counted", "translations", "b", types="scalar p", grid="16", samples=2)
    assert set(verdicts(numbers / "b").values()) == {"exact"}


def test_unequal_sides(numbers):
    with pytest.raises(GroupError, match=r"dihedral\(2\)"):
        audit("foreign:smooth", "dihedral(4)", "a", types="scalar p", grid="16,24", samples=1)
    audit("foreign:smooth", "dihedral(2)", "a", types="scalar p", grid="16,24", samples=1)
    assert set(verdicts(numbers / "a").values()) == {"exact"}


def test_continuous_rotations_in_a_disk(numbers):
    audit("foreign:smooth", "se", "a", types="scalar p", grid="32", samples=2, radius=0.4)
    with xr.open_dataset(numbers / "a" / "foreign_smooth.nc") as ds:
        assert "rotation 45°" in ds.element.values
        assert "rotation xy" in ds.generator.values


OUTPUTS = [
    ("torch.nn:Flatten", BundleError, r"Got shape \(1, 256\): too few axes"),
    ("foreign:Pair", BundleError, "Got tuple"),
    ("foreign:Curl", BundleError, "0 channels where the bundle has 1"),
    ("foreign:Loud", DataError, "values that are not finite"),
    ("torch.nn:ReLU6", BundleError, "1 channels where the bundle has 2"),
]


@pytest.mark.parametrize(("name", "error", "match"), OUTPUTS, ids=[name for name, *_ in OUTPUTS])
def test_outputs_of_another_shape(numbers, name, error, match):
    out_types = "vector u" if "ReLU6" in name else None
    with pytest.raises(error, match=match):
        audit(name, "cyclic(4)", "a", types="scalar p", out_types=out_types, grid="16", samples=1)


def test_a_model_that_takes_other_channels(numbers):
    match = r"smooth cannot be run on fields 'vector u' of shape \(1, 2, 16, 16\): RuntimeError"
    with pytest.raises(DataError, match=match) as raised:
        audit("foreign:smooth", "cyclic(4)", "a", types="vector u", grid="16", samples=1)
    assert "\n" not in str(raised.value)


def test_a_model_that_returns_a_coarser_grid(numbers):
    audit("foreign:Halved", "translations", "a", types="scalar p", grid="16", samples=2)
    found = verdicts(numbers / "a")
    assert found["shift 5 cells along x"] == "exact"  # half the cells: of a band-limited field


# Data ---------------------------------------------------------------------------------------------


@pytest.fixture
def flow(folder):
    """Twenty steps of a wave on a torus of 1 × 1.5 that moves one cell along y in every step."""
    base = Torus((1.0, 1.5))
    x, _ = random_fields("scalar p", "16,24", samples=1)
    series = np.stack([np.roll(x[0, 0].numpy(), t, -1) for t in range(20)])
    ds = xr.Dataset(
        {"p": (("time", "x", "y"), 7 * series, {"units": "Pa"})},
        {
            "time": np.arange(20.0),
            **dict(zip("xy", map(np.asarray, base.axes((16, 24))), strict=True)),
        },
        {"fieldsym_base": '{"kind": "torus", "lengths": [1.0, 1.5]}'},
    )
    ds.to_netcdf(folder / "flow.nc")
    return str(folder / "flow.nc")


def test_the_model_gets_physical_fields_and_the_next_step_is_the_target(flow, numbers):
    weights = {"weight": torch.tensor([0.0, 1, 0])}  # the exact solution: one cell along y
    torch.save(weights, "exact.pt")
    audit("foreign:Shift", "translations", "a", source=flow, weights="exact.pt", samples=8)
    with xr.open_dataset(numbers / "a" / "foreign_Shift.nc") as ds:
        assert float(ds.error.max()) == 0
        assert ds.sizes["sample"] == 2  # the test part is 15 % of 20 steps: two windows
        assert ds.example_input.std() == pytest.approx(7, rel=0.2)
        assert "Pa" in ds.attrs["units_of"]
        assert set(ds.verdict.values) == {"exact"}


def test_other_output_types_have_no_target(flow, numbers):
    audit(
        "torch.nn:Identity", "dihedral(2)", "a", source=flow, out_types="pseudoscalar q", samples=2
    )
    with xr.open_dataset(numbers / "a" / "torch_nn_Identity.nc") as ds:
        assert np.isnan(ds.error.values).all()
        assert dict(zip(ds.element.values, ds.verdict.values, strict=True)) == {
            "rotation 180°": "exact",
            "reflection y → −y": "resolved violation",
            "reflection x → −x": "resolved violation",
        }


def test_missing_points_are_left_out(flow, numbers):
    with xr.open_dataset(flow) as ds:
        ds.where((ds.x != ds.x[3]) | (ds.y != ds.y[5])).to_netcdf("holes.nc")
    audit("torch.nn:Identity", "translations", "a", source="holes.nc", samples=1)
    found = verdicts(numbers / "a")
    whole = [name for name in found if name.endswith("cells along y")]
    assert [found[name] for name in whole] == ["exact"]
    assert found["shift 1/2 cell along y"] == "not testable on this grid"


def test_a_grid_is_not_for_data(flow):
    with pytest.raises(DataError, match="got --grid 32 with data"):
        audit("torch.nn:Identity", "dihedral(2)", "a", source=flow, grid="32")


# Command line -------------------------------------------------------------------------------------


def test_the_command_on_random_fields_and_on_data(flow, folder, capsys):
    arguments = [
        "evaluate",
        "--model",
        "foreign:smooth",
        "--group",
        "dihedral(2)",
        "--samples",
        "2",
    ]
    random = [*arguments, "--types", "pseudoscalar w", "--grid", "16,24", "--out", "random"]
    assert main(random) == 0
    out, err = capsys.readouterr()
    assert "foreign:smooth" in out
    assert "report: random/report.html" in err
    assert {p.name for p in (folder / "random").iterdir()} == {
        "report.html", "foreign_smooth.nc", "foreign_smooth.json",
    }  # fmt: skip
    assert main(random) == 1
    assert "random holds a report" in capsys.readouterr().err
    assert main([*random, "--overwrite", "true"]) == 0
    assert main([arguments[0], flow, *arguments[1:], "--out", "data"]) == 0
    assert set(verdicts(folder / "data").values()) == {"exact"}


CHOICES = [
    ([], "Give trained checkpoints with --models, or one torch module with --model"),
    (["--model", "foreign:smooth", "--models", "a.pt"], "or one torch module with --model"),
    (["--models", "a.pt"], "Checkpoints are evaluated on data"),
    (["flow.nc", "--models", "a.pt", "--grid", "16"], "--grid belongs to --model"),
    (["flow.nc", "--models", "a.pt", "--out_types", "scalar p"], "--out_types belongs to --model"),
    (["flow.nc", "--models", "a.pt", "--weights", "w.pt"], "--weights belongs to --model"),
    (["--model", "foreign:smooth"], "Without data the types of the input channels are needed"),
    (["--model", "foreign:fails", "--types", "scalar p"], "KeyError"),
    (["--model", "foreign:smooth", "--variables", "u"], "got --variables u without data"),
    (["none.nc", "--model", "foreign:smooth"], "none.nc"),
    (["--model", "foreign:smooth", "--types", "spinor p"], "spinor"),
]


@pytest.mark.parametrize(("options", "match"), CHOICES, ids=[" ".join(o) for o, _ in CHOICES])
def test_bad_choices_exit_with_1_and_one_message(folder, options, match, capsys):
    assert main(["evaluate", *options, "--group", "cyclic(4)", "--out", "a"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fieldsym ")]
    assert len(lines) == 1
    assert match in lines[0]
    assert not (folder / "a").exists() or "--models" in options


def test_what_is_refused_leaves_no_empty_folder(folder):
    """Folders that were there, and what they hold, stay."""
    (folder / "old").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").touch()
    for out in ("a", "b/c/d", "old", "old/new", "full"):
        with pytest.raises(DataError, match="KeyError"):
            audit("foreign:fails", "cyclic(4)", out, types="scalar p")
    assert not (folder / "a").exists()
    assert not (folder / "b").exists()
    assert [p.name for p in (folder / "full").iterdir()] == ["notes.txt"]
    assert (folder / "old").is_dir()
    assert not [*(folder / "old").iterdir()]


def test_help_imports_no_model(folder, capsys):
    (folder / "marked.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--model", "marked:f", "--help"])
    assert ended.value.code == 0
    assert "module:factory" in capsys.readouterr().out
    assert not (folder / "ran").exists()
