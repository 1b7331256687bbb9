"""OpenCV's DIS: flow without weights, on the CPU, in hundredths of a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from stillroom.stages.models.flow.flow_settings import FlowSettings

if TYPE_CHECKING:
    from torch import Tensor

    from stillroom.stages.models.flow.flow_network import FlowNetwork

LEAST = 64  # OpenCV 5.0 crashes the process on narrow frames, such as 16 x 128
GREY = (0.299, 0.587, 0.114)  # of RGB


class DisConfig(FlowSettings):
    """Dense inverse search on grey frames.

    Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016. arXiv:1603.03590

    Attributes:
        preset: from fast and coarse to slow and fine; OpenCV's names
    """

    kind: Literal["dis"] = "dis"
    preset: Literal["ultrafast", "fast", "medium"] = "medium"
    device: Literal["cpu"] = "cpu"
    precision: Literal["float32"] = "float32"


def load_dis(config: DisConfig) -> FlowNetwork:
    """Wrap OpenCV's search; nothing is loaded."""
    from stillroom.stages.models.flow.flow_network import FlowNetwork, Sides, as_images

    sides = Sides(multiple=1, least=LEAST, how="pad")

    def estimate(first: Tensor, second: Tensor) -> Tensor:
        return sides.around(
            lambda a, b: _dis(config.preset, a, b), as_images(first), as_images(second)
        )

    return FlowNetwork(None, estimate)


def _dis(preset: str, first: Tensor, second: Tensor) -> Tensor:
    """(B, 3, H, W) 0..255, twice, to (B, 2, H, W)."""
    import cv2
    import torch

    weights = first.new_tensor(GREY).view(1, 3, 1, 1)
    a, b = (
        (images * weights).sum(1).round().to(torch.uint8).cpu().numpy()
        for images in (first, second)
    )  # (B, H, W) each
    # No flow is given to begin from: an array in its place would be taken for one.
    kind = getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset.upper()}")
    search: Any = cv2.DISOpticalFlow.create(kind)
    flows = [torch.from_numpy(search.calc(*pair, None)) for pair in zip(a, b, strict=True)]
    return torch.stack(flows).permute(0, 3, 1, 2)  # (B, 2, H, W)
