"""RegNetX Serving: image bytes in, ImageNet labels out, over Paddle Serving's pipeline protocol."""

__version__ = "0.1.0"
