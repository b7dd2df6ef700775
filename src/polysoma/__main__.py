"""The command ``polysoma``, also as ``python -m polysoma``."""

from __future__ import annotations

import sys

from polysoma.learning.memory import restart_with_quick_allocator

LEARNING = {
    "train", "finetune", "meta", "improve", "reward learn", "skills learn", "skills finetune", "dynamics",
    "world learn", "guard learn", "fleet join",
}  # fmt: skip
"""Commands that learn in this process."""


def main() -> None:
    """Runs the command that the process was started with; where it learns, with a quick allocator of memory."""
    if {" ".join(sys.argv[1:2]), " ".join(sys.argv[1:3])} & LEARNING:
        restart_with_quick_allocator()
    # After the restart: torch takes over a second to import.
    from polysoma.cli import main as run

    run()


if __name__ == "__main__":
    main()
