"""Paint what stands and moves in the street: cars, people, trees, poles, signs, the skyline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.texture_painter import TexturePainter

if TYPE_CHECKING:
    from stillroom.stages.scenes.rng import Rng
    from stillroom.stages.scenes.texture_painter import Colour
    from stillroom.stages.scenes.textures import NoiseTile, Texture

# Cloth, paint and walls share much of their palette, so that colour alone does not tell a class.
PAINTS: tuple[Colour, ...] = (
    (0.85, 0.85, 0.84), (0.62, 0.64, 0.66), (0.40, 0.41, 0.43), (0.10, 0.10, 0.12),
    (0.55, 0.12, 0.10), (0.13, 0.22, 0.45), (0.66, 0.58, 0.46), (0.20, 0.33, 0.24),
)  # fmt: skip
WALLS: tuple[Colour, ...] = (
    (0.72, 0.64, 0.50), (0.56, 0.30, 0.22), (0.58, 0.57, 0.55), (0.82, 0.80, 0.74),
    (0.45, 0.36, 0.30), (0.70, 0.54, 0.34), (0.50, 0.55, 0.50), (0.36, 0.38, 0.43),
)  # fmt: skip
LEAVES: tuple[Colour, ...] = (
    (0.22, 0.36, 0.14), (0.30, 0.40, 0.18), (0.17, 0.28, 0.16), (0.46, 0.42, 0.16),
    (0.48, 0.32, 0.14), (0.34, 0.36, 0.26),
)  # fmt: skip
_GLASS: Colour = (0.16, 0.20, 0.24)
_TYRE: Colour = (0.05, 0.05, 0.06)


def vary(rng: Rng, colour: Colour, spread: float) -> Colour:
    """Draw a colour near another."""
    red, green, blue = (channel + rng.between(-spread, spread) for channel in colour)
    return (max(red, 0.02), max(green, 0.02), max(blue, 0.02))


@dataclass(frozen=True, eq=False)
class CarTextures:
    """The faces of a car.

    Attributes:
        back: seen from behind.
        nose: seen from the front, up to the bonnet.
        screen: the windscreen with the body below it, `setback` metres behind the nose.
        side: seen from its right, from its back (left) to its front.
    """

    back: Texture
    nose: Texture
    screen: Texture
    side: Texture
    setback: float


def paint_car(rng: Rng, density: float) -> CarTextures:
    """Paint a saloon, or a van."""
    paint = vary(rng, rng.pick(PAINTS), 0.06)
    tall = rng.between(1.4, 1.6) if rng.chance(0.75) else rng.between(1.9, 2.3)
    waist = rng.between(0.88, 1.0)
    bonnet, slope = (0.75 if tall < 1.8 else 1.7), rng.between(0.5, 0.9)
    end = (paint, tall, waist, density)
    return CarTextures(
        back=_car_end(*end, lamp=(0.75, 0.08, 0.06)),
        nose=_car_end(paint, waist, waist, density, lamp=(0.95, 0.93, 0.80)),
        screen=_car_end(*end, lamp=paint),
        side=_car_side(*end, bonnet, slope),
        setback=2.15 - bonnet + 0.5 * slope * (tall - waist),
    )


def _car_end(paint: Colour, tall: float, waist: float, density: float, *, lamp: Colour) -> Texture:
    """Paint back or front; without a cabin where the car is no taller than its waist."""
    painter = TexturePainter(1.8, tall, density)
    for side in (-1, 1):
        painter.fill(painter.box(side * 0.72 - 0.12, side * 0.72 + 0.12, 0, 0.4), _TYRE)
    painter.fill(painter.box(-0.88, 0.88, 0.22, 0.6), paint)
    painter.fill(painter.trapezium(0.6, waist, 0.89, 0.88), paint)
    if tall > waist:
        painter.fill(painter.trapezium(waist, tall, 0.87, 0.80), paint)
        painter.tint(painter.trapezium(waist + 0.03, tall - 0.1, 0.76, 0.69), _GLASS)
    painter.tint(painter.box(-0.88, 0.88, 0.22, 0.36), (0.12, 0.12, 0.13))
    painter.tint(painter.box(-0.26, 0.26, 0.5, 0.62), (0.82, 0.80, 0.66))
    for side in (-1, 1):
        painter.tint(painter.box(side * 0.72 - 0.14, side * 0.72 + 0.14, 0.62, 0.8), lamp)
    painter.shade(0.8 + 0.2 * painter.y / tall)
    return painter.finish()


def _car_side(
    paint: Colour, tall: float, waist: float, density: float, bonnet: float, slope: float
) -> Texture:
    painter = TexturePainter(4.3, tall, density)
    x, y = painter.x, painter.y
    painter.fill((y >= 0.22) & (y < waist) & (abs(x) < 2.13 - 0.1 * (y - 0.5) ** 2), paint)
    cabin = (y >= waist) & (y < tall) & (x > -2.13 + 0.06 * (y - waist) / (tall - waist))
    edge = bonnet - slope * (y - waist)
    painter.fill(cabin & (x < edge), paint)
    glass = (y > waist + 0.04) & (y < tall - 0.09) & (x > -1.75) & (x < edge - 0.12)
    painter.tint(glass & (abs(x + 0.45) > 0.05), _GLASS)
    painter.tint(painter.box(-2.2, 2.2, 0.22, 0.34), (0.12, 0.12, 0.13))
    painter.tint((abs(x + 0.45) < 0.02) & (y > 0.36) & (y < waist), (0.1, 0.1, 0.1))
    for middle in (-1.35, 1.4):
        painter.tint(painter.ellipse(middle, 0.34, 0.4, 0.4), (0.03, 0.03, 0.03))
        painter.fill(painter.ellipse(middle, 0.31, 0.31, 0.31), _TYRE)
        painter.tint(painter.ellipse(middle, 0.31, 0.18, 0.18), (0.45, 0.45, 0.46))
    painter.shade(0.82 + 0.25 * (y - 0.5) / tall)
    return painter.finish()


def paint_person(rng: Rng, density: float) -> tuple[Texture, Texture]:
    """Paint a pedestrian's upper part (from the hip, 0.8 m up) and one leg."""
    coat = vary(rng, rng.pick(PAINTS + WALLS), 0.1)
    trousers = vary(rng, rng.pick(PAINTS), 0.06)
    skin = rng.pick(((0.80, 0.62, 0.50), (0.62, 0.44, 0.33), (0.36, 0.25, 0.19)))
    hair = rng.pick(((0.08, 0.06, 0.05), (0.35, 0.24, 0.12), (0.6, 0.6, 0.6)))
    upper = TexturePainter(0.62, 0.95, density)
    upper.fill(upper.trapezium(0.0, 0.55, 0.19, 0.25), coat)
    upper.fill(upper.ellipse(0, 0.55, 0.25, 0.1), coat)
    for side in (-1, 1):
        upper.fill(upper.box(side * 0.25 - 0.05, side * 0.25 + 0.05, 0.02, 0.55), coat)
    upper.shade(0.85 + 0.6 * upper.x)
    upper.fill(upper.ellipse(0, 0.78, 0.11, 0.14), skin)
    upper.tint(upper.ellipse(0, 0.84, 0.12, 0.1), hair)
    if rng.chance(0.4):
        bag = upper.box(-0.18, 0.18, 0.15, 0.5)
        upper.tint(bag, vary(rng, rng.pick(PAINTS), 0.1))
    leg = TexturePainter(0.18, 0.84, density)
    leg.fill(leg.trapezium(0.06, 0.84, 0.06, 0.09), trousers)
    leg.fill(leg.box(-0.07, 0.09, 0.0, 0.07), _TYRE)
    leg.shade(0.85 + 1.2 * leg.x)
    return upper.finish(), leg.finish()


def paint_tree(
    rng: Rng, density: float, rough: NoiseTile, smooth: NoiseTile, leaf: Colour
) -> Texture:
    """Paint a trunk and a ragged crown."""
    tall, half = rng.between(4.5, 8.0), rng.between(1.3, 2.2)
    foot = rng.between(1.7, 2.4)
    painter = TexturePainter(2 * half + 0.4, tall, density)
    trunk = rng.between(0.1, 0.2)
    painter.fill(painter.box(-trunk, trunk, 0, foot + 1), vary(rng, (0.26, 0.21, 0.16), 0.04))
    offset = (rng.between(0, 256), rng.between(0, 256))
    lumps = painter.noise(smooth, 40.0 / half, offset)
    twigs = painter.noise(rough, 40.0, offset)
    middle, reach = (tall + foot) / 2, (tall - foot) / 2
    radius = (painter.x / half) ** 2 + ((painter.y - middle) / reach) ** 2
    crown = (radius < 0.70 + 0.65 * lumps + 0.2 * twigs) & (twigs < 0.62)
    painter.fill(crown, vary(rng, leaf, 0.05))
    bright = 0.75 + 0.35 * lumps + 0.55 * twigs + 0.25 * (painter.y - middle) / reach
    painter.shade(np.maximum(bright, np.float32(0.2)))
    return painter.finish()


def paint_pole(rng: Rng, density: float) -> Texture:
    """Paint a lamp post, or the plain post of a sign."""
    tall = rng.between(5.0, 7.0) if rng.chance(0.6) else rng.between(2.6, 3.2)
    paint = vary(rng, rng.pick(((0.45, 0.46, 0.47), (0.2, 0.22, 0.21), (0.3, 0.25, 0.2))), 0.05)
    half = rng.between(0.08, 0.15)
    lamp = tall > 4
    painter = TexturePainter(2.2 if lamp else 0.3, tall, density)
    painter.fill(painter.box(-half, half, 0, tall), paint)
    if lamp:
        reach = rng.pick((-1.0, 1.0))
        arm = painter.box(min(0, reach), max(0, reach), tall - 0.16, tall - 0.02)
        painter.fill(arm, paint)
    painter.shade(1.0 - 0.9 * painter.x)
    return painter.finish()


def paint_sign(rng: Rng, density: float) -> Texture:
    """Paint a traffic sign, a direction board or a traffic light, without its post.

    Half as large again as in life: at demo sizes they would be specks.
    """
    kind = rng.below(4)
    plate = rng.pick(((0.68, 0.10, 0.10), (0.10, 0.24, 0.56), (0.82, 0.66, 0.12)))
    if kind == 0:  # round, a ring about a light field
        painter = TexturePainter(0.8, 0.8, density)
        painter.fill(painter.ellipse(0, 0.4, 0.38, 0.38), plate)
        painter.tint(painter.ellipse(0, 0.4, 0.25, 0.25), (0.88, 0.88, 0.86))
        painter.tint(painter.box(-0.15, 0.15, 0.34, 0.46), (0.08, 0.08, 0.08))
    elif kind == 1:  # triangle
        painter = TexturePainter(0.95, 0.85, density)
        painter.fill(painter.trapezium(0.02, 0.84, 0.46, 0.0), plate)
        painter.tint(painter.trapezium(0.12, 0.62, 0.27, 0.0), (0.9, 0.9, 0.86))
    elif kind == 2:  # board with lettering
        painter = TexturePainter(1.8, 0.9, density)
        painter.fill(painter.box(-0.88, 0.88, 0.02, 0.88), rng.pick((*WALLS, plate)))
        for line in range(3):
            end = rng.between(-0.2, 0.75)
            low = 0.16 + 0.24 * line
            painter.tint(painter.box(-0.75, end, low, low + 0.11), (0.92, 0.92, 0.90))
    else:  # traffic light
        painter = TexturePainter(0.4, 1.05, density)
        painter.fill(painter.box(-0.19, 0.19, 0.0, 1.04), (0.09, 0.10, 0.10))
        lit = rng.below(3)
        for place, colour in enumerate(((0.1, 0.8, 0.4), (0.9, 0.6, 0.1), (0.9, 0.12, 0.1))):
            lamp = painter.ellipse(0, 0.2 + 0.32 * place, 0.12, 0.12)
            painter.tint(lamp, colour if place == lit else (0.2, 0.2, 0.2))
    return replace(painter.finish(), density=density / 1.5)


def paint_house_end(rng: Rng, wide: float, high: float, wall: Colour, smooth: NoiseTile) -> Texture:
    """Paint the side of a house that stands behind a gap, with few windows."""
    painter = TexturePainter(wide, high, 8.0)
    painter.fill(painter.box(-wide / 2, wide / 2, 0, high), wall)
    dark = rng.between(0.12, 0.35)
    storey, bay = rng.between(2.7, 3.6), rng.between(2.5, 5.0)
    pane = (abs(painter.y % storey - storey / 2) < 0.7) & (abs(painter.x % bay - bay / 2) < 0.55)
    painter.tint(pane & (painter.y < high - 0.5), (dark, dark * 1.1, dark * 1.2))
    painter.shade(1 + 0.14 * painter.noise(smooth, 5.0, (rng.between(0, 256), 0.0)))
    return painter.finish()


def paint_hedge_end(rng: Rng, wide: float, high: float, leaf: Colour, rough: NoiseTile) -> Texture:
    """Paint a hedge seen from its end."""
    painter = TexturePainter(wide, high, 10.0)
    twigs = painter.noise(rough, 18.0, (rng.between(0, 256), 0.0))
    painter.fill(painter.y < high * (0.9 + 0.2 * twigs), leaf)
    painter.shade(1 + 0.5 * twigs)
    return painter.finish()


def paint_skyline(rng: Rng, smooth: NoiseTile, leaf: Colour) -> tuple[Texture, Texture]:
    """Paint far houses, and far woods; each 240 m wide."""
    houses = TexturePainter(240.0, 40.0, 2.0)
    left = -120.0
    while left < 120.0:
        right = left + rng.between(6, 22)
        if rng.chance(0.75):
            high = rng.between(6, 30)
            colour = vary(rng, rng.pick(WALLS), 0.06)
            houses.fill(houses.box(left, right, 0, high), colour)
            gaps = (np.floor(houses.x / 1.5) % 2 == 0) & (np.floor(houses.y / 1.5) % 2 == 0)
            dark = (colour[0] * 0.7, colour[1] * 0.7, colour[2] * 0.75)
            houses.tint(houses.box(left, right, 1, high - 1) & gaps, dark)
        left = right
    woods = TexturePainter(240.0, 24.0, 2.0)
    offset = (rng.between(0, 256), 0.0)
    ridge = woods.noise(smooth, 3.0, offset)
    woods.fill(woods.y < 4.0 + 14.0 * np.maximum(ridge + rng.between(-0.3, 0.3), -0.2), leaf)
    woods.shade(0.8 + 0.4 * woods.noise(smooth, 12.0, offset))
    return houses.finish(), woods.finish()
