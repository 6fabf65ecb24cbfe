"""One file per command, so there are more than a dozen files here.

Each imports at its top only typer and light parts of the standard library, so `worker --help` stays fast although all
of them are loaded: asyncio alone would add a quarter to it. What a longer command does is in a neighbour that is
imported late and whose name begins with the command's; `checks/` is what `doctor` checks; `exits` is how all commands
end. Each command is registered in `worker/cli.py`.
"""
