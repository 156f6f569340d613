"""Python client and agent runtime of AgentZero API.

- `Client` and `AsyncClient` submit tasks, manage agents and watch the hive.
- `Agent` takes tasks and runs them.
"""

from agentzero_client.client import AsyncClient
from agentzero_client.errors import (
    AgentZeroError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ConnectionFailedError,
    GoneError,
    LeaseLostError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    ProblemError,
    RateLimitedError,
    SecretLostError,
    UnavailableError,
    UnexpectedAnswerError,
    WatchClosedError,
)
from agentzero_client.events import Event, EventFilter, Gap
from agentzero_client.models import (
    AgentLabels,
    Artifact,
    Backoff,
    Concurrency,
    Deduplication,
    Fairness,
    Lease,
    Sticky,
    Task,
    TaskReceipt,
    TaskSummary,
    Timeouts,
)
from agentzero_client.retrying import RetryPolicy
from agentzero_client.runtime.agent import Agent, Ending
from agentzero_client.runtime.context import RunningTask, TaskContext
from agentzero_client.runtime.failures import (
    AgentIdentityError,
    AgentStoppedError,
    TaskCancelledError,
    TaskError,
)
from agentzero_client.signing import Signer
from agentzero_client.sync_client import Client
from agentzero_client.task_graphs import BatchReceipt, SubtreeCancelled, TaskGraph
from agentzero_client.watch import AsyncWatch

__all__ = [
    "Agent",
    "AgentIdentityError",
    "AgentLabels",
    "AgentStoppedError",
    "AgentZeroError",
    "Artifact",
    "AsyncClient",
    "AsyncWatch",
    "AuthenticationError",
    "Backoff",
    "BadRequestError",
    "BatchReceipt",
    "Client",
    "Concurrency",
    "ConflictError",
    "ConnectionFailedError",
    "Deduplication",
    "Ending",
    "Event",
    "EventFilter",
    "Fairness",
    "Gap",
    "GoneError",
    "Lease",
    "LeaseLostError",
    "NotFoundError",
    "PermissionDeniedError",
    "PreconditionFailedError",
    "ProblemError",
    "RateLimitedError",
    "RetryPolicy",
    "RunningTask",
    "SecretLostError",
    "Signer",
    "Sticky",
    "SubtreeCancelled",
    "Task",
    "TaskCancelledError",
    "TaskContext",
    "TaskError",
    "TaskGraph",
    "TaskReceipt",
    "TaskSummary",
    "Timeouts",
    "UnavailableError",
    "UnexpectedAnswerError",
    "WatchClosedError",
]
