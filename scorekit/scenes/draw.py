"""A scene as pixels, at any resolution, by PIL with antialiasing."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from scorekit.scenes.world import Object, Scene

RGB = {
    "red": (214, 38, 40),
    "yellow": (247, 208, 30),
    "green": (38, 148, 66),
    "blue": (38, 92, 214),
    "purple": (126, 46, 168),
    "pink": (250, 140, 188),
    "black": (28, 28, 30),
}


def _star() -> list[tuple[float, float]]:
    points = []
    for k in range(10):
        reach = 1.0 if k % 2 == 0 else 0.42
        points.append((reach * math.sin(k * math.pi / 5), -reach * math.cos(k * math.pi / 5)))
    return points


def _heart() -> list[tuple[float, float]]:
    points = []
    for k in range(48):
        t = 2 * math.pi * k / 48
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 17.0, -(y + 2.4) / 17.0))
    return points


def _cross() -> list[tuple[float, float]]:
    a, b = 0.30, 0.93
    corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
    return corners + [(-x, -y) for x, y in corners]


# Outlines in the unit circle, of about equal area, y down.
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)],
    "triangle": [(0.0, -1.0), (0.88, 0.55), (-0.88, 0.55)],
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
}
CIRCLE = 0.86


def outline(item: Object, scale: float = 1.0) -> list[tuple[float, float]]:
    """The corner points of an object that is not a circle, in scene coordinates times `scale`."""
    turn = math.radians(item.turn)
    cos, sin = math.cos(turn) * item.radius * scale, math.sin(turn) * item.radius * scale
    x0, y0 = item.x * scale, item.y * scale
    return [(x0 + x * cos - y * sin, y0 + x * sin + y * cos) for x, y in OUTLINES[item.shape]]


def _paint(pen: ImageDraw.ImageDraw, item: Object, scale: float, fill: object) -> None:
    if item.shape == "circle":
        reach = item.radius * CIRCLE * scale
        x, y = item.x * scale, item.y * scale
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)  # type: ignore[arg-type]
    else:
        pen.polygon(outline(item, scale), fill=fill)  # type: ignore[arg-type]


def _fine(size: int) -> int:
    return max(3, math.ceil(256 / size))


def render(scene: Scene, size: int = 224) -> Image.Image:
    """Draw a scene.

    Parameters
    ----------
    scene
        What to draw.
    size
        Width and height in pixels.

    Returns
    -------
    Image.Image
        In mode RGB. The same scene and size give the same pixels.

    Examples
    --------
    >>> from scorekit.scenes.world import sample_scene
    >>> render(sample_scene(7), 64).size
    (64, 64)
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    fine = _fine(size)
    edge = size * fine
    corners = Image.new("RGB", (2, 2))
    for k, corner in enumerate(scene.background.corners):
        corners.putpixel((k % 2, k // 2), corner)
    canvas = corners.resize((edge, edge), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    for item in scene.objects:
        red, green, blue = (min(255, round(part * item.shade)) for part in RGB[item.colour])
        _paint(pen, item, edge, (red, green, blue))
    return canvas.reduce(fine)


def mask(item: Object, size: int = 224) -> Image.Image:
    """The pixels of one object: mode L, 255 where the object is, antialiased like `render`."""
    fine = _fine(size)
    canvas = Image.new("L", (size * fine, size * fine))
    _paint(ImageDraw.Draw(canvas), item, size * fine, 255)
    return canvas.reduce(fine)
