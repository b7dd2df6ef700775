"""Exported policies: the same answers without torch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, HORIZONS, ROOT, SEEN_ARM, make_policy, observe
from polysoma.acting.dead_ends import DeadEndGuard
from polysoma.acting.limits import BodyLimits
from polysoma.acting.planner import Plan
from polysoma.cli.export import Export
from polysoma.data.batch import Batch
from polysoma.data.mixture import Source
from polysoma.data.windows import tensor
from polysoma.embodiment import DiscreteActions, Embodiment
from polysoma.errors import PolysomaError
from polysoma.nn.heads import HeadConfig
from polysoma.nn.trunk import TransformerConfig
from polysoma.nn.words import TextTokenizer
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig
from polysoma.policy.dead_ends import Alarm, DeadEndConfig, DeadEnds
from polysoma.policy.policy import Policy

pytest.importorskip("onnxruntime", reason="exporting needs pip install 'polysoma[export]'")

from polysoma.policy.export import export_guard, export_onnx

EXAMPLES = ROOT / "examples"
sys.path.insert(0, str(EXAMPLES))
import edge  # noqa: E402


def answers(policy: Policy, body: Embodiment, path: Path, frames: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the exported and the original policy say to the same observations, frame by frame."""
    runner = edge.Runner(str(path), "do one")
    seen, previous, pairs = [], [runner.previous[0]], []
    for seed in range(frames):
        observation = observe(body, seed)
        seen.append(observation)
        chunk = runner.act(observation)
        action = np.int64(seed % 3) if runner.names else np.full(body.actions.size, seed / 10, np.float32)
        history = policy.horizon(body.name).history
        windows = Batch(
            body,
            ["do one"],
            {s.name: tensor(np.stack([o[s.name] for o in seen[-history:]])[None]) for s in body.arrays},
            tensor(np.stack(previous[-history:])[None]),
            torch.tensor([[number > 0 for number in range(len(previous))][-history:]]),
            torch.tensor([min(len(seen), history)]),
        )
        with torch.inference_mode():
            expected = policy.head(body.name).decode(policy(windows)["action"])[0, -1].numpy()
        pairs.append((chunk, expected))
        runner.executed(action)
        previous.append(action)
    return pairs


@pytest.mark.parametrize("body", [ARM, GRID, SEEN_ARM], ids=lambda body: body.name)
def test_an_exported_policy_says_the_same(body: Embodiment, sources: dict[str, Source], tmp_path: Path) -> None:
    policy = make_policy(sources, (ARM, GRID, SEEN_ARM))
    path = tmp_path / "model.onnx"
    size = export_onnx(policy, body.name, path)
    assert size == path.stat().st_size
    for chunk, expected in answers(policy, body, path, frames=HORIZONS[body.name].history + 2):
        if body is not GRID:
            expected = np.clip(expected, body.actions.low, body.actions.high)
        np.testing.assert_allclose(chunk, expected, atol=1e-4)


def test_several_actions_of_a_chunk_may_be_executed_between_two_frames(
    sources: dict[str, Source], tmp_path: Path
) -> None:
    assert HORIZONS[GRID.name].history >= 3
    policy, path = make_policy(sources, (GRID,)), tmp_path / "grid.onnx"
    export_onnx(policy, GRID.name, path)
    every, last = edge.Runner(str(path), "do one"), edge.Runner(str(path), "do one")
    for seed in range(HORIZONS[GRID.name].history + 2):
        seen = observe(GRID, seed)
        np.testing.assert_array_equal(every.act(seen), last.act(seen))
        for action in (0, 1, seed % 3):
            every.executed(action)
        last.executed(seed % 3)


def test_eight_bits_are_smaller_and_nearly_right(sources: dict[str, Source], tmp_path: Path) -> None:
    policy = make_policy(sources, (SEEN_ARM,))
    whole = export_onnx(policy, SEEN_ARM.name, tmp_path / "float.onnx")
    small = export_onnx(policy, SEEN_ARM.name, tmp_path / "int8.onnx", int8=True)
    assert small < 0.5 * whole
    for chunk, expected in answers(policy, SEEN_ARM, tmp_path / "int8.onnx"):
        np.testing.assert_allclose(chunk, np.clip(expected, -1, 1), atol=0.2)


def test_a_matrix_that_is_used_twice_is_stored_once_in_eight_bits(sources: dict[str, Source], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    config = PolicyConfig(
        (ARM,),
        {ARM.name: sources[ARM.name].statistics()},
        ("do", "one"),
        {ARM.name: HORIZONS[ARM.name]},
        width=128,
        trunk=TransformerConfig(depth=2, heads=2),
        heads=2,
    )
    export_onnx(Policy(config), ARM.name, tmp_path / "int8.onnx", int8=True)
    held = onnx.load(tmp_path / "int8.onnx").graph.initializer
    # Task and frames go through the same block one after the other.
    large = {tensor.name: tensor.data_type for tensor in held if np.prod(tensor.dims) >= 128 * 512}
    assert large and set(large.values()) == {onnx.TensorProto.INT8}, large


def test_the_runner_needs_no_torch(sources: dict[str, Source], tmp_path: Path) -> None:
    path = tmp_path / "arm.onnx"
    export_onnx(make_policy(sources), ARM.name, path)
    code = f"import sys; sys.argv = ['edge.py', {str(path)!r}, 'do one']; import runpy; runpy.run_path({str(EXAMPLES / 'edge.py')!r}, run_name='__main__'); print('torch' in sys.modules, 'polysoma' in sys.modules)"  # noqa: E501
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False False" and "arm: (4, 2)" in result.stdout


def test_the_runner_keeps_limits_that_are_exported(sources: dict[str, Source], tmp_path: Path) -> None:
    own = BodyLimits(step=dict.fromkeys((channel.name for channel in ARM.actions.channels), 0.01))
    export_onnx(make_policy(sources), ARM.name, tmp_path / "arm.onnx", limits=dataclasses.asdict(own))
    runner = edge.Runner(str(tmp_path / "arm.onnx"), "do one")
    runner.executed(np.full(2, 0.5))
    chunk = runner.act(observe(ARM, 0))
    np.testing.assert_array_less(np.abs(np.diff(chunk, axis=0, prepend=0.5)), 0.01 + 1e-6)
    assert runner.limits.counts["step"] == len(chunk) == runner.limits.counts["changed"]


def test_what_cannot_be_exported_is_said(sources: dict[str, Source], tmp_path: Path) -> None:
    policy = make_policy(sources)
    with pytest.raises(PolysomaError, match="does not know the body 'leg'"):
        export_onnx(policy, "leg", tmp_path / "x.onnx")
    statistics = {ARM.name: sources[ARM.name].statistics()}
    horizons, drawing = {"arm": HORIZONS["arm"]}, HeadConfig(kind="flow")
    flow = Policy(
        PolicyConfig(
            (ARM,),
            statistics,
            ("go",),
            horizons,
            width=16,
            trunk=TransformerConfig(depth=1, heads=2),
            heads=2,
            head=drawing,
        )
    )
    with pytest.raises(PolysomaError, match="draws its actions from noise"):
        export_onnx(flow, ARM.name, tmp_path / "x.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_as_many_words_are_read_as_by_torch(
    sources: dict[str, Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, path = make_policy(sources).compute_in("float32"), tmp_path / "arm.onnx"
    export_onnx(policy, ARM.name, path)
    state = {"state": np.zeros(3, np.float32)}
    for before in (0, 1, 28, 63, 70, 511, 520):
        chunks = {}
        for last in ("one", "two"):
            text = " ".join(["go"] * before + [last])
            chunks[last] = edge.Runner(str(path), text).act(state)
            expected = policy.predict(one_frame(ARM, state, text))[0].numpy()
            np.testing.assert_allclose(chunks[last], np.clip(expected, -1, 1), atol=1e-5)
        assert np.array_equal(chunks["one"], chunks["two"]) == (before >= 512)
    assert "reads 512 words, the instruction has 521: the rest is not read" in capsys.readouterr().err
    assert edge.Runner(str(path), "").act(state).shape == (4, 2)


def test_the_runner_reads_words_as_torch_does() -> None:
    vocabulary = ["caf", "go", "é", "türe", "红", "куб"]
    text = TextTokenizer(vocabulary, 8, 1)
    ids = {word: number for number, word in enumerate(vocabulary, start=2)}
    for said in ("Go café", "go, TÜRE!", "红куб go", "kafé xyz", "लाल go_go", ""):
        assert edge.read(said, ids) == text.read(said)


def one_frame(body: Embodiment, seen: dict[str, np.ndarray], text: str) -> Batch:
    none = tensor(body.actions.none()[None, None])
    streams = {name: tensor(value[None, None]) for name, value in seen.items()}
    return Batch(body, [text], streams, none, torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, dtype=torch.int64))


def test_the_runner_checks_what_it_is_given_and_keeps_its_own_copy(sources: dict[str, Source], tmp_path: Path) -> None:
    policy = make_policy(sources)
    for body in (ARM, GRID):
        export_onnx(policy, body.name, tmp_path / f"{body.name}.onnx")
    arm = edge.Runner(str(tmp_path / "arm.onnx"), "do one")
    for wrong in ([0, np.nan, 0], [0, np.inf, 0], [0, 1e39, 0]):
        with pytest.raises(ValueError, match=r"state: not a finite number in \['y'\]"):
            arm.act({"state": np.array(wrong)})
    with pytest.raises(ValueError, match=r"state: expected float32 of shape \(3,\), got float64 of shape \(2,\)"):
        arm.act({"state": np.zeros(2)})
    with pytest.raises(ValueError, match="expected the stream 'state', got"):
        arm.act({})
    with pytest.raises(ValueError, match="executed: expected finite numbers"):
        arm.executed([np.nan, 0])
    first, second = (edge.Runner(str(tmp_path / "grid.onnx"), "do one") for _ in range(2))
    every = [{name: value for name, value in observe(GRID, seed).items() if name != "instruction"} for seed in range(8)]
    same = {name: np.zeros_like(value) for name, value in every[0].items()}
    for seed, new in enumerate(every):
        for name, value in new.items():
            same[name][...] = value
        np.testing.assert_array_equal(first.act(new), second.act(same))
        for runner in (first, second):
            runner.executed(seed % 3)
    with pytest.raises(ValueError, match="0 to 255"):
        second.act({**same, "view": np.full((3, 3, 2), 256)})


@pytest.mark.parametrize(
    "body", [ARM, dataclasses.replace(ARM, actions=DiscreteActions(("left", "right", "stay"))), GRID]
)
def test_an_exported_guard_replaces_what_the_guard_replaces(tmp_path: Path, body: Embodiment) -> None:
    torch.manual_seed(0)
    choices = isinstance(body.actions, DiscreteActions)
    values = DeadEnds(DeadEndConfig(body, span=1 if choices else 2, remembered=8))
    states, following = torch.randn(2, 50, len(values.mean))
    values.measure(states, following, np.random.default_rng(0))
    with torch.no_grad():
        for twins in (values.negative, values.positive):
            for net in twins.both:
                net[-1].weight.mul_(5)
    values.requires_grad_(False).eval()
    guard = DeadEndGuard(values.with_alarm(Alarm(0.3, 0.1, 100, unlike=0.6)))
    export_guard(guard.values, tmp_path / "body.guard.onnx")
    exported = edge.Guard(tmp_path / "body.guard.onnx", body.name)
    rng, decided = np.random.default_rng(1), set()
    for seed in range(40):
        seen = observe(body, seed)
        if choices:
            likely = np.log(rng.dirichlet(np.ones(3), 4)).astype(np.float32)
            verdict = guard.judge(seen, Plan(likely.argmax(1), "policy", None, likely))
            done, wanted = exported.choices(likely, seen).argmax(1), likely.argmax(1)[0]
            expected = likely.argmax(1)[:1] if verdict.actions is None else verdict.actions
        else:
            plan = rng.uniform(-1, 1, (4, body.actions.size)).astype(np.float32)
            verdict = guard.judge(seen, Plan(plan, "policy"))
            done, wanted = exported.numbers(plan, seen), plan[:2]
            expected = plan[:2] if verdict.actions is None else verdict.actions
        np.testing.assert_allclose(done, expected, atol=1e-5)
        assert (exported.alarm, exported.risk) == (verdict.alarm, pytest.approx(verdict.risk, abs=1e-5))
        if verdict.actions is None:
            assert exported.replaced is None
        else:
            np.testing.assert_array_equal(exported.replaced, wanted)
        decided.add(verdict.decision)
    assert decided == {"allow", "replace"} and exported.counts["judged"] == 40 > exported.counts["replaced"] > 0
    with pytest.raises(ValueError, match="expected a guard of another"):
        edge.Guard(tmp_path / "body.guard.onnx", "another")


def test_a_policy_does_not_drive_without_the_guard_that_it_was_exported_with(
    sources: dict[str, Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(make_policy(sources, (ARM,)), tmp_path / "policy")
    values = DeadEnds(DeadEndConfig(dataclasses.replace(ARM, rate_hz=20), 8, 1)).with_alarm(Alarm(0.5, 0.1, 100))
    values.save(tmp_path / "guard")
    path, beside = tmp_path / "arm.onnx", tmp_path / "arm.guard.onnx"
    asked = Export(str(tmp_path / "policy"), "arm", path, guard=str(tmp_path / "guard"))
    asked.run()
    seen = {name: value for name, value in observe(ARM).items() if name != "instruction"}
    runner = edge.Runner(str(path), "do one")
    assert runner.act(seen).shape == (1, 2) and runner.guard.counts["judged"] == 1
    content = beside.read_bytes()
    beside.unlink()
    with pytest.raises(ValueError, match=r"exported with a guard: expected arm\.guard\.onnx beside it, there is none"):
        edge.Runner(str(path), "do one")
    values.with_alarm(Alarm(0.4, 0.1, 100)).save(tmp_path / "guard")
    export_guard(DeadEnds.load(tmp_path / "guard"), beside)
    with pytest.raises(ValueError, match="expected the guard that was exported with"):
        edge.Runner(str(path), "do one")
    # What lies there of an earlier export judges nothing of a policy that was exported without a guard.
    beside.write_bytes(content)
    capsys.readouterr()
    dataclasses.replace(asked, guard="").run()
    assert "of an earlier export; arm.onnx does not use it" in capsys.readouterr().out
    assert edge.Runner(str(path), "do one").guard is None
    with pytest.raises(PolysomaError, match="expected a guard of another, got one of arm"):
        dataclasses.replace(asked, embodiment="another").run()
