"""Controls: what a policy reaches without learning anything, beside which learning from reward is to be judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from polysoma.acting.pushing import Pushed
from polysoma.evaluation.evaluation import evaluate
from polysoma.rollout.drivers import Behaviour, Driver, Ready
from polysoma.rollout.jobs import Job
from polysoma.rollout.rollout import Workers, rollout_in_workers

NOISES = (0.1, 0.2, 0.3, 0.4)
"""Of further tries, in parts of half the range of actions."""

Control = Callable[[Driver, Sequence[str], int, int], Mapping[str, Sequence[bool]]]


def pushed(driver: Driver, tasks: Sequence[str], episodes: int, seed: int) -> dict[str, Sequence[bool]]:
    """Which episodes succeed with a random push wherever the body stands still
    (:class:`~polysoma.acting.pushing.Pushed`), by task.

    Args:
        driver: of a body that is moved by numbers.
        tasks: full names.
        episodes: of each task.
        seed: of the first one.

    Raises:
        PolysomaError: as :func:`~polysoma.evaluation.evaluation.evaluate`, or a body that cannot be pushed.
    """
    scores = evaluate(Ready(Pushed(driver())), tasks, episodes, seed).tasks
    return {task: score.outcomes for task, score in scores.items()}


def tried(
    driver: Driver, tasks: Sequence[str], episodes: int, seed: int, workers: Workers | int = 1
) -> dict[str, Sequence[bool]]:
    """Which episodes succeed in one of several tries with more and more noise (:data:`NOISES`), by task. In the world
    this is to be had only where an episode can begin anew.

    Args:
        driver: of a body that is moved by numbers.
        tasks, episodes, seed: see :func:`pushed`.
        workers: where episodes are played.

    Raises:
        PolysomaError: as :func:`~polysoma.rollout.rollout.rollout_in_workers`.
    """
    won = {task: [False] * episodes for task in tasks}
    for noise in NOISES:
        jobs = [Job(task, seed + n) for task in tasks for n in range(episodes) if not won[task][n]]
        for outcome in rollout_in_workers(jobs, Behaviour(driver, noise=noise), workers):
            won[outcome.task][outcome.seed - seed] |= outcome.success
    return dict(won)


CONTROLS: dict[str, Control] = {
    "a random push while it stands still": pushed,
    f"the best of {len(NOISES)} tries with noise": tried,
}
"""By what they are called."""
