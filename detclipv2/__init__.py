"""An open DetCLIPv2 (arXiv:2304.04514): open-vocabulary detection from boxes, phrases and raw image-text pairs."""

__version__ = "0.1.0"
