"""A pretended GPU: tensors that say they lie on the device "elsewhere", hold their numbers here, and refuse what a GPU
would refuse.

Real numbers, unlike FakeTensorMode's, so that what asks for one (`.item()`, `nonzero`, `bool`) goes on; and that mode
has no "cuda" in a build of torch without it. Inside `pretended()` tensors are made and moved there as usual, an
operation that mixes devices raises RuntimeError as CUDA's do, and `.numpy()` of such a tensor is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class _Backend:
    """What torch asks of the module of a device."""

    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)
    get_rng_state = staticmethod(lambda device=0: torch.empty(0, dtype=torch.uint8))
    set_rng_state = staticmethod(lambda state, device=0: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])


NAME = "elsewhere"
_setup_privateuseone_for_python_backend(NAME, _Backend())
HERE, THERE = torch.device("cpu"), torch.device(NAME, 0)
aten = torch.ops.aten
COPIES = (aten._to_copy, aten.copy_)  # what may go from one device to the other
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index)
TOGETHER = ("_foreach_", "_fused_")  # kernels that read even single numbers on the device


class Elsewhere(Tensor):
    """A tensor of the pretended GPU; `held` are its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=THERE,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def tolist(self) -> Any:  # which torch refuses to do for a subclass
        return self.held.tolist()

    def __repr__(self) -> str:
        return f"Elsewhere({self.held})"


class Pretending(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    packet, name = func.overloadpacket, func.overloadpacket.__name__
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in given if isinstance(x, Elsewhere)]
    _check(packet, name, args, given)
    if name == "_fused_sdp_choice":
        return 0
    device = kwargs.get("device")
    target = torch.device(device).type if device is not None else None
    if target is not None and target != "cpu":
        kwargs = {**kwargs, "device": HERE}
    kwargs.pop("pin_memory", None)
    known = {id(x.held): x for x in there} | {id(x): x for x in given if not isinstance(x, Elsewhere)}
    inside = tree_map(lambda x: x.held if isinstance(x, Elsewhere) else x, (args, kwargs))
    out = func(*inside[0], **inside[1])
    if torch.Tag.inplace_view in func.tags:  # unsqueeze_ and the like: what it says of itself changes too
        with no_dispatch():
            func(*args, **kwargs)
        return args[0]
    if packet is aten.copy_:
        return args[0]
    wrap = target == THERE.type or (target is None and bool(there))
    if packet is aten._to_copy and target is None:
        wrap = bool(there)
    return tree_map(lambda x: known.get(id(x), Elsewhere(x) if wrap else x) if isinstance(x, Tensor) else x, out)


def _check(packet: Any, name: str, args: Any, given: list[Tensor]) -> None:
    """Refuse what CUDA refuses: tensors of both devices in one operation, but for copies, single numbers of the
    processor beside others, and what is indexed by the processor."""
    here = [x for x in given if not isinstance(x, Elsewhere)]
    there = [x for x in given if isinstance(x, Elsewhere)]
    if not here or not there or packet in COPIES:
        return
    if packet in INDEXED:
        values = [x for x in args[2:3] if isinstance(x, Tensor)]
        if isinstance(args[0], Elsewhere) and all(isinstance(x, Elsewhere) or x.ndim == 0 for x in values):
            return
    elif not name.startswith(TOGETHER) and all(x.ndim == 0 for x in here):
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device: {name} got {[(str(x.device), tuple(x.shape)) for x in given]}"
    )


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """Bring all parameters and buffers there, in place; one that is shared stays shared."""
    done: dict[int, Any] = {}
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None and not isinstance(p, Elsewhere):
                if id(p) not in done:
                    made = Elsewhere(p.data.clone())
                    done[id(p)] = torch.nn.Parameter(made, requires_grad=p.requires_grad)
                part._parameters[name] = done[id(p)]
        for name, b in part._buffers.items():
            if b is not None and not isinstance(b, Elsewhere):
                part._buffers[name] = done.setdefault(id(b), Elsewhere(b.clone()))
    return module


@contextmanager
def pretended() -> Iterator[None]:
    before, inference = torch._C._only_lift_cpu_tensors(), torch.inference_mode
    torch.inference_mode = torch.no_grad  # type: ignore[misc]  # in it, operations come here as a whole
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(numbers, device=...)` moves what it made here
    try:
        with Pretending():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
        torch.inference_mode = inference  # type: ignore[misc]
