"""How much memory a piece of a computation takes, counted tensor by tensor."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made inside of it, while they live.

    Exact and the same on every device, unlike what an allocator or the operating system tells; it
    does not see what an operator needs inside of itself. Use it as a context; slow.

    Attributes:
        peak: most bytes at one time
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator, and see what it returns."""
        for given in _tensors((args, kwargs)):
            self._meet(given, made_here=False)
        result = func(*args, **(kwargs or {}))
        for made in _tensors(result):
            self._meet(made, made_here=True)
        return result

    def _meet(self, tensor: torch.Tensor, *, made_here: bool) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place in self._known:
            return
        size = storage.nbytes() if made_here else 0

        def gone(_: weakref.ref[Any]) -> None:
            self._known.pop(place, None)
            self.live -= size

        self._known[place] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
