"""Text out of files comes to the terminal as it is: no markup, no escape sequences."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from make_lerobot import changed, write_v2
from polysoma import progress
from polysoma.cli import main
from polysoma.cli.log import json_lines
from polysoma.cli.output import add_row, say, show
from polysoma.cli.progress import telling
from polysoma.errors import PolysomaWarning
from polysoma.text import counted, plain, some

EVIL = "arm [/left] [bold red]\x1b[2J\x1b]0;title\x07\u202e\x9b31m"


@pytest.fixture(autouse=True)
def _wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")


def test_what_is_no_sign_is_made_visible() -> None:
    assert plain("caf\u00e9 \U0001f9be \u4f60\u597d [x]") == "caf\u00e9 \U0001f9be \u4f60\u597d [x]"
    assert plain("a\x1b[2J\n\x9b1m\u202e\u2028\ud800") == r"a\x1b[2J\n\x9b1m\u202e\u2028\ud800"
    assert plain("a\nb\x07", keep="\n") == "a\nb\\x07"


def test_lines_and_tables_hold_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL)
    show(("b: ", "bold"), EVIL)
    table = Table("name")
    add_row(table, EVIL)
    Console().print(table)
    out = capsys.readouterr().out
    assert out.count(r"arm [/left] [bold red]\x1b[2J\x1b]0;title\x07\u202e\x9b31m") == 3
    assert not set(out) & set("\x1b\x07\u202e\x9b")


@pytest.mark.parametrize("command", ["info", "schema", "convert", "doctor", "view"])
def test_names_and_instructions_of_a_data_set(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_v2(tmp_path / "so101 [v2]", kind="image")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["action"]["names"] = [f"{EVIL} {number}" for number in range(3)]
    features[f"observation.{EVIL}"] = {"dtype": "string", "shape": [1], "names": None}
    changed(root, robot_type=EVIL, features=features)
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    text = "".join(json.dumps(line | {"tasks": [EVIL]}) + "\n" for line in lines)
    (root / "meta/episodes.jsonl").write_text(text)
    tasks = "".join(json.dumps({"task_index": number, "task": EVIL}) + "\n" for number in range(2))
    (root / "meta/tasks.jsonl").write_text(tasks)
    words = {"doctor": ["doctor", str(root)], "convert": ["data", "convert", str(root), str(tmp_path / "out")]}
    page = ["data", "view", str(root), "--out", str(tmp_path / "view.html")]
    try:
        main({**words, "view": page}.get(command, ["data", command, str(root)]))
    except SystemExit as error:
        assert command == "doctor" and error.code == 1
    out = "".join(capsys.readouterr())
    assert out and not set(out) & set("\x1b\x07\u202e\x9b")
    if command == "info":
        # The instruction, the robot's name and the channels, as they are but for what is no sign.
        assert out.count(plain(EVIL)) >= 5


def test_errors_hold_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "info", f"nothing/{EVIL}"])
    err = capsys.readouterr().err
    assert r"\x1b[2J" in err and not set(err) & set("\x1b\x07\u202e\x9b")


def test_long_lists_are_cut() -> None:
    assert some([3, 4]) == "3, 4" and some("abc", most=2) == "a, b and 1 more" and some([]) == ""
    assert [counted(n, "body", "bodies") for n in (0, 1, 1900)] == ["0 bodies", "1 body", "1,900 bodies"]
    assert counted(2, "task") == "2 tasks"


def test_the_log_of_a_server_is_json_whoever_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    root, shown = logging.getLogger().handlers[:], warnings.showwarning
    with telling(), json_lines():
        warnings.warn("a library's own", UserWarning, stacklevel=1)
        warnings.warn("ours", PolysomaWarning, stacklevel=1)
        for _ in range(2):
            progress.note("a note")
        logging.getLogger("somebody.else").error("two\nlines", extra={"client": "it"})
        try:
            raise ValueError("oh")
        except ValueError:
            logging.getLogger("polysoma.serving").exception("a request failed")
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    said = [(row["level"], row["event"]) for row in found]
    assert said == [
        ("WARNING", "a library's own"), ("WARNING", "ours"), ("INFO", "a note"), ("ERROR", "two\nlines"),
        ("ERROR", "a request failed"),
    ]  # fmt: skip
    assert found[0]["category"] == "UserWarning" and found[0]["where"].partition(":")[0] == __file__
    assert found[3]["client"] == "it" and "ValueError: oh" in found[4]["exception"]
    assert logging.getLogger().handlers == root and warnings.showwarning is shown
