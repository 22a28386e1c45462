"""Random numbers of a step as a function of what they are for, so that no generator's state has to be kept."""

import hashlib

import torch


def seed_torch(*key: int | str) -> None:
    """Seed torch's generators, those of accelerators too, by a key such as (seed, step, rank)."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
