"""Batches read ahead of the step."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from likewise.images.imageset import Ids, ImageSet
from likewise.types import Source

T = TypeVar("T", bound=Ids)


def prefetch(
    images: ImageSet, batches: Iterable[T], *, threads: int = 2, ahead: int = 2
) -> Generator[tuple[T, Source], None, None]:
    """(ids, images.source(ids)) for each batch of ids, in order, read by threads `ahead` of whoever asks.

    The number of threads changes nothing but the speed. What fails while reading is raised when its batch is due; the
    threads end with the generator, so close one that is left early.
    """
    waiting: deque[tuple[T, Future[Source]]] = deque()
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="likewise-prefetch") as pool:
        try:
            for ids in batches:
                waiting.append((ids, pool.submit(images.source, ids)))
                if len(waiting) > max(ahead, threads):
                    due, future = waiting.popleft()
                    yield due, future.result()
            while waiting:
                due, future = waiting.popleft()
                yield due, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
