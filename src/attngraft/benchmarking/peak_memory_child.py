"""Child process that measures the memory of one training step: JSON in, JSON out."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..training import Precision
from .bench_result import PLAIN
from .network_timing import build_networks, build_plain
from .timed_steps import make_optimizer, random_batch, training_step

WARMUP_IMAGES = 2
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Build the requested network and measure it.

    Args:
        request: name, backbone, attention, batch_size, image_size, dtype, layout, device, threads.

    Returns:
        What `measure_step` returns, or a reason why there is nothing to measure.
    """
    torch.set_num_threads(request["threads"])
    device, precision = torch.device(request["device"]), Precision(request["dtype"], request["layout"])
    if request["name"] == PLAIN:
        model = build_plain(request["backbone"]).to(device)
    else:
        networks, _ = build_networks(request["backbone"], request["attention"], request["image_size"], device)
        if request["name"] not in networks.by_name:
            return {"reason": networks.reasons[request["name"]]}
        model = networks.by_name[request["name"]]
        del networks
    return measure_step(model, request["batch_size"], request["image_size"], precision, device)


def measure_step(
    model: nn.Module, batch_size: int, image_size: int, precision: Precision, device: torch.device
) -> dict[str, Any]:
    """Peak memory of a training step and what autograd saves in it.

    Steps with two images come first: they load libraries, compile kernels and fill the optimiser's state.

    Returns:
        peak_bytes (None where the system does not tell), method, saved_bytes.
    """
    model.to(memory_format=precision.memory_format)  # type: ignore[call-overload]
    optimizer = make_optimizer(model)
    few = random_batch(model, WARMUP_IMAGES, image_size, precision, device)
    warm_up = training_step(model, *few, precision, optimizer)
    for _ in range(2):
        warm_up.run()
        warm_up.before()
    images, labels = random_batch(model, batch_size, image_size, precision, device)
    task = training_step(model, images, labels, precision, optimizer)
    gc.collect()
    held = [images, *model.parameters(), *model.buffers(), *_state_of(optimizer)]
    peak, method = peak_of(task.run, held, device)
    task.before()
    return {"peak_bytes": peak, "method": method, "saved_bytes": saved_bytes(model, images, precision)}


def saved_bytes(model: nn.Module, images: Tensor, precision: Precision) -> int:
    """Bytes that autograd keeps from a forward pass, weights and input aside; shared memory counts once."""
    free = {tensor.untyped_storage().data_ptr() for tensor in (images, *model.parameters(), *model.buffers())}
    kept: list[Tensor] = []  # alive until the end, or else two of them could have the same address

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.detach())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), precision.autocast(images.device):
        output = model.train()(images)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    del output
    return sum(size for address, size in storages.items() if address not in free)


def peak_of(run: Callable[[], object], held: list[Tensor], device: torch.device) -> tuple[int | None, str]:
    """Most bytes in use while something runs, and how that is known.

    Args:
        run: the work.
        held: tensors that are there before and during it.
        device: where it runs.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device), "largest sum of allocated tensors (torch.cuda)"
    before = _resident_bytes()
    if device.type != "cpu" or before is None:
        return None, "not measured: this system does not tell the memory of a process"
    run()
    after = _resident_peak_bytes()
    return after - before + _bytes_of(held), "growth of the resident memory of a fresh process, plus what it held"


def _resident_bytes() -> int | None:
    """Memory of this process now; its peak is set back to that where the system can, or else stays as it is."""
    try:
        CLEAR.write_text("5", encoding="ascii")
        return _status("VmRSS")
    except OSError:
        return _largest_so_far()


def _resident_peak_bytes() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        return _largest_so_far() or 0


def _status(key: str) -> int:
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{STATUS} has no {key}")


def _largest_so_far() -> int | None:
    """Peak of the resident memory since the start; None on Windows."""
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _state_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def _bytes_of(tensors: list[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
