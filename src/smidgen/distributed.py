"""Several processes under ``torchrun``: the first one does all the work, and the others compute parts of what it asks.

``torchrun`` says in RANK and WORLD_SIZE which process is which. Without it, all of this does nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn, TypeVar

from smidgen.errors import InputError, SmidgenError, one_line

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store

__all__ = ["add_up", "broadcast", "follow", "is_first", "join", "leave", "part", "rank", "share", "size"]

Value = TypeVar("Value")

PATIENCE = timedelta(days=365)
"""How long a process waits for another: measuring may take hours, and one that is gone is noticed at once."""

FAILED = "smidgen failed"
"""Where a process that fails leaves the reason for the first one."""

_group: list[Store] = []
"""The store of the group that this process has joined."""


def join() -> None:
    """Meets the other processes that ``torchrun`` has started, if there are any.

    Raises:
        InputError: RANK and WORLD_SIZE are no numbers, or the processes do not find each other.
    """
    try:
        number, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise InputError("RANK and WORLD_SIZE are set, but are no numbers; unset them, or use torchrun") from None
    if count < 2 or _group:
        return
    if number:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides when to stop
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    try:
        store, number, count = next(rendezvous("env://", timeout=PATIENCE))
        dist.init_process_group("gloo", store=store, rank=number, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        if number:
            sys.exit(1)
        raise InputError(f"the {count} processes of WORLD_SIZE do not find each other: {one_line(error)}") from None
    _group.append(store)


def leave() -> None:
    """Ends the connections to the other processes, if there are any; who waits for this one notices."""
    if _group:
        import torch.distributed as dist

        dist.destroy_process_group()
        _group.clear()


def rank() -> int:
    """The number of this process, from 0.

    Example:
        >>> rank(), size(), is_first()
        (0, 1, True)
    """
    import torch.distributed as dist

    return dist.get_rank() if _group else 0


def size() -> int:
    """How many processes there are."""
    import torch.distributed as dist

    return dist.get_world_size() if _group else 1


def is_first() -> bool:
    """Whether this is the process that decides, writes and speaks."""
    return not _group or rank() == 0


def part(count: int, number: int | None = None, processes: int | None = None) -> list[int]:
    """Which of ``count`` examples this process computes; one from the front comes with its mirror image from the end.

    Example:
        >>> [part(7, number, 3) for number in range(3)]
        [[0, 3, 6], [1, 5], [2, 4]]
    """
    number, processes = (rank() if number is None else number), processes or size()
    return [index for index in range(count) if min(index, count - 1 - index) % processes == number]


def broadcast(value: Value) -> Value:
    """What the first process gives; the others' values do not count.

    Example:
        >>> broadcast("as it is")
        'as it is'
    """
    import torch.distributed as dist

    if not _group:
        return value
    box = [value]
    with _in_touch():
        dist.broadcast_object_list(box)
    return box[0]


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replaces tensors by their sums over all processes."""
    import torch.distributed as dist

    _at_once(tensors, lambda flat: dist.all_reduce(flat))


def share(tensors: Sequence[Tensor]) -> None:
    """Replaces tensors by those of the first process."""
    import torch.distributed as dist

    _at_once(tensors, lambda flat: dist.broadcast(flat, 0))


def _at_once(tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> None:
    import torch

    if not _group or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    with _in_touch():
        exchange(flat)
    with torch.no_grad():
        for tensor, piece in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(piece.view_as(tensor))


def follow() -> NoReturn:
    """What all processes but the first do to their end: call what it broadcasts, until it is gone. One that fails tells
    it why. Status 0 in either case, since with another torchrun ends the first one before it can say anything."""
    try:
        while True:
            broadcast(lambda: None)()
    except _GoneError:
        pass
    except Exception as error:
        _group[0].set(FAILED, f"process {rank()}: {error if isinstance(error, SmidgenError) else one_line(error)}")
    finally:
        os._exit(0)  # at once: on a regular exit gloo may abort when its connections are broken


class _GoneError(SmidgenError):
    """Another process has ended."""


@contextmanager
def _in_touch() -> Iterator[None]:
    try:
        yield
    except RuntimeError:
        reason = "another process of this run is gone; torchrun says how it ended"
        if is_first() and _group[0].check([FAILED]):
            reason = _group[0].get(FAILED).decode()
        raise _GoneError(reason) from None
