"""What stands and moves in the street: cars, people, trees, poles, signs, the far skyline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from stillroom.stages.scenes.easel import Easel

if TYPE_CHECKING:
    from stillroom.stages.scenes.draws import Draws
    from stillroom.stages.scenes.easel import Colour
    from stillroom.stages.scenes.textures import Picture, Tile

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


def vary(draws: Draws, colour: Colour, spread: float) -> Colour:
    """A colour near another."""
    red, green, blue = (channel + draws.between(-spread, spread) for channel in colour)
    return (max(red, 0.02), max(green, 0.02), max(blue, 0.02))


@dataclass(frozen=True, eq=False)
class Car:
    """A car's faces.

    Attributes:
        back: seen from behind.
        nose: seen from the front, up to the bonnet.
        screen: the windscreen with the body below it, `setback` metres behind the nose.
        flank: seen from its right, from its back (left) to its front.
    """

    back: Picture
    nose: Picture
    screen: Picture
    flank: Picture
    setback: float


def car(draws: Draws, density: float) -> Car:
    """A saloon, or a van."""
    paint = vary(draws, draws.pick(PAINTS), 0.06)
    tall = draws.between(1.4, 1.6) if draws.chance(0.75) else draws.between(1.9, 2.3)
    waist = draws.between(0.88, 1.0)
    bonnet, slope = (0.75 if tall < 1.8 else 1.7), draws.between(0.5, 0.9)
    end = (paint, tall, waist, density)
    return Car(
        back=_car_end(*end, lamp=(0.75, 0.08, 0.06)),
        nose=_car_end(paint, waist, waist, density, lamp=(0.95, 0.93, 0.80)),
        screen=_car_end(*end, lamp=paint),
        flank=_car_side(*end, bonnet, slope),
        setback=2.15 - bonnet + 0.5 * slope * (tall - waist),
    )


def _car_end(paint: Colour, tall: float, waist: float, density: float, *, lamp: Colour) -> Picture:
    """Back or front; without a cabin where the car is no taller than its waist."""
    easel = Easel(1.8, tall, density)
    for side in (-1, 1):
        easel.fill(easel.box(side * 0.72 - 0.12, side * 0.72 + 0.12, 0, 0.4), _TYRE)
    easel.fill(easel.box(-0.88, 0.88, 0.22, 0.6), paint)
    easel.fill(easel.trapezium(0.6, waist, 0.89, 0.88), paint)
    if tall > waist:
        easel.fill(easel.trapezium(waist, tall, 0.87, 0.80), paint)
        easel.tint(easel.trapezium(waist + 0.03, tall - 0.1, 0.76, 0.69), _GLASS)
    easel.tint(easel.box(-0.88, 0.88, 0.22, 0.36), (0.12, 0.12, 0.13))
    easel.tint(easel.box(-0.26, 0.26, 0.5, 0.62), (0.82, 0.80, 0.66))
    for side in (-1, 1):
        easel.tint(easel.box(side * 0.72 - 0.14, side * 0.72 + 0.14, 0.62, 0.8), lamp)
    easel.shade(0.8 + 0.2 * easel.y / tall)
    return easel.finish()


def _car_side(
    paint: Colour, tall: float, waist: float, density: float, bonnet: float, slope: float
) -> Picture:
    easel = Easel(4.3, tall, density)
    x, y = easel.x, easel.y
    easel.fill((y >= 0.22) & (y < waist) & (abs(x) < 2.13 - 0.1 * (y - 0.5) ** 2), paint)
    cabin = (y >= waist) & (y < tall) & (x > -2.13 + 0.06 * (y - waist) / (tall - waist))
    edge = bonnet - slope * (y - waist)
    easel.fill(cabin & (x < edge), paint)
    glass = (y > waist + 0.04) & (y < tall - 0.09) & (x > -1.75) & (x < edge - 0.12)
    easel.tint(glass & (abs(x + 0.45) > 0.05), _GLASS)
    easel.tint(easel.box(-2.2, 2.2, 0.22, 0.34), (0.12, 0.12, 0.13))
    easel.tint((abs(x + 0.45) < 0.02) & (y > 0.36) & (y < waist), (0.1, 0.1, 0.1))
    for middle in (-1.35, 1.4):
        easel.tint(easel.ellipse(middle, 0.34, 0.4, 0.4), (0.03, 0.03, 0.03))
        easel.fill(easel.ellipse(middle, 0.31, 0.31, 0.31), _TYRE)
        easel.tint(easel.ellipse(middle, 0.31, 0.18, 0.18), (0.45, 0.45, 0.46))
    easel.shade(0.82 + 0.25 * (y - 0.5) / tall)
    return easel.finish()


def person(draws: Draws, density: float) -> tuple[Picture, Picture]:
    """A pedestrian's upper part (from the hip, 0.8 m up) and one leg."""
    coat = vary(draws, draws.pick(PAINTS + WALLS), 0.1)
    trousers = vary(draws, draws.pick(PAINTS), 0.06)
    skin = draws.pick(((0.80, 0.62, 0.50), (0.62, 0.44, 0.33), (0.36, 0.25, 0.19)))
    hair = draws.pick(((0.08, 0.06, 0.05), (0.35, 0.24, 0.12), (0.6, 0.6, 0.6)))
    upper = Easel(0.62, 0.95, density)
    upper.fill(upper.trapezium(0.0, 0.55, 0.19, 0.25), coat)
    upper.fill(upper.ellipse(0, 0.55, 0.25, 0.1), coat)
    for side in (-1, 1):
        upper.fill(upper.box(side * 0.25 - 0.05, side * 0.25 + 0.05, 0.02, 0.55), coat)
    upper.shade(0.85 + 0.6 * upper.x)
    upper.fill(upper.ellipse(0, 0.78, 0.11, 0.14), skin)
    upper.tint(upper.ellipse(0, 0.84, 0.12, 0.1), hair)
    if draws.chance(0.4):
        bag = upper.box(-0.18, 0.18, 0.15, 0.5)
        upper.tint(bag, vary(draws, draws.pick(PAINTS), 0.1))
    leg = Easel(0.18, 0.84, density)
    leg.fill(leg.trapezium(0.06, 0.84, 0.06, 0.09), trousers)
    leg.fill(leg.box(-0.07, 0.09, 0.0, 0.07), _TYRE)
    leg.shade(0.85 + 1.2 * leg.x)
    return upper.finish(), leg.finish()


def tree(draws: Draws, density: float, rough: Tile, smooth: Tile, leaf: Colour) -> Picture:
    """A trunk and a ragged crown."""
    tall, half = draws.between(4.5, 8.0), draws.between(1.3, 2.2)
    foot = draws.between(1.7, 2.4)
    easel = Easel(2 * half + 0.4, tall, density)
    trunk = draws.between(0.1, 0.2)
    easel.fill(easel.box(-trunk, trunk, 0, foot + 1), vary(draws, (0.26, 0.21, 0.16), 0.04))
    offset = (draws.between(0, 256), draws.between(0, 256))
    lumps = easel.noise(smooth, 40.0 / half, offset)
    twigs = easel.noise(rough, 40.0, offset)
    middle, reach = (tall + foot) / 2, (tall - foot) / 2
    radius = (easel.x / half) ** 2 + ((easel.y - middle) / reach) ** 2
    crown = (radius < 0.70 + 0.65 * lumps + 0.2 * twigs) & (twigs < 0.62)
    easel.fill(crown, vary(draws, leaf, 0.05))
    bright = 0.75 + 0.35 * lumps + 0.55 * twigs + 0.25 * (easel.y - middle) / reach
    easel.shade(np.maximum(bright, np.float32(0.2)))
    return easel.finish()


def pole(draws: Draws, density: float) -> Picture:
    """A lamp post, or the plain post of a sign."""
    tall = draws.between(5.0, 7.0) if draws.chance(0.6) else draws.between(2.6, 3.2)
    paint = vary(draws, draws.pick(((0.45, 0.46, 0.47), (0.2, 0.22, 0.21), (0.3, 0.25, 0.2))), 0.05)
    half = draws.between(0.08, 0.15)
    lamp = tall > 4
    easel = Easel(2.2 if lamp else 0.3, tall, density)
    easel.fill(easel.box(-half, half, 0, tall), paint)
    if lamp:
        reach = draws.pick((-1.0, 1.0))
        arm = easel.box(min(0, reach), max(0, reach), tall - 0.16, tall - 0.02)
        easel.fill(arm, paint)
    easel.shade(1.0 - 0.9 * easel.x)
    return easel.finish()


def sign(draws: Draws, density: float) -> Picture:
    """A traffic sign, a direction board or a traffic light, without its post.

    Half as large again as in life: at demo sizes they would be specks.
    """
    kind = draws.below(4)
    plate = draws.pick(((0.68, 0.10, 0.10), (0.10, 0.24, 0.56), (0.82, 0.66, 0.12)))
    if kind == 0:  # round, a ring about a light field
        easel = Easel(0.8, 0.8, density)
        easel.fill(easel.ellipse(0, 0.4, 0.38, 0.38), plate)
        easel.tint(easel.ellipse(0, 0.4, 0.25, 0.25), (0.88, 0.88, 0.86))
        easel.tint(easel.box(-0.15, 0.15, 0.34, 0.46), (0.08, 0.08, 0.08))
    elif kind == 1:  # triangle
        easel = Easel(0.95, 0.85, density)
        easel.fill(easel.trapezium(0.02, 0.84, 0.46, 0.0), plate)
        easel.tint(easel.trapezium(0.12, 0.62, 0.27, 0.0), (0.9, 0.9, 0.86))
    elif kind == 2:  # board with lettering
        easel = Easel(1.8, 0.9, density)
        easel.fill(easel.box(-0.88, 0.88, 0.02, 0.88), draws.pick((*WALLS, plate)))
        for line in range(3):
            end = draws.between(-0.2, 0.75)
            low = 0.16 + 0.24 * line
            easel.tint(easel.box(-0.75, end, low, low + 0.11), (0.92, 0.92, 0.90))
    else:  # traffic light
        easel = Easel(0.4, 1.05, density)
        easel.fill(easel.box(-0.19, 0.19, 0.0, 1.04), (0.09, 0.10, 0.10))
        lit = draws.below(3)
        for place, colour in enumerate(((0.1, 0.8, 0.4), (0.9, 0.6, 0.1), (0.9, 0.12, 0.1))):
            lamp = easel.ellipse(0, 0.2 + 0.32 * place, 0.12, 0.12)
            easel.tint(lamp, colour if place == lit else (0.2, 0.2, 0.2))
    return replace(easel.finish(), density=density / 1.5)


def flank(draws: Draws, wide: float, high: float, wall: Colour, smooth: Tile) -> Picture:
    """The side of a house that stands behind a gap, with few windows."""
    easel = Easel(wide, high, 8.0)
    easel.fill(easel.box(-wide / 2, wide / 2, 0, high), wall)
    dark = draws.between(0.12, 0.35)
    storey, bay = draws.between(2.7, 3.6), draws.between(2.5, 5.0)
    pane = (abs(easel.y % storey - storey / 2) < 0.7) & (abs(easel.x % bay - bay / 2) < 0.55)
    easel.tint(pane & (easel.y < high - 0.5), (dark, dark * 1.1, dark * 1.2))
    easel.shade(1 + 0.14 * easel.noise(smooth, 5.0, (draws.between(0, 256), 0.0)))
    return easel.finish()


def bushes(draws: Draws, wide: float, high: float, leaf: Colour, rough: Tile) -> Picture:
    """A hedge seen from its end."""
    easel = Easel(wide, high, 10.0)
    twigs = easel.noise(rough, 18.0, (draws.between(0, 256), 0.0))
    easel.fill(easel.y < high * (0.9 + 0.2 * twigs), leaf)
    easel.shade(1 + 0.5 * twigs)
    return easel.finish()


def skyline(draws: Draws, smooth: Tile, leaf: Colour) -> tuple[Picture, Picture]:
    """Far houses, and far woods; each 240 m wide."""
    houses = Easel(240.0, 40.0, 2.0)
    left = -120.0
    while left < 120.0:
        right = left + draws.between(6, 22)
        if draws.chance(0.75):
            high = draws.between(6, 30)
            colour = vary(draws, draws.pick(WALLS), 0.06)
            houses.fill(houses.box(left, right, 0, high), colour)
            gaps = (np.floor(houses.x / 1.5) % 2 == 0) & (np.floor(houses.y / 1.5) % 2 == 0)
            dark = (colour[0] * 0.7, colour[1] * 0.7, colour[2] * 0.75)
            houses.tint(houses.box(left, right, 1, high - 1) & gaps, dark)
        left = right
    woods = Easel(240.0, 24.0, 2.0)
    offset = (draws.between(0, 256), 0.0)
    ridge = woods.noise(smooth, 3.0, offset)
    woods.fill(woods.y < 4.0 + 14.0 * np.maximum(ridge + draws.between(-0.3, 0.3), -0.2), leaf)
    woods.shade(0.8 + 0.4 * woods.noise(smooth, 12.0, offset))
    return houses.finish(), woods.finish()
