"""The search attributes there are: those of the system, and those a namespace registers.

A namespace's attributes may be used as soon as the call that adds them has been answered, and no longer once the call
that removes them has been. Values of a removed attribute stay with their runs, unseen; they are back when an attribute
of the same name and type is.
"""

from __future__ import annotations

from perdure.api import messages as m
from perdure.engine.namespaces import DEFAULT_NAMESPACE
from perdure.engine.service.base import ServiceTopic, invalid
from perdure.engine.visibility.attributes import PREDEFINED, SYSTEM, ValueType

__all__ = ["SearchAttributeTopic"]


def _type(value_type: ValueType) -> m.IndexedValueType.ValueType:
    return m.IndexedValueType.ValueType(value_type)


_SYSTEM = {name: _type(value_type) for name, value_type in sorted({**SYSTEM, **PREDEFINED}.items())}


class SearchAttributeTopic(ServiceTopic):
    """OperatorService's calls about search attributes, and GetSearchAttributes. No namespace means the default one."""

    async def add_search_attributes(self, request: m.AddSearchAttributesRequest) -> m.AddSearchAttributesResponse:
        """Register attributes; those that are registered already with the same type stay.

        Raises:
            RpcError: NOT_FOUND (namespace); INVALID_ARGUMENT; ALREADY_EXISTS, with another type.
        """
        self.engine.check_running()
        if not request.search_attributes:
            raise invalid("SearchAttributes are not set on request.")
        namespace = self.namespaces.add_attributes(
            request.namespace or DEFAULT_NAMESPACE,
            request.search_attributes,
            most_per_type=self.limits.search_attributes_per_type,
        )
        if namespace is not None:
            await self.engine.write_namespace(namespace)
        return m.AddSearchAttributesResponse()

    async def remove_search_attributes(
        self, request: m.RemoveSearchAttributesRequest
    ) -> m.RemoveSearchAttributesResponse:
        """Raises RpcError NOT_FOUND (namespace, attribute), INVALID_ARGUMENT."""
        self.engine.check_running()
        if not request.search_attributes:
            raise invalid("SearchAttributes are not set on request.")
        name = request.namespace or DEFAULT_NAMESPACE
        await self.engine.write_namespace(self.namespaces.remove_attributes(name, request.search_attributes))
        return m.RemoveSearchAttributesResponse()

    async def list_search_attributes(self, request: m.ListSearchAttributesRequest) -> m.ListSearchAttributesResponse:
        """Raises RpcError NOT_FOUND (namespace)."""
        self.engine.check_running()
        namespace = self.namespaces.get(request.namespace or DEFAULT_NAMESPACE)
        custom = {name: _type(value_type) for name, value_type in namespace.attributes.items()}
        return m.ListSearchAttributesResponse(custom_attributes=custom, system_attributes=_SYSTEM)

    async def get_search_attributes(self, request: m.GetSearchAttributesRequest) -> m.GetSearchAttributesResponse:
        """Those of the system and of every namespace, as the call names none."""
        self.engine.check_running()
        keys = dict(_SYSTEM)
        for namespace in self.namespaces.by_name.values():
            keys.update({name: _type(value_type) for name, value_type in namespace.attributes.items()})
        return m.GetSearchAttributesResponse(keys=keys)
