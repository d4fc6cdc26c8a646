"""What people say about a map: the review file, verdicts, and what follows from them."""
