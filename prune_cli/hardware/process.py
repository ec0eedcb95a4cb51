"""Work in a fresh process: what runtimes leave behind (thread pools, compilers' caches, crashes) ends with it."""

from __future__ import annotations

import copy
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar

from prune_cli.errors import PruneError
from prune_cli.files import to_safetensors

if TYPE_CHECKING:
    from torch import nn

Result = TypeVar("Result")


def fresh(work: Callable[..., Result], *arguments: Any) -> Result:
    """`work(*arguments)` in a process of its own. Modules are best sent as a `Parcel`.

    Where the platform has it, the process is forked from a server that has loaded PyTorch, and torchvision if we have:
    0.1 seconds instead of 3.

    Raises:
        PruneError: the process died.
    """
    # Must be set before PyTorch is loaded: threads that spin while they wait slow each other down on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "forkserver" in multiprocessing.get_all_start_methods():
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", *(["torchvision"] if "torchvision" in sys.modules else [])])
    else:
        context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool as error:
            raise PruneError("its process died, by a crash or for want of memory") from error


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
