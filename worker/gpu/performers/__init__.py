"""What the GPU process does for each task: the messages of `tasks/` on one side, `ml` on the other.

Imported by the GPU process alone, through `Task.performer`. One function a task: it yields events and returns
`Done.result`. It is stopped by not being asked for the next event, so it cleans up in `finally` or with `closing`.
"""
