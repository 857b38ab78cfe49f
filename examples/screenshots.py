"""Take the screenshots of the documentation, and draw the demo.

The report and the tab, in two sizes and two themes.

    python -m examples.screenshots --out docs/images

Trains on the digits again, analyses Himmelblau's function, and needs Chromium.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from examples import digits, himmelblau
from lightning_morse.view.report import report
from lightning_morse.view.runs import read_runs
from tests.browser import Browser
from tests.tensorboard_plugin.test_plugin import FRAME, Board

SIZES = ((1280, 800), (1920, 1080))
THEMES = ("light", "dark")
COLORS = 128  # in the palette: the pictures have few, and this keeps them small
OF_THE_DEMO = {"basins": "digits_basins", "timeline": "digits_timeline"}  # figures, and files
IN_SPACE = "document.querySelector('.head button').click()"
SETTLE = 1.0  # seconds from the last change to the picture


def photograph(page: Browser, path: Path) -> None:
    """Write what the page shows as a small PNG."""
    time.sleep(SETTLE)
    write_small(page.picture(), path)


def write_small(png: bytes, path: Path) -> None:
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main(argv: Sequence[str] | None = None) -> None:
    """Make the runs, show them, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder")
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for activation in digits.ACTIVATIONS:
            options = ["--epochs", str(args.epochs), "--activation", activation]
            digits.main([*options, "--log-dir", str(folder / "digits")])
        for figure, file in OF_THE_DEMO.items():  # as the demo leaves them
            (drawn,) = (folder / "digits" / "digits-tanh").glob(f"*/{figure}.png")
            write_small(drawn.read_bytes(), args.out / f"{file}.png")
        himmelblau.main(["--out", str(folder / "himmelblau")])
        page_of = {
            "report": [replace(run, name="himmelblau") for run in read_runs(folder / "himmelblau")],
            "beside": read_runs(folder / "digits"),
        }
        for name, runs in page_of.items():
            (folder / f"{name}.html").write_text(report(runs), encoding="utf-8")
        (folder / "board").mkdir()
        with Board(folder / "digits", folder / "board") as board, Browser() as page:
            board.until(lambda runs: runs and all(len(r["steps"]) == args.epochs for r in runs))
            for theme in THEMES:
                page.theme(theme)
                for width, height in SIZES:
                    page.resize(width, height)
                    size = f"{width}x{height}-{theme}"
                    page.go("about:blank")
                    page.go((folder / "report.html").as_uri())
                    page.wait("document.querySelector('#view').dataset.shown")
                    photograph(page, args.out / f"report-{size}.png")
                    page.run(IN_SPACE)
                    photograph(page, args.out / f"space-{size}.png")
                    page.go("about:blank")
                    page.go(f"{board.address}/#morse")
                    page.wait(f"{FRAME}.querySelector('#view').dataset.shown || null", 60)
                    photograph(page, args.out / f"tensorboard-{size}.png")
            page.theme("light")
            page.resize(1280, 800)
            page.go((folder / "beside.html").as_uri())
            page.wait("document.querySelector('#view').dataset.shown")
            page.run("document.querySelectorAll('.choices input').forEach((box) => box.click())")
            page.wait("document.querySelectorAll('.beside canvas').length > 1")
            photograph(page, args.out / "beside-1280x800-light.png")


if __name__ == "__main__":
    main()
