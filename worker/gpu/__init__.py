"""The GPU process: the parent's side (`process.py`), the child's (`child.py`), their messages (`messages.py`), the
tasks and their performers. Only modules that the child imports may import `ml/` and torch.
"""
