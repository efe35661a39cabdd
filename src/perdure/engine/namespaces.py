"""Namespaces: who lives in them is looked up by name, so every look-up of a run begins here.

A namespace is kept as the serialized ``DescribeNamespaceResponse`` it is shown as. All are in memory; there are few.
Its custom search attributes are in there, too: each takes a numbered field of its type ("Keyword07"), and the
configuration says which field has which name.

    state        may start workflows   all else   its name
    Registered   yes                   yes        taken
    Deprecated   no                    yes        taken
    Deleted      no                    no         taken until its runs are erased

A change is made in memory first and is seen at once; `restore` takes it back if its commit is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from perdure.api import RpcError, StatusCode
from perdure.api import messages as m
from perdure.api.durations import duration_ms, set_duration_ms
from perdure.engine.visibility.attributes import CUSTOM_NAME_LENGTH, TYPE_NAMES, TYPES, ValueType, is_reserved

if TYPE_CHECKING:
    from perdure.engine.history import RunState

__all__ = ["DEFAULT_NAMESPACE", "Namespace", "Namespaces"]

DEFAULT_NAMESPACE = "default"
MIN_RETENTION_MS = 60 * 1000
DATA_ENTRIES: Final = 1000
"""Entries in a namespace's own data, at most."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_FIELD = re.compile(r"([A-Za-z]+?)(\d+)")
_REGISTERED = m.NamespaceState.NAMESPACE_STATE_REGISTERED
_DEPRECATED = m.NamespaceState.NAMESPACE_STATE_DEPRECATED
_DELETED = m.NamespaceState.NAMESPACE_STATE_DELETED
_STATES_AFTER: Final[Mapping[int, frozenset[int]]] = {
    _REGISTERED: frozenset((_REGISTERED, _DEPRECATED)),
    _DEPRECATED: frozenset((_DEPRECATED,)),
}
"""What UpdateNamespace may make of a state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A namespace."""

    name: str
    id: str
    state: int
    """A ``NamespaceState``."""
    retention_ms: int
    """How long a closed run stays."""
    attributes: Mapping[str, ValueType]
    """Its custom search attributes' types, by name."""
    description: m.DescribeNamespaceResponse

    def row(self) -> tuple[str, bytes]:
        """What the store keeps."""
        return self.name, self.description.SerializeToString(deterministic=True)


def _invalid(message: str) -> RpcError:
    return RpcError(StatusCode.INVALID_ARGUMENT, message)


class Namespaces:
    """All namespaces, by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, Namespace] = {}
        """Those that can be spoken of."""
        self.deleted: dict[str, Namespace] = {}
        """Those whose runs are being erased."""
        self._durable: dict[str, bytes] = {}

    # -- rows ------------------------------------------------------------------------------------------------------

    def load(self, row: bytes) -> Namespace:
        """Enter a namespace from its row in the store."""
        namespace = self._enter(m.DescribeNamespaceResponse.FromString(row))
        self._durable[namespace.name] = row
        return namespace

    def written(self, rows: Iterable[tuple[str, bytes | None]]) -> None:
        """These rows are durable; a name without a row is free."""
        for name, row in rows:
            if row is None:
                self.deleted.pop(name, None)
                self._durable.pop(name, None)
            else:
                self._durable[name] = row

    def restore(self, names: Iterable[str]) -> None:
        """The latest changes of these namespaces are lost."""
        for name in names:
            self.by_name.pop(name, None)
            self.deleted.pop(name, None)
            row = self._durable.get(name)
            if row is not None:
                self.load(row)

    def _enter(self, description: m.DescribeNamespaceResponse) -> Namespace:
        info = description.namespace_info
        namespace = Namespace(
            name=info.name,
            id=info.id,
            state=info.state,
            retention_ms=duration_ms(description.config.workflow_execution_retention_ttl),
            attributes=_attributes(description.config.custom_search_attribute_aliases),
            description=description,
        )
        if info.state == _DELETED:
            self.by_name.pop(info.name, None)
            self.deleted[info.name] = namespace
        else:
            self.by_name[info.name] = namespace
        return namespace

    # -- looking up ------------------------------------------------------------------------------------------------

    def get(self, name: str) -> Namespace:
        """The namespace.

        Raises:
            RpcError: NOT_FOUND, with ``NamespaceNotFoundFailure``.
        """
        namespace = self.by_name.get(name)
        if namespace is None:
            if not name:
                raise _invalid("Namespace is not set on request.")
            raise RpcError(
                StatusCode.NOT_FOUND,
                f"Namespace {name} is not found: register it first",
                m.NamespaceNotFoundFailure(namespace=name),
            )
        return namespace

    def to_start_in(self, name: str) -> Namespace:
        """The namespace, for a start.

        Raises:
            RpcError: NOT_FOUND; FAILED_PRECONDITION with ``NamespaceInvalidStateFailure``, it is deprecated.
        """
        namespace = self.by_name.get(name)
        if namespace is None or namespace.state != _REGISTERED:
            namespace = self.get(name)
            raise RpcError(
                StatusCode.FAILED_PRECONDITION,
                f"Namespace has invalid state: Deprecated. Must be Registered: {name!r} takes no new workflows",
                m.NamespaceInvalidStateFailure(namespace=name, state=_DEPRECATED, allowed_states=[_REGISTERED]),
            )
        return namespace

    def get_by_id(self, namespace_id: str) -> Namespace:
        """The namespace with this id. Raises RpcError NOT_FOUND."""
        for namespace in self.by_name.values():
            if namespace.id == namespace_id:
                return namespace
        raise RpcError(
            StatusCode.NOT_FOUND,
            f"Namespace {namespace_id} is not found: no namespace has this id",
            m.NamespaceNotFoundFailure(namespace=namespace_id),
        )

    @property
    def cluster_id(self) -> str:
        """What tells this engine from another: the id of its first namespace."""
        known = self.by_name | self.deleted
        first = known.get(DEFAULT_NAMESPACE) or next(iter(known.values()), None)
        return "" if first is None else first.id

    def of_run(self, state: RunState) -> Namespace:
        """A run's namespace, also while it is being erased."""
        return self.deleted.get(state.namespace) or self.get(state.namespace)

    def after(self, name: str, limit: int, *, deleted: bool = False) -> list[Namespace]:
        """Namespaces in order of name, after this one; those that are deleted only if asked for."""
        known = self.by_name | self.deleted if deleted else self.by_name
        return [known[each] for each in sorted(known) if each > name][:limit]

    def retain(self, state: RunState) -> None:
        """A run has closed: it stays as long as its namespace says now, unless it is deleted."""
        namespace = self.by_name.get(state.namespace)
        if namespace is not None and not state.deleted:
            state.retain_until_ms = state.close_ms + namespace.retention_ms

    # -- changes ---------------------------------------------------------------------------------------------------

    def register(
        self, request: m.RegisterNamespaceRequest, *, namespace_id: str, id_length: int, default_retention_ms: int
    ) -> Namespace:
        """Enter a new namespace.

        Raises:
            RpcError: INVALID_ARGUMENT; ALREADY_EXISTS.
        """
        name = request.namespace
        if len(name) > id_length or not _NAME.fullmatch(name):
            raise _invalid(f"a namespace name has letters, digits, '.', '_' and '-', at most {id_length} in all")
        if name in self.by_name:
            raise RpcError(
                StatusCode.ALREADY_EXISTS, f"Namespace {name!r} already exists", m.NamespaceAlreadyExistsFailure()
            )
        if name in self.deleted:
            raise RpcError(
                StatusCode.ALREADY_EXISTS,
                f"Namespace {name!r} is being deleted; try again when its workflows are erased",
                m.NamespaceAlreadyExistsFailure(),
            )
        if request.is_global_namespace:
            raise _invalid("Cannot register global namespace when not enabled: there is one cluster")
        retention_ms = duration_ms(request.workflow_execution_retention_period) or default_retention_ms
        _check_retention(retention_ms)
        _check_data(len(request.data))
        return self._enter(_described(request, namespace_id, retention_ms))

    def update(self, request: m.UpdateNamespaceRequest) -> Namespace:
        """Change what the request gives.

        Raises:
            RpcError: NOT_FOUND; INVALID_ARGUMENT.
        """
        description = self._copy(request.namespace)
        info = description.namespace_info
        if request.HasField("update_info"):
            changes = request.update_info
            if changes.state and changes.state not in _STATES_AFTER[info.state]:
                raise _invalid("Invalid namespace state update: deprecate it here, delete it with DeleteNamespace")
            info.state = changes.state or info.state
            info.description = changes.description or info.description
            info.owner_email = changes.owner_email or info.owner_email
            info.data.update(changes.data)
            _check_data(len(info.data))
        if request.HasField("config"):
            _update_config(description.config, request.config)
        if request.delete_bad_binary:
            if request.delete_bad_binary not in description.config.bad_binaries.binaries:
                raise _invalid(f"Bad binary checksum {request.delete_bad_binary} doesn't exists.")
            del description.config.bad_binaries.binaries[request.delete_bad_binary]
        if request.promote_namespace or request.HasField("replication_config"):
            raise _invalid("a namespace can't be replicated: there is one cluster")
        return self._enter(description)

    def set_state(self, name: str, state: m.NamespaceState.ValueType) -> Namespace:
        """Deprecate or delete a namespace. Raises RpcError NOT_FOUND."""
        description = self._copy(name)
        description.namespace_info.state = state
        return self._enter(description)

    def add_attributes(self, name: str, types: Mapping[str, int], *, most_per_type: int) -> Namespace | None:
        """Register custom search attributes; None if all are registered with these types already.

        Raises:
            RpcError: NOT_FOUND (namespace); INVALID_ARGUMENT; ALREADY_EXISTS, with another type.
        """
        known = self.get(name).attributes
        for attribute, value_type in types.items():
            _check_attribute(attribute, value_type)
            if known.get(attribute, value_type) != value_type:
                raise RpcError(
                    StatusCode.ALREADY_EXISTS,
                    f"Search attribute {attribute} already exists. Its type is {TYPE_NAMES[known[attribute]]}.",
                )
        added = {attribute: value_type for attribute, value_type in types.items() if attribute not in known}
        if not added:
            return None
        description = self._copy(name)
        fields = description.config.custom_search_attribute_aliases
        for attribute, value_type in added.items():
            fields[_free_field(fields, value_type, most_per_type)] = attribute
        return self._enter(description)

    def remove_attributes(self, name: str, attributes: Iterable[str]) -> Namespace:
        """Take custom search attributes away. Raises RpcError NOT_FOUND, INVALID_ARGUMENT."""
        known = self.get(name).attributes
        gone = set(attributes)
        for attribute in gone:
            if is_reserved(attribute):
                raise _invalid(f"Unable to remove non-custom search attributes: {attribute}.")
            if attribute not in known:
                raise RpcError(StatusCode.NOT_FOUND, f"Search attribute {attribute} doesn't exist.")
        description = self._copy(name)
        fields = description.config.custom_search_attribute_aliases
        for field in [field for field, attribute in fields.items() if attribute in gone]:
            del fields[field]
        return self._enter(description)

    def _copy(self, name: str) -> m.DescribeNamespaceResponse:
        description = m.DescribeNamespaceResponse()
        description.CopyFrom(self.get(name).description)
        return description


def _attributes(fields: Mapping[str, str]) -> dict[str, ValueType]:
    """The custom attributes of a namespace, in order of their names."""
    found: dict[str, ValueType] = {}
    for field, name in sorted(fields.items(), key=lambda entry: entry[1]):
        parts = _FIELD.fullmatch(field)
        if parts is not None and parts[1] in TYPES:
            found[name] = TYPES[parts[1]]
    return found


def _free_field(fields: Mapping[str, str], value_type: ValueType, most: int) -> str:
    """A field for a new attribute. Raises RpcError INVALID_ARGUMENT: there is none."""
    prefix = TYPE_NAMES[value_type]
    for number in range(1, most + 1):
        field = f"{prefix}{number:02}"
        if field not in fields:
            return field
    raise _invalid(
        f"Unable to create search attributes: cannot have more than {most} search attribute of type {prefix}."
    )


def _check_attribute(name: str, value_type: int) -> None:
    if is_reserved(name):
        raise _invalid(f"Search attribute {name} is reserved by system.")
    if value_type not in TYPE_NAMES:
        raise _invalid(f"Unknown search attribute type: {value_type}.")
    if not name or len(name) > CUSTOM_NAME_LENGTH or any(sign in name for sign in "`\0\n"):
        raise _invalid(
            f"a search attribute's name has 1 to {CUSTOM_NAME_LENGTH} characters, without backticks: {name[:100]!r}"
        )


def _check_retention(retention_ms: int) -> None:
    if retention_ms < MIN_RETENTION_MS:
        raise _invalid(
            "A valid retention period is not set on request."
            f" The retention period must be at least {MIN_RETENTION_MS // 1000} s."
        )


def _check_data(entries: int) -> None:
    if entries > DATA_ENTRIES:
        raise _invalid(f"a namespace's data has at most {DATA_ENTRIES} entries")


def _update_config(config: m.NamespaceConfig, changes: m.NamespaceConfig) -> None:
    if changes.HasField("workflow_execution_retention_ttl"):
        retention_ms = duration_ms(changes.workflow_execution_retention_ttl)
        _check_retention(retention_ms)
        set_duration_ms(config.workflow_execution_retention_ttl, retention_ms)
    enabled = m.ArchivalState.ARCHIVAL_STATE_ENABLED
    if enabled in (changes.history_archival_state, changes.visibility_archival_state):
        raise _invalid("archival is not supported: keep closed workflows longer with the retention period")
    for checksum, binary in changes.bad_binaries.binaries.items():
        config.bad_binaries.binaries[checksum].CopyFrom(binary)
    _check_data(len(config.bad_binaries.binaries))
    for field, name in changes.custom_search_attribute_aliases.items():
        fields = config.custom_search_attribute_aliases
        if not name:
            fields.pop(field, None)
            continue
        parts = _FIELD.fullmatch(field)
        if parts is None or parts[1] not in TYPES:
            raise _invalid(f"there is no search attribute field {field!r}; one is called Keyword01, say")
        if fields.get(field, name) != name or name in (set(fields.values()) - {fields.get(field)}):
            raise _invalid("Custom search attribute field name already allocated.")
        _check_attribute(name, TYPES[parts[1]])
        fields[field] = name


def _described(
    request: m.RegisterNamespaceRequest, namespace_id: str, retention_ms: int
) -> m.DescribeNamespaceResponse:
    described = m.DescribeNamespaceResponse()
    info = described.namespace_info
    info.name = request.namespace
    info.id = namespace_id
    info.state = _REGISTERED
    info.description = request.description
    info.owner_email = request.owner_email
    info.data.update(request.data)
    set_duration_ms(described.config.workflow_execution_retention_ttl, retention_ms)
    described.replication_config.active_cluster_name = "perdure"
    return described
