"""The parts of a pod around the claim loop: attempts, session connection, heartbeats, registration and routes,
housekeeping, prefetching for the next job, and the checks before it starts.
"""
