"""PyTorch helpers: persistence of classes, statistics, shape checks, and the ops in `torch_utils.ops`."""
