"""What GPUs can do, from their vendor's data sheets."""

import re
from dataclasses import dataclass

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU."""

    name: str
    peak_flops_per_s: float  # dense matrix products in bf16, added up in fp32
    memory_bytes: float
    bandwidth_bytes_per_s: float  # of its memory
    has_bf16: bool = True


GPUS = {
    gpu.name: gpu
    for gpu in (
        # V100 SXM2 32 GB, the paper's; its figure is that of fp16, as it has no bf16.
        Gpu(
            name="v100",
            peak_flops_per_s=125 * TERA,
            memory_bytes=32 * GIGA,
            bandwidth_bytes_per_s=900 * GIGA,
            has_bf16=False,
        ),
        Gpu(name="a100-40", peak_flops_per_s=312 * TERA, memory_bytes=40 * GIGA, bandwidth_bytes_per_s=1555 * GIGA),
        Gpu(name="a100-80", peak_flops_per_s=312 * TERA, memory_bytes=80 * GIGA, bandwidth_bytes_per_s=2039 * GIGA),
        Gpu(name="h100", peak_flops_per_s=989 * TERA, memory_bytes=80 * GIGA, bandwidth_bytes_per_s=3350 * GIGA),
        Gpu(name="h200", peak_flops_per_s=989 * TERA, memory_bytes=141 * GIGA, bandwidth_bytes_per_s=4800 * GIGA),
        Gpu(name="l4", peak_flops_per_s=121 * TERA, memory_bytes=24 * GIGA, bandwidth_bytes_per_s=300 * GIGA),
        Gpu(name="rtx4090", peak_flops_per_s=165 * TERA, memory_bytes=24 * GIGA, bandwidth_bytes_per_s=1008 * GIGA),
        Gpu(name="b200", peak_flops_per_s=2250 * TERA, memory_bytes=180 * GIGA, bandwidth_bytes_per_s=8000 * GIGA),
    )
}


def gpu_of(device_name: str) -> Gpu | None:
    """The GPU of the table that a device calls itself, such as "NVIDIA A100-SXM4-80GB"; None where it is not there."""
    words = re.split(r"[^a-z0-9]+", device_name.lower().replace("rtx ", "rtx"))
    for gpu in GPUS.values():
        model, _, gigabytes = gpu.name.partition("-")
        if model in words and (not gigabytes or f"{gigabytes}gb" in words):
            return gpu
    return None


def gpu_named(name: str) -> Gpu:
    """A GPU of the table.

    Raises:
        ValueError: it is not there.
    """
    if name not in GPUS:
        raise ValueError(f"no GPU {name!r}: there are {', '.join(GPUS)}; add it to detclipv2/planning/gpus.py")
    return GPUS[name]
