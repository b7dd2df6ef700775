"""Checks that a Ray cluster plays what this machine plays, episode for episode.

Not collected by pytest, because Ray is large and optional. Run it on purpose:

    pip install 'polysoma[ray]'
    python tests/interop/check_ray.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import ray

from polysoma.data.dataset import Dataset
from polysoma.errors import PolysomaError
from polysoma.policy.checkpoint import resolve
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.jobs import interleave
from polysoma.rollout.recording import record
from polysoma.rollout.rollout import Workers, rollout_in_workers
from polysoma.rollout.workers import LOCAL


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record(["drone/hover", "rover/pillar"], 4, folder / "here", Behaviour())
        record(["drone/hover", "rover/pillar"], 4, folder / "there", Behaviour(), Workers(2, cluster=LOCAL))
        for body in ("drone", "rover"):
            here, there = Dataset(folder / "here" / body), Dataset(folder / "there" / body)
            rows = {
                (dataset is here, int(seed)): dataset.actions[start : start + length]
                for dataset in (here, there)
                for seed, start, length in zip(
                    dataset.episode_seed, dataset.episode_start, dataset.episode_length, strict=True
                )
            }
            assert all(np.array_equal(rows[True, seed], rows[False, seed]) for seed in range(4)), body
        print(f"recorded alike here and on {ray.__version__}: {time.monotonic() - began:.0f} s")

        # A folder, so that the checkpoint must travel.
        policy = Behaviour(str(resolve("generalist")))
        jobs = interleave(["drone/ring", "fetch/reach"], range(6))
        here, there = (
            {(o.task, o.seed): o.success for o in rollout_in_workers(jobs, policy, Workers(2, cluster=cluster))}
            for cluster in (None, LOCAL)
        )
        assert here == there and len(here) == 12, (here, there)
        print(f"the policy plays alike: {sum(here.values())} of {len(here)} succeed; {time.monotonic() - began:.0f} s")

    for address, behaviour in (("127.0.0.1:1", Behaviour()), (LOCAL, Behaviour("no/such/checkpoint"))):
        try:
            list(rollout_in_workers(interleave(["drone/hover"], range(1)), behaviour, Workers(1, cluster=address)))
        except PolysomaError as error:
            print(f"refused as it should be: {error}")
        else:
            sys.exit(f"{address}, {behaviour}: expected an error")


if __name__ == "__main__":
    main()
