"""The Messages API as a backend: the settings, the HTTP client, requests, turns."""

from .backend import MessagesBackend as MessagesBackend
