"""What the worker asks of its GPU process: one file a task, with its message and the events of its own.

A handler imports these, so none imports torch: each names what performs it as `module:function` (`Task.performer`).
"""
