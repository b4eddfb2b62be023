"""A training run: its step and state, its processes, snapshots, reports and folder.

For `training.training_loop` and `training.launch`; nothing else reaches in.
"""
