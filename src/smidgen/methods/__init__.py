"""The methods: each is one file here and one line in ``METHODS``."""

from __future__ import annotations

from smidgen.methods.base import Method
from smidgen.methods.binarize import Binarize
from smidgen.methods.cluster import Cluster
from smidgen.methods.prune import Prune
from smidgen.methods.quantize import Quantize
from smidgen.methods.squeeze import Squeeze

__all__ = ["METHODS", "Binarize", "Cluster", "Method", "Prune", "Quantize", "Squeeze"]

METHODS: dict[str, type[Method]] = {
    "Binarize": Binarize,
    "Cluster": Cluster,
    "Prune": Prune,
    "Quantize": Quantize,
    "Squeeze": Squeeze,
}
"""What a plan may name."""
