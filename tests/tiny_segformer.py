"""A very small SegFormer with random weights, for tests of whatever reads networks of transformers.

A test that asks for one is skipped where transformers is not installed.
"""

from __future__ import annotations

from typing import Any

import pytest

from stillroom.stages.models.torchvision_import import import_torchvision


def tiny_segformer(classes: int) -> Any:
    """Build it: stride 4, of which 12 channels are penultimate."""
    import_torchvision()
    transformers = pytest.importorskip("transformers", reason="the extra [hf] is not installed")
    settings = transformers.SegformerConfig(
        num_encoder_blocks=4, depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2], sr_ratios=[8, 4, 2, 1], decoder_hidden_size=12,
        num_labels=classes,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(settings).eval()
