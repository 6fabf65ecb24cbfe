"""What the commands of `worker` do, one file a command; `doctor` has its checks in a folder of their own."""
