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

from detclipv2.foreign_files import parse_json, read_bounded
from detclipv2.models.text_encoder import TextEncoder

MAX_FILE_BYTES = 2**30
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
    what it held is encoded again. The encoder's digest is taken anew at each call, so it is meant for whole vocabularies. The
    folder is created when the first embeddings are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @torch.no_grad()
    def embeddings(self, encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
        """Embeddings [M, D] as ``encoder`` has them in evaluation mode and fp32, on its device; only new texts are encoded."""
        digest = encoder_digest(encoder)
        rows, blocks = self._read(digest, width=encoder.projection.out_features)
        missing = sorted(set(texts) - rows.keys())
        if missing:
            block = _encode(encoder, missing)
            self._write(digest, missing, block)
            rows |= {text: len(rows) + index for index, text in enumerate(missing)}
            blocks.append(block)
        if not texts:
            return encoder([])
        return torch.cat(blocks)[[rows[text] for text in texts]].to(encoder.device)

    def _read(self, digest: str, *, width: int) -> tuple[dict[str, int], list[Tensor]]:
        """The row of each text, and the blocks [m, D] whose concatenation has these rows."""
        rows: dict[str, int] = {}
        blocks: list[Tensor] = []
        for path in sorted((self.folder / digest).glob("*.safetensors")):
            try:
                texts, embeddings = _read_file(path, digest=digest, width=width)
            except (OSError, ValueError) as error:
                _logger.warning("%s is not used, its texts are encoded again: %s; remove it", path, error)
                continue
            # Two processes may have encoded the same text at once: the first file has it.
            new = [index for index, text in enumerate(texts) if text not in rows]
            rows |= {texts[index]: len(rows) + row for row, index in enumerate(new)}
            blocks.append(embeddings[new])
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


def _read_file(path: Path, *, digest: str, width: int) -> tuple[list[str], Tensor]:
    """Texts, and their embeddings [m, D], of a file.

    Raises:
        ValueError: it is not what was written, or of another encoder.
    """
    content = read_bounded(path, max_bytes=MAX_FILE_BYTES)
    if hashlib.sha256(content).hexdigest() != path.stem:
        raise ValueError("it is damaged")
    try:
        tensors = load(content)
        known = parse_json(tensors["index"].numpy().tobytes())
        encoder, texts, embeddings = known["encoder"], known["texts"], tensors["embeddings"]
        fits = embeddings.shape == (len(texts), width) and embeddings.dtype == torch.float32
    except Exception as error:  # whoever wrote it could name it by its digest
        raise ValueError(f"it holds no embeddings ({type(error).__name__}: {error})") from error
    if encoder != digest:
        raise ValueError(f"it is of another encoder, {str(encoder)[:64]}")
    if not fits or not all(isinstance(text, str) for text in texts) or not torch.isfinite(embeddings).all():
        raise ValueError("it does not hold an embedding for each text")
    return texts, embeddings


def _encode(encoder: TextEncoder, texts: list[str]) -> Tensor:
    training = encoder.training
    encoder.eval()
    try:
        with torch.autocast(encoder.device.type, enabled=False):
            return encoder(texts).cpu()
    finally:
        encoder.train(training)
