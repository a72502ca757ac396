"""The model over HTTP, for programs that use OpenAI's or Anthropic's protocol; see docs/endpoint.md.

A request of any protocol becomes one :class:`~areal.rollout.endpoint.wire.ModelRequest` (``chat.py``,
``completions.py``, ``responses.py``, ``messages.py`` translate), and the recorder of the key's episode
responds to it (``session.py``); ``app.py`` and ``server.py`` serve it on a socket. The web framework is
imported when a server starts.
"""
