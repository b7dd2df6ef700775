"""The page in a real browser: every body appears, words and pushes arrive, a clip is saved, a phone's width is enough.

Not collected by pytest, because it needs a browser. Run it on purpose and look at the screenshots:

    sudo apt-get install chromium && pip install playwright
    python tests/interop/check_play.py out/page
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import av
from playwright.sync_api import Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"


def address_of(server: subprocess.Popen[str]) -> str:
    """What the command says where its page is."""
    assert server.stdout is not None
    return next(word for word in server.stdout.readline().split() if word.startswith("http"))


def problems_of(page: Page) -> list[str]:
    """A list that fills with what goes wrong on a page."""
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    return problems


def shown(page: Page, address: str) -> float:
    """Opens the page; the seconds until its first moving picture."""
    began = time.monotonic()
    page.goto(address)
    page.wait_for_selector("body[data-pictures]", timeout=20_000)
    return time.monotonic() - began


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "polysoma", "play", "generalist", "--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        address = address_of(server)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 1000})
        problems = problems_of(page)
        shown(page, address)
        print(f"from the command to the first moving picture: {time.monotonic() - began:.1f} s")
        page.get_by_text("more are coming").wait_for(state="detached", timeout=120_000)
        for words in ("#name", "#tokens", "#task"):
            assert page.locator(words).inner_text(), f"{words} of the first body is empty"
        bodies = page.locator(".body").count()
        print(f"bodies: {bodies}, all there after {time.monotonic() - began:.1f} s")
        page.mouse.move(300, 300)
        page.mouse.down()
        page.mouse.move(380, 240, steps=5)
        page.screenshot(path=str(folder / "push.png"))
        page.mouse.up()
        page.fill("#text", "fly to the red ring")
        page.click("#words button")
        page.get_by_text("“fly to the red ring”").wait_for(timeout=10_000)
        with page.expect_download(timeout=60_000) as download:
            page.click("#record")
            page.get_by_text("Stop and save").wait_for(timeout=10_000)
            time.sleep(3)
            page.click("#record")
        download.value.save_as(folder / "clip.mp4")
        with av.open(str(folder / "clip.mp4")) as clip:
            print(f"clip: {clip.streams.video[0].frames} frames")
        for name in ("metaworld-pixels", "aloha", "babyai"):
            page.locator(".body", has_text=name).first.click()
            page.get_by_role("heading", name=name, exact=True).wait_for(timeout=10_000)
            time.sleep(2)
            page.screenshot(path=str(folder / f"{name}.png"))
        phone = browser.new_page(viewport={"width": 390, "height": 844})
        shown(phone, address)
        time.sleep(2)
        phone.screenshot(path=str(folder / "phone.png"), full_page=True)
        box = phone.locator("main").bounding_box()
        assert box is not None and box["width"] <= 390, box
        assert not problems, problems
        browser.close()
        server.terminate()
    print(f"no errors in the console; look at {folder}/*.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/page"))
