"""Ancestors and cousins of StyleGAN2, to compare with: Progressive GAN, StyleGAN, configs A to F, MSG-GAN, SPADE.

A plugin like any other: `training.plugins` lists it, and nothing at the front door imports it.
"""
