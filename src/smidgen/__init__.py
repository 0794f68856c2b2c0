"""smidgen: a trained network and a plan in, one small file that runs by itself out.

    import smidgen

    archive = smidgen.compress(module, plan="small")     # torch.nn.Module → Archive
    archive.save("small.smidgen")
    runner = smidgen.open("small.smidgen").runner() # from here on, no PyTorch
    runner.recognize("cat.jpg")

Names are loaded when first used: opening and running a file never imports PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smidgen.api import compress
    from smidgen.archive import Archive, Label, Preprocessing
    from smidgen.archive import open_archive as open  # it is called smidgen.open
    from smidgen.code import Affine, Code, Stats, Table, Trellis
    from smidgen.errors import FormatError, InputError, LimitError, ModelError, PlanError, SmidgenError, WeightError
    from smidgen.methods import Binarize, Cluster, Prune, Quantize, Squeeze
    from smidgen.plan import Plan
    from smidgen.tradeoff import sweep

    __version__: str

__all__ = [
    "Affine",
    "Archive",
    "Binarize",
    "Cluster",
    "Code",
    "FormatError",
    "InputError",
    "Label",
    "LimitError",
    "ModelError",
    "Plan",
    "PlanError",
    "Preprocessing",
    "Prune",
    "Quantize",
    "SmidgenError",
    "Squeeze",
    "Stats",
    "Table",
    "Trellis",
    "WeightError",
    "compress",
    "open",
    "sweep",
]

_ROOMS = {
    "smidgen.api": ("compress",),
    "smidgen.archive": ("Archive", "Label", "Preprocessing"),
    "smidgen.code": ("Affine", "Code", "Stats", "Table", "Trellis"),
    "smidgen.errors": (
        "FormatError",
        "InputError",
        "LimitError",
        "ModelError",
        "PlanError",
        "SmidgenError",
        "WeightError",
    ),
    "smidgen.methods": ("Binarize", "Cluster", "Prune", "Quantize", "Squeeze"),
    "smidgen.plan": ("Plan",),
    "smidgen.tradeoff": ("sweep",),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("smidgen")
    if name == "open":
        return import_module("smidgen.archive").open_archive
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(room), name)
    raise AttributeError(f"module 'smidgen' has no attribute {name!r}")
