"""The graph of an archive as lowering reads it: what is constant, what is a weight, what leads to the answer."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.code import Affine, Code
from smidgen.errors import ModelError, one_line
from smidgen.run.onnx_graph import STANDARD, inner_graphs

__all__ = ["Graph", "Weight", "attributes_of", "refusal", "where"]


class Weight(NamedTuple):
    """A tensor of the archive, perhaps turned: its number, and whether its two axes are the other way round; and the
    number of another one that is added to it, as where one code has too few levels."""

    record: int
    turned: bool
    more: int | None


class Graph:
    """The graph of an archive.

    Args:
        archive: of the network.

    Attributes:
        nodes: those that the output depends on, in order.
        uses: how often each tensor is read; the end of the graph reads, too.
        constants: arrays that the graph itself holds, by name.
        version: of ONNX's operators.

    Raises:
        ModelError: it is no network of one input (1, channels, height, width) of float32 and one output.
    """

    def __init__(self, archive: Archive) -> None:
        try:
            model = onnx.load_from_string(archive.graph)
        except Exception as error:  # the class of the error depends on the version of protobuf
            raise ModelError(f"the graph is not an ONNX model: {one_line(error)}") from None
        graph = model.graph
        self.version = max((each.version for each in model.opset_import if each.domain in STANDARD), default=1)
        self._tensors = list(archive.tensors.values())
        self._records = {name: number for number, name in enumerate(archive.tensors)}
        held = [tensor for tensor in graph.initializer if tensor.name not in archive.tensors]
        self.constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in held}
        known = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in known]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ModelError(f"the network has {len(inputs)} inputs and {len(graph.output)} outputs, and not one each")
        self.input, self.shape = inputs[0].name, _input_shape(inputs[0], archive)
        self.output = graph.output[0].name
        self.nodes = _needed(graph)
        self.uses = Counter([name for node in self.nodes for name in node.input] + [self.output])
        self._makers = {name: node for node in self.nodes for name in node.output}

    def constant(self, name: str) -> NDArray[Any] | None:
        """A constant, or a tensor of the archive; None if it is neither."""
        if name in self._records:
            tensor = self._tensors[self._records[name]]
            return tensor.values() if isinstance(tensor, Code) else np.asarray(tensor)
        return self.constants.get(name)

    def weight(self, name: str) -> Weight | None:
        """The tensor of the archive that a tensor of the graph is, turned or not; None if it is none."""
        turned, more = False, None
        while name not in self._records:
            node = self._makers.get(name)
            if node is None or node.op_type not in ("Add", "Transpose", "Identity") or not node.input:
                return None
            if node.op_type == "Add":
                if more is not None or node.input[1] not in self._records:
                    return None
                more = self._records[node.input[1]]
            if node.op_type == "Transpose":
                if list(attributes_of(node).get("perm", [1, 0])) != [1, 0]:
                    return None
                turned = not turned
            name = node.input[0]
        record = self._records[name]
        if more is not None and self.record_shape(more) != self.record_shape(record):
            return None
        return None if turned and len(self.record_shape(record)) != 2 else Weight(record, turned, more)

    def record_shape(self, record: int) -> tuple[int, ...]:
        """The shape of a tensor of the archive."""
        return tuple(self._tensors[record].shape)

    def record_type(self, record: int) -> str:
        """The type of a tensor's values."""
        tensor = self._tensors[record]
        return "float32" if isinstance(tensor, Code) else tensor.dtype.name

    def is_of_signs(self, record: int) -> bool:
        """Whether a tensor is a code whose integers are 1 and -1, with one scale, or one for each output."""
        tensor = self._tensors[record]
        if not isinstance(tensor, Code) or not isinstance(tensor.rule, Affine) or tensor.rule.zero.any():
            return False
        plain = tensor.rule.axis in (None, 0) and tensor.rule.scale.shape[1] == 1
        return plain and bool((np.abs(tensor.symbols) == 1).all())

    def fold(self, node: Any) -> bool:
        """Computes a node whose inputs are all held by the graph, if that can be; and says whether it was."""
        fixed = all(name in self.constants for name in node.input if name)
        if not fixed or not (node.input or node.op_type == "Constant"):
            return False
        from onnx.reference import ReferenceEvaluator

        try:
            given = {name: self.constants[name] for name in node.input if name}
            results = ReferenceEvaluator(node).run(None, given)
        except Exception:  # whatever the evaluator lacks is not constant then, and is refused by name
            return False
        self.constants.update(zip(node.output, map(np.asarray, results), strict=False))
        return True


def attributes_of(node: Any) -> dict[str, Any]:
    """A node's attributes by name."""
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def where(node: Any) -> str:
    """What a node is called in an error."""
    name = node.name or (node.output[0] if node.output else "")
    return f"{node.op_type} {name!r}"


def refusal(node: Any, reason: str) -> ModelError:
    """What is raised where a node has no form in a program."""
    return ModelError(f"{where(node)} cannot be computed in integers: {reason}")


def _input_shape(value: Any, archive: Archive) -> tuple[int, int, int]:
    kind = value.type.tensor_type
    sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
    if kind.elem_type != onnx.TensorProto.FLOAT or len(sizes) != 4:
        raise ModelError(f"input {value.name!r} of the network is not float32 of shape (n, channels, height, width)")
    if sizes[0] not in (None, 1):
        raise ModelError(f"input {value.name!r} of the network takes {sizes[0]} examples at once, and not one")
    if archive.preprocessing:
        sizes[2], sizes[3] = sizes[2] or archive.preprocessing.height, sizes[3] or archive.preprocessing.width
        sizes[1] = sizes[1] or 3
    channels, height, width = sizes[1:]
    if channels is None or height is None or width is None:
        raise ModelError(f"input {value.name!r} of the network has no fixed size; give its preprocessing one")
    return channels, height, width


def _needed(graph: Any) -> list[Any]:
    wanted, found = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            found.append(node)
            wanted.update(node.input)
            if list(inner_graphs(node)) or node.domain not in STANDARD:
                raise refusal(node, "it is not an operator of ONNX without branches")
    return found[::-1]
