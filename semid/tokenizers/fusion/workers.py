"""Independent pieces of work on several threads, each computed by one thread alone."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from semid.tokenizers.clustering.tiles import one_thread_each

Task = TypeVar("Task")


class Workers:
    """As many threads as torch is set to use, with torch itself held to one thread a piece.

    A matrix product on several threads may sum in another order than on one. Where every piece is computed by one
    thread, results are the same bits whatever the number of threads. While it is entered, torch uses one thread in
    the caller too.
    """

    def __enter__(self) -> "Workers":
        self._held = one_thread_each()
        num_threads = self._held.__enter__()
        self._pool = ThreadPoolExecutor(num_threads) if num_threads > 1 else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._held.__exit__(kind, error, trace)

    def run(self, function: Callable[[Task], None], tasks: Iterable[Task]) -> None:
        """Call the function for every task and wait; of several errors the first task's is raised."""
        if self._pool is None:
            for task in tasks:
                function(task)
        else:
            for _ in self._pool.map(function, tasks):
                pass
