"""Text embeddings on disk, so that a vocabulary is encoded once for each set of weights.

Shapes: M texts, D embedding width.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from detclipv2.models.text_encoder import TextEncoder

_logger = logging.getLogger(__name__)


def weights_digest(module: nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of a module's state dict, in the names' order."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        header = json.dumps([name, str(value.dtype), list(value.shape)])
        digest.update(header.encode() + b"\n")
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def encoder_digest(encoder: TextEncoder) -> str:
    """sha256 of all that an embedding depends on besides its text."""
    identity = {**encoder.description(), "weights": weights_digest(encoder)}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class TextEmbeddingCache:
    """Embeddings by encoder and text, in a folder that any number of processes may use at once.

    ``<folder>/<encoder's digest>/<sha256 of the file>.safetensors``: each call that had something to encode adds one file,
    under a temporary name first, and none is ever changed. A file whose content does not fit its name is not used, and
    what it held is encoded again. The encoder's digest is taken anew at each call, so it is meant for whole vocabularies.

    Args:
        folder: created when the first embeddings are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @torch.no_grad()
    def embeddings(self, encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
        """Embeddings [M, D] as ``encoder`` has them in evaluation mode and fp32, on its device; only new texts are encoded."""
        digest = encoder_digest(encoder)
        rows, blocks = self._read(digest)
        missing = sorted(set(texts) - rows.keys())
        if missing:
            block = _encode(encoder, missing)
            self._write(digest, missing, block)
            rows |= {text: len(rows) + index for index, text in enumerate(missing)}
            blocks.append(block)
        if not texts:
            return encoder([])
        return torch.cat(blocks)[[rows[text] for text in texts]].to(encoder.device)

    def _read(self, digest: str) -> tuple[dict[str, int], list[Tensor]]:
        """The row of each text, and the blocks [m, D] whose concatenation has these rows."""
        rows: dict[str, int] = {}
        blocks: list[Tensor] = []
        for path in sorted((self.folder / digest).glob("*.safetensors")):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != path.stem:
                _logger.warning("%s is damaged: its texts are encoded again; remove it", path)
                continue
            tensors = load(content)
            known = json.loads(tensors["index"].numpy().tobytes())
            if known["encoder"] != digest:
                _logger.warning("%s is of another encoder, %s, and not used; remove it", path, known["encoder"])
                continue
            # Two processes may have encoded the same text at once: the first file has it.
            new = [index for index, text in enumerate(known["texts"]) if text not in rows]
            rows |= {known["texts"][index]: len(rows) + row for row, index in enumerate(new)}
            blocks.append(tensors["embeddings"][new])
        return rows, blocks

    def _write(self, digest: str, texts: list[str], embeddings: Tensor) -> None:
        index = json.dumps({"encoder": digest, "texts": texts}).encode()
        content = save({"embeddings": embeddings, "index": torch.frombuffer(bytearray(index), dtype=torch.uint8)})
        folder = self.folder / digest
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".tmp", delete=False) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, folder / f"{hashlib.sha256(content).hexdigest()}.safetensors")


def _encode(encoder: TextEncoder, texts: list[str]) -> Tensor:
    training = encoder.training
    encoder.eval()
    try:
        with torch.autocast(encoder.device.type, enabled=False):
            return encoder(texts).cpu()
    finally:
        encoder.train(training)
