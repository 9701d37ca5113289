"""The command line, a short file for each group of commands. Only it prints; it may import all else.

Nothing that loads torch is imported before a command needs it, so that help and refusals come at once.
"""
