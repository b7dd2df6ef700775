"""Benchmarks are not run here; what documents say is compared with their results."""

import subprocess
import sys

from conftest import ROOT


def test_documents_say_what_the_results_say() -> None:
    command = [sys.executable, "benchmarks/render.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
