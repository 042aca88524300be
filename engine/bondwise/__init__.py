"""Bondwise's engine: profiles, tensorizes, heals, quantizes and benchmarks large language models."""

__version__ = "0.1.0"
