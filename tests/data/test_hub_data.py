"""Data sets of the Hub by name, offline: the cache of huggingface_hub is prepared as that library leaves it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from make_lerobot import write_v3
from polysoma import hub
from polysoma.cli import main
from polysoma.data.dataset import Dataset
from polysoma.data.formats import located, open_reader
from polysoma.data.mixture import open_sources
from polysoma.data.schema import schema_of, schema_path
from polysoma.errors import PolysomaError
from polysoma.learning.recipe import recipe_from_table
from polysoma.rollout.drivers import Checkpoint, InContext

Fetch = Callable[[str], Path]


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """Makes it look as if a version of ``me/arms`` had been fetched, without a network from now on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def fetched(commit: str) -> Path:
        repository = tmp_path / "hub" / "datasets--me--arms"
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs/main").write_text(commit)
        return write_v3(repository / "snapshots" / commit, "image")

    return fetched


def test_a_name_stands_for_what_was_fetched(fetch: Fetch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fetch("a" * 40)
    assert located(Path("hf://me/arms")) == folder and hub.called(folder) == "hf://me/arms"
    main(["data", "info", "hf://me/arms"])
    main(["data", "view", "hf://me/arms", "--out", "page.html", "--episodes", "1"])
    main(["data", "convert", "hf://me/arms", "copy"])
    main(["doctor", "hf://me/arms"])
    said = capsys.readouterr().out
    assert "me/arms: LeRobotDataset v3.0" in said and "copy: 3 episodes written" in said
    assert "<title>arms</title>" in Path("page.html").read_text()
    np.testing.assert_array_equal(Dataset(Path("copy")).actions, Dataset(folder).actions)


def test_what_is_shown_and_what_leads_may_lie_on_the_hub(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch("a" * 40)
    assert Dataset.named("hf://me/arms").root == folder
    assert InContext("hf://me/arms", 1).episodes().keys() == InContext(str(folder), 1).episodes().keys()
    opened: list[Path] = []
    monkeypatch.setattr("polysoma.acting.opening.open_planner", lambda *given, **more: SimpleNamespace())
    monkeypatch.setattr("polysoma.acting.graph.searching", lambda planner, logs, *rest: opened.append(logs.root))
    Checkpoint("runs/x/checkpoint", graph=("hf://me/arms", 0.0)).unguarded()
    assert opened == [folder]


def test_a_recipe_names_data_of_the_hub_and_weighs_them(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, own = fetch("a" * 40), write_v3(Path("own"), "image")
    recipe = recipe_from_table({"data": ["hf://me/arms", "own"], "bodies": {"test-arm": {}}}, "test")
    assert recipe.folders() == [folder, Path("own")]
    assert sum(len(dataset) for source in open_sources([folder, own], {}, {}) for dataset in source.datasets) == 46
    monkeypatch.setattr("polysoma.data.mixture.Source", lambda datasets, weights, *rest, **more: weights)
    assert open_sources([folder, own], {"hf://me/*": 3.0}, {}) == [[3.0, 1.0]]


def test_a_description_outlives_the_next_version(fetch: Fetch, capsys: pytest.CaptureFixture[str]) -> None:
    first = fetch("a" * 40)
    main(["data", "schema", "hf://me/arms"])
    where = schema_path(first)
    assert where.exists() and str(where) in capsys.readouterr().out
    assert not (first / "embodiment.toml").exists()
    where.write_text(where.read_text().replace('"test-arm"', '"mine"'))
    second = fetch("b" * 40)
    assert located(Path("hf://me/arms")) == second
    assert schema_of(open_reader(second)).embodiment.name == "mine"
    with pytest.raises(SystemExit):
        main(["data", "schema", "hf://me/arms"])
    assert "is there already" in capsys.readouterr().err
    # A description that was published with the data counts where there is no other.
    (second / "embodiment.toml").write_text(where.read_text().replace('"mine"', '"theirs"'))
    assert schema_of(open_reader(second)).embodiment.name == "mine"
    where.unlink()
    assert schema_of(open_reader(second)).embodiment.name == "theirs"


def test_a_body_without_a_name_is_called_after_the_data_set(fetch: Fetch) -> None:
    folder = fetch("a" * 40)
    about = folder / "meta/info.json"
    about.write_text(about.read_text().replace('"test arm"', "null"))
    assert schema_of(open_reader(folder)).embodiment.name == "arms"


def test_what_is_not_there_is_said_in_one_sentence(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PolysomaError, match=r"data set at hf://me/arms: .* cannot be reached, and nothing was fetched"):
        located(Path("hf://me/arms"))
    with pytest.raises(PolysomaError, match=r"no data set at hf://me/arms@v1\.0: .* nothing was fetched"):
        located(Path("hf://me/arms@v1.0"))
    for wrong in ("hf://arms", "hf://me/arms/more", "hf://me/arms@"):
        with pytest.raises(PolysomaError, match="expected hf://user/name or hf://user/name@revision"):
            hub.fetched(wrong, "data set")
    recipe = recipe_from_table({"data": ["hf://me/arms"], "bodies": {"arm": {}}}, "test")
    with pytest.raises(PolysomaError, match="no data set at hf://me/arms"):
        recipe.folders()

    from huggingface_hub.errors import RepositoryNotFoundError

    def refuse(*args: object, **options: object) -> str:
        answer: Any = SimpleNamespace(headers={}, request=None)
        raise RepositoryNotFoundError("404\nand more", response=answer)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(PolysomaError, match="it has none of this name for you; a private one needs"):
        located(Path("hf://me/arms"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PolysomaError, match=r"pip install 'polysoma\[hub\]'"):
        located(Path("hf://me/arms"))


def test_a_revision_can_be_pinned(fetch: Fetch) -> None:
    first, second = fetch("a" * 40), fetch("b" * 40)
    assert located(Path("hf://me/arms")) == second
    assert located(Path(f"hf://me/arms@{'a' * 40}")) == first


def test_a_path_is_never_looked_for_on_the_hub(fetch: Fetch) -> None:
    """Not even where the working directory is another one, and something of this name was fetched."""
    fetch("a" * 40)
    for path in ("data/arms", "../me/arms", "one", "/nowhere/arms", "a/b/c", "me/arms"):
        with pytest.raises(PolysomaError, match="there is nothing at"):
            open_reader(located(Path(path)))
    with pytest.raises(PolysomaError, match="what lies on the Hugging Face Hub is called hf://me/arms"):
        open_reader(Path("me/arms"))
    recipe = recipe_from_table({"data": ["data/arms"], "bodies": {"arm": {}}}, "test")
    with pytest.raises(PolysomaError, match="no data set matches 'data/arms'"):
        recipe.folders()
