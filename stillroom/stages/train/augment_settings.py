"""Which transforms of torchvision change what the student sees, and nothing else."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

PHOTOMETRIC = (
    "ColorJitter",
    "GaussianBlur",
    "GaussianNoise",
    "Grayscale",
    "JPEG",
    "RandomAdjustSharpness",
    "RandomAutocontrast",
    "RandomChannelPermutation",
    "RandomEqualize",
    "RandomErasing",
    "RandomGrayscale",
    "RandomInvert",
    "RandomPhotometricDistort",
    "RandomPosterize",
    "RandomSolarize",
)


def _with_name(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _is_photometric(value: dict[str, Any]) -> dict[str, Any]:
    name = value.get("name")
    if name not in PHOTOMETRIC:
        raise ValueError(
            f"{name!r} is none of torchvision's transforms that leave every pixel in its place, as "
            "labels and cached artifacts do (view moves them all together, by crop, scale and "
            f"flip); known: {', '.join(PHOTOMETRIC)}"
        )
    return value


Transform = Annotated[dict[str, Any], BeforeValidator(_with_name), AfterValidator(_is_photometric)]
"""A name, or a table of a name, arguments, and perhaps the probability `p` of being applied."""
