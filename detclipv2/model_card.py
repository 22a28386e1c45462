"""The model card of a model folder: README.md, as the Hugging Face Hub reads it."""

import re
from collections.abc import Mapping

from huggingface_hub import EvalResult, ModelCard, ModelCardData

_NOT_PLAIN = re.compile(r"[^\w .,+=@-]")  # a folder's name is text, not Markdown, HTML or Python
TASK = "zero-shot-object-detection"
_BODY = """
# {name}

An open-vocabulary detector of [DetCLIPv2](https://arxiv.org/abs/2304.04514)'s kind: it finds whatever you can name.

```python
from detclipv2.inference import Predictor
predictor = Predictor.from_pretrained("{name}")  # this folder, or its id on the Hub
detections = predictor(image, names=["red apple", "guitar"])  # a PIL image; boxes in its pixels, best first
```

{vocabulary}

- Data: dataset manifest `{data_digest}`.
- Backbone `{backbone}`, text encoder `{text_encoder}`; images of up to {size} pixels; written by detclipv2 {version}.

## Measured

{measured}

## Limits

- It finds what its data show, in the style in which they show it. Nothing is said about other images.
- A score is a ranking within one model and no calibrated probability. Among many names choose a threshold by measurement.
- The first {max_tokens} tokens of a name count. A name is a noun phrase; counting, negation and relations are not understood.
- It inherits what is wrong or one-sided in its images, captions and pre-trained parts. Do not let it decide about people.
"""


def model_card(
    name: str, description: Mapping, *, num_names: int, metrics: Mapping[str, float] | None = None
) -> ModelCard:
    """A model card, from what ``config.json`` of the model folder says, and the number of names of its vocabulary.

    The metrics were measured on the validation set of the data that the model was trained on; "not measured" without them.
    """
    metrics = metrics or {}
    model, digest = description["model"], description["data_digest"]
    sizes = [size for size in (description["image_size"], description["shorter_size"]) if size]
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type="lvis",
            dataset_name=f"validation set of {digest}",
            metric_type=metric,
            metric_value=round(value, 6),
        )
        for metric, value in metrics.items()
    ]
    data = ModelCardData(
        license="apache-2.0",
        library_name="detclipv2",
        pipeline_tag=TASK,
        tags=["object-detection", "open-vocabulary", "detclipv2", "arxiv:2304.04514"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    rows = [f"| {metric} | {value:.4f} |" for metric, value in metrics.items()]
    body = _BODY.format(
        name=_NOT_PLAIN.sub("_", name),
        vocabulary=f"Without `names` it looks for its own vocabulary, embedded when it was saved (number of names: {num_names})."
        if num_names
        else "It comes without a vocabulary: always give `names`.",
        data_digest=digest,
        backbone=model["backbone"],
        text_encoder=model["text_encoder"],
        size=" x ".join(map(str, sizes)),
        version=description["library_version"],
        measured="\n".join(["| metric | value |", "|---|---|", *rows]) if rows else "Not measured.",
        max_tokens=model["max_text_tokens"],
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{body}")
