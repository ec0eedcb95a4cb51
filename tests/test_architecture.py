"""Imports point to lower floors; each outside library has its room; slow ones are not loaded by importing."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FLOORS = {
    "errors": 0, "interruption": 0, "batchnorm": 0,
    "team": 1,
    "files": 2, "plan": 2, "record": 2, "host": 2,
    "identity": 3, "journal": 3, "tracking": 3, "compute": 3, "export": 3,
    "models": 4, "data": 4, "hardware": 4, "costs": 4,
    "channels": 5, "benchmark": 5,
    "surgery": 6, "training": 6,
    "budget": 7, "criteria": 7, "bases": 7, "artefact": 7, "table": 7, "masked": 7, "gates": 7,
    "pruners": 8, "latency": 8, "trust": 8,
    "experiment": 9,
    "pipeline": 10, "remeasure": 10, "report": 10, "engines": 10,
    "jobs": 11, "configs": 11,
    "cli": 12,
    "commands": 13,
    "__init__": 14, "__main__": 14,
}  # fmt: skip
# Only these rooms may import these libraries.
KEEPERS = {
    "hydra": {"cli", "configs", "engines"},
    "omegaconf": {"cli", "configs", "engines"},
    "optuna": {"engines"},
    "ray": {"engines"},
    "mlflow": {"tracking"},
    "fvcore": {"costs"},
    "sklearn": {"pruners", "data"},
    "scipy": {"hardware"},
    "filelock": {"files"},
    "psutil": {"host"},
    "onnx": {"export", "hardware"},
    "onnxruntime": {"export", "hardware"},
    "openvino": {"export"},
    "torch_tensorrt": {"hardware"},
    "rich": {"table"},
    "jinja2": {"report"},
    "markupsafe": {"report"},
}
SOURCES = sorted((ROOT / "prune_cli").rglob("*.py"))


def room(path):
    return path.relative_to(ROOT / "prune_cli").parts[0].removesuffix(".py")


def imports(path):
    """Modules that a file imports, without those for type checking only."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ([f"prune_cli.{a.name}" for a in node.names] if node.module == "prune_cli" else [node.module])


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    for name in imports(path):
        if name.startswith("prune_cli."):
            other = name.split(".")[1]
            below = FLOORS[other] < FLOORS[room(path)] or other == room(path)
            assert below, f"{path.name} imports {name}, which is not on a lower floor"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_libraries_stay_in_their_rooms(path):
    for name in imports(path):
        keepers = KEEPERS.get(name.split(".")[0])
        assert keepers is None or room(path) in keepers, f"{path.name} imports {name}"


def test_no_pruner_imports_another():
    for path in (ROOT / "prune_cli" / "pruners").glob("*.py"):
        assert not [name for name in imports(path) if name.startswith("prune_cli.pruners")]


def test_nothing_is_unpickled():
    for path in SOURCES:
        text = path.read_text()
        assert not {"pickle", "joblib", "dill"} & {name.split(".")[0] for name in imports(path)}
        assert "weights_only=False" not in text and "allow_pickle" not in text and "yaml.load(" not in text


def test_configs_compose_without_loading_torch_or_an_engine():
    slow = ("torch", "optuna", "ray", "submitit", "joblib")
    code = (
        "import sys; from prune_cli import cli, engines; import prune_cli.pruners.epruner; engines.register();"
        f"sys.exit(any(name in sys.modules for name in {slow}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_report_needs_no_torch():
    code = "import sys; import prune_cli.report.page, prune_cli.report.sheets, prune_cli.report.against"
    code += "; sys.exit('torch' in sys.modules or 'hydra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_files_stay_readable():
    assert {str(p): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 300} == {}
