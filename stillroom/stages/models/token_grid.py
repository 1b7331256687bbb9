"""Tokens of vision transformers as grids of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


def token_grid(name: str, tokens: Tensor, cells: tuple[int, int], before: range) -> Tensor:
    """Lay the tokens of patches out as they lie in the image; those before them are dropped.

    Args:
        name: of the teacher, for messages
        tokens: (B, n + h * w, C): n for a class and registers, then the patches, row by row
        cells: (h, w)
        before: which n the model may have

    Returns:
        (B, C, h, w)

    Raises:
        ConfigError: the tokens do not fill the grid.
    """
    count, (height, width) = tokens.shape[1], cells
    further = count - height * width
    if further not in before:
        most = "" if len(before) == 1 else f" to {before[-1]}"
        raise ConfigError(
            f"teacher {name}: gives {count} tokens, which do not fill a grid of {height}x{width} "
            f"patches and {before[0]}{most} tokens of a class and registers before them; wrap it "
            "as a teacher of kind python that returns its features as (B, C, h, w)"
        )
    return tokens[:, further:].transpose(1, 2).reshape(len(tokens), -1, height, width)
