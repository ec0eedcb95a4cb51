"""torchvision's classification networks."""

from __future__ import annotations

import inspect
import warnings

from torch import nn

from prune_cli.errors import PruneError, require


def build(name: str, classes: int) -> nn.Module:
    """A fresh network with `classes` outputs.

    Raises:
        PruneError: torchvision has no classification network of that name.
    """
    return _make(name, num_classes=classes)


def build_pretrained(name: str, classes: int, weights: str) -> nn.Module:
    """A network with torchvision's weights; its last linear layer is made anew if it has other classes.

    Raises:
        PruneError: unknown weights, or they cannot be downloaded.
    """
    try:
        model = _make(name, weights=weights)
    except (OSError, KeyError, ValueError) as error:
        raise PruneError(f"model.weights={weights} of {name} cannot be had: {error}") from error
    last_name, last = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    if last.out_features != classes:
        model.set_submodule(last_name, nn.Linear(last.in_features, classes))
    return model


def _make(name: str, **arguments: object) -> nn.Module:
    from torchvision import models

    names = models.list_models(module=models)
    require(name in names, f"model.name={name!r} is not a torchvision classification network: {', '.join(names)}")
    builder = models.get_model_builder(name)
    if "aux_logits" in inspect.signature(inspect.unwrap(builder)).parameters or name in ("googlenet", "inception_v3"):
        # Auxiliary heads run in training only and would be left with the widths of the dense network.
        arguments["aux_logits"] = "weights" in arguments
        arguments.setdefault("init_weights", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = builder(**arguments)
    assert isinstance(model, nn.Module)
    if getattr(model, "aux_logits", False):
        model.aux_logits = False  # type: ignore[assignment]
        for head in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, head):
                setattr(model, head, None)
    return model
