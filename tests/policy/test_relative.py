"""Actions as offsets from the command executed last, and by a gate between such offsets and places."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ARM, HORIZONS, make_episode, observe
from polysoma.acting.agent import Acting
from polysoma.acting.planner import Plan, TaskPrompt
from polysoma.acting.policy_planner import PolicyPlanner
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.data.windows import gather
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import Channel, ContinuousActions
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.learning.finetuning import recipe_for, with_steps
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train
from polysoma.nn.heads import GatedHead, HeadConfig
from polysoma.nn.trunk import TransformerConfig
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy

SERVO = dataclasses.replace(
    ARM,
    name="servo",
    body="servo",
    actions=ContinuousActions((Channel("y", "m", -2, 2), Channel("x", "1", -2, 2))),
)
FEELING = dataclasses.replace(SERVO, actions=ContinuousActions((Channel("y", "m", -2, 2), Channel("x", "m", -2, 2))))
"""As the servo, but its state says of both channels at what they are."""
HORIZON = Horizon(chunk=4, previous_action=True)
"""The first command is a place and relative, the second has no unit and is not; both are among the state's channels."""
MEASURED = np.array([1, 0], np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    with DatasetWriter(tmp_path / "servo", SERVO) as writer:
        for seed in range(1, 5):
            episode = make_episode(SERVO, 6 + seed, seed, instruction="do one")
            writer.add(dataclasses.replace(episode, executed=episode.actions + np.float32(0.25)))
    with DatasetWriter(tmp_path / "looks", SERVO) as writer:
        writer.add(make_episode(SERVO, 1, 9, instruction="do one"))
    return Source([Dataset(tmp_path / name) for name in ("servo", "looks")], [1.0, 1.0], 0.0, horizon=HORIZON)


def make_relative(source: Source, **how: tuple[str, ...] | HeadConfig) -> Policy:
    """A policy of offsets, or whose actions are predicted in another way."""
    statistics = source.statistics() | {"offset": source.offsets(every="gated" in how)}
    config = PolicyConfig(
        (SERVO,),
        {"servo": statistics},
        ("do", "one"),
        {"servo": HORIZON},
        width=32,
        trunk=TransformerConfig(depth=2, heads=2),
        heads=2,
        **(how or {"relative": ("servo",)}),  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    return Policy(config).eval()


def make_gated(source: Source, gate: float) -> Policy:
    """A gated policy that says nothing of its own, and whose gates all stand like this."""
    policy = silenced(make_relative(source, gated=("servo",)))
    head = policy.head("servo")
    assert isinstance(head, GatedHead)
    with torch.no_grad():
        head.linear.bias.view(3, -1)[2] = gate
    return policy


def silenced(policy: Policy) -> Policy:
    for parameter in policy.heads.parameters():
        torch.nn.init.zeros_(parameter)
    return policy


def test_offsets_are_measured_from_what_was_executed(source: Source) -> None:
    # Labels move by 0.01 a step in their first channel; executed is a quarter above them.
    offsets = source.offsets()
    mean, std = offsets.mean.reshape(HORIZON.chunk, 2), offsets.std.reshape(HORIZON.chunk, 2)
    assert mean[0, 0] == pytest.approx(0.01 - 0.25) and std[0, 0] < 1e-5 and (np.diff(mean[:, 0]) > 0).all()
    # The second is the number of the episode in hundredths, whatever was executed.
    assert 0.01 < mean[0, 1] < 0.04 and std[0, 1] > 0.005


def test_a_head_that_says_nothing_repeats_the_last_command(source: Source) -> None:
    policy = silenced(make_relative(source))
    windows = gather(source.datasets[0], np.array([0, 1]), np.array([0, 3]), HORIZON)
    mean = source.offsets().mean.reshape(HORIZON.chunk, 2)
    state = windows.observations["state"]
    # The first frame of an episode follows no command: the state's y and x stand in for one.
    reference = np.stack([state[0, 0, [1, 0]].numpy(), windows.previous[1, 0].numpy()]) * MEASURED
    np.testing.assert_allclose(policy.predict(windows).numpy(), reference[:, None] + mean, atol=1e-5)


def test_a_command_of_zeros_is_a_command(source: Source) -> None:
    """A true command of zeros is the reference of the next one; only where there was none does the state stand in."""
    policy = silenced(make_relative(source))
    windows = gather(source.datasets[0], np.array([0]), np.array([3]), HORIZON)
    windows.previous[:] = 0
    mean = source.offsets().mean.reshape(HORIZON.chunk, 2)
    np.testing.assert_allclose(policy.predict(windows)[0].numpy(), mean, atol=1e-5)
    agent = policy.agent("servo", "do one", Acting(execute=1))
    agent.act(observe(SERVO, 1))
    agent.executed(np.zeros(2, np.float32))
    np.testing.assert_allclose(agent.act(observe(SERVO, 2)), np.clip(mean[0], -2, 2), atol=1e-5)


def test_the_loss_is_that_of_offsets(source: Source) -> None:
    policy = silenced(make_relative(source))
    windows = gather(source.datasets[0], np.array([2]), np.array([3]), HORIZON)
    offsets, (count, size) = source.offsets(), (HORIZON.chunk, 2)
    assert windows.actions is not None and windows.action_valid is not None
    target = windows.actions[0, 0].numpy() - windows.previous[0, 0].numpy() * MEASURED
    missed = np.abs(target - offsets.mean.reshape(count, size)) / offsets.scale.reshape(count, size)
    expected = missed.mean(-1)[windows.action_valid[0, 0].numpy()].sum()
    assert policy.loss(windows).item() == pytest.approx(expected, rel=1e-4)


def test_an_agent_goes_on_from_what_was_executed(source: Source) -> None:
    policy = silenced(make_relative(source))
    step = source.offsets().mean[:2]
    agent = policy.agent("servo", "do one", Acting(execute=1))
    first = observe(SERVO, 1)
    place = np.asarray(first["state"])[[1, 0]] * MEASURED
    np.testing.assert_allclose(agent.act(first), np.clip(place + step, -2, 2), atol=1e-5)
    agent.executed(np.array([1.0, 0.5], np.float32))
    np.testing.assert_allclose(agent.act(observe(SERVO, 2)), np.array([1.0, 0.0]) + step, atol=1e-5)


def test_a_gate_is_between_a_place_and_an_offset(source: Source) -> None:
    windows = gather(source.datasets[0], np.array([0, 1]), np.array([0, 3]), HORIZON)
    place = np.broadcast_to(source.statistics()["action"].mean, (HORIZON.chunk, 2))
    # A unit or none, here every channel goes on from the last command.
    onward = windows.previous[1, 0].numpy() + source.offsets(every=True).mean.reshape(HORIZON.chunk, 2)
    for gate, share in ((30.0, 1.0), (-30.0, 0.0), (0.0, 0.5)):
        first, later = make_gated(source, gate).predict(windows).numpy()
        # Before an episode's first frame nothing was done, so there is no offset.
        np.testing.assert_allclose(first, place, atol=1e-5)
        np.testing.assert_allclose(later, share * place + (1 - share) * onward, atol=1e-5)


def test_a_gated_body_that_feels_its_joints_begins_where_they_are(source: Source) -> None:
    assert len(FEELING.positions) == 2
    policy = make_gated(source, -30.0)
    felt = Policy(dataclasses.replace(policy.config, embodiments=(FEELING,))).eval()
    felt.load_state_dict(policy.state_dict())
    windows = dataclasses.replace(
        gather(source.datasets[0], np.array([0, 1]), np.array([0, 3]), HORIZON), embodiment=FEELING
    )
    mean = source.offsets(every=True).mean.reshape(HORIZON.chunk, 2)
    before = np.stack([windows.observations["state"][0, 0, [1, 0]].numpy(), windows.previous[1, 0].numpy()])
    np.testing.assert_allclose(felt.predict(windows).numpy(), before[:, None] + mean, atol=1e-5)


def test_a_new_gate_begins_between_the_mean_and_the_last_command(source: Source) -> None:
    windows = gather(source.datasets[0], np.array([1]), np.array([3]), HORIZON)
    policy = make_relative(source, gated=("servo",))
    known, offsets = source.statistics()["action"], source.offsets(every=True)
    apart = offsets.scale.reshape(HORIZON.chunk, 2)
    share = apart**2 / (apart**2 + known.scale**2)
    onward = windows.previous[0, 0].numpy() + offsets.mean.reshape(HORIZON.chunk, 2)
    expected = share * known.mean + (1 - share) * onward
    assert ((share > 0.007) & (share < 0.993)).any()
    np.testing.assert_allclose(policy.predict(windows)[0].numpy(), expected, atol=0.01)


def test_offsets_depend_on_how_far_the_joints_lag_behind(source: Source, tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "feeling", FEELING) as writer:
        for seed in range(1, 4):
            episode = make_episode(FEELING, 8, seed, instruction="do one")
            writer.add(dataclasses.replace(episode, executed=episode.actions + np.float32(0.25)))
    dataset = Dataset(tmp_path / "feeling")
    own = Source([dataset], [1.0], 0.0, horizon=HORIZON)
    lags = own.lags()
    assert lags is not None and source.lags() is None
    after = np.arange(len(dataset)).reshape(3, 8)[:, 1:].ravel()
    missing = dataset.executed[after - 1] - dataset.observations["state"][after][:, [1, 0]]
    np.testing.assert_allclose(lags.mean, missing.mean(0), rtol=1e-5)
    offsets = own.offsets(every=True)
    statistics = own.statistics() | {"offset": offsets, "lag": lags}
    config = dataclasses.replace(
        make_gated(source, 0.0).config, embodiments=(FEELING,), statistics={"servo": statistics}
    )
    policy = silenced(Policy(config).eval())
    head = policy.head("servo")
    assert isinstance(head, GatedHead) and head.lag is not None
    windows = gather(dataset, np.array([0, 1]), np.array([0, 3]), HORIZON)
    with torch.no_grad():
        head.linear.bias.view(3, -1)[2] = -30.0
    begun = policy.predict(windows).numpy()
    weight = np.random.default_rng(0).normal(size=(HORIZON.chunk * 2, 2)).astype(np.float32)
    with torch.no_grad():
        head.lag.copy_(torch.from_numpy(weight))
    lag = (
        windows.previous[1, 0].numpy() - windows.observations["state"][1, 0, [1, 0]].numpy() - lags.mean
    ) / lags.scale
    added = (weight @ lag * offsets.scale).reshape(HORIZON.chunk, 2)
    now = policy.predict(windows).numpy()
    # Before an episode's first frame nothing was commanded that it could lag behind.
    np.testing.assert_allclose(now[0], begun[0], atol=1e-5)
    np.testing.assert_allclose(now[1], begun[1] + added, atol=1e-4)
    assert np.abs(added).max() > 0.01


def test_what_is_new_of_a_gate_is_learnt_from_data(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "feeling", FEELING) as writer:
        for seed in range(3):
            writer.add(make_episode(FEELING, 8, seed, instruction="do one"))
    table = {
        "data": [str(tmp_path / "feeling")], "bodies": {"servo": {"batch": 4, **HORIZON.to_json()}},
        "policy": {"width": 32, "depth": 1, "heads": 2}, "gated": ["servo"], "steps": 2, "warmup": 1,
    }  # fmt: skip
    policy = checkpoint.load_for_training(train(recipe_from_table(table, "test"), tmp_path / "run"))
    head = policy.head("servo")
    assert isinstance(head, GatedHead) and head.lag is not None and head.lag.abs().max() > 0
    assert policy.roles()["heads.servo.lag"] == "readout"


def test_a_gated_loss_is_in_deviations_of_the_actions(source: Source) -> None:
    windows = gather(source.datasets[0], np.array([2]), np.array([3]), HORIZON)
    policy = make_gated(source, 0.5)
    assert windows.actions is not None and windows.action_valid is not None
    missed = (policy.predict(windows)[0] - windows.actions[0, 0]).abs() / source.statistics()["action"].scale
    expected = missed.mean(-1)[windows.action_valid[0, 0]].sum().item()
    assert policy.loss(windows).item() == pytest.approx(expected, rel=1e-4)


def test_a_gated_agent_goes_on_from_what_was_executed(source: Source) -> None:
    step = source.offsets(every=True).mean[:2]
    agent = make_gated(source, -30.0).agent("servo", "do one", Acting(execute=1))
    agent.act(observe(SERVO, 1))
    agent.executed(np.array([1.0, 0.5], np.float32))
    np.testing.assert_allclose(agent.act(observe(SERVO, 2)), np.array([1.0, 0.5]) + step, atol=1e-5)


@pytest.mark.parametrize("how", ["relative", "gated"])
def test_exported_policies_do_the_same(how: str, source: Source, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="exporting needs pip install 'polysoma[export]'")
    from polysoma.policy.export import export_onnx

    policy = make_relative(source, **{how: ("servo",)})
    export_onnx(policy, "servo", tmp_path / "servo.onnx")
    session = runtime.InferenceSession(str(tmp_path / "servo.onnx"))
    words = policy.text.encode(["do one"])
    ids = np.zeros((1, 6), np.int64)
    ids[0, : words.shape[1]] = words[0]
    for start in (0, 2):
        windows = gather(source.datasets[0], np.array([0]), np.array([start]), HORIZON)
        inputs = {
            "words": ids,
            "length": windows.lengths,
            "previous": windows.previous,
            "previous_valid": windows.previous_valid,
            **windows.observations,
        }
        wanted = {value.name for value in session.get_inputs()}
        (chunk,) = session.run(None, {name: np.asarray(value) for name, value in inputs.items() if name in wanted})
        # In float32, while predict multiplies in bfloat16.
        np.testing.assert_allclose(chunk, policy.predict(windows)[0], atol=2e-2)


@pytest.mark.parametrize("how", ["relative", "gated"])
def test_a_checkpoint_changes_how_it_predicts(how: str, source: Source, tmp_path: Path) -> None:
    table = {
        "data": [str(source.datasets[0].root)],
        "bodies": {"servo": {"batch": 4, "chunk": 4, "previous_action": True}},
        "policy": {"width": 32, "depth": 2, "heads": 2},
        "steps": 2,
        "warmup": 1,
    }
    absolute = train(recipe_from_table(table, "test"), tmp_path / "absolute")
    changed = train(
        recipe_from_table(table | {"init": str(absolute), how: ["servo"], "learning_rate": 1e-9}, "test"),
        tmp_path / "relative",
    )
    policy = checkpoint.load(changed)
    assert getattr(policy.config, how) == ("servo",) and getattr(checkpoint.load(absolute).config, how) == ()
    before, after = (checkpoint.load_for_training(path).state_dict() for path in (absolute, changed))
    kept = [name for name in before if name.startswith("trunk.")]
    assert kept and all(torch.allclose(before[name], after[name], atol=1e-4) for name in kept)
    head = "heads.servo.linear.weight"
    assert before[head].shape != after[head].shape or not torch.allclose(before[head], after[head], atol=1e-2)


@pytest.mark.parametrize("how", ["relative", "gated"])
def test_another_chunk_is_learnt(how: str, source: Source, tmp_path: Path) -> None:
    """The offsets of a chunk of another length are measured anew, whichever way the policy is fine-tuned."""
    data = str(source.datasets[0].root)
    table = {
        "data": [data],
        "bodies": {"servo": {"batch": 4, **HORIZON.to_json()}},
        "policy": {"width": 32, "depth": 2, "heads": 2},
        how: ["servo"],
        "steps": 1,
    }
    base = str(train(recipe_from_table(table, "test"), tmp_path / "base"))
    for method in ("full", "lora", "prompt"):
        recipe = with_steps(recipe_for(base, [data], method, chunk=2), 1)  # type: ignore[arg-type]
        policy = checkpoint.load(train(recipe, tmp_path / method))
        assert policy.horizon("servo") == Horizon(1, 2, True) and getattr(policy.config, how) == ("servo",)
        assert policy.config.statistics["servo"]["offset"].mean.shape == (2 * 2,)
        policy.agent("servo", "do one").act(observe(SERVO, 1))


def test_costs_of_chunks_are_of_actions_as_they_are_executed(source: Source) -> None:
    policy = make_relative(source, relative=("servo",), head=HeadConfig("flow"))
    wanted = torch.tensor([0.5, -0.25])
    planner = PolicyPlanner(policy, guides=(lambda chunks: (chunks - wanted).square().sum((1, 2)) / 2,))
    session = planner.start(TaskPrompt(SERVO), 0)
    for step in range(2):
        (plan,) = planner.plan([session], [observe(SERVO, step)])
        assert isinstance(plan, Plan)
        np.testing.assert_allclose(plan.actions, np.tile(wanted, (HORIZON.chunk, 1)), atol=1e-5)
        session.executed(np.ones(2, np.float32))
    with pytest.raises(PolysomaError, match="servo: guides pull what a flow head draws, and this head draws nothing"):
        PolicyPlanner(make_relative(source), guides=planner.guides).start(TaskPrompt(SERVO), 0)


def test_heads_that_draw_make_other_plans_of_the_same_moment(source: Source) -> None:
    """They are drawn from the same readout, and relative to the same joints; other heads would make the same again."""
    planner = PolicyPlanner(make_relative(source, relative=("servo",), head=HeadConfig("flow")))
    session = planner.start(TaskPrompt(SERVO), 0)
    for step in range(2):
        (plan,) = planner.plan([session], [observe(SERVO, step)])
        assert isinstance(plan, Plan) and plan.others is not None
        drawn = plan.others(64)
        assert drawn.shape == (64, *plan.actions.shape) and drawn.dtype == np.float32
        assert (drawn.std(0) > 0).all()
        # The plan is one of the same distribution.
        assert (np.abs(plan.actions - drawn.mean(0)) < 5 * drawn.std(0)).all()
        session.executed(np.ones(2, np.float32))
    # Whoever asks changes nothing of what the policy does.
    silent = PolicyPlanner(planner.policy).start(TaskPrompt(SERVO), 0)
    for step in range(3):
        (alone,) = planner.plan([silent], [observe(SERVO, step)])
        assert isinstance(alone, Plan)
        if step == 1:
            np.testing.assert_array_equal(alone.actions, plan.actions)
        silent.executed(np.ones(2, np.float32))
    plain = PolicyPlanner(make_relative(source))
    (plan,) = plain.plan([plain.start(TaskPrompt(SERVO), 0)], [observe(SERVO, 0)])
    assert isinstance(plan, Plan) and plan.others is None


def test_what_cannot_be_relative_is_refused(source: Source, sources: dict[str, Source]) -> None:
    statistics = sources["arm"].statistics() | {"offset": sources["arm"].offsets()}
    with pytest.raises(PolysomaError, match=r"arm: relative actions need state channels.*\['dx', 'dy'\]"):
        Policy(PolicyConfig((ARM,), {"arm": statistics}, (), HORIZONS, relative=("arm",)))
    with pytest.raises(PolysomaError, match="no statistics of the offsets"):
        Policy(PolicyConfig((SERVO,), {"servo": source.statistics()}, (), {"servo": HORIZON}, relative=("servo",)))
    with pytest.raises(PolysomaError, match="unknown bodies \\['servos'\\]"):
        Policy(PolicyConfig((SERVO,), {"servo": source.statistics()}, (), {"servo": HORIZON}, relative=("servos",)))
    with pytest.raises(PolysomaError, match="no statistics of the offsets"):
        Policy(PolicyConfig((SERVO,), {"servo": source.statistics()}, (), {"servo": HORIZON}, gated=("servo",)))
    with pytest.raises(PolysomaError, match=r"\['servo'\] are both"):
        make_relative(source, gated=("servo",), relative=("servo",))
    with pytest.raises(PolysomaError, match="gated: expected adapters linear and heads l1"):
        PolicyConfig((SERVO,), {}, (), {"servo": HORIZON}, head=HeadConfig("bins"), gated=("servo",))
    with pytest.raises(PolysomaError, match="absolute"):
        PolicyConfig((SERVO,), {}, (), {"servo": HORIZON}, adapters="described", relative=("servo",))
