"""A make-believe CUDA device for a CPU build of torch: real values, computed on the CPU.

Tensors say that they are on cuda:0 and wrap one on the CPU, which every operator is run on;
autograd, autocast and GradScaler take them for the real thing. What CUDA refuses is refused: an
operator whose tensors are on two devices, `numpy()` of a device's tensor. Half precision is rounded
as it is there. What waits for the device is written down, with the line of stillroom that did it:
see `RECORD`.

It has no kernels of its own, no asynchrony, no memory to run out of, and the CPU's random numbers.
"""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

# Before torch, which looks for devices when it is imported.
ctypes.CDLL(os.environ["STILLROOM_MAKE_BELIEVE"], mode=ctypes.RTLD_GLOBAL)

import torch  # noqa: E402
from make_believe.record import RECORD, line  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
HALVES = (torch.float16, torch.bfloat16)
# Operators whose result, or its shape, the host has to know before it goes on.
WAITING = {
    "aten::_local_scalar_dense", "aten::_unique2", "aten::bincount", "aten::equal",
    "aten::is_nonzero", "aten::masked_select", "aten::nonzero", "aten::repeat_interleave.Tensor",
    "aten::unique_consecutive", "aten::unique_dim",
}  # fmt: skip
INDEXING = {
    "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_",
}  # fmt: skip
# Slow on a CPU in half precision, and rounded once in either way.
IN_FLOAT32 = ("convolution", "mm", "batch_norm", "upsample", "_softmax", "layer_norm")


# Factories that begin with an empty tensor, whose size this device's tensors cannot change.
RESIZING = (
    "arange", "arange.start", "arange.start_step", "eye", "eye.m", "linspace", "randperm",
    "tril_indices", "triu_indices",
)  # fmt: skip


class DeviceTensor(torch.Tensor):
    """A tensor on cuda:0 whose values are those of `inner`, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> DeviceTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
        made = torch.tensor(data, dtype=dtype or self.dtype, device=device or CUDA)
        return made.requires_grad_(requires_grad)

    def tolist(self):
        RECORD.wait("tolist")
        return self.inner.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def __repr__(self):
        return f"DeviceTensor({self.inner!r})"

    def __reduce_ex__(self, protocol):  # as torch.save keeps it; it is loaded onto the CPU
        return self.inner.detach().__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        copied = DeviceTensor(self.inner.detach().clone())
        if getattr(self, "_is_param", False):
            copied = torch.nn.Parameter(copied, requires_grad=self.requires_grad)
        memo[id(self)] = copied
        return copied


def on_cpu(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.inner if isinstance(leaf, DeviceTensor) else leaf, tree)


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator that has a tensor on the device, or makes one there."""
    name = func._schema.name
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    here = [tensor for tensor in given if isinstance(tensor, DeviceTensor)]
    if name == "aten::_to_copy":
        return _moved(func, args, kwargs)
    if name == "aten::copy_":
        return _copied(args, kwargs)
    _demand_one_device(name, args, given)
    if here and (name in WAITING or (name in INDEXING and _by_booleans(args))):
        RECORD.wait(name)
    options = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    target = options.get("device")
    if target is not None:
        options["device"] = CPU
    found = _computed(name, func, on_cpu(args), on_cpu(options))
    if target is not None and torch.device(target).type == "cpu":
        return found
    own = {id(tensor.inner): tensor for tensor in here}  # in-place operators return their argument

    def wrapped(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return own[id(leaf)] if id(leaf) in own else DeviceTensor(leaf)

    return tree_map(wrapped, found)


def _made(func: Any, *args: Any, **kwargs: Any) -> DeviceTensor:
    return DeviceTensor(func(*args, **{**kwargs, "device": CPU}))


def _moved(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """`to` another device or type; what goes to another device waits, unless told not to."""
    (source,), options = args, dict(kwargs)
    asked, quietly = options.pop("device", None), options.pop("non_blocking", False)
    options.pop("pin_memory", None)
    target = source.device if asked is None else torch.device(asked)
    if target.type != source.device.type and not quietly:
        RECORD.wait(f"to({target.type})")
    if target.type == "cuda" != source.device.type:
        RECORD.sent += source.nbytes
    made = func(on_cpu(source), **options)
    if made.data_ptr() == on_cpu(source).data_ptr():
        made = made.clone()
    return DeviceTensor(made) if target.type == "cuda" else made


def _copied(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    target, source = args[:2]
    quietly = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    if isinstance(target, DeviceTensor) != isinstance(source, DeviceTensor) and not quietly:
        RECORD.wait("copy_")
    if isinstance(target, DeviceTensor) and not isinstance(source, DeviceTensor):
        RECORD.sent += source.nbytes
    on_cpu(target).copy_(on_cpu(source))
    return target


def _demand_one_device(name: str, args: tuple[Any, ...], given: list[torch.Tensor]) -> None:
    """Refuse a mixture as CUDA does: numbers on the CPU and indices into a tensor are no fault."""
    elsewhere = [t for t in given if not isinstance(t, DeviceTensor) and t.dim() > 0]
    if len(elsewhere) in (0, len(given)):
        return
    if name in INDEXING and isinstance(args[0], DeviceTensor):
        RECORD.wait(f"{name} by a CPU tensor")
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found cuda:0 and cpu in {name}"
    )


def _by_booleans(args: tuple[Any, ...]) -> bool:
    indices = [index for index in args[1] if index is not None]
    return any(index.dtype in (torch.bool, torch.uint8) for index in indices)


def _computed(name: str, func: Any, args: Any, kwargs: Any) -> Any:
    """Run it on the CPU; in half precision where that has a kernel, else rounded afterwards."""
    types = {leaf.dtype for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
    half = next((dtype for dtype in HALVES if dtype in types), None)
    if half is None:
        return func(*args, **kwargs)
    if not any(part in name for part in IN_FLOAT32):
        try:
            return func(*args, **kwargs)
        except (RuntimeError, NotImplementedError) as error:
            if "not implemented for" not in str(error):
                raise
    wide = func(*_cast(args, half, torch.float32), **_cast(kwargs, half, torch.float32))
    return _cast(wide, torch.float32, half)


def _cast(tree: Any, one: torch.dtype, other: torch.dtype) -> Any:
    def cast(leaf: Any) -> Any:
        return leaf.to(other) if isinstance(leaf, torch.Tensor) and leaf.dtype == one else leaf

    return tree_map(cast, tree)


class Event:
    """In place of torch.cuda.Event: what it stands for is done already."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.seconds = 0.0

    def record(self, stream: Any = None) -> None:
        self.seconds = time.perf_counter()

    def synchronize(self) -> None:
        RECORD.late[line()] += 1

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.seconds - self.seconds)


class Stream:
    """In place of torch.cuda.Stream: everything happens at once, in whichever it is asked for."""

    def __init__(self, device: Any = None) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        pass


def install() -> None:
    """Make the device: from here on this process has a GPU."""
    every, some = (torch.library.Library(name, "IMPL", "CUDA") for name in ("_", "aten"))
    every.fallback(lambda func, *args, **kwargs: run(func, args, kwargs))
    for name in RESIZING:
        operator, _, overload = name.partition(".")
        func = getattr(getattr(torch.ops.aten, operator), overload or "default")
        some.impl(name, partial(_made, func))
    torch._make_believe = every, some  # what they registered goes with them
    make = torch.tensor

    def tensor(data, *, dtype=None, device=None, requires_grad=False, pin_memory=False):
        made = make(data, dtype=dtype)
        if device is not None and torch.device(device).type == "cuda":
            made = made.to(CUDA)  # by a copy that waits, as there
        return made.requires_grad_() if requires_grad else made

    torch.tensor = tensor
    # A parameter is to become a tensor of the device, and not only to take the data of one.
    torch.__future__.set_swap_module_params_on_conversion(True)
    for name, value in _of_torch_cuda().items():
        setattr(torch.cuda, name, value)
    torch.cuda.nvtx.range_push = lambda name: RECORD.ranges.update([name])
    torch.cuda.nvtx.range_pop = lambda: None


def _of_torch_cuda() -> dict[str, Callable[..., Any] | type]:
    return {
        "Event": Event,
        "Stream": Stream,
        "_lazy_init": lambda: None,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "make-believe",
        "get_rng_state": lambda device=None: torch.zeros(1, dtype=torch.uint8),
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_initialized": lambda: True,
        "manual_seed_all": lambda seed: None,
        "set_rng_state": lambda state, device=None: None,
        "stream": lambda stream: nullcontext(),
        "synchronize": lambda device=None: RECORD.wait("synchronize"),
    }


install()
