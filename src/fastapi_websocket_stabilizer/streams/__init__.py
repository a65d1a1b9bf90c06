"""Text that is written in small pieces, such as the tokens of a language model, and sent in few messages."""
