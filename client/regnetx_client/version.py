"""The version of the distribution, once; equal to the service's."""

__version__ = "0.1.0"
