"""Tensor operations, one per file; each is differentiable twice and runs on every device and float type."""
