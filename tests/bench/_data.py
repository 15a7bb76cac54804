"""The benchmark's images and prompts: seeded, the same on every machine with one PIL and numpy.

Run as a script: ``python _data.py FOLDER IMAGES PROMPTS``. It writes ``images/*.jpg``,
``prompts.csv`` (image, item, text), ``texts/*.txt`` (one an image, for `clip-score`) and
``warmup/`` of the same form.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PIXELS = 512 * 1024
RATIOS = ((1, 1), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (9, 16))
QUALITY = 85
WARMUP = 32

_SUBJECTS = (
    "an old fisherman",
    "a red vintage bicycle",
    "two children",
    "a sleeping tabby cat",
    "a lighthouse",
    "a bowl of ramen",
    "an astronaut",
    "a wooden bridge",
    "a street musician",
    "a herd of elephants",
    "a glass greenhouse",
    "a steam locomotive",
)
_DOINGS = (
    "mending a net",
    "leaning against a brick wall",
    "reading a newspaper",
    "in heavy rain",
    "beside a quiet canal",
    "under a flowering cherry tree",
    "at the edge of a cliff",
    "on a crowded market square",
    "in front of a mirror",
    "surrounded by paper lanterns",
)
_DETAILS = (
    "with a small dog sitting to the left of it",
    "holding a blue umbrella with a torn edge",
    "while three gulls circle above the harbour",
    "next to a sign that reads open on Sundays",
    "with long shadows falling across the cobblestones",
    "seen from slightly above",
    "with distant snowy mountains reflected in the water",
    "and no other people in the frame",
)
_STYLES = (
    "soft morning light",
    "35mm film photograph",
    "shallow depth of field",
    "muted colours",
    "highly detailed",
    "watercolour on rough paper",
    "dramatic rim lighting",
    "wide angle",
)


def prompts(n: int, seed: int = 0) -> list[str]:
    """Different prompts: half as short as a caption, a third as long as two, the rest long."""
    rng = np.random.default_rng([seed, 1])
    out: dict[str, None] = {}
    while len(out) < n:
        kind = rng.random()
        parts = [f"{rng.choice(_SUBJECTS)} {rng.choice(_DOINGS)}"]
        details, styles = (0, rng.integers(0, 2)) if kind < 0.5 else (1, rng.integers(1, 4))
        if kind > 0.83:
            details, styles = int(rng.integers(2, 5)), int(rng.integers(3, 6))
        parts += list(rng.choice(_DETAILS, details, replace=False))
        parts += list(rng.choice(_STYLES, styles, replace=False))
        out[", ".join(str(part) for part in parts)] = None
    return list(out)


def picture(seed: int) -> Image.Image:
    """A picture with the statistics of a photograph: a spectrum of 1/f, shapes with edges."""
    rng = np.random.default_rng([seed, 2])
    wide, high = RATIOS[seed % len(RATIOS)]
    scale = (PIXELS / (wide * high)) ** 0.5
    width, height = round(wide * scale), round(high * scale)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        noise = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**1.4
        plane = np.fft.irfft2(noise, (height, width))
        planes.append((plane - plane.mean()) / plane.std())
    grey, *colour = planes
    levels = np.stack([grey + 0.35 * c for c in (colour[0], colour[1], -colour[0])], axis=-1)
    image = Image.fromarray((128 + 50 * levels).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(6):
        x, y = rng.integers(0, width), rng.integers(0, height)
        a, b = rng.integers(20, 180, 2)
        paint = (*(int(v) for v in rng.integers(0, 256, 3)), 150)
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + a, y + b), fill=paint)
    return image


def write(folder: Path, n_images: int, n_prompts: int, first: int = 0) -> None:
    """Write images with their prompts; those of one prompt follow each other."""
    for name in ("images", "texts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    texts = prompts(n_prompts)
    each = -(-n_images // n_prompts)
    with (folder / "prompts.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["image", "item", "text"])
        for i in range(n_images):
            stem = f"{i // each:04}_{i % each}"
            out.writerow([f"{stem}.jpg", f"{i // each:04}", texts[i // each]])
            (folder / "texts" / f"{stem}.txt").write_text(texts[i // each], encoding="utf-8")
            picture(i + first).save(folder / "images" / f"{stem}.jpg", quality=QUALITY)


if __name__ == "__main__":
    base, images, texts = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    write(base / "data", images, texts)
    write(base / "warmup", WARMUP, WARMUP, first=1_000_000)
