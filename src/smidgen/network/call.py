"""One use of an ONNX operator: its inputs and attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from smidgen.errors import ModelError

__all__ = ["Call", "Operator", "dtype_of", "text"]


@dataclass(frozen=True, eq=False)
class Call:
    """One use of an operator.

    Args:
        inputs: its inputs; None where an optional one is left out.
        attributes: by name, as Python values, tensors as tensors.
        opset: the version of the operators.
        outputs: how many outputs are wanted.
    """

    inputs: Sequence[Tensor | None]
    attributes: Mapping[str, Any]
    opset: int
    outputs: int

    def __getitem__(self, index: int) -> Tensor:
        tensor = self.inputs[index]
        if tensor is None:
            raise ModelError("an input that is not optional is missing")
        return tensor

    def optional(self, index: int) -> Tensor | None:
        """An input, or None if it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def numbers(self, index: int, name: str, default: list[int] | None = None) -> list[int] | None:
        """Whole numbers that newer operators take as an input and older ones as an attribute."""
        tensor = self.optional(index)
        if tensor is not None:
            return [int(number) for number in tensor.reshape(-1).tolist()]
        found: list[int] | None = self.attributes.get(name, default)
        return found


Operator = Callable[[Call], Any]


def dtype_of(number: int) -> torch.dtype:
    """The type of a tensor whose ONNX type has this number."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(number)
    return torch.from_numpy(np.zeros(0, kind)).dtype


def text(value: Any) -> str:
    """A text attribute, which ONNX keeps as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
