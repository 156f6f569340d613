"""The smallest useful agent: it greets whomever a task names.

    AGENTZERO_REGISTRATION_KEY_FILE=var/operator.key python examples/agents/hello_agent.py

It registers itself the first time, and is the same agent after a restart.
"""

from __future__ import annotations

import time

from agentzero_client import Agent, TaskContext, TaskError

agent = Agent("hello-agent", slots=2)

LONGEST_SECONDS = 60.0
STEPS = 10


@agent.task("hello")
def hello(context: TaskContext, *, name: str, seconds: float = 0.0) -> dict[str, str]:
    """Greet `name`, taking `seconds` about it. Not `async`, so it runs in a thread of its own."""
    if not 0.0 <= seconds <= LONGEST_SECONDS:
        raise TaskError("too-slow", f"seconds must be 0 to {LONGEST_SECONDS:.0f}.", retryable=False)
    context.log(f"Thinking of something nice for {name}.")
    for step in range(STEPS):
        context.raise_if_cancelled()
        time.sleep(seconds / STEPS)
        context.progress((step + 1) / STEPS)
    return {"greeting": f"Hello, {name}!"}


if __name__ == "__main__":
    agent.run()
