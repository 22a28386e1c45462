import torch

from detclipv2.ops.chunked import CPU_CHUNK_ELEMENTS, DEVICE_CHUNK_ELEMENTS, chunk_rows, common_precision


def test_rows_of_a_chunk() -> None:
    cpu = torch.device("cpu")

    assert chunk_rows(10, device=cpu, chunk_elements=35) == 3
    assert chunk_rows(10, device=cpu, chunk_elements=9) == 1
    assert chunk_rows(0, device=cpu, chunk_elements=7) == 7
    assert chunk_rows(16, device=cpu, chunk_elements=None) == CPU_CHUNK_ELEMENTS // 16
    assert chunk_rows(16, device=torch.device("meta"), chunk_elements=None) == DEVICE_CHUNK_ELEMENTS // 16


def test_common_precision_is_the_widest_and_single_at_least() -> None:
    half, single, double = (torch.zeros(1, dtype=dtype) for dtype in (torch.bfloat16, torch.float32, torch.float64))

    assert [tensor.dtype for tensor in common_precision(half, half)] == [torch.float32] * 2
    assert [tensor.dtype for tensor in common_precision(half, single, double)] == [torch.float64] * 3
