"""Serving: policies on a websocket, for robots that have no room for torch."""
