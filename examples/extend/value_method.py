"""A method of one's own: a value readout learns the return that follows each frame; the rest stays frozen.

python examples/extend/value_method.py generalist data/reacher runs/value
"""

import sys
from pathlib import Path

import numpy as np
from torch import nn

from polysoma.data.dataset import Dataset
from polysoma.data.transitions import returns
from polysoma.data.windows import gather
from polysoma.learning.engine import Engine, Settings
from polysoma.learning.method import Method
from polysoma.nn.heads import ValueConfig
from polysoma.policy import checkpoint

VALUE = "value"


class ValueRegression(Method):
    """Lowers the squared error between the value readout and the discounted return."""

    def __init__(self, policy, dataset, batch=64, discount=0.98, seed=0):
        self.policy, self.dataset, self.batch, self.seed = policy, dataset, batch, seed
        policy.requires_grad_(False)
        # What is added takes gradients, and the outputs of the other readouts stay the same bits.
        policy.add_readout(dataset.embodiment.body, VALUE, ValueConfig())
        self.modules = nn.ModuleDict({"policy": policy})
        self.returns = returns(dataset, discount)
        self.scale = float(np.abs(self.returns).max()) or 1.0

    def draw(self, rng):
        """Windows that begin at random frames, and the returns from there on."""
        frames = rng.integers(len(self.dataset), size=self.batch)
        episodes = self.dataset.episode_of(frames)
        starts = frames - self.dataset.episode_start[episodes]
        windows = gather(self.dataset, episodes, starts, self.policy.horizon(self.dataset.embodiment.name))
        return windows, self.returns[frames] / self.scale

    def accumulate(self, step, share):
        windows, target = self.draw(np.random.default_rng([self.seed, step, share.index]))
        name = self.dataset.embodiment.name
        with share.autocast():
            readouts = self.policy(windows, (VALUE,))[VALUE][:, :1]
            target = readouts.new_tensor(target)[:, None].float()
            loss = self.policy.head(name, VALUE).losses(readouts, target).mean()
        loss.backward()
        return {"loss/value": loss.item(), "windows": float(self.batch)}


if __name__ == "__main__":
    base, data, out = sys.argv[1:]
    method = ValueRegression(checkpoint.load_for_training(base), Dataset(Path(data)))
    settings = Settings(steps=200, tracker="none", checkpoint_every=200)
    print(Engine(method, settings).run(Path(out), progress=lambda step, losses: print(step, losses)))
