"""Dead-end values are those of dynamic programming in the paper's grid, alarms are as rare as was asked, and a guard
keeps a policy out of dead ends."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from make_lifegate import FILE, WORLD, logs_of, noisy
from planners import Known
from polysoma import simulators
from polysoma.acting.agent import Acting
from polysoma.acting.dead_ends import DeadEndGuard
from polysoma.acting.guards import Guarded, Verdict
from polysoma.acting.planner import Plan, Session, TaskPrompt
from polysoma.cli.evaluate import Evaluate
from polysoma.cli.guard import GuardLearn
from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.mixture import Source
from polysoma.data.outcomes import Outcomes, Senses
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment, Modality, Observation, Stream, channels
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.learning.dead_ends import calibrate, engine_settings, episode_risks, fit
from polysoma.learning.engine import Engine
from polysoma.learning.methods.dead_ends import LearnDeadEnds
from polysoma.nn.backend import VARIABLE
from polysoma.nn.trunk import TransformerConfig
from polysoma.nn.words import build_vocabulary
from polysoma.policy import checkpoint, weight_file
from polysoma.policy.checkpoint import WEIGHTS
from polysoma.policy.config import PolicyConfig
from polysoma.policy.dead_ends import SPARE, Alarm, DeadEndConfig, DeadEndJudge, DeadEnds
from polysoma.policy.policy import Policy

BODY, QUICK = WORLD.EMBODIMENT, engine_settings(200, 1e-2)
CONFIG = DeadEndConfig(BODY, depth=1, octaves=0)
FREE = [WORLD.cell(place) for place in WORLD.FREE]


def exact_logs(drag: float) -> Outcomes:
    """Every transition as often as its chance says, of 200 of each choice."""
    chances = WORLD.model(drag)
    rows = [
        (here, choice, to)
        for here in FREE
        for choice in range(5)
        for to in np.flatnonzero(chances[here, choice])
        for _ in range(round(200 * chances[here, choice, to]))
    ]
    here, choice, to = (np.array(column) for column in zip(*rows, strict=True))
    dead, saved = ([WORLD.cell(place) for place in places] for places in (WORLD.DEATH, WORLD.RESCUE))
    end = np.isin(to, saved).astype(np.int64) - np.isin(to, dead)
    return Outcomes(WORLD.seen(here), choice, WORLD.seen(to), end, np.arange(len(here)), end > 0)


@pytest.fixture(scope="module")
def values() -> DeadEnds:
    return fit(CONFIG, exact_logs(0.4), QUICK)


def test_values_in_lifegate_are_those_of_dynamic_programming(values: DeadEnds) -> None:
    negative, positive = values.values(torch.from_numpy(WORLD.seen(np.array(FREE))))
    exact = WORLD.exact(0.4)
    np.testing.assert_allclose(negative.numpy(), exact[0][FREE], atol=0.01)
    np.testing.assert_allclose(positive.numpy(), exact[1][FREE], atol=0.01)
    # What was computed apart from this code: all of the zone is dead, and the start is not.
    best = exact[0].max(1)
    assert {place for place in WORLD.FREE if best[WORLD.cell(place)] < -0.999} == WORLD.ZONE
    start = WORLD.cell(WORLD.START)
    assert (best[start], exact[1][start].max()) == pytest.approx((-0.335, 0.637), abs=0.001)


def test_values_are_learned_where_no_state_comes_twice() -> None:
    """A slope: beyond a half everything slides down to the failure at 1; at 0 is the success."""
    body = Embodiment(
        "slope", (Stream("x", Modality.STATE, (1,), channels("x")),), DiscreteActions(("left", "right")), 1
    )
    rng = np.random.default_rng(0)
    here, choice = rng.random(4000), rng.integers(2, size=4000)
    to = np.where((here > 0.5) | (choice == 1), here + 0.2, here - 0.2)
    end = (to < 0).astype(np.int64) - (to > 1)
    column = [one.astype(np.float32)[:, None] for one in (here, to)]
    logs = Outcomes(column[0], choice, column[1], end, np.arange(4000), end > 0)
    learned = fit(DeadEndConfig(body), logs, engine_settings(150, 1e-2))
    negative, positive = learned.values(torch.tensor([[0.1], [0.2], [0.4], [0.6], [0.9]]))
    np.testing.assert_allclose(-negative.numpy(), [[0, 0], [0, 0], [0, 1], [1, 1], [1, 1]], atol=0.2)
    np.testing.assert_allclose(positive.numpy(), [[1, 1], [1, 1], [1, 0], [0, 0], [0, 0]], atol=0.2)


def test_a_clock_is_foreseen_and_does_not_hide_the_rest() -> None:
    body = Embodiment(
        "track", (Stream("x", Modality.STATE, (2,), channels("x clock")),), DiscreteActions(("left", "right")), 1
    )
    rng = np.random.default_rng(0)
    choice = rng.integers(2, size=2000)
    here = np.stack([rng.random(2000), 0.02 * rng.integers(500, size=2000)], 1).astype(np.float32)
    moved = np.stack([0.2 * (2 * choice - 1), np.full(2000, 0.02)], 1)
    to = (here + moved).astype(np.float32)
    end = (to[:, 0] < 0).astype(np.int64) - (to[:, 0] > 1)
    logs = Outcomes(here, choice, to, end, np.arange(2000), end > 0)
    learned = fit(DeadEndConfig(body, 32), logs, engine_settings(120))
    with torch.no_grad():
        after = learned.after(torch.from_numpy(here))[torch.arange(2000), torch.from_numpy(choice)].numpy()
    wrong = np.sqrt(np.square(after - to).mean(0))
    assert wrong[0] < 0.02 and wrong[1] < 0.002


def test_fresh_successes_raise_alarms_as_rarely_as_was_asked_for(values: DeadEnds) -> None:
    """On average over logs to find the threshold with: 20 of them, margin of 3 standard errors."""
    rates, policy = [], noisy(0.4)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        guard = calibrate(values, logs_of(rng, policy, 300, 0.4), 0.1)
        assert guard.alarm is not None
        rates.append((episode_risks(guard, logs_of(rng, policy, 300, 0.4))[0] > guard.alarm.threshold).mean())
    assert np.mean(rates) <= 0.1 + 3 * np.std(rates) / 20**0.5
    with pytest.raises(PolysomaError, match="needs 99 successful episodes at least, got"):
        calibrate(values, logs_of(np.random.default_rng(0), noisy(0.4), 30, 0.4), 0.01)


def test_a_step_that_is_judged_alone_raises_no_more_alarms() -> None:
    torch.manual_seed(0)
    rng, drive = np.random.default_rng(0), noisy(0.1)
    logs = logs_of(rng, drive, 120, 0.1)
    values = DeadEnds(DeadEndConfig(BODY, 128, octaves=0, remembered=1024))
    values.measure(torch.from_numpy(logs.states), torch.from_numpy(logs.following), rng)
    with torch.no_grad():
        for net in values.negative.both:
            net[-1].bias.sub_(0.3)
    guard = DeadEndGuard(calibrate(values.requires_grad_(False), logs, 0.1))
    alarmed: dict[str, set[int]] = {"risk": set(), "unlike": set()}
    # A guard keeps no state: it judges what many steps have in common as it did the first time.
    judged: dict[tuple[int, int], str] = {}
    remembered = 0
    for row in np.flatnonzero(logs.success):
        step = int(logs.states[row].argmax()), int(logs.actions[row])
        if step not in judged:
            state = torch.from_numpy(logs.states[row])
            judged[step] = guard.judge({"state": logs.states[row]}, Plan(logs.actions[row : row + 1], "policy")).alarm
            if (values.memory == values.seen(state)).all(1).any():
                remembered += 1
                assert values.unlike(state[None]) == 0
        for kind in judged[step].split():
            alarmed[kind].add(int(logs.episode[row]))
    assert remembered > 50
    # Those above the threshold, of the very episodes that it was found with.
    count = len(np.unique(logs.episode[logs.success]))
    assert all(len(found) <= count - np.ceil(0.9 * (count + 1)) for found in alarmed.values())


LEDGE = Embodiment(
    "ledge", (Stream("x", Modality.STATE, (1,), channels("x")),), ContinuousActions(channels("dx", "1", -1, 1)), 10
)
"""What goes beyond 1 falls, below 0 is the goal; beyond 0.7 it slides down whatever is done."""


HALL = Embodiment(
    "hall",
    (Stream("cells", Modality.SYMBOL, (2, 2), cardinalities=(3, 1)),),
    ContinuousActions(channels("dx", "1", -1, 1)),
    10,
)


CORRIDOR = Embodiment(
    "corridor",
    (Stream("cell", Modality.SYMBOL, (1,), cardinalities=(10,)),),
    DiscreteActions(("left", "stay", "right")),
    10,
)
"""The last cell falls, the first one is the goal; from the seventh on it slides down whatever is done."""


def corridor_logs(seed: int) -> Outcomes:
    rng = np.random.default_rng(seed)
    here, choice = rng.integers(1, 9, size=3000), rng.integers(3, size=3000)
    to = here + np.where(here >= 7, 1, choice - 1)
    end = (to == 0).astype(np.int64) - (to == 9)
    before, after = (Senses.of(CORRIDOR).of_frames({"cell": part[:, None].astype(np.uint8)}) for part in (here, to))
    return Outcomes(before, choice, after, end, np.arange(3000), end > 0)


def test_cells_are_told_apart_by_their_symbols() -> None:
    quick = LearnDeadEnds(target=0.2)
    values = fit(DeadEndConfig(CORRIDOR, 32, octaves=1), corridor_logs(0), engine_settings(150, 1e-2), quick)
    judge, right = DeadEndJudge(values), np.array([2])
    risk = [judge.judge({"cell": np.array([cell], np.uint8)}, right).risk for cell in range(1, 9)]
    # Within .04 for ten seeds.
    np.testing.assert_allclose(np.stack(risk)[:5], 0, atol=0.1)
    np.testing.assert_allclose(risk[5], [0, 0, 1], atol=0.1)
    np.testing.assert_allclose(np.stack(risk)[6:], 1, atol=0.1)
    pictures, one = Stream("eye", Modality.IMAGE, (8, 8, 3)), Stream("cell", Modality.SYMBOL, (1,), cardinalities=(1,))
    for nothing in (pictures, one):
        with pytest.raises(
            PolysomaError, match=f"expected a body that senses numbers or symbols, it senses {nothing.name}"
        ):
            DeadEndConfig(dataclasses.replace(CORRIDOR, streams=(nothing,)))


def test_symbols_beside_numbers_change_nothing() -> None:
    beside = Stream("cell", Modality.SYMBOL, (2, 2), cardinalities=(3, 1))
    senses = Senses.of(dataclasses.replace(CORRIDOR, streams=(beside, *LEDGE.streams)))
    assert senses.numbers and senses.streams == ("x",) and senses.values == 1
    np.testing.assert_array_equal(senses.of_frames({"x": np.ones((3, 1), np.float32)}), np.ones((3, 1)))


def ledge_logs(seed: int) -> Outcomes:
    rng = np.random.default_rng(seed)
    here = rng.random(4000).astype(np.float32)[:, None]
    action = rng.uniform(-1, 1, (4000, 1, 1)).astype(np.float32)
    to = here + np.where(here > 0.7, 0.2, 0.2 * action[:, 0])
    end = ((to < 0).astype(np.int64) - (to > 1))[:, 0]
    return Outcomes(here, action, to, end, np.arange(4000), end > 0)


def test_numbers_that_lead_to_failure_are_replaced_by_near_ones_that_do_not() -> None:
    values = fit(DeadEndConfig(LEDGE, remembered=256), ledge_logs(0), engine_settings(200, 1e-2))
    guard = DeadEndGuard(values.with_alarm(Alarm(0.5, 0.1, 100, unlike=0.5, replace=0.3)))

    def judged(x: float, action: float, *others: float) -> Verdict:
        seen = {"x": np.array([x], np.float32)}
        asked = np.array(others, np.float32)[:, None, None]
        draw = (lambda count: np.resize(asked, (count, 1, 1))) if others else None
        return guard.judge(seen, Plan(np.array([[action], [0.3]], np.float32), "policy", others=draw))

    fine, over, lost, strange = judged(0.3, 0.2), judged(0.68, 0.9), judged(0.9, -1), judged(4.0, 0)
    assert (fine.decision, fine.alarm) == ("allow", "") and fine.risk < 0.2
    assert (over.decision, over.alarm) == ("replace", "risk") and over.risk > 0.6
    assert over.actions is not None and over.actions.shape == (1, 1)
    # The nearest of those that are fine: less of a push, and not the one farthest away.
    assert -0.8 < float(over.actions[0, 0]) < 0.6
    # Where the policy might do something else, that is done, be it farther away, and nothing that it would not do.
    other, worse = judged(0.68, 0.9, 1.0, -0.95, -0.9), judged(0.68, 0.9, 1.0)
    assert other.actions is not None and other.actions.tolist() == [[np.float32(-0.9)]], "nearer to all the others"
    assert worse.alarm == "risk" and worse.actions is not None and worse.actions.tolist() == [[1.0]]
    # Of several that are all right, that is done which is done most often.
    often = judged(0.68, 0.9, -0.3, -0.95, -0.3, -0.31, 1.0)
    assert often.actions is not None and float(often.actions[0, 0]) == pytest.approx(-0.3)
    # Where nothing is clearly better, what is seldom done gives way all the same, and what is usual stays.
    seldom, usual = judged(0.9, -1.0, 0.5, 0.5, 0.5), judged(0.9, 0.5, 0.5, -1.0, 0.5)
    assert seldom.risk > 0.6 and seldom.actions is not None and seldom.actions.tolist() == [[0.5]]
    assert usual.risk > 0.6 and usual.decision == "allow"
    assert lost.risk > 0.6 and lost.decision == "allow"
    assert "unlike" in strange.alarm


def test_a_guard_is_learned_from_data_sets_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "logs", BODY) as writer:
        for seed in range(60):
            writer.add(logged(seed, seed % 3 > 0, True))
    command = GuardLearn((str(tmp_path / "logs"),), rate=0.2, steps=6, width=8, out=tmp_path / "whole")
    command.run()
    whole = DeadEnds.load(tmp_path / "whole")
    assert whole.alarm is not None and (whole.alarm.rate, whole.config.remembered) == (0.2, 84)
    logs, apart = Outcomes.of([Dataset(tmp_path / "logs")]).apart(0.3)
    assert not set(logs.episode) & set(apart.episode) and len(apart.episode) == 36
    # The same run in two parts.
    config = DeadEndConfig(BODY, 8, remembered=84)
    for steps, resume in ((3, False), (None, True)):
        torch.manual_seed(0)
        method = LearnDeadEnds().build(DeadEnds(config), logs, 0)
        folder = Engine(method, engine_settings(6)).run(tmp_path / "parts", resume, until=steps)
    resumed, straight = (weight_file.read(run / WEIGHTS) for run in (folder, tmp_path / "whole" / "checkpoint"))
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    with pytest.raises(PolysomaError, match="needs 999 successful episodes at least, got"):
        dataclasses.replace(command, rate=0.001, out=tmp_path / "few").run()
    with pytest.raises(PolysomaError, match=f"--expectile: for actions that are numbers; {BODY.name} makes choices"):
        dataclasses.replace(command, expectile=0.8, out=tmp_path / "lower").run()


class Noisy:
    """Draws choices of given chances, ``(100, 5)``."""

    def __init__(self, chances: np.ndarray) -> None:
        self.logarithms = np.log(chances).astype(np.float32)

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        session = Session(prompt)
        session.rng = np.random.default_rng(seed)  # type: ignore[attr-defined]
        return session

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        plans: list[Plan | PolysomaError] = []
        for session, seen in zip(sessions, observations, strict=True):
            logarithms = self.logarithms[seen["state"].argmax()][None]
            noise = session.rng.gumbel(size=logarithms.shape)  # type: ignore[attr-defined]
            plans.append(Plan((logarithms + noise).argmax(-1), "policy", None, logarithms, noise))
        return plans


def test_a_guard_keeps_a_policy_out_of_dead_ends(tmp_path: Path) -> None:
    learned = fit(CONFIG, exact_logs(0.1), QUICK)
    learned.with_alarm(Alarm(0.15, 0.05, 100, replace=0.15)).save(tmp_path / "guard")
    guard = DeadEndGuard.load(tmp_path / "guard")
    planner, deaths, counts = Noisy(noisy(0.1, 0.7)), {}, {}
    for name, driver in (("free", planner), ("guarded", guard.around(planner))):
        environment, deaths[name] = WORLD.LifeGate("lifegate/drag10"), 0
        for seed in range(40):
            observation, _ = environment.reset(seed=seed)
            agent, over = Acting().agent(driver, BODY, seed=seed), False
            while not over:
                observation, reward, over, cut, _ = environment.step(agent.act(observation))
                deaths[name] += over and not reward
                over = over or cut
            counts[name] = agent.session.interventions
    assert deaths["guarded"] < deaths["free"] / 2
    assert counts["free"].judged == 0 < counts["guarded"].judged


def test_the_policy_keeps_the_say_below_the_threshold(values: DeadEnds) -> None:
    before_the_zone = {"state": WORLD.seen(np.array(WORLD.cell((4, 6)))), "instruction": ""}
    risks = DeadEndJudge(values).judge(before_the_zone, np.array([0])).risk
    right = list(WORLD.MOVES).index("right")
    assert risks[right] == pytest.approx(1, abs=0.01)
    threshold = (1 + float(risks.min())) / 2
    guard = DeadEndGuard(values.with_alarm(Alarm(threshold, 0.1, 100, replace=threshold)))
    allowed = np.flatnonzero(risks <= threshold)
    likely = np.log(np.full((1, 5), 0.1, np.float32))
    likely[0, right] = np.log(0.6)
    assert 0 < len(allowed) < 5
    likely[0, allowed[-1]] = np.log(0.2)
    verdict = guard.judge(before_the_zone, Plan(np.array([right]), "policy", None, likely))
    assert verdict.decision == "replace" and verdict.actions is not None and verdict.actions[0] == allowed[-1]
    silent = guard.judge(before_the_zone, Plan(np.array([right]), "expert"))
    assert silent.actions is not None and risks[silent.actions[0]] == risks.min()
    flagging = DeadEndGuard(guard.values, flag=True)
    assert flagging.judge(before_the_zone, Plan(np.array([right]), "expert")).decision == "allow"
    inside = {"state": WORLD.seen(np.array(WORLD.cell((6, 7)))), "instruction": ""}
    assert guard.judge(inside, Plan(np.array([0]), "expert")).risk == pytest.approx(1, abs=0.01)


def test_folders_that_are_damaged_or_of_others_are_told(values: DeadEnds, tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match="has no threshold: calibrate it first"):
        DeadEndGuard(values)
    with pytest.raises(PolysomaError, match="expected the folder of a guard"):
        DeadEndGuard.load(tmp_path)
    values.with_alarm(Alarm(0.5, 0.1, 100)).save(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, "width": 32}))
    with pytest.raises(PolysomaError, match="does not fit its config"):
        DeadEnds.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**told, "alarm": {"threshold": 2, "rate": 0.1, "successes": 9}}))
    with pytest.raises(PolysomaError, match="threshold"):
        DeadEnds.load(tmp_path)


@pytest.mark.parametrize("body", [BODY, LEDGE])
def test_folders_of_before_there_were_octaves_are_read(body: Embodiment, tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = DeadEnds(DeadEndConfig(body, 8, remembered=4, octaves=0)).with_alarm(Alarm(0.5, 0.1, 100))
    values.save(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert told.pop("octaves") == 0
    (tmp_path / "config.json").write_text(json.dumps(told))
    seen = {
        stream.name: np.full(stream.shape, 0.4, np.float32) for stream in body.streams if stream.name != "instruction"
    }
    loaded, plan = DeadEnds.load(tmp_path), np.zeros((1, 1), np.float32)
    assert loaded.config == values.config
    found, known = (DeadEndJudge(each).judge(seen, plan).risk for each in (loaded, values))
    np.testing.assert_array_equal(found, known)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
@pytest.mark.parametrize("octaves", [0, 2])
@pytest.mark.parametrize("body", [BODY, LEDGE, HALL])
def test_one_observation_is_judged_as_many_are(
    body: Embodiment, octaves: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "onnx":
        pytest.importorskip("onnxruntime", reason="acting by onnx needs pip install 'polysoma[export]'")
    monkeypatch.setenv(VARIABLE, backend)
    torch.manual_seed(0)
    values = DeadEnds(DeadEndConfig(body, 16, 3, remembered=32, octaves=octaves)).eval()
    size = len(values.mean)
    for one in values.parameters():
        torch.nn.init.normal_(one, std=0.3)
    values.measure(torch.randn(100, size) * 3, torch.randn(100, size), np.random.default_rng(0))
    judge, left_out = copy.deepcopy(DeadEndJudge(values)), []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        seen = {stream.name: rng.standard_normal(stream.shape).astype(np.float32) for stream in body.arrays}
        if body is HALL:
            seen["cells"] = rng.integers([3, 1], size=(2, 2)).astype(np.uint8)
        state = torch.from_numpy(np.concatenate([part.reshape(-1) for part in seen.values()]).astype(np.float32))
        plan = np.array([1]) if body is BODY else np.array([[0.2]], np.float32)
        found = judge.judge(seen, plan)
        with torch.inference_mode():
            known = values(state[None]) if body is BODY else values(state[None], torch.from_numpy(plan))
        if body is not BODY:
            np.testing.assert_allclose(found.actions, known[0], atol=1e-5)
            np.testing.assert_allclose(found.risk, known[1], atol=1e-4)
            # What is left out would not have been taken.
            for enough in np.quantile(found.risk, [0, 0.3, 0.6, 1]).tolist():
                fewer = judge.judge(seen, plan, enough)
                taken = [
                    each.actions[(each.risk <= max(enough, each.risk.min() + SPARE) + 1e-6).argmax()]
                    for each in (fewer, found)
                ]
                np.testing.assert_allclose(*taken, atol=1e-6)
                left_out.append(len(fewer.risk) < len(found.risk))
        else:
            np.testing.assert_allclose(found.risk, known[0], atol=1e-4)
            assert found.chance is not None
            np.testing.assert_allclose(found.chance, known[1], atol=1e-4)
        assert found.unlike == pytest.approx(float(known[-1]), abs=1e-4)
    assert body is BODY or any(left_out)


def test_actions_have_values_of_their_own_in_worlds_of_few_states_alone() -> None:
    with pytest.raises(PolysomaError, match="octaves = 0 is for choices in worlds of few states"):
        fit(DeadEndConfig(LEDGE, octaves=0), ledge_logs(0), engine_settings(1))


def test_a_guard_judges_its_own_body_alone(values: DeadEnds) -> None:
    guard = DeadEndGuard(values.with_alarm(Alarm(0.5, 0.1, 100)))
    driver = Noisy(noisy(0.4))
    (made,) = guard.among([Known(driver, (BODY,))])
    assert isinstance(made, Guarded)
    with pytest.raises(PolysomaError, match="a guard of lifegate: expected one of a body that is driven, ledge"):
        guard.among([Known(driver, (LEDGE,))])
    planner = Guarded(driver, guard, "another body")
    agent = Acting().agent(planner, BODY)
    agent.act({"state": WORLD.seen(np.array(WORLD.cell((6, 7)))), "instruction": ""})
    assert agent.session.interventions.judged == 0


def test_evaluate_takes_a_guard(
    values: DeadEnds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with DatasetWriter(tmp_path / "data", BODY) as writer:
        writer.add(logged(0, True, True))
    source = Source([Dataset(tmp_path / "data")], [1.0], 0.0, horizon=Horizon())
    words, trunk = tuple(build_vocabulary(["go"])), TransformerConfig(depth=1, heads=2)
    config = PolicyConfig(
        (BODY,), {BODY.name: source.statistics()}, words, {BODY.name: source.horizon}, width=16, trunk=trunk, heads=2
    )
    checkpoint.save(Policy(config).eval(), tmp_path / "policy")
    values.with_alarm(Alarm(0.4, 0.1, 100, replace=0.4)).save(tmp_path / "guard")
    asked = Evaluate(
        str(tmp_path / "policy"), "lifegate/drag40", episodes=2, workers=1, video=0, json=tmp_path / "out.json",
        guard=str(tmp_path / "guard"),
    )  # fmt: skip
    monkeypatch.setenv("POLYSOMA_FAMILIES", str(FILE))
    simulators.families.cache_clear()
    try:
        asked.run()
        with pytest.raises(PolysomaError, match="--guard: only for the policy of a checkpoint"):
            dataclasses.replace(asked, policy="random").run()
    finally:
        monkeypatch.delenv("POLYSOMA_FAMILIES")
        simulators.families.cache_clear()
    found = json.loads((tmp_path / "out.json").read_text())["interventions"]["lifegate/drag40"]
    assert 0 < found["replaced"] <= found["judged"]
    assert f"the guard replaced {found['replaced']} of {found['judged']} plans" in capsys.readouterr().out


def logged(seed: int, success: bool, terminated: bool) -> Episode:
    state = WORLD.seen(np.array([seed, seed + 1]))
    return Episode(
        BODY, "lifegate/drag40", "go", seed, success, {"state": state}, np.array([1, 2]), np.array([1, 3]), None,
        terminated, not terminated, {"state": WORLD.seen(np.array(seed + 2))},
    )  # fmt: skip


def test_logs_are_read_from_data_sets(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, BODY) as writer:
        for seed, (success, terminated) in enumerate([(True, True), (False, True), (False, False)]):
            writer.add(logged(seed, success, terminated))
    logs = Outcomes.of([Dataset(tmp_path)])
    assert logs.end.tolist() == [0, 1, 0, -1, 0, 0]
    assert logs.actions.tolist() == [1, 3, 1, 3, 1, 3]
    assert logs.following.argmax(1).tolist() == [1, 2, 2, 3, 3, 4]
    assert logs.success.tolist() == [True, True, False, False, False, False]
    with pytest.raises(PolysomaError, match="expected logs with a failure"):
        fit(CONFIG, Outcomes(*(part[:2] for part in vars(logs).values())))
