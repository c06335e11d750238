"""The tools over standard input and output, by the `mcp` package."""

from __future__ import annotations

import os
import signal
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

from mlx_jina import __version__
from mlx_jina.errors import InputError
from mlx_jina.mcp import tools
from mlx_jina.mcp.tools import Notes
from mlx_jina.search.expansion import Expander
from mlx_jina.search.index import Index
from mlx_jina.search.ranking import Scorer


def run(index: Index, rerank: Scorer | None = None, expand: Expander | None = None) -> None:
    """Answer one client until it closes standard input, or a signal ends the process."""
    # At once, since a thread waits for standard input and cannot be woken. SQLite's file is whole at any time.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os._exit(128 + number))
    anyio.run(_serve, Notes(index, rerank, expand))


async def _serve(notes: Notes) -> None:
    server = create(notes)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def create(notes: Notes) -> Server[Any]:
    """The server of an index, for any transport."""

    async def list_tools(context: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[_described(each) for each in tools.TOOLS])

    async def call_tool(context: Any, params: CallToolRequestParams) -> CallToolResult:
        try:
            tool = tools.tool(params.name)
        except InputError as error:
            raise MCPError(INVALID_PARAMS, str(error)) from None
        try:
            # An index may be searched from any thread, and an agent may ask several things at once.
            text, data = await anyio.to_thread.run_sync(tool.run, notes, params.arguments or {})
        except tools.ToolError as error:
            return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)
        return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=data)

    return Server(
        "mlx-jina",
        title="Notes",
        version=__version__,
        instructions=tools.INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _described(tool: tools.Tool[Any]) -> Tool:
    return Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tools.schema(tool.arguments),
        output_schema=tools.schema(tool.answer),
        annotations=ToolAnnotations(
            title=tool.title,
            read_only_hint=True,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=False,
        ),
    )
