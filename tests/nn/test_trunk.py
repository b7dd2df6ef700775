"""The trunk computes each distinct task once, its last block for readouts alone, and frames once: what comes of it is
what the plain computation gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import ARM, GRID, HORIZONS, SEEN_ARM, make_episode, make_policy
from polysoma.data.batch import Batch, concatenate
from polysoma.data.mixture import Source
from polysoma.data.windows import DemonstrationSampler, show, tensor
from polysoma.errors import PolysomaError
from polysoma.nn.attention import BLOCKED
from polysoma.nn.heads import ValueConfig
from polysoma.nn.images import ImageConfig
from polysoma.nn.trunk import ReadoutTokens, TaskTokens, TransformerTrunk, Windows
from polysoma.policy import checkpoint
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt, extend
from polysoma.policy.inputs import TaskInputs
from polysoma.policy.losses import losses_of
from polysoma.policy.policy import Policy


def plain_readouts(policy: Policy, windows: Batch) -> Tensor:
    """Every window reads its own task; all tokens go through all blocks in one sequence, under one mask."""
    name, trunk = windows.embodiment.name, policy.trunk
    assert isinstance(trunk, TransformerTrunk)
    # One task for each window.
    which = windows.tasks
    shown = None if windows.demonstrations is None else windows.demonstrations.take(which)
    goals = None if windows.goals is None else {name: pictures[which] for name, pictures in windows.goals.items()}
    task = TaskInputs(policy.text.encode(windows.texts), goals, shown)
    told, conditioning = policy.task_tokens(name, task)
    times = torch.arange(windows.previous.shape[1])
    frames = policy.frames(name, windows, times[None], conditioning)
    asking = policy.asking(name, "action", times[None]).expand(len(windows), -1, -1)
    x = torch.cat([told.tokens, frames.flatten(1, 2), asking], 1)
    words, per_frame = told.tokens.shape[1], frames.shape[2]
    when = torch.cat([torch.full((words,), -1), times.repeat_interleave(per_frame), times])
    true = times < windows.lengths[:, None]
    valid = torch.cat([told.valid, true.repeat_interleave(per_frame, 1)], 1)
    sees = (when[: valid.shape[1]] <= when[:, None]) & valid[:, None]
    sees = torch.cat([sees, sees.new_zeros(*sees.shape[:2], len(times))], 2) | torch.eye(len(when), dtype=torch.bool)
    mask = torch.zeros(sees.shape).masked_fill(~sees, BLOCKED)[:, None]
    for block in trunk.every_block():
        batch, count, width = x.shape
        q, k, v = (part.view(batch, count, block.heads, -1).transpose(1, 2) for part in
                   block.qkv(block.norm_attention(x)).chunk(3, -1))  # fmt: skip
        seen = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask).softmax(-1) @ v
        x = x + block.out(seen.transpose(1, 2).reshape(batch, count, width))
        x = x + block.down(torch.relu(block.up(block.norm_mlp(x))))
    return trunk.norm(x[:, -len(times) :])


def plain_loss(policy: Policy, windows: Batch) -> Tensor:
    assert windows.actions is not None and windows.action_valid is not None
    losses = policy.head(windows.embodiment.name).losses(plain_readouts(policy, windows), windows.actions)
    return losses[windows.action_valid].sum()


def followed(policy: Policy, sources: dict[str, Source]) -> tuple[Policy, Batch]:
    return policy, sources["arm"].draw(24, np.random.default_rng(0))


def on_a_grid(policy: Policy, sources: dict[str, Source]) -> tuple[Policy, Batch]:
    return policy, sources["grid"].draw(24, np.random.default_rng(0))


def seen(policy: Policy, sources: dict[str, Source]) -> tuple[Policy, Batch]:
    policy = make_policy(sources, (ARM, SEEN_ARM))
    with torch.no_grad():
        # FiLM begins as zero, when the words do not matter yet.
        assert policy.images is not None
        policy.images.film.weight.normal_(0, 0.1)
    return policy, sources["arm-pixels"].draw(12, np.random.default_rng(0))


def toward_goals(policy: Policy, sources: dict[str, Source]) -> tuple[Policy, Batch]:
    policy = extend(make_policy(sources, (ARM, SEEN_ARM)), (SEEN_ARM,), {}, (), ImageConfig(goals=True))
    windows = sources["arm-pixels"].draw(8, np.random.default_rng(0), goals=True)
    windows = windows.with_texts(["", "do one", "go", "", "do two", "go", "go", "go"])
    # Two windows have all in common.
    assert windows.goals is not None and windows.task_of is not None
    windows.task_of[5] = windows.task_of[2]
    return policy, windows


def shown(policy: Policy, sources: dict[str, Source]) -> tuple[Policy, Batch]:
    showing = DemonstrationSampler(2, 3, 0.5, np.random.default_rng(1))
    return extend(policy, (), {}, (), frames_per_demonstration=3), sources["grid"].draw(
        24, np.random.default_rng(0), showing=showing
    )


def adapted(method: str) -> Callable[[Policy, dict[str, Source]], tuple[Policy, Batch]]:
    def case(policy: Policy, sources: dict[str, Source]) -> tuple[Policy, Batch]:
        policy = adapt(policy, Adaptation(method, rank=2, tokens=3), [GRID], {}, ["new"])  # type: ignore[arg-type]
        with torch.no_grad():
            # What begins as zero would hide what it does.
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.02)
        return policy, sources["grid"].draw(24, np.random.default_rng(0))

    return case


CASES = [followed, on_a_grid, seen, toward_goals, shown, adapted("lora"), adapted("prompt"), adapted("adapter")]


@pytest.mark.parametrize("case", CASES, ids=["arm", "grid", "pixels", "goals", "shown", "lora", "prompt", "adapter"])
def test_losses_and_gradients_are_those_of_the_plain_computation(
    policy: Policy, sources: dict[str, Source], case: Callable[[Policy, dict[str, Source]], tuple[Policy, Batch]]
) -> None:
    policy, windows = case(policy, sources)
    assert len(set(windows.tasks.tolist())) < len(windows) or windows.demonstrations is not None
    found = {}
    for name, loss_of in (("plain", plain_loss), ("trunk", lambda policy, windows: policy.loss(windows))):
        policy.zero_grad()
        loss = loss_of(policy, windows)
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
        found[name] = loss.detach(), gradients
    torch.testing.assert_close(found["trunk"][0], found["plain"][0], rtol=1e-6, atol=0)
    assert found["trunk"][1].keys() == found["plain"][1].keys()
    largest = max(float(gradient.abs().max()) for gradient in found["plain"][1].values())
    for name, gradient in found["plain"][1].items():
        torch.testing.assert_close(found["trunk"][1][name], gradient, rtol=1e-4, atol=1e-6 * largest, msg=name)


def test_windows_of_several_bodies_in_one_pass_are_those_of_each_alone() -> None:
    torch.manual_seed(0)
    trunk = TransformerTrunk(32, 3, 2)
    # Words, tasks, windows, frames and tokens of each: what is joined, what has too many tokens, and a history.
    sizes = [(4, 2, 5, 1, 2), (7, 3, 3, 1, 5), (2, 2, 6, 1, 8), (3, 2, 4, 1, 9), (5, 2, 4, 3, 2)]
    parts = []
    for words, tasks, count, time, per_frame in sizes:
        valid = torch.arange(words) < torch.randint(1, words + 1, (tasks, 1))
        rows = None if tasks == count else torch.randint(tasks, (count,))
        task = TaskTokens(torch.randn(tasks, words, 32, requires_grad=True), valid, rows)
        frames = torch.randn(count, time, per_frame, 32, requires_grad=True)
        asking = ReadoutTokens(torch.randn(count, time, 32), torch.arange(time)[None])
        parts.append(Windows(task, frames, asking))
    batches: list[int] = []
    trunk.norm.register_forward_hook(lambda *given: batches.append(len(given[2])))
    together, apart = trunk.together(parts), [trunk(*part) for part in parts]
    assert batches == [4, 4, 5 + 3 + 6, 5, 3, 6, 4, 4]
    leaves = [leaf for part in parts for leaf in (part.task.tokens, part.frames)] + list(trunk.parameters())
    gradients = []
    for answers in (together, apart):
        loss = sum(answer.square().sum() for answer in answers)
        gradients.append(torch.autograd.grad(loss, leaves))  # type: ignore[arg-type]
    torch.testing.assert_close(together, apart)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_losses_of_several_bodies_are_those_of_each(policy: Policy, sources: dict[str, Source]) -> None:
    batches = [
        sources[name].draw(12, np.random.default_rng(number)) for number, name in enumerate(["arm", "grid", "arm"])
    ]
    together = losses_of(policy, batches)
    torch.testing.assert_close([loss for loss, _ in together], [policy.loss(batch) for batch in batches])
    assert all(estimation == 0 for _, estimation in together)


def test_a_task_is_read_once(policy: Policy, sources: dict[str, Source]) -> None:
    windows = sources["arm"].draw(24, np.random.default_rng(0))
    tokens = []
    policy.trunk.every_block()[0].register_forward_pre_hook(lambda _, given: tokens.append(given[0]))  # type: ignore[operator]
    policy.loss(windows)
    assert [len(t) for t in tokens] == [len(set(windows.texts)), len(windows)] == [2, 24]


def test_frame_by_frame_is_the_whole_window(policy: Policy, sources: dict[str, Source]) -> None:
    windows = sources["grid"].draw(40, np.random.default_rng(0))
    windows = windows.take(np.flatnonzero(windows.lengths == HORIZONS["grid"].history)[:3])
    windows = windows.with_texts(["do one", "go", "do one"])
    policy.compute_in("float32")
    with torch.no_grad():
        whole = policy(windows)["action"]
    states = [policy.begin("grid", text) for text in windows.texts]
    for new, group in ((slice(0, 1), (0, 1)), (slice(1, 3), (0, 1)), (slice(3, 4), (0, 1))):
        rows = np.array(group)
        _, readouts = policy.respond(windows.take(rows).frames(new), [states[row] for row in group])
        torch.testing.assert_close(readouts, whole[rows, new.stop - 1], rtol=1e-4, atol=1e-5)
    # States of which one is behind the others meet in a batch, too.
    policy.respond(windows.take(np.array([2])).frames(slice(0, 2)), states[2:])
    assert [state.frames for state in states] == [4, 4, 2]
    mixed = [windows.take([row]).frames(slice(s.frames, s.frames + 1)) for row, s in enumerate(states)]
    together = concatenate(mixed)
    _, readouts = policy.respond(together, states)
    torch.testing.assert_close(readouts, whole[torch.arange(3), torch.tensor([4, 4, 2])], rtol=1e-4, atol=1e-5)


def test_reading_does_not_write(policy: Policy) -> None:
    (state,) = policy.trunk.start(policy.task_tokens("grid", TaskInputs(policy.text.encode(["go"])))[0])
    frames, asking = torch.randn(1, 1, 1, 32), torch.randn(1, 2, 32)
    policy.trunk.extend([state], frames)
    first = policy.trunk.read([state], asking)
    assert torch.equal(policy.trunk.read([state], asking), first) and state.frames == 1
    torch.testing.assert_close(policy.trunk.read([state], asking[:, 1:]), first[:, 1:], rtol=1e-5, atol=1e-6)
    policy.trunk.extend([state], frames)
    assert not torch.allclose(policy.trunk.read([state], asking), first)
    state.forget_frames()
    torch.testing.assert_close(policy.trunk.step([state], frames, asking), first, rtol=1e-5, atol=1e-6)


def test_what_was_shown_is_read_beforehand(policy: Policy) -> None:
    policy = extend(policy, (), {}, (), frames_per_demonstration=3).eval().compute_in("float32")
    episodes = [make_episode(GRID, 7, seed, "grid/one") for seed in range(2)]
    episode = make_episode(GRID, 1, 5)
    windows = Batch(
        GRID, ["do one"], {s.name: tensor(episode.observations[s.name][None]) for s in GRID.arrays},
        tensor(GRID.actions.none()[None, None]), torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, dtype=torch.int64),
        demonstrations=show(episodes, 3),
    )  # fmt: skip
    with torch.no_grad():
        at_once = policy(windows)["action"]
    _, readout = policy.respond(windows, [policy.begin("grid", "do one", context=episodes)])
    torch.testing.assert_close(readout, at_once[:, 0], rtol=1e-4, atol=1e-5)


def test_checkpoints_keep_readouts(policy: Policy, sources: dict[str, Source], tmp_path: Path) -> None:
    policy.add_readout("arm", "value", ValueConfig())
    checkpoint.save(policy, tmp_path / "c")
    again = checkpoint.load_for_training(tmp_path / "c").eval()
    windows = sources["arm"].draw(8, np.random.default_rng(0))
    assert torch.equal(again(windows, ["value"])["value"], policy(windows, ["value"])["value"])
    with pytest.raises(PolysomaError, match=r"arm has no readout 'text'; it has action, value"):
        again(windows, ["text"])
    with pytest.raises(PolysomaError, match="readout 'value' of arm: expected a new name"):
        again.add_readout("arm", "value", ValueConfig())


def test_another_readout_leaves_the_others_bit_identical(policy: Policy, sources: dict[str, Source]) -> None:
    windows = {name: sources[name].draw(8, np.random.default_rng(0)) for name in ("arm", "grid")}
    before = {name: (policy(batch)["action"], policy.predict(batch)) for name, batch in windows.items()}
    policy.add_readout("arm", "value", ValueConfig())
    for name, batch in windows.items():
        assert torch.equal(policy(batch)["action"], before[name][0])
        assert torch.equal(policy.predict(batch), before[name][1])
    both = policy(windows["arm"], readouts=("action", "value"))
    assert both["value"].shape == both["action"].shape == before["arm"][0].shape
    torch.testing.assert_close(both["action"], before["arm"][0], rtol=1e-5, atol=1e-6)
    values = policy.head("arm", "value").decode(both["value"])
    assert values.shape == both["value"].shape[:2] and values.dtype == torch.float32
    policy.head("arm", "value").losses(both["value"], torch.zeros(values.shape)).mean().backward()
    assert policy.readouts["arm/value"].grad is not None and not policy.readouts["arm"].grad.any()
