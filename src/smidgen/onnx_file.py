"""An ONNX file at the door: checked, its weights taken out, everything else kept as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.container import read_bytes
from smidgen.errors import ModelError, WeightError, one_line
from smidgen.graph import strip_
from smidgen.onnx_notes import take_notes_
from smidgen.run.onnx_graph import STANDARD, graphs_of, inner_graphs, tensors_of

__all__ = ["archive_of", "read_onnx"]

SMALLEST_WEIGHT = 8
"""Constants of fewer numbers stay in the graph."""

LONGEST = 200
"""Bytes of a name; longer ones, which files cannot have, are cut. Some converters join those of all that they merge."""

OLDEST = 9


def read_onnx(path: str | os.PathLike[str]) -> Archive:
    """The network of an ONNX file, uncompressed.

    Args:
        path: of a file of operator set 9 or newer. Data that it keeps in other files is read from its own folder.

    Raises:
        InputError: the file cannot be read.
        ModelError: it is no valid ONNX model, or its data lies outside its folder, is missing or too short.
        WeightError: a weight is NaN or infinite.
    """
    path = Path(path)
    data = read_bytes(path)
    try:
        model = onnx.load_from_string(data)
    except Exception as error:  # the class of the error depends on the version of protobuf
        raise ModelError(f"{path}: is not an ONNX model: {one_line(error)}") from None
    if not model.graph.node and not model.graph.output:
        raise ModelError(f"{path}: is not an ONNX model, or holds an empty graph")
    for tensor in tensors_of(model):
        _load_(tensor, path)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path}: is not a valid ONNX model: {_reason(error)}") from None
    except Exception as error:
        raise ModelError(f"{path}: is not a valid ONNX model: {one_line(error)}") from None
    try:
        return archive_of(model)
    except (ModelError, WeightError) as error:
        raise type(error)(f"{path}: {error}") from None


def archive_of(model: onnx.ModelProto) -> Archive:
    """The archive of a whole ONNX model, which is used up.

    Constants of eight and more numbers become weights, wherever in the graph they are, under the names that they have
    there (the first ``LONGEST`` bytes); equal ones are kept once.

    Raises:
        ModelError: operators too old, a tensor of a type that cannot be kept, or metadata that only look like ours.
        WeightError: a weight is NaN or infinite.

    Example:
        >>> from onnx import TensorProto, helper, numpy_helper
        >>> x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
        >>> weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
        >>> graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
        >>> archive_of(helper.make_model(graph)).tensors["w"].shape
        (3, 3)
    """
    version = max((opset.version for opset in model.opset_import if opset.domain in STANDARD), default=OLDEST)
    if version < OLDEST:
        raise ModelError(f"its operators are of version {version}; {OLDEST} and newer can be read")
    weights = _Weights(model)
    weights.take_(model.graph, str)
    arrays = weights.used()
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in given]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    preprocessing, labels = take_notes_(model)
    said = list(model.metadata_props)
    strip_(model)
    model.metadata_props.extend(said)  # users read it, for example the alphabet of a reader of text
    graph: bytes = model.SerializeToString(deterministic=True)
    return Archive(graph, arrays, preprocessing, labels)


class _Weights:
    """What is taken out of a graph and the graphs within it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.names = {name for graph in graphs_of(model.graph) for node in graph.node for name in node.output}
        self.names |= {value.name for value in (*model.graph.input, *model.graph.initializer)}
        self.arrays: dict[str, NDArray[Any]] = {}
        self.equal: dict[tuple[Any, ...], str] = {}

    def take_(self, graph: Any, rename: Callable[[str], str]) -> None:
        """Takes the constants of a graph out, and gives nodes the names under which they are now."""
        outputs = {value.name for value in graph.output}
        new: dict[str, str] = {}
        kept = []
        for tensor in list(graph.initializer):
            if not self._weight(tensor) or tensor.name in outputs:
                kept.append(tensor)
                continue
            new[tensor.name] = self._add(tensor.name, onnx.numpy_helper.to_array(tensor))
        nodes = []
        for node in graph.node:
            value = _constant(node)
            if value is None or not self._weight(value) or node.output[0] in outputs:
                nodes.append(node)
            else:
                new[node.output[0]] = self._add(node.output[0], onnx.numpy_helper.to_array(value))

        def renamed(name: str) -> str:
            return new[name] if name in new else rename(name)

        for node in nodes:
            node.input[:] = [renamed(name) for name in node.input]
            for inner in inner_graphs(node):
                self.take_(inner, renamed)
        held = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        left = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.initializer[:], graph.node[:]
        graph.initializer.extend(held)
        graph.node.extend(left)

    def used(self) -> dict[str, NDArray[Any]]:
        """The arrays that some node takes; they get a place in the graph."""
        wanted = {name for graph in graphs_of(self.graph) for node in graph.node for name in node.input}
        arrays = {name: array for name, array in self.arrays.items() if name in wanted}
        for name, array in arrays.items():
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            self.graph.initializer.append(onnx.TensorProto(name=name, dims=array.shape, data_type=kind))
        return arrays

    def _weight(self, tensor: Any) -> bool:
        kinds = onnx.TensorProto
        if tensor.data_type not in kinds.DataType.values():
            raise ModelError(f"{tensor.name}: is of the unknown type {tensor.data_type}")
        return int(np.prod(tensor.dims, dtype=np.float64)) >= SMALLEST_WEIGHT and tensor.data_type in (
            kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16, kinds.INT8, kinds.UINT8, kinds.INT16, kinds.INT32, kinds.INT64
        )  # fmt: skip

    def _add(self, name: str, array: NDArray[Any]) -> str:
        """The name under which an array is kept."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key in self.equal:
            return self.equal[key]
        if array.dtype.kind == "f" and not np.isfinite(array).all() and not _mask(array):
            raise WeightError(f"{name}: holds NaN or infinity")
        whole, name = name, name.encode()[:LONGEST].decode(errors="ignore")
        free, number = name, 1
        while free in self.arrays or (name != whole and free in self.names):
            number += 1
            free = f"{name}_{number}"
        self.arrays[free] = array
        self.equal[key] = free
        return free


def _mask(array: NDArray[Any]) -> bool:
    """Whether infinities are there on purpose: added to scores they rule places out."""
    return bool(np.isin(array[~np.isfinite(array)], (np.inf, -np.inf)).all()) and array.ndim > 1


def _constant(node: Any) -> Any:
    """The tensor of a Constant, or None."""
    if node.op_type == "Constant" and node.domain in STANDARD:
        for attribute in node.attribute:
            if attribute.name == "value":
                return attribute.t
    return None


def _load_(tensor: Any, path: Path) -> None:
    """Reads the data that a tensor keeps in another file, which must lie in the folder of the model."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
        return
    where = {entry.key: entry.value for entry in tensor.external_data}
    folder = path.resolve().parent
    source = (folder / where.get("location", "")).resolve()
    what = f"{path}: the data of {tensor.name!r}"
    if not where.get("location") or not source.is_relative_to(folder):
        raise ModelError(f"{what} lies outside the folder of the model ({where.get('location', '')!r})")
    try:
        width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        start, size = int(where.get("offset", 0)), int(np.prod(tensor.dims, dtype=object)) * width
        claimed, there = int(where.get("length", size)), source.stat().st_size
    except (KeyError, ValueError, OSError) as error:
        raise ModelError(f"{what} in {where['location']!r} cannot be read: {one_line(error)}") from None
    if start < 0 or size < 0 or claimed != size or start + size > there:
        raise ModelError(f"{what} should be {size:,} bytes at {start:,} of {where['location']!r}, which has {there:,}")
    with source.open("rb") as file:
        file.seek(start)
        tensor.raw_data = file.read(size)
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.DEFAULT


def _reason(error: Exception) -> str:
    """The lines of the checker as one, without the dump of the node that follows."""
    return " ".join(str(error).split("==> Context")[0].split())[:300]
