"""Times of the front end in a headless Chromium: first paint, a step, the surface.

    python -m benchmarks.front_end

A report of 200 analyses is opened anew five times in a browser that has drawn before. The first
paint is the first frame in which the last analysis is seen, counted from the click that leads to
the page; beside it stands what the browser takes for a page of one word. Steps and the surface
count until their frame, too. Chromium draws without a graphics card here, so frames say what the
processor can do, no more; and on a machine that does other work all figures grow with its load.
What its load changes least is the time that the page's thread itself computes, which stands beside
steps and surfaces; layout and style are part of it, the work of the browser's other threads is not.

The first surface is built twice: in a page whose button nobody has pointed at, and as a hand does
it, a quarter of a second after the pointer has come to the button, when the browser has its context
of WebGL.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from lightning_morse.view.report import write_report
from lightning_morse.view.runs import read_runs
from tests.browser import Browser
from tests.plotting import test_basins_and_morse_graph as drawn
from tests.view.test_report import write_run

RECORDS, CELLS, OPENED, STEPS, BUILDS, FRAMES = 200, 128, 5, 10, 5, 30
HAND = 0.25  # seconds from coming to a button to pressing it

# Marks the frame after the one in which the view, or a page without one, is there.
WATCH = """(() => {
  const look = () => {
    const isThere = document.querySelector('#view') ?
      document.querySelector('#view').dataset.shown : document.querySelector('#word');
    if (isThere) requestAnimationFrame(() => performance.mark('seen'));
    else requestAnimationFrame(look);
  };
  look();
})()"""
SEEN = "performance.getEntriesByName('seen')[0]?.startTime"
PAINTED = "new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))"
STEP = f"""(async () => {{
  const slider = document.querySelector('.steps input'), view = document.querySelector('#view');
  const t = performance.now(), at = view.dataset.shown;
  slider.value = Number(slider.value) - 1;
  slider.dispatchEvent(new Event('input'));
  while (view.dataset.shown === at) await null;
  await {PAINTED};
  return performance.now() - t;
}})()"""
SURFACE = f"""(async () => {{
  const button = document.querySelector('.head button'), t = performance.now();
  button.click();
  const built = performance.now() - t;
  await {PAINTED};
  return built;
}})()"""
POINT = "document.querySelector('.head button').dispatchEvent(new PointerEvent('pointerenter'))"
FRAME = """(() => {
  const svg = document.querySelector('.surface svg'), t = performance.now();
  svg.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }));
  return new Promise((r) => requestAnimationFrame(() => r(performance.now() - t)));
})()"""


def time_to_open(browser: Browser, url: str) -> list[float]:
    """Milliseconds to the first paint of a page, opened several times."""
    times = []
    for _ in range(OPENED):
        browser.go("about:blank")
        browser.wait("location.href === 'about:blank'")
        browser.go(url)
        times.append(browser.wait(SEEN))
    return times


def say(what: str, times: list[float], computed: list[float] | None = None) -> None:
    own = f"; the page's thread {statistics.median(computed):.0f}" if computed else ""
    print(f"{what:14} {statistics.median(times):6.0f} ms, at worst {max(times):.0f}{own}")


def computing(browser: Browser) -> float:
    """Milliseconds that the page's thread has computed."""
    metrics = browser.call("Performance.getMetrics")["metrics"]
    return 1000 * next(m["value"] for m in metrics if m["name"] == "TaskDuration")


def timed(browser: Browser, script: str, count: int) -> tuple[list[float], list[float]]:
    """Times that a script returns, and what the page's thread computed meanwhile."""
    times, computed = [], []
    for _ in range(count):
        before = computing(browser)
        times.append(browser.run(script))
        computed.append(computing(browser) - before)
    return times, computed


def open_page(browser: Browser, url: str) -> None:
    browser.go("about:blank")
    browser.wait("location.href === 'about:blank'")
    browser.go(url)
    browser.wait("document.readyState === 'complete'")
    browser.wait(SEEN)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = drawn.plane(CELLS)
        write_run(folder / "run", RECORDS, make=lambda: result)
        page, word = folder / "report.html", folder / "word.html"
        word.write_text("<!DOCTYPE html><title>.</title><p id='word'>word")
        written = write_report(read_runs(folder / "run"), page)
        print(f"{RECORDS} records of {CELLS} x {CELLS} cells, {written.size / 1e6:.1f} MB")
        print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        with Browser() as browser:
            browser.call("Performance.enable", timeDomain="threadTicks")
            browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
            time_to_open(browser, word.as_uri())  # the browser itself starts
            say("page of a word", time_to_open(browser, word.as_uri()))
            say("first paint", time_to_open(browser, page.as_uri()))
            open_page(browser, page.as_uri())
            say("step", *timed(browser, STEP, STEPS))
            times, own = timed(browser, SURFACE, 2 * BUILDS + 2)
            say("first surface", times[:1], own[:1])
            say("surface", times[2::2], own[2::2])  # every other one goes back
            browser.run(SURFACE)
            say("frame", [browser.run(FRAME) for _ in range(FRAMES)])
            open_page(browser, page.as_uri())
            browser.run(POINT)
            time.sleep(HAND)
            say("by hand, first", *timed(browser, SURFACE, 1))
            assert browser.complaints == [], browser.complaints


if __name__ == "__main__":
    main()
