"""The index of streams' queues that hold messages, in the broker's Redis.

Our scripts keep it in the step that pushes or reserves. It may lack a queue: callers, older workers and kombu
push without it, and a failover may lose entries. So workers also sweep through the queues that they consume.
"""

NON_EMPTY_QUEUES = "audience.non-empty"
"""Sorted set: a stream's queue -> the number of its entry. Later entries have greater numbers."""
LAST_ENTRY = "audience.non-empty.last"
"""The number of the last entry."""
INDEX_KEYS = (NON_EMPTY_QUEUES, LAST_ENTRY)
ADD_TO_INDEX = "add_to_index"
"""The Lua file that scripts which push need before their own text."""
