"""What one client may cost the server: every number in one place, each with the status that answers what is over it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on requests, on what waits, and on batches.

    Attributes:
        header_bytes: Request line and headers; over it 431.
        header_seconds: From the first byte (or the connection) to the end of the headers; over it 408.
        body_bytes: A body; over it 413.
        body_seconds: Grace for a body, and its longest pause; then 408 for one slower than `body_bytes_per_second`.
        body_bytes_per_second: The slowest upload.
        whole_body_seconds: A body, at any pace; over it 408.
        unread_bytes: Of a body that still comes when its request is refused; over it the connection is cut.
        leave_seconds: How long a client may take to receive an answer, and to end a body that was refused; then the
            connection is cut.
        pictures: Pictures in one request; over it 413.
        answer_seconds: From the body to the answer; over it 503.
        waiting_pictures: Pictures that are accepted and not answered; over it 503 at once.
        waiting_bytes: Bytes of bodies in memory; over it 503.
        explained_pictures: Pictures in a request that asks for heat maps; over it 413.
        waiting_explanations: Heat maps that are accepted and not made; over it 503 at once.
        connections: Open connections; over it 503.
        batch_pictures: Pictures in one forward pass.
        batch_seconds: How long a picture waits for company, where there is any under way.
    """

    header_bytes: int = 32 * 1024
    header_seconds: float = 5.0
    body_bytes: int = 32 * 1024**2
    body_seconds: float = 5.0
    body_bytes_per_second: int = 8 * 1024
    whole_body_seconds: float = 60.0
    unread_bytes: int = 128 * 1024**2
    leave_seconds: float = 30.0
    pictures: int = 32
    answer_seconds: float = 30.0
    waiting_pictures: int = 256
    waiting_bytes: int = 256 * 1024**2
    explained_pictures: int = 4
    waiting_explanations: int = 8
    connections: int = 1024
    batch_pictures: int = 64
    batch_seconds: float = 0.002
