"""What the peers of benchmarks/own_robot.py and recordings.py have in common: words, training by the clock, their file.

No polysoma here: LeRobot's own environment imports this, too. A peer ends as a TorchScript file that takes a state,
words and pictures as they come from the robot and returns a chunk of actions in the robot's units, so that it is played
without the library that trained it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ABOUT = "about.json"


class Words:
    """Sentences as numbers: which words there are (a bag), and which word stands at which place, since a bag does not
    say what is to be stacked on what. Words that no demonstration had are nothing."""

    def __init__(self, known: Sequence[str], places: int) -> None:
        self.known, self.places = list(known), places
        self.size = len(self.known) * (1 + places)

    @staticmethod
    def of(sentences: Sequence[str]) -> Words:
        split = [sentence.split() for sentence in set(sentences)]
        return Words(sorted({word for words in split for word in words}), max(map(len, split)))

    def __call__(self, sentence: str) -> np.ndarray:
        found = np.zeros((1 + self.places, len(self.known)), np.float32)
        for place, word in enumerate(sentence.split()[: self.places]):
            if word in self.known:
                found[(0, 1 + place), self.known.index(word)] = 1
        return found.ravel()


@dataclass
class Demonstrations:
    """Frames of all episodes, one after the other.

    Attributes:
        state, action: float32 ``(N, S)`` and ``(N, A)``.
        pictures: by camera, uint8 ``(N, height, width, 3)``.
        last: int64 ``(N,)``, the last frame of each frame's episode.
        sentences: N instructions.
    """

    state: np.ndarray
    action: np.ndarray
    pictures: dict[str, np.ndarray]
    last: np.ndarray
    sentences: list[str]


class Peer(nn.Module):
    """A network in normalised units, with the robot's own around it. Subclasses have ``chunk_of`` and ``loss``."""

    def __init__(self, shown: Demonstrations) -> None:
        super().__init__()
        for name, values in (("state", shown.state), ("action", shown.action)):
            self.register_buffer(f"{name}_mean", torch.tensor(values.mean(0)))
            self.register_buffer(f"{name}_std", torch.tensor(values.std(0) + 1e-3))
        # Those of ImageNet, which LeRobot takes, too.
        self.register_buffer("light", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("contrast", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def inputs(self, state: Tensor, words: Tensor, pictures: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        seen = [(picture.permute(0, 3, 1, 2) / 255 - self.light) / self.contrast for picture in pictures]
        return (state - self.state_mean) / self.state_std, words, seen

    def forward(self, state: Tensor, words: Tensor, *pictures: Tensor) -> Tensor:
        """float32 ``(B, S)`` and ``(B, W)``, uint8 ``(B, height, width, 3)`` to actions, float32 ``(B, chunk, A)``."""
        return self.chunk_of(*self.inputs(state, words, pictures)) * self.action_std + self.action_mean

    def chunk_of(self, state: Tensor, words: Tensor, pictures: list[Tensor]) -> Tensor:
        raise NotImplementedError

    def loss(self, state: Tensor, words: Tensor, pictures: list[Tensor], actions: Tensor, padded: Tensor) -> Tensor:
        raise NotImplementedError


class Played:
    """A peer from its file.

    Attributes:
        chunk: how many actions it returns.
    """

    def __init__(self, path: Path) -> None:
        files = {ABOUT: ""}
        self._policy = torch.jit.load(str(path), _extra_files=files).eval()
        about = json.loads(files[ABOUT])
        self._words = Words(about["known"], about["places"])
        self._cameras, self.chunk = about["cameras"], about["chunk"]

    @torch.inference_mode()
    def __call__(self, seen: Mapping[str, np.ndarray], sentence: str) -> np.ndarray:
        """One frame's state and pictures, by name, to actions in the robot's units, float32 ``(chunk, A)``."""
        given = [seen["state"], self._words(sentence), *(seen[camera] for camera in self._cameras)]
        return self._policy(*(torch.tensor(np.asarray(value))[None] for value in given))[0].numpy()


def trained(
    method: str,
    python: str,
    data: Path,
    episodes: Iterable[int],
    out: Path,
    minutes: float,
    seed: int,
    chunk: int,
    precision: str,
    backbone: Path | None = None,
) -> tuple[Played, dict[str, Any]]:
    """Trains a peer in its own process, and returns it and what it printed.

    Args:
        method: own_robot_METHOD.py is run.
        python: of its environment.
        data: a data set of our own layout.
        episodes: the numbers of those that it learns from.
        out: the file.
        minutes, seed, chunk, precision, backbone: see :func:`arguments`.
    """
    script = Path(__file__).resolve().with_name(f"own_robot_{method}.py")
    command = [python, str(script), str(data.resolve()), ",".join(map(str, episodes)), str(out)]
    command += ["--minutes", str(minutes), "--seed", str(seed), "--chunk", str(chunk), "--precision", precision]
    if backbone is not None:
        command += ["--backbone", str(backbone.resolve())]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Played(out), json.loads(done.stdout.splitlines()[-1])


def arguments() -> argparse.Namespace:
    """What :func:`trained` calls peers with."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("episodes", type=lambda text: [int(number) for number in text.split(",")])
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--backbone", type=Path, default=None)
    return parser.parse_args()


def learn(
    make: Callable[[Demonstrations, Words], Peer],
    shown: Demonstrations,
    asked: argparse.Namespace,
    batch: int,
    learning_rate: float,
    **about: Any,
) -> None:
    """Trains for the minutes of processor time that are asked for, writes the file, and prints one line of JSON.

    AdamW whose rate rises for 2 % of the time and falls to nothing as a cosine does. Reading of the demonstrations is
    over before the clock starts.
    """
    torch.set_num_threads(1)
    torch.manual_seed(asked.seed)
    rng = np.random.default_rng(asked.seed)
    words = Words.of(shown.sentences)
    told = {sentence: words(sentence) for sentence in set(shown.sentences)}
    peer = make(shown, words).train()
    scaled = (torch.tensor(shown.action) - peer.action_mean) / peer.action_std
    optimizer = torch.optim.AdamW([p for p in peer.parameters() if p.requires_grad], learning_rate, weight_decay=1e-4)
    began, steps, losses = time.process_time(), 0, []
    while (gone := (time.process_time() - began) / (60 * asked.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(gone / 0.02, (1 + math.cos(math.pi * gone)) / 2)
        frames = rng.integers(len(shown.last), size=batch)
        ahead = frames[:, None] + np.arange(asked.chunk)
        padded = torch.tensor(ahead > shown.last[frames, None])
        actions = scaled[np.minimum(ahead, shown.last[frames, None])]
        given = peer.inputs(
            torch.tensor(shown.state[frames]),
            torch.tensor(np.stack([told[shown.sentences[frame]] for frame in frames])),
            [torch.tensor(picture[frames]) for picture in shown.pictures.values()],
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=asked.precision == "bfloat16"):
            loss = peer.loss(*given, actions, padded)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(peer.parameters(), 10.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        steps += 1
        if steps % 100 == 0:
            print(f"{steps} steps, {gone:.0%}, loss {np.mean(losses[-100:]):.3f}", file=sys.stderr, flush=True)
    peer.eval()
    one = (shown.state[:1], told[shown.sentences[0]][None], *(picture[:1] for picture in shown.pictures.values()))
    with torch.no_grad():
        traced = torch.jit.trace(peer, tuple(map(torch.tensor, one)))
    kept = {"known": words.known, "places": words.places, "cameras": list(shown.pictures), "chunk": asked.chunk}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    traced.save(str(asked.out), _extra_files={ABOUT: json.dumps(kept)})
    numbers = {
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "parameters": sum(p.numel() for p in peer.parameters()),
        "loss": round(float(np.mean(losses[-100:])), 4),
        "precision": asked.precision,
        "versions": {"torch": torch.__version__},
    }
    print(json.dumps(numbers | about))
