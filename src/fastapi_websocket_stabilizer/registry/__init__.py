"""This node among the others: who lives, who holds which client, and how to reach it."""
