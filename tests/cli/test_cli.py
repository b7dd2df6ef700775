from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import pytest

from conftest import ARM, HORIZONS, make_episode, observe
from polysoma.cli import COMMANDS, main
from polysoma.data.writer import DatasetWriter
from polysoma.errors import DEBUG
from polysoma.policy import checkpoint
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt
from polysoma.policy.policy import Policy
from polysoma.serving.client import Client


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command that must fail, and returns the one line it says."""
    with pytest.raises(SystemExit) as info:
        main(list(arguments))
    assert info.value.code == 1
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("polysoma: "), captured.err
    return lines[0]


def test_bodies_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bodies", "--json"])
    bodies = json.loads(capsys.readouterr().out)
    assert list(bodies)[:4] == ["metaworld", "babyai", "drone", "rover"] and "aloha" in bodies
    assert len(bodies["metaworld"]["tasks"]) == 50 and "metaworld/reach-v3" in bodies["metaworld"]["tasks"]
    assert len(bodies["babyai"]["tasks"]) >= 20
    assert bodies["drone"]["rate_hz"] == 50


def test_bodies_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    main(["bodies"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) < 50
    assert any(line.split() == ["rover", "20", "state", "134", "2", "2"] for line in lines)
    main(["bodies", "rover"])
    told = capsys.readouterr().out
    assert "left_wheel" in told and "rover, 20 Hz" in told and "2 tasks: pillar, maze" in told
    main(["bodies", "rover", "--json"])
    assert list(json.loads(capsys.readouterr().out)) == ["rover"]
    assert "no body is called 'rovre'; did you mean rover?" in fails(capsys, "bodies", "rovre")


def test_options_by_their_old_names(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--told", "sign"], ["--conditioning=sign"], ["--told=sign"]):
        with pytest.raises(SystemExit):
            main(["evaluate", *words])
        assert "--conditioning" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    said = capsys.readouterr().out
    assert "--slots" in said and "--lanes" not in said and "--told" not in said


COMPUTING = [
    "record",
    "train",
    "finetune",
    "meta",
    "compare",
    "fleet simulate",
    "improve",
    "merge add",
    "evaluate",
    "play",
    "serve",
]
"""All commands that run a policy; those of merge have the same options."""
SMALL = [
    "skills learn",
    "skills aim",
    "skills finetune",
    "skills play",
    "reward learn",
    "guard learn",
    "dynamics",
    "world learn",
    "world play",
    "world look",
]
"""Those that learn small networks, or ask them, which compute in float32 alone."""


@pytest.mark.parametrize("command", COMPUTING)
def test_where_and_in_what_every_command_computes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    told = capsys.readouterr().out
    assert "--device auto|cpu|cuda" in told and "--precision {auto,float32,bfloat16}" in told
    # Whatever else is wrong: the device is looked at first.
    needed = {"compare": ["--data", "none", "--tasks", "none"]}.get(command, ["none"])
    said = fails(capsys, *command.split(), *needed, "--device", "cuda:99")
    assert "device: expected auto or a device of this machine (cpu" in said and "'cuda:99'" in said


@pytest.mark.parametrize("command", SMALL)
def test_where_every_small_network_computes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    told = capsys.readouterr().out
    assert "--device auto|cpu|cuda" in told and "--precision" not in told


def test_help_tells_the_head_of_a_policy_from_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(which weights learn; of what kind its head is, --head says)" in told
    assert "Not to be confused with --method head, which says what learns." in told


@pytest.mark.parametrize("command", ["bodies", "record", "train", "evaluate", "serve", "push"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        main([command, "--help"])
    assert info.value.code == 0
    text = capsys.readouterr().out
    assert "Examples:" in text and f"\n    polysoma {command}" in text


def test_help_names_the_words_after_a_command_by_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for name, kind in COMMANDS.items():
        with pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        usage = capsys.readouterr().out.partition("\n\n")[0]
        first = usage.partition("[OPTIONS]")[2] or usage.partition(" --")[0]
        assert not {"STR", "PATH", "[STR]", "[PATH]"} & set(first.split()), (kind, usage)


def test_help_of_a_group_shows_its_commands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        main(["data", "--help"])
    text = capsys.readouterr().out
    assert info.value.code == 0 and "data diff" in text and "evaluate" not in text


def test_what_was_recorded_here_is_not_inferred(datasets: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = datasets["arm"]
    main(["data", "info", str(root)])
    told = " ".join(capsys.readouterr().out.split())
    assert "embodiment arm" in told and "recorded by polysoma" in told and "inferred" not in told
    assert "describes its body itself" in fails(capsys, "data", "schema", str(root), "--force")
    assert not (root / "embodiment.toml").exists()


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in (([], 0), (["--help"], 0), (["--version"], 0), (["fly"], 2)):
        with pytest.raises(SystemExit) as info:
            main(arguments)
        assert info.value.code == code
    captured = capsys.readouterr()
    assert "evaluate" in captured.out and "no command 'fly'; there are bodies, record" in captured.err


def test_usage_has_one_whole_sentence_for_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    _, _, listed = capsys.readouterr().out.partition("--help]\n\n")
    lines = listed.splitlines()
    assert len(lines) == len(COMMANDS) and all(line.endswith(".") and len(line) < 140 for line in lines)
    assert len({re.search(r"(?<=\S)  +(?=\S)", line).end() for line in lines}) == 1, "columns"


def test_record_then_evaluate_the_expert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    main(["record", "drone/hover", "--episodes", "2", "--out", str(out), "--workers", "1"])
    assert "kept 2 episodes" in capsys.readouterr().out
    results = tmp_path / "new" / "out.json"
    main(
        [
            "evaluate",
            "--policy",
            "expert",
            "--tasks",
            "drone/hover",
            "--episodes",
            "1",
            "--json",
            str(results),
            "--workers",
            "1",
            "--report",
            str(tmp_path / "report"),
            "--film",
            "64",
        ]
    )
    assert json.loads(results.read_text())["tasks"]["drone/hover"]["trials"] == 1
    assert (tmp_path / "report" / "index.html").is_file()


def test_what_nobody_reads_is_no_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind `| head -1`, whether lines are held back or written one after the other."""
    for words in (["bodies", "--json"], ["bodies", "rover"], ["--help"], ["evaluate", "--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        # It is closed as at the end of the interpreter, where nobody can catch an error.
        with monkeypatch.context() as patch, open(writing, "w") as out:
            patch.setattr(sys, "stdout", out)
            with pytest.raises(SystemExit) as ended:
                main(words)
        assert ended.value.code == 0 and capsys.readouterr().err == ""
    command = subprocess.Popen(
        [sys.executable, "-m", "polysoma", "bodies", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout is not None
    command.stdout.close()
    _, said = command.communicate()
    assert said == b""


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_where_results_cannot_be_written_nothing_is_played(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[object] = []
    monkeypatch.setattr("polysoma.cli.evaluate.evaluate", lambda *given, **more: played.append(given))
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "out.json")
    said = fails(capsys, "evaluate", "--policy", "expert", "--tasks", "drone/hover", option, place)
    assert "cannot write" in said and "out.json" in said and not played


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: Policy) -> None:
    assert "no task matches 'drone/flip'" in fails(capsys, "record", "drone/flip")
    said = fails(capsys, "evaluate", "generalist", "--tasks", "so101-small/*")
    assert "the policy does not know so101-small; it knows aloha" in said
    assert "no checkpoint at" in fails(capsys, "evaluate", str(tmp_path / "none"), "--tasks", "drone/hover")
    assert "no recipe at" in fails(capsys, "train", str(tmp_path / "none.toml"))
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'data = ["{tmp_path}/nothing/*"]\n[bodies.arm]\n')
    assert "no data set matches" in fails(capsys, "train", str(recipe), "--out", str(tmp_path / "run"))
    checkpoint.save(policy, tmp_path / "c")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    (tmp_path / "c" / "config.json").write_text(json.dumps(config | {"format_version": 9}))
    assert "upgrade" in fails(capsys, "evaluate", str(tmp_path / "c"), "--tasks", "drone/hover")


@pytest.mark.parametrize("place", ["before", "after"])
def test_tracebacks_are_for_who_debugs(
    place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(self: object) -> None:
        raise ZeroDivisionError("never\x1b[31m\nmind")

    monkeypatch.setattr("polysoma.cli.bodies.Bodies.run", broken)
    monkeypatch.setenv(DEBUG, "")
    told = fails(capsys, "bodies")
    assert told.endswith(
        "which it should not: ZeroDivisionError: never\\x1b[31m; `polysoma --debug bodies ...` shows where"
    )
    for command in (["bodies"], ["doctor", str(tmp_path / "none")]):
        with pytest.raises(SystemExit, match="1"):
            main(["--debug", *command] if place == "before" else [*command, "--debug"])
        said = capsys.readouterr().err
        assert said.startswith("Traceback") and said.splitlines()[-1].startswith("polysoma: ")
    monkeypatch.setenv(DEBUG, "")
    fails(capsys, "doctor", str(tmp_path / "none"))


def test_missing_extras_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'polysoma[train]'" in fails(capsys, "train", "recipe.toml")
    out = tmp_path / "data"
    assert "pip install 'polysoma[sim]'" in fails(capsys, "record", "drone/hover", "--workers", "1", "--out", str(out))
    assert not out.exists()


def test_a_package_that_nobody_looked_for_is_named_with_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, told in (
        ("prometheus_client.core", "run `pip install 'polysoma[serve]'`"),
        ("h5py", "run `pip install 'polysoma[data]'`"),
        ("nobody", "which it should not"),
    ):

        def broken(self: object, module: str = module) -> None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)

        monkeypatch.setattr("polysoma.cli.bodies.Bodies.run", broken)
        assert told in fails(capsys, "bodies")


def test_packages_that_some_commands_need_are_not_asked_for_by_others() -> None:
    script = (
        "import sys; sys.modules['accelerate'] = sys.modules['flwr'] = None\n"
        # What was trained is read without what training needs.
        "import polysoma.learning.lineage, polysoma.evaluation.recorded, polysoma.learning.fleet\n"
        "del sys.modules['accelerate']\n"
        "from polysoma.cli import main\n"
        "main(['fleet', 'simulate', 'generalist', '--data', 'x'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "fleets need Flower" in done.stderr and "pip install 'polysoma[fleet]'" in done.stderr


def test_a_truncated_parquet_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with DatasetWriter(tmp_path / "data" / "arm", ARM) as writer:
        writer.add(make_episode(ARM, 20))
    (file,) = (tmp_path / "data" / "arm" / "data").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-200])
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'data = ["{tmp_path}/data/*"]\nsteps = 1\n[bodies.arm]\n')
    message = fails(capsys, "train", str(recipe), "--out", str(tmp_path / "run"))
    assert file.name in message and "damaged" in message
    assert not (tmp_path / "run").exists()


def test_serve_until_told_to_stop(tmp_path: Path, policy: Policy) -> None:
    checkpoint.save(policy, tmp_path / "c")
    own = dataclasses.replace(ARM, name="own", body="own")
    base = checkpoint.load_for_training(tmp_path / "c")
    named = Adaptation("head", base=str(tmp_path / "c"), base_sha256=checkpoint.weights_sha256(tmp_path / "c"))
    known = {"own": policy.config.statistics["arm"]}
    adapted = adapt(base, named, [own], known, policy.config.vocabulary, {"own": HORIZONS["arm"]})
    checkpoint.save(adapted, tmp_path / "mine")
    (tmp_path / "token").write_text("secret\n")
    command = [
        "serve",
        str(tmp_path / "c"),
        "--embodiments",
        "arm",
        "--port",
        "0",
        "--token-file",
        str(tmp_path / "token"),
        "--adapters",
        str(tmp_path / "mine"),
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "polysoma", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"POLYSOMA_TOKEN": ""},
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving 1 body, own by the adaptation mine at ws://127.0.0.1:")
        for body in (None, "own"):
            with Client(line.split()[-1], body, token="secret") as robot:
                assert robot.infer(observe(ARM))["actions"].shape == (HORIZONS["arm"].chunk, 2)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events[0] == "listening" and "client came" in events and "client left" in events


@pytest.mark.parametrize(
    ("command", "more", "expected"), [("serve", [], 401), ("serve", ["--no-token"], 200), ("play", [], 401)]
)
def test_whoever_lets_others_in_gets_a_token(
    command: str, more: list[str], expected: int, tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(policy, tmp_path / "c")
    name, options = (
        ("generalist", ["--no-open", "--bodies", "drone"])
        if command == "play"
        else (str(tmp_path / "c"), ["--embodiments", "arm"])
    )
    page = "/" if command == "play" else "/metrics"

    def ask(lines: TextIO) -> None:
        line = lines.readline()
        if not line:  # It ended before it served.
            return
        try:
            here = line.removesuffix("\n").removesuffix(" (Ctrl+C ends it)").split()[-1]
            port = urllib.parse.urlsplit(here).port
            # An address to open, and one for other machines.
            there = lines.readline().split()[-1]
            assert there == here.replace("127.0.0.1", socket.gethostname()) and f"://127.0.0.1:{port}" in here
            address, _, token = here.replace("ws:", "http:").partition("?token=")
            if command == "serve" and not more:
                token = lines.readline().split()[5]
            assert bool(token) is not bool(more)
            for presented in ("", token):
                query = f"?token={presented}" if command == "play" else ""
                request = urllib.request.Request(address.rstrip("/") + page + query)
                request.add_header("Authorization", f"Bearer {presented}")
                try:
                    with urllib.request.urlopen(request, timeout=60) as answer:
                        status = answer.status
                except urllib.error.HTTPError as error:
                    status = error.code
                assert status == (200 if presented else expected)
        finally:
            # It listens, so it waits for this signal.
            os.kill(os.getpid(), signal.SIGTERM)

    reading, writing = os.pipe()
    with open(reading) as lines, ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, lines)
        with open(writing, "w") as out:
            monkeypatch.setattr(sys, "stdout", out)
            main([command, name, "--host", "0.0.0.0", "--port", "0", *options, *more])
        asked.result()


def test_serve_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path, policy: Policy) -> None:
    checkpoint.save(policy, tmp_path / "c")
    run = str(tmp_path / "c")
    assert "does not know the body 'whale'" in fails(capsys, "serve", run, "--embodiments", "whale")
    assert "cannot read the token" in fails(capsys, "serve", run, "--token-file", str(tmp_path / "none"))
    assert "belong together" in fails(capsys, "serve", run, "--certificate", str(tmp_path / "none"))
    assert "no checkpoint at" in fails(capsys, "serve", str(tmp_path / "none"))


@pytest.mark.parametrize("command", ["serve", "play"])
def test_ports_have_a_range(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = fails(capsys, command, "generalist", "--port", "99999")
    assert "port: expected a number from 0 to 65,535, got 99999" in told
