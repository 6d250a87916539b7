"""Tools for AI agents (MCP): repaint parts of picture files, with an engine or through a server."""
