"""Network files: reading, rebuilding, converting and writing them, and their short names.

Come in by `training.network_files`. Nothing of a training run or of images is known here.
"""
