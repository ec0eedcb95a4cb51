"""Work in a fresh process: what runtimes leave behind (thread pools, compilers' caches, crashes) ends with it."""

from __future__ import annotations

import copy
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar

from prune_cli.errors import PruneError
from prune_cli.files import to_safetensors
from prune_cli.interruption import Interrupted

if TYPE_CHECKING:
    from torch import nn

Result = TypeVar("Result")


def fresh(work: Callable[..., Result], *arguments: Any) -> Result:
    """`work(*arguments)` in a process of its own. Modules are best sent as a `Parcel`.

    Raises:
        PruneError: the process died.
        Interrupted: this process was asked to stop; the other one is ended.
    """
    loaded = ["torch", *(["torchvision"] if "torchvision" in sys.modules else [])]
    with ProcessPoolExecutor(1, mp_context=context(loaded), initializer=_belong_to_the_parent) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool as error:
            raise PruneError("its process died, by a crash or for want of memory") from error
        except Interrupted:
            for child in multiprocessing.active_children():
                child.kill()
            raise


def context(loaded: Sequence[str]) -> Any:
    """How processes are started: where the platform has it, forked from a server, in 0.1 seconds instead of 3.

    Args:
        loaded: modules that the server has loaded. The first call in a process decides.
    """
    # Must be set before PyTorch is loaded: threads that spin while they wait slow each other down on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(loaded))
    return server


def _belong_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it decides
    end_with_parent()


def end_with_parent() -> None:
    """Have this process killed when its parent has gone: it would go on unseen, hold locks and disturb measurements."""

    def wait(parent: multiprocessing.process.BaseProcess) -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=wait, args=(parent,), daemon=True).start()


class Parcel:
    """A module on its way into another process: structure and weights apart.

    Left to itself, PyTorch would move the weights into shared memory, of which containers often have 64 MB.
    """

    def __init__(self, model: nn.Module) -> None:
        import torch

        tensors: dict[int, Any] = {}
        self.places: dict[str, list[str]] = {}  # a tensor's number, and all the names that it has
        hollow: dict[int, Any] = {}
        for named in (model.named_parameters, model.named_buffers):
            for name, tensor in named(remove_duplicate=False):
                tensors[id(tensor)] = tensor
                self.places.setdefault(str(id(tensor)), []).append(name)
                empty = tensor.detach().to("meta")
                is_parameter = isinstance(tensor, torch.nn.Parameter)
                hollow[id(tensor)] = torch.nn.Parameter(empty, False) if is_parameter else empty
        self.weights = to_safetensors({str(number): tensor for number, tensor in tensors.items()})
        self.skeleton = copy.deepcopy(model, hollow)

    def open(self) -> nn.Module:
        """The module, in eval mode; its parameters want no gradients."""
        from safetensors.torch import load
        from torch import nn

        model = copy.deepcopy(self.skeleton)
        for number, tensor in load(self.weights).items():
            for name in self.places[number]:
                owner, _, leaf = name.rpartition(".")
                module = model.get_submodule(owner)
                setattr(module, leaf, nn.Parameter(tensor, False) if leaf in module._parameters else tensor)
        return model.eval()
