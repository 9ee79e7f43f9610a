"""The served comparison: the page of `viewer` in Gradio, with a tab that looks at images of one's own, an API and MCP."""

from .app import App, folder_app, make_app


__all__ = ["App", "folder_app", "make_app"]
