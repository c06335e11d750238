"""`mlx-jina mcp`: an index of notes for agents, over the Model Context Protocol (https://modelcontextprotocol.io).

`tools.py` has the tools: what they are called, what they take, and what they answer. `serve.py` hands them to the
library that speaks the protocol.
"""
