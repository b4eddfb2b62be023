"""A training run: its step and state, its options, processes, snapshots, reports and folder.

Its options: `train_options` (of train.py), `cfgs`, and `run_options` (of the training loop). For train.py,
`training.config`, `training.launch` and `training.training_loop`; others need the folder's file names at most.
"""
