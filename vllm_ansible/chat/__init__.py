"""A chat with a served model: the client of its API, the conversation, the terminal."""
