"""Compression in one call: a module and a plan in, an archive out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smidgen.archive import Archive, Label, Preprocessing
from smidgen.plan import Plan
from smidgen.read import Model, to_archive
from smidgen.transform import transform

if TYPE_CHECKING:
    from torch.nn import Module

__all__ = ["compress", "compress_model"]
