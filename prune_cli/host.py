"""The machine: what it is, what runs on it, and how busy others keep it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("prune-cli", "torch", "torchvision", "numpy", "scikit-learn", "fvcore", "hydra-core",
            "onnx", "onnxruntime", "openvino")  # fmt: skip


def describe() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "name": platform.node(),
        "cpu": names[0] if names else platform.processor(),
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
    }


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_granted() -> int:
    """How many threads this process may keep busy: its processors, or fewer if whatever started it said so.

    joblib, Slurm's launcher and Ray tell their workers by OMP_NUM_THREADS.
    """
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(cores(), int(said)) if said.isdecimal() and int(said) > 0 else cores()


def busy_seconds() -> float:
    """Seconds of work that all processors of the machine have done since it started, or had taken away by its host."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    return float(sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))
