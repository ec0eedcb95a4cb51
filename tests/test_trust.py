"""A config cannot run code, and errors name the option."""

import pytest

from prune_cli.errors import PruneError
from prune_cli.trust import build, check_engine, check_targets

HOSTILE = [
    "os.system", "subprocess.run", "builtins.eval", "builtins.exec", "pickle.loads", "runpy.run_path",
    "shutil.rmtree", "torch.load", "torch.serialization.load", "numpy.load", "joblib.load",
    "torch.hub._import_module", "torch.hub.load", "pathlib.Path.write_text", "builtins.open", "numpy.savetxt",
    "shutil.copy", "os.symlink", "urllib.request.urlopen", "torch.ops.load_library", "importlib.import_module",
    "builtins.getattr", "hydra.utils.instantiate", "prune_clix.Evil", "prune_cli.cli.os.system",
    "prune_cli.cli.main", "prune_cli.files.write_bytes", "prune_cli.pipeline.run", "prune_cli.models.find_class",
    "prune_cli.errors.PruneError", "prune_cli.missing.Thing", "prune_cli..x", "prune_cli.", "${x}", 3, None,
    ["os.system"], {"a": "os.system"}, "",
]  # fmt: skip


@pytest.mark.parametrize("target", HOSTILE, ids=str)
@pytest.mark.parametrize(
    "place", [lambda t: t, lambda t: {"a": [{"b": t}]}, lambda t: [[t]]], ids=["top", "deep", "list"]
)
def test_hostile_targets_are_refused_anywhere(target, place):
    with pytest.raises(PruneError):
        check_targets(place({"_target_": target}), trusted=[])


def test_trusted_packages_are_allowed_and_no_others():
    check_targets({"_target_": "mine.nets.Net"}, trusted=["mine"])
    with pytest.raises(PruneError, match=r"trust=\[minesweeper\]"):
        check_targets({"_target_": "minesweeper.Net"}, trusted=["mine"])


@pytest.mark.parametrize(
    "tree",
    [
        {"callbacks": {"x": {"_target_": "os.system"}}},
        {"launcher": {"_target_": "subprocess.run"}},
        {"job_logging": {"handlers": {"x": {"()": "os.system"}}}},
        {"job_logging": {"handlers": {"x": {"class": "os.system"}}}},
        {"hydra_logging": {"handlers": {"x": {"stream": "ext://os.environ"}}}},
    ],
)
def test_hydras_own_part_is_checked_too(tree):
    with pytest.raises(PruneError):
        check_engine(tree)


def test_builds_what_it_should():
    budget = build({"_target_": "prune_cli.budget.Budget", "keep": 0.3}, "budget")
    assert budget.keep == 0.3 and budget.metric == "macs"


@pytest.mark.parametrize(
    "node, message",
    [
        ({"_target_": "prune_cli.budget.Budget", "kep": 0.3}, "budget: .*unexpected keyword argument 'kep'"),
        ({"_target_": "prune_cli.budget.Budget", "keep": 3}, r"^budget.keep must be"),
        ({"_target_": "prune_cli.training.recipe.Recipe", "lr": -1}, r"^budget.lr must be"),
        ({"_target_": "prune_cli.budget.Budget", "_partial_": True}, "unexpected keyword argument '_partial_'"),
    ],
)
def test_errors_begin_with_the_option(node, message):
    with pytest.raises(PruneError, match=message):
        build(node, "budget")
