"""The families of compression in training. A new one is one file and one line in ``FAMILIES``."""

from __future__ import annotations

from collections.abc import Mapping

from smidgen.train.families.binarize import Binarize
from smidgen.train.families.cluster import Cluster
from smidgen.train.families.cut import Cut
from smidgen.train.families.fire import Fire
from smidgen.train.families.prune import Prune
from smidgen.train.families.quantize import Quantize
from smidgen.train.families.squeeze import Squeeze
from smidgen.train.families.train import Train
from smidgen.train.family import Family

__all__ = ["FAMILIES"]

FAMILIES: Mapping[str, type[Family]] = {
    "Train": Train,
    "Prune": Prune,
    "Cluster": Cluster,
    "Squeeze": Squeeze,
    "Quantize": Quantize,
    "Binarize": Binarize,
    "Cut": Cut,
    "Fire": Fire,
}
