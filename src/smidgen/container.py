"""A file's sections, read without NumPy: what ``smidgen.file`` and the quickest way to an answer share."""

from __future__ import annotations

import os
from typing import Any

from smidgen._core import ffi, lib
from smidgen.errors import FormatError, InputError

__all__ = ["REASONS", "open_header", "read_bytes", "read_section", "text_of", "unset"]

SCRATCH = 3 * 2**20
"""Bytes that decoding a section takes."""

unset = ffi.new_allocator(should_clear_after_alloc=False)
"""As ``ffi.new``, but of memory that nobody reads before it is written."""

REASONS = {
    lib.SMIDGEN_BAD_MAGIC: "not a smidgen file: it does not begin as one",
    lib.SMIDGEN_BAD_VERSION: "its version is not 1 or 2, those that this smidgen reads",
    lib.SMIDGEN_BAD_LENGTH: "truncated or extended: its length is not what its header says",
    lib.SMIDGEN_BAD_CHECKSUM: "damaged: the checksum does not match",
    lib.SMIDGEN_BAD_SECTION: "invalid: a section has an unknown codec or contradicts itself",
    lib.SMIDGEN_BAD_TENSOR: "invalid: a tensor's record contradicts itself",
    lib.SMIDGEN_BAD_LIMIT: "refused: it claims more data than a file of its size can hold",
    lib.SMIDGEN_BAD_PROGRAM: "invalid: its program contradicts itself or its tensors",
}


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file.

    Raises:
        InputError: it cannot be read, and why.
    """
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def open_header(data: bytes) -> Any:
    """The header of a file, checked: a ``smidgen_file``.

    Raises:
        FormatError: the bytes are not a valid file of this version.
    """
    header = ffi.new("smidgen_file *")
    status = lib.smidgen_open(ffi.from_buffer("uint8_t[]", data), len(data), header)
    if status:
        raise FormatError(REASONS[status])
    return header


def read_section(data: bytes, header: Any, section: int) -> bytes:
    """A section, decoded; any but the payload.

    Args:
        data: all bytes of the file.
        header: as ``open_header`` gives it.
        section: its number in the core, as ``lib.SMIDGEN_LABELS``.

    Raises:
        FormatError: its bytes are not what an encoder wrote.
    """
    out, scratch = unset("uint8_t[]", header.sections[section].size), unset("uint64_t[]", SCRATCH // 8)
    if lib.smidgen_read_section(ffi.from_buffer("uint8_t[]", data), header, section, out, scratch):
        raise FormatError("damaged data: a section is not what an encoder wrote")
    return bytes(ffi.buffer(out))


def text_of(data: bytes, what: str) -> str:
    """The text in UTF-8.

    Raises:
        FormatError: it is not; ``what`` is what the error calls it.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FormatError(f"invalid: {what} is not UTF-8") from None
