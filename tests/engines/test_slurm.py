"""The Slurm launcher against stand-ins for Slurm's programs: what is asked of sbatch, and that its jobs run."""

import os

import pytest

from tests.engines.test_launchers import run
from tests.test_cli import results

pytest.importorskip("submitit")
PROGRAMS = {
    # Keeps the script and runs its tasks once submitit has renamed its files to the job's number.
    "sbatch": """
        cp "$1" "$SLURM_STAND_IN/script.sh"
        ( for task in 0 1; do
            until [ -e "$(dirname "$1")/100_${task}_submitted.pkl" ]; do sleep 0.1; done
            SLURM_JOB_ID=$((100 + task)) SLURM_ARRAY_JOB_ID=100 SLURM_ARRAY_TASK_ID=$task SLURM_JOB_NODELIST=here \\
            SLURM_NNODES=1 SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 bash "$1" &
        done ) > /dev/null 2>&1 &
        echo Submitted batch job 100""",
    "srun": """
        while [[ $1 == --* ]]; do
            [[ $1 == --output || $1 == --error ]] && shift
            shift
        done
        exec "$@" """,
    "sacct": """
        echo "JobID|State|NodeList" """,
    "scontrol": """
        echo here""",
}


def test_a_job_array_gets_what_was_asked_for(tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    asked = ["partition=long", "timeout_min=90", "cpus_per_task=1", "mem_gb=8", "array_parallelism=1", "setup=[date]"]
    done = run(
        tmp_path,
        "app",
        "-m",
        "hydra/launcher=slurm",
        *[f"hydra.launcher.{word}" for word in asked],
        "+hydra.launcher.additional_parameters.mail-type=END",
        "seed=0,1",
        "hydra.sweep.dir=sweep",
        PATH=f"{programs}:{os.environ['PATH']}",
        SLURM_STAND_IN=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    seen = [result["seen"] for result in results(tmp_path / "sweep")]
    assert [job["seed"] for job in seen] == [0, 1] and {job["threads"] for job in seen} == {1}
    script = (tmp_path / "script.sh").read_text()
    for line in ("--partition=long", "--time=90", "--cpus-per-task=1", "--mem=8GB", "--array=0-1%1",
                 "--mail-type=END", "--job-name=prune-run", "--nodes=1", "--ntasks-per-node=1"):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert "\ndate\n" in script and "--account" not in script
