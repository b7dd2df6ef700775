"""Eyes that do not learn look at each picture once."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SEEN_ARM, make_episode
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import Modality, Stream
from polysoma.learning.bodies import BodyRecipe
from polysoma.learning.looking import CachedFeatures, look_once
from polysoma.learning.method import Share
from polysoma.learning.preparation import policy_for, sources_for
from polysoma.learning.recipe import PolicySize, Recipe
from polysoma.learning.training import ingredients, rehearse
from polysoma.nn.images import ImageConfig

BODY = dataclasses.replace(
    SEEN_ARM, name="table-arm", body="table-arm", streams=(
        SEEN_ARM.stream("tip"), Stream("front", Modality.IMAGE, (24, 32, 3)), SEEN_ARM.stream("instruction"),
    ),
)  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    with DatasetWriter(tmp_path / "data", BODY) as writer:
        for seed, color in enumerate(("red", "blue", "green")):
            writer.add(make_episode(BODY, 6, seed, f"table-arm/{color}", f"pick up the {color} block"))
    return Recipe(
        data=(str(tmp_path / "data"),),
        bodies={BODY.name: BodyRecipe(batch=8)},
        steps=2,
        policy=PolicySize(width=32, depth=1, heads=2),
        images=ImageConfig(reduction="named", tokens=1, outlines=True),
    )


def test_a_policy_learns_the_same_of_what_was_seen_as_of_pictures(recipe: Recipe) -> None:
    sources, _ = sources_for(recipe)
    policy = policy_for(recipe, sources, None).compute_in("float32")
    (source,) = sources
    pictures = source.draw(12, np.random.default_rng(0))
    loss = policy.loss(pictures).item()
    ((seen, episodes),) = look_once(recipe, policy, sources)
    assert isinstance(source.datasets[0].observations["front"], CachedFeatures) and len(episodes) == 3
    found = source.draw(12, np.random.default_rng(0))
    assert found.observations["front"].dtype == torch.float32 and found.observations["front"].dim() == 3
    assert policy.loss(found).item() == pytest.approx(loss, abs=1e-5)
    # What was seen is seen no more.
    again = look_once(recipe, policy, sources)
    assert again[0][0] is seen
    source.draw(200, np.random.default_rng(1))
    assert seen.left(episodes) == 0


def _looked(recipe: Recipe) -> int:
    sources, _ = sources_for(recipe)
    policy = policy_for(recipe, sources, None)
    return len(look_once(recipe, policy, sources))


def test_pictures_that_training_changes_and_eyes_that_learn_look_at_every_step(recipe: Recipe) -> None:
    assert _looked(recipe) == 1
    for changed in (BodyRecipe(batch=8, color_jitter=0.1), BodyRecipe(batch=8, random_shift=2)):
        assert not _looked(dataclasses.replace(recipe, bodies={BODY.name: changed}))
    assert not _looked(dataclasses.replace(recipe, paraphrases="shipped"))
    assert not _looked(dataclasses.replace(recipe, images=ImageConfig(reduction="points", tokens=1)))


def test_whether_words_count_is_not_asked_of_what_was_seen_in_the_light_of_others(recipe: Recipe) -> None:
    sources, _ = sources_for(recipe)
    policy, said = policy_for(recipe, sources, None), []
    for _ in range(2):
        method = recipe.method.build(ingredients(recipe, policy, sources))
        with torch.inference_mode():
            said.append(method.remarks(1, Share()))
        look_once(recipe, policy, sources)
    assert list(said[0]) == [f"words/{BODY.name}"] and not said[1]


def test_a_rehearsal_says_what_looking_costs(recipe: Recipe) -> None:
    assert rehearse(recipe).once >= 0
    other = dataclasses.replace(recipe, images=ImageConfig(reduction="points", tokens=1))
    assert rehearse(other).once == 0
