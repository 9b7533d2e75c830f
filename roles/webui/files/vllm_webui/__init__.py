"""A chat in the browser with the models of OpenAI-compatible servers."""
