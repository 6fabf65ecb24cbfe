"""Housekeeping of a pod: the queue, the bucket and its own disk; one file per duty.

    tick.py         every 2 s, in the two pods that the database chose: take over from dead pods. Where that finds it
                    due: end expired consent, note missing tables, correct times of a clock that was ahead, fail
                    stranded jobs, explain why others wait, reconcile the queue with the jobs, prune logs
                    (sql/housekeeping/)
    sweep.py        after a tick that found some: delete objects of ended attempts from storage
    marker.py       every 5 minutes, one pod for all: renew the markers that say whose the buckets are
    cache_purge.py  at every heartbeat's answer: delete the cached files of people whose consent ended
    health.py       every 5 s: touch this process's file, which `worker health` reads

Taking over, the rest and the sweep run apart from each other: while a store hangs, or a row is locked, dead pods' jobs
are still taken over.
"""
