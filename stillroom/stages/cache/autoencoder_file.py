"""An auto-encoder as the bytes of a safetensors file, and back."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from stillroom.stages.models.autoencoder import AutoEncoder
from stillroom.storage_specs.errors import WeightsError

if TYPE_CHECKING:
    from stillroom.stages.cache.adapt import AdaptConfig

ABOUT = "about"


def weights_sha256(model: AutoEncoder) -> str:
    """Return the sha256 of the weights alone, whatever else a file has of them."""
    return hashlib.sha256(_packed(model, None)).hexdigest()


def to_bytes(model: AutoEncoder, about: dict[str, Any]) -> bytes:
    """Return a safetensors file; `about` is kept in its metadata as JSON."""
    return _packed(model, {ABOUT: json.dumps(about, sort_keys=True)})


def from_bytes(
    content: bytes, config: AdaptConfig, where: str
) -> tuple[AutoEncoder, dict[str, Any]]:
    """Load the auto-encoder of such a file, ready to encode, and its `about`.

    Args:
        where: the file, for messages

    Raises:
        WeightsError: truncated, no safetensors file, or of another design.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(content)
        length = int.from_bytes(content[:8], "little")
        about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][ABOUT])
        model = AutoEncoder(len(state["mean"]), config.channels, config.strides)
        model.load_state_dict(state)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise WeightsError(
            f"{where}: not the auto-encoder of this [adapt] section, or damaged ({reason}); copy "
            "it again, or give the section another name"
        ) from error
    return model.eval(), about


def _packed(model: AutoEncoder, metadata: dict[str, str] | None) -> bytes:
    from safetensors.torch import save

    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    packed: bytes = save(tensors, metadata)
    return packed
