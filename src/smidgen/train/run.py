"""A recipe carried out: stage after stage, a file after each."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from smidgen import distributed
from smidgen.archive import Archive, Label, Preprocessing, open_archive
from smidgen.arrange import arranged, bias_names
from smidgen.code import Affine, Code
from smidgen.errors import InputError, RecipeError
from smidgen.file import replace_file
from smidgen.methods import Quantize
from smidgen.pipeline import with_program
from smidgen.read import call, from_module, read_model, to_module
from smidgen.reporter import SILENT, Reporter
from smidgen.run.runner import Runner
from smidgen.squeezer import rounded
from smidgen.train.families.train import Train
from smidgen.train.fold import fit_
from smidgen.train.loop import Epoch, Lesson, accuracy, best_device, inputs, learn
from smidgen.train.pictures import Labelled, Pictures, pictures_in
from smidgen.train.recipe import Recipe, Stage
from smidgen.zoo import ZOO, build

__all__ = ["Outcome", "Result", "train"]

SIDE = 32
"""Height and width of pictures where neither the network nor its file says what they are."""

SHOWN = 100
"""Pictures that show what activations are."""

BIASES = Quantize(bits=8)


@dataclass(frozen=True)
class Result:
    """What a stage led to.

    Args:
        stage: its name.
        method: what it did.
        file: where the network is.
        bytes: of this file, everything included.
        accuracy: percent of the measuring pictures that the file names right, in float32.
        native: the same by its program, in integers; None if it has none.
        times_smaller: than float32 weights of the network at the beginning.
        bits_per_weight: of the file, for each of those weights.
        seconds: of training.
    """

    stage: str
    method: str
    file: str
    bytes: int
    accuracy: float
    native: float | None
    times_smaller: float
    bits_per_weight: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a recipe led to.

    Args:
        weights: parameters of the network at the beginning.
        start: percent that it names right then; None for new random weights.
        pictures: how many that is measured on.
        where: which pictures these are.
        results: of each stage.
        epochs: of all stages.
    """

    weights: int
    start: float | None
    pictures: int
    where: str
    results: tuple[Result, ...]
    epochs: tuple[Epoch, ...]

    def described(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "weights": self.weights,
            "float32_bytes": 4 * self.weights,
            "start": self.start,
            "pictures": self.pictures,
            "where": self.where,
            "stages": [asdict(result) for result in self.results],
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }


def train(name: str, data: Path, out: Path, reporter: Reporter = SILENT) -> Outcome:
    """Trains a network through the stages of a recipe.

    A run that was stopped goes on after its last epoch when the same is called again, and ends with the same bytes.

    Args:
        name: of a recipe: a file, or one that ships with smidgen.
        data: pictures, see ``smidgen.train.pictures.pictures_in``.
        out: a folder: for each stage a ``.smidgen`` file, and its state before it was compressed; ``curves.json``.
        reporter: is told what happens.

    Raises:
        RecipeError: the recipe cannot be read, does not fit, or is not the one that ``out`` was begun with.
        InputError: the pictures cannot be used, or ``out`` cannot be written.
        ModelError: the network cannot be trained, or training diverged.
    """
    text = Recipe.read(name)
    recipe = Recipe.parse(text, name)
    return _Run(recipe, *_opened(recipe, data), _begun(out, text), reporter).outcome()


def _begun(out: Path, text: str) -> Path:
    """The folder, with the recipe in it."""
    known = out / "recipe.toml"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if known.exists() and known.read_text(encoding="utf-8") != text:
            raise RecipeError(f"{out}: was begun with another recipe (see {known}); give another folder")
        if distributed.is_first():
            replace_file(known, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
    return out


def _opened(recipe: Recipe, data: Path) -> tuple[nn.Module, Preprocessing, Pictures]:
    """The network, how pictures become its input, and the pictures."""
    module, preprocessing, labels = _module(recipe)
    shape = getattr(module, "input_shape", (3, SIDE, SIDE))
    size = (preprocessing.height, preprocessing.width) if preprocessing else (int(shape[1]), int(shape[2]))
    resample = preprocessing.resample if preprocessing else "bilinear"
    pictures = pictures_in(data, labels, size, resample, recipe.seed)
    return module, preprocessing or _measured(pictures.training, size), pictures


def _module(recipe: Recipe) -> tuple[nn.Module, Preprocessing | None, tuple[Label, ...]]:
    if recipe.fresh or (recipe.network in ZOO and recipe.arguments):
        if recipe.network not in ZOO:
            raise RecipeError(f"network = {recipe.network!r}: fresh and arguments are for the zoo: {', '.join(ZOO)}")
        if not recipe.fresh:
            raise RecipeError("arguments are for a network with new weights; say fresh = true")
        torch.manual_seed(recipe.seed)
        return build(recipe.network, **recipe.arguments), None, ()
    return _trained(recipe.network)


def _trained(name: str) -> tuple[nn.Module, Preprocessing | None, tuple[Label, ...]]:
    """A network with its weights, how pictures become its input, and its classes, as far as it says."""
    if ":" in name:
        module = call(name)
        return module, getattr(module, "preprocessing", None), tuple(getattr(module, "labels", ()))
    archive = read_model(name)
    if "zoo" not in archive.metadata:
        raise RecipeError(f"{name}: what is read as a graph cannot be trained; name a function that makes the module")
    module = to_module(archive)
    vars(module)["zoo"] = dict(archive.metadata["zoo"])
    return module, archive.preprocessing, archive.labels


def _measured(pictures: Labelled, size: tuple[int, int]) -> Preprocessing:
    """That brings the training pictures to a mean of 0 and a deviation of 1 in each channel."""
    seen = pictures[torch.arange(min(len(pictures), 10_000))].double()
    mean, std = seen.mean((0, 2, 3)), seen.std((0, 2, 3)).clamp(min=1.0)
    return Preprocessing(*size, "RGB", *(tuple(round(float(v), 2) for v in each) for each in (mean, std)))  # type: ignore[arg-type]


class _Run:
    """One run of a recipe."""

    def __init__(
        self,
        recipe: Recipe,
        module: nn.Module,
        preprocessing: Preprocessing,
        pictures: Pictures,
        out: Path,
        reporter: Reporter,
    ) -> None:
        self.recipe, self.pictures, self.preprocessing, self.out, self.reporter = (
            *(recipe, pictures, preprocessing, out, reporter),
        )
        self.device = best_device()
        self.module = module.to(self.device)
        self.zoo = getattr(module, "zoo", None)
        self.weights = sum(p.numel() for p in module.parameters())
        self.named_teacher = _trained(recipe.teacher)[0].to(self.device).eval() if recipe.teacher else None
        self.teacher = None if recipe.fresh else self._as_it_is()
        self.start: float | None = None
        self.epochs: list[Epoch] = []
        self.results: list[Result] = []

    def outcome(self) -> Outcome:
        """Carries out what is left to do."""
        known = distributed.broadcast(self._known())
        if not self.recipe.fresh:
            self.start = known.get("start") or accuracy(self.module, self.pictures.measuring, self.preprocessing)
            self.reporter.say(
                f"before: {4 * self.weights:,} bytes of float32, {self.start:.2f} % of "
                f"{len(self.pictures.measuring):,} pictures ({self.pictures.where})"
            )
        finished = {result["stage"]: Result(**result) for result in known.get("stages", [])}
        self.epochs = [Epoch(**epoch) for epoch in known.get("epochs", [])]
        for number, stage in enumerate(self.recipe.stages, 1):
            self._stage(number, stage, finished.get(stage.name))
        return self._outcome()

    def _outcome(self) -> Outcome:
        return Outcome(
            self.weights, self.start, len(self.pictures.measuring), self.pictures.where, tuple(self.results),
            tuple(self.epochs),
        )  # fmt: skip

    def _known(self) -> dict[str, Any]:
        """What an earlier run has written."""
        path = self.out / "curves.json"
        if not path.exists():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{path}: cannot be read; move it away to begin anew") from None
        return dict(found)

    def _stage(self, number: int, stage: Stage, finished: Result | None) -> None:
        """One stage, or the state that it led to when it was done before."""
        base = self.out / f"{number}-{stage.name}"
        state = base.with_suffix(".safetensors")
        stage.family.restructure(self.module)
        if finished is not None and state.exists():
            self._load(state)
            self._finished(stage, finished)
            return
        self._learn(number, stage)
        codes = stage.family.finish(self.module)
        if distributed.is_first():
            tensors = {name: t.detach().cpu().contiguous().clone() for name, t in self.module.state_dict().items()}
            replace_file(state, lambda temporary: save_file(tensors, temporary))
            result = self._written(stage, codes, base.with_suffix(".smidgen"))
            self._finished(stage, result)
            self._keep(self.epochs)
            (self.out / "checkpoint.safetensors").unlink(missing_ok=True)
            self.reporter.say(described(result))
        distributed.broadcast(None)  # nobody goes on before the files are there
        if not distributed.is_first():
            self._finished(stage, None)

    def _finished(self, stage: Stage, result: Result | None) -> None:
        """Keeps what a stage led to; a network that is as large as before teaches what follows."""
        if result is not None:
            self.results.append(result)
        if isinstance(stage.family, Train):
            self.teacher = self._as_it_is()

    def _as_it_is(self) -> nn.Module:
        return copy.deepcopy(self.module).eval()

    def _load(self, state: Path) -> None:
        try:
            fit_(self.module, {name: t.to(self.device) for name, t in load_file(state).items()})
        except (OSError, SafetensorError) as error:
            raise InputError(f"{state}: cannot be read: {error}") from None

    def _learn(self, number: int, stage: Stage) -> None:
        shown = self.pictures.training[torch.arange(min(SHOWN, len(self.pictures.training)))]
        stage.family.begin(self.module, inputs(shown, self.preprocessing, self.device))
        seed = (self.recipe.seed, number)
        teacher = self.named_teacher or (None if isinstance(stage.family, Train) else self.teacher)
        checkpoint = self.out / "checkpoint.safetensors"
        lesson = Lesson(self.pictures, self.preprocessing, teacher, seed, checkpoint)
        length = stage.schedule.epochs * len(self.pictures.training)
        with self.reporter.progress(length, f"{stage.name}, {stage.schedule.epochs} epochs") as advance:
            self.epochs = learn(self.module, stage, lesson, self.epochs, advance, self._keep)

    def _keep(self, epochs: list[Epoch]) -> None:
        """Writes what is known so far."""
        self.epochs = epochs
        text = json.dumps(self._outcome().described(), indent=1)
        replace_file(self.out / "curves.json", lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def _written(self, stage: Stage, codes: Mapping[str, Code], path: Path) -> Result:
        """The file of a stage, and what it is worth."""
        archive = self._archive(codes, isinstance(stage.family, Train))
        size = archive.save(path)
        opened = open_archive(path)
        native = named_right(opened.runner(engine="native"), self.pictures.measuring) if opened.program else None
        seconds = sum(epoch.seconds for epoch in self.epochs if epoch.stage == stage.name)
        return Result(
            stage.name, type(stage.family).__name__, path.name, size,
            named_right(opened.runner(engine="onnxruntime"), self.pictures.measuring), native,
            4 * self.weights / size, 8 * size / self.weights, round(seconds, 1),
        )  # fmt: skip

    def _archive(self, codes: Mapping[str, Code], rebuilt: bool) -> Archive:
        """The network as it is now, with codes in place of weights; one of the zoo so that it can be rebuilt, if it
        should."""
        plain = copy.deepcopy(self.module).cpu().eval()
        vars(plain).pop("zoo", None)
        shape = (3, self.preprocessing.height, self.preprocessing.width)
        archive = from_module(plain, shape, self.preprocessing, self.pictures.labels)
        if rebuilt and self._is_of_the_zoo(plain):
            archive = replace(archive, tensors={**archive.tensors, **codes})
            return replace(archive, metadata={"zoo": dict(self.zoo or {})})
        archive = arranged(replace(archive, tensors={**archive.tensors, **codes}))
        if codes:
            archive = replace(archive, tensors=_shortened(archive))
        shown = self.pictures.training[torch.arange(min(SHOWN, len(self.pictures.training)))]
        items = [np.ascontiguousarray(picture.permute(1, 2, 0).numpy()) for picture in shown]
        return with_program(archive, items, self.reporter)

    def _is_of_the_zoo(self, plain: nn.Module) -> bool:
        """Whether the class that it was built from still has these weights."""
        if self.zoo is None:
            return False
        with torch.device("meta"):
            built = build(**self.zoo).state_dict()
        return {n: t.shape for n, t in built.items()} == {n: t.shape for n, t in plain.state_dict().items()}


def _shortened(archive: Archive) -> dict[str, Any]:
    """Tensors with biases of 8 bits, and scales of few."""
    tensors = dict(archive.tensors)
    codes = [name for name, tensor in tensors.items() if isinstance(tensor, Code)]
    for name in bias_names(archive, codes):
        bias = tensors[name]
        if not isinstance(bias, Code) and bias.dtype == np.float32:
            tensors[name] = BIASES(bias)
    for name in codes:
        code = tensors[name]
        if isinstance(code, Code) and isinstance(code.rule, Affine) and code.rule.axis is not None:
            tensors[name] = Code(code.symbols, replace(code.rule, scale=rounded(code.rule.scale)))
    return tensors


def named_right(runner: Runner, pictures: Labelled) -> float:
    """Percent of the pictures that a file names right."""
    assert runner.preprocessing is not None
    right = 0
    for places in torch.split(torch.arange(len(pictures)), SHOWN):
        x = inputs(pictures[places], runner.preprocessing, torch.device("cpu")).contiguous()
        scores = runner(np.asarray(x.numpy(), np.float32, order="C"))
        right += int((scores.argmax(1) == pictures.classes[places].numpy()).sum())
    return 100 * right / len(pictures)


def described(result: Result) -> str:
    """One line about a stage."""
    native = f", {result.native:.2f} % in integers" if result.native is not None else ""
    return (
        f"{result.stage}: {result.bytes:,} bytes, 1/{result.times_smaller:.1f} of float32, "
        f"{result.bits_per_weight:.2f} bits per weight, {result.accuracy:.2f} %{native}"
    )
