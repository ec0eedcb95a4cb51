"""`hydra/launcher=ray`: each job is a task of Ray, on this machine or on a cluster.

Hydra's own plug-in for Ray needs a cloudpickle that scikit-learn's joblib no longer works with.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from prune_cli.errors import require, require_range
from prune_cli.files import to_json, write_bytes
from prune_cli.host import cores

log = logging.getLogger(__name__)


class RayLauncher(Launcher):
    """Hydra's launcher on Ray tasks.

    Args:
        address: of a cluster that runs, or `auto`; null starts Ray on this machine, for this command.
        cpus: processors that Ray may use where it is started here; null: all that this process may.
        gpus: the same; null: as Ray finds.
        cpus_per_job: how many a job holds, and how many threads it may use.
        gpus_per_job: the same; a part such as 0.5 lets two jobs share one.

    Raises:
        PruneError: a value out of range, or more for one job than there is here.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: int | None = None,
        gpus: int | None = None,
        cpus_per_job: int = 1,
        gpus_per_job: float = 0,
    ) -> None:
        if cpus is not None:
            require_range("hydra.launcher.cpus", cpus, 1, 10_000, whole=True)
        if gpus is not None:
            require_range("hydra.launcher.gpus", gpus, 0, 1000, whole=True)
        require_range("hydra.launcher.cpus_per_job", cpus_per_job, 1, 10_000, whole=True)
        require_range("hydra.launcher.gpus_per_job", gpus_per_job, 0, 1000)
        here = cpus or cores()
        enough = address is not None or cpus_per_job <= here
        require(enough, f"hydra.launcher.cpus_per_job={cpus_per_job}: Ray may use {here} processors here")
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self.options: dict[str, Any] = {"num_cpus": cpus_per_job, "num_gpus": gpus_per_job, "max_retries": 0}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs and return what came of them, in order. A job whose worker dies has failed, alone."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        ray = self._started()
        task = ray.remote(**self.options)(_job)
        constant = ray.put((self.hydra_context, self.config, self.task_function, Singleton.get_state(), os.getcwd()))
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        for number, overrides in zip(numbers, job_overrides, strict=True):
            log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
        waiting = [
            task.remote(constant, number, list(overrides))
            for number, overrides in zip(numbers, job_overrides, strict=True)
        ]
        try:
            return [
                self._result(ray, reference, number, overrides)
                for reference, number, overrides in zip(waiting, numbers, job_overrides, strict=True)
            ]
        except BaseException:  # Ctrl-C: what was started ends
            ray.shutdown()
            raise

    def _started(self) -> Any:
        """Ray, started or joined at the first batch; it ends by itself what it started when this process ends."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # these are read while Ray is imported
        if self.address is None:
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # whoever else reaches this machine cannot send tasks
        import ray

        if ray.is_initialized():
            return ray
        here: dict[str, Any] = {}
        if self.address is None:
            here = {"num_cpus": self.cpus or cores(), "num_gpus": self.gpus, "include_dashboard": False}
            here["object_store_memory"] = 128 * 2**20  # configs are all that is passed
        try:
            ray.init(address=self.address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
        except (ConnectionError, RuntimeError, ValueError) as error:
            text = str(error).strip().split("\n")[0]
            raise CompactHydraException(f"prune-run: hydra/launcher=ray address={self.address}: {text}") from error
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        nodes, processors, gpus = len(ray.nodes()), total.get("CPU", 0), total.get("GPU", 0)  # type: ignore[no-untyped-call]
        if self.address is None and gpus < self.options["num_gpus"]:  # the first job would wait for ever
            asked = f"hydra.launcher.gpus_per_job={self.options['num_gpus']:g}"
            raise CompactHydraException(f"prune-run: {asked}: Ray finds {gpus:g} GPUs here")
        log.info("Ray: %g processors and %g GPUs, machines: %d", processors, gpus, nodes)
        return ray

    def _result(self, ray: Any, reference: Any, number: int, overrides: Sequence[str]) -> JobReturn:
        try:
            done = ray.get(reference)
            assert isinstance(done, JobReturn)
        except ray.exceptions.RayError as error:
            return self._lost(number, overrides, str(error).strip().splitlines()[0])
        log.info("\t#%d : %s", number, "ended" if done.status == JobStatus.COMPLETED else "failed")
        return done

    def _lost(self, number: int, overrides: Sequence[str], reason: str) -> JobReturn:
        """Say for a job what it can no longer say itself, as any failed job of a sweep does: in `failed.json`."""
        config = _config(self.hydra_context, self.config, number, overrides)
        HydraConfig.instance().set_config(config)
        folder = Path(config.hydra.sweep.dir).resolve() / str(config.hydra.sweep.subdir)
        folder.mkdir(parents=True, exist_ok=True)
        said = {"schema": 1, "reason": f"the worker died: {reason}", "command": ["prune-run", *overrides]}
        write_bytes(folder / "failed.json", to_json(said))
        log.error("\t#%d : the worker died: %s", number, reason)
        done = JobReturn(overrides=overrides, hydra_cfg=config, status=JobStatus.COMPLETED)
        done.return_value = str(folder)
        return done


def _job(constant: tuple[Any, ...], number: int, overrides: list[str]) -> JobReturn:
    """The same in the worker's process: what Hydra's basic launcher does for a job."""
    hydra_context, master, task_function, singletons, folder = constant
    os.chdir(folder)  # a cluster's workers start where Ray was started
    setup_globals()
    Singleton.set_state(singletons)
    config = _config(hydra_context, master, number, overrides)
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _config(hydra_context: HydraContext, master: DictConfig, number: int, overrides: Sequence[str]) -> DictConfig:
    config: DictConfig = hydra_context.config_loader.load_sweep_config(master, list(overrides))
    with open_dict(config):
        config.hydra.job.id = f"{config.hydra.job.name}_{number}"
        config.hydra.job.num = number
    return config
