"""Draw `cat.png`, the silhouette that a cloud of points becomes: python examples/draw_cat.py

advect train examples/cat.png --as-density --out runs/cat
advect animate runs/cat
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SCALE = 4  # drawn larger and reduced, for smooth edges
SIDE = 256


def curve(points: list[tuple[float, float]], steps: int = 80) -> list[tuple[float, float]]:
    """A Bézier curve through the first and last of four points."""
    a, b, c, d = (np.array(point) for point in points)
    t = np.linspace(0, 1, steps)[:, None]
    places = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
    return [(float(x), float(y)) for x, y in places]


def main() -> None:
    """A sitting cat, seen from behind its shoulder, its tail round to the right."""
    side = SIDE * SCALE
    picture = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(picture)

    def scaled(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * SCALE, y * SCALE) for x, y in points]

    def round_at(x: float, y: float, across: float, down: float) -> None:
        pen.ellipse([(x - across) * SCALE, (y - down) * SCALE, (x + across) * SCALE, (y + down) * SCALE], fill=0)

    round_at(108, 82, 46, 38)  # head
    for tip, left, right in (((66, 14), (64, 78), (102, 50)), ((150, 14), (114, 50), (152, 78))):
        pen.polygon(scaled([tip, left, right]), fill=0)  # ears
    left = curve([(80, 108), (62, 140), (48, 190), (58, 238)])
    right = curve([(164, 238), (176, 190), (156, 140), (136, 108)])
    pen.polygon(scaled([*left, *right]), fill=0)  # body
    round_at(144, 206, 36, 34)  # haunch
    for x in (82, 112):
        round_at(x, 236, 20, 10)  # paws
    tail = curve([(168, 226), (226, 236), (246, 178), (206, 140)])
    for i, (x, y) in enumerate(tail):
        thick = 11 - 4 * i / len(tail)
        round_at(x, y, thick, thick)
    picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(Path(__file__).with_name("cat.png"), optimize=True)


if __name__ == "__main__":
    main()
