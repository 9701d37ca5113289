"""Make the pictures of the tutorial: run the program on the drawn photographs and take pictures of its pages.

    python scripts/pictures.py

writes `docs/pictures/*.webp` and shows each command with its output, which `docs/own-images.md` quotes. It
needs the extra `dev` and a Chromium browser, and takes a few minutes on two cores.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
WIDTH = 760  # of a page, in CSS pixels
TALLEST = 860
QUALITY = 82
TRAIN = "train resnet20 --data photos --image-size 48 --weights none"


def show(text: str) -> None:
    """Show a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def residual(command: str, folder: Path) -> str:
    """Run a command of the program, show it with its output, and return that."""
    show(f"\n$ residual {command}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "residual", *command.split()],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    show(done.stdout)
    done.check_returncode()
    return done.stdout


def main() -> None:
    """Go through the tutorial."""
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, browser() as page:
        folder = Path(place)
        draw = [sys.executable, str(ROOT / "scripts" / "draw_photos.py"), "photos"]
        subprocess.run(draw, cwd=folder, check=True)
        save(contact_sheet(folder / "photos" / "train"), "photos")
        residual(f"{TRAIN} --epochs 30 --output runs/photos", folder)
        save(Image.open(folder / "runs/photos/batch.png"), "batch")
        picture_report(page, folder / "runs/photos/report.html", "report")
        mend(folder / "photos")
        residual(f"{TRAIN} --epochs 60 --output runs/mended", folder)
        residual("compare runs/photos runs/mended --data photos", folder)
        residual("train --from runs/photos --data photos --epochs 10 --output runs/further", folder)
        image = "photos/val/cross/cross-31.jpg"
        residual(f"predict runs/mended {image} --top 3", folder)
        residual(f"explain runs/mended {image} --output explained.png", folder)
        save(Image.open(folder / "explained.png"), "explained")
        residual("export runs/mended --format onnx --output shapes.onnx --with-preprocessing", folder)
        with server("runs/mended", folder) as address:
            picture_server(page, address, folder / image)
    total = sum(file.stat().st_size for file in OUT.iterdir())
    show(f"docs/pictures: {total / 1e6:.2f} MB")


def mend(photos: Path) -> None:
    """Give the images with a wrong label their own, and remove the copy of a training image."""
    shutil.move(photos / "train/square/square-07.jpg", photos / "train/circle/")
    shutil.move(photos / "val/triangle/triangle-38.jpg", photos / "val/cross/")
    (photos / "val/cross/cross-32.jpg").unlink()


def contact_sheet(folder: Path, columns: int = 10, side: int = 72) -> Image.Image:
    """Put the first images of each class side by side."""
    classes = sorted(path.name for path in folder.iterdir())
    sheet = Image.new("RGB", (columns * side + 80, len(classes) * side), "white")
    pen = ImageDraw.Draw(sheet)
    for row, name in enumerate(classes):
        pen.text((8, row * side + side // 2 - 6), name, fill="black", font_size=13)
        for column, file in enumerate(sorted((folder / name).iterdir())[:columns]):
            with Image.open(file) as stored:
                picture = ImageOps.exif_transpose(stored)
                picture.thumbnail((side - 4, side - 4))
                sheet.paste(picture, (80 + column * side, row * side))
    return sheet


def save(picture: Image.Image, name: str) -> None:
    """Write a picture as WebP, no wider than a page of the site shows it on a fine screen."""
    if picture.width > 2 * WIDTH:
        picture = picture.resize((2 * WIDTH, round(picture.height * 2 * WIDTH / picture.width)))
    picture.convert("RGB").save(OUT / f"{name}.webp", quality=QUALITY, method=6)


@contextmanager
def browser() -> Iterator[Page]:
    """Open an empty page in a browser."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield launched.new_page(
            viewport={"width": WIDTH, "height": 900}, device_scale_factor=1.5, color_scheme="light"
        )
        launched.close()


def picture_report(page: Page, report: Path, name: str) -> None:
    """Take the head of the report, and the beginnings of its parts on mistakes, labels and images."""
    page.goto(report.as_uri())
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    page.wait_for_function("Array.from(document.images).every((image) => image.complete)")
    shoot(page, name, "header", ".advice")
    for part in ("confusion", "mistakes", "labels", "data"):
        shoot(page, f"{name}-{part}", f"section[aria-labelledby={part}]")


def shoot(page: Page, name: str, *selectors: str) -> None:
    """Take what the elements cover, with a margin around them; of a tall part the beginning."""
    boxes = [box for selector in selectors if (box := page.locator(selector).first.bounding_box())]
    top = max(0, min(box["y"] for box in boxes) - 8)
    bottom = min(max(box["y"] + box["height"] for box in boxes) + 8, top + TALLEST)
    file = OUT / f"{name}.png"
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top}
    page.screenshot(path=file, full_page=True, clip=clip)
    with Image.open(file) as picture:
        save(picture, name)
    file.unlink()


@contextmanager
def server(model: str, folder: Path) -> Iterator[str]:
    """Serve a model; give the address of the page."""
    command = [sys.executable, "-m", "residual", "serve", model, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        show(f"\n$ residual serve {model}\n{line}")
        found = re.search(r"http://\S+", line)
        assert found is not None, line
        yield found.group()
    finally:
        process.terminate()
        process.wait()


def picture_server(page: Page, address: str, image: Path) -> None:
    """Show an image to the server's page and take a picture of the answer."""
    page.goto(address)
    page.set_input_files("#file", image)
    page.wait_for_selector("#evidence:not([hidden])")
    page.wait_for_function("!document.body.classList.contains('waiting')")
    shoot(page, "serve", "h1", "#result")


if __name__ == "__main__":
    main()
