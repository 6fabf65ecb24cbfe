"""The tasks that the worker sends to its GPU process: one file for each, with its message and its own events.

Handlers import them, so none imports torch: each names the function that performs it as `module:function`
(`Task.performer`).
"""
