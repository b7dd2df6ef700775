"""``polysoma reward``: a reward that is learnt from which of two clips is better."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from polysoma.cli.logs import opened
from polysoma.cli.names import (
    ClipFrames,
    Device,
    Host,
    MakeToken,
    OpenPage,
    PageHosts,
    PageOrigins,
    PageTokenFile,
    Port,
    RankedPairs,
)
from polysoma.cli.options import check_belongs, check_same, keep
from polysoma.cli.output import say
from polysoma.cli.play import INSTALL, show_page
from polysoma.cli.progress import counting_steps
from polysoma.cli.train import check_run
from polysoma.config import Seed, within
from polysoma.errors import PolysomaError
from polysoma.text import counted

if TYPE_CHECKING:
    from polysoma.evaluation.preferences import Judged

PAIRS = "pairs.jsonl"
"""Pairs that --by ranked, in the folder of the run."""


@dataclass(frozen=True)
class RewardLearn:
    """Learns a reward from pairs of clips of logs of one task, of which the better one is known.

    The pairs come from a file, as the page of `polysoma reward rank` writes it, or are ranked by what the logs say.
    `polysoma improve --reward` uses the reward.

    Examples:
        polysoma reward learn data/noisy/pointmaze --pairs pairs.jsonl --out runs/reward
        polysoma reward learn data/noisy/half-cheetah --by return --clip 40 --count 500 --out runs/reward
        polysoma improve generalist --tasks pointmaze/large --reward runs/reward/checkpoint --out runs/maze
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="LOGS")]
    """Data sets of one body that senses numbers or symbols, of one instruction, of any known format."""
    pairs: Path | None = None
    """A file of pairs of their clips."""
    by: Literal["success", "return"] | None = None
    """Instead of --pairs: rank clips by whether their episode succeeded, or by the sum of their rewards."""
    count: Annotated[int, within(1, 10**6)] = 500
    """Pairs that --by ranks to learn from."""
    clip: Annotated[int, within(0, 10**6)] = 0
    """Frames of the clips that --by ranks; 0 for whole episodes."""
    held_out: Annotated[float, within(0, 1, above=True, below=True)] = 0.2
    """The part of the episodes (with --by) or of the pairs (with --pairs) that is not learnt from, to judge by."""
    out: Path = Path("runs/reward")
    """Folder of the run; out/checkpoint is what comes of it."""
    steps: Annotated[int, within(1, 10**9)] = 250
    """Of learning, of 32 pairs for each perceptron."""
    width: Annotated[int, within(1, 65_536)] = 256
    """Of the perceptrons, of which there are five."""
    seed: Seed = 0
    """Of all that is drawn at random."""
    device: Device = "auto"
    resume: bool = False
    """Continue the run in --out."""

    def run(self) -> None:
        if (self.pairs is None) == (self.by is None):
            raise PolysomaError("expected one of --pairs and --by: a file of ranked pairs, or what ranks them")
        check_belongs(self, "by", "count")
        if self.by == "success" and self.clip:
            raise PolysomaError("--clip: whole episodes succeed or do not; expected none with --by success")
        check_run(self.out, self.resume, "none")
        if self.resume:
            check_same(self, self.out, "out", "resume", "device", "steps")
        import numpy as np

        from polysoma.data.preferences import Clips, read_pairs, write_pairs
        from polysoma.evaluation.preferences import judged
        from polysoma.learning.distributed import learn_on
        from polysoma.learning.methods.preferences import SIZE, engine_settings, learn
        from polysoma.policy import rewards

        learn_on(self.device)
        clips = Clips(opened(self.data))
        rng = np.random.default_rng([self.seed, 57])
        if self.by is not None:
            episodes, unseen = clips.apart(self.held_out, self.seed)
            pairs = clips.ranked(episodes, self.count, self.by, rng, self.clip)
            apart = clips.ranked(unseen, self.count, self.by, rng, self.clip)
            if (self.out / PAIRS).exists() and read_pairs(self.out / PAIRS) != pairs:
                raise PolysomaError(
                    f"{self.out / PAIRS} holds other pairs, which may be somebody's work: learn from them with "
                    "--pairs, or choose another --out"
                )
            write_pairs(self.out / PAIRS, pairs)
        else:
            assert self.pairs is not None
            every = read_pairs(self.pairs)
            order = rng.permutation(len(every))
            count = round(self.held_out * len(every))
            pairs, apart = [every[n] for n in order[count:]], [every[n] for n in order[:count]]
            seen = {clips.episode(clip) for pair in pairs for clip in (pair.first, pair.second)}
            unseen = np.setdiff1d(np.arange(len(clips.length)), sorted(seen))
        keep(self, self.out)
        with counting_steps("learning", self.steps) as progress:
            folder = learn(
                clips, pairs, self.out, (self.width, *SIZE[1:]), settings=engine_settings(self.steps), seed=self.seed,
                resume=self.resume, progress=progress,
            )  # fmt: skip
        whole = [clips.some(int(episode), rng, self.clip) for episode in unseen if clips.length[episode] >= self.clip]
        by = self.by or ("return" if clips.rewarded else "success")
        worth = np.array([clips.worth(clip, by) for clip in whole])
        _tell(judged(rewards.load(folder), clips, apart, whole, worth), by)
        say(f"checkpoint: {folder}; `polysoma improve CHECKPOINT --tasks TASK --reward {folder}`")


def _tell(found: Judged, by: str) -> None:
    """What a reward is worth, beside what needs no learning."""
    from polysoma.evaluation.intervals import wilson

    for name, right in found.right.items():
        low, high = wilson(right, found.pairs)
        say(f"{name} ranks {right} of {found.pairs} pairs apart as they were: {right / found.pairs:.2f} "
            f"[{low:.2f}, {high:.2f}]")  # fmt: skip
    for name, rank in found.rank.items():
        told = "never changes" if math.isnan(rank) else f"{rank:+.2f}"
        say(f"{name}: rank correlation with the {by} of {found.clips} episodes apart {told}")


@dataclass(frozen=True)
class RewardRank:
    """Shows two clips of logs side by side in the browser and asks which one is better.

    Answers are arrow keys, and go into a file of pairs for `polysoma reward learn`. Opened again, it goes on.

    Examples:
        polysoma reward rank data/noisy/pointmaze --pairs pairs.jsonl --clip 150
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="LOGS")]
    """Data sets of one body that senses numbers or symbols, of one instruction, of any known format. Episodes that were
    recorded here are played again in their simulator; others are shown by their cameras, or as lines."""
    pairs: RankedPairs = Path("pairs.jsonl")
    clip: ClipFrames = 0
    seed: Seed = 0
    """Of the pairs."""
    host: Host = "127.0.0.1"
    port: Port = 8080
    open: OpenPage = True
    token_file: PageTokenFile = None
    token: MakeToken = True
    hosts: PageHosts = ()
    origins: PageOrigins = ()

    def run(self) -> None:
        try:
            from polysoma.play.ranking import RankServer
            from polysoma.serving.door import chosen_token
        except ImportError as error:
            raise PolysomaError(f"the page needs {error.name}, not installed here: run `{INSTALL}`") from error
        from polysoma.data.preferences import Clips

        clips = Clips(opened(self.data, "rank"))
        token, _ = chosen_token(self.host, self.token_file, self.token)
        server = RankServer(clips, self.pairs, self.clip, self.seed, token, self.hosts, self.origins)
        asyncio.run(show_page(server, counted(len(clips.length), "episode"), self.host, self.port, token, self.open))
        say(f"pairs: {self.pairs}; `polysoma reward learn {' '.join(self.data)} --pairs {self.pairs}`")
