"""A bench of hand-made numbers."""

from __future__ import annotations

from attngraft.benchmarking.bench_result import BenchResult
from attngraft.benchmarking.bench_settings import LoopCase
from attngraft.benchmarking.module_timing import DIRECTIONS, ModuleCase, module_row, summarise
from attngraft.benchmarking.network_timing import MODES, NetworkCase, model_row
from attngraft.benchmarking.peak_memory import memory_row
from attngraft.benchmarking.training_throughput import loop_row
from attngraft.training import Precision

FP32, BF16 = Precision("fp32", "contiguous"), Precision("bf16", "channels_last")
HOSTILE = "<script>alert(1)</script> $x^2$ [red]"


def document(attention="cbam", status="finished"):
    """What a bench on one machine could have found."""
    modules = tuple(
        module_row(
            ModuleCase(attention, direction, precision, (32, channels, 56, 56)),
            {"attngraft": (10.0, 11.0), "timm": (31.0, 33.0), "reference": (30.0, 36.0), "copy": (2.0, 2.2)},
            {"torch.compile": f"failed ({HOSTILE})"},
            bytes_of_x=10**8,
        )
        for precision in (FP32, BF16)
        for direction in DIRECTIONS
        for channels in (64, 256)
    )
    case = NetworkCase("timm:resnet50", attention, FP32, 32, 224)
    times = {"plain": (1000.0, 1100.0), "attngraft": (1100.0, 1210.0), "timm": (1500.0, 1800.0)}
    lite = NetworkCase("timm:tf_efficientnet_lite0", attention, FP32, 32, 224)
    models = [model_row(case, mode, times, {}, sites=16) for mode in MODES]
    models += [
        model_row(lite, mode, {name: times[name] for name in ("plain", "attngraft")}, {"timm": "has none"}, sites=9)
        for mode in MODES
    ]
    rates = {"bare": (10.0, 10.0), "loader": (1.0, 1.2), "fit": (10.5, 10.7)}
    loop = loop_row(LoopCase("timm:resnet18", 160, "jpeg", 240, 320), FP32, rates, 32, 16, 0)
    held = [{"peak_bytes": 3.0e9 * k, "saved_bytes": int(2.7e9 * k), "method": "counted"} for k in (1, 1.2, 1.5)]
    memory = memory_row(
        NetworkCase("timm:resnet50", attention, FP32, 32, 224),
        {"plain": held[:1], "attngraft": held[1:2], "timm": held[2:]},
    )
    result = BenchResult(
        created="2025-01-31T10:00:00+00:00",
        device="cpu",
        threads=2,
        settings={"quick": False},
        hardware={"cpu": "Xeon 8488C", "cores": 2, "memory_gib": 7.6, "gpu": None, "os": "Linux"},
        versions={"torch": "2.14.0", "timm": "1.0.20"},
        status=status,
        modules=modules,
        summaries=summarise(modules),
        models=tuple(models),
        loop=(loop,),
        memory=(memory,),
        command="attngraft bench all",
    )
    return result
