"""Rotated binary neural networks: the network, and how one process trains it (Lin et al., NeurIPS
2020, arXiv 2009.13055).
"""

__version__ = "0.1.0"
