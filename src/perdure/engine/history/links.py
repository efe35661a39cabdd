"""Links between workflows, as Nexus writes them: a URL and the name of the message it stands for.

    temporal:///namespaces/NAMESPACE/workflows/WORKFLOW_ID/RUN_ID/history?eventID=5&eventType=NexusOperationScheduled…

`of_event` says where a caller's operation was scheduled; `read` takes what a handler answers. Links of other types, and
those that make no sense, are left out: a link explains, nothing depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from temporalio.api.nexus import v1 as nx

from perdure.api import messages as m

LINKS_KEPT: Final = 10
"""Of one answer."""
_EVENT_LINK: Final = m.Link.WorkflowEvent.DESCRIPTOR.full_name
_PATH = re.compile(r"/namespaces/([^/]+)/workflows/([^/]+)/([^/]+)/history")
_ACTIVITY_PATH = re.compile(r"/namespaces/([^/]+)/activities/([^/]+)/([^/]+)/details")
_PREFIX: Final = "EVENT_TYPE_"
_INNER_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


def of_event(namespace: str, workflow_id: str, run_id: str, event_id: int, event_type: int) -> nx.Link:
    """The link to an event."""
    name = m.EventType.Name(m.EventType.ValueType(event_type)).removeprefix(_PREFIX)
    place = "/".join(quote(part, safe="") for part in (namespace, "workflows", workflow_id, run_id))
    query = {
        "eventID": event_id,
        "eventType": name.title().replace("_", ""),
        "referenceType": "EventReference",
    }
    return nx.Link(url=f"temporal:///namespaces/{place}/history?{urlencode(query)}", type=_EVENT_LINK)


def read(links: Iterable[nx.Link]) -> list[m.Link]:
    """The links that can be kept in a history."""
    found = [link for link in map(_read, links) if link is not None]
    return found[:LINKS_KEPT]


def _read(link: nx.Link) -> m.Link | None:
    reader = _READERS.get(link.type)
    if reader is None:
        return None
    try:
        url = urlsplit(link.url)
        query = parse_qs(url.query)
        return reader(url.path, query) if url.scheme == "temporal" else None
    except ValueError:
        return None


def _event(path: str, query: dict[str, list[str]]) -> m.Link | None:
    place = _PATH.fullmatch(path)
    if place is None:
        return None
    result = m.Link()
    event = result.workflow_event
    event.namespace, event.workflow_id, event.run_id = map(unquote, place.groups())
    event_type = _event_type(_one(query, "eventType"))
    if _one(query, "referenceType") == "RequestIdReference":
        event.request_id_ref.request_id = _one(query, "requestID")
        event.request_id_ref.event_type = event_type
    else:
        event.event_ref.event_id = int(_one(query, "eventID") or 0)
        event.event_ref.event_type = event_type
    return result


def _activity(path: str, _: dict[str, list[str]]) -> m.Link | None:
    place = _ACTIVITY_PATH.fullmatch(path)
    if place is None:
        return None
    result = m.Link()
    activity = result.activity
    activity.namespace, activity.activity_id, activity.run_id = map(unquote, place.groups())
    return result


_READERS: Final = {_EVENT_LINK: _event, m.Link.Activity.DESCRIPTOR.full_name: _activity}
"""By the name of the message that a link stands for."""


def _one(query: dict[str, list[str]], name: str) -> str:
    return query.get(name, [""])[0]


def _event_type(name: str) -> m.EventType.ValueType:
    """An event type by either of its names. Raises ValueError."""
    if not name:
        return m.EventType.EVENT_TYPE_UNSPECIFIED
    if not name.startswith(_PREFIX):
        name = _PREFIX + _INNER_CAPITAL.sub("_", name).upper()
    return m.EventType.Value(name)
