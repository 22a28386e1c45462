"""Pre-trained weights for the CLIP text encoder, from the files that OpenAI, open_clip and FILIP use.

Shapes: V vocabulary, L positions, W width, D embedding width.
"""

import logging
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.model import CLIPTextCfg
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from safetensors.torch import load_file
from torch import Tensor

from detclipv2.foreign_files import check_regular
from detclipv2.models.clip_text_encoder import ClipTextArchitecture, ClipTextEncoder

_logger = logging.getLogger(__name__)

Activation = Literal["gelu", "quick_gelu"]

_FORMS = "a checkpoint file, quick_gelu:FILE, open_clip:ARCHITECTURE:TAG or random"
# The text tower's names at the top level of OpenAI's and open_clip's CLIP; CustomTextCLIP has them under "text.".
_TOWER = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "cls_emb")
_HEAD_WIDTH = 64  # of every CLIP and FILIP text encoder; a state dict does not tell it
_OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}  # buffers of OpenAI's archives alone


@dataclass(frozen=True, kw_only=True)
class ClipTextWeights:
    """A text tower as its checkpoint has it, in fp32."""

    source: str
    architecture: ClipTextArchitecture
    tower: dict[str, Tensor]  # named as in open_clip's TextTransformer; the positional embedding is [L, W]
    projection: Tensor | None  # [W, D of the checkpoint]


def read_clip_text_weights(text_weights: str) -> ClipTextWeights:
    """The weights that ``ModelConfig.text_weights`` names.

    That is a checkpoint file; ``quick_gelu:FILE`` for one that was trained with that activation and does not say so, as
    FILIP's and re-saved ones of OpenAI; or ``open_clip:ARCHITECTURE:TAG``, which open_clip downloads.

    Raises:
        ValueError: nothing of this kind is there, or it holds no text encoder of CLIP's kind.
    """
    if text_weights.startswith("open_clip:"):
        return _downloaded(text_weights)
    if text_weights.startswith("quick_gelu:"):
        return read_checkpoint(Path(text_weights.removeprefix("quick_gelu:")), activation="quick_gelu")
    return read_checkpoint(Path(text_weights))


def read_checkpoint(
    path: Path, *, activation: Activation | None = None, num_heads: int | None = None
) -> ClipTextWeights:
    """The text tower in a ``.pt``, ``.pth``, ``.bin`` or ``.safetensors`` file.

    A plain state dict, or one under "state_dict" or "model", with or without "module." before its names. Whatever else it
    holds, an image tower for one, is left out. Unless given, the activation is "quick_gelu" for OpenAI's weights, which
    three buffers tell, and "gelu" for others, and there is a head for each 64 channels, as in CLIP and FILIP.

    Raises:
        ValueError: there is no such file, it is damaged, it holds no text encoder of CLIP's kind, or it is a TorchScript
            archive, as OpenAI's own files are: loading one runs code that it brings along.
    """
    state = _read_state(path)
    prefix = "text." if "text.token_embedding.weight" in state else ""
    names = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    tower = {name: value.float() for name, value in names.items() if name.startswith(_TOWER)}
    embedding = tower.get("token_embedding.weight")  # [V, W]
    if embedding is None:
        raise ValueError(f"{path} holds no CLIP text encoder: token_embedding.weight is missing")
    width = embedding.shape[-1]
    if num_heads is None and width % _HEAD_WIDTH:
        raise ValueError(
            f"{path}: token_embedding.weight is {width} wide, no multiple of {_HEAD_WIDTH}, a head's width"
        )
    layers = [int(name.split(".")[2]) for name in tower if re.match(r"transformer\.resblocks\.\d+\.", name)]
    if not layers:
        raise ValueError(f"{path} holds no CLIP text encoder: transformer.resblocks.0 is missing")
    projection = names.get("text_projection")
    is_openai = state.keys() >= _OPENAI_KEYS
    return ClipTextWeights(
        source=str(path),
        architecture=ClipTextArchitecture(
            width=width,
            num_layers=max(layers) + 1,
            num_heads=num_heads or width // _HEAD_WIDTH,
            activation=activation or ("quick_gelu" if is_openai else "gelu"),
        ),
        tower=tower,
        projection=None if projection is None else projection.float(),
    )


def load_clip_text_weights(encoder: ClipTextEncoder, weights: ClipTextWeights) -> None:
    """Put pre-trained weights into an encoder.

    The positional embedding is cut to the encoder's ``max_tokens``. The projection stays fresh where the checkpoint has none
    to the encoder's D (U18 in docs/method.md): CLIP's ViT-B projects to 512, FILIP to 256.

    Raises:
        ValueError: the checkpoint lacks a part, has one that the encoder has not, or one of another shape.
    """
    expected = encoder.transformer.state_dict()
    tower = dict(weights.tower)
    if missing := sorted(expected.keys() - tower.keys()):
        raise ValueError(f"{weights.source} lacks parts of a CLIP text encoder: {_some(missing)}")
    if unknown := sorted(tower.keys() - expected.keys()):
        raise ValueError(f"{weights.source} is a text encoder of another kind: it has {_some(unknown)} too")
    tower["positional_embedding"] = tower["positional_embedding"][: encoder.max_tokens]
    for name, value in expected.items():
        _check_shape(
            weights, name, found=weights.tower[name], fits=tower[name].shape == value.shape, needed=value.shape
        )
    if weights.architecture != encoder.architecture:
        raise ValueError(f"{weights.source} is a {weights.architecture}, the encoder a {encoder.architecture}")
    width, embed_dim = encoder.projection.in_features, encoder.projection.out_features
    state = {f"transformer.{name}": value for name, value in tower.items()}
    state["projection.weight"] = encoder.projection.weight
    projection = weights.projection
    if projection is not None:
        fits = projection.ndim == 2 and projection.shape[0] == width
        _check_shape(weights, "text_projection", found=projection, fits=fits, needed=torch.Size([width, embed_dim]))
    if projection is not None and projection.shape[1] == embed_dim:
        state["projection.weight"] = projection.T
    else:
        _logger.warning("%s has no projection to %d; a fresh one is trained", weights.source, embed_dim)
    encoder.load_state_dict(state)


def _check_shape(weights: ClipTextWeights, name: str, *, found: Tensor, fits: bool, needed: torch.Size) -> None:
    if not fits:
        raise ValueError(f"{weights.source}: {name} is {list(found.shape)}, and {list(needed)} is needed")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint."""
    if not path.exists():
        raise ValueError(f"no text weights at {path}: text_weights of a clip encoder is {_FORMS}")
    check_regular(path)
    if _is_torchscript(path):
        raise ValueError(
            f"{path} is a TorchScript archive, and loading one runs the code in it: name open_clip:ARCHITECTURE:openai instead,"
            " or, where you trust the file, save torch.jit.load(FILE).state_dict() with torch.save and name that"
        )
    try:
        is_safe = path.suffix == ".safetensors"
        content: Any = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged bytes an unpickler raises almost anything
        reason = str(error).partition("\n")[0]  # torch appends paragraphs of advice, some of it harmful
        raise ValueError(f"{path} is no readable checkpoint: {reason}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, and a state dict is needed")
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _downloaded(text_weights: str) -> ClipTextWeights:
    """Weights of open_clip's registry, fetched through its own cache."""
    _, _, rest = text_weights.partition(":")
    architecture, _, tag = rest.partition(":")
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise ValueError(
            f"{text_weights}: open_clip has no architecture {architecture!r}; it has open_clip.list_models()"
        )
    pretrained = get_pretrained_cfg(architecture, tag)
    if not pretrained:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise ValueError(
            f"{text_weights}: open_clip's {architecture} has no tag {tag!r}; it has {', '.join(tags) or 'none'}"
        )
    text = CLIPTextCfg(**config["text_cfg"])
    plain = replace(
        CLIPTextCfg(), width=text.width, heads=text.heads, layers=text.layers, context_length=text.context_length
    )
    if text != plain:
        differing = [field.name for field in fields(text) if getattr(text, field.name) != getattr(plain, field.name)]
        raise ValueError(f"{text_weights}: a text encoder of another kind than CLIP's, by {', '.join(differing)}")
    try:
        path = download_pretrained(pretrained)
    except OSError as error:
        raise ValueError(
            f"{text_weights} could not be downloaded ({error}); fetch it elsewhere and name the file"
        ) from error
    # The tag knows what the weights were trained with; the architecture may be shared by both kinds.
    quick = pretrained.get("quick_gelu", False) or config.get("quick_gelu", False)
    return read_checkpoint(Path(path), activation="quick_gelu" if quick else "gelu", num_heads=text.heads)
