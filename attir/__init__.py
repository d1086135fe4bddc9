"""attir compiles the attention inside PyTorch models."""

from .version import VERSION as __version__
