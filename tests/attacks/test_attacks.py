"""Every idea of README.md: each file is built here, refused with its reason, and refused cheaply."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile import (
    CodeRecord,
    Parts,
    array_record,
    mutate_parts,
    small_archive,
    small_graph,
    with_checksum,
    with_raw_texts,
)
from onnx import TensorProto, helper

from smidgen.archive import Archive
from smidgen.errors import FormatError, ModelError
from smidgen.file import inspect, read, write

MEGABYTE = 1_000_000
CHEAP = 8 * MEGABYTE  # refusing takes less: the model of the text codec is 3 MB
HALF = struct.pack("<f", 0.5)
PICTURE = {"height": 8, "width": 8, "channels": "RGB", "mean": [0, 0, 0], "std": [1, 1, 1], "resample": "bilinear"}

LENGTH, SECTION, RECORD = "its length is not", "a section has", "record contradicts itself"
SCALE = "the scale must be a positive"
LIMIT, METADATA, LABEL = "claims more data", "the metadata is not what", "a label is not"
NOT_UTF8, DAMAGED = "is not UTF-8", "damaged data"


def index(*records: bytes, payload: bytes = b"") -> bytes:
    return Parts({"index": b"".join(records), "payload": payload}).build()


def code(payload: bytes = b"\x05" + HALF, **changes: object) -> bytes:
    return index(replace(CodeRecord(), **changes).build(), payload=payload)


def table(**changes: object) -> bytes:
    """Two levels in the book and two in use, unless told otherwise."""
    valid = CodeRecord(rule=2, first=0, step=1, columns=2, blocks=((1, 1), *((0, 2),) * 4))
    return index(replace(valid, **changes).build(), payload=b"\x05" + 8 * b"\0")


def trellis(scale: float = 0.5, **changes: object) -> bytes:
    """Two signs on a trellis, unless told otherwise."""
    record = replace(CodeRecord(rule=3), **changes).build()
    return index(record, payload=b"\x05" + struct.pack("<f", scale))


def metadata(text: bytes) -> bytes:
    return Parts({"metadata": text}).build()


def picture(**changes: object) -> bytes:
    return metadata(json.dumps({"preprocessing": {**PICTURE, **changes}, "metadata": {}}).encode())


def relabelled(data: bytes, version: int) -> bytes:
    return data[:4] + bytes([version]) + data[5:]


def small() -> bytes:
    return with_raw_texts(write(small_archive()))


ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    # the container
    "nothing": (lambda: b"", "does not begin"),
    "another magic": (lambda: Parts(magic=b"PK\3\4").build(), "does not begin"),
    "a pickle": (lambda: b"\x80\x04cos\nsystem\n" + bytes(99), "does not begin"),
    "a later version": (lambda: Parts(version=3).build(), "its version"),
    "version 0": (lambda: Parts(version=0).build(), "its version"),
    "header alone, cut": (lambda: Parts().build()[:71], LENGTH),
    "header of version 2, cut": (lambda: Parts(version=2).build()[:91], LENGTH),
    "version 2 in a header of version 1": (lambda: with_checksum(relabelled(Parts().build(), 2)), LENGTH),
    "version 1 in a header of version 2": (lambda: with_checksum(relabelled(Parts(version=2).build(), 1)), LENGTH),
    "terabyte program": (lambda: Parts(version=2, lengths={"program": 2**40}).build(), LENGTH),
    "reserved byte of version 2 set": (lambda: Parts(version=2, reserved=1).build(), SECTION),
    "unknown codec of the program": (lambda: Parts(version=2, codecs={"program": 10}).build(), SECTION),
    "coded payload of version 2": (lambda: Parts(version=2, codecs={"payload": 9}).build(), SECTION),
    "raw program of another size": (
        lambda: Parts({"program": b"abc"}, sizes={"program": 4}, version=2).build(),
        SECTION,
    ),
    "program bomb": (lambda: Parts({"program": b"\1"}, {"program": 9}, {"program": 2**24}, version=2).build(), LIMIT),
    "program of 17 MB": (
        lambda: Parts({"program": bytes(70000)}, {"program": 6}, {"program": 17 << 20}, version=2).build(),
        LIMIT,
    ),
    "program that ends too early": (
        lambda: Parts({"program": b"ab" * 20}, {"program": 9}, {"program": 9}, version=2).build(),
        DAMAGED,
    ),
    "terabyte payload": (lambda: Parts(lengths={"payload": 2**40}).build(), LENGTH),
    "lengths that wrap round": (lambda: Parts(lengths={"metadata": 2**64 - 8, "labels": 110}).build(), LENGTH),
    "largest lengths": (
        lambda: Parts(lengths=dict.fromkeys(("metadata", "graph", "payload"), 2**64 - 1)).build(),
        LENGTH,
    ),
    "overlap: a section too long": (lambda: Parts({"labels": b"a\tb\n"}, lengths={"metadata": 45}).build(), LENGTH),
    "hole: a section too short": (lambda: Parts(lengths={"metadata": 3}).build(), LENGTH),
    "trailing bytes": (lambda: Parts(trailing=b"MZ").build(), LENGTH),
    "reserved bytes set": (lambda: Parts(reserved=256).build(), SECTION),
    "unknown codec of a section": (lambda: Parts(codecs={"labels": 200}).build(), SECTION),
    "latest codec of planes for a text": (lambda: Parts(codecs={"labels": 7}).build(), SECTION),
    "codec of planes for a text": (lambda: Parts(codecs={"graph": 4}).build(), SECTION),
    "coded payload": (lambda: Parts(codecs={"payload": 6}).build(), SECTION),
    "raw section of another size": (lambda: Parts({"labels": b"a\tb\n"}, sizes={"labels": 5}).build(), SECTION),
    "text bomb": (lambda: Parts({"graph": b"\1"}, {"graph": 6}, {"graph": 2**26}).build(), LIMIT),
    "text of 17 MB": (lambda: Parts({"labels": bytes(17000)}, {"labels": 6}, {"labels": 17 << 20}).build(), LIMIT),
    "text of 4 GB": (lambda: Parts({"index": bytes(5000)}, {"index": 6}, {"index": 2**32 - 1}).build(), LIMIT),
    "text that ends too early": (lambda: Parts({"labels": b"ab" * 20}, {"labels": 6}, {"labels": 9}).build(), DAMAGED),
    # the index
    "name of no bytes": (lambda: index(array_record(b""), payload=b"\0"), RECORD),
    "name beyond the index": (lambda: index(b"\xffw"), RECORD),
    "name that is not UTF-8": (lambda: index(array_record(b"\xc0\xaf"), payload=b"\0"), NOT_UTF8),
    "name that is a surrogate": (lambda: index(array_record(b"\xed\xa0\x80"), payload=b"\0"), NOT_UTF8),
    "same name twice": (lambda: index(array_record(), array_record(), payload=b"\0\0"), "is there twice"),
    "unknown rule": (lambda: index(replace(CodeRecord(), rule=5).build(), payload=b"\x05" + HALF), RECORD),
    "unknown type": (lambda: index(array_record(kind=13), payload=b"\0"), RECORD),
    "type 0": (lambda: index(array_record(kind=0), payload=b"\0"), RECORD),
    "rank 9": (lambda: index(array_record(shape=(1,) * 9), payload=b"\0"), RECORD),
    "rank 255": (lambda: index(array_record(shape=(1,) * 255), payload=b"\0"), RECORD),
    "shape of 2^64": (lambda: index(array_record(shape=(2**32 - 1, 2**32 - 1)), payload=b"\0"), RECORD),
    "shape that wraps to 0": (lambda: index(array_record(shape=(2**31, 2**31, 4)), payload=b"\0"), RECORD),
    "zero before the huge": (lambda: index(array_record(shape=(0, *(2**32 - 1,) * 7), blocks=((0, 0),))), RECORD),
    "zero after the huge": (lambda: index(array_record(shape=(*(2**32 - 1,) * 7, 0), blocks=((0, 0),))), RECORD),
    "element bomb": (lambda: index(array_record(shape=(2**31,), blocks=((5, 0),))), LIMIT),
    "element bomb of one level": (
        lambda: code(HALF, shape=(2**16, 2**14), levels=1, blocks=((0, 0), *((0, 1),) * 4)),
        LIMIT,
    ),
    "element bomb in parts": (
        lambda: index(*(array_record(b"%d" % i, (2**22,), blocks=((5, 0),)) for i in range(9))),
        LIMIT,
    ),
    "parameter bomb": (lambda: table(shape=(2**16,), axis=0, columns=256), LIMIT),
    "unknown codec of a plane": (lambda: index(array_record(blocks=((200, 1),)), payload=b"\0"), RECORD),
    "record cut in its blocks": (lambda: index(array_record()[:-1], payload=b"\0"), RECORD),
    "overlap: a block past the payload": (lambda: index(array_record(blocks=((0, 2),)), payload=b"\0"), "do not fill"),
    "hole: payload that nothing uses": (lambda: index(array_record(), payload=b"\0\0"), "do not fill"),
    "blocks of 4 GB each": (lambda: index(array_record(kind=2, blocks=((0, 2**32 - 1),) * 8)), "do not fill"),
    # rules
    "code of no weights": (lambda: code(shape=(0, 3)), RECORD),
    "step of 0": (lambda: code(step=0), RECORD),
    "symbols beyond 32767": (lambda: code(first=32767, step=1), RECORD),
    "steps beyond 32767": (lambda: code(first=0, step=65535, levels=256), RECORD),
    "zero beyond 256": (lambda: code(zero=257), RECORD),
    "axis beyond the rank": (lambda: code(axis=2), RECORD),
    "groups, none": (lambda: code(columns=0), RECORD),
    "more groups than weights": (lambda: code(columns=5), RECORD),
    "groups by the billion": (lambda: code(columns=2**32 - 1), RECORD),
    "neither zeros nor none": (lambda: code(has_zero=2), RECORD),
    "symbols beyond the codebook": (lambda: table(levels=3), RECORD),
    "symbols before the codebook": (lambda: table(first=-1), RECORD),
    "codebook of none": (lambda: table(columns=0), RECORD),
    "codebook of 257": (lambda: table(columns=257), RECORD),
    "trellis along an axis": (lambda: trellis(axis=0), RECORD),
    "trellis of two scales": (lambda: trellis(columns=2), RECORD),
    "trellis of one number": (lambda: trellis(shape=()), RECORD),
    "trellis symbol below -16383": (lambda: trellis(first=-16384, step=1), RECORD),
    "trellis symbol above 16383": (lambda: trellis(first=16382, step=2), RECORD),
    "trellis scale of 0": (lambda: trellis(0.0), SCALE),
    "trellis scale below 0": (lambda: trellis(-0.5), SCALE),
    "trellis scale that is NaN": (lambda: trellis(float("nan")), SCALE),
    "trellis scale that is infinite": (lambda: trellis(float("inf")), SCALE),
    # planes
    "symbol beyond the levels": (lambda: code(b"\x03" + HALF, levels=3, step=1), DAMAGED),
    "padding that is not zero": (lambda: code(b"\x85" + HALF), DAMAGED),
    "raw plane too short": (lambda: index(array_record(shape=(2,)), payload=b"\0"), DAMAGED),
    "mixed plane of an unknown law": (
        lambda: index(array_record(shape=(2,), blocks=((7, 1),)), payload=b"\x78"),
        DAMAGED,
    ),
    "mixed plane that ends in a zero": (
        lambda: index(array_record(shape=(2,), blocks=((7, 3),)), payload=b"\0\1\0"),
        DAMAGED,
    ),
    "plane of one level with bytes": (lambda: code(levels=1), DAMAGED),
    "truth that is 2": (lambda: index(array_record(kind=12), payload=b"\2"), "neither 0 nor 1"),
    # metadata
    "metadata, none": (lambda: metadata(b""), METADATA),
    "metadata not in UTF-8": (lambda: metadata(b"\xff\xfe{}"), NOT_UTF8),
    "a list": (lambda: metadata(b"[1, 2]"), METADATA),
    "a text": (lambda: metadata(b'"ab"'), METADATA),
    "a third key": (lambda: metadata(b'{"preprocessing": null, "metadata": {}, "__class__": 1}'), METADATA),
    "metadata of another type": (lambda: metadata(b'{"preprocessing": null, "metadata": []}'), METADATA),
    "deep nesting": (lambda: metadata(b'{"metadata":' + b"[" * 10**6), METADATA),
    "deep nesting of objects": (lambda: metadata(b'{"a":' * 10**5), METADATA),
    "integer of 10,000 digits": (
        lambda: metadata(b'{"preprocessing": null, "metadata": {"a": ' + b"9" * 10**4 + b"}}"),
        METADATA,
    ),
    "mean of 400 digits": (lambda: picture(mean=[10**400, 0, 0]), METADATA),
    "mean that is infinite": (lambda: picture(mean=[float("inf"), 0, 0]), METADATA),
    "mean that is NaN": (lambda: picture(mean=[float("nan"), 0, 0]), METADATA),
    "mean of 100,000 numbers": (lambda: picture(mean=[0] * 10**5), METADATA),
    "std of 0": (lambda: picture(std=[1, 0, 1]), METADATA),
    "picture of a million rows": (lambda: picture(height=10**6), METADATA),
    "picture of half a row": (lambda: picture(height=0.5), METADATA),
    "picture of minus one row": (lambda: picture(height=-1), METADATA),
    "channels in a list": (lambda: picture(channels=["RGB"]), METADATA),
    "an argument too many": (lambda: picture(__init__=1), METADATA),
    # labels
    "label without a tab": (lambda: Parts({"labels": b"cat\n"}).build(), LABEL),
    "label with two tabs": (lambda: Parts({"labels": b"n1\tcat\tdog\n"}).build(), LABEL),
    "label without an end": (lambda: Parts({"labels": b"n1\tcat"}).build(), LABEL),
    "labels not in UTF-8": (lambda: Parts({"labels": b"n1\t\xff\n"}).build(), NOT_UTF8),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused_cheaply(name: str) -> None:
    build, reason = ATTACKS[name]
    data = build()
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=reason):
            read(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < CHEAP + 3 * len(data)


def test_readme_lists_every_attack() -> None:
    text = (Path(__file__).parent / "README.md").read_text()
    assert [name for name in ATTACKS if f"| {name} |" not in text] == []


def test_helpers_build_valid_files() -> None:
    # else the attacks above would be refused for the wrong reason
    assert read(Parts().build()).tensors == {}
    assert read(Parts({"program": b"of any kind"}, version=2).build()).program == b"of any kind"
    assert read(index(array_record(), payload=b"\7")).tensors["w"] == np.array([7])
    np.testing.assert_array_equal(read(code()).weights()["w"], np.array([[0.5, -0.5], [0.5, -0.5]]))
    np.testing.assert_array_equal(read(table()).weights()["w"], np.zeros((2, 2)))
    np.testing.assert_array_equal(read(trellis()).weights()["w"], np.array([[1, -1], [1, -1]]))
    assert read(picture()).preprocessing is not None


def test_truncated_at_every_length() -> None:
    data = small()
    for length in range(len(data)):
        with pytest.raises(FormatError):
            read(data[:length])
        with pytest.raises(FormatError):
            read(with_checksum(data[:length]))


def test_every_bit_is_guarded_by_the_checksum() -> None:
    data = bytearray(small())
    for position in range(8 * len(data)):
        data[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError):
            inspect(bytes(data))
        data[position // 8] ^= 1 << position % 8
    assert inspect(bytes(data))


def test_mutations_with_a_right_checksum_raise_nothing_else() -> None:
    data, rng = small(), random.Random(0)
    refused = 0
    for _ in range(1000):
        try:
            inspect(mutate_parts(data, rng))
        except FormatError:
            refused += 1
    assert 500 < refused < 1000


def test_step_of_65535_is_valid() -> None:
    # the widest that the format allows: from -32768 to 32767
    np.testing.assert_array_equal(
        read(code(first=-32768, step=65535)).weights()["w"], np.array([[32767, -32768]] * 2) * np.float32(0.5)
    )


def test_widest_trellis_is_valid() -> None:
    # level 2 x 16383 in the first row; after an odd symbol the state is 2, so the second row has even levels too
    values = read(trellis(1.0, first=-16383, step=32766)).weights()["w"]
    assert values.tolist() == [[32766, -32766], [32766, -32766]]


def test_largest_claim_that_is_within_the_limit_decodes() -> None:
    # of one level, so that it costs no byte
    archive = read(code(HALF, shape=(1024, 1024), levels=1, blocks=((0, 0), *((0, 1),) * 4)))
    assert archive.tensors["w"].shape == (1024, 1024)


def test_scale_that_is_nan_is_kept_and_found_when_run() -> None:
    archive = read(code(b"\x05" + struct.pack("<f", float("nan"))))
    assert np.isnan(archive.weights()["w"]).all()
    real = small_archive()
    weights = {
        "conv.weight": np.full((6, 3, 3, 3), np.nan, np.float32),
        "conv.bias": real.weights()["conv.bias"],
    }
    with pytest.raises(ModelError, match="not finite"):
        replace(real, tensors=weights).runner(1)(np.ones((1, 3, 8, 8), np.float32))


def test_last_of_duplicate_keys_counts() -> None:
    text = b'{"preprocessing": null, "metadata": {"a": 1}, "metadata": {"a": 2, "a": 3}}'
    assert read(metadata(text)).metadata == {"a": 3}


def graph_archive(model: onnx.ModelProto | bytes) -> Archive:
    """The archive as it comes out of a file with this graph and the two weights that the small one needs."""
    graph = model if isinstance(model, bytes) else model.SerializeToString()
    real = small_archive()
    tensors = {name: real.tensors[name] for name in ("conv.weight", "conv.bias")}
    return read(write(replace(real, graph=graph, tensors=tensors)))


def refused_graph(model: onnx.ModelProto | bytes) -> None:
    archive = graph_archive(model)
    with pytest.raises(ModelError):
        archive.onnx()
    with pytest.raises(ModelError):
        archive.runner(1)


def test_real_graph_runs() -> None:
    # else the graphs below would be refused for the wrong reason
    assert graph_archive(small_graph()).runner(1)(np.ones((1, 3, 8, 8), np.float32)).shape == (1, 6)


@pytest.mark.parametrize("graph", [b"\xff" * 100, b"not a graph", b"\x80\x04.", b"\x0a" + b"\xff" * 9 + b"\x01"])
def test_graph_of_garbage(graph: bytes) -> None:
    refused_graph(graph)


def test_graph_that_is_empty() -> None:
    refused_graph(b"")


@pytest.mark.parametrize("shape", [(6, 3, 3, 2), (6, 3, 9), (162,), (2**31, 2**31, 4), (6, 3, 3, -3)])
def test_graph_whose_shape_disagrees(shape: tuple[int, ...]) -> None:
    model = small_graph()
    model.graph.initializer[0].ClearField("dims")
    model.graph.initializer[0].dims.extend(shape)
    refused_graph(model)


def test_graph_whose_type_disagrees() -> None:
    for number in (TensorProto.DOUBLE, TensorProto.STRING, 0, 99):
        model = small_graph()
        model.graph.initializer[0].data_type = number
        refused_graph(model)


def test_graph_that_wants_more_weights() -> None:
    model = small_graph()
    model.graph.initializer.add(name="missing", data_type=TensorProto.FLOAT, dims=[2])
    refused_graph(model)


def secret(tmp_path: Path) -> TensorProto:
    """A tensor that lies in another file: what a path like ../../etc/passwd would be."""
    (tmp_path / "secret").write_bytes(struct.pack("<6f", 1, 2, 3, 4, 5, 6))
    tensor = TensorProto(name="conv.bias", data_type=TensorProto.FLOAT, dims=[6])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    return tensor


def test_weight_in_another_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for location in ("secret", str(tmp_path / "secret"), "../../etc/passwd", "/etc/passwd"):
        model = small_graph()
        model.graph.initializer[1].CopyFrom(secret(tmp_path))
        model.graph.initializer[1].external_data[0].value = location
        refused_graph(model)


def test_constant_in_another_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["inner"], value=secret(tmp_path))],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, (6,))],
    )
    for node in (
        helper.make_node("Constant", [], ["constant"], value=secret(tmp_path)),
        helper.make_node("If", ["condition"], ["constant"], then_branch=branch, else_branch=branch),
    ):
        model = small_graph()
        model.graph.node.append(node)
        refused_graph(model)


def test_node_that_does_not_exist() -> None:
    model = small_graph()
    model.graph.node[1].op_type = "Exec"
    with pytest.raises(ModelError):
        graph_archive(model).runner(1)


def test_graph_that_goes_in_circles() -> None:
    model = small_graph()
    model.graph.node[0].input[0] = "output"
    with pytest.raises(ModelError):
        graph_archive(model).runner(1)
