"""Which losses of other tasks are too much."""

from __future__ import annotations

from polysoma.evaluation.acceptance import Replayed


def outcomes(won: int, trials: int = 20) -> list[bool]:
    return [number < won for number in range(trials)]


def test_what_all_tasks_lose_together_counts() -> None:
    same = Replayed({"a": outcomes(15), "b": outcomes(5)}, {"a": outcomes(15), "b": outcomes(5)})
    assert not same.lost(0.0)
    # 2 of 40 are 0.05.
    some = Replayed({"a": outcomes(15), "b": outcomes(5)}, {"a": outcomes(14), "b": outcomes(4)})
    assert not some.lost(0.05) and "lost 0.05" in some.lost(0.04)
    assert str(some).startswith("20 of 40 episodes succeeded before, 18 after: -0.05 [")
    # What one wins, another may lose.
    assert not Replayed({"a": outcomes(15), "b": outcomes(5)}, {"a": outcomes(13), "b": outcomes(7)}).lost(0.05)


def test_one_task_that_is_lost_is_not_hidden_by_many() -> None:
    before = {str(number): outcomes(15) for number in range(30)}
    lost = Replayed(before, before | {"7": outcomes(0)})
    assert "clearly more than 0.05 was lost in 7: 15 of 20 episodes succeeded before, 0 after" in lost.lost(0.05)
    # Chance moves a few of the episodes of one task.
    assert not Replayed(before, before | {"7": outcomes(13)}).lost(0.05)
