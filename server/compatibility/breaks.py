"""One break, and the table of rules that a change can break."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RULES: Mapping[str, str] = {
    "operation-removed": "A path or a method is gone.",
    "operation-renamed": "Another operationId: clients' methods are named by it.",
    "access-changed": "A public operation asks for a credential, or the other way round.",
    "credential-removed": "A kind of credential is no longer taken.",
    "permission-changed": "Another permission: keys are scoped by it.",
    "ownership-tightened": "What others own can't be reached as it could.",
    "signature-demanded": "Whoever has signing on must sign now.",
    "idempotency-removed": "A repeated request is no longer one request.",
    "sunset-advanced": "An announced end comes earlier than was said.",
    "parameter-removed": "A parameter is no longer known: unknown ones are refused.",
    "parameter-required": "A parameter must be given now.",
    "parameter-encoding-changed": "A parameter is written in another way.",
    "default-changed": "Leaving something out means something else.",
    "body-removed": "The operation takes no body any more.",
    "body-required": "A body must be sent now.",
    "media-type-removed": "A media type is no longer taken or given.",
    "answer-removed": "A status is no longer answered; a refusal that has another one included.",
    "success-added": "A success has a status that clients were not told of.",
    "header-removed": "An answer is without a header that it had.",
    "property-removed": "A member is gone.",
    "property-required": "A member must be sent now.",
    "property-optional": "A member that was always there may be missing.",
    "type-narrowed": "A type is no longer taken.",
    "type-widened": "A type is given that was not announced.",
    "value-removed": "A value is no longer taken.",
    "value-added": "A value is given that was not announced, of an enumeration that is not open.",
    "range-narrowed": "Numbers are no longer taken.",
    "range-widened": "Numbers are given that were not announced.",
    "length-narrowed": "Lengths of texts, arrays or objects are no longer taken.",
    "restriction-changed": "A pattern, a format or another condition of what is sent.",
    "format-changed": "What is given has another format.",
    "object-closed": "Members of any name are no longer taken.",
    "alternative-removed": "One of several shapes is no longer taken.",
    "alternative-added": "A shape is given that was not announced.",
    "channel-removed": "A WebSocket channel is gone.",
    "address-changed": "A WebSocket channel is at another address.",
    "message-removed": "A WebSocket message is gone.",
    "close-code-removed": "A connection ends with another code.",
    "limit-lowered": "Less is allowed on a connection.",
    "subprotocol-changed": "The WebSocket protocol has another name.",
}


@dataclass(frozen=True, slots=True)
class Break:
    """One rule of RULES that a change breaks at one place."""

    rule: str
    place: str
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.rule}: {self.place}{detail}: {RULES[self.rule]}"
