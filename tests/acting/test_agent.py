from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from conftest import ARM, HORIZONS, observe
from planners import Recording
from polysoma.acting.agent import Acting, Agent, act_together
from polysoma.acting.realtime import RealTime
from polysoma.data.batch import Batch
from polysoma.embodiment import ContinuousActions, Modality, Stream, channels
from polysoma.errors import PolysomaError
from polysoma.nn.trunk import KeyValueCache
from polysoma.policy.policy import Policy
from polysoma.policy.state import PolicyState


class Counting:
    """Stands in for the network: chunk k predicts 0.1 * k + 0.01 * position, and counts how often it is asked."""

    backend = "torch"

    def __init__(self, policy: Policy, scale: float = 1.0) -> None:
        self.config, self.embodiment, self.head, self.horizon = (
            policy.config,
            policy.embodiment,
            policy.head,
            policy.horizon,
        )
        self.text = policy.text
        self.backend = "torch"
        self.asked = 0
        self.scale = scale
        self.seen: list[Batch] = []

    def driving(self, name: str) -> Counting:
        return self

    def begin(self, body: str, instruction: str, goal: None, context: tuple[()], observation_only: bool) -> PolicyState:
        return PolicyState(instruction, {}, KeyValueCache(torch.zeros(1, 2, 1, 1, 4)))

    def respond(
        self, windows: Batch, memories: Sequence[PolicyState], noise: None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += 1
        self.seen.append(windows)
        row = self.scale * (0.1 * self.asked + 0.01 * torch.arange(HORIZONS["arm"].chunk))
        return row[None, :, None].expand(len(windows), -1, 2), torch.zeros(len(windows), 4)


def test_chunks_are_executed_as_told(policy: Policy) -> None:
    network = Counting(policy)
    agent = Agent(network, "arm", "go", Acting(execute=3))  # type: ignore[arg-type]
    actions = [float(agent.act(observe(ARM, t))[0]) for t in range(7)]
    assert actions == pytest.approx([0.1, 0.11, 0.12, 0.2, 0.21, 0.22, 0.3])
    assert network.asked == 3
    agent.reset()
    assert float(agent.act(observe(ARM))[0]) == pytest.approx(0.4), "a new episode begins with a new chunk"


def test_half_a_chunk_by_default(policy: Policy) -> None:
    network = Counting(policy)
    agent = Agent(network, "arm", "go")  # type: ignore[arg-type]
    for t in range(4):
        agent.act(observe(ARM, t))
    assert network.asked == 2


def test_temporal_ensembling(policy: Policy) -> None:
    rate = 0.5
    agent = Agent(Counting(policy), "arm", "go", Acting(ensemble=rate))  # type: ignore[arg-type]
    first, second = (float(agent.act(observe(ARM, t))[0]) for t in range(2))
    assert first == pytest.approx(0.1)
    old, new = 0.11, 0.2
    assert second == pytest.approx((np.exp(-rate) * old + new) / (np.exp(-rate) + 1), abs=1e-5)


def test_limits_are_kept(policy: Policy) -> None:
    agent = Agent(Counting(policy, scale=1e3), "arm", "go")  # type: ignore[arg-type]
    np.testing.assert_array_equal(agent.act(observe(ARM)), [1.0, 1.0])


def test_numbers_that_are_not_finite_are_refused(policy: Policy) -> None:
    agent = Agent(policy, "arm", "go")
    with pytest.raises(PolysomaError, match="not a finite number"):
        agent.act({"state": np.array([0, np.inf, 0])})
    broken = Agent(Counting(policy, scale=float("nan")), "arm", "go")  # type: ignore[arg-type]
    with pytest.raises(PolysomaError, match="not executed"):
        broken.act(observe(ARM))


def test_history_and_previous_actions_reach_the_network(policy: Policy) -> None:
    agent = policy.agent("grid")
    seen: list[Batch] = []
    remembered: list[int] = []
    real = policy.respond

    def spy(windows: Batch, memories: Sequence[PolicyState], noise: None) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(windows)
        remembered.append(memories[0].frames)
        return real(windows, memories)

    policy.respond = spy  # type: ignore[method-assign,assignment]
    actions = [int(agent.act(observe_grid(t))) for t in range(9)]
    assert remembered == [0, 1, 2, 3, 4, 5, 0, 4, 5], "a full window slides by half"
    assert [int(w.lengths[0]) for w in seen] == [1, 1, 1, 1, 1, 1, 4, 1, 1]
    assert seen[0].previous[0, 0] == 3 and seen[3].previous[0, 0] == actions[2]
    np.testing.assert_array_equal(seen[6].previous[0], actions[2:6])
    np.testing.assert_array_equal(seen[6].observations["heading"][0, :, 0], [t % 4 for t in range(3, 7)])


def test_a_new_instruction_is_read(policy: Policy) -> None:
    seen: list[Batch] = []
    real = policy.respond

    def spy(windows: Batch, memories: Sequence[PolicyState], noise: None) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(windows)
        assert memories[0].instruction == windows.texts[0]
        return real(windows, memories)

    policy.respond = spy  # type: ignore[method-assign,assignment]
    agent = policy.agent("grid")
    for t, instruction in enumerate(["do one", "do one", "do two"]):
        agent.act(observe_grid(t) | {"instruction": instruction})
    assert [(w.instructions[0], int(w.lengths[0])) for w in seen] == [("do one", 1), ("do one", 1), ("do two", 3)]


def test_what_was_executed_instead_is_remembered(policy: Policy) -> None:
    agent = policy.agent("grid", seed=1)
    agent.act(observe_grid(0))
    agent.executed(2)
    seen: list[Batch] = []
    real = policy.respond
    policy.respond = lambda windows, *others: seen.append(windows) or real(windows, *others)  # type: ignore[method-assign]
    agent.act(observe_grid(1))
    assert seen[0].previous[0].tolist() == [2] and seen[0].previous_valid[0].tolist() == [True]


def test_acting_together_is_acting_alone(policy: Policy) -> None:
    together = [policy.agent("grid", "do one", seed=s) for s in range(5)]
    alone = [policy.agent("grid", "do one", seed=s) for s in range(5)]
    for t in range(8):
        observations = [observe_grid(t + s) for s in range(5)]
        joint = act_together(together, observations)
        single = [agent.act(o) for agent, o in zip(alone, observations, strict=True)]
        np.testing.assert_array_equal(joint, single)


def test_bodies_act_together(policy: Policy) -> None:
    agents = [policy.agent("grid"), policy.agent("arm"), policy.agent("grid")]
    actions = act_together(agents, [observe_grid(0), observe(ARM), observe_grid(1)])
    assert [np.shape(action) for action in actions] == [(), (2,), ()]


def test_temperature_zero_takes_the_most_probable(policy: Policy) -> None:
    greedy = {int(policy.agent("grid", acting=Acting(temperature=0), seed=s).act(observe_grid(0))) for s in range(20)}
    sampled = {int(policy.agent("grid", acting=Acting(temperature=9), seed=s).act(observe_grid(0))) for s in range(20)}
    assert len(greedy) == 1 and len(sampled) > 1


def test_mistakes_are_explained(policy: Policy) -> None:
    with pytest.raises(PolysomaError, match=r"say which body to drive; this policy knows \['arm', 'grid'\]"):
        Agent(policy)
    with pytest.raises(PolysomaError, match=r"does not know the body 'leg'; it knows \['arm', 'grid'\]"):
        policy.agent("leg")
    with pytest.raises(PolysomaError, match=r"execute must be 1\.\.4"):
        policy.agent("arm", acting=Acting(execute=9))
    with pytest.raises(PolysomaError, match="ensembling"):
        policy.agent("grid", acting=Acting(ensemble=0.1))
    with pytest.raises(PolysomaError, match="no instruction"):
        policy.agent("arm").act({"state": np.zeros(3)})


def observe_grid(t: int) -> dict[str, object]:
    from conftest import GRID

    return observe(GRID, t) | {"heading": np.array([t % 4], np.uint8)}


def test_an_agent_says_how_late_it_is(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = policy.agent("arm", "go")
    # A body at 10 Hz whose decisions take 30, 250 and 90 ms.
    readings = iter([0.0, 0.03, 1.0, 1.25, 2.0, 2.09])
    monkeypatch.setattr("polysoma.acting.agent.time.perf_counter", lambda: next(readings))
    for _ in range(3):
        agent.act(observe(ARM))
    assert (agent.timing.actions, agent.timing.late) == (3, 1)
    assert str(agent.timing) == "1 of 3 actions late at 10 Hz, worst 250.0 ms of 100.0 ms"
    agent.reset()
    assert agent.timing.actions == 0


def test_a_new_episode_closes_the_session_of_the_old_one() -> None:
    planner = Recording()
    agent = Agent(planner, ARM, "go")
    agent.reset()
    assert [session.closed for session in planner.sessions] == [True, False]
    agent.close()
    assert planner.sessions[-1].closed


@pytest.mark.parametrize("acting", [Acting(), RealTime(latency=1)])
def test_arrays_of_the_caller_are_copied(acting: Acting | RealTime) -> None:
    """A camera's driver fills one array again and again; whoever executes an action scales it where it lies."""
    planner = Recording(chunk=4, action=lambda _: np.float32([0.5, -0.5]))
    agent = acting.agent(planner, ARM, instruction="go")
    sensor, given = np.zeros(3, np.float32), []
    for step in range(6):
        sensor[:] = step / 10
        action = agent.act({"state": sensor})
        given.append(action.copy())
        action *= 0
    agent.close()
    told = planner.sessions[0].told
    states = [float(what["state"][0]) for kind, what in told if kind != "executed"]
    assert states == [float(np.float32(step / 10)) for step in range(len(states))] and len(states) >= 4
    np.testing.assert_array_equal(given, [[0.5, -0.5]] * 6)
    np.testing.assert_array_equal([what for kind, what in told if kind == "executed"][:4], [[0.5, -0.5]] * 4)


def test_a_goal_stays_as_it_was_shown() -> None:
    body = dataclasses.replace(ARM, streams=(*ARM.streams, Stream("camera", Modality.IMAGE, (8, 8, 3))))
    pictures = {s.name: np.full(s.shape, 7, np.uint8) for s in body.streams if s.modality is Modality.IMAGE}
    agent = Agent(Recording(), body, "go", goal=pictures)
    for picture in pictures.values():
        picture[:] = 0
    assert agent.goal is not None and all((shown == 7).all() for shown in agent.goal.values())


def test_another_body_of_the_same_name_is_refused(policy: Policy) -> None:
    for other, problem in (
        (dataclasses.replace(ARM, actions=ContinuousActions(channels("a b", "m", -2, 2))), "actions: a in"),
        (dataclasses.replace(ARM, streams=(*ARM.streams, Stream("extra", Modality.IMAGE, (8, 8, 3)))), "extra"),
    ):
        with pytest.raises(
            PolysomaError, match=f"'arm' is not the one of this name that the policy knows: .*{problem}"
        ):
            Agent(policy, other, "go")
    assert Agent(policy, dataclasses.replace(ARM, rate_hz=99.0), "go").body == policy.embodiment("arm")


def test_a_reset_that_is_refused_changes_nothing() -> None:
    planner = Recording()
    agent = Agent(planner, ARM, "go")
    with pytest.raises(PolysomaError, match="this body has no camera"):
        agent.reset("another", goal={})
    assert agent.instruction == "go" and not planner.sessions[0].closed
    agent.act(observe(ARM))


def test_a_plan_that_is_refused_leaves_nothing_to_execute() -> None:
    planner = Recording(chunk=4, action=lambda session: np.full(2, np.nan if len(session.told) == 1 else 0.5))  # type: ignore[attr-defined]
    agent = Agent(planner, ARM, "go")
    with pytest.raises(PolysomaError, match="arm"):
        agent.act(observe(ARM))
    np.testing.assert_array_equal(agent.act(observe(ARM, 1)), np.float32([0.5, 0.5]))
    assert agent.asked


def test_a_session_whose_plans_cannot_be_executed_is_closed() -> None:
    planner = Recording(chunk=2)
    with pytest.raises(PolysomaError, match=r"execute must be 1\.\.2 for arm, got 3"):
        Agent(planner, ARM, "go", Acting(execute=3))
    assert planner.sessions[0].closed
