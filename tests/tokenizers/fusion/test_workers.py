import threading

import pytest
import torch

from semid.tokenizers.fusion.workers import Workers


@pytest.mark.parametrize("num_threads", [1, 3])
def test_every_task_is_done_on_one_torch_thread(num_threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        seen: list[tuple[int, int]] = []
        with Workers() as workers:
            workers.run(lambda task: seen.append((task, torch.get_num_threads())), range(20))
            workers.run(lambda task: seen.append((task, torch.get_num_threads())), range(20, 25))
        assert sorted(seen) == [(task, 1) for task in range(25)]
        assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_first_error_is_raised_and_threads_come_back(num_threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    others = threading.active_count()

    def fail(task: int) -> None:
        raise ValueError(task)

    try:
        with pytest.raises(ValueError, match=r"^4$"), Workers() as workers:
            workers.run(fail, [4, 5, 6])
        assert torch.get_num_threads() == num_threads
        assert threading.active_count() == others
    finally:
        torch.set_num_threads(before)
