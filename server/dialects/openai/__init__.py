"""OpenAI's images API: edits and generations, streamed or not, and the list of models."""
