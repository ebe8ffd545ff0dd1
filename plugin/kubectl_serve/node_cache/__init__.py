"""The node cache: its drivers' content, and what an operator asks of them."""
