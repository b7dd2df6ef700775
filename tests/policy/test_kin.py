"""A body that a policy does not know begins as the known one whose channels are called alike."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, TEXT
from polysoma.data.statistics import Statistics
from polysoma.embodiment import ContinuousActions, Embodiment, Modality, Stream, channels
from polysoma.horizon import Horizon
from polysoma.nn.heads import HeadConfig
from polysoma.nn.trunk import TransformerConfig
from polysoma.nn.words import build_vocabulary
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.config import PolicyConfig
from polysoma.policy.edits import adapt, extend
from polysoma.policy.kin import begun_as, kin_of, shrunk
from polysoma.policy.policy import Policy

STATE = (*channels("x y z", "m", group="hand"), *channels("a b", "rad", group="arm"))
BODY = Embodiment(
    "known",
    (Stream("state", Modality.STATE, (5,), STATE), TEXT),
    ContinuousActions(channels("dx dy grip", "1", -50, 50)),
    rate_hz=10,
)
TURNED = dataclasses.replace(
    BODY,
    name="new",
    body="new",
    streams=(Stream("senses", Modality.STATE, (5,), tuple(STATE[i] for i in (3, 4, 2, 0, 1))), TEXT),
    actions=ContinuousActions(tuple(BODY.actions.channels[i] for i in (2, 0, 1))),
)
"""The same body whose channels come in another order, in a stream of another name."""


_ROWS = np.random.default_rng(0).normal(1, (0.5, 1, 2, 3, 4, 5, 6, 7), (50, 8)).astype(np.float32)
STATISTICS = {"state": Statistics.of(_ROWS[:, :5]), "action": Statistics.of(_ROWS[:, 5:])}
OF_TURNED = {"senses": Statistics.of(_ROWS[:, [3, 4, 2, 0, 1]]), "action": Statistics.of(_ROWS[:, [7, 5, 6]])}
LOOK = Horizon(chunk=4)


@pytest.fixture(params=[(0, 0), (4, 0), (4, 8)], ids=["plain", "waves", "waves-and-words"])
def known(request: pytest.FixtureRequest) -> Policy:
    torch.manual_seed(3)
    waves, film = request.param
    return Policy(
        PolicyConfig(
            (BODY,),
            {"known": STATISTICS},
            tuple(build_vocabulary(["go there"])),
            {"known": Horizon(chunk=4)},
            width=32,
            trunk=TransformerConfig(depth=2, heads=2),
            heads=2,
            waves=waves,
            film=film,
        )
    ).eval()


def _acted(policy: Policy, body: Embodiment, order: Sequence[int]) -> np.ndarray:
    """What the body does while it senses this and that, its state in this order."""
    (stream,) = body.arrays
    agent = policy.agent(body.name, "go there")
    return np.stack([agent.act({stream.name: row[list(order)], "instruction": "go there"}) for row in _ROWS[:6, :5]])


@pytest.mark.parametrize("adapted", [False, True])
def test_channels_in_another_order_do_the_same(known: Policy, adapted: bool) -> None:
    if adapted:
        policy = adapt(known, Adaptation("lora", rank=2), (TURNED,), {"new": OF_TURNED}, (), {"new": LOOK})
    else:
        policy = extend(known, (TURNED,), {"new": OF_TURNED}, (), horizons={"new": LOOK})
    expected = _acted(known, BODY, range(5))[:, [2, 0, 1]]
    assert expected.std(0).min() > 0.01
    np.testing.assert_allclose(_acted(policy.eval(), TURNED, (3, 4, 2, 0, 1)), expected, atol=1e-4)


def test_actions_of_another_rate_are_those_of_the_same_moment(known: Policy) -> None:
    slow = dataclasses.replace(BODY, name="slow", body="slow", rate_hz=5)
    policy = extend(known, (slow,), {"slow": STATISTICS}, (), horizons={"slow": Horizon(chunk=3)})
    own, given = (p.heads[name].linear.bias.unflatten(0, (-1, 3)) for p, name in ((policy, "slow"), (known, "known")))
    torch.testing.assert_close(own, given[[0, 2, 3]], rtol=0, atol=0)


def test_only_what_is_alike_is_taken_over(known: Policy) -> None:
    """A hand that senses two of the three places, and nothing of the arm but a channel that is called otherwise."""
    state = (*channels("z q", "m", group="hand"), *channels("x", "m", group="hand"))
    hand = dataclasses.replace(
        BODY, name="hand", body="hand", streams=(Stream("state", Modality.STATE, (3,), state), TEXT)
    )
    rows = Statistics.of(_ROWS[:, :3])
    policy = extend(known, (hand,), {"hand": {**STATISTICS, "state": rows}}, (), horizons={"hand": LOOK})
    own, given = policy.bodies["hand"].streams["state"], known.bodies["known"].streams["state"]
    torch.testing.assert_close(own.linears[0].weight[:, [0, 2]], given.linears[0].weight[:, [2, 0]], rtol=0, atol=0)
    assert not torch.isin(own.linears[0].weight[:, 1], given.linears[0].weight).any()


def _of(states: str, unit: str = "m", cameras: Sequence[str] = (), commands: str = "dx dy grip") -> Embodiment:
    named = channels(states, unit)
    pictures = (Stream(name, Modality.IMAGE, (24, 32, 3)) for name in cameras)
    streams = (Stream("state", Modality.STATE, (len(named),), named), *pictures, TEXT)
    return Embodiment("of " + states, streams, ContinuousActions(channels(commands, "1", -1, 1)), rate_hz=10)


def test_whose_kin_a_body_is() -> None:
    assert kin_of(_of("x y z"), [GRID, ARM, BODY]) is BODY
    # Half of what it senses is enough, and less is not; nor are other units or other commands.
    assert kin_of(_of("x y p q"), [BODY]) is BODY
    assert kin_of(_of("x p q"), [BODY]) is None
    assert kin_of(_of("x y z", "mm"), [BODY]) is None
    assert kin_of(_of("x y z", commands="dx dy grip turn"), [BODY]) is None
    assert kin_of(GRID, [GRID]) is None
    numbered = _of("x y z", commands="action_0 action_1")
    assert kin_of(numbered, [numbered]) is None
    assert kin_of(_of("x y z"), []) is None
    # The one that shares most, and then the one that looks through the same cameras.
    near, seeing = _of("x y z p"), _of("x y z p", cameras=("front",))
    assert kin_of(_of("x p y z"), [BODY, near]) is near
    assert kin_of(_of("x p", cameras=("front", "top")), [near, seeing]) is seeing


def test_a_known_body_keeps_what_it_has_learnt(known: Policy) -> None:
    both = extend(known, (TURNED,), {"new": OF_TURNED}, (), horizons={"new": LOOK})
    with torch.no_grad():
        both.heads["new"].linear.bias += 1
    again = extend(both, (TURNED, BODY), {}, ("more",))
    torch.testing.assert_close(again.heads["new"].linear.bias, both.heads["new"].linear.bias, rtol=0, atol=0)


def test_few_data_count_less_than_what_is_known_of_the_same_channel() -> None:
    """Half of the values are as if of the other's, in any order and stream; what that has nothing of stays."""
    hand, rows = _of("z q x"), _ROWS[:, 5:]
    own = {"state": Statistics.of(rows), "action": Statistics.of(_ROWS[:, :3])}
    found = shrunk(own, hand, STATISTICS, BODY, 0.5)
    mixed = Statistics.of(np.concatenate([rows, np.stack([_ROWS[:, 2], rows[:, 1], _ROWS[:, 0]], 1)]))
    acted = Statistics.of(np.concatenate([_ROWS[:, :3], _ROWS[:, 5:]]))
    for name in ("mean", "std"):
        np.testing.assert_allclose(getattr(found["state"], name), getattr(mixed, name), rtol=1e-5)
        np.testing.assert_allclose(getattr(found["action"], name), getattr(acted, name), rtol=1e-5)
    assert np.array_equal(found["state"].low, own["state"].low)
    np.testing.assert_allclose(shrunk(own, hand, STATISTICS, BODY, 1.0)["state"].std, own["state"].std, rtol=1e-6)
    # Of a channel that is constant in the other nothing was learnt.
    still = {"state": Statistics.of(_ROWS[:, :5] * np.float32([0, 1, 1, 1, 1]))}
    assert shrunk(own, hand, still, BODY, 0.5)["state"].std[2] == own["state"].std[2]


def test_of_streams_that_are_as_like_the_one_of_the_same_name_is_taken() -> None:
    """A left and a right hand whose channels are called alike."""
    torch.manual_seed(0)
    channel = channels("x y z", "m")
    hands = tuple(Stream(name, Modality.STATE, (3,), channel) for name in ("left", "right"))
    body = dataclasses.replace(BODY, streams=(*hands, TEXT))
    own = {"left": Statistics.of(_ROWS[:, :3]), "right": Statistics.of(_ROWS[:, 2:5]), "action": STATISTICS["action"]}
    config = PolicyConfig((body,), {"known": own}, ("go",), {"known": LOOK}, width=32, heads=2)
    policy = Policy(config).eval()
    other = dataclasses.replace(body, name="other", body="other")
    assert shrunk(own, other, own, body, 0.5)["right"].mean == pytest.approx(own["right"].mean)
    both = extend(policy, (other,), {"other": own}, (), horizons={"other": LOOK}).eval()
    seen = {"left": _ROWS[0, :3], "right": _ROWS[1, :3], "instruction": "go"}
    expected, found = (p.agent(name, "go").act(seen) for p, name in ((policy, "known"), (both, "other")))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("look", [Horizon(chunk=4, previous_action=True), Horizon(chunk=4, history=3)])
def test_what_was_done_before_is_read_alike(look: Horizon) -> None:
    torch.manual_seed(0)
    config = PolicyConfig((BODY,), {"known": STATISTICS}, ("go",), {"known": look}, width=32, heads=2)
    policy = Policy(config).eval()
    both = extend(policy, (TURNED,), {"new": OF_TURNED}, (), horizons={"new": look}).eval()
    expected, found = _acted(policy, BODY, range(5))[:, [2, 0, 1]], _acted(both, TURNED, (3, 4, 2, 0, 1))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_known_body_that_is_observed_anew_keeps_its_head() -> None:
    """Although another body senses more of what is observed now."""
    torch.manual_seed(0)
    far = dataclasses.replace(BODY, name="far", body="far")
    body = dataclasses.replace(BODY, streams=(Stream("state", Modality.STATE, (2,), STATE[:2]), TEXT))
    own = {"state": Statistics.of(_ROWS[:, :2]), "action": STATISTICS["action"]}
    looks = {"known": LOOK, "far": LOOK}
    policy = Policy(PolicyConfig((body, far), {"known": own, "far": STATISTICS}, ("go",), looks, width=32, heads=2))
    anew = dataclasses.replace(BODY, name="anew", body="known")
    both = extend(policy, (anew,), {"anew": STATISTICS}, (), horizons={"anew": LOOK})
    assert torch.equal(both.state_dict()["heads.known.linear.weight"], policy.state_dict()["heads.known.linear.weight"])
    # It begins as what it is, if that senses half as much.
    most = dataclasses.replace(body, name="most", streams=(Stream("state", Modality.STATE, (4,), STATE[:4]), TEXT))
    assert kin_of(anew, [far, most]) is most and kin_of(anew, [far, body]) is far


def test_heads_of_offsets_and_other_kinds_are_nobodys(known: Policy) -> None:
    assert begun_as([TURNED], known.config) == {"new": BODY}
    assert begun_as([BODY], known.config) == {}
    others: list[dict[str, Any]] = [
        {"relative": ("known",)}, {"gated": ("known",)}, {"head": HeadConfig("bins")}, {"adapters": "described"},
    ]  # fmt: skip
    for other in others:
        config = copy.copy(known.config)
        for name, value in other.items():
            object.__setattr__(config, name, value)
        assert begun_as([TURNED], config) == {"new": None}


def test_weights_of_another_precision_are_taken(known: Policy) -> None:
    low = known.to(torch.bfloat16)
    policy = extend(low, (TURNED,), {"new": OF_TURNED}, (), horizons={"new": LOOK})
    own, given = (p.state_dict()[f"bodies.{name}.linears.{place}.weight"] for p, name, place in (
        (policy, "new.streams.senses", 1), (low, "known.streams.state", 0),
    ))  # fmt: skip
    torch.testing.assert_close(own[:, 0], given[:, 2].to(own), rtol=0, atol=0)
