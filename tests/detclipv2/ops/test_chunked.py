import pytest
import torch

from detclipv2.ops import chunked
from detclipv2.ops.chunked import chunk_rows, common_precision


def test_rows_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")

    assert chunk_rows(16, device=cpu) == 2**20 // 16
    assert chunk_rows(16, device=torch.device("meta")) == 2**24 // 16
    for num_elements, row, wanted in ((35, 10, 3), (9, 10, 1), (7, 0, 7)):
        monkeypatch.setattr(chunked, "CPU_CHUNK_ELEMENTS", num_elements)
        assert chunk_rows(row, device=cpu) == wanted


def test_common_precision_is_the_widest_and_single_at_least() -> None:
    half, single, double = (torch.zeros(1, dtype=dtype) for dtype in (torch.bfloat16, torch.float32, torch.float64))

    assert [tensor.dtype for tensor in common_precision(half, half)] == [torch.float32] * 2
    assert [tensor.dtype for tensor in common_precision(half, single, double)] == [torch.float64] * 3
