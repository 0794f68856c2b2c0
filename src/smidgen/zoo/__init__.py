"""Networks that smidgen can build by name. A new one is one file and one line in ``ZOO``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch.nn import Module

from smidgen.errors import ModelError
from smidgen.zoo.alexnet import AlexNet
from smidgen.zoo.resnet20 import ResNet20
from smidgen.zoo.squeezenet import SqueezeNet
from smidgen.zoo.squeezenet32 import SqueezeNet32

__all__ = ["ZOO", "build"]

ZOO: Mapping[str, Callable[..., Module]] = {
    "squeezenet1_0": partial(SqueezeNet, "1.0"),
    "squeezenet1_1": partial(SqueezeNet, "1.1"),
    "alexnet": AlexNet,
    "squeezenet32": SqueezeNet32,
    "resnet20": ResNet20,
}


def build(name: str, **arguments: Any) -> Module:
    """A new network of the zoo, with random weights.

    Args:
        name: a key of ``ZOO``.
        arguments: what that network takes, for instance ``classes``.

    Returns:
        The module; its attribute ``zoo`` is ``{"name": name, **arguments}``, from which a file can rebuild it.

    Raises:
        ModelError: there is no such network, or it does not take these arguments.

    Example:
        >>> build("squeezenet1_1", classes=10).zoo
        {'name': 'squeezenet1_1', 'classes': 10}
    """
    if name not in ZOO:
        raise ModelError(f"the zoo has no {name!r}; it has {', '.join(ZOO)}")
    known = [key for key in inspect.signature(ZOO[name]).parameters if key != "version"]
    for key in arguments:
        if key not in known:
            raise ModelError(f"{name} takes no argument {key!r}; it takes {', '.join(known)}")
    module = ZOO[name](**arguments)
    # not setattr: Module declares all its attributes as tensors or modules
    vars(module)["zoo"] = {"name": name, **arguments}
    return module
