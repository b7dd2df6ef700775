"""RLDS: data sets that TensorFlow Datasets wrote are read here as it reads them itself.

Run it in an environment with `tensorflow-cpu` and `tensorflow-datasets`:

    python tests/interop/check_differential_rlds.py --cases 40
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import differential  # (first: it sets the paths)
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from differential import WORDS, Truth
from hypothesis import strategies as st

Draw = Callable[[Any], Any]
CALLED = {"reward": "reward", "discount": "discount", "is_terminal": "terminated"}


def described(draw: Draw) -> tuple[dict[str, Any], dict[str, Any]]:
    """The features of a step, and those of an episode."""
    kind = draw(st.sampled_from([tf.float32, tf.float64]))
    seen: dict[str, Any] = {"state": tfds.features.Tensor(shape=(draw(st.integers(1, 7)),), dtype=kind)}
    if draw(st.booleans()):
        seen["count"] = tfds.features.Scalar(draw(st.sampled_from([tf.int32, tf.int64])))
    if draw(st.booleans()):
        form = draw(st.sampled_from(["png", "jpeg"]))
        seen["image"] = tfds.features.Image(
            shape=(*draw(st.sampled_from([(8, 12), (16, 16)])), 3), encoding_format=form
        )
    step: dict[str, Any] = {
        "observation": seen,
        "action": tfds.features.Tensor(
            shape=(draw(st.integers(1, 7)),), dtype=tf.float32, encoding=draw(st.sampled_from(["none", "zlib"]))
        ),
        "is_first": tf.bool, "is_last": tf.bool, "is_terminal": tf.bool,
    }  # fmt: skip
    if draw(st.booleans()):
        step["reward"] = tfds.features.Scalar(tf.float32)
    if draw(st.booleans()):
        step["discount"] = tfds.features.Scalar(tf.float32)
    told = draw(st.sampled_from(["language_instruction", "observation", "metadata", ""]))
    metadata: dict[str, Any] = {"file_path": tfds.features.Text()}
    if told == "language_instruction":
        step["language_instruction"] = tfds.features.Text()
    elif told == "observation":
        seen["natural_language_instruction"] = tfds.features.Text()
    elif told == "metadata":
        metadata["language_instruction"] = tfds.features.Text()
    return step, metadata


def valued(rng: np.random.Generator, feature: Any, words: str) -> Any:
    """A value of a feature."""
    if isinstance(feature, dict):
        return {name: valued(rng, inner, words) for name, inner in feature.items()}
    if isinstance(feature, tfds.features.Text):
        return words
    shape, kind = feature.shape, np.dtype(feature.np_dtype)
    if kind.kind in "iu":
        return rng.integers(0, 256 if kind == np.uint8 else 2**31 - 1, shape).astype(kind)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4)).astype(kind)


class Odd(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """Writes what the case made. There is one class, because TensorFlow Datasets registers them by name."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent
    described: Any = None
    episodes: Any = ()

    def _info(self) -> Any:
        return self.dataset_info_from_configs(features=self.described)

    def _split_generators(self, manager: Any) -> Any:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Any:
        yield from enumerate(self.episodes)


def rlds_set(draw: Draw, folder: Path) -> tuple[list[Truth], Path, int]:
    """One split in several files; words and ends at several places."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    step, metadata = described(draw)
    features = tfds.features.FeaturesDict(
        {"steps": tfds.features.Dataset(step), "episode_metadata": tfds.features.FeaturesDict(metadata)}
    )
    recorded = {name: feature for name, feature in step.items() if not name.startswith("is_")}
    episodes = []
    for _ in range(draw(st.integers(1, 5))):
        length, terminal = draw(st.integers(2, 9)), draw(st.booleans())
        words = draw(st.lists(WORDS, min_size=1, max_size=2))
        steps = []
        for at in range(length):
            value = valued(rng, recorded, words[at * len(words) // length])
            last = at == length - 1
            steps.append({**value, "is_first": at == 0, "is_last": last, "is_terminal": last and terminal})
        episodes.append({"steps": steps, "episode_metadata": valued(rng, metadata, words[0])})

    Odd.described, Odd.episodes = features, episodes
    builder = Odd(data_dir=str(folder))
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=draw(st.integers(1, len(episodes))))
    )
    # TensorFlow decodes JPEG by its fast method, a few levels beside the exact one.
    coded = "image" in step["observation"] and step["observation"]["image"].encoding_format == "jpeg"
    found = [truth(episode) for episode in tfds.as_numpy(builder.as_dataset("train", shuffle_files=False))]
    return found, Path(builder.data_dir), 8 * coded


def truth(episode: dict[str, Any]) -> Truth:
    """What TensorFlow Datasets reads. What was done after the last observation is not an action."""
    steps = list(episode["steps"])
    columns: dict[str, np.ndarray] = {}
    for name in steps[0]["observation"]:
        values = np.stack([step["observation"][name] for step in steps])
        if values.dtype.kind in "fiub":
            columns[f"observation.{'images.' * (values.dtype == np.uint8)}{name}"] = values
    for name in ("action", *CALLED):
        if name in steps[0]:
            columns[CALLED.get(name, name)] = np.stack([step[name] for step in steps])
    told = _carried([_words(step, episode) for step in steps])
    return Truth(columns, told, bool(steps[-1]["is_terminal"]))


def _words(step: dict[str, Any], episode: dict[str, Any]) -> str:
    for text in (
        step.get("language_instruction"),
        step["observation"].get("natural_language_instruction"),
        episode["episode_metadata"].get("language_instruction"),
    ):
        if text is not None:
            return str(text, "utf-8")
    return ""


def _carried(texts: list[str]) -> list[str]:
    """Steps without words are told what was told before, or first, as annotations of a moment are meant."""
    last = next((text for text in texts if text), "")
    found = []
    for text in texts:
        last = text or last
        found.append(last)
    return found


if __name__ == "__main__":
    differential.run("rlds", ["tensorflow-cpu", "tensorflow-datasets"], {"rlds": rlds_set})
