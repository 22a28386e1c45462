import pytest

from detclipv2.planning.gpus import GPUS, gpu_named, gpu_of


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L40S", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_what_a_device_calls_itself(device: str, name: str | None) -> None:
    found = gpu_of(device)

    assert (found and found.name) == name


def test_an_unknown_gpu_names_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="no GPU 'tpu': there are v100, "):
        gpu_named("tpu")
    assert all(gpu_named(name).name == name for name in GPUS)
