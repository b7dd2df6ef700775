"""A body that a policy does not know begins as the known one whose channels are called alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, TEXT
from polysoma.data.statistics import Statistics
from polysoma.embodiment import ContinuousActions, Embodiment, Modality, Stream, channels
from polysoma.horizon import Horizon
from polysoma.nn.trunk import TransformerConfig
from polysoma.nn.words import build_vocabulary
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.config import PolicyConfig
from polysoma.policy.edits import adapt, extend
from polysoma.policy.kin import kin_of, shrunk
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
    """Half way between both, in any order and stream; what the other has nothing of stays as it is."""
    hand = _of("z q x")
    own = {"state": Statistics.of(_ROWS[:, 5:]), "action": Statistics.of(_ROWS[:, :3])}
    found = shrunk(own, hand, STATISTICS, BODY, 0.5)
    for name in ("mean", "std"):
        mine, theirs = getattr(own["state"], name), getattr(STATISTICS["state"], name)
        expected = [(mine[0] + theirs[2]) / 2, mine[1], (mine[2] + theirs[0]) / 2]
        np.testing.assert_allclose(getattr(found["state"], name), expected, rtol=1e-5)
        halves = (getattr(own["action"], name) + getattr(STATISTICS["action"], name)) / 2
        np.testing.assert_allclose(getattr(found["action"], name), halves, rtol=1e-5)
    assert np.array_equal(found["state"].low, own["state"].low)
    assert shrunk(own, hand, STATISTICS, BODY, 1.0)["state"].mean.tolist() == own["state"].mean.tolist()
