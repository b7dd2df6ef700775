"""ONNX Runtime decides as torch does: for every kind of body, batches, heads that draw, and what is attached."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import runpy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, ROOT, SEEN_ARM, make_episode, make_policy, observe
from polysoma import simulators
from polysoma.acting.agent import Acting, Agent, act_together
from polysoma.data.mixture import Source
from polysoma.data.statistics import Statistics
from polysoma.embodiment import INSTRUCTION, Channel, ContinuousActions, Embodiment
from polysoma.errors import PolysomaError, PolysomaWarning
from polysoma.horizon import Horizon
from polysoma.nn.backend import VARIABLE, chosen
from polysoma.nn.correction import CorrectionConfig
from polysoma.nn.finder import NamedPlaces, shipped_weights, shipped_words
from polysoma.nn.heads import HeadConfig
from polysoma.nn.images import ImageConfig
from polysoma.policy import checkpoint
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt, extend
from polysoma.policy.onnx_backend import OnnxResponder, responder_of
from polysoma.policy.policy import Policy

pytest.importorskip("onnxruntime", reason="acting by onnx needs pip install 'polysoma[export]'")
BODIES = (ARM, GRID, SEEN_ARM)


def pair(policy: Policy) -> tuple[Policy, Policy]:
    """The same weights, acted by torch and by ONNX Runtime."""
    twin = Policy(policy.config)
    twin.load_state_dict(policy.state_dict())
    return policy.for_inference("float32").act_by("torch"), twin.for_inference("float32").act_by("onnx")


def same_decisions(one: Policy, other: Policy, body: Embodiment, episodes: int = 3, steps: int = 15) -> None:
    """Agents of both act together in batches, with different instructions and starts."""
    words = ("do one", "do two please", "go")
    rows = [
        [policy.agent(body.name, words[row % 3], Acting(execute=1), seed=row) for row in range(episodes)]
        for policy in (one, other)
    ]
    for step in range(steps):
        # The last agent begins later, so that the batch mixes short and long pasts.
        some = slice(None) if step > 3 else slice(0, episodes - 1)
        seen = [observe(body, 100 * row + step, words[row % 3]) for row in range(episodes)][some]
        first, second = (np.stack([np.asarray(a) for a in act_together(agents[some], seen)]) for agents in rows)
        np.testing.assert_allclose(first, second, atol=2e-5)
    assert isinstance(responder_of(other, body.name), OnnxResponder) and responder_of(one, body.name) is one


def test_a_graph_is_made_anew_where_weights_are_moved(policy: Policy) -> None:
    policy.for_inference("float32").act_by("onnx")
    made = responder_of(policy, "arm")
    assert responder_of(policy, "arm") is made
    assert responder_of(policy.to("cpu"), "arm") is not made


def test_words_that_a_graph_is_traced_with_are_not_warned_of(policy: Policy) -> None:
    policy.text.ids = {"do": 2, "one": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error", PolysomaWarning)
        policy.for_inference("float32").act_by("onnx").agent("arm", "do one").act(observe(ARM))


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.name)
def test_every_kind_of_body(body: Embodiment, sources: dict[str, Source]) -> None:
    same_decisions(*pair(make_policy(sources, BODIES)), body)


def test_the_first_batch_may_be_of_any_size(sources: dict[str, Source]) -> None:
    """The graph is made of the first batch: of several alike, or of different lengths, too."""
    for words in (("do one", "do one"), ("do one", "do two please", "go")):
        one, other = pair(make_policy(sources))
        rows = [[p.agent("arm", text, Acting(execute=1)) for text in words] for p in (one, other)]
        for count in (len(words), 1, len(words)):
            seen = [observe(ARM, row, words[row]) for row in range(count)]
            first, second = (np.stack([np.asarray(a) for a in act_together(agents[:count], seen)]) for agents in rows)
            np.testing.assert_allclose(first, second, atol=2e-5)


SERVO = dataclasses.replace(
    ARM, name="servo", body="servo", actions=ContinuousActions((Channel("y", "m", -2, 2), Channel("x", "1", -2, 2)))
)
"""Its state says at what its actions are, so they can be offsets from there."""
NAMED = ImageConfig(reduction="named", tokens=1, words=shipped_words(), outlines=True, waves=3)


@pytest.mark.parametrize(
    ("body", "how"),
    [
        pytest.param(ARM, {"head": HeadConfig("bins")}, id="bins"),
        pytest.param(ARM, {"head": HeadConfig("flow")}, id="flow"),
        pytest.param(SERVO, {"relative": ("servo",)}, id="relative"),
        pytest.param(SERVO, {"gated": ("servo",)}, id="gated"),
        pytest.param(ARM, {"corrections": {"arm": CorrectionConfig(16, 1)}}, id="corrected numbers"),
        pytest.param(GRID, {"corrections": {"grid": CorrectionConfig(16, 1)}}, id="corrected choices"),
        pytest.param(ARM, {"adapters": "described"}, id="described"),
        pytest.param(ARM, {"waves": 4}, id="waves"),
        pytest.param(ARM, {"film": 4}, id="states scaled by words"),
        pytest.param(SEEN_ARM, {"film": 4}, id="states scaled by words beside pictures"),
        pytest.param(SEEN_ARM, {"adapters": "described"}, id="described beside pictures"),
        pytest.param(SEEN_ARM, {"images": ImageConfig(reduction="points")}, id="points"),
        pytest.param(SEEN_ARM, {"images": ImageConfig("efficientnet-lite0")}, id="efficientnet"),
        pytest.param(SEEN_ARM, {"images": NAMED}, id="named places, outlines and waves"),
        pytest.param(SEEN_ARM, {"images": dataclasses.replace(NAMED, outlines=False, waves=0)}, id="named places"),
    ],
)
def test_every_kind_of_head_adapter_and_eyes(body: Embodiment, how: dict[str, Any], sources: dict[str, Source]) -> None:
    known = make_policy(sources, BODIES).config
    rng = np.random.default_rng(0)
    own = known.statistics["arm"] | {"offset": Statistics.of(rng.normal(0, 0.1, (50, 8)).astype(np.float32))}
    config = dataclasses.replace(
        known,
        embodiments=(*BODIES, SERVO),
        statistics={**known.statistics, "servo": own},
        horizons={**known.horizons, "servo": Horizon(chunk=4, previous_action=True)},
        **how,
    )
    torch.manual_seed(0)
    policy = Policy(config)
    if isinstance(policy.images, NamedPlaces):
        policy.images.finder.load_state_dict(shipped_weights())
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name.startswith("corrections.") or "factors" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))  # They begin as nothing.
    same_decisions(*pair(policy), body)


def test_goal_pictures(sources: dict[str, Source]) -> None:
    config = dataclasses.replace(make_policy(sources, BODIES).config, images=ImageConfig(goals=True))
    torch.manual_seed(0)
    rows = []
    one, other = pair(Policy(config))
    for shown in (7, 200):
        goal = {"front": np.full((24, 32, 3), shown, np.uint8)}
        agents = [policy.agent(SEEN_ARM.name, acting=Acting(execute=1), goal=goal) for policy in (one, other)]
        for step in range(4):
            first, second = (agent.act(observe(SEEN_ARM, step)) for agent in agents)
            np.testing.assert_allclose(first, second, atol=2e-5)
        rows.append(second)
    assert isinstance(responder_of(other, SEEN_ARM.name), OnnxResponder)
    assert np.abs(rows[0] - rows[1]).max() > 1e-4, "the goal makes a difference"


@pytest.mark.parametrize("method", ["lora", "adapter", "prompt", "head"])
def test_adaptations(method: str, sources: dict[str, Source]) -> None:
    adapted = []
    for backend in ("torch", "onnx"):
        torch.manual_seed(1)
        policy = adapt(make_policy(sources), Adaptation(method, rank=2), [GRID], {}, [])  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        adapted.append(policy.for_inference("float32").act_by(backend))  # type: ignore[arg-type]
    same_decisions(*adapted, GRID)


def test_demonstrations_in_context(sources: dict[str, Source]) -> None:
    one, other = pair(extend(make_policy(sources), (), {}, (), frames_per_demonstration=3))
    agents = [policy.agent("grid", "do one", Acting(execute=1)) for policy in (one, other)]
    for agent in agents:
        agent.reset(demonstrations=[make_episode(GRID, 7, 1, "grid/one")])
    for step in range(4):
        first, second = (agent.act(observe(GRID, step)) for agent in agents)
        assert first == second


def test_the_shipped_weights_with_what_is_attached() -> None:
    policies = [checkpoint.load(precision="float32", backend=backend) for backend in ("torch", "onnx")]
    for task in ("metaworld/door-open-v3", "aloha/insertion", "babyai/GoToLocal"):
        environment = simulators.make(task)
        agents = [Agent(policy, environment.embodiment, acting=Acting(execute=1)) for policy in policies]
        observation = environment.reset(seed=500_000)[0]
        for _ in range(4):
            first, second = (np.asarray(agent.act(observation)) for agent in agents)
            np.testing.assert_allclose(first, second, atol=2e-5)
            observation = environment.step(first)[0]
        assert observation[INSTRUCTION]


def test_who_decides_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.delenv("POLYSOMA_PRECISION", raising=False)
    assert chosen("cpu") == ("onnx", "float32")
    assert chosen("cpu", "torch", "bfloat16") == ("torch", "bfloat16")
    assert chosen("cpu", None, "bfloat16") == ("torch", "bfloat16")
    assert chosen("cuda", None, "float32") == ("torch", "float32")
    monkeypatch.setenv(VARIABLE, "torch")
    assert chosen("cpu", None, "float32")[0] == "torch" and chosen("cpu", "onnx")[0] == "onnx"
    monkeypatch.setenv(VARIABLE, "tensor")
    with pytest.raises(PolysomaError, match="POLYSOMA_BACKEND: expected auto, torch or onnx, got 'tensor'"):
        chosen("cpu")
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(PolysomaError, match="computes in float32, and bfloat16 was asked for"):
        chosen("cpu", "onnx", "bfloat16")
    with pytest.raises(PolysomaError, match="acts on a CPU; this policy is on cuda:0"):
        chosen("cuda:0", "onnx")


def test_a_checkpoint_says_what_it_is_loaded_for(sources: dict[str, Source], tmp_path: Path) -> None:
    checkpoint.save(make_policy(sources), tmp_path / "x")
    policy = checkpoint.load(tmp_path / "x", backend="onnx")
    assert (policy.backend, policy.precision) == ("onnx", "float32")
    assert checkpoint.load(tmp_path / "x").backend == "torch", "what the tests' variable says"


def test_new_weights_are_decided_with(sources: dict[str, Source]) -> None:
    policy = make_policy(sources).for_inference("float32").act_by("onnx")
    seen = observe(ARM)
    before = policy.agent("arm").act(seen)
    policy.load_state_dict(make_policy(sources, seed=1).state_dict())
    after = policy.agent("arm").act(seen)
    assert not np.array_equal(before, after)
    np.testing.assert_allclose(after, policy.act_by("torch").agent("arm").act(seen), atol=2e-5)


def test_new_weights_of_a_base_are_new_for_what_adapts_it(sources: dict[str, Source]) -> None:
    base = make_policy(sources)
    named = Adaptation("lora", base="x", base_sha256="y")
    base.attach("arm", adapt(base, named, [ARM], base.config.statistics, base.config.vocabulary))
    base.for_inference("float32").act_by("onnx")
    before = base.agent("arm").act(observe(ARM))
    base.load_state_dict(make_policy(sources, seed=1).state_dict())
    after = base.agent("arm").act(observe(ARM))
    assert not np.array_equal(before, after)
    np.testing.assert_allclose(after, base.act_by("torch").agent("arm").act(observe(ARM)), atol=2e-5)


@pytest.mark.parametrize("way", ["copied", "pickled"])
def test_a_policy_that_has_decided_can_be_copied(way: str, sources: dict[str, Source]) -> None:
    policy = make_policy(sources).for_inference("float32").act_by("onnx")
    action = policy.agent("arm").act(observe(ARM))
    twin = copy.deepcopy(policy) if way == "copied" else pickle.loads(pickle.dumps(policy))
    assert policy.compiled and not twin.compiled
    np.testing.assert_array_equal(twin.agent("arm").act(observe(ARM)), action)


def test_another_trunk_is_printed_decided_by_torch_and_refused_by_onnx(
    sources: dict[str, Source], tmp_path: Path
) -> None:
    gru = runpy.run_path(str(ROOT / "examples" / "extend" / "gru_trunk.py"))["GruConfig"]()
    policy = Policy(dataclasses.replace(make_policy(sources).config, trunk=gru)).for_inference("float32")
    assert "width 32, GruConfig(kind='gru')" in repr(policy)
    assert chosen("cpu", transformer=False)[0] == "torch"
    with pytest.raises(PolysomaError, match="computes transformers"):
        chosen("cpu", "onnx", transformer=False)
    with pytest.raises(PolysomaError, match="computes transformers, the trunk of this policy is a GruTrunk"):
        policy.act_by("onnx")
    with pytest.raises(PolysomaError, match="computes transformers"):
        OnnxResponder(policy, "arm")
    checkpoint.save(policy, tmp_path)
    with pytest.raises(PolysomaError, match=r"trunk\.kind: expected 'transformer', got 'gru'"):
        checkpoint.load(tmp_path)
