"""The MCP server: answers of the JSON API as tools of an agent."""
