"""Planners and guards by themselves, and any planner wherever something is driven."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from conftest import ARM, GRID, make_episode, observe
from planners import Forbids, HoverGuard, Recording, Replaces
from polysoma import simulators
from polysoma.acting.agent import Acting, Agent, act_together, plan_together
from polysoma.acting.guards import Guarded, Stopped, Verdict
from polysoma.acting.planner import (
    ExpertPlanner,
    Interventions,
    NoPlan,
    Plan,
    Planner,
    RandomPlanner,
    Session,
    TaskPrompt,
)
from polysoma.acting.policy_planner import PolicyPlanner, policy_behind
from polysoma.acting.realtime import RealTime
from polysoma.acting.retrieval import DemonstrationIndex, Retrieval
from polysoma.acting.steps import Bounded
from polysoma.acting.zones import Watched, Zones
from polysoma.data.batch import Batch
from polysoma.data.dataset import Dataset
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.policy.policy import Policy
from polysoma.rollout.drivers import Behaviour, Checkpoint, Expert, driver_of, name_of
from polysoma.rollout.jobs import Job, interleave
from polysoma.rollout.recording import record
from polysoma.rollout.rollout import Workers, rollout_in_workers


def told(planner: Recording, kind: str, session: int = 0) -> list[object]:
    return [what for which, what in planner.sessions[session].told if which == kind]


# --- what a session is told


def test_a_session_sees_every_frame_and_every_action() -> None:
    planner = Recording(chunk=3, action=lambda _: np.array([0.5, -3.0], np.float32))
    agent = Agent(planner, ARM, "go", Acting(execute=2))
    for step in range(5):
        action = agent.act(observe(ARM, step))
        assert agent.asked == (step % 2 == 0)
    np.testing.assert_array_equal(action, [0.5, -1.0], "limits")
    kinds = [kind for kind, _ in planner.sessions[0].told]
    assert kinds == ["plan", "executed", "observed", "executed", "plan", "executed", "observed", "executed", "plan"]
    np.testing.assert_array_equal(told(planner, "executed"), [[0.5, -1.0]] * 4, "as they were executed")


def test_who_takes_over_is_believed() -> None:
    planner = Recording()
    agent = Agent(planner, ARM, "go")
    agent.act(observe(ARM))
    agent.executed([0.1, 0.2])
    agent.executed([0.3, 9.0])
    agent.act(observe(ARM, 1))
    np.testing.assert_array_equal(told(planner, "executed"), np.float32([[0.3, 1.0]]))
    with pytest.raises(PolysomaError, match=r"expected 2 numbers \['dx', 'dy'\]"):
        agent.executed([1.0])


def test_a_plan_that_is_executed_in_part_elsewhere() -> None:
    planner = Recording(chunk=4, action=lambda _: np.array([0.5, 0.0], np.float32))
    agent = Agent(planner, ARM, "go")
    (plan,) = plan_together([agent], [observe(ARM)])
    assert isinstance(plan, np.ndarray) and plan.shape == (4, 2)
    agent.executed_of_plan(2)
    with pytest.raises(PolysomaError, match="expected 0 to 4 actions of the last chunk, got 5"):
        agent.executed_of_plan(5)
    plan[:] = 9
    plan_together([agent], [observe(ARM, 1)])
    np.testing.assert_array_equal(told(planner, "executed"), [[0.5, 0.0]], "whatever became of the answer")


def test_a_plan_shorter_than_what_is_executed() -> None:
    planner = Recording(chunk=2)
    agent = Agent(planner, ARM, "go", Acting(execute=2))
    planner.chunk = 1
    for step in range(3):
        agent.act(observe(ARM, step))
    assert len(told(planner, "plan")) == 3
    planner.action = lambda _: np.zeros((0, 2), np.float32)
    planner.plan = lambda sessions, _: [Plan(np.zeros((0, 2), np.float32), "none")]  # type: ignore[method-assign]
    with pytest.raises(PolysomaError, match="a plan for arm is empty"):
        agent.act(observe(ARM))


# --- batches


def test_what_is_wrong_with_one_does_not_touch_the_others() -> None:
    planner = Recording(fails=[1])
    agents = [Agent(planner, ARM, "go", seed=seed) for seed in range(4)]
    observations: list[dict[str, object]] = [observe(ARM, seed) for seed in range(4)]
    observations[2]["state"] = np.array([np.nan, 0, 0], np.float32)
    first, failed, unfit, last = act_together(agents, observations)
    assert isinstance(failed, PolysomaError) and "session 1 fails" in str(failed)
    assert isinstance(unfit, PolysomaError) and "not a finite number in ['x']" in str(unfit)
    np.testing.assert_array_equal([first, last], np.zeros((2, 2)))  # type: ignore[list-item]
    assert planner.batches == [3] and not told(planner, "plan", 2), "an unfit observation does not reach the planner"
    plans = plan_together(agents, observations)
    assert [isinstance(plan, PolysomaError) for plan in plans] == [False, True, True, False]


def test_a_policy_that_fails_for_one_session_answers_the_others(policy: Policy) -> None:
    planner = PolicyPlanner(policy)
    agents = [Agent(planner, "grid", "do one", seed=seed) for seed in range(3)]
    respond = policy.respond

    def broken(*arguments: object) -> object:
        predictions, readouts = respond(*arguments)  # type: ignore[arg-type]
        predictions = predictions.clone()
        predictions[1] = np.nan
        return predictions, readouts

    policy.respond = broken  # type: ignore[method-assign,assignment]
    answers = act_together(agents, [observe(GRID, seed) for seed in range(3)])
    assert [isinstance(answer, PolysomaError) for answer in answers] == [False, True, False]
    policy.respond = respond  # type: ignore[method-assign]
    answers = act_together(agents, [observe(GRID, seed) for seed in range(3)])
    assert not any(isinstance(answer, PolysomaError) for answer in answers), "it goes on"


def test_a_batch_that_fails_because_of_one_session_is_answered_one_by_one(policy: Policy) -> None:
    planner = PolicyPlanner(policy, temperature=2.0)
    agents = [Agent(planner, "grid", "do one", seed=seed) for seed in range(4)]
    alone = [Agent(planner, "grid", "do one", seed=seed) for seed in range(4)]
    respond = policy.respond

    def refuses(windows: Batch, *others: object) -> object:
        if (windows.observations["heading"][:, -1] == 3).any():
            raise PolysomaError("a three")
        return respond(windows, *others)  # type: ignore[arg-type]

    for step in range(4):
        observations = [observe(GRID, 10 * seed + step) | {"heading": np.zeros(1, np.uint8)} for seed in range(4)]
        expected = [agent.act(seen) for agent, seen in zip(alone, observations, strict=True)]
        if step == 2:
            observations[1]["heading"] = np.full(1, 3, np.uint8)
            policy.respond = refuses  # type: ignore[method-assign,assignment]
        answers = act_together(agents, observations)
        policy.respond = respond  # type: ignore[method-assign]
        failed = [isinstance(answer, PolysomaError) for answer in answers]
        assert failed == [False, step == 2, False, False]
        others = [row for row in range(4) if row != 1]
        assert [answers[row] for row in others] == [expected[row] for row in others]


@pytest.mark.parametrize("together", [act_together, plan_together])
def test_what_cannot_be_read_or_judged_is_one_bodys_problem(together: Callable[..., list[object]]) -> None:
    class Judge:
        def judge(self, observation: Observation, plan: Plan) -> Verdict:
            if observation["state"][0] > 2:
                raise ZeroDivisionError("of the guard")
            return Verdict.allow()

    planner = Guarded(Recording(chunk=1, action=lambda session: [np.zeros(2), None, "x"][session.seed]), Judge())  # type: ignore[attr-defined]
    agents = [Agent(planner, ARM, "go", seed=seed) for seed in (0, 0, 0, 1, 2, 0)]
    observations: list[dict[str, Any]] = [{"state": np.zeros(3, np.float32)} for _ in agents]
    observations[1]["state"] = [0.0, [1.0], 2.0]
    observations[2]["state"] = np.float32([3, 0, 0])
    answers = together(agents, observations)
    for place, problem in (
        (1, "expected arrays of numbers"),
        (2, "ZeroDivisionError"),
        (3, "expected"),
        (4, "expected"),
    ):
        assert isinstance(answers[place], PolysomaError) and problem in str(answers[place])
    assert isinstance(answers[0], np.ndarray) and isinstance(answers[5], np.ndarray)


def test_an_expert_that_makes_a_mistake_does_not_touch_the_others() -> None:
    def mistaken() -> np.ndarray:
        raise PolysomaError("out of order")

    agents = [Agent(ExpertPlanner(), ARM, "go", expert=expert) for expert in (lambda: np.zeros(2), mistaken)]
    good, bad = act_together(agents, [observe(ARM)] * 2)
    assert isinstance(good, np.ndarray) and "out of order" in str(bad)


def test_agents_of_one_policy_share_a_batch_however_they_were_made(policy: Policy) -> None:
    agents = [policy.agent("arm", "do one"), Agent(policy, "arm", "do one"), Agent(PolicyPlanner(policy), "arm", "go")]
    asked: list[int] = []
    respond = policy.respond
    policy.respond = lambda windows, *others: asked.append(len(windows)) or respond(windows, *others)  # type: ignore[method-assign,func-returns-value]
    act_together(agents, [observe(ARM, seed) for seed in range(3)])
    assert asked == [3]


def test_draws_do_not_depend_on_the_batch(policy: Policy) -> None:
    planner = PolicyPlanner(policy, temperature=2.0)
    alone = [Agent(planner, "grid", "do one", seed=seed) for seed in (7, 8)]
    single = [[int(agent.act(observe(GRID, step))) for step in range(10)] for agent in alone]
    together = [Agent(planner, "grid", "do one", seed=seed) for seed in (8, 3, 7)]
    joint = [[int(a) for a in act_together(together, [observe(GRID, step)] * 3)] for step in range(10)]  # type: ignore[arg-type]
    assert [row[2] for row in joint] == single[0] and [row[0] for row in joint] == single[1]
    assert single[0] != single[1]


# --- planners


def test_random_actions_are_seeded_and_within_limits() -> None:
    def actions(seed: int) -> np.ndarray:
        agent = Agent(RandomPlanner(), ARM, "go", seed=seed)
        return np.stack([agent.act(observe(ARM, step)) for step in range(20)])

    np.testing.assert_array_equal(actions(1), actions(1))
    assert not np.array_equal(actions(1), actions(2)) and (np.abs(actions(1)) <= 1).all()
    assert Agent(RandomPlanner(), GRID, "go").act(observe(GRID)) in range(3)


def test_an_expert_is_asked_through_the_prompt() -> None:
    def gives_up() -> np.ndarray:
        raise NoPlan("no way there")

    assert Agent(ExpertPlanner(), ARM, "go", expert=lambda: [0.5, 2.0]).act(observe(ARM)).tolist() == [0.5, 1.0]
    with pytest.raises(NoPlan, match="no way there"):
        Agent(ExpertPlanner(), ARM, "go", expert=gives_up).act(observe(ARM))
    with pytest.raises(PolysomaError, match="arm: there is no expert here"):
        Agent(ExpertPlanner(), ARM, "go")


def test_choices_can_be_drawn_again_under_other_probabilities(policy: Policy) -> None:
    session = PolicyPlanner(policy, temperature=1.0).start(TaskPrompt(GRID), 0)
    (plan,) = PolicyPlanner(policy, temperature=1.0).plan([session], [GRID.check_observation(observe(GRID))])
    assert isinstance(plan, Plan) and plan.log_probabilities is not None and plan.choice_noise is not None
    assert plan.actions.dtype == np.int64
    np.testing.assert_array_equal(plan.actions, (plan.log_probabilities + plan.choice_noise).argmax(-1))
    same = plan.with_log_probabilities(plan.log_probabilities, "again")
    assert (same.actions == plan.actions).all() and same.source == "again"
    forbidden = plan.log_probabilities.copy()
    forbidden[:, plan.actions] = -np.inf
    assert plan.with_log_probabilities(forbidden, "again").actions != plan.actions


def test_mistakes_are_explained(policy: Policy) -> None:
    with pytest.raises(PolysomaError, match=r"a RandomPlanner knows no bodies by their names.*got None"):
        Agent(RandomPlanner())
    with pytest.raises(PolysomaError, match=r"a RandomPlanner knows no bodies by their names.*got 'arm'"):
        Agent(RandomPlanner(), "arm")
    with pytest.raises(PolysomaError, match="a temperature belongs to what draws"):
        Agent(PolicyPlanner(policy), "arm", acting=Acting(temperature=0.0))
    with pytest.raises(PolysomaError, match="temperature must not be negative"):
        PolicyPlanner(policy, -1.0)
    with pytest.raises(PolysomaError, match=r"does not know the body 'leg'"):
        Agent(Guarded(policy, Forbids(np.float32(1))), "leg")
    with pytest.raises(PolysomaError, match="expected 'expert', 'random', a checkpoint, a planner"):
        driver_of(3)  # type: ignore[arg-type]


# --- guards


def test_a_guard_allows_replaces_and_stops() -> None:
    big = Recording(chunk=2, action=lambda _: np.array([0.8, 0.0], np.float32))
    allowed = Agent(Guarded(big, Forbids(np.float32(0.9))), ARM, "go")
    np.testing.assert_array_equal(allowed.act(observe(ARM)), np.float32([0.8, 0.0]))
    assert allowed.plan is not None and allowed.plan.risk == pytest.approx(0.8) and allowed.plan.source == "recording"

    replaced = Agent(Guarded(big, Replaces(np.float32([[7.0, 0.1]]))), ARM, "go")
    for step in range(3):
        np.testing.assert_array_equal(replaced.act(observe(ARM, step)), np.float32([1.0, 0.1]))
    assert replaced.session.interventions == Interventions(judged=3, replaced=3)
    assert replaced.plan is not None and replaced.plan.source == "guard"
    np.testing.assert_array_equal(told(big, "executed", -1), np.float32([[1.0, 0.1]] * 2), "what was executed is told")

    stopped = Agent(Guarded(big, Forbids(np.float32(0.5))), ARM, "go")
    with pytest.raises(Stopped, match="arm was stopped: too far") as caught:
        stopped.act(observe(ARM))
    assert caught.value.risk == pytest.approx(0.8) and stopped.session.interventions.stopped == 1
    stopped.close()
    assert big.sessions[-1].closed


def test_a_guard_sees_actions_as_they_would_be_executed() -> None:
    seen: list[np.ndarray] = []

    class Looks:
        def judge(self, observation: Observation, plan: Plan) -> Verdict:
            seen.append(plan.actions)
            return Verdict.allow()

    Agent(Guarded(Recording(action=lambda _: np.float32([5.0, 0.0])), Looks()), ARM, "go").act(observe(ARM))
    np.testing.assert_array_equal(seen[0], [[1.0, 0.0]])


def test_a_guard_stops_one_body_and_not_its_neighbours() -> None:
    planner = Recording(action=lambda session: np.float32([0.1 * session.seed, 0.0]))  # type: ignore[attr-defined]
    guarded = Guarded(planner, Forbids(np.float32(0.15)))
    agents = [Agent(guarded, ARM, "go", seed=seed) for seed in range(3)]
    answers = act_together(agents, [observe(ARM)] * 3)
    assert [isinstance(answer, Stopped) for answer in answers] == [False, False, True]
    assert planner.batches == [3]


def test_what_a_guard_puts_in_the_place_of_a_plan_is_not_averaged() -> None:
    planner = Recording(chunk=4, action=lambda session: np.full(2, len(session.told) / 10))  # type: ignore[attr-defined]
    replaced = np.zeros((4, 2), np.float32)
    agent = Agent(Guarded(planner, Replaces(replaced, allowed=2)), ARM, "go", Acting(ensemble=0.0))
    actions = [float(agent.act(observe(ARM, step))[0]) for step in range(4)]
    assert actions == pytest.approx([0.1, (0.1 + 0.3) / 2, 0, 0])


@pytest.mark.parametrize("ensemble", [None, 0.0])
def test_nothing_is_executed_that_a_guard_did_not_judge(ensemble: float | None) -> None:
    steps = iter(range(100))

    class Counts:
        """Allows, and keeps the first numbers of the actions that it is shown."""

        shown: ClassVar[list[float]] = []

        def judge(self, observation: Observation, plan: Plan) -> Verdict:
            self.shown += plan.actions[:, 0].tolist()
            return Verdict.allow()

    planner = Recording(chunk=4, action=lambda _: np.float32([next(steps) / 100, 0]))
    agent = Agent(Guarded(planner, Counts(), span=2), ARM, "go", Acting(ensemble=ensemble))
    assert agent.session.chunk == 2
    done = [float(agent.act(observe(ARM, step))[0]) for step in range(6)]
    assert len(Counts.shown) == 12
    if ensemble is None:
        assert done == Counts.shown[::2]
    whole = Agent(Guarded(Recording(chunk=4), Counts(), span=2), ARM, "go", Acting(2))
    np.testing.assert_array_equal(plan_together([whole], [observe(ARM)])[0], np.zeros((2, 2)))
    other = Guarded(Recording(chunk=4), Counts(), "another body", 2)
    assert Agent(other, ARM, "go").session.chunk == 4
    for acting in (Acting(3), RealTime(latency=2)):
        with pytest.raises(PolysomaError, match=r"execute must be 1\.\.2 for arm|must have more than 2 actions, got 2"):
            acting.agent(Guarded(Recording(chunk=4), Counts(), span=2), ARM, instruction="go")


def test_a_plan_is_cut_with_its_probabilities() -> None:
    likely, noise = np.log(np.full((3, 2), 0.5, np.float32)), np.arange(6.0).reshape(3, 2)
    cut = Plan(np.array([0, 1, 0]), "policy", np.zeros(7), likely, noise, 0.5).first(2)
    assert cut.actions.tolist() == [0, 1] and cut.risk == 0.5 and cut.readout is not None and len(cut.readout) == 7
    np.testing.assert_array_equal(cut.choice_noise, noise[:2])
    assert cut.log_probabilities is not None and cut.log_probabilities.shape == (2, 2)
    assert Plan(np.zeros((1, 2)), "policy").first(3).log_probabilities is None


def test_guards_around_guards_count_once() -> None:
    inner = Guarded(Recording(), Replaces(np.ones((1, 2), np.float32)))
    agent = Agent(Guarded(inner, Forbids(np.float32(0.5))), ARM, "go")
    with pytest.raises(Stopped):
        agent.act(observe(ARM))
    interventions = agent.session.interventions
    assert (interventions.replaced, interventions.stopped) == (1, 1)


def test_wrappers_compose(policy: Policy) -> None:
    pytest.importorskip("usearch", reason="retrieval needs pip install 'polysoma[memory]'")
    index = DemonstrationIndex(policy, "arm")
    for seed in range(3):
        index.add(make_episode(ARM, 12, seed, instruction="do one"))
    plain = policy.agent("arm", "do one").act(observe(ARM))
    looked_up = Agent(Retrieval(policy, index), "arm", "do one").act(observe(ARM))
    assert not np.array_equal(plain, looked_up)
    composed = Guarded(Retrieval(policy, index), Forbids(np.float32(2)))
    agent = Agent(composed, "arm", "do one")
    np.testing.assert_array_equal(agent.act(observe(ARM)), looked_up)
    assert agent.plan is not None and agent.plan.source == "retrieval" and agent.session.interventions.judged == 1
    assert policy_behind(composed) is policy
    # The other way round: what a guard replaced is not mixed with demonstrations.
    inside = Agent(Retrieval(Guarded(policy, Replaces(np.zeros((1, 2), np.float32))), index), "arm", "do one")
    np.testing.assert_array_equal(inside.act(observe(ARM)), [0, 0])
    # Bodies of which there are no demonstrations are driven as before.
    assert Agent(composed, "grid", "do one", seed=3).act(observe(GRID)) == policy.agent("grid", "do one", seed=3).act(
        observe(GRID)
    )
    with pytest.raises(PolysomaError, match="retrieval needs plans with a readout"):
        Agent(Retrieval(Recording(), index), ARM, "do one").act(observe(ARM))


@pytest.mark.parametrize(
    "around", [lambda planner: Guarded(planner, HoverGuard()), lambda planner: Bounded(planner, {"dx": 1.0}),
               lambda planner: Watched(planner, {})],
)  # fmt: skip
def test_what_is_counted_further_inside_counts_outside(around: Callable[[Planner], Planner]) -> None:
    zones = {"arm": Zones([{"x": (-9, 9)}])}
    agent = Agent(around(Watched(Recording(), zones)), ARM, "go")
    # The beginning is no step.
    for _ in range(3):
        agent.act(observe(ARM))
    assert agent.session.zones is not None and (agent.session.zones.of, agent.session.zones.steps) == (2, 2)


# --- rollouts: any planner, in evaluations and recordings


@dataclass(frozen=True)
class Stops:
    """Stops everything."""

    def judge(self, observation: Observation, plan: Plan) -> Verdict:
        return Verdict.stop(1.0, "enough")


def guarded_expert() -> Planner:
    return Guarded(ExpertPlanner(), HoverGuard())


class GivesUp(Recording):
    """Does nothing, and gives up at once in episodes of odd seeds."""

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        plans = super().plan(sessions, observations)
        odd = [session.seed % 2 for session in sessions]  # type: ignore[attr-defined]
        return [NoPlan("had enough") if gives_up else plan for gives_up, plan in zip(odd, plans, strict=True)]


class Repeating(ExpertPlanner):
    """Plans the expert's action eight times."""

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        super().start(prompt, seed)
        return Session(prompt, 8)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        plans = super().plan(sessions, observations)
        return [Plan(np.repeat(plan.actions, 8, 0), "expert") if isinstance(plan, Plan) else plan for plan in plans]


def test_a_planner_is_evaluated_as_an_expert_is() -> None:
    plain = evaluate("expert", ["drone/hover"], 3, 1000)
    guarded = evaluate(guarded_expert, ["drone/hover"], 3, 1000)
    assert guarded.tasks["drone/hover"].steps == plain.tasks["drone/hover"].steps
    assert guarded.driver == "guarded_expert" and plain.driver == "expert"
    counts = guarded.interventions["drone/hover"]
    assert counts.judged == sum(plain.tasks["drone/hover"].steps) and not counts.stopped
    expected = {"judged": counts.judged, "replaced": 0, "stopped": 0, "alarms": 0}
    assert guarded.to_json()["interventions"] == {"drone/hover": expected}
    assert "interventions" not in plain.to_json()


def test_a_planner_of_this_process_and_what_makes_one_in_others() -> None:
    here = evaluate(guarded_expert(), ["drone/hover"], 2, 1000)
    there = evaluate(functools.partial(Guarded, ExpertPlanner(), HoverGuard()), ["drone/hover"], 2, 1000, workers=2)
    assert here.tasks["drone/hover"].steps == there.tasks["drone/hover"].steps
    assert there.interventions == here.interventions
    with pytest.raises(PolysomaError, match="Guarded lives in this process: for worker processes give what makes one"):
        evaluate(guarded_expert(), ["drone/hover"], 2, 1000, workers=2)


def test_who_stops_or_gives_up_ends_its_own_episode() -> None:
    jobs = interleave(["drone/hover"], range(2))
    stopped = list(rollout_in_workers(jobs, Behaviour(Guarded(ExpertPlanner(), Stops()))))
    assert [outcome.error for outcome in stopped] == ["drone was stopped: enough"] * 2
    assert [(outcome.steps, outcome.interventions.stopped) for outcome in stopped] == [(0, 1), (0, 1)]
    jobs = interleave(["drone/hover"], range(4))
    played = {o.seed: o for o in rollout_in_workers(jobs, Behaviour(GivesUp(), max_steps=5))}
    assert [played[seed].error for seed in range(4)] == ["", "had enough", "", "had enough"]
    assert [played[seed].steps for seed in range(4)] == [5, 0, 5, 0]


def test_a_mistake_ends_the_rollout() -> None:
    with pytest.raises(PolysomaError, match="session 1 fails"):
        list(rollout_in_workers(interleave(["drone/hover"], range(3)), Behaviour(Recording(fails=[1]))))


def test_any_planner_is_recorded_with_the_experts_labels(tmp_path: Path) -> None:
    planner = Recording(chunk=3)
    counts = record(["drone/hover"], 2, tmp_path, Behaviour(planner, max_steps=7), seed=3)
    assert counts.kept == {"drone/hover": 2}
    data = Dataset(tmp_path / "drone")
    np.testing.assert_array_equal(data.executed, np.zeros_like(data.executed))
    assert np.abs(np.asarray(data.actions)).max() > 0
    # Between two observations every session was told what was executed.
    assert len(told(planner, "executed")) == 6 and [session.seed for session in planner.sessions] == [3, 4]
    assert all(session.closed for session in planner.sessions)


def test_noise_is_told(tmp_path: Path) -> None:
    planner = Recording()
    record(["drone/hover"], 1, tmp_path, Behaviour(planner, noise=0.3, max_steps=12))
    data = Dataset(tmp_path / "drone")
    np.testing.assert_array_equal(told(planner, "executed"), np.asarray(data.executed)[:-1])
    assert np.abs(np.asarray(data.executed)).max() > 0


def test_an_evaluation_on_time() -> None:
    every = [RealTime(blend=0, latency=latency) for latency in (1, 1, 6)]
    late = [evaluate(Repeating, ["drone/hover"], 2, 1000, acting=acting) for acting in every]
    assert late[0].tasks["drone/hover"].steps == late[1].tasks["drone/hover"].steps
    assert late[0].tasks["drone/hover"].steps != late[2].tasks["drone/hover"].steps
    assert late[2].settings["real_time"]["latency"] == 6


def test_drivers_by_name() -> None:
    assert driver_of("expert") == Expert() and driver_of("runs/x") == Checkpoint("runs/x")
    assert name_of(driver_of("random")) == "random" and name_of(Checkpoint("runs/x", 0.5)) == "runs/x"
    assert name_of(functools.partial(guarded_expert)) == "partial" and name_of(guarded_expert) == "guarded_expert"
    with pytest.raises(PolysomaError, match="workers and slots must be at least 1"):
        Workers(1, 0)


def test_an_experts_label_is_asked_once_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = type(simulators.make("babyai/GoToLocal"))
    asked = []
    original = environment.expert_action
    monkeypatch.setattr(environment, "expert_action", lambda self: asked.append(1) or original(self))
    result = record(["babyai/GoToLocal"], 1, tmp_path, Behaviour())
    assert len(asked) == result.steps > 0


def test_what_guards_saw_goes_from_process_to_process() -> None:
    """Planners that draw others leave a way to do so with their plans, which may hold all that they know."""

    class Drawing(Recording):
        def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
            plans = [plan for plan in super().plan(sessions, observations) if isinstance(plan, Plan)]
            return [dataclasses.replace(plan, others=lambda count: np.zeros((count, 1, 4))) for plan in plans]

    behaviour = Behaviour(Guarded(Drawing(), HoverGuard()), demonstrates=True, max_steps=3)
    (outcome,) = rollout_in_workers([Job("drone/hover", 0, kept=True)], behaviour)
    assert len(outcome.judged) == 3 and pickle.dumps(outcome)
