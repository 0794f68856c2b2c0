"""A recipe carried out: stage after stage, a file after each."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from smidgen import distributed
from smidgen.archive import open_archive
from smidgen.code import Code
from smidgen.disk import alone_in, remove_torn, replace_file
from smidgen.errors import InputError, ModelError, RecipeError
from smidgen.reporter import SILENT, Reporter
from smidgen.train.families.train import Train
from smidgen.train.family import Family
from smidgen.train.files import archive_of, named_right, rebuilt_archive_of
from smidgen.train.fold import fit_
from smidgen.train.loop import Epoch, Lesson, Teacher, accuracy, best_device, inputs, learn
from smidgen.train.network import Given, check, check_graph, given, measured, named, seeded, shown
from smidgen.train.pictures import Pictures, pictures_in
from smidgen.train.recipe import Recipe, Stage

__all__ = ["Outcome", "Result", "described", "train"]

SIDE = 32
"""Height and width of pictures where neither the network nor its file says what they are."""

RECIPE, CURVES, CHECKPOINT = "recipe.toml", "curves.json", "checkpoint.safetensors"


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
        remark: what was reached, where that is not plain.
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
    remark: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a recipe led to.

    Args:
        weights: parameters of the network at the beginning.
        start: percent that it names right then; None for new random weights.
        pictures: how many that is measured on.
        where: which pictures these are.
        begun_with: which network and pictures, in short.
        results: of each stage.
        epochs: of all stages.
    """

    weights: int
    start: float | None
    pictures: int
    where: str
    begun_with: str
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
            "begun_with": self.begun_with,
            "stages": [asdict(result) for result in self.results],
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }


class _Known(NamedTuple):
    """What an earlier run of the recipe has finished."""

    begun_with: str
    start: float | None
    epochs: list[Epoch]
    results: dict[str, Result]


@contextmanager
def _of(stage: Stage) -> Iterator[None]:
    """Says in errors which stage they are of."""
    try:
        yield
    except (RecipeError, ModelError) as error:
        raise type(error)(f"stage {stage.name}: {error}") from None


def _fingerprint(module: nn.Module, pictures: Pictures) -> str:
    """Which network and which pictures, without their values: those of a function may be drawn anew each time."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]
    counted = [torch.bincount(p.classes).tolist() for p in (pictures.training, pictures.measuring)]
    names = [label.id for label in pictures.labels]
    return hashlib.sha256(repr((shapes, counted, names, pictures.training.size)).encode()).hexdigest()[:16]


def train(
    name: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    reporter: Reporter = SILENT,
) -> Outcome:
    """Trains a network through the stages of a recipe.

    A run that was stopped goes on after its last epoch when the same is called again, and ends with the same bytes.

    Args:
        name: of a recipe: a file, or one that ships with smidgen.
        data: pictures, see ``smidgen.train.pictures.pictures_in``.
        out: a folder: for each stage a ``.smidgen`` file, and its state before it was compressed; ``curves.json``.
        reporter: is told what happens.

    Raises:
        RecipeError: the recipe cannot be read, does not fit, or is not the one that ``out`` was begun with.
        InputError: the pictures cannot be used, ``out`` cannot be written, or another run is at work in it.
        ModelError: the network cannot be trained, or training diverged.
    """
    text, data, out = Recipe.read(str(name)), Path(data), Path(out)
    recipe = Recipe.parse(text, str(name))
    before = _before(out)
    network = given(recipe)
    shape = getattr(network.module, "input_shape", (3, SIDE, SIDE))
    told = network.preprocessing
    size = (told.height, told.width) if told else (int(shape[1]), int(shape[2]))
    pictures = pictures_in(data, network.labels, size, told.resample if told else "bilinear", recipe.seed)
    reporter.say(
        f"{len(pictures.training):,} pictures of {len(pictures.labels)} classes to train on, "
        f"{len(pictures.measuring):,} to measure on ({pictures.where}), as {size[0]} x {size[1]} pixels"
    )
    unmeasured = set(range(len(pictures.labels))) - set(pictures.measuring.classes.tolist())
    if unmeasured:
        missing = ", ".join(repr(pictures.labels[index].name) for index in sorted(unmeasured)[:5])
        reporter.say(f"none to measure on of {missing}: accuracy is that of the other classes")
    network = replace(network, preprocessing=told or measured(pictures.training, size))
    teachers = [named(name) for name in recipe.teachers]
    with alone_in(out) if distributed.is_first() else nullcontext():
        if distributed.is_first():
            stages = [base.with_suffix(end) for base in _bases(recipe, out) for end in (".smidgen", ".safetensors")]
            for file in (*stages, out / CHECKPOINT, out / CURVES, out / RECIPE):
                remove_torn(file)
        run = _Run(recipe, network, pictures, out, reporter, teachers)
        run.take_up(before, text)
        return run.outcome()


def _bases(recipe: Recipe, out: Path) -> list[Path]:
    """The files of each stage, without their endings."""
    return [out / f"{number}-{stage.name}" for number, stage in enumerate(recipe.stages, 1)]


def _before(out: Path) -> Recipe | None:
    """The recipe that a folder was begun with."""
    known = out / RECIPE
    try:
        out.mkdir(parents=True, exist_ok=True)
        return Recipe.parse(known.read_text(encoding="utf-8"), str(known)) if known.exists() else None
    except FileExistsError:
        raise InputError(f"{out}: is a file, not a folder") from None
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{known}: not a text file in UTF-8; give another folder") from None


class _Run:
    """One run of a recipe."""

    def __init__(
        self,
        recipe: Recipe,
        network: Given,
        pictures: Pictures,
        out: Path,
        reporter: Reporter,
        teachers: Sequence[Given],
    ) -> None:
        assert network.preprocessing is not None
        self.recipe, self.pictures, self.out, self.reporter = recipe, pictures, out, reporter
        self.preprocessing, self.module = network.preprocessing, network.module
        self._check(network, teachers)
        self.device = best_device()
        self.module.to(self.device)
        self.zoo = getattr(network.module, "zoo", None)
        self.weights = sum(p.numel() for p in self.module.parameters())
        self.named_teachers = [
            Teacher(each.module.to(self.device).eval(), each.preprocessing or self.preprocessing) for each in teachers
        ]
        self.teacher = None if recipe.fresh else self._as_it_is()
        self.begun_with = _fingerprint(network.module, pictures)
        self.start: float | None = None
        self.epochs: list[Epoch] = []
        self.results: list[Result] = []
        self.known = distributed.broadcast(self._known())

    def take_up(self, before: Recipe | None, text: str) -> None:
        """Looks whether what an earlier run has finished is the beginning of this recipe. Where a stage is left to do,
        all are tried at once, untrained, so that what cannot be is said now.

        Raises:
            RecipeError: it is not, or a stage cannot be.
        """
        done = self.known.results
        if before is not None and (done or (self.out / CHECKPOINT).exists()):
            if replace(before, stages=self.recipe.stages) != self.recipe or self.known.begun_with not in (
                "",
                self.begun_with,
            ):
                raise RecipeError(
                    f"{self.out}: was begun with another recipe, network or pictures (see {self.out / RECIPE}); give "
                    "another folder"
                )
            for place, stage in enumerate(before.stages):
                same = place < len(self.recipe.stages) and self.recipe.stages[place] == stage
                if stage.name in done and not same:
                    raise RecipeError(
                        f"{self.out}: its stage {stage.name!r} was finished with other settings; give another folder"
                    )
                if stage.name not in done and not same and distributed.is_first():
                    (self.out / CHECKPOINT).unlink(missing_ok=True)
        if any(stage.name not in done for stage in self.recipe.stages):
            self._rehearse()
        if distributed.is_first():
            replace_file(self.out / RECIPE, lambda temporary: temporary.write_bytes(text.encode()))

    def _rehearse(self) -> None:
        """Tries all stages, and says where one undoes what another did."""
        coded: dict[str, str] = {}
        module = copy.deepcopy(self.module)
        seen = inputs(shown(self.pictures.training), self.preprocessing, self.device)
        for number, stage in enumerate(self.recipe.stages, 1):
            with _of(stage):
                seeded(self.recipe.seed, number)
                stage.family.restructure(module)
                module.to(self.device)
                stage.family.begin(module, seen, self._before(number))
                module.to(self.device)
                codes = stage.family.finish(module)
            undone = [name for name in coded if name not in codes]
            if undone:
                what = "leaves out" if codes else "makes floats again of"
                self.reporter.say(
                    f"{stage.name}: {what} weights that {coded[undone[0]]} made few values of, such as {undone[0]}; "
                    + ("in its file they are floats" if codes else f"put it before {coded[undone[0]]}")
                )
            # what Train writes in few bits it trains as floats
            coded = {} if isinstance(stage.family, Train) else dict.fromkeys(codes, stage.name)

    def _before(self, number: int) -> Family | None:
        """What the stage before this one does."""
        return self.recipe.stages[number - 2].family if number > 1 else None

    def _check(self, network: Given, teachers: Sequence[Given]) -> None:
        """Finds out before hours of training what would not work after them."""
        seen = shown(self.pictures.training)[:2]
        named_so = [f"teacher {name!r}" for name in self.recipe.teachers]
        for each, what in zip((network, *teachers), (f"network {self.recipe.network!r}", *named_so), strict=True):
            how = each.preprocessing or self.preprocessing
            check(each, self.pictures, inputs(seen, how, torch.device("cpu")).contiguous(), what)
        check_graph(network, (3, self.preprocessing.height, self.preprocessing.width))

    def outcome(self) -> Outcome:
        """Carries out what is left to do."""
        if not self.recipe.fresh:
            self.start = distributed.broadcast(self._at_first(self.known.start))
            self.reporter.say(
                f"before: {4 * self.weights:,} bytes of float32, {self.start:.2f} % of "
                f"{len(self.pictures.measuring):,} pictures ({self.pictures.where})"
            )
        for number, stage in enumerate(self.recipe.stages, 1):
            self._stage(number, stage)
        return self._outcome()

    def _at_first(self, known: float | None) -> float:
        if known is not None or not distributed.is_first():
            return known or 0.0
        return accuracy(self.module, self.pictures.measuring, self.preprocessing, exact=True)

    def _outcome(self) -> Outcome:
        return Outcome(
            self.weights, self.start, len(self.pictures.measuring), self.pictures.where, self.begun_with,
            tuple(self.results), tuple(self.epochs),
        )  # fmt: skip

    def _known(self) -> _Known:
        """What an earlier run has finished."""
        path = self.out / CURVES
        if not path.exists():
            return _Known("", None, [], {})
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            results = [Result(**result) for result in found["stages"]]
            epochs = [Epoch(**epoch) for epoch in found["epochs"]]
            whole = [result for result in results if self._is_there(result)]
            return _Known(found["begun_with"], found["start"], epochs, {result.stage: result for result in whole})
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path}: cannot be read; move it away to begin anew") from None

    def _is_there(self, result: Result) -> bool:
        file = self.out / result.file
        there = file.exists() and file.stat().st_size == result.bytes and file.with_suffix(".safetensors").exists()
        if not there:
            self.reporter.say(f"{file}: gone or changed, so stage {result.stage} is done again, and what follows it")
        return there

    def _stage(self, number: int, stage: Stage) -> None:
        """One stage, or the state that it led to when it was done before."""
        base = _bases(self.recipe, self.out)[number - 1]
        state = base.with_suffix(".safetensors")
        seeded(self.recipe.seed, number)
        with _of(stage):
            stage.family.restructure(self.module)
        self.module.to(self.device)
        finished = self.known.results.get(stage.name)
        if finished is not None:
            self._load(state)
            self.epochs += [epoch for epoch in self.known.epochs if epoch.stage == stage.name]
            self._finished(stage, finished)
            return
        self.known.results.clear()  # what came after it came from another state
        self._learn(number, stage)
        remark = stage.family.remark(self.module)
        codes = stage.family.finish(self.module)
        result = None
        if distributed.is_first():
            tensors = {name: t.detach().cpu().contiguous().clone() for name, t in self.module.state_dict().items()}
            replace_file(state, lambda temporary: save_file(tensors, temporary))
            result = self._written(stage, codes, base.with_suffix(".smidgen"), remark)
            self.reporter.say(described(result))
        result = distributed.broadcast(result)  # nobody goes on before the files are there
        assert result is not None
        self._finished(stage, result)
        if distributed.is_first():
            self._keep(self.epochs)
            (self.out / CHECKPOINT).unlink(missing_ok=True)

    def _finished(self, stage: Stage, result: Result) -> None:
        """Keeps what a stage led to; a network that is as large as before teaches what follows."""
        self.results.append(result)
        if isinstance(stage.family, Train):
            self.teacher = self._as_it_is()

    def _as_it_is(self) -> Teacher:
        return Teacher(copy.deepcopy(self.module).eval(), self.preprocessing)

    def _load(self, state: Path) -> None:
        try:
            fit_(self.module, load_file(state))
        except (OSError, SafetensorError) as error:
            raise InputError(f"{state}: cannot be read: {error}") from None
        self.module.to(self.device)

    def _learn(self, number: int, stage: Stage) -> None:
        if stage.schedule.batch < distributed.size():
            raise RecipeError(
                f"stage {stage.name}: a batch of {stage.schedule.batch} for {distributed.size()} processes"
            )
        with _of(stage):
            seen = inputs(shown(self.pictures.training), self.preprocessing, self.device)
            stage.family.begin(self.module, seen, self._before(number))
        self.module.to(self.device)
        distributed.share([*self.module.parameters(), *(b for b in self.module.buffers() if b.is_floating_point())])
        own = [] if self.teacher is None or isinstance(stage.family, Train) else [self.teacher]
        teachers = self.named_teachers or own
        lesson = Lesson(self.pictures, self.preprocessing, teachers, (self.recipe.seed, number), self.out / CHECKPOINT)
        length = stage.schedule.epochs * len(self.pictures.training)
        with self.reporter.progress(length, f"{stage.name}, {stage.schedule.epochs} epochs") as advance:
            told = learn(self.module, stage, lesson, self.epochs, advance)
            begun, there = len(self.epochs), lesson.checkpoint.exists()
            self.epochs = next(told)
            if len(self.epochs) > begun:
                self.reporter.say(f"{stage.name}: goes on after epoch {self.epochs[-1].epoch}")
            elif there:
                self.reporter.say(f"{lesson.checkpoint}: damaged, or of another stage; {stage.name} begins anew")
            for epochs in told:
                if distributed.is_first():
                    self._keep(epochs)
                self.epochs = epochs

    def _keep(self, epochs: list[Epoch]) -> None:
        """Writes what is known so far."""
        if len(epochs) > len(self.epochs):
            last = epochs[-1]
            self.reporter.say(f"{last.stage}, epoch {last.epoch}: loss {last.loss:.3f}, {last.accuracy:.2f} %")
        self.epochs = epochs
        text = json.dumps(self._outcome().described(), indent=1)
        replace_file(self.out / CURVES, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def _written(self, stage: Stage, codes: Mapping[str, Code], path: Path, remark: str) -> Result:
        """The file of a stage, and what it is worth."""
        archive = None
        if isinstance(stage.family, Train):
            archive = rebuilt_archive_of(self.module, codes, self.preprocessing, self.pictures, self.zoo)
        archive = archive or archive_of(self.module, codes, self.preprocessing, self.pictures, self.reporter)
        size = archive.save(path)
        opened = open_archive(path)
        native = named_right(opened.runner(engine="native"), self.pictures.measuring) if opened.program else None
        seconds = sum(epoch.seconds for epoch in self.epochs if epoch.stage == stage.name)
        return Result(
            stage.name, type(stage.family).__name__, path.name, size,
            named_right(opened.runner(engine="onnxruntime"), self.pictures.measuring), native,
            4 * self.weights / size, 8 * size / self.weights, round(seconds, 1), remark,
        )  # fmt: skip


def described(result: Result) -> str:
    """One line about a stage."""
    native = f", {result.native:.2f} % in integers" if result.native is not None else ""
    return (
        f"{result.stage}: {result.bytes:,} bytes, 1/{result.times_smaller:.1f} of float32, "
        f"{result.bits_per_weight:.2f} bits per weight, {result.accuracy:.2f} %{native}"
        + (f"; {result.remark}" if result.remark else "")
    )
