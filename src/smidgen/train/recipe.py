"""A recipe: which network, and the stages that it is trained through, written as TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from smidgen.errors import PlanError, RecipeError
from smidgen.train.families import FAMILIES
from smidgen.train.family import Family

__all__ = ["Recipe", "Schedule", "Stage"]

KEYS = {
    "network": str,
    "stage": list,
    "arguments": dict,
    "fresh": bool,
    "seed": int,
    "teacher": str | list,
    "weights": str,
}
"""Keys of a recipe besides those of a schedule, which are for all stages that do not say otherwise."""

SHIPPED = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the weights are trained.

    Args:
        epochs: passes over the pictures; 0 to train nothing.
        batch: pictures for each update, over all processes.
        optimizer: "sgd", with Nesterov's momentum of 0.9, or "adam".
        learning_rate: the largest; a stage that does not say has that of its family. It rises to that in a straight
            line, then falls to zero as a half cosine.
        warmup: the part of all updates in which it rises, 0 to 1.
        decay: of the weights (those of one axis, such as biases, are left alone), as a part of the learning rate.
        distill: part of the loss that is the divergence from the uncompressed network's answers, 0 to 1; the rest
            is the cross entropy with the true class. A stage "Train" distils only where the recipe names a teacher.
        temperature: at which these answers are compared.
        shift: how far pictures are moved, in pixels at most.
        mirror: whether half of them are mirrored.
        erase: side of a square in each picture that is made grey, in pixels; 0 for none.
        mix: two pictures of a batch are laid over each other, by a part that is drawn from the beta distribution with
            this parameter twice; so are their classes. 0 for not.

    Raises:
        RecipeError: a value that is not allowed.

    Source:
        Loshchilov and Hutter, arXiv 1608.03983, for the cosine; Hinton et al., arXiv 1503.02531, for distillation;
        DeVries and Taylor, arXiv 1708.04552, for squares; Zhang et al., arXiv 1710.09412, for mixing.
    """

    epochs: int = 10
    batch: int = 128
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.02
    warmup: float = 0.1
    decay: float = 5e-4
    distill: float = 0.7
    temperature: float = 4.0
    shift: int = 4
    mirror: bool = True
    erase: int = 0
    mix: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (("epochs", 0, 100_000), ("batch", 1, 65_536), ("shift", 0, 1_000), ("erase", 0, 1_000)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise RecipeError(f"{name}={value!r}, but it must be a whole number in {low}..{high}")
        tops = {"learning_rate": 1e3, "temperature": 1e3, "mix": 100, "warmup": 1, "decay": 1, "distill": 1}
        for name, top in tops.items():
            value = getattr(self, name)
            least = 1e-12 if name in ("learning_rate", "temperature") else 0
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= top:
                lowest = "above 0" if least else "from 0 on"
                raise RecipeError(f"{name}={value!r}, but it must be a number {lowest}, up to {top:g}")
        if self.optimizer not in ("sgd", "adam"):
            raise RecipeError(f"optimizer={self.optimizer!r}, but it must be sgd or adam")
        if not isinstance(self.mirror, bool):
            raise RecipeError(f"mirror={self.mirror!r}, but it must be true or false")


@dataclass(frozen=True)
class Stage:
    """One stage: what is done to the weights, and how they are trained meanwhile.

    Args:
        name: of its files.
        family: what is done to the weights.
        schedule: how they are trained.
    """

    name: str
    family: Family
    schedule: Schedule


@dataclass(frozen=True)
class Recipe:
    """A network and the stages that it goes through.

    Args:
        network: one of the zoo, a ``.smidgen`` file that was made from one, or ``package.module:function`` for a
            function without arguments that returns a ``torch.nn.Module``.
        stages: in order, at least one.
        arguments: of a network of the zoo.
        fresh: a network of the zoo starts from new random weights, and learns from classes alone without a teacher.
        teachers: the networks whose answers are distilled in every stage, named as ``network`` is, of several the mean
            of their scores; by default the network itself before it was made smaller: as it is at the beginning, or
            after the last stage "Train". In TOML ``teacher``, one name or a list.
        weights: a ``N-name.safetensors`` that a recipe for the same network left, to start from.
        seed: of all draws.

    Raises:
        RecipeError: no stages, or two of one name.

    Example:
        >>> recipe = Recipe.parse('network = "squeezenet32"\\n[[stage]]\\nmethod = "Prune"\\ndensity = 0.2')
        >>> recipe.stages[0].name, recipe.stages[0].family.density, recipe.stages[0].schedule.epochs
        ('prune', 0.2, 10)
    """

    network: str
    stages: tuple[Stage, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fresh: bool = False
    seed: int = 0
    teachers: tuple[str, ...] = ()
    weights: str | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise RecipeError("no [[stage]]; a recipe has at least one")
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise RecipeError(f"two stages are called {name!r}; give them names of their own (name = ...)")

    @classmethod
    def parse(cls, text: str, origin: str = "recipe.toml") -> Recipe:
        """The recipe that a TOML text writes; ``origin`` names the text in errors.

        Raises:
            RecipeError: not TOML, an unknown or missing key, or a value that is not allowed.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"{origin}: not valid TOML: {error}") from None
        common = sorted(f.name for f in fields(Schedule))
        _check_keys(document, (*KEYS, *common), origin)
        for key, kind in KEYS.items():
            if key in document and (
                not isinstance(document[key], kind) or (kind is int and isinstance(document[key], bool))
            ):
                hint = "; write [[stage]]" if key == "stage" else ""
                raise RecipeError(f"{origin}: {key}={document[key]!r} is no {getattr(kind, '__name__', kind)}{hint}")
        if not 0 <= document.get("seed", 0) < 2**31:
            raise RecipeError(f"{origin}: seed={document['seed']}, but it must be in 0..{2**31 - 1}")
        if "network" not in document:
            raise RecipeError(f'{origin}: no network; write network = "squeezenet32", for instance')
        entries = document.get("stage", [])
        if not all(isinstance(entry, dict) for entry in entries):
            raise RecipeError(f"{origin}: stages must be written as [[stage]] tables")
        shared = {key: document[key] for key in document if key in common}
        try:
            return cls(
                document["network"],
                tuple(_stage({**shared, **entry}, f"stage {number}") for number, entry in enumerate(entries, 1)),
                document.get("arguments", {}),
                document.get("fresh", False),
                document.get("seed", 0),
                _teachers(document["teacher"]) if "teacher" in document else (),
                document.get("weights"),
            )
        except RecipeError as error:
            raise RecipeError(f"{origin}: {error}") from None

    @classmethod
    def read(cls, name: str) -> str:
        """The text of the recipe in the file ``name``, or of the one of that name that ships with smidgen.

        Raises:
            RecipeError: there is neither, or it cannot be read.
        """
        path = SHIPPED / f"{name}.toml" if name in cls.shipped() else Path(name)
        if not path.exists() and path.suffix != ".toml":
            close = get_close_matches(name, cls.shipped(), 1)
            hint = f"; did you mean {close[0]!r}?" if close else ";"
            raise RecipeError(f"no recipe {name!r}{hint} it is a file, or one of {', '.join(cls.shipped())}")
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise RecipeError(f"{path}: not a text file in UTF-8") from None

    @staticmethod
    def shipped() -> list[str]:
        """The names of the recipes that ship with smidgen."""
        return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def _teachers(given: str | Sequence[object]) -> tuple[str, ...]:
    """One name, or several."""
    names = (given,) if isinstance(given, str) else tuple(given)
    if not names or not all(isinstance(name, str) for name in names):
        raise RecipeError(f"teacher={given!r}, but it must be a name or a list of names")
    return tuple(map(str, names))


def _stage(entry: Mapping[str, Any], where: str) -> Stage:
    method = entry.get("method", "Train")
    if not isinstance(method, str) or method not in FAMILIES:
        hint = f"did you mean {method.title()!r}? T" if str(method).title() in FAMILIES else "t"
        raise RecipeError(f"{where}: unknown method {method!r}; {hint}here are {', '.join(FAMILIES)}")
    family = FAMILIES[method]
    own, common = [f.name for f in fields(family)], [f.name for f in fields(Schedule)]
    _check_keys(
        entry, ("name", "method", *own, *common), where if "method" in entry else f'{where}, without a method "Train"'
    )
    name = entry.get("name", method.lower())
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
        raise RecipeError(f"{where}: name={name!r}, but it names files: letters, digits, - and _")
    missing = [f.name for f in fields(family) if f.default is MISSING and f.name not in entry]
    if missing:
        raise RecipeError(f"{where}: {method} needs {missing[0]}")
    try:
        return Stage(
            name,
            family(**{key: _frozen(entry[key]) for key in own if key in entry}),
            Schedule(**{"learning_rate": family.LEARNING_RATE, **{key: entry[key] for key in common if key in entry}}),
        )
    except (PlanError, RecipeError) as error:
        raise RecipeError(f"{where} ({name}): {error}") from None


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            close = get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise RecipeError(f"{where}: unknown key {key!r}; {hint}")
