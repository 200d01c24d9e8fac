"""n8n's public API, version 1: one typed method for each call that we make.

What it is called with and answers: ``/api/v1/docs`` of any n8n.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar, cast
from urllib.parse import quote

from pydantic import BaseModel

from .answers import (
    DataTable,
    DataTableRow,
    Execution,
    ExecutionStatus,
    Json,
    Page,
    Tag,
    Workflow,
    read_as,
)

PAGE = 100
DATA_PAGE = 10
"""Executions with data are large."""
MAX_PAGES = 10_000
"""A list that is longer has a cursor that goes in circles."""

Model = TypeVar("Model", bound=BaseModel)
Query = Mapping[str, str | int | bool | datetime | None]


class N8nApi(ABC):
    """The calls. How one is made is the client's: :meth:`ask`.

    All raise the leaves of ``CallFailed``. Calls that change something may have done so when they
    raise ``OutcomeUnknown``.
    """

    @abstractmethod
    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        timeout: float | None = None,
    ) -> Any:
        """Call the API, ``path`` behind ``/api/v1``, and return its JSON; None for 204."""

    @abstractmethod
    def invalid(self, why: str) -> NoReturn:
        """Say that an answer is not what was asked for.

        Raises:
            N8nAnswerInvalid: always.
        """
        raise NotImplementedError

    def read(self, model: type[Model], value: object) -> Model:
        """Return a part of an answer as the model.

        Raises:
            N8nAnswerInvalid: it does not fit.
        """
        try:
            return read_as(model, value)
        except ValueError as error:
            self.invalid(str(error))

    # Workflows

    def workflows(
        self,
        *,
        active: bool | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
    ) -> AsyncIterator[Workflow]:
        """Iterate over the workflows that are ``active``, have this name, and all these tags."""
        query = {"active": active, "name": name, "tags": ",".join(tags) if tags else None}
        return self._pages(Workflow, "/workflows", query)

    async def workflow(self, id: str) -> Workflow:
        """Return one workflow."""
        return self.read(Workflow, await self.ask("GET", f"/workflows/{_part(id)}"))

    async def create_workflow(
        self,
        name: str,
        nodes: Sequence[Mapping[str, Any]],
        connections: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
    ) -> Workflow:
        """Create a workflow; it is not active."""
        body = _workflow(name, nodes, connections, settings)
        return self.read(Workflow, await self.ask("POST", "/workflows", body=body))

    async def update_workflow(
        self,
        id: str,
        *,
        name: str,
        nodes: Sequence[Mapping[str, Any]],
        connections: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
    ) -> Workflow:
        """Replace a workflow whole; an active one is published at once."""
        body = _workflow(name, nodes, connections, settings)
        return self.read(Workflow, await self.ask("PUT", f"/workflows/{_part(id)}", body=body))

    async def activate_workflow(self, id: str) -> Workflow:
        """Publish a workflow. Its webhooks are live some tenths of a second later."""
        return self.read(Workflow, await self.ask("POST", f"/workflows/{_part(id)}/activate"))

    async def deactivate_workflow(self, id: str) -> Workflow:
        """Take a workflow back. Its webhooks may answer for another tenth of a second."""
        return self.read(Workflow, await self.ask("POST", f"/workflows/{_part(id)}/deactivate"))

    # Executions

    def executions(
        self,
        *,
        workflow_id: str | None = None,
        status: ExecutionStatus | str | None = None,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        include_data: bool = False,
    ) -> AsyncIterator[Execution]:
        """Iterate over executions, the newest first.

        Without ``status`` n8n leaves out those that run, and before 2.9 those that wait.
        """
        query: Query = {
            "workflowId": workflow_id,
            "status": status,
            "startedAfter": started_after,
            "startedBefore": started_before,
            "includeData": include_data,
        }
        return self._pages(Execution, "/executions", query, DATA_PAGE if include_data else PAGE)

    async def execution(self, id: str, *, include_data: bool = False) -> Execution:
        """Return one execution; n8n forgets them after 14 days by default (``N8nNotFound``)."""
        query: Query = {"includeData": include_data, "ignoreDataSizeLimit": include_data}
        answer = await self.ask("GET", f"/executions/{_part(id)}", query=query)
        return self.read(Execution, answer)

    async def stop_execution(self, id: str) -> Execution:
        """Stop an execution that runs or waits; one that has ended raises ``N8nConflict``."""
        await self.ask("POST", f"/executions/{_part(id)}/stop")
        # n8n's answer has neither id nor workflow.
        return await self.execution(id)

    async def retry_execution(self, id: str, *, timeout: float | None = None) -> Execution:
        """Run a failed execution again, from the failed node, and return the new one, ended.

        n8n answers when it has ended: let ``timeout`` be longer than that takes. A success cannot
        be retried (``N8nConflict``). Whether the new one succeeded, its ``status`` says.
        """
        path = f"/executions/{_part(id)}/retry"
        return self.read(Execution, await self.ask("POST", path, body={}, timeout=timeout))

    # Data tables

    def data_tables(self, *, name: str | None = None) -> AsyncIterator[DataTable]:
        """Iterate over the data tables, or the one of this name."""
        chosen = json.dumps({"name": name}) if name is not None else None
        return self._pages(DataTable, "/data-tables", {"filter": chosen})

    async def data_table(self, id: str) -> DataTable:
        """Return one data table."""
        return self.read(DataTable, await self.ask("GET", f"/data-tables/{_part(id)}"))

    async def create_data_table(self, name: str, columns: Mapping[str, str]) -> DataTable:
        """Create a data table; ``columns`` gives each name its type: string, number, boolean or
        date."""
        body = {
            "name": name,
            "columns": [{"name": column, "type": type} for column, type in columns.items()],
        }
        return self.read(DataTable, await self.ask("POST", "/data-tables", body=body))

    def rows(
        self,
        table_id: str,
        *,
        where: Mapping[str, Any] | None = None,
        sort: str | None = None,
    ) -> AsyncIterator[DataTableRow]:
        """Iterate over a table's rows.

        ``where`` is n8n's filter, ``{"type": "and", "filters": [{"columnName", "condition",
        "value"}]}``; ``sort`` is ``column:asc`` or ``column:desc``. Pages are cut by offset: rows
        that change meanwhile may be skipped or come twice.
        """
        query = {"filter": json.dumps(where) if where else None, "sortBy": sort}
        return self._pages(DataTableRow, f"/data-tables/{_part(table_id)}/rows", query)

    async def insert_rows(
        self, table_id: str, rows: Sequence[Mapping[str, Any]]
    ) -> list[DataTableRow]:
        """Insert rows and return them with their ids."""
        body = {"data": list(rows), "returnType": "all"}
        return self._rows(await self.ask("POST", _rows_of(table_id), body=body))

    async def upsert_row(
        self, table_id: str, where: Mapping[str, Any], row: Mapping[str, Any]
    ) -> list[DataTableRow]:
        """Change the rows that match, or insert one where none does; return those."""
        body = {"filter": where, "data": row, "returnData": True}
        return self._rows(await self.ask("POST", _rows_of(table_id, "/upsert"), body=body))

    async def update_rows(
        self, table_id: str, where: Mapping[str, Any], values: Mapping[str, Any]
    ) -> list[DataTableRow]:
        """Change the rows that match, and return them."""
        body = {"filter": where, "data": values, "returnData": True}
        return self._rows(await self.ask("PATCH", _rows_of(table_id, "/update"), body=body))

    async def delete_rows(self, table_id: str, where: Mapping[str, Any]) -> list[DataTableRow]:
        """Delete the rows that match, and return them."""
        query: Query = {"filter": json.dumps(where), "returnData": True}
        return self._rows(await self.ask("DELETE", _rows_of(table_id, "/delete"), query=query))

    # Tags

    def tags(self) -> AsyncIterator[Tag]:
        """Iterate over the tags."""
        return self._pages(Tag, "/tags", {})

    async def create_tag(self, name: str) -> Tag:
        """Create a tag; a known name raises ``N8nConflict``."""
        return self.read(Tag, await self.ask("POST", "/tags", body={"name": name}))

    async def set_workflow_tags(self, workflow_id: str, tag_ids: Iterable[str]) -> list[Tag]:
        """Give a workflow these tags and no others."""
        body = [{"id": id} for id in tag_ids]
        answer = await self.ask("PUT", f"/workflows/{_part(workflow_id)}/tags", body=body)
        return self.read(_Tags, {"all": answer}).all

    # Parts

    async def _pages(
        self, model: type[Model], path: str, query: Query, limit: int = PAGE
    ) -> AsyncIterator[Model]:
        """Iterate over a list, page by page."""
        cursor: str | None = None
        seen: set[str] = set()
        while True:
            asked = {**query, "limit": limit, "cursor": cursor}
            page = self.read(Page, await self.ask("GET", path, query=asked))
            for item in page.data:
                yield self.read(model, item)
            cursor = page.next_cursor
            if not cursor:
                return
            if cursor in seen or len(seen) >= MAX_PAGES:
                self.invalid("the list has no end: its cursor comes again")
            seen.add(cursor)

    def _rows(self, answer: object) -> list[DataTableRow]:
        # Without matching rows some calls answer a bare true.
        if isinstance(answer, bool):
            return []
        rows = cast(list[object], answer) if isinstance(answer, list) else [answer]
        return self.read(_Rows, {"all": rows}).all


class _Tags(BaseModel):
    all: list[Tag]


class _Rows(BaseModel):
    all: list[DataTableRow]


def _workflow(
    name: str,
    nodes: Sequence[Mapping[str, Any]],
    connections: Mapping[str, Any],
    settings: Mapping[str, Any] | None,
) -> Json:
    # n8n refuses whatever else an export holds.
    return {
        "name": name,
        "nodes": list(nodes),
        "connections": dict(connections),
        "settings": dict(settings or {}),
    }


def _part(id: str) -> str:
    """An id as one part of a path."""
    return quote(id, safe="")


def _rows_of(table_id: str, action: str = "") -> str:
    return f"/data-tables/{_part(table_id)}/rows{action}"


def query_text(query: Query) -> str:
    """Return ``?name=value&…`` without what is None; times in UTC, booleans as n8n wants them."""
    pairs: list[str] = []
    for name, value in query.items():
        if value is None:
            continue
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, datetime):
            value = value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        pairs.append(f"{name}={quote(str(value), safe='')}")
    return "?" + "&".join(pairs) if pairs else ""
