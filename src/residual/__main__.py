"""`python -m residual` is the command `residual`."""

from .cli.main import main

main()
