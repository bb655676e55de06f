"""mlguard: what an inference service needs around its model."""

__version__ = "0.1.0"
