"""`python -m worker` is the `worker` command."""

from worker.cli import main

main()
