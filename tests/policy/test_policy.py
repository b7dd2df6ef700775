from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, HORIZONS, make_policy, observe
from polysoma.acting.agent import Acting
from polysoma.cli.progress import telling
from polysoma.data.batch import Batch
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError, PolysomaWarning
from polysoma.horizon import Horizon
from polysoma.nn.attention import BLOCKED, window_mask
from polysoma.nn.words import TextTokenizer, build_vocabulary, lacking, split_words
from polysoma.policy.config import PolicyConfig
from polysoma.policy.edits import extend
from polysoma.policy.policy import Policy


def test_mask_follows_the_rules() -> None:
    task = torch.tensor([[True, False]])
    mask = window_mask(task, 3, 2, torch.tensor([[0, 1]]))[0, 0]
    sees = mask > BLOCKED / 2
    w, f = [0, 1], [2, 3, 4, 5, 6, 7]
    assert sees[2:4][:, [0, 2, 3, 4, 5]].all(), "a frame sees the task and the frames up to its own"
    assert not sees[0:2, 4:].any() and not sees[2:4, 6:].any(), "no frame sees a later one"
    assert not sees[:, w[1]].any(), "padded words are not seen"
    assert sees[6, [0, 2, 3]].all() and not sees[6, 4:8].any(), "a readout sees the frames up to its own"
    assert sees[7, f[:4]].all() and not sees[7, f[4:]].any()
    others = torch.ones(8, 10, dtype=torch.bool)
    others[6, 8] = others[7, 9] = False
    assert not (sees & others)[:, 8:].any() and sees[6, 8] and sees[7, 9], "nothing sees a readout but itself"


def test_adding_a_body_leaves_the_others_bit_identical(sources: dict[str, Source]) -> None:
    alone, both = make_policy(sources, (ARM,), seed=1), make_policy(sources, (ARM, GRID), seed=2)
    both.load_state_dict(alone.state_dict(), strict=False)
    windows = sources["arm"].draw(8, np.random.default_rng(0))
    assert torch.equal(alone(windows)["action"], both(windows)["action"])


def test_readouts_never_write(policy: Policy, sources: dict[str, Source]) -> None:
    windows = sources["grid"].draw(8, np.random.default_rng(0))
    before = policy(windows)["action"]
    with torch.no_grad():
        policy.readouts["grid"][3] += 10.0
    after = policy(windows)["action"]
    others = [t for t in range(before.shape[1]) if t != 3]
    assert torch.equal(before[:, others], after[:, others])
    assert not torch.equal(before[:, 3], after[:, 3])


def test_the_future_is_not_seen(policy: Policy, sources: dict[str, Source]) -> None:
    windows = sources["grid"].draw(8, np.random.default_rng(0))
    before = policy(windows)["action"]
    windows.observations["view"][:, 4:] = 0
    windows.previous[:, 4:] = 0
    after = policy(windows)["action"]
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def last(windows: Batch, predictions: torch.Tensor) -> torch.Tensor:
    return predictions[torch.arange(len(windows)), windows.lengths - 1]


def test_padding_changes_nothing(policy: Policy, sources: dict[str, Source]) -> None:
    windows = sources["grid"].draw(16, np.random.default_rng(0))
    together = last(windows, policy(windows)["action"])
    for row in range(4):
        single = windows.take(np.array([row]))
        torch.testing.assert_close(
            together[row : row + 1], last(single, policy(single)["action"]), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("body", ["grid", "arm"])
def test_acting_predicts_what_was_trained(policy: Policy, sources: dict[str, Source], body: str) -> None:
    windows = sources[body].draw(16, np.random.default_rng(0))
    with policy.autocast():
        trained = policy.heads[body].decode(last(windows, policy(windows)["action"]))
    torch.testing.assert_close(policy.predict(windows), trained, rtol=0, atol=0.02)


def test_a_memory_predicts_what_the_whole_window_does(policy: Policy, sources: dict[str, Source]) -> None:
    windows = sources["grid"].draw(16, np.random.default_rng(0))
    windows = windows.take(np.flatnonzero(windows.lengths == 6)[:4])
    windows = windows.with_texts(["do one", "do two", "go", "do one"])
    memories = [policy.begin("grid", instruction) for instruction in windows.texts]
    for new in (slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 6)):
        part, whole = windows.frames(new), dataclasses.replace(windows, lengths=torch.full((4,), new.stop))
        torch.testing.assert_close(policy.predict(part, memories), policy.predict(whole), rtol=0, atol=0.02)
    assert [memory.frames for memory in memories] == [6] * 4
    memories[0].forget_frames()
    first = windows.take(np.array([0]))
    torch.testing.assert_close(policy.predict(first, memories[:1]), policy.predict(first))


def test_padded_targets_teach_nothing(policy: Policy, sources: dict[str, Source]) -> None:
    windows = sources["arm"].draw(32, np.random.default_rng(0))
    assert windows.actions is not None and windows.action_valid is not None and not windows.action_valid.all()
    before = policy.loss(windows)
    windows.actions[~windows.action_valid] = 1e6
    assert torch.equal(before, policy.loss(windows))


def test_a_batch_touches_its_own_body_alone(policy: Policy, sources: dict[str, Source]) -> None:
    policy.loss(sources["arm"].draw(8, np.random.default_rng(0))).backward()
    touched = {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(name.startswith("trunk") for name in touched)
    assert any(name.startswith("bodies.arm") for name in touched)
    assert not any("grid" in name for name in touched)


def test_predictions_are_in_the_bodys_units(policy: Policy, sources: dict[str, Source]) -> None:
    with torch.no_grad():
        policy.heads["arm"].linear.weight.zero_()
        policy.heads["arm"].linear.bias.zero_()
    mean = sources["arm"].statistics()["action"].mean
    prediction = policy.predict(sources["arm"].draw(4, np.random.default_rng(0)))
    assert prediction.shape == (4, HORIZONS["arm"].chunk, 2)
    np.testing.assert_allclose(prediction.numpy(), np.broadcast_to(mean, prediction.shape), atol=1e-6)
    choices = policy.predict(sources["grid"].draw(4, np.random.default_rng(0)))
    torch.testing.assert_close(choices.exp().sum(-1), torch.ones(4, 1))


def test_words_matter_and_unknown_words_do_not_crash(policy: Policy, sources: dict[str, Source]) -> None:
    windows = sources["grid"].draw(4, np.random.default_rng(0))
    one, two, unknown = (policy(windows.with_texts([text] * 4))["action"] for text in ("do one", "do two", "xyzzy"))
    assert not torch.allclose(one, two) and torch.isfinite(unknown).all()
    assert split_words("Put the red-ball, now!") == ["put", "the", "red", "-", "ball", ",", "now", "!"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Öffne die Tür, bitte!", ["öffne", "die", "tür", ",", "bitte", "!"]),
        ("Возьми красный куб №3", ["возьми", "красный", "куб", "№", "3"]),
        ("लाल घन उठाओ", ["लाल", "घन", "उठाओ"]),
        ("خذ المكعب", ["خذ", "المكعب"]),
        ("拿起红色方块2", ["拿", "起", "红", "色", "方", "块", "2"]),
        ("3üm red_ball", ["3üm", "red", "_", "ball"]),
    ],
)
def test_words_of_any_script_are_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words and build_vocabulary([text, text.upper()]) == sorted(set(words))
    read = TextTokenizer(sorted(set(words)), 8, 1).read(text)
    assert 1 not in read and len(read) == len(words)


def test_old_policies_read_words_of_other_scripts_as_they_learnt_to() -> None:
    old = TextTokenizer(["caf", "go", "é"], 8, 1)
    assert old.encode(["Go café"]).tolist() == [[3, 2, 4]]
    assert old.encode(["go tür"]).tolist() == [[3, 1]], "one unknown word"
    known = ("caf", "go", "é")
    assert lacking(["café", "go", "kafé", "stop"], known) == ("kafé", "stop")


def test_long_instructions_are_read(policy: Policy) -> None:
    def tokens(text: str) -> torch.Tensor:
        with torch.no_grad():
            return policy.text(policy.text.encode([text]))

    texts = ["go " * 500 + last for last in ("do one", "do two")]
    assert tokens(texts[0]).shape[1] == 502 and not torch.equal(tokens(texts[0]), tokens(texts[1]))
    stored = policy.config.to_json()
    del stored["most_words"]
    old = PolicyConfig.from_json(stored)
    assert old.most_words == 64 and Policy(old).text.encode(texts).shape[1] == 64, "as they were trained"
    assert extend(Policy(old), [ARM], {}, ["left"]).config.most_words == 512


def test_data_of_a_changed_body_is_refused(policy: Policy, sources: dict[str, Source]) -> None:
    windows = sources["arm"].draw(4, np.random.default_rng(0))
    changed = dataclasses.replace(windows, embodiment=dataclasses.replace(ARM, rate_hz=20))
    with pytest.raises(PolysomaError, match="rate_hz: 10, not 20"):
        policy(changed)["action"]


def test_the_previous_action_is_seen_by_bodies_that_ask_for_it(sources: dict[str, Source]) -> None:
    body = dataclasses.replace(ARM, name="recalling", body="recalling")
    recalling = Source(sources["arm"].datasets, [1.0], 0.0, horizon=Horizon(chunk=4, previous_action=True))
    policy = make_policy(sources | {"recalling": recalling}, (ARM, body))
    for name, matters in (("arm", False), ("recalling", True)):
        predictions = []
        for executed in (np.zeros(2), np.ones(2)):
            agent = policy.agent(name, acting=Acting(execute=1))
            agent.act(observe(body))
            agent.executed(executed)
            predictions.append(agent.act(observe(body, 1)))
        assert (not np.array_equal(*predictions)) == matters
    assert "previous action" in policy.describe("recalling")


def test_every_parameter_has_a_role(policy: Policy) -> None:
    roles = policy.roles()
    assert roles.keys() == policy.state_dict().keys()
    assert roles["trunk.norm.weight"] == roles["text.position"] == "shared"
    assert roles["text.words.weight"] == "words"
    assert roles["bodies.arm.time"] == "body"
    assert roles["readouts.arm"] == roles["heads.arm.linear.weight"] == "readout"


def test_printing_shows_tokens_and_parameters(policy: Policy) -> None:
    text = repr(policy)
    assert f"{policy.parameter_count():,} parameters" in text
    assert "arm at 10 Hz" in text and "readout -> 4 actions of 2" in text
    assert "frame: view + heading + previous action" in text


def test_words_that_are_not_read_are_said(policy: Policy) -> None:
    short, long = "go " * 511 + "one", "go " * 512 + "one"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.agent("arm", short).act(observe(ARM, instruction=short))
    with pytest.warns(PolysomaWarning, match=r"more words than the 512 .* 'go go .* has 513"):
        policy.agent("arm", long)
    with pytest.warns(PolysomaWarning, match="has 513"):
        policy.agent("arm", "go").act(observe(ARM, instruction=long))
    with pytest.warns(PolysomaWarning, match="no word of '飞到红色的环' is known"):
        policy.agent("arm", "飞到红色的环")


def test_the_command_line_warns_in_one_line(policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    with telling():
        policy.agent("arm", "go " * 600)
    said = capsys.readouterr().err
    assert said.startswith("polysoma: the instruction has more words than the 512") and said.count("\n") == 1
