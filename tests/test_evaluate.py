from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_network as tiny
from PIL import Image

from smidgen.archive import Preprocessing
from smidgen.errors import InputError, ModelError
from smidgen.run.evaluate import evaluate, latency
from smidgen.run.pictures import prepare
from smidgen.run.runner import Graph, Runner

CLASSES = 7


def candidates() -> list[Runner]:
    other = Preprocessing(8, 6, "RGB", mean=(90.0, 90.0, 90.0), std=(50.0, 50.0, 50.0), resample="bicubic")
    return [
        tiny.archive(CLASSES, 0).runner(1),
        tiny.archive(CLASSES, 1).runner(1),
        tiny.archive(CLASSES, 0, preprocessing=other).runner(1),
    ]


@pytest.mark.parametrize("count", [1, 16, 37])
def test_against_a_plain_reference(count: int) -> None:
    runners, pictures = candidates(), tiny.pictures(count)
    truth = [int(n) for n in np.random.default_rng(3).integers(0, CLASSES, count)]
    found = evaluate(runners, pictures, truth)
    logs = []
    for runner, seed in zip(runners, (0, 1, 0), strict=True):
        assert runner.preprocessing is not None
        batch = np.stack([prepare(picture, runner.preprocessing) for picture in pictures])
        logs.append(tiny.slow_log_softmax(tiny.slow_scores(tiny.weights(CLASSES, seed), batch)))
    assert len(found) == 3
    for evaluation, log in zip(found, logs, strict=True):
        ranks = [[*sorted(range(CLASSES), key=lambda index, row=row: -row[index])] for row in log]
        first = [max(range(CLASSES), key=lambda index, row=row: row[index]) for row in logs[0]]
        kl = sum(np.exp(p) * (p - q) for a, b in zip(logs[0], log, strict=True) for p, q in zip(a, b, strict=True))
        assert evaluation.pictures == count
        assert evaluation.labelled
        assert evaluation.top1 == 100 * sum(rank[0] == n for rank, n in zip(ranks, truth, strict=True)) / count
        assert evaluation.top5 == 100 * sum(n in rank[:5] for rank, n in zip(ranks, truth, strict=True)) / count
        assert evaluation.agreement == 100 * sum(rank[0] == n for rank, n in zip(ranks, first, strict=True)) / count
        assert evaluation.kl == pytest.approx(kl / count, rel=1e-4, abs=1e-9)
        assert evaluation.milliseconds > 0
    assert found[0].kl == 0
    assert found[0].agreement == 100
    if count > 1:  # the case is not an empty one
        assert found[1].kl > 0.01
        assert found[1].agreement < 100


def test_without_truth() -> None:
    labelled = evaluate(candidates(), tiny.pictures(5), [0] * 5)
    for plain, full in zip(evaluate(candidates(), tiny.pictures(5)), labelled, strict=True):
        assert not plain.labelled
        assert plain.top1 is None
        assert plain.top5 is None
        assert (plain.agreement, plain.kl) == (full.agreement, full.kl)


def test_files_and_progress(tmp_path: Path) -> None:
    pictures = tiny.pictures(35)
    paths = []
    for index, picture in enumerate(pictures):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(picture).save(paths[-1])
    done: list[int] = []
    from_files = evaluate(candidates(), paths, on_progress=done.append)
    assert done == [16, 32, 35]
    for one, other in zip(from_files, evaluate(candidates(), pictures), strict=True):
        assert dataclasses.replace(one, milliseconds=0) == dataclasses.replace(other, milliseconds=0)


def test_divergence_of_sure_networks_is_finite() -> None:
    weight = np.zeros((3, 3, 3, 3), np.float32)
    runners = [
        tiny.archive(tensors={"weight": weight, "bias": np.float32(bias)}).runner(1)
        for bias in ([2000, 0, 0], [0, 2000, 0])
    ]
    found = evaluate(runners, tiny.pictures(2), [0, 0])
    assert found[1].kl == pytest.approx(2000)
    assert (found[0].top1, found[1].top1, found[1].top5, found[1].agreement) == (100, 0, 100, 0)


def test_of_equal_scores_the_lower_index_is_first() -> None:
    dead = {"weight": np.zeros((CLASSES, 3, 3, 3), np.float32), "bias": np.zeros(CLASSES, np.float32)}
    found = evaluate([tiny.archive(CLASSES, tensors=dead).runner(1)], tiny.pictures(3), [0, 4, 5])[0]
    assert found.top1 == pytest.approx(100 / 3)
    assert found.top5 == pytest.approx(200 / 3)


def test_refuses() -> None:
    runners, pictures = candidates(), tiny.pictures(3)
    for arguments, message in (
        (([], pictures), "no network"),
        ((runners, []), "no pictures"),
        ((runners, pictures, [0, 1]), "2 class indices for 3 pictures"),
        ((runners, pictures, [0, 1, CLASSES]), r"outside 0\.\.6"),
        ((runners, pictures, [0, -1, 0]), "outside"),
        (([*runners, tiny.archive(5).runner()], pictures), "network 4 has 5 classes and the first 7"),
        ((runners, [Path("nowhere.jpg")]), "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(*arguments)
    with pytest.raises(ModelError, match="prepared"):
        evaluate([tiny.archive(preprocessing=None).runner()], pictures)


def test_latency_sees_the_slower_network() -> None:
    class Slow(Runner):
        def __call__(self, batch: np.ndarray) -> np.ndarray:
            time.sleep(0.003)
            return super().__call__(batch)

    fast_ms, slow_ms = latency(
        [tiny.archive().runner(1), Slow(Graph(tiny.archive(), 1), tiny.archive().preprocessing)], tiny.pictures(2), 5
    )
    assert slow_ms > 3
    assert 0 < fast_ms < slow_ms


def test_latency_runs_each_network_equally_often() -> None:
    calls: list[tuple[str, int]] = []

    class Counted(Runner):
        def __call__(self, batch: np.ndarray) -> np.ndarray:
            calls.append((self.labels[0].name, len(batch)))
            return super().__call__(batch)

    archive = tiny.archive()
    runners = [Counted(Graph(archive, 1), archive.preprocessing, tiny.LABELS[n:]) for n in range(3)]
    assert len(latency(runners, tiny.pictures(20), 6)) == 3
    assert all(size == 1 for _, size in calls)
    names = [name for name, _ in calls]
    rounds = [names[start : start + 3] for start in range(0, len(names), 3)]
    assert len(rounds) == 1 + 6
    assert all(len(set(names)) == 3 for names in rounds)  # interleaved
    assert len({tuple(names) for names in rounds}) > 1  # in changing order
    with pytest.raises(InputError, match="rounds"):
        latency(runners, tiny.pictures(1), 0)
