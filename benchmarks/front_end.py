"""Times of the front end in a headless Chromium: first paint, a step, the surface.

    python -m benchmarks.front_end

Chromium draws without a graphics card here, so frames say what the processor can do, no more.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from lightning_morse.view.report import write_report
from lightning_morse.view.runs import read_runs
from tests.browser import Browser
from tests.plotting import test_basins_and_morse_graph as drawn
from tests.view.test_report import write_run

RECORDS, CELLS, FRAMES = 200, 128, 30

FIRST = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
STEP = """(async () => {
  const slider = document.querySelector('.steps input'), view = document.querySelector('#view');
  const t = performance.now();
  slider.value = Number(slider.value) - 1;
  slider.dispatchEvent(new Event('input'));
  const at = view.dataset.shown;
  while (view.dataset.shown === at) await null;
  return performance.now() - t;
})()"""
SURFACE = """(() => {
  const button = document.querySelector('.head button'), t = performance.now();
  button.click();
  return performance.now() - t;
})()"""
FRAME = """(() => {
  const svg = document.querySelector('.surface svg'), t = performance.now();
  svg.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }));
  return new Promise((r) => requestAnimationFrame(() => r(performance.now() - t)));
})()"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = drawn.plane(CELLS)
        write_run(folder / "run", RECORDS, make=lambda: result)
        page = folder / "report.html"
        written = write_report(read_runs(folder / "run"), page)
        print(f"{RECORDS} records of {CELLS} x {CELLS} cells, {written.size / 1e6:.1f} MB")
        with Browser() as browser:
            browser.go(page.as_uri())
            browser.wait("document.querySelector('#view').dataset.shown")
            print(f"first paint   {browser.wait(FIRST):6.0f} ms")
            steps = [browser.run(STEP) for _ in range(10)]
            print(f"step          {statistics.median(steps):6.0f} ms")
            builds = [browser.run(SURFACE) for _ in range(11)][::2]  # every other one goes back
            print(
                f"surface       {builds[0]:6.0f} ms first, then {statistics.median(builds):.0f} ms"
            )
            frames = [browser.run(FRAME) for _ in range(FRAMES)]
            print(f"frame         {statistics.median(frames):6.0f} ms")
            assert browser.complaints == [], browser.complaints


if __name__ == "__main__":
    main()
