"""Work in a fresh process: what runtimes leave behind (thread pools, compilers' caches, crashes) ends with it."""

from __future__ import annotations

import copy
import multiprocessing
import os
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

    Where the platform has it, the process is forked from a server that has loaded PyTorch and nothing else: 0.05
    seconds instead of 3.

    Raises:
        PruneError: the process died.
    """
    # Must be set before PyTorch is loaded: threads that spin while they wait slow each other down on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "forkserver" in multiprocessing.get_all_start_methods():
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch"])
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

        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.weights = to_safetensors(tensors)
        self.parameters = {name for name, _ in model.named_parameters()}
        hollow: dict[int, Any] = {}
        for name, tensor in tensors.items():
            empty = tensor.detach().to("meta")
            hollow[id(tensor)] = torch.nn.Parameter(empty, False) if name in self.parameters else empty
        self.skeleton = copy.deepcopy(model, hollow)

    def open(self) -> nn.Module:
        """The module, in eval mode; its parameters want no gradients."""
        from safetensors.torch import load
        from torch import nn

        model = copy.deepcopy(self.skeleton)
        for name, tensor in load(self.weights).items():
            owner, _, leaf = name.rpartition(".")
            own = nn.Parameter(tensor, False) if name in self.parameters else tensor
            setattr(model.get_submodule(owner), leaf, own)
        return model.eval()
