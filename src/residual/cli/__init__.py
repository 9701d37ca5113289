"""The command line: a short file for each group of commands. Only it prints; it may import all others.

Modules that load torch are imported only when a command needs them, so that help and refusals are immediate.
"""
