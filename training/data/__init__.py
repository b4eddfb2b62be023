"""From files on disk to a data set: reading pictures, drawing castles, converting folders and archives.

For `training.dataset` and `dataset_tool.py`. Knows nothing of networks or of a training run.
"""
