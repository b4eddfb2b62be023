"""Spatially Stochastic Networks (Hong et al. 2020, arXiv:2006.05394) for StyleGAN2-ADA code bases."""

__version__ = "0.1.0"
