"""Checkpoints on the Hugging Face Hub, each with a card that is written from what was measured."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polysoma.embodiment import ContinuousActions, Modality
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import computed_on
from polysoma.files import reason, write_atomically
from polysoma.hub import PREFIX
from polysoma.policy.checkpoint import ATTACHED, FILES, attached, check_place, config_of, copy, resolve
from polysoma.text import counted

CARD = "README.md"


def read_results(path: Path) -> dict[str, Any]:
    """What ``polysoma evaluate --json`` wrote. Raises PolysomaError when it is not that."""
    try:
        results = json.loads(path.read_text())
        assert isinstance(results["families"], dict) and isinstance(results["settings"], dict)
        for score in results["families"].values():
            low, high = score["interval"]
            assert all(
                isinstance(n, int | float) for n in (low, high, *(score[k] for k in ("successes", "trials", "rate")))
            )
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AssertionError) as error:
        raise PolysomaError(f"{path} does not hold results of `polysoma evaluate --json` ({error})") from error
    return results


def model_card(checkpoint: str | Path, name: str, results: Mapping[str, Any] | None = None) -> str:
    """A model card in Markdown.

    Args:
        checkpoint: a folder, or ``"generalist"``.
        name: of the model on the Hub, ``"user/name"``, with or without ``hf://``.
        results: see :func:`read_results`; None says that nothing was measured.

    Raises:
        PolysomaError: no checkpoint there.
    """
    name = name.removeprefix(PREFIX)
    config = config_of(checkpoint)
    # What a fleet begins with knows no body yet.
    first = config.embodiments[0].name if config.embodiments else "..."
    lines = [
        "---",
        "library_name: polysoma",
        "license: apache-2.0",
        "pipeline_tag: robotics",
        "tags: [robotics, imitation-learning, cross-embodiment]",
        "---",
        "",
        f"# {name}",
        "",
        f"One transformer policy (width {config.width}, {config.trunk}) that drives "
        f"{counted(len(config.embodiments), 'body', 'bodies')}, for Polysoma.",
        "",
        "```python",
        "import polysoma",
        "",
        f'agent = polysoma.load("{PREFIX}{name}").agent("{first}", instruction="...")',
        "```",
        "",
        "| body | senses | actions | rate |",
        "| --- | --- | --- | --- |",
    ]
    for body in config.embodiments:
        senses = ", ".join(
            f"{stream.name} {stream.shape}" if stream.modality is not Modality.TEXT else stream.name
            for stream in body.streams
        )
        kind = "channels" if isinstance(body.actions, ContinuousActions) else "choices"
        moves = f"{body.actions.size} {kind}, chunks of {config.horizons[body.name].chunk}"
        lines.append(f"| {body.name} | {senses} | {moves} | {body.rate_hz:g} Hz |")
    lines += ["", "## Measured", ""]
    if results is None:
        return "\n".join([*lines, "Nothing was measured yet.", ""])
    lines += ["| body | successes / trials | rate | 95 % interval |", "| --- | --- | --- | --- |"]
    for family, score in results["families"].items():
        low, high = score["interval"]
        lines.append(
            f"| {family} | {score['successes']} / {score['trials']} | {score['rate']:.3f} | {low:.3f} to {high:.3f} |"
        )
    settings, hardware = results["settings"], results.get("hardware", {})
    lines += [
        "",
        f"`polysoma evaluate`, {settings.get('episodes')} episodes a task with seeds from {settings.get('seed')} on; "
        f"{computed_on(hardware)}.",
        "",
    ]
    return "\n".join(lines)


def save_pretrained(checkpoint: str | Path, folder: Path, name: str, results: Mapping[str, Any] | None = None) -> Path:
    """Writes what belongs on the Hub, the checkpoint and its card, into a folder.

    Raises:
        PolysomaError: no checkpoint there, or as :func:`~polysoma.policy.checkpoint.check_place`.
    """
    source = resolve(checkpoint)
    places = {place.name: place for place in attached(source)}
    check_place(folder, places)
    card = model_card(checkpoint, name, results)
    copy([(source, folder), *((place, folder / ATTACHED / name) for name, place in places.items())])
    write_atomically(folder / CARD, card.encode())
    return folder


def push_to_hub(
    checkpoint: str | Path, name: str, results: Mapping[str, Any] | None = None, private: bool = False
) -> str:
    """Uploads a checkpoint with its card and returns its address. The Hub's own login is used.

    Raises:
        PolysomaError: no checkpoint there, huggingface_hub is not installed, or the Hub cannot be reached or refuses.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise PolysomaError("the Hub needs huggingface_hub: run `pip install 'polysoma[hub]'`") from error
    name = name.removeprefix(PREFIX)
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_pretrained(checkpoint, Path(temporary), name, results)
        api = HfApi()
        try:
            api.create_repo(name, private=private, exist_ok=True)
            # What was attached before would be taken for an adaptation of the new weights.
            stale = [f"{ATTACHED}/*/{file}" for file in FILES]
            told = "Polysoma checkpoint"
            return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=told, delete_patterns=stale))
        except Exception as error:
            # Networks, proxies, tokens and names fail each in a way of its own.
            raise PolysomaError(f"cannot upload to {name} on the Hub ({reason(error)})") from error
