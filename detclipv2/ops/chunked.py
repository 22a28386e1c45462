"""Chunking of large matrices by rows, as several operators do it."""

import torch
from torch import Tensor

# Elements of a chunk. On a CPU its few buffers of 4 MiB should stay in the caches while a chunk is still a matrix product
# worth its name; elsewhere it is the launches of kernels that must not take the time.
CPU_CHUNK_ELEMENTS = 2**20
DEVICE_CHUNK_ELEMENTS = 2**24


def chunk_rows(row_elements: int, *, device: torch.device) -> int:
    """Rows of a chunk, at least one.

    Args:
        row_elements: elements of a row.
        device: where the chunk lives.
    """
    chunk_elements = CPU_CHUNK_ELEMENTS if device.type == "cpu" else DEVICE_CHUNK_ELEMENTS
    return max(1, chunk_elements // max(1, row_elements))


def common_precision(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the widest of their types, which is at least fp32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]
