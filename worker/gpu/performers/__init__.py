"""The functions that perform the tasks of `tasks/` with `ml`.

Only the GPU process imports them, through `Task.performer`. One function for each task: it yields events and returns
`Done.result`. It is stopped by closing the generator, so it cleans up in `finally` or with `closing`.
"""
