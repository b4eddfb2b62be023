"""The plugin inside a StyleGAN2-ADA checkout, this one or another: its commands, processes, errors and doctor.

Only `ssn_plugin.cli` comes in. The rest of the plugin imports what every host has, by name.
"""
