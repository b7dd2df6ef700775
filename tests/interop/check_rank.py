"""The page that ranks clips in a real browser: both films play, every key is heard, and a phone's width is enough.

Not collected by pytest, because it needs a browser. Run it on purpose and look at the screenshots:

    sudo apt-get install chromium && pip install playwright
    polysoma record pointmaze/large --episodes 10 --behaviour noisy --out data/noisy
    python tests/interop/check_rank.py data/noisy/pointmaze out/rank
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from check_play import CHROMIUM, address_of, problems_of
from playwright.sync_api import sync_playwright

from polysoma.data.preferences import read_pairs

PATIENCE = 60_000


def main(logs: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pairs = folder / "pairs.jsonl"
    pairs.unlink(missing_ok=True)
    command = [sys.executable, "-m", "polysoma", "reward", "rank", logs, "--pairs", str(pairs), "--clip", "100"]
    command += ["--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        address = address_of(server)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        problems = problems_of(page)
        page.goto(address)
        page.wait_for_selector('body[data-pair="1"]', timeout=PATIENCE)
        time.sleep(1)
        assert page.evaluate("[...document.querySelectorAll('video')].map(film => film.paused)") == [False, False]
        page.screenshot(path=str(folder / "rank.png"))
        for number, key in enumerate(("ArrowLeft", "ArrowRight", "ArrowDown", "ArrowUp"), 2):
            page.keyboard.press(key)
            page.wait_for_selector(f'body[data-pair="{number}"]', timeout=PATIENCE)
        page.click("#second")
        page.wait_for_selector('body[data-pair="6"]', timeout=PATIENCE)
        phone = browser.new_page(viewport={"width": 390, "height": 844})
        phone.goto(address)
        phone.wait_for_selector("body[data-pair]", timeout=PATIENCE)
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        phone.screenshot(path=str(folder / "phone.png"))
        browser.close()
        server.terminate()
    assert not problems, problems
    assert [pair.better for pair in read_pairs(pairs)] == ["first", "second", "equal", "second"]
    print(f"four pairs, no errors in the console; look at {folder}/*.png")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "out/rank"))
