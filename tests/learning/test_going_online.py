"""What was learnt from logs goes on learning on a table, by its reward."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from make_puck import PUCK, TABLE, rows_drawn, walk, walks
from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.growing import Growing
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.evaluation.dip_page import page_of
from polysoma.learning import lineage
from polysoma.learning.dip import dip_of
from polysoma.learning.going_online import Curve, Going, Judging, finetune, matched
from polysoma.learning.methods.cal_ql import CalQl
from polysoma.learning.methods.cloning import Cloning
from polysoma.learning.methods.hilp import Hilp
from polysoma.learning.methods.iql import ImplicitQ
from polysoma.learning.methods.online import Acting
from polysoma.learning.methods.successor import Successor
from polysoma.learning.methods.td3_bc import Td3Bc
from polysoma.learning.skills import engine_settings, learn
from polysoma.policy import skills
from polysoma.policy.skills import SkillConfig, SkillPolicy

NOWHERE = ("x", "y", "goal_x")
"""Places of which no goals are observed, as one of them has none."""
JUDGING = Judging(every=100, episodes=4)


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    known = simulators.families()
    monkeypatch.setattr(simulators, "families", lambda: known | {"puck": TABLE})


def run_of(folder: Path, method: Any, goals: bool, steps: int = 2, seed: int = 0, **more: Any) -> tuple[Path, Dataset]:
    data = walks(folder / "walks", seed=seed)
    settings = engine_settings(steps, 2e-3)
    learn([data], method, folder / "run", goals, size=(48, 2), settings=settings, seed=seed, **more)
    return folder / "run", data


@pytest.mark.learns
@pytest.mark.parametrize(
    ("method", "least"),
    [
        (ImplicitQ(batch=64, discount=0.9), 4),
        (Td3Bc(batch=64, discount=0.9), 25),
        (CalQl(batch=64, discount=0.9), 20),
    ],
    ids=["iql", "td3-bc", "cal-ql"],
)
def test_it_gets_better_where_it_acts(method: Any, least: float, tmp_path: Path) -> None:
    run, data = run_of(tmp_path, method, goals=False)
    going = Going(300, acting=Acting(noise=0.4, hold=4, first=200))
    found = finetune(run, "puck/go", tmp_path / "out", [data], going, method, JUDGING)
    # Straight along x, a puck earns 40 in 20 frames; the logs go anywhere, so they earn nothing.
    assert found.dip.final > least
    assert found.steps == [200, 300, 400, 500]
    told = json.loads((tmp_path / "out/curve.json").read_text())
    assert told["scores"] == found.scores and told["dip"]["final"] == found.dip.final
    assert "by the reward of puck/go" in lineage.tell(tmp_path / "out/checkpoint")[0]


@pytest.mark.learns
def test_one_skill_goes_on_from_few_labels(tmp_path: Path) -> None:
    method = Hilp(batch=64, discount=0.95, target=0.05)
    # No goals are observed of these places, so that the skill is that of the reward.
    run, data = run_of(tmp_path, method, goals=True, steps=500, place=NOWHERE)
    going = Going(100, share=0.2, acting=Acting(first=100))
    found = finetune(run, "puck/go", tmp_path / "out", [data], going, judging=JUDGING)
    assert found.scores[0] > found.random + 4 and found.dip.final > found.random + 4
    assert skills.load(tmp_path / "out/checkpoint").fixed.norm().item() == pytest.approx(1, abs=1e-4)


def test_a_skill_is_found_by_random_ones_where_logs_have_no_rewards(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "silent", PUCK) as writer:
        for seed in range(20):
            writer.add(dataclasses.replace(walk(rng, np.zeros(2), 12, seed), rewards=None))
    data = Dataset(tmp_path / "silent")
    learn([data], Hilp(batch=16), tmp_path / "run", place=NOWHERE, size=(16, 1), settings=engine_settings(3))
    going = Going(2, rollouts=400, acting=Acting(first=0))
    found = finetune(tmp_path / "run", "puck/go", tmp_path / "out", [data], going, judging=Judging(2, 1))
    assert found.steps == [400, 402]
    assert skills.load(tmp_path / "out/checkpoint").fixed.any()


def test_what_logs_earned_is_not_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, labelled = run_of(tmp_path, ImplicitQ(batch=16), goals=False)
    with DatasetWriter(tmp_path / "silent", PUCK) as writer:
        for number in range(20):
            writer.add(dataclasses.replace(labelled.episode(number), rewards=None))
    silent = Dataset(tmp_path / "silent")
    drawn = rows_drawn(monkeypatch)
    # Five frames in each of two slots end no episode, so that no piece of one is there by itself.
    going = Going(2, slots=2, acting=Acting(first=10))
    finetune(run, "puck/go", tmp_path / "out", [silent], going, judging=Judging(2, 1))
    assert len(drawn) == 2 and min(rows.min() for rows in drawn) >= len(silent) + 20


def test_goals_in_hindsight_need_no_rewards_of_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DatasetWriter(tmp_path / "silent", PUCK) as writer:
        for seed in range(20):
            one = walk(np.random.default_rng(seed), np.zeros(2), 12, seed)
            writer.add(dataclasses.replace(one, rewards=None))
    data = Dataset(tmp_path / "silent")
    learn([data], ImplicitQ(batch=64), tmp_path / "run", size=(16, 1), settings=engine_settings(2))
    drawn = rows_drawn(monkeypatch)
    finetune(tmp_path / "run", "puck/goal", tmp_path / "out", [data], Going(2), ImplicitQ(batch=64), Judging(2, 1))
    rows = np.concatenate(drawn)
    # Half and half: of 128, from 40 to 88 but once in 30,000 times.
    assert 40 <= (rows < len(data) + 20).sum() <= 88 and len(rows) == 128


def test_successor_features_go_on_along_one_skill(tmp_path: Path) -> None:
    run, data = run_of(tmp_path, Successor(batch=16), goals=True, place=NOWHERE)
    before = skills.load(run / "checkpoint")
    finetune(run, "puck/go", tmp_path / "out", [data], Going(3), judging=Judging(3, 1))
    after = skills.load(tmp_path / "out/checkpoint")
    assert after.fixed.any() and after.config.rewarded == "places"
    assert torch.equal(next(after.phi.parameters()), next(before.phi.parameters()))
    assert not torch.equal(next(after.actor.parameters()), next(before.actor.parameters()))


def test_goals_are_gone_to_with_the_skill_that_leads_there(tmp_path: Path) -> None:
    run, data = run_of(tmp_path, Hilp(batch=16), goals=True)
    found = finetune(run, "puck/goal", tmp_path / "out", [data], Going(2), judging=Judging(2, 2))
    after, before = skills.load(tmp_path / "out/checkpoint"), skills.load(run / "checkpoint")
    assert not after.fixed.any() and 0 <= found.scores[0] <= 1
    # The space of skills stays as it is.
    assert all(torch.equal(a, b) for a, b in zip(after.phi.parameters(), before.phi.parameters(), strict=True))


def test_rewards_are_scaled_to_those_of_the_skill(tmp_path: Path) -> None:
    policy = SkillPolicy(SkillConfig(PUCK, "skill", ("x", "y"), (), 16, 1, 8))
    policy.fixed[0] = 1.0
    replay = Growing([walks(tmp_path)], 200, stride=3)
    policy.measure(replay.known())
    rows = replay.starts[::3]
    gain, offset = matched(policy, replay, rows, 0.9)
    steps = replay.steps(rows, 0.9)
    here, there = (policy.places(torch.from_numpy(replay.states[r])) for r in (steps.rows, steps.next_rows))
    own = (policy.represent(there)[0] - policy.represent(here)[0])[:, 0].detach().numpy()
    scaled = gain * steps.rewards + offset
    np.testing.assert_allclose([scaled.mean(), scaled.std()], [own.mean(), own.std()], rtol=1e-3, atol=1e-6)
    # Where tasks end, nothing is added at each step.
    replay.add(replay.states[:3], np.zeros((2, 2), np.float32), np.ones(2, np.float32), over=True)
    assert matched(policy, replay, rows, 0.9) == (gain, 0.0)
    # Of numbers that are all the same the standard deviation is not 0 to the bit.
    replay.add(replay.states[:103], np.zeros((102, 2), np.float32), np.full(102, 0.7, np.float32), over=False)
    alike = replay.added[-102:-2]
    with pytest.raises(PolysomaError, match="the rewards of 100 steps are all the same"):
        matched(policy, replay, alike, 0.9)


def test_new_weights_are_not_those_of_the_run(tmp_path: Path) -> None:
    run, data = run_of(tmp_path, ImplicitQ(batch=16), goals=False)
    for fresh in (False, True):
        out = tmp_path / str(fresh)
        finetune(run, "puck/go", out, [data], Going(1, fresh=fresh), judging=Judging(1, 1), seed=1)
        same = [torch.allclose(a, b, atol=1e-2) for a, b in zip(
            skills.load(out / "checkpoint").parameters(), skills.load(run / "checkpoint").parameters(), strict=True
        )]  # fmt: skip
        assert all(same) != fresh


def test_a_curve_is_drawn_with_what_it_began_and_random_actions(tmp_path: Path) -> None:
    curve = Curve([500, 600, 1000], [10.0, 0.0, 20.0], -5.0, dip_of([500, 600, 1000], [10.0, 0.0, 20.0], -5.0))
    # Back where the line from 600 to 1,000 comes to 10 again.
    assert str(curve) == "10 from the logs, fell to 0, back 300 steps later, 10 at the end (-5 at random)"
    drawn = page_of(curve, "puck/go").decode()
    lines = [re.findall(r"[ML](\S+) ([^ML\"]+)", path) for path in re.findall(r'<path d="([^"]+)"', drawn)]
    assert len(lines) == 3
    scores = np.array(lines[0], float)
    # The lowest score stands after a fifth of the way across, not after half of it.
    lowest = scores[scores[:, 1].argmax(), 0] / scores[-1, 0]
    assert lowest == pytest.approx(0.2, abs=0.01)
    assert all(len({down for _, down in line}) == 1 for line in lines[1:])


def test_what_cannot_go_on_is_said(tmp_path: Path) -> None:
    run, data = run_of(tmp_path, Cloning(batch=8), goals=False)
    with pytest.raises(PolysomaError, match=r"expected a run of hilp, iql, td3-bc, cal-ql, successor, .* got cloning"):
        finetune(run, "puck/go", tmp_path / "out", [data])
    with pytest.raises(PolysomaError, match="not those of ImplicitQ"):
        finetune(run, "puck/go", tmp_path / "out", [data], Going(1), ImplicitQ())
    with pytest.raises(PolysomaError, match="expected a task of puck"):
        finetune(run, "swimmer/swim", tmp_path / "out", [data], Going(1), ImplicitQ())
