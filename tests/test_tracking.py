"""Programs that show figures are told of every epoch once, also of those before an interruption."""

import sys
import types

import pytest

from prune_cli.errors import PruneError
from prune_cli.jobs import carry_out
from prune_cli.tracking import Tracking
from tests.test_jobs import job


def test_tensorboard_reads_what_a_run_wrote(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    carry_out(job(tmp_path, tracking=Tracking(tensorboard=True)))
    events = reader.EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    keys = set(events.Tags()["scalars"])
    assert {"training/train_loss", "training/val_accuracy", "fine-tuning/lr", "summary/macs_ratio"} <= keys
    assert [event.step for event in events.Scalars("training/train_loss")] == [1, 2]


def test_mlflow_is_told_the_config_the_epochs_and_the_summary(tmp_path, monkeypatch):
    told = []

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            told.append(("end",))

    fake = types.ModuleType("mlflow")
    fake.__spec__ = types.SimpleNamespace(name="mlflow")
    for name in ("set_tracking_uri", "set_experiment", "log_params", "log_metrics"):
        setattr(fake, name, lambda *given, _name=name, **options: told.append((_name, *given, *options.values())))
    fake.start_run = lambda run_name: Run()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    carry_out(job(tmp_path, tracking=Tracking(tensorboard=False, mlflow="sqlite:///x.db")))
    metrics = [(word[1], word[2:]) for word in told if word[0] == "log_metrics"]
    assert told[0] == ("set_tracking_uri", "sqlite:///x.db") and told[-1] == ("end",)
    assert [step for values, step in metrics if "training/lr" in values] == [(1,), (2,)]
    assert "summary/test_accuracy_finetuned" in metrics[-1][0]


def test_what_is_not_installed_is_refused_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr("prune_cli.tracking.find_spec", lambda name: None)
    with pytest.raises(PruneError, match=r"prune-cli\[tensorboard\]"):
        Tracking(tensorboard=True)
    with pytest.raises(PruneError, match=r"prune-cli\[mlflow\]"):
        Tracking(mlflow="sqlite:///x.db")
    with pytest.raises(PruneError, match="auto, true or false"):
        Tracking(tensorboard="yes")
    Tracking()
